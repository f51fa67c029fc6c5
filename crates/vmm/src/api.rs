//! The API of a VMM over HTTP: one call after another, each answer checked.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    machine::MachineError,
    version::{Version, VersionError},
};
use riklet_http::{ApiCall, Client, HttpError, Response};

/// The reason why a VMM does not do what was requested.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmmApiError {
    /// The VMM cannot run this machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The VMM does not answer.
    #[error("{vmm} did not answer")]
    Exchange {
        /// The VMM.
        vmm: &'static str,
        /// The cause.
        #[source]
        source: HttpError,
    },
    /// The VMM refused the call. Earlier calls keep their effect.
    #[error("{vmm} refused {call}: {words}")]
    Refused {
        /// The VMM.
        vmm: &'static str,
        /// Method and path.
        call: String,
        /// The status of its answer.
        status: u16,
        /// The VMM's own words.
        words: String,
    },
    /// The answer is not what the API describes.
    #[error("{vmm} answered {call} with what its API does not have")]
    Answer {
        /// The VMM.
        vmm: &'static str,
        /// Method and path.
        call: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The VMM reports something that is not a version.
    #[error("the version of {vmm} is unknown")]
    Version {
        /// The VMM.
        vmm: &'static str,
        /// The cause.
        #[source]
        source: VersionError,
    },
    /// The VMM is too old: it lacks something that is needed.
    #[error("{vmm} {found} is too old: {least} is the least version that works")]
    TooOld {
        /// The VMM.
        vmm: &'static str,
        /// Its version.
        found: Version,
        /// The oldest version that suffices.
        least: Version,
    },
    /// The VMM already runs a guest.
    #[error("{vmm} has a guest already: its state is {state:?}")]
    Started {
        /// The VMM.
        vmm: &'static str,
        /// The state that it reports.
        state: String,
    },
}

/// A VMM and how to reach it.
pub(super) struct Api<'a> {
    pub(super) vmm: &'static str,
    pub(super) client: &'a Client,
}

impl Api<'_> {
    /// Makes a call.
    pub(super) fn send(&self, call: &ApiCall) -> Result<Response, VmmApiError> {
        let Self { vmm, client } = *self;
        let answer =
            client.exchange(call).map_err(|source| VmmApiError::Exchange { vmm, source })?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        let (call, status, words) = (call.to_string(), answer.status, words(&answer));
        Err(VmmApiError::Refused { vmm, call, status, words })
    }

    /// Makes calls, one after another. Stops at the first that is refused.
    pub(super) fn send_all(&self, calls: &[ApiCall]) -> Result<(), VmmApiError> {
        calls.iter().try_for_each(|call| self.send(call).map(drop))
    }

    /// Makes a call and parses its answer.
    pub(super) fn ask<T: DeserializeOwned>(&self, call: &ApiCall) -> Result<T, VmmApiError> {
        let answer = self.send(call)?;
        let (vmm, call) = (self.vmm, call.to_string());
        serde_json::from_slice(&answer.body).map_err(|source| VmmApiError::Answer {
            vmm,
            call,
            source,
        })
    }

    /// Parses a version. Fails if it is older than `least`.
    pub(super) fn at_least(&self, least: Version, text: &str) -> Result<Version, VmmApiError> {
        let vmm = self.vmm;
        let found: Version = text.parse().map_err(|source| VmmApiError::Version { vmm, source })?;
        if found < least { Err(VmmApiError::TooOld { vmm, found, least }) } else { Ok(found) }
    }
}

/// Returns the VMM's message about a refusal. Firecracker has it in the field `fault_message`, its HTTP server in
/// `error`; Cloud Hypervisor sends a list of the error and its causes, older versions a plain text.
fn words(answer: &Response) -> String {
    let words = match serde_json::from_slice(&answer.body) {
        Ok(Value::Object(fields)) => ["fault_message", "error"]
            .iter()
            .find_map(|name| fields.get(*name)?.as_str())
            .map(ToOwned::to_owned),
        Ok(Value::Array(causes)) => {
            let causes: Option<Vec<_>> = causes.iter().map(Value::as_str).collect();
            causes.map(|causes| causes.join(": "))
        }
        Ok(Value::String(words)) => Some(words),
        _ => None,
    };
    let words = words.unwrap_or_else(|| String::from_utf8_lossy(&answer.body).into_owned());
    match words.trim() {
        "" => format!("status {} without a word", answer.status),
        words => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_refusal_yields_a_message() {
        for (body, expected) in [
            (r#"{"fault_message":"no such kernel"}"#, "no such kernel"),
            (r#"{ "error": "Unsupported HTTP method." }"#, "Unsupported HTTP method."),
            (
                r#"["Error from API","The VM could not boot"]"#,
                "Error from API: The VM could not boot",
            ),
            (r#""out of memory""#, "out of memory"),
            ("VmCreate(VmAlreadyCreated)\n", "VmCreate(VmAlreadyCreated)"),
            (r#"{"reason":1}"#, r#"{"reason":1}"#),
            ("[1]", "[1]"),
            ("", "status 500 without a word"),
            (r#"{"fault_message":" "}"#, "status 500 without a word"),
        ] {
            let answer = Response { status: 500, body: body.into() };
            assert_eq!(words(&answer), expected, "{body:?}");
        }
    }
}

//! Errors as problem details (RFC 9457).

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};

use crate::{
    daemon::engine::Gone,
    definition,
    sdn::{ErrorKind, SdnError},
    store::StoreError,
    vmm::runs::RunError,
    wire::{Detail, Kind, Problem, chain},
};

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

/// A problem with what a status is called.
pub(super) fn problem(status: StatusCode, kind: Kind, detail: impl Into<String>) -> Problem {
    let title = status.canonical_reason().unwrap_or("error");
    Problem::new(status.as_u16(), title, kind, detail.into())
}

/// What was sent is at fault.
pub(super) fn invalid(status: StatusCode, detail: impl Into<String>) -> Problem {
    problem(status, Kind::Invalid, detail)
}

pub(super) async fn unknown_path(uri: Uri) -> Problem {
    let mut found = invalid(StatusCode::NOT_FOUND, format!("there is no {}", uri.path()));
    found.hint = Some("GET /v1/openapi.json describes what there is".to_owned());
    found
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> Problem {
    invalid(StatusCode::METHOD_NOT_ALLOWED, format!("{} has no {method}", uri.path()))
}

impl From<definition::Errors> for Problem {
    fn from(errors: definition::Errors) -> Self {
        let malformed =
            errors.iter().any(|e| matches!(e.reason, definition::Reason::Syntax { .. }));
        let status =
            if malformed { StatusCode::BAD_REQUEST } else { StatusCode::UNPROCESSABLE_ENTITY };
        let details = Detail::of(&errors);
        Self { details, ..invalid(status, errors.to_string()) }
    }
}

impl From<RunError> for Problem {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Sdn(error) => error.into(),
            RunError::Store(error) => SdnError::from(error).into(),
            RunError::Running { .. } => {
                let hint = error.hint();
                Self { hint, ..problem(StatusCode::CONFLICT, Kind::Failed, chain(&error)) }
            }
            other => {
                let hint = other.hint();
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Self { hint, ..problem(status, Kind::Failed, chain(&other)) }
            }
        }
    }
}

impl From<SdnError> for Problem {
    fn from(error: SdnError) -> Self {
        let hint = error.hint();
        Self { hint, ..problem(status(&error), error.kind().into(), chain(&error)) }
    }
}

impl From<Gone> for Problem {
    fn from(gone: Gone) -> Self {
        problem(StatusCode::SERVICE_UNAVAILABLE, Kind::Failed, gone.to_string())
    }
}

/// The status of an error.
fn status(error: &SdnError) -> StatusCode {
    match error {
        SdnError::Unknown { .. } => StatusCode::NOT_FOUND,
        SdnError::Remaining { .. }
        | SdnError::Shadows { .. }
        | SdnError::Store(StoreError::PortTaken { .. } | StoreError::SlotTaken { .. }) => {
            StatusCode::CONFLICT
        }
        SdnError::Store(StoreError::PoolExhausted { .. }) => StatusCode::INSUFFICIENT_STORAGE,
        other => match other.kind() {
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Host => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::InstanceName;

    #[test]
    fn an_error_has_the_status_that_a_client_can_act_upon() {
        let name: InstanceName = "hello".parse().unwrap();
        let exposure = |text: &str| {
            let port = text.parse().unwrap();
            crate::model::Exposure::new(crate::model::Protocol::Tcp, None, port, port).unwrap()
        };
        let taken = StoreError::PortTaken {
            name: name.clone(),
            exposure: exposure("80"),
            holder: "other".parse().unwrap(),
            held: exposure("80"),
        };
        let cases = [
            (
                SdnError::Unknown { name: name.clone(), nearest: None, state_dir: "/run".into() },
                404,
                Kind::Failed,
            ),
            (SdnError::Remaining { names: vec![name.clone()] }, 409, Kind::Failed),
            (taken.into(), 409, Kind::Failed),
            (StoreError::PoolExhausted { name, capacity: 4 }.into(), 507, Kind::Failed),
            (SdnError::NoIptables, 503, Kind::Host),
            (
                SdnError::Decided { what: "pool", configured: "a".into(), recorded: "b".into() },
                422,
                Kind::Invalid,
            ),
            (SdnError::Setting { what: "pool", value: "x".into() }, 500, Kind::Failed),
        ];
        for (error, status, kind) in cases {
            let text = error.to_string();
            let problem = Problem::from(error);
            assert_eq!((problem.status, problem.kind), (status, kind), "{text}");
            assert_eq!(problem.detail, text);
        }
    }
}

//! Converts errors into those of the API, with a status that tells clients what to do.

use riklet_api::{ApiError, HttpStatus, chain};
use riklet_core::ErrorKind;
use riklet_sdn::{NodeError, store::StoreError};
use riklet_vmm::runs::RunError;

/// Describes an error of the node.
#[must_use]
pub fn node(error: &NodeError) -> ApiError {
    if let NodeError::Store(error) = error {
        return store(error);
    }
    let status = match error {
        NodeError::Unknown { .. } => HttpStatus::NotFound,
        NodeError::Remaining { .. }
        | NodeError::Running { .. }
        | NodeError::AlreadyRunning { .. }
        | NodeError::Shadows { .. }
        | NodeError::Open { .. }
        | NodeError::Claimed { .. } => HttpStatus::Conflict,
        other => usual_status(other.kind()),
    };
    let name = match error {
        NodeError::Running { name, .. }
        | NodeError::AlreadyRunning { name, .. }
        | NodeError::Unknown { name, .. }
        | NodeError::UnknownAccount { name, .. } => Some(name),
        NodeError::Shadows(shadow) => Some(&shadow.name),
        _ => None,
    };
    ApiError::new(status, error.kind(), chain(error))
        .with_hint(error.hint())
        .with_name(name.map(ToString::to_string))
}

/// Describes an error of the records.
#[must_use]
pub fn store(error: &StoreError) -> ApiError {
    let kind = if error.is_permission() { ErrorKind::Host } else { ErrorKind::Failed };
    let (status, name) = match error {
        StoreError::PortTaken { name, .. } => (HttpStatus::Conflict, Some(name)),
        StoreError::SlotTaken { .. } => (HttpStatus::Conflict, None),
        StoreError::Busy { .. } => (HttpStatus::ServiceUnavailable, None),
        StoreError::PoolExhausted { name, .. } => (HttpStatus::InsufficientStorage, Some(name)),
        _ => (usual_status(kind), None),
    };
    ApiError::new(status, kind, chain(error))
        .with_hint(error.hint())
        .with_name(name.map(ToString::to_string))
}

/// Describes an error of runs.
#[must_use]
pub fn run(error: &RunError) -> ApiError {
    let status = match error {
        RunError::Node(error) => return node(error),
        RunError::Store(error) => return store(error),
        RunError::Unknown { .. } => HttpStatus::NotFound,
        _ => HttpStatus::InternalServerError,
    };
    ApiError::new(status, ErrorKind::Failed, chain(error)).with_hint(error.hint())
}

const fn usual_status(kind: ErrorKind) -> HttpStatus {
    match kind {
        ErrorKind::Invalid => HttpStatus::UnprocessableEntity,
        ErrorKind::Host => HttpStatus::ServiceUnavailable,
        ErrorKind::Failed => HttpStatus::InternalServerError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use riklet_core::model::{Exposure, InstanceName, Protocol};

    #[test]
    fn error_status_tells_the_client_what_to_do() {
        let name: InstanceName = "hello".parse().unwrap();
        let exposure = |text: &str| {
            let port = text.parse().unwrap();
            Exposure::new(Protocol::Tcp, None, port, port).unwrap()
        };
        let taken = StoreError::PortTaken {
            name: name.clone(),
            exposure: exposure("80"),
            holder: "other".parse().unwrap(),
            held: exposure("80"),
        };
        let named = Some("hello");
        let cases = [
            (
                NodeError::Unknown { name: name.clone(), nearest: None, state_dir: "/run".into() },
                404,
                ErrorKind::Failed,
                named,
            ),
            (NodeError::Remaining { names: vec![name.clone()] }, 409, ErrorKind::Failed, None),
            (taken.into(), 409, ErrorKind::Failed, named),
            (StoreError::PoolExhausted { name, capacity: 4 }.into(), 507, ErrorKind::Failed, named),
            (NodeError::NoIptables, 503, ErrorKind::Host, None),
            (
                NodeError::Decided { what: "pool", configured: "a".into(), recorded: "b".into() },
                422,
                ErrorKind::Invalid,
                None,
            ),
            (NodeError::Setting { what: "pool", value: "x".into() }, 500, ErrorKind::Failed, None),
        ];
        for (error, status, kind, name) in cases {
            let text = error.to_string();
            let problem = node(&error);
            assert_eq!((problem.status, problem.kind), (status, kind), "{text}");
            assert_eq!((&*problem.detail, problem.name.as_deref()), (&*text, name));
        }
    }
}

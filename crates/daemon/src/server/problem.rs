//! Errors as problem details (RFC 9457).

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};

use crate::engine::Gone;
use riklet_api::{Detail, Problem, chain};
use riklet_core::{ErrorKind, definition};
use riklet_sdn::{NodeError, store::StoreError};
use riklet_vmm::runs::RunError;

/// A refusal of the API: answers with the problem as `application/problem+json`.
#[derive(Debug)]
pub(super) struct Rejection(pub(super) Problem);

impl Rejection {
    fn with_hint(mut self, hint: Option<String>) -> Self {
        self.0.hint = hint;
        self
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(problem)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

/// A problem with what a status is called.
pub(super) fn problem(status: StatusCode, kind: ErrorKind, detail: impl Into<String>) -> Rejection {
    let title = status.canonical_reason().unwrap_or("error");
    Rejection(Problem::new(status.as_u16(), title, kind, detail.into()))
}

/// What was sent is at fault.
pub(super) fn invalid(status: StatusCode, detail: impl Into<String>) -> Rejection {
    problem(status, ErrorKind::Invalid, detail)
}

pub(super) async fn unknown_path(uri: Uri) -> Rejection {
    let hint = "GET /v1/openapi.json describes what there is".to_owned();
    invalid(StatusCode::NOT_FOUND, format!("there is no {}", uri.path())).with_hint(Some(hint))
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> Rejection {
    invalid(StatusCode::METHOD_NOT_ALLOWED, format!("{} has no {method}", uri.path()))
}

impl From<definition::Errors> for Rejection {
    fn from(errors: definition::Errors) -> Self {
        let malformed =
            errors.iter().any(|e| matches!(e.reason, definition::Reason::Syntax { .. }));
        let status =
            if malformed { StatusCode::BAD_REQUEST } else { StatusCode::UNPROCESSABLE_ENTITY };
        let Self(problem) = invalid(status, errors.to_string());
        Self(Problem { details: Detail::of(&errors), ..problem })
    }
}

impl From<RunError> for Rejection {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Node(error) => error.into(),
            RunError::Store(error) => NodeError::from(error).into(),
            RunError::Running { .. } => {
                let hint = error.hint();
                problem(StatusCode::CONFLICT, ErrorKind::Failed, chain(&error)).with_hint(hint)
            }
            other => {
                let hint = other.hint();
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                problem(status, ErrorKind::Failed, chain(&other)).with_hint(hint)
            }
        }
    }
}

impl From<NodeError> for Rejection {
    fn from(error: NodeError) -> Self {
        let hint = error.hint();
        problem(status(&error), error.kind(), chain(&error)).with_hint(hint)
    }
}

impl From<Gone> for Rejection {
    fn from(gone: Gone) -> Self {
        problem(StatusCode::SERVICE_UNAVAILABLE, ErrorKind::Failed, gone.to_string())
    }
}

/// The status of an error.
fn status(error: &NodeError) -> StatusCode {
    match error {
        NodeError::Unknown { .. } => StatusCode::NOT_FOUND,
        NodeError::Remaining { .. }
        | NodeError::Shadows { .. }
        | NodeError::Store(StoreError::PortTaken { .. } | StoreError::SlotTaken { .. }) => {
            StatusCode::CONFLICT
        }
        NodeError::Store(StoreError::PoolExhausted { .. }) => StatusCode::INSUFFICIENT_STORAGE,
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
    use riklet_core::model::InstanceName;

    #[test]
    fn an_error_has_the_status_that_a_client_can_act_upon() {
        let name: InstanceName = "hello".parse().unwrap();
        let exposure = |text: &str| {
            let port = text.parse().unwrap();
            riklet_core::model::Exposure::new(riklet_core::model::Protocol::Tcp, None, port, port)
                .unwrap()
        };
        let taken = StoreError::PortTaken {
            name: name.clone(),
            exposure: exposure("80"),
            holder: "other".parse().unwrap(),
            held: exposure("80"),
        };
        let cases = [
            (
                NodeError::Unknown { name: name.clone(), nearest: None, state_dir: "/run".into() },
                404,
                ErrorKind::Failed,
            ),
            (NodeError::Remaining { names: vec![name.clone()] }, 409, ErrorKind::Failed),
            (taken.into(), 409, ErrorKind::Failed),
            (StoreError::PoolExhausted { name, capacity: 4 }.into(), 507, ErrorKind::Failed),
            (NodeError::NoIptables, 503, ErrorKind::Host),
            (
                NodeError::Decided { what: "pool", configured: "a".into(), recorded: "b".into() },
                422,
                ErrorKind::Invalid,
            ),
            (NodeError::Setting { what: "pool", value: "x".into() }, 500, ErrorKind::Failed),
        ];
        for (error, status, kind) in cases {
            let text = error.to_string();
            let Rejection(problem) = Rejection::from(error);
            assert_eq!((problem.status, problem.kind), (status, kind), "{text}");
            assert_eq!(problem.detail, text);
        }
    }
}

//! Errors as answers: problem details (RFC 9457).

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};

use crate::engine::Gone;
use riklet_api::{ApiError, HttpStatus};
use riklet_core::definition;

/// A refusal: answers with the problem as `application/problem+json`.
#[derive(Debug)]
pub(super) struct Rejection(ApiError);

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let problem = self.0.into_problem();
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(problem)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

/// Creates the refusal of an invalid request.
pub(super) fn invalid(status: HttpStatus, detail: impl Into<String>) -> Rejection {
    Rejection(ApiError::invalid(status, detail))
}

pub(super) async fn unknown_path(uri: Uri) -> Rejection {
    let error = ApiError::invalid(HttpStatus::NotFound, format!("there is no {}", uri.path()));
    Rejection(error.with_hint("GET /v1/openapi.json describes what there is".to_owned()))
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> Rejection {
    invalid(HttpStatus::MethodNotAllowed, format!("{} has no {method}", uri.path()))
}

impl From<ApiError> for Rejection {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<Gone> for Rejection {
    fn from(gone: Gone) -> Self {
        Self(gone.into())
    }
}

impl From<definition::Errors> for Rejection {
    fn from(errors: definition::Errors) -> Self {
        Self((&errors).into())
    }
}

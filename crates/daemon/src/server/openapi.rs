//! The API's description (`OpenAPI` 3.1): the text of openapi.json.
//!
//! A test makes it of the handlers and of the types that go over the wire, so that only tests compile utoipa.

/// The description, as JSON.
pub(super) const DESCRIPTION: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json"));

#[cfg(test)]
mod tests {
    use utoipa::OpenApi;

    use super::super::{handlers, stream};

    #[derive(OpenApi)]
    #[openapi(
        info(
            title = "riklet-sdn",
            description = "The network of a node that runs functions as microVMs, on a unix socket.",
        ),
        paths(
            handlers::list,
            handlers::up,
            handlers::down_many,
            handlers::up_one,
            handlers::inspect,
            handlers::down_one,
            handlers::plan,
            handlers::check,
            handlers::repair,
            stream::events,
            handlers::health,
            handlers::version,
            handlers::metrics,
        )
    )]
    struct Description;

    /// `UPDATE_OPENAPI=1 cargo test -p riklet-daemon openapi` writes it.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the file is the test's subject")]
    fn the_description_is_checked_in() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let text = Description::openapi().to_pretty_json().unwrap() + "\n";
        if std::env::var("UPDATE_OPENAPI").is_ok() {
            std::fs::write(path, &text).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == text, "run UPDATE_OPENAPI=1 cargo test -p riklet-daemon openapi");
    }
}

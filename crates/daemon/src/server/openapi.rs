//! The API's description (`OpenAPI` 3.1): the text of openapi.json.
//!
//! A test makes it of the routes and of the types that go over the wire, so that only tests compile utoipa.

/// The description, as JSON.
pub(super) const DESCRIPTION: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json"));

#[cfg(test)]
mod tests {
    use riklet_api::Collection;
    use riklet_core::model::Kind;
    use serde_json::Value;
    use utoipa::OpenApi;

    use super::{
        super::routes::described::{Description, ROUTES},
        DESCRIPTION,
    };

    /// `UPDATE_OPENAPI=1 cargo test -p riklet-daemon openapi` writes it.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the file is the test's subject")]
    fn checked_in_description_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let text = Description::openapi().to_pretty_json().unwrap() + "\n";
        if std::env::var("UPDATE_OPENAPI").is_ok() {
            std::fs::write(path, &text).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == text, "run UPDATE_OPENAPI=1 cargo test -p riklet-daemon openapi");
    }

    #[test]
    fn each_documented_kind_has_its_paths() {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        for kind in Kind::ALL.iter().filter(|kind| kind.is_documented()) {
            let collection = Collection::Of(*kind).path();
            assert!(description["paths"][&collection].is_object(), "{collection}");
            assert!(description["paths"][format!("{collection}/{{name}}")].is_object(), "{kind}");
        }
    }

    /// The path and method of a handler's description are written beside it, those of the router in the list of routes.
    #[test]
    fn each_route_is_described_with_its_path_and_method() {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        let paths = description["paths"].as_object().unwrap().iter();
        let mut described: Vec<_> = paths
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods.map(move |method| (path.as_str(), method.as_str()))
            })
            .collect();
        let mut routes = ROUTES.to_vec();
        described.sort_unstable();
        routes.sort_unstable();
        assert_eq!(described, routes);
    }
}

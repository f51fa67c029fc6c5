//! The API's description (`OpenAPI` 3.1): the text of openapi.json.
//!
//! A test generates it from the routes and the types of the API, so that only tests compile utoipa.

/// The description, as JSON.
pub(super) const DESCRIPTION: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json"));

#[cfg(test)]
mod tests {
    use riklet_api::Collection;
    use riklet_core::model::Kind;
    use serde_json::Value;
    use utoipa::{OpenApi, openapi};

    use super::{
        super::routes::described::{Description, ROUTES},
        DESCRIPTION,
    };

    /// Returns the description, in which each collection has the paths of functions, as the router does.
    fn generated() -> openapi::OpenApi {
        let mut description = Description::openapi();
        let functions = Collection::Of(Kind::Function);
        let documented = |collection: &Collection| !matches!(collection, Collection::Of(kind) if !kind.is_documented());
        for collection in Collection::each().filter(documented).filter(|each| *each != functions) {
            let name = collection.path().replace("/v1/", "");
            for (path, mut item) in description.paths.paths.clone() {
                let Some(rest) = path.strip_prefix(&functions.path()) else { continue };
                let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
                for operation in operations.into_iter().flatten() {
                    operation.operation_id =
                        operation.operation_id.as_ref().map(|id| format!("{id}_{name}"));
                }
                description.paths.paths.insert(format!("/v1/{name}{rest}"), item);
            }
        }
        description
    }

    /// To update the file, run `UPDATE_OPENAPI=1 cargo test -p riklet-daemon openapi`.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the file is the test's subject")]
    fn checked_in_description_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let text = generated().to_pretty_json().unwrap() + "\n";
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

    /// Path and method are written twice: beside the handler for its description, and in the list of routes for the
    /// router.
    #[test]
    fn each_route_is_described_with_its_path_and_method() {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        let paths = description["paths"].as_object().unwrap().iter();
        let of_functions = Collection::Of(Kind::Function);
        let repeated = |path: &str| {
            let mut others = Collection::each().filter(|each| *each != of_functions);
            others.any(|collection| path.starts_with(&collection.path()))
        };
        let mut described: Vec<_> = paths
            .filter(|(path, _)| !repeated(path))
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

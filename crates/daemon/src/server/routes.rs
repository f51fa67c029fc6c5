//! The paths of the API, each with its methods and their handlers. One list yields both the router and the
//! description.

use axum::{
    Extension, Router,
    routing::{MethodRouter, get},
};

use super::{Api, collection, handlers, running, stream};

/// Creates the router from lines of `path => method module::handler`, and for tests the list and the description.
macro_rules! routes {
    ($($path:literal => $($method:ident $module:ident::$handler:ident),+;)*) => {
        /// Returns the router of all described paths, with the same routes for each collection.
        fn described() -> Router<Api> {
            let mut router = Router::new();
            $(for (path, collection) in collection::paths($path) {
                let methods = MethodRouter::new()$(.$method($module::$handler))+;
                router = router.route(&path, methods.layer(Extension(collection)));
            })*
            router
        }

        #[cfg(test)]
        pub(super) mod described {
            use super::super::{handlers, running, stream};

            /// The paths, each with a method.
            pub(in super::super) const ROUTES: &[(&str, &str)] =
                &[$($(($path, stringify!($method))),+),*];

            #[derive(utoipa::OpenApi)]
            #[openapi(
                info(
                    title = "riklet-sdn",
                    description = "The network of a node that runs functions as microVMs, on a unix socket.",
                ),
                paths($($($module::$handler),+),*)
            )]
            pub(in super::super) struct Description;
        }
    };
}

routes! {
    "/v1/functions" => get handlers::list, post handlers::up, delete handlers::down_many;
    "/v1/functions/{name}" => put handlers::up_one, get handlers::inspect, delete handlers::down_one;
    "/v1/plan" => post handlers::plan;
    "/v1/check" => get handlers::check;
    "/v1/repair" => post handlers::repair;
    "/v1/runs" => get running::list, post running::start;
    "/v1/runs/{name}" => get running::show, delete running::stop;
    "/v1/runs/{name}/logs" => get running::logs;
    "/v1/events" => get stream::events;
    "/v1/health" => get handlers::health;
    "/v1/settings" => get handlers::settings;
    "/v1/version" => get handlers::version;
    "/metrics" => get handlers::metrics;
}

pub(super) fn router() -> Router<Api> {
    described().route("/v1/openapi.json", get(handlers::openapi))
}

//! What subscribing departments ask the node for: their changes by cursor, their rows, single records. Everything comes out of the
//! subscription's outbox, by a token of the subscription, and stops with its approval.
//!
//! An answer is one page of bounded bytes, and a subscription has a bounded number of answers under way, so a reader that is slow
//! holds up itself alone. Who has no valid token learns nothing, not even which subscriptions there are.

mod admit;
mod answer;
mod events;
mod problem;
mod rows;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};

pub(crate) use self::admit::{Limits, Pulled};
use crate::node::Shared;

/// Bytes of a request's body: a cursor in JSON is far below.
const BODY: usize = 4 << 10;

type Route = (&'static str, fn() -> MethodRouter<Arc<Shared>>);

/// Every path, as the OpenAPI document has them.
const ROUTES: [Route; 5] = [
    ("/v1/subscriptions/{name}/events", || get(events::events)),
    ("/v1/subscriptions/{name}/ack", || post(events::acknowledge)),
    ("/v1/subscriptions/{name}/snapshot", || get(rows::snapshot)),
    ("/v1/subscriptions/{name}/records/{*key}", || get(rows::record)),
    ("/v1/openapi.json", || get(openapi)),
];

/// The same for programs and people (OpenAPI 3.1).
const OPENAPI: &str = include_str!("openapi.json");

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let routes = ROUTES.into_iter().fold(Router::new(), |router, (path, method)| router.route(path, method()));
    routes.layer(DefaultBodyLimit::max(BODY)).layer(map_response(private)).with_state(shared)
}

/// No cache between here and the subscriber keeps an answer, and no browser guesses what it is.
async fn private(mut response: Response) -> Response {
    let fixed = [(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    response.headers_mut().extend(fixed.map(|(name, value): (HeaderName, &'static str)| (name, HeaderValue::from_static(value))));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_document_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut paths: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let routes = ROUTES.map(|(path, _)| path.replace("{*", "{"));
        let mut routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        paths.sort_unstable();
        routes.sort_unstable();
        assert_eq!(paths, routes);
    }
}

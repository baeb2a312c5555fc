//! From the list of operations to a service.

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, middleware};
use tower_http::catch_panic::CatchPanicLayer;

use super::{conditions, problem, routes};
use crate::app::App;

/// The API as a service. Handlers read their bodies themselves, each with its own limit.
pub fn router(app: Arc<App>) -> Router {
    let described = routes::operations().into_iter().fold(Router::new(), |router, operation| {
        let (path, route) = operation.into_route();
        router.route(path, route)
    });
    described
        .fallback(problem::unknown_path)
        .method_not_allowed_fallback(problem::unknown_method)
        .layer(middleware::from_fn(conditions::apply))
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), problem::frame))
        .with_state(app)
}

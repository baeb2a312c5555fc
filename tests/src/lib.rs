//! What whole-system tests are made of: the real binary as a cluster of processes, a proxy that
//! loses answers and kills at a named step, guests, and a checker of the server's history.

pub mod api;
pub mod bombs;
pub mod checker;
pub mod cli;
pub mod cluster;
pub mod collector;
pub mod cutter;
pub mod guests;
pub mod large;
pub mod process;
pub mod proxy;
pub mod skip;
pub mod stream;
pub mod syncs;

use std::{future::Future, time::Duration};

/// The top of the repository.
pub fn repository() -> std::path::PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the tests stand one level below the top").to_owned()
}

/// Asks again every 20 ms until there is an answer; panics with `what` after `limit`.
///
/// # Panics
/// When the limit passes without an answer.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let give_up = std::time::Instant::now() + limit;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(std::time::Instant::now() < give_up, "still waiting for {what} after {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

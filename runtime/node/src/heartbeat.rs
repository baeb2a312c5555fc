//! Saying that the node lives.

use std::{sync::Arc, time::Duration};

use gristmill_client::node::{Backoff, CallError};
use gristmill_protocol::{ErrorCode, node_api::HeartbeatRequest};
use rand::RngExt;

use crate::services::Services;

/// Unaccepted signatures in a row after which the node gives up.
const REFUSALS_MAX: u32 = 3;

/// Sends heartbeats until the server no longer accepts this node. A change of the node's own mode
/// is told at once.
pub(crate) async fn run(services: Arc<Services>) {
    let mut backoff = Backoff::between(Duration::from_millis(250), Duration::from_secs(10));
    let mut mode = services.mode.subscribe();
    let mut sequence = 0;
    let mut refusals = 0;
    loop {
        sequence += 1;
        let told = mode.borrow_and_update().is_draining;
        let request = HeartbeatRequest {
            incarnation: services.incarnation.clone(),
            sequence,
            draining: told,
            labels: services.labels.clone(),
            capabilities: services.capabilities.clone(),
        };
        let wait = match services.client.heartbeat(&request).await {
            Ok(grant) => {
                backoff.reset();
                refusals = 0;
                services.mode.send_if_modified(|mode| !std::mem::replace(&mut mode.is_known, true));
                services.pause(grant.drain);
                let next_ms = grant.next_ms.clamp(100, 300_000);
                // A little earlier, at random: nodes that started together drift apart.
                Duration::from_millis(next_ms - rand::rng().random_range(0..=next_ms / 5))
            }
            Err(error) if is_final(&error, refusals) => {
                services.fail(why_refused(&error));
                return;
            }
            Err(error) => {
                refusals += u32::from(error.is_identity_refused());
                tracing::warn!(%error, "a heartbeat failed; trying again");
                backoff.next_delay(error.retry_after())
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = mode.wait_for(|mode| mode.is_draining != told) => {}
        }
    }
}

/// Ends the node if the error says that the server no longer accepts it, whichever call met it, and
/// returns whether it does. A signature that is not accepted is left to the heartbeat to try again.
pub(crate) fn fail_if_refused(services: &Services, error: &CallError) -> bool {
    let is_refused = is_final(error, 0);
    if is_refused {
        services.fail(why_refused(error));
    }
    is_refused
}

/// A revoked node has ended at once, and so has one whose identity another process has taken over. A
/// signature that is not accepted may have met a server that is just being set up again; it is tried
/// a few more times.
fn is_final(error: &CallError, refusals_before: u32) -> bool {
    match error.code() {
        Some(ErrorCode::Forbidden | ErrorCode::Conflict) => true,
        Some(ErrorCode::Unauthenticated) => refusals_before >= REFUSALS_MAX,
        _ => false,
    }
}

fn why_refused(error: &CallError) -> String {
    if error.code() == Some(ErrorCode::Conflict) {
        format!("another node runs with this node's identity: {error}")
    } else if error.code() == Some(ErrorCode::Forbidden) {
        format!(
            "this node was revoked and cannot return: {error}; to use the machine again, remove the node's state directory and enrol it with a new join token"
        )
    } else {
        format!(
            "the server does not know this node: {error}; if the server is the right one, remove the node's state directory and enrol it with a new join token"
        )
    }
}

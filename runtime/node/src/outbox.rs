//! Reports to the server. While one call is under way, what comes meanwhile waits for the next: the
//! busier the node, the larger the batches. A lone report never waits.

use std::{collections::HashSet, time::Duration};

use gristmill_client::node::{Backoff, NodeClient};
use gristmill_protocol::node_api::{AttemptChange, AttemptUpdate, LeaseRef, UpdateVerdict, UpdatesRequest};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{clock::Moment, poller::pace};

/// Most updates in one call, as the protocol has it.
const UPDATES_MAX: usize = 256;
/// A batch is closed when it holds about this many bytes of JSON. A single larger report goes alone.
const BATCH_BYTES: usize = 512 << 10;

/// A batch of this size is sent without waiting for the pace.
const FULL_BATCH: usize = 128;

struct Item {
    update: AttemptUpdate,
    bytes: usize,
    verdict: oneshot::Sender<UpdateVerdict>,
}

/// Where attempts leave their updates. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outbox {
    items: mpsc::UnboundedSender<Item>,
}

/// The sending side's other half; give it to [`run`].
pub(crate) struct OutboxQueue {
    items: mpsc::UnboundedReceiver<Item>,
}

/// Makes an outbox. What waits in it is bounded by the number of attempts.
pub(crate) fn outbox() -> (Outbox, OutboxQueue) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Outbox { items: sender }, OutboxQueue { items: receiver })
}

impl Outbox {
    /// Queues an update. Updates of one attempt arrive in the order of these calls. The receiver
    /// hears the server's verdict; dropping it withdraws an update that is not yet on its way.
    pub(crate) fn post(&self, lease: &LeaseRef, change: AttemptChange) -> oneshot::Receiver<UpdateVerdict> {
        let (verdict, receiver) = oneshot::channel();
        let bytes = json_bytes(&change);
        let update = AttemptUpdate { lease: lease.clone(), change };
        // A closed outbox drops the item, and the receiver hears that.
        let _ = self.items.send(Item { update, bytes, verdict });
        receiver
    }
}

/// About how long the update is as JSON.
fn json_bytes(change: &AttemptChange) -> usize {
    match change {
        AttemptChange::Started | AttemptChange::Released => 200,
        AttemptChange::Finished(report) => {
            let outputs: usize = report.outputs.iter().map(|output| output.path.len() + 150).sum();
            let log: usize = report.log_tail.iter().map(|chunk| chunk.base64.len() + 100).sum();
            2_000 + outputs + log
        }
    }
}

/// Sends what is posted until every [`Outbox`] is dropped and everything has been answered.
///
/// A call without an answer is repeated, with growing delays, until there is one: the server knows
/// whether it has seen an update. Updates whose attempt no longer waits for the verdict are left out.
pub(crate) async fn run(mut queue: OutboxQueue, client: &NodeClient) {
    let mut waiting: Vec<Item> = Vec::new();
    let mut backoff = Backoff::between(Duration::from_millis(100), Duration::from_secs(5));
    let mut next_at = Instant::now();
    loop {
        gather(&mut queue, &mut waiting, next_at).await;
        if waiting.is_empty() {
            match queue.items.recv().await {
                Some(item) => waiting.push(item),
                None => return,
            }
        }
        while let Ok(item) = queue.items.try_recv() {
            waiting.push(item);
        }
        waiting.retain(is_wanted);
        let count = batch_len(&waiting);
        if count == 0 {
            continue;
        }
        let batch: Vec<Item> = waiting.drain(..count).collect();
        next_at = Instant::now() + pace(attempt_count(&batch), Moment::now());
        let unanswered = send(client, batch, &mut backoff).await;
        waiting.splice(0..0, unanswered);
    }
}

/// Takes in what is posted until it is time for the next call, or a full batch waits.
async fn gather(queue: &mut OutboxQueue, waiting: &mut Vec<Item>, next_at: Instant) {
    while waiting.len() < FULL_BATCH {
        match tokio::time::timeout_at(next_at, queue.items.recv()).await {
            Ok(Some(item)) => waiting.push(item),
            Ok(None) | Err(_) => return,
        }
    }
}

fn is_wanted(item: &Item) -> bool {
    // Nobody waits for the verdict of a start for long, but the start counts all the same.
    !item.verdict.is_closed() || matches!(item.update.change, AttemptChange::Started)
}

/// Number of attempts that a batch is about: the start and the end of one are no crowd.
fn attempt_count(batch: &[Item]) -> usize {
    batch.iter().map(|item| (item.update.lease.job, item.update.lease.attempt)).collect::<HashSet<_>>().len()
}

fn batch_len(waiting: &[Item]) -> usize {
    let mut bytes = 0;
    let fits = waiting.iter().take(UPDATES_MAX).take_while(|item| {
        bytes += item.bytes;
        bytes <= BATCH_BYTES
    });
    fits.count().max(1).min(waiting.len())
}

/// Sends one batch and returns what has to be sent again.
async fn send(client: &NodeClient, batch: Vec<Item>, backoff: &mut Backoff) -> Vec<Item> {
    let request = UpdatesRequest { updates: batch.iter().map(|item| item.update.clone()).collect() };
    match client.updates(&request).await {
        Ok(grant) => {
            backoff.reset();
            for (item, verdict) in batch.into_iter().zip(grant.verdicts) {
                let _ = item.verdict.send(verdict);
            }
            Vec::new()
        }
        Err(error) if error.is_worth_repeating() => {
            tracing::debug!(%error, "a report got no answer; repeating it");
            tokio::time::sleep(backoff.next_delay(error.retry_after())).await;
            batch
        }
        Err(error) if batch.len() > 1 && !error.is_identity_refused() => {
            tracing::warn!(%error, "the server refused a batch of reports; sending them one by one");
            let mut again = Vec::new();
            for item in batch {
                again.extend(Box::pin(send(client, vec![item], backoff)).await);
            }
            again
        }
        Err(error) => {
            tracing::error!(%error, "the server refused a report");
            for item in batch {
                let _ = item.verdict.send(UpdateVerdict::Rejected);
            }
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::tests::grant;

    fn item(bytes: usize) -> (Item, oneshot::Receiver<UpdateVerdict>) {
        let grant = grant();
        let lease = LeaseRef { job: grant.job, attempt: 1, lease_token: grant.lease_token };
        let (verdict, receiver) = oneshot::channel();
        (Item { update: AttemptUpdate { lease, change: AttemptChange::Released }, bytes, verdict }, receiver)
    }

    #[test]
    fn a_batch_is_bounded_in_number_and_bytes_and_never_empty() {
        let batch = |sizes: &[usize]| {
            let items: Vec<_> = sizes.iter().map(|&bytes| item(bytes).0).collect();
            batch_len(&items)
        };
        assert_eq!(batch(&[]), 0);
        assert_eq!(batch(&[10, 10]), 2);
        assert_eq!(batch(&[BATCH_BYTES - 10, 10, 10]), 2);
        assert_eq!(batch(&[BATCH_BYTES * 3, 10]), 1, "a large report goes alone");
        assert_eq!(batch(&[1; 300]), 256);
    }

    #[tokio::test]
    async fn a_busy_outbox_gathers_until_its_time_or_a_full_batch() {
        let (outbox, mut queue) = outbox();
        let lease = item(1).0.update.lease;
        let post = || drop(outbox.post(&lease, AttemptChange::Started));
        let mut waiting = Vec::new();
        post();
        gather(&mut queue, &mut waiting, Instant::now() + pace(1, Moment::now())).await;
        assert!(waiting.len() <= 1, "a lone report is not made to wait for others");
        let soon = Instant::now() + pace(2, Moment::now());
        gather(&mut queue, &mut waiting, soon).await;
        assert!(Instant::now() >= soon, "several are");
        (0..FULL_BATCH).for_each(|_| post());
        let late = Instant::now() + Duration::from_mins(1);
        gather(&mut queue, &mut waiting, late).await;
        assert_eq!(waiting.len(), FULL_BATCH);
    }

    #[test]
    fn the_start_and_the_end_of_one_attempt_count_once() {
        let (first, second) = (item(1).0, item(1).0);
        assert_eq!(attempt_count(&[first, second]), 1);
        assert_eq!(attempt_count(&[]), 0);
    }

    #[test]
    fn a_report_that_nobody_waits_for_is_withdrawn_but_a_start_is_not() {
        let (mut wanted, receiver) = item(1);
        assert!(is_wanted(&wanted));
        drop(receiver);
        assert!(!is_wanted(&wanted));
        wanted.update.change = AttemptChange::Started;
        assert!(is_wanted(&wanted));
    }
}

//! Wake-ups within the process: whoever waits for a job's end, a node's news or a log's growth
//! listens to a topic, reads the present state, and sleeps until the topic is woken. Nobody polls
//! the database.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use gristmill_protocol::{JobId, NodeId};
use tokio::sync::watch;

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The job reached its terminal state.
    JobEnd(JobId),
    /// The job changed in any way.
    Job(JobId),
    /// A lease of the node was cancelled or taken back, or an operator asked something of the node.
    Node(NodeId),
    /// An event of any job was recorded.
    Events,
    /// A log of the job grew, or one of its attempts began or ended.
    Log(JobId),
}

/// All topics that somebody listens to. A topic without listeners costs nothing.
#[derive(Debug, Default)]
pub struct Wakes {
    topics: Mutex<HashMap<Topic, watch::Sender<u64>>>,
}

impl Wakes {
    fn topics(&self) -> std::sync::MutexGuard<'_, HashMap<Topic, watch::Sender<u64>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts listening. Read the state after this call: every change that is committed later wakes
    /// the listener.
    pub fn listen(self: &Arc<Self>, topic: Topic) -> Listener {
        let receiver = self.topics().entry(topic).or_insert_with(|| watch::Sender::new(0)).subscribe();
        Listener { wakes: Arc::clone(self), topic, receiver }
    }

    /// Wakes everybody who listens to the topic.
    pub fn wake(&self, topic: Topic) {
        if let Some(sender) = self.topics().get(&topic) {
            sender.send_modify(|count| *count += 1);
        }
    }

    /// Number of topics that somebody listens to.
    pub fn topic_count(&self) -> usize {
        self.topics().len()
    }
}

/// One listener to one topic; dropping it ends the listening.
#[derive(Debug)]
pub struct Listener {
    wakes: Arc<Wakes>,
    topic: Topic,
    receiver: watch::Receiver<u64>,
}

impl Listener {
    /// How often the topic was woken since somebody has been listening without a break.
    pub fn count(&self) -> u64 {
        *self.receiver.borrow()
    }

    /// Waits until the topic was woken after the last call, or after the listening began.
    /// It may be cancelled at any time without losing a wake-up.
    pub async fn woken(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The sender lives in the map for as long as this listener does.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut topics = self.wakes.topics();
        if topics.get(&self.topic).is_some_and(|sender| sender.receiver_count() <= 1) {
            topics.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wake_up_between_listening_and_waiting_is_not_lost() {
        let wakes = Arc::new(Wakes::default());
        let topic = Topic::JobEnd(JobId::from_parts(1, [1; 10]));
        let mut listener = wakes.listen(topic);
        wakes.wake(topic);
        listener.woken().await;
    }

    #[tokio::test]
    async fn a_topic_is_forgotten_with_its_last_listener() {
        let wakes = Arc::new(Wakes::default());
        let topic = Topic::JobEnd(JobId::from_parts(1, [1; 10]));
        let first = wakes.listen(topic);
        let second = wakes.listen(topic);
        drop(first);
        assert_eq!(wakes.topic_count(), 1);
        drop(second);
        assert_eq!(wakes.topic_count(), 0);
    }
}

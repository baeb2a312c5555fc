//! The queue of ended spans and the task that sends them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    collector::{Collector, Refusal},
    encode,
    settings::Settings,
    span::EndedSpan,
};

/// How long the end of the process waits for the last spans to be sent.
const FLUSH_TIME: Duration = Duration::from_secs(5);
/// How long the log says nothing of further spans that were lost.
const SILENCE: Duration = Duration::from_secs(600);

/// Where spans go when they have ended.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    sender: mpsc::Sender<EndedSpan>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// Puts a span into the queue, or drops and counts it.
    pub(crate) fn put(&self, span: EndedSpan) {
        if self.sender.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What sends, before it runs.
#[derive(Debug)]
pub struct Sending {
    collector: Collector,
    receiver: mpsc::Receiver<EndedSpan>,
    settings: Settings,
    losses: Losses,
}

pub(crate) fn queue(collector: Collector, settings: Settings) -> (Queue, Sending) {
    let (sender, receiver) = mpsc::channel(settings.queue_max);
    let queue = Queue { sender, dropped: Arc::default() };
    let losses = Losses { dropped: Arc::clone(&queue.dropped), told: 0, told_at: None };
    (queue, Sending { collector, receiver, settings, losses })
}

/// What sends, at work.
#[derive(Debug)]
pub struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    /// Sends what is left. Takes a few seconds at most; what the collector has not taken by then is lost.
    pub async fn finish(self) {
        self.stop.cancel();
        if timeout(FLUSH_TIME, self.tasks.wait()).await.is_err() {
            tracing::warn!("the last spans were not exported: the collector did not take them in time");
        }
    }
}

impl Sending {
    /// Starts sending, in a task of the runtime that this is called in.
    pub fn start(self) -> Running {
        for complaint in &self.settings.complaints {
            tracing::warn!("{complaint}");
        }
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(self.run(stop.clone()));
        tasks.close();
        Running { stop, tasks }
    }

    /// What is in the queue.
    #[cfg(test)]
    pub(crate) fn queued(&mut self) -> Vec<EndedSpan> {
        std::iter::from_fn(|| self.receiver.try_recv().ok()).collect()
    }

    /// How many spans were lost.
    #[cfg(test)]
    pub(crate) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.losses.dropped)
    }

    async fn run(mut self, stop: CancellationToken) {
        while let Some(batch) = self.gather(&stop).await {
            self.send(batch).await;
        }
        // What ends later than this finds the queue closed.
        self.receiver.close();
        loop {
            let mut batch = Vec::new();
            if self.receiver.recv_many(&mut batch, self.settings.batch_max).await == 0 {
                break;
            }
            self.send(batch).await;
        }
        self.losses.tell_the_last();
    }

    /// The next spans: as many as are sent at a time, or those that came within the delay after the first.
    /// `None` when it is time to stop.
    async fn gather(&mut self, stop: &CancellationToken) -> Option<Vec<EndedSpan>> {
        let mut batch = Vec::new();
        let mut send_at = None;
        while batch.len() < self.settings.batch_max {
            let most = self.settings.batch_max - batch.len();
            let is_due = async {
                match send_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                count = self.receiver.recv_many(&mut batch, most) => {
                    if count == 0 {
                        // Nobody is left who makes spans.
                        break;
                    }
                    send_at = send_at.or(Some(Instant::now() + self.settings.delay));
                }
                () = is_due => break,
                () = stop.cancelled() => break,
            }
        }
        Some(batch).filter(|batch| !batch.is_empty())
    }

    async fn send(&mut self, batch: Vec<EndedSpan>) {
        let count = batch.len() as u64;
        let body = encode::request(&self.settings.resource, env!("CARGO_PKG_VERSION"), &batch);
        drop(batch);
        let sent = self.collector.take(body).await;
        if sent.is_err() {
            self.losses.dropped.fetch_add(count, Ordering::Relaxed);
        }
        self.losses.tell(sent.err().as_ref());
    }
}

/// Spans that were not exported, and when the log said so.
#[derive(Debug)]
struct Losses {
    dropped: Arc<AtomicU64>,
    told: u64,
    told_at: Option<Instant>,
}

impl Losses {
    /// Says how many spans were lost so far, unless it was said a short while ago.
    fn tell(&mut self, error: Option<&Refusal>) {
        if self.told_at.is_none_or(|at| at.elapsed() >= SILENCE) {
            self.tell_now(error);
        }
    }

    fn tell_the_last(&mut self) {
        self.tell_now(None);
    }

    fn tell_now(&mut self, error: Option<&Refusal>) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped == self.told {
            return;
        }
        let error = error.map(tracing::field::display);
        tracing::warn!(dropped, error, "spans were not exported: the collector does not take them");
        self.told = dropped;
        self.told_at = Some(Instant::now());
    }
}

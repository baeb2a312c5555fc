//! Ctrl-C and SIGTERM: the first asks politely, the second leaves at once.

use gristmill_protocol::JobId;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{failure::Exit, printer::note, steady::Steady};

/// Listens for SIGINT and SIGTERM from now on, in place of the system's default.
#[derive(Debug)]
pub(crate) struct Interrupt {
    first: CancellationToken,
    second: CancellationToken,
    tracker: TaskTracker,
}

impl Interrupt {
    /// Starts listening for a command that follows a job. A second signal ends the process with the
    /// exit code of a cancelled job.
    pub(crate) fn for_job() -> Self {
        Self::start(1, Exit::JobCancelled)
    }

    /// Starts listening for a service that has something to do at the second signal too; a third
    /// one ends the process.
    pub(crate) fn for_service() -> Self {
        Self::start(2, Exit::Error)
    }

    fn start(heard: u32, exit: Exit) -> Self {
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let tracker = TaskTracker::new();
        let tokens = (first.clone(), second.clone());
        tracker.spawn(async move {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                // Without handlers the system's default ends the process.
                return;
            };
            let mut count = 0;
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                count += 1;
                match count {
                    1 => tokens.0.cancel(),
                    2 if heard >= 2 => tokens.1.cancel(),
                    _ => std::process::exit(exit.code().into()),
                }
            }
        });
        Self { first, second, tracker }
    }

    /// Ends at the first signal, also when that came before the call.
    pub(crate) async fn first(&self) {
        self.first.cancelled().await;
    }

    /// Ends at the second signal, also when that came before the call.
    pub(crate) async fn second(&self) {
        self.second.cancelled().await;
    }

    /// A token that is cancelled by the first signal.
    pub(crate) fn token(&self) -> CancellationToken {
        self.first.clone()
    }

    /// From the first signal on, the job is being cancelled, while whoever follows it sees it end.
    /// Dropping the guard ends that.
    pub(crate) fn cancel_on(&self, steady: &Steady, job: JobId) -> tokio_util::sync::DropGuard {
        let over = CancellationToken::new();
        let (steady, first, over_too) = (steady.clone(), self.first.clone(), over.clone());
        self.tracker.spawn(async move {
            tokio::select! {
                () = over_too.cancelled() => return,
                () = first.cancelled() => {}
            }
            note("cancelling the job; a second Ctrl-C leaves at once");
            let cancelled = steady.call(|client| async move { client.job_cancel(&job).await });
            if let Err(error) = cancelled.await {
                eprintln!("warning: {job} could not be cancelled: {error:#}");
            }
        });
        over.drop_guard()
    }
}

//! The node's handle on one executor.

use std::{
    fs::File,
    future::pending,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use gristmill_channel::{Order, Report, decode};
use gristmill_protocol::{Outcome, Reason, Usage};
use gristmill_sandbox::{stop_outcome, wall_time_outcome};
use tokio::{
    io::AsyncReadExt as _,
    process::ChildStdout,
    sync::{mpsc, watch},
    time::sleep_until,
};

use crate::{
    confiner::{Confined, Confiner, Held, open_directory},
    descriptors,
    outer::{OVERHEAD_BYTES, Watchdog, cpu_time, own_bytes},
    process::Death,
    request::{RunEnd, RunEvent, RunRequest, StopReason},
    slots::Slot,
};

/// How long loading compiled code and counting the scratch directory may take.
const START_LIMIT: Duration = Duration::from_mins(2);
/// How much longer than it should an executor may take before it is killed. It normally reports the
/// end of even a stuck guest within a tenth of this.
const KILL_AFTER: Duration = Duration::from_secs(1);

/// Memory that an idle executor may hold, in bytes. One that holds more grew for a reason that nobody
/// knows, and is not used again.
const IDLE_BYTES_MAX: u64 = 128 << 20;

/// How long an executor may go on freeing what its last run held before another takes its place.
const REST_TIME: Duration = Duration::from_millis(50);

/// One child process, which serves the runs of one tenant one after the other. Dropping it kills the
/// process; its slot and what it holds are given back when the process is gone.
pub struct Executor {
    child: Confined,
    received: BytesMut,
    alive: bool,
    /// What it said or has yet to say of itself after its last run.
    rest: Rest,
}

/// Whether a process holds as little as before its first run.
#[derive(Clone, Copy, PartialEq)]
enum Rest {
    AsBefore,
    Awaited,
    Grown,
}

/// What is said to a run while it goes on. A sender that is gone says nothing more.
#[derive(Debug)]
pub struct RunOrders {
    /// Why the guest must stop, once it must.
    pub stop: watch::Receiver<Option<StopReason>>,
    /// When the executor ends the guest by itself although the node says nothing, as time since
    /// the machine's start (`CLOCK_BOOTTIME`); `None` for never.
    pub until: watch::Receiver<Option<Duration>>,
}

impl RunOrders {
    /// A run that nobody leases: only a stop ends it early.
    pub fn without_lease(stop: watch::Receiver<Option<StopReason>>) -> Self {
        Self { stop, until: watch::channel(None).1 }
    }
}

/// Where one run stands, seen from outside.
struct Progress {
    wall_time: Duration,
    started: Option<Instant>,
    /// CPU time of the process when the guest started; it may have run others before.
    cpu_at_start: Option<Duration>,
    /// CPU time of the guest, where its process did not live to tell it.
    cpu: Option<Duration>,
    stop: Option<StopReason>,
    memory_bytes: u64,
    /// When the executor is killed if nothing is heard of the guest's end.
    kill_at: Instant,
    /// When the reader of events became slow.
    waiting_since: Option<Instant>,
}

enum Step {
    Received(io::Result<Report>),
    Delivered,
    /// What guest and host hold together, in bytes.
    TooMuchMemory(u64),
    Stop(StopReason),
    Prolonged(Option<Duration>),
    Overdue,
}

impl Step {
    /// Whether the run is over or has to be soon, so that the process must not be held back any more.
    fn leads_to_the_end(&self) -> bool {
        !matches!(self, Self::Received(Ok(Report::Event(_))) | Self::Delivered | Self::Prolonged(_))
    }
}

impl Executor {
    /// Starts a child and assigns it to a tenant: it can touch nothing but its slot and read
    /// nothing but that and `readable`, directories that hold only what the tenant may see. Returns
    /// when it is started, not when it is ready; that takes it a few milliseconds more, and a run can
    /// be sent at once. The process holds `held`; see [`Executor::hold`].
    ///
    /// # Errors
    /// When the binary cannot be started, or not be confined in the way that was measured. A process that
    /// was started in vain is killed; it too gives `held` back when it is gone. So it is when the future is
    /// dropped.
    pub async fn spawn(confiner: &Confiner, readable: &[&Path], held: Held) -> io::Result<Self> {
        let child = confiner.start_executor(readable, held).await?;
        Ok(Self { child, received: BytesMut::new(), alive: true, rest: Rest::AsBefore })
    }

    /// Gives the process something to hold that must not be used again before the process has rested or is
    /// gone. What it held before is dropped.
    pub fn hold(&mut self, held: Option<Held>) {
        self.child.held = held;
    }

    /// The child's process id; `None` when it is dead.
    pub fn pid(&self) -> Option<u32> {
        self.child.process.pid()
    }

    /// Where an attempt's files have to lie while it runs.
    pub fn slot(&self) -> Arc<Slot> {
        Arc::clone(&self.child.slot)
    }

    /// Whether it is as it was before its first run, and not yet worn: it lives, has freed what its last run
    /// held, lost no descriptors, and holds no more memory than an executor without a guest should.
    /// Waits shortly for one that is still freeing. Cancel-safe.
    pub async fn is_as_new(&mut self) -> bool {
        _ = tokio::time::timeout(REST_TIME, self.rested()).await;
        let holds_little = |bytes| bytes <= IDLE_BYTES_MAX;
        self.alive && self.rest == Rest::AsBefore && self.pid().and_then(own_bytes).is_some_and(holds_little)
    }

    /// Waits for the last word about the last run. Cancel-safe.
    async fn rested(&mut self) {
        if self.alive && self.rest == Rest::Awaited {
            self.rest = match receive(&mut self.child.reports, &mut self.received).await {
                Ok(Report::Rested(true)) => Rest::AsBefore,
                _ => Rest::Grown,
            };
        }
    }

    /// Kills the child with everything below it, and reaps it.
    pub async fn kill(mut self) {
        self.end_process().await;
    }

    async fn end_process(&mut self) -> Death {
        self.child.process.kill();
        self.child.bounds.kill();
        self.alive = false;
        let death = self.child.process.wait().await;
        self.child.bounds.rest();
        death
    }

    /// Runs one guest to its end. Events are sent as they come; a slow receiver slows the guest, and
    /// one that is gone loses them. `orders` are watched all the time: on a stop the guest is stopped,
    /// at the latest after a second by killing the process. Never fails: a dead executor is an outcome
    /// with the reason `executor_crashed`. When the answer is not reusable the executor is dead.
    /// Not cancel-safe: after dropping the future, drop the executor too.
    pub async fn run(
        &mut self,
        request: RunRequest,
        events: mpsc::Sender<RunEvent>,
        mut orders: RunOrders,
    ) -> RunEnd {
        let mut progress = Progress::of(&request);
        _ = tokio::time::timeout(KILL_AFTER, self.rested()).await;
        if !self.alive || self.rest != Rest::AsBefore {
            self.end_process().await;
            return crashed(&progress, "the executor was not fit for another run");
        }
        self.rest = Rest::Awaited;
        let cpus_milli = request.spec.limits.cpus_milli;
        if let Err(error) = self.child.bounds.limit(cpus_milli, progress.memory_bytes) {
            self.end_process().await;
            tracing::error!("the outer limits of an executor cannot be set: {error}");
            return crashed(&progress, "the executor's limits cannot be set");
        }
        let until = *orders.until.borrow_and_update();
        let sent = async {
            self.send_until(until).await?;
            self.send_run(request).await
        };
        if let Err(error) = sent.await {
            tracing::warn!("a run cannot be passed to an executor: {error}");
            return self.bury(&mut progress).await;
        }
        let watched = self.pid().filter(|_| self.child.bounds.needs_watching());
        let mut watchdog = Watchdog::over(watched, progress.memory_bytes, self.child.bounds.throttle());
        let mut undelivered = None;
        loop {
            let step = self.step(&mut undelivered, &events, &mut orders, &progress, &mut watchdog).await;
            if step.leads_to_the_end() {
                watchdog.let_go();
            }
            match step {
                Step::Received(Ok(Report::End(end))) => {
                    if end.reusable {
                        self.child.bounds.rest();
                    } else {
                        self.end_process().await;
                    }
                    return *end;
                }
                Step::Received(Ok(Report::Event(event))) => {
                    if event == RunEvent::Started {
                        progress.start(self.pid());
                        watchdog.let_go_at(progress.wall_time_ends());
                    }
                    undelivered = Some(event);
                }
                Step::Received(Ok(_) | Err(_)) | Step::Overdue => return self.bury(&mut progress).await,
                Step::TooMuchMemory(bytes) => {
                    progress.note_cpu(self.pid());
                    return self.end_for_memory(&progress, bytes).await;
                }
                Step::Delivered => progress.delivered(),
                Step::Prolonged(until) => {
                    if self.send_until(until).await.is_err() {
                        return self.bury(&mut progress).await;
                    }
                }
                Step::Stop(reason) => {
                    progress.stop = Some(reason);
                    progress.kill_at = progress.kill_at.min(Instant::now() + KILL_AFTER);
                    if self.send_stop(reason).await.is_err() {
                        return self.bury(&mut progress).await;
                    }
                }
            }
            progress.waiting_since =
                undelivered.is_some().then(|| progress.waiting_since.unwrap_or_else(Instant::now));
        }
    }

    /// Waits for the next thing to happen. Nothing is read while an event waits for its receiver.
    async fn step(
        &mut self,
        undelivered: &mut Option<RunEvent>,
        events: &mpsc::Sender<RunEvent>,
        orders: &mut RunOrders,
        progress: &Progress,
        watchdog: &mut Watchdog,
    ) -> Step {
        let waits = undelivered.is_some();
        // While the receiver is slow the guest may long have ended, so only a stop sets a term.
        let patient = waits && progress.stop.is_none();
        tokio::select! {
            biased;
            reason = stop_requested(&mut orders.stop), if progress.stop.is_none() => Step::Stop(reason),
            until = prolonged(&mut orders.until) => Step::Prolonged(until),
            // Before what a guest can bring about as often as it likes.
            () = sleep_until(progress.kill_at.into()), if !patient => Step::Overdue,
            bytes = watchdog.exceeded() => Step::TooMuchMemory(bytes),
            permit = events.reserve(), if waits => {
                if let (Ok(permit), Some(event)) = (permit, undelivered.take()) {
                    permit.send(event);
                }
                Step::Delivered
            }
            message = receive(&mut self.child.reports, &mut self.received), if !waits => Step::Received(message),
        }
    }

    async fn send_until(&mut self, until: Option<Duration>) -> io::Result<()> {
        let order = Order::KeepUntil(until);
        tokio::time::timeout(KILL_AFTER, descriptors::send(&self.child.orders, &order, &[])).await?
    }

    async fn send_stop(&mut self, reason: StopReason) -> io::Result<()> {
        let order = Order::Stop(reason);
        let sending = descriptors::send(&self.child.orders, &order, &[]);
        tokio::time::timeout(KILL_AFTER, sending).await?
    }

    /// Sends the order and all descriptors. The child reads all the time, so this takes long only if
    /// it hangs.
    async fn send_run(&mut self, request: RunRequest) -> io::Result<()> {
        let directories =
            request.directories.iter().map(|dir| open_directory(dir)).collect::<io::Result<Vec<_>>>()?;
        let files = [Some(request.code.as_fd()), request.stdin.as_ref().map(File::as_fd)];
        let all: Vec<_> = files.into_iter().flatten().chain(directories.iter().map(OwnedFd::as_fd)).collect();
        let order = Order::Run(Box::new(request.spec));
        if order.descriptors() != all.len() {
            return Err(io::Error::other("a run whose files are not those of its spec"));
        }
        tokio::time::timeout(KILL_AFTER, descriptors::send(&self.child.orders, &order, &all)).await?
    }

    /// Ends a child that holds so many bytes, more than the job's memory.
    async fn end_for_memory(&mut self, progress: &Progress, bytes: u64) -> RunEnd {
        self.end_process().await;
        out_of_memory(progress, Some(bytes))
    }

    /// Kills and reaps a child that died or has to, and says what became of its guest.
    async fn bury(&mut self, progress: &mut Progress) -> RunEnd {
        // It is readable until the child is reaped.
        progress.note_cpu(self.pid());
        let now = Instant::now();
        let overdue =
            now >= progress.kill_at || progress.started.is_some_and(|at| at.elapsed() >= progress.wall_time);
        self.alive = false;
        if !overdue && progress.stop.is_none() {
            // It closed its pipes, so its own end is near, and its status says why.
            let ended = tokio::time::timeout(KILL_AFTER, self.child.process.wait()).await;
            if let Ok(death) = ended {
                if self.child.bounds.ran_out_of_memory() || death.out_of_memory() {
                    return out_of_memory(progress, self.child.bounds.memory_peak_bytes());
                }
                let text = format!("the executor died while the guest ran: {}", death.describe());
                return crashed(progress, text);
            }
        }
        self.end_process().await;
        let mut outcome = match (progress.stop, progress.started) {
            (Some(reason), _) => stop_outcome(reason),
            (None, Some(_)) if overdue => wall_time_outcome(progress.wall_time),
            (None, Some(_)) => return crashed(progress, "the executor broke off"),
            (None, None) => return crashed(progress, "the executor did not start the guest in time"),
        };
        outcome.usage = progress.usage();
        RunEnd { outcome, reusable: false }
    }
}

impl Progress {
    fn of(request: &RunRequest) -> Self {
        let limits = &request.spec.limits;
        Self {
            wall_time: Duration::from_millis(limits.wall_time_ms),
            started: None,
            cpu_at_start: None,
            cpu: None,
            stop: None,
            memory_bytes: limits.memory_bytes.saturating_add(OVERHEAD_BYTES),
            kill_at: Instant::now() + START_LIMIT,
            waiting_since: None,
        }
    }

    fn start(&mut self, pid: Option<u32>) {
        let now = Instant::now();
        self.started = Some(now);
        self.cpu_at_start = pid.and_then(cpu_time);
        if self.stop.is_none() {
            // A limit beyond the clock's range is no limit for the kill either.
            let kill_at = now.checked_add(self.wall_time).and_then(|at| at.checked_add(KILL_AFTER));
            self.kill_at = kill_at.unwrap_or(now + Duration::from_hours(24 * 365));
        }
    }

    /// When the guest has had its time; `None` before it started, and beyond the clock's range.
    fn wall_time_ends(&self) -> Option<Instant> {
        self.started?.checked_add(self.wall_time)
    }

    /// The receiver took an event: what it took longer is not held against the executor.
    fn delivered(&mut self) {
        if let Some(since) = self.waiting_since
            && self.stop.is_none()
        {
            self.kill_at = self.kill_at.checked_add(since.elapsed()).unwrap_or(self.kill_at);
        }
    }

    /// Remembers the CPU time of a child that is about to be reaped.
    fn note_cpu(&mut self, pid: Option<u32>) {
        let now = pid.and_then(cpu_time);
        self.cpu = now.zip(self.cpu_at_start).map(|(now, start)| now.saturating_sub(start));
    }

    /// What is known of the use of a guest whose process cannot say it.
    fn usage(&self) -> Usage {
        Usage {
            wall_us: self.started.map(|at| at.elapsed().as_micros() as u64),
            cpu_us: self.cpu.map(|cpu| cpu.as_micros() as u64),
            ..Usage::default()
        }
    }
}

/// The guest and what the host holds for it took more than the job's memory and the overhead: so much,
/// as far as it is known.
fn out_of_memory(progress: &Progress, peak_bytes: Option<u64>) -> RunEnd {
    let mut end = crashed(progress, "guest and host together exceed the job's memory on this node");
    end.outcome.reason = Some(Reason::MemoryExceeded);
    end.outcome.usage.memory_peak_bytes = peak_bytes;
    end
}

fn crashed(progress: &Progress, message: impl Into<String>) -> RunEnd {
    let mut outcome = Outcome::failed(Reason::ExecutorCrashed, message);
    outcome.usage = progress.usage();
    RunEnd { outcome, reusable: false }
}

/// Waits for a stop; for ever, if nobody can ask for one any more.
pub(crate) async fn stop_requested(stop: &mut watch::Receiver<Option<StopReason>>) -> StopReason {
    let reason = stop.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
    match reason {
        Some(reason) => reason,
        None => pending().await,
    }
}

/// Waits for another end of the lease; for ever, if nobody can name one any more.
async fn prolonged(until: &mut watch::Receiver<Option<Duration>>) -> Option<Duration> {
    match until.changed().await {
        Ok(()) => *until.borrow_and_update(),
        Err(_) => pending().await,
    }
}

/// Reads the next message. Cancel-safe: what was read stays in `received`.
pub(crate) async fn receive(stdout: &mut ChildStdout, received: &mut BytesMut) -> io::Result<Report> {
    loop {
        if let Some(frame) = decode(received).map_err(io::Error::other)? {
            return Report::decode(&frame);
        }
        if stdout.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

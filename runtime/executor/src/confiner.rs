//! How children are confined on this machine: found out once by trying, and held from then on.

use std::{
    any::Any,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use gristmill_channel::{AssignSpec, Confinement, Order, Report};
use gristmill_protocol::{Isolation, OuterLimit};
use rustix::fs::{Mode, OFlags, open};
use tokio::{net::UnixStream, process::ChildStdout, runtime::Handle, sync::oneshot, time::timeout};
use tokio_util::task::TaskTracker;

use crate::{
    descriptors,
    handle::receive,
    outer::{Bounds, OuterLimits},
    process::{ChildProcess, ExecutorConfig},
    slots::{Slot, Slots},
    uids::Uids,
};

/// How long a child may take to say what confines it.
const PROBE_TIME: Duration = Duration::from_secs(10);

/// Starts children and confines them, always in the way that was found to work at the start.
#[derive(Debug)]
pub struct Confiner {
    config: ExecutorConfig,
    expected: Confinement,
    outer: Arc<OuterLimits>,
    slots: Arc<Slots>,
    reapers: TaskTracker,
}

/// What a child uses and nobody else may use before it is gone, such as the room that is reserved for it.
/// Dropped when its end was seen.
pub type Held = Box<dyn Any + Send + Sync>;

/// A confined child, and what belongs to it as long as it lives. Dropping it kills the child; slot, bounds
/// and what it holds are given back when the child is gone.
pub(crate) struct Confined {
    pub(crate) process: ChildProcess,
    pub(crate) orders: UnixStream,
    pub(crate) reports: ChildStdout,
    pub(crate) bounds: Bounds,
    pub(crate) slot: Arc<Slot>,
    pub(crate) held: Option<Held>,
    reapers: TaskTracker,
}

impl Drop for Confined {
    fn drop(&mut self) {
        self.process.kill();
        self.bounds.kill();
        let Some(mut child) = self.process.take() else { return };
        let kept = (self.bounds.take(), Arc::clone(&self.slot), self.held.take());
        // Without a runtime this process ends, and the child with it.
        if let Ok(runtime) = Handle::try_current() {
            let reaping = async move {
                if let Err(error) = child.wait().await {
                    tracing::error!(%error, "the end of a child could not be observed");
                }
                _ = tokio::task::spawn_blocking(move || drop(kept)).await;
            };
            self.reapers.spawn_on(reaping, &runtime);
        }
    }
}

impl Confiner {
    /// Finds out what confines children here, by starting one and letting it try what must not
    /// work. Slots get their directories below `slots_dir`.
    ///
    /// # Errors
    /// When no child can be started at all, or a directory cannot be made.
    pub async fn measure(config: ExecutorConfig, slots_dir: PathBuf) -> io::Result<Arc<Self>> {
        let everything =
            Isolation { outer_limit: OuterLimit::CgroupV2, own_uid: true, ..Isolation::default() };
        Self::measure_up_to(everything, config, slots_dir).await
    }

    /// The same, with no more than `most`: for guests that need this user's own rights, and for
    /// trying out the weaker levels.
    ///
    /// # Errors
    /// Those of [`Confiner::measure`].
    pub async fn measure_up_to(
        most: Isolation,
        config: ExecutorConfig,
        slots_dir: PathBuf,
    ) -> io::Result<Arc<Self>> {
        let own_uid = most.own_uid && rustix::process::geteuid().is_root();
        let measuring = tokio::task::spawn_blocking(move || {
            let uids = own_uid.then(Uids::take).transpose();
            (OuterLimits::measure(most.outer_limit), uids.inspect_err(no_own_uid).unwrap_or_default())
        });
        let (outer, uids) = measuring.await.map_err(io::Error::other)?;
        let slots = Slots::below(slots_dir, uids);
        let own_uid = slots.has_uids();
        let expected = Confinement::default();
        let mut this = Self { config, expected, outer, slots, reapers: TaskTracker::new() };
        let wished = Confinement { own_uid, ..Confinement::default() };
        this.expected = match this.probe(wished).await {
            Err(error) if own_uid => {
                no_own_uid(&error);
                this.probe(Confinement::default()).await?
            }
            other => other?,
        };
        Ok(Arc::new(this))
    }

    /// What confines children here.
    pub fn isolation(&self) -> Isolation {
        Isolation {
            outer_limit: self.outer.level(),
            seccomp: self.expected.seccomp,
            landlock_abi: self.expected.landlock_abi,
            own_uid: self.expected.own_uid,
        }
    }

    /// The level of the outer limits.
    pub fn outer_limit(&self) -> OuterLimit {
        self.outer.level()
    }

    async fn probe(&self, wished: Confinement) -> io::Result<Confinement> {
        let mut child = self.start("executor", wished, None).await?;
        let probing = async {
            child.assign(Order::Probe, Vec::new(), Vec::new(), wished).await?;
            let mut received = BytesMut::new();
            receive(&mut child.reports, &mut received).await
        };
        let probed = timeout(PROBE_TIME, probing).await;
        child.process.kill();
        let death = child.process.wait().await;
        match probed {
            Ok(Ok(Report::Probed(found))) => Ok(found),
            Ok(Ok(_)) => Err(io::Error::other("a child gave an answer that was not asked for")),
            Ok(Err(_)) => Err(io::Error::other(format!("a child did not start: {}", death.describe()))),
            Err(_) => Err(io::Error::other("a child did not say in time what confines it")),
        }
    }

    /// Starts a child. Cancel-safe, because it is a task of its own: it comes to its end, and nobody takes
    /// the child, so that it is killed.
    async fn start(
        &self,
        subcommand: &'static str,
        wished: Confinement,
        held: Option<Held>,
    ) -> io::Result<Confined> {
        let (config, outer, slots) = (self.config.clone(), Arc::clone(&self.outer), Arc::clone(&self.slots));
        let reapers = self.reapers.clone();
        let starting = async move {
            let taking = tokio::task::spawn_blocking(move || slots.take(wished.own_uid));
            let slot = Arc::new(taking.await.map_err(io::Error::other)??);
            let (mut process, orders, reports) = ChildProcess::spawn(&config, subcommand, slot.uid()).await?;
            let pid = process.pid().ok_or_else(|| io::Error::other("a child ended at once"));
            match pid.and_then(|pid| outer.bind(pid)) {
                Ok(bounds) => Ok(Confined { process, orders, reports, bounds, slot, held, reapers }),
                Err(error) => {
                    process.kill();
                    process.wait().await;
                    Err(error)
                }
            }
        };
        let (reply, answer) = oneshot::channel();
        // What nobody takes is dropped within the task, so that its end is waited for from then on.
        self.reapers.spawn(async move { _ = reply.send(starting.await) });
        answer.await.map_err(io::Error::other)?
    }

    /// Waits until every child that was killed or given up is gone, and what it held is given back. To be
    /// called when no more are started.
    pub async fn all_gone(&self) {
        self.reapers.close();
        self.reapers.wait().await;
    }

    /// Starts an executor and assigns it to a tenant, whose files lie in `readable` besides the slot.
    pub(crate) async fn start_executor(&self, readable: &[&Path], held: Held) -> io::Result<Confined> {
        let mut child = self.start("executor", self.expected, Some(held)).await?;
        let mut opened = vec![open_directory(&child.slot.readable())?];
        for dir in readable {
            opened.push(open_directory(dir)?);
        }
        let writable = open_directory(&child.slot.writable())?;
        child.assign(Order::Assign, opened, vec![writable], self.expected).await?;
        Ok(child)
    }

    /// Starts a compiler, which may touch no file but those that are handed to it and gives way to guests.
    pub(crate) async fn start_compiler(&self, held: Held) -> io::Result<Confined> {
        let mut child = self.start("compile", self.expected, Some(held)).await?;
        child.bounds.give_way()?;
        child.assign(Order::Assign, Vec::new(), Vec::new(), self.expected).await?;
        Ok(child)
    }
}

impl Confined {
    async fn assign(
        &mut self,
        order: impl FnOnce(AssignSpec) -> Order,
        readable: Vec<OwnedFd>,
        writable: Vec<OwnedFd>,
        expected: Confinement,
    ) -> io::Result<()> {
        let spec = AssignSpec { readable: readable.len(), writable: writable.len(), expected };
        let borrowed: Vec<_> = readable.iter().chain(&writable).map(OwnedFd::as_fd).collect();
        match descriptors::send(&self.orders, &order(spec), &borrowed).await {
            // It died already; that is noticed by its silence, and its status says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

fn no_own_uid(error: &io::Error) {
    tracing::warn!("executors get no user id of their own: {error}");
}

/// Opens a directory only to name it: whoever opens it for use needs the right to.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

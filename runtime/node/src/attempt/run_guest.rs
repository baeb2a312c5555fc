//! The run itself: an executor, the guest's environment, and its log on the way to the server.

use std::{collections::BTreeMap, io, sync::Arc};

use futures_util::future::{BoxFuture, OptionFuture};
use gristmill_executor::request::{MountSpec, RunEvent, RunRequest, RunSpec, StopReason};
use gristmill_protocol::{
    Outcome, Usage, WorkPhase,
    node_api::{AttemptChange, LeaseGrant, UpdateVerdict},
    reason::OutcomeState,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tracing::Instrument as _;

use super::{
    Attempt,
    log::{GATHER_TIME, LogBuffer, Sent, WAITING_BYTES_MAX, send_all},
    placed, spans,
    stage::Prepared,
};
use crate::{code::node_failed_by, executors::Hired, room::Reserved};

/// Events under way from the executor. Together with the buffer this is all that a chatty guest can
/// make the node hold.
const EVENTS_MAX: usize = 16;

/// A guest that has ended.
pub(super) struct Ran {
    pub(super) outcome: Outcome,
    /// What was not sent yet.
    pub(super) log: LogBuffer,
}

impl Ran {
    pub(super) fn is_success(&self) -> bool {
        self.outcome.state == OutcomeState::Succeeded
    }
}

/// Does what waits for the disk off the reactor.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl Attempt {
    /// Runs the guest to its end. The error is an outcome of the node's own failure. Whatever happens, what
    /// is reserved and the attempt's directory are kept until the executor has rested or is gone.
    pub(super) async fn run_guest(
        &self,
        prepared: &Prepared,
        reserved: &Arc<Reserved>,
    ) -> Result<Ran, Outcome> {
        let held = Box::new((Arc::clone(reserved), Arc::clone(&self.dir)));
        let mut hired = self
            .services
            .executors
            .hire(&self.grant.tenant, held)
            .await
            .map_err(|error| node_failed_by("start an executor", &error))?;
        let request = match self.place(&hired, prepared).await {
            Ok(request) => request,
            Err(error) => {
                hired.executor.kill().await;
                return Err(node_failed_by("lay the attempt before an executor", &error));
            }
        };
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let running = hired.executor.run(request, sender, self.lease.orders());
        let running = hired.turn.while_short(running);
        let run = async { tokio::join!(running, self.pump(events)) };
        let (end, log) = run.instrument(spans::phase(WorkPhase::Running)).await;
        match self.take_back(hired).await {
            Ok(hired) => self.services.executors.give_back(hired, &end).await,
            Err(error) => return Err(node_failed_by("take the attempt back from an executor", &error)),
        }
        let mut outcome = end.outcome;
        outcome.usage = with_phases(&outcome.usage, &prepared.usage);
        Ok(Ran { outcome, log })
    }

    /// Moves the attempt's files to where the executor can reach them.
    async fn place(&self, hired: &Hired, prepared: &Prepared) -> io::Result<RunRequest> {
        let (dir, slot, mounts) = (Arc::clone(&self.dir), hired.executor.slot(), prepared.mounts.clone());
        let stdin = prepared.stdin.as_ref().map(crate::cache::Pinned::path);
        let (directories, stdin) = blocking(move || {
            let directories = placed::place(dir.path(), &slot, &mounts)?;
            Ok((directories, stdin.map(std::fs::File::open).transpose()?))
        })
        .await?;
        Ok(RunRequest {
            spec: self.run_spec(prepared),
            code: Arc::clone(&prepared.code.file),
            stdin,
            directories,
        })
    }

    /// Moves the attempt's files back, where they are collected and no executor reaches them.
    async fn take_back(&self, hired: Hired) -> io::Result<Hired> {
        let (dir, slot) = (Arc::clone(&self.dir), hired.executor.slot());
        blocking(move || placed::take_back(dir.path(), &slot)).await?;
        Ok(hired)
    }

    fn run_spec(&self, prepared: &Prepared) -> RunSpec {
        let grant = &self.grant;
        let mount = |mount: &super::layout::Mount| MountSpec {
            guest_path: mount.guest_path.clone(),
            writable: mount.writable,
        };
        RunSpec {
            label: format!("{} attempt {}", grant.job, grant.attempt),
            code_key: prepared.code.key.clone(),
            world: grant.world,
            program: grant.program.clone(),
            args: grant.args.clone(),
            env: environment(grant, &self.services.zone),
            has_stdin: prepared.stdin.is_some(),
            mounts: prepared.mounts.iter().map(mount).collect(),
            limits: grant.limits.clone(),
            success_exit_codes: grant.success_exit_codes.clone(),
            reproducible: grant.reproducible,
        }
    }

    /// Passes on what the executor says until it has said everything. While the server is slow the
    /// buffer fills, then the channel, then the guest's own writes wait.
    async fn pump(&self, mut events: mpsc::Receiver<RunEvent>) -> LogBuffer {
        let mut buffer = LogBuffer::default();
        let mut sending: Option<BoxFuture<'_, Sent>> = None;
        let mut started: Option<oneshot::Receiver<UpdateVerdict>> = None;
        let mut gathered_at: Option<Instant> = None;
        let mut is_refused = false;
        loop {
            let is_full = buffer.waiting_bytes() >= WAITING_BYTES_MAX / 4;
            let send_at = gathered_at.map(|at| if is_full { Instant::now() } else { at });
            tokio::select! {
                event = events.recv(), if buffer.waiting_bytes() < WAITING_BYTES_MAX => match event {
                    None => break,
                    Some(RunEvent::Started) => {
                        self.lease.enter(WorkPhase::Running);
                        started = Some(self.services.outbox.post(self.lease.reference(), AttemptChange::Started));
                    }
                    Some(RunEvent::Log { stream, bytes, elapsed_us }) if !is_refused => {
                        buffer.push(stream, &bytes, elapsed_us);
                        gathered_at.get_or_insert_with(|| Instant::now() + GATHER_TIME);
                    }
                    Some(RunEvent::Log { .. }) => {}
                    Some(RunEvent::LogTruncated) => buffer.cut(),
                },
                Some(sent) = OptionFuture::from(sending.as_mut()), if sending.is_some() => {
                    sending = None;
                    is_refused |= self.heed(sent, &mut buffer);
                }
                Some(()) = OptionFuture::from(send_at.map(sleep_until)), if sending.is_none() && send_at.is_some() => {
                    gathered_at = None;
                    sending = Some(self.send_log(buffer.take_waiting()));
                }
                Some(verdict) = OptionFuture::from(started.as_mut()), if started.is_some() => {
                    started = None;
                    self.heed_start(verdict.ok());
                }
            }
        }
        if let Some(last) = sending {
            let sent = self.unless_lost(last).await;
            self.heed(sent, &mut buffer);
        }
        buffer
    }

    fn send_log(&self, waiting: LogBuffer) -> BoxFuture<'_, Sent> {
        Box::pin(send_all(&self.services.client, self.lease.reference(), waiting))
    }

    /// Sends what is too much to travel with the report.
    pub(super) async fn flush_log(&self, buffer: &mut LogBuffer) {
        if buffer.exceeds_tail() {
            let sent = self.unless_lost(self.send_log(buffer.take_waiting())).await;
            self.heed(sent, buffer);
        }
    }

    async fn unless_lost(&self, sending: BoxFuture<'_, Sent>) -> Sent {
        let mut stop = self.lease.stop_signal();
        tokio::select! {
            sent = sending => sent,
            _ = stop.wait_for(|reason| *reason == Some(StopReason::LeaseLost)) => Sent::LeaseLost,
        }
    }

    /// Returns whether later log bytes are useless.
    fn heed(&self, sent: Sent, buffer: &mut LogBuffer) -> bool {
        match sent {
            Sent::All => return false,
            Sent::LeaseLost => self.lease.stop(StopReason::LeaseLost),
            Sent::Refused => buffer.cut(),
        }
        drop(buffer.take_waiting());
        true
    }

    fn heed_start(&self, verdict: Option<UpdateVerdict>) {
        match verdict {
            Some(UpdateVerdict::LeaseLost) => self.lease.stop(StopReason::LeaseLost),
            Some(UpdateVerdict::Cancelled) => self.lease.stop(StopReason::Cancelled),
            _ => {}
        }
    }
}

/// The executor's figures, with those of the steps around the run.
fn with_phases(run: &Usage, phases: &Usage) -> Usage {
    Usage {
        stage_us: phases.stage_us,
        compile_us: phases.compile_us,
        compile_cache_hit: phases.compile_cache_hit,
        input_bytes: phases.input_bytes,
        ..run.clone()
    }
}

/// The guest's environment: the job's own and, unless it wants no more, what the contract adds. In the reproducible mode the
/// added values are the same for every job.
fn environment(grant: &LeaseGrant, zone: &str) -> BTreeMap<String, String> {
    let mut env = grant.env.clone();
    if grant.bare_env {
        return env;
    }
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    if grant.reproducible {
        set("GRISTMILL_JOB_ID", format!("job_{}", "0".repeat(26)));
        set("GRISTMILL_ATTEMPT", "1".into());
        set("GRISTMILL_ZONE", "reproducible".into());
        set("GRISTMILL_DEADLINE", "2100-01-01T00:00:00Z".into());
        set("TRACEPARENT", format!("00-{}1-{}1-00", "0".repeat(31), "0".repeat(15)));
        return env;
    }
    set("GRISTMILL_JOB_ID", grant.job.to_string());
    set("GRISTMILL_ATTEMPT", grant.attempt.to_string());
    set("GRISTMILL_ZONE", zone.to_owned());
    if let Some(deadline) = &grant.deadline_text {
        set("GRISTMILL_DEADLINE", deadline.clone());
    }
    if let Some(traceparent) = &grant.traceparent {
        set("TRACEPARENT", traceparent.clone());
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::tests::grant;

    #[test]
    fn the_guest_learns_who_it_is_and_keeps_its_own_variables() {
        let mut grant = grant();
        grant.env.insert("MINE".into(), "1".into());
        grant.deadline_text = Some("2027-01-01T00:00:00Z".into());
        let env = environment(&grant, "lab");
        assert_eq!(env["MINE"], "1");
        assert_eq!(env["GRISTMILL_JOB_ID"], grant.job.to_string());
        assert_eq!((env["GRISTMILL_ATTEMPT"].as_str(), env["GRISTMILL_ZONE"].as_str()), ("1", "lab"));
        assert_eq!(env["GRISTMILL_DEADLINE"], "2027-01-01T00:00:00Z");
        assert!(!env.contains_key("TRACEPARENT"));
        grant.bare_env = true;
        assert_eq!(environment(&grant, "lab"), grant.env, "a job may want its own variables alone");
    }

    #[test]
    fn reproducible_jobs_all_see_the_same_environment() {
        let mut one = grant();
        one.reproducible = true;
        let mut two = one.clone();
        two.attempt = 9;
        two.job = gristmill_protocol::JobId::from_parts(99, [9; 10]);
        two.deadline_text = Some("2027-01-01T00:00:00Z".into());
        assert_eq!(environment(&one, "lab"), environment(&two, "plant"));
    }

    #[test]
    fn the_phases_of_the_node_join_the_figures_of_the_run() {
        let run = Usage { fuel: Some(7), wall_us: Some(8), ..Usage::default() };
        let phases = Usage { stage_us: Some(1), compile_cache_hit: Some(true), ..Usage::default() };
        let usage = with_phases(&run, &phases);
        assert_eq!((usage.fuel, usage.wall_us, usage.stage_us), (Some(7), Some(8), Some(1)));
        assert_eq!(usage.compile_cache_hit, Some(true));
    }
}

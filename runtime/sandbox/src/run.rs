//! Runs guests: loads compiled code, builds a store, and watches over it until the guest's end.

use std::{
    collections::HashMap,
    fs::File,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gristmill_channel::{Report, RunEnd, RunEvent, RunSpec};
use gristmill_protocol::{Outcome, module::ModuleWorld};
use rustix::time::ClockId;
use tokio::sync::mpsc::Sender;
use wasmtime::{Engine, InstancePre, Linker, Store, UpdateDeadline, component};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::{
    code,
    control::{RunControl, cpu_time},
    engine::{EngineClass, engine},
    fault::{self, Halt, Phase},
    host::{self, Host},
    log::Log,
    ticker::Ticker,
};

/// Modules kept ready to instantiate.
const MODULES_KEPT: usize = 8;
/// Most that one host call may copy into the host's memory. File reads and writes copy nothing.
const HOSTCALL_BYTES_MAX: usize = 4 << 20;
/// A guest hands its count of fuel back after so many units, about a millisecond, so that it is
/// known of one that is stopped in between.
const FUEL_INTERVAL: u64 = 10_000_000;
/// How long a guest that is to stop may still deliver its last output.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// Runs guests one after the other or side by side, and keeps what they can share.
pub struct Sandbox {
    classes: Mutex<HashMap<EngineClass, Arc<Class>>>,
    /// The one used last stands last.
    modules: Mutex<Vec<(String, Ready)>>,
    ticker: Ticker,
}

/// The open files of one run.
#[derive(Debug)]
pub struct RunFiles {
    /// Compiled code, written by the compile child of the same binary, metering and mode.
    pub code: File,
    /// Standard input, a regular file; empty when absent.
    pub stdin: Option<File>,
    /// The directory of each mount, in the order of the mounts.
    pub directories: Vec<OwnedFd>,
}

struct Class {
    engine: Engine,
    core: Linker<Host>,
    component: component::Linker<Host>,
}

/// A module whose imports are resolved.
#[derive(Clone)]
enum Ready {
    Core(InstancePre<Host>),
    Component(CommandPre<Host>),
}

/// A run that ended. Dropping it frees the guest's memory, which takes up to a second for a guest
/// of many gigabytes; so report [`end`](Self::end) first.
pub struct Finished {
    /// How it ended.
    pub end: RunEnd,
    /// False if the end was already reported through the control's `on_stuck`.
    pub first: bool,
    store: Option<Store<Host>>,
}

impl Finished {
    fn early(outcome: Outcome, control: &RunControl) -> Self {
        Self { end: RunEnd { outcome, reusable: true }, first: control.claim_end(), store: None }
    }

    /// Gives back the guest's memory and closes its files.
    pub fn free(self) {
        drop(self.store);
    }
}

impl Sandbox {
    /// Starts the ticker's thread; engines are made when they are first needed.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start() -> std::io::Result<Self> {
        Ok(Self { classes: Mutex::default(), modules: Mutex::default(), ticker: Ticker::start()? })
    }

    /// Runs one guest to its end. Blocks the thread while the guest computes or reads files, so call
    /// it on a thread of its own, from a current-thread runtime with a timer. Events are sent as they
    /// come; a full channel makes the guest wait. Never fails: whatever happens is an outcome.
    pub async fn run(
        &self,
        request: &RunSpec,
        files: RunFiles,
        control: &Arc<RunControl>,
        events: Sender<Report>,
    ) -> Finished {
        if let Some(verdict) = control.verdict() {
            let wall_time = Duration::from_millis(request.limits.wall_time_ms);
            return Finished::early(fault::verdict_outcome(verdict, wall_time), control);
        }
        let class = EngineClass { metering: request.limits.metering, reproducible: request.reproducible };
        let prepared = self.class(class).and_then(|class| {
            let ready = self.ready(&class, request, &files.code)?;
            Ok((class, ready))
        });
        let (class, ready) = match prepared {
            Ok(prepared) => prepared,
            Err(outcome) => return Finished::early(*outcome, control),
        };
        let of_clock = Arc::downgrade(control);
        let clock = move || of_clock.upgrade().map_or(0, |control| control.elapsed_us());
        let log = Arc::new(Log::new(request.limits.log_bytes, events.clone(), clock));
        _ = control.log.set(Arc::clone(&log));
        match host::build(request, files, control, &log) {
            Ok(host) => self.execute(request, control, &class.engine, host, ready, &log, &events).await,
            Err(text) => Finished::early(fault::host_fault(text), control),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one run, all made by its only caller")]
    async fn execute(
        &self,
        request: &RunSpec,
        control: &Arc<RunControl>,
        engine: &Engine,
        host: Host,
        ready: Ready,
        log: &Log,
        events: &Sender<Report>,
    ) -> Finished {
        let wall_time = Duration::from_millis(request.limits.wall_time_ms);
        let mut store = match make_store(request, control, engine, host) {
            Ok(store) => store,
            Err(error) => return Finished::early(fault::host_fault(error.to_string()), control),
        };
        // A reader that is gone means that this process is about to end.
        _ = events.send(Report::Event(RunEvent::Started)).await;
        control.start(wall_time);
        let cpu_at_start = cpu_time(ClockId::ThreadCPUTime);
        let watch = self.ticker.watch(engine, control, wall_time);
        let mut phase = Phase::Instantiation;
        let result = tokio::select! {
            biased;
            result = call(&ready, &mut store, &mut phase) => result,
            verdict = control.halted() => Err(Halt::Stopped(verdict).into()),
        };
        let wall_us = control.elapsed_us();
        let first = control.claim_end();
        drop(watch);
        let cpu = cpu_time(ClockId::ThreadCPUTime).saturating_sub(cpu_at_start);
        tokio::select! {
            () = log.flush() => {}
            () = async { control.halted().await; tokio::time::sleep(LAST_OUTPUT).await } => {}
        }
        let mut outcome = fault::outcome(result, phase, store.data().memory.account().refused(), request);
        outcome.usage = control.usage();
        outcome.usage.wall_us = Some(wall_us);
        outcome.usage.cpu_us = Some(cpu.as_micros() as u64);
        // Compiled loops keep the count in a register, and an interruption does not write it back:
        // then it is what the guest handed back last, by at most an interval too low.
        let fuel_left = store.get_fuel().ok();
        outcome.usage.fuel =
            request.limits.fuel.zip(fuel_left).map(|(limit, left)| limit.saturating_sub(left));
        Finished { end: RunEnd { outcome, reusable: true }, first, store: Some(store) }
    }

    fn class(&self, class: EngineClass) -> Result<Arc<Class>, Box<Outcome>> {
        let mut classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = classes.get(&class) {
            return Ok(Arc::clone(found));
        }
        let build = || -> wasmtime::Result<Class> {
            let engine = engine(class)?;
            let mut core = Linker::new(&engine);
            host::link_core(&mut core)?;
            let mut component = component::Linker::new(&engine);
            host::link_component(&mut component)?;
            Ok(Class { engine, core, component })
        };
        let made = build().map_err(|error| Box::new(fault::host_fault(format!("no engine: {error:#}"))))?;
        let made = Arc::new(made);
        classes.insert(class, Arc::clone(&made));
        Ok(made)
    }

    fn ready(&self, class: &Class, request: &RunSpec, code: &File) -> Result<Ready, Box<Outcome>> {
        let key = &request.code_key;
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = modules.iter().position(|(of, _)| of == key) {
            let entry = modules.remove(index);
            let ready = entry.1.clone();
            modules.push(entry);
            return Ok(ready);
        }
        let ready = load(class, code, request)?;
        if modules.len() >= MODULES_KEPT {
            modules.remove(0);
        }
        modules.push((key.clone(), ready.clone()));
        Ok(ready)
    }
}

fn load(class: &Class, code: &File, request: &RunSpec) -> Result<Ready, Box<Outcome>> {
    let unreadable = |error: wasmtime::Error| {
        tracing::error!(key = request.code_key, "compiled code cannot be loaded: {error:#}");
        Box::new(fault::host_fault("the node's compiled code for this module cannot be loaded"))
    };
    let unlinkable = |error: wasmtime::Error| Box::new(fault::link_fault(&error));
    match request.world {
        ModuleWorld::WasiP1 => {
            let module = code::load_module(&class.engine, code).map_err(unreadable)?;
            Ok(Ready::Core(class.core.instantiate_pre(&module).map_err(unlinkable)?))
        }
        ModuleWorld::WasiP2 => {
            let component = code::load_component(&class.engine, code).map_err(unreadable)?;
            let pre = class.component.instantiate_pre(&component).map_err(unlinkable)?;
            Ok(Ready::Component(CommandPre::new(pre).map_err(unlinkable)?))
        }
        unknown => {
            Err(Box::new(fault::host_fault(format!("this node runs no modules of the kind {unknown}"))))
        }
    }
}

fn make_store(
    request: &RunSpec,
    control: &Arc<RunControl>,
    engine: &Engine,
    host: Host,
) -> wasmtime::Result<Store<Host>> {
    let mut store = Store::new(engine, host);
    store.limiter(|host| &mut host.memory);
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    if let Some(fuel) = request.limits.fuel {
        store.set_fuel(fuel)?;
        store.fuel_async_yield_interval(Some(FUEL_INTERVAL))?;
    }
    store.set_epoch_deadline(1);
    let of_callback = Arc::clone(control);
    let fuel_limit = request.limits.fuel;
    store.epoch_deadline_callback(move |store| {
        if let Some((limit, left)) = fuel_limit.zip(store.get_fuel().ok()) {
            of_callback.note_fuel(limit.saturating_sub(left));
        }
        match of_callback.verdict() {
            Some(verdict) => Err(Halt::Stopped(verdict).into()),
            None => Ok(UpdateDeadline::Continue(1)),
        }
    });
    Ok(store)
}

/// Instantiates and runs; ends with `Ok` when the program returns.
async fn call(ready: &Ready, store: &mut Store<Host>, phase: &mut Phase) -> wasmtime::Result<()> {
    match ready {
        Ready::Core(pre) => {
            let instance = pre.instantiate_async(&mut *store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
            *phase = Phase::Running;
            start.call_async(store, ()).await
        }
        Ready::Component(pre) => {
            let command = pre.instantiate_async(&mut *store).await?;
            *phase = Phase::Running;
            match command.wasi_cli_run().call_run(store).await? {
                Ok(()) => Ok(()),
                Err(()) => Err(Halt::Exit(1).into()),
            }
        }
    }
}

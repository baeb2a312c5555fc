//! The thread behind wall-time limits and stops: it advances the epoch while a guest runs.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use wasmtime::Engine;

use crate::control::RunControl;

/// Time between two ticks. Its only cost is the thread's wake-up: guests check the epoch anyway.
const TICK: Duration = Duration::from_millis(5);
/// Ticks between two flushes of the log.
const FLUSH_TICKS: u32 = 4;

/// One thread, asleep while nothing runs. Ends when dropped.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    runs: Vec<Arc<Watched>>,
    closing: bool,
}

struct Watched {
    engine: Engine,
    control: Arc<RunControl>,
    wall_time: Duration,
}

/// Keeps a run ticking until it is dropped.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    run: Arc<Watched>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticker {
    pub(crate) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("gristmill-tick".to_owned()).spawn(move || tick(&of_thread))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Ticks for a run until the answer is dropped.
    pub(crate) fn watch(&self, engine: &Engine, control: &Arc<RunControl>, wall_time: Duration) -> Watch {
        let run = Arc::new(Watched { engine: engine.clone(), control: Arc::clone(control), wall_time });
        self.shared.lock().runs.push(Arc::clone(&run));
        self.shared.changed.notify_all();
        Watch { shared: Arc::clone(&self.shared), run }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.lock().runs.retain(|run| !Arc::ptr_eq(run, &self.run));
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was already shown; there is nothing to add.
            _ = thread.join();
        }
    }
}

fn tick(shared: &Shared) {
    let mut runs = Vec::new();
    let mut count = 0u32;
    loop {
        count = count.wrapping_add(1);
        {
            let mut state = shared.lock();
            while state.runs.is_empty() && !state.closing {
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closing {
                return;
            }
            runs.clone_from(&state.runs);
        }
        for run in runs.drain(..) {
            run.engine.increment_epoch();
            if count.is_multiple_of(FLUSH_TICKS)
                && let Some(log) = run.control.log.get()
            {
                log.try_flush();
            }
            run.control.check_stuck(run.wall_time);
        }
        std::thread::sleep(TICK);
    }
}

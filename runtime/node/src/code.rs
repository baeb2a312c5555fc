//! Compiled code: found in the cache, or made once by a killable child.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use gristmill_executor::{
    CompileFailure, Confiner, compile, compiled_key,
    request::{CompileRequest, CompileSpec, StopReason},
};
use gristmill_protocol::{Digest, Limits, Outcome, Reason, limits::SLOT_CPUS_MILLI, module::ModuleWorld};
use tokio::sync::watch;

use crate::{
    cache::{Cache, CodeKey, FoundCode, Kind, OpenCode, Pinned},
    places::Places,
    room::Reserved,
    verdicts::Verdicts,
};

/// A module and the way in which it is to be compiled.
#[derive(Debug, Clone)]
pub(crate) struct CodeSpec {
    pub(crate) module: Digest,
    pub(crate) world: ModuleWorld,
    pub(crate) limits: Limits,
    pub(crate) reproducible: bool,
}

impl CodeSpec {
    fn key(&self) -> String {
        compiled_key(&self.module, self.limits.metering, self.reproducible)
    }
}

/// For whom a module is compiled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Customer<'a> {
    pub(crate) tenant: &'a str,
    /// The attempt's part of the node's room, where there is one.
    pub(crate) reserved: Option<&'a Arc<Reserved>>,
}

/// Compiled code in the cache, and what it took to have it there.
#[derive(Debug)]
pub(crate) struct Code {
    /// Counts as used while it is.
    pub(crate) _pinned: Pinned,
    /// The name of this code: equal keys, equal code.
    pub(crate) key: String,
    /// The code, open for reading.
    pub(crate) file: Arc<std::fs::File>,
    pub(crate) compile_us: u64,
    pub(crate) is_cache_hit: bool,
}

impl Code {
    fn of(open: OpenCode, key: String, compile_us: Option<u64>) -> Self {
        Self {
            _pinned: open.pinned,
            key,
            file: open.file,
            compile_us: compile_us.unwrap_or(0),
            is_cache_hit: compile_us.is_none(),
        }
    }
}

/// Makes compiled code.
pub(crate) struct Compiler {
    cache: Arc<Cache>,
    confiner: Arc<Confiner>,
    key: Arc<CodeKey>,
    places: Places,
    verdicts: Arc<Verdicts>,
}

/// Does what waits for the disk off the reactor.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl Compiler {
    /// Compiled code lies in `cache`; the secret by which the node knows it as its own in `key_file`,
    /// which is made if need be. Blocks.
    pub(crate) fn open(cache: Arc<Cache>, confiner: Arc<Confiner>, key_file: &Path) -> io::Result<Self> {
        let key = Arc::new(CodeKey::load_or_make(key_file)?);
        let verdicts = Arc::new(Verdicts::open(cache.verdicts_file()));
        Ok(Self { cache, confiner, key, places: Places::of_this_machine(), verdicts })
    }

    /// Compiled code that is there already, for certain this node's own.
    pub(crate) async fn find(&self, spec: &CodeSpec) -> Option<Code> {
        let key = spec.key();
        match self.cache.open_code(&key)? {
            FoundCode::Known(open) => Some(Code::of(open, key, None)),
            FoundCode::Unchecked(_) => {
                let _flight = self.cache.flight(Kind::Code, &key).await;
                self.find_in_flight(&key).await
            }
        }
    }

    /// The same for who has the flight.
    async fn find_in_flight(&self, key: &str) -> Option<Code> {
        let open = match self.cache.open_code(key)? {
            FoundCode::Known(open) => open,
            FoundCode::Unchecked(open) => {
                let (cache, secret) = (Arc::clone(&self.cache), Arc::clone(&self.key));
                blocking(move || Ok(cache.check_code(&secret, open))).await.ok()??
            }
        };
        Some(Code::of(open, key.to_owned(), None))
    }

    /// Compiles the module at `wasm` unless somebody else just did. Who needs the same code waits, and so
    /// does whose tenant has another module compiled.
    ///
    /// Dropping the future or a stop kills the child; its places and the room that it took are free when it
    /// is gone. What went wrong with the module is an outcome and is remembered; what was stopped is not.
    /// The module's complexity is not looked at: the server did that when it was published, and the digest
    /// says that it is the same module.
    pub(crate) async fn compile(
        &self,
        customer: Customer<'_>,
        spec: &CodeSpec,
        wasm: PathBuf,
        stop: watch::Receiver<Option<StopReason>>,
    ) -> Result<Code, Outcome> {
        let key = spec.key();
        if let Some(outcome) = self.verdicts.remembered(&key, &spec.limits) {
            return Err(outcome);
        }
        // Before the flight: who waits behind another module of its tenant's keeps nobody from this one.
        let of_tenant = self.places.of_tenant(customer.tenant).await;
        let _flight = self.cache.flight(Kind::Code, &key).await;
        if let Some(code) = self.find_in_flight(&key).await {
            return Ok(code);
        }
        if let Some(outcome) = self.verdicts.remembered(&key, &spec.limits) {
            return Err(outcome);
        }
        let of_node = self.places.of_node().await;
        // The same for every job: what comes of it is remembered for all.
        let cpus_milli = SLOT_CPUS_MILLI;
        let memory_bytes = spec.limits.compile_memory_bytes;
        let raised = customer.reserved.map(|reserved| reserved.raise(cpus_milli, memory_bytes));
        let output = self.cache.temp_path();
        let wasm = blocking(move || std::fs::File::open(wasm)).await;
        let request = CompileRequest {
            spec: CompileSpec {
                world: spec.world,
                metering: spec.limits.metering,
                reproducible: spec.reproducible,
                time_ms: spec.limits.compile_time_ms,
                memory_bytes,
            },
            cpus_milli,
            wasm: wasm.map_err(|error| node_failed_by("open the module", &error))?,
            output: output.clone(),
            held: Box::new((raised, of_node, of_tenant)),
        };
        let began = Instant::now();
        let result = compile(&self.confiner, request, stop).await;
        let spent_us = began.elapsed().as_micros() as u64;
        match result {
            Ok(compile_us) => {
                let (cache, secret, name) = (Arc::clone(&self.cache), Arc::clone(&self.key), key.clone());
                blocking(move || cache.keep_code(&secret, &name, &output))
                    .await
                    .map(|open| Code::of(open, key, Some(compile_us)))
                    .map_err(|error| node_failed_by("keep the compiled code", &error))
            }
            Err(CompileFailure { mut outcome, was_starved }) => {
                outcome.usage.compile_us.get_or_insert(spent_us);
                if was_starved {
                    tracing::warn!(module = %spec.module, "a compilation had too little CPU time to be judged");
                } else {
                    self.remember(key, spec, &outcome).await;
                }
                Err(outcome)
            }
        }
    }

    async fn remember(&self, key: String, spec: &CodeSpec, outcome: &Outcome) {
        let (verdicts, limits, outcome) = (Arc::clone(&self.verdicts), spec.limits.clone(), outcome.clone());
        let noting = blocking(move || {
            verdicts.remember(&key, &limits, &outcome);
            Ok(())
        });
        if let Err(error) = noting.await {
            tracing::warn!(%error, "a failed compilation is not remembered");
        }
    }
}

/// An outcome for what is the node's own fault; it is tried again elsewhere. The details stay in
/// the node's log: they may name host paths.
pub(crate) fn node_failed(doing: &str, error: &dyn std::fmt::Display) -> Outcome {
    tracing::error!(%error, "failed to {doing}");
    Outcome::failed(Reason::ExecutorCrashed, format!("the node failed to {doing}"))
}

/// Like [`node_failed`], with the system's own words for what went wrong: they name no paths.
pub(crate) fn node_failed_by(doing: &str, error: &std::io::Error) -> Outcome {
    let cause = match error.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code).to_string(),
        None => error.kind().to_string(),
    };
    tracing::error!(%error, "failed to {doing}");
    Outcome::failed(Reason::ExecutorCrashed, format!("the node failed to {doing}: {cause}"))
}

#[cfg(test)]
#[path = "code_tests.rs"]
mod tests;

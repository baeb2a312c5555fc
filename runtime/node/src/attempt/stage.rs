//! Before the start: bytes come to the node, are laid out, and the module is compiled.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use gristmill_protocol::{
    Outcome, Reason, Usage, WorkPhase,
    job::InputKind,
    node_api::{BlobGrant, InputGrant},
};

use tracing::Instrument as _;

use super::{
    Attempt, Halt,
    layout::{LayoutError, Mount, StagedInput, lay_out},
    spans,
    store_outputs::refusal,
    us_since,
};
use crate::{
    cache::{FetchError, Pinned, fetch_blob, fetch_tree},
    clock::Moment,
    code::{Code, CodeSpec, Customer, node_failed_by},
    room::Reserved,
};

/// Blobs of one attempt that come at the same time.
const TRANSFERS_MAX: usize = 4;

/// All that a guest needs to start.
pub(super) struct Prepared {
    pub(super) code: Code,
    pub(super) stdin: Option<Pinned>,
    pub(super) mounts: Vec<Mount>,
    pub(super) usage: Usage,
    /// The mounts point into these.
    _inputs: Vec<Pinned>,
}

struct Staged {
    /// Compiled code, or the module to compile.
    code: Result<Code, Pinned>,
    stdin: Option<Pinned>,
    inputs: Vec<Pinned>,
    mounts: Vec<Mount>,
}

/// Tells a blocking copy to end when the future that waits for it is dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Attempt {
    /// Stages and compiles. Dropping the future gives both up; a compiler keeps what is reserved until it is
    /// gone.
    pub(super) async fn prepare(&self, reserved: &Arc<Reserved>) -> Result<Prepared, Halt> {
        let began = Moment::now();
        let spec = CodeSpec {
            module: self.grant.module,
            world: self.grant.world,
            limits: self.grant.limits.clone(),
            reproducible: self.grant.reproducible,
        };
        let allowed = Duration::from_millis(self.grant.limits.stage_time_ms);
        let staged =
            tokio::time::timeout(allowed, self.stage(&spec).instrument(spans::phase(WorkPhase::Staging)))
                .await
                .unwrap_or_else(|_| Err(self.stage_timeout().into()))?;
        let mut usage = Usage {
            stage_us: Some(us_since(began)),
            input_bytes: Some(self.input_bytes()),
            ..Usage::default()
        };
        let code = match staged.code {
            Ok(code) => code,
            Err(module) => {
                self.lease.enter(WorkPhase::Compiling);
                let stop = self.lease.stop_signal();
                let customer = Customer { tenant: &self.grant.tenant, reserved: Some(reserved) };
                let compiling = self.services.compiler.compile(customer, &spec, module.path(), stop);
                let compiled = compiling.instrument(spans::phase(WorkPhase::Compiling)).await;
                compiled.map_err(|mut outcome| {
                    outcome.usage.stage_us = usage.stage_us;
                    outcome.usage.input_bytes = usage.input_bytes;
                    outcome
                })?
            }
        };
        usage.compile_us = Some(code.compile_us);
        usage.compile_cache_hit = Some(code.is_cache_hit);
        Ok(Prepared { code, stdin: staged.stdin, mounts: staged.mounts, usage, _inputs: staged.inputs })
    }

    fn input_bytes(&self) -> u64 {
        let stdin = self.grant.stdin.as_ref().map_or(0, |blob| blob.size);
        stdin + self.grant.inputs.iter().map(|input| input.blob.size).sum::<u64>()
    }

    fn stage_timeout(&self) -> Outcome {
        let limit_ms = self.grant.limits.stage_time_ms;
        Outcome::failed(Reason::StageTimeout, format!("staging took longer than {limit_ms} ms"))
    }

    async fn stage(&self, spec: &CodeSpec) -> Result<Staged, Halt> {
        let code = if let Some(code) = self.services.compiler.find(spec).await {
            Ok(code)
        } else {
            let module = BlobGrant { digest: self.grant.module, size: self.grant.module_size };
            Err(self.fetch(&module, InputKind::File, "the module").await?)
        };
        let stdin = match &self.grant.stdin {
            Some(blob) => Some(self.fetch(blob, InputKind::File, "stdin").await?),
            None => None,
        };
        let fetches: Vec<BoxFuture<'_, _>> = self
            .grant
            .inputs
            .iter()
            .map(|input| self.fetch(&input.blob, input.kind, &input.guest_path).boxed())
            .collect();
        let inputs: Vec<Pinned> = stream::iter(fetches).buffered(TRANSFERS_MAX).try_collect().await?;
        let staged = self.grant.inputs.iter().zip(&inputs).map(|(input, pinned)| place(input, pinned));
        let mounts = self.make_directory(staged.collect()).await?;
        Ok(Staged { code, stdin, inputs, mounts })
    }

    async fn fetch(&self, blob: &BlobGrant, kind: InputKind, what: &str) -> Result<Pinned, Halt> {
        let (cache, client) = (&self.services.cache, &self.services.client);
        let lease = self.lease.reference();
        let fetched = match kind {
            InputKind::Tree => fetch_tree(cache, client, lease, &self.grant.tenant, blob).await,
            _ => fetch_blob(cache, client, lease, blob).await,
        };
        fetched.map_err(|error| {
            let failed = |reason| Outcome::failed(reason, format!("{what}: {error}")).into();
            match &error {
                FetchError::LeaseLost => Halt::LeaseLost,
                // Bytes that are no tree are not the input that the job names.
                FetchError::Missing(_) | FetchError::NoTree(_) => failed(Reason::InputMissing),
                FetchError::Mismatch(_) => failed(Reason::DigestMismatch),
                FetchError::Refused { code, .. } => failed(refusal(*code)),
                FetchError::Disk(_, error) => node_failed_by(&format!("store {what}"), error).into(),
            }
        })
    }

    async fn make_directory(&self, inputs: Vec<StagedInput>) -> Result<Vec<Mount>, Halt> {
        let dir = Arc::clone(&self.dir);
        let stop = Arc::new(AtomicBool::new(false));
        let _stop = StopOnDrop(Arc::clone(&stop));
        let work = move || {
            dir.provide()?;
            lay_out(dir.path(), &inputs, &stop)
        };
        let laid_out = tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|panic| Err(LayoutError::Io(io::Error::other(panic))));
        laid_out.map_err(|error| match error {
            LayoutError::Path(text) => Outcome::failed(Reason::InputMissing, text).into(),
            LayoutError::Io(error) => node_failed_by("lay out the inputs", &error).into(),
        })
    }
}

fn place(input: &InputGrant, pinned: &Pinned) -> StagedInput {
    StagedInput {
        guest_path: input.guest_path.clone(),
        source: pinned.path(),
        kind: input.kind,
        mode: input.mode,
    }
}

//! Accept a job into the queue.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use gristmill_lifecycle::{
    command::{SubmitJob, SubmitKey, SubmitReply},
    placement::ClassSpec,
};
use gristmill_protocol::{
    Digest, ErrorCode, FieldError, JobId, JobSpec, JobView, Limits,
    audit::AuditOperation,
    job::{BlobSource, InputKind, InputMode, ModuleRef},
    limits::INLINE_BYTES_MAX,
    node_api::{BlobGrant, InputGrant},
    tenancy::Scope,
};
use sha2::{Digest as _, Sha256};

use super::resolve_module::resolve_module;
use crate::{
    app::App,
    blob::StoredBlob,
    document::{JobDocument, job_view, visible_job},
    error::ApiError,
    job_rules::{PARAMS_PATH, check_params, check_spec, invalid},
    placement::check_runnable,
    principal::Principal,
    spans,
    store::module::ResolvedModule,
    trace::submit_trace,
};

const KEY_BYTES_MAX: usize = 255;

/// What became of a submit.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    /// The job.
    pub job: JobView,
    /// Whether this call made it; false when the same idempotency key made it before.
    pub created: bool,
}

/// A spec that was looked through: what the queue needs to know of it.
pub(super) struct Prepared {
    pub(super) document: JobDocument,
    pub(super) class: ClassSpec,
    /// What came inline, not stored yet.
    pub(super) inline: Inline,
}

/// What was found out for earlier jobs of the same call.
#[derive(Debug, Default)]
pub(super) struct Known {
    modules: HashMap<String, Arc<ResolvedModule>>,
    runnable: HashSet<ClassSpec>,
}

impl Known {
    async fn module(
        &mut self,
        app: &App,
        who: &Principal,
        reference: &str,
    ) -> Result<Arc<ResolvedModule>, ApiError> {
        if let Some(module) = self.modules.get(reference) {
            return Ok(Arc::clone(module));
        }
        let module = Arc::new(resolve_module(app, who, reference).await?);
        self.modules.insert(reference.to_owned(), Arc::clone(&module));
        Ok(module)
    }

    /// Fails with `never_runnable` when nothing that is there can ever run jobs of the class.
    pub(super) async fn check_runnable(
        &mut self,
        app: &App,
        who: &Principal,
        class: &ClassSpec,
    ) -> Result<(), ApiError> {
        if !self.runnable.contains(class) {
            check_runnable(app, who, class).await?;
            self.runnable.insert(class.clone());
        }
        Ok(())
    }
}

/// Bytes that came inline, with their digests.
type Inline = Vec<(Digest, Bytes)>;

/// Accepts a job. Needs the scope `submit`. The job is durable when this returns, and it is accepted
/// all the same when the caller stops waiting. With the same idempotency key and spec again, the
/// answer is the same job; with another spec, `idempotency_key_mismatch`. A full queue is
/// `queue_full`, a job that nothing present can ever run is `never_runnable`. Inline bytes are
/// stored when all checks have passed; only a full queue and a mismatch of the key that another
/// call brought about at the same moment are found later.
pub async fn submit_job(
    app: &App,
    who: &Principal,
    mut spec: JobSpec,
    idempotency_key: Option<String>,
) -> Result<Submitted, ApiError> {
    who.require(Scope::Submit)?;
    // A submit that is repeated comes with a span of its own, and is the same request all the same.
    let trace = spec.traceparent.take();
    let request = serde_json::to_vec(&spec).map_err(ApiError::internal)?;
    spec.traceparent = trace;
    let key = submit_key(idempotency_key, &request)?;
    if let Some(key) = &key
        && let Some(known) =
            app.store.idempotency_find(&who.tenant, std::slice::from_ref(&key.key)).await?.remove(&key.key)
    {
        // A repeated submit gets its job whatever has become of the module and the nodes meanwhile.
        let same = known.request == key.request;
        return told(
            app,
            who,
            if same { SubmitReply::Existing(known.job) } else { SubmitReply::KeyMismatch },
        )
        .await;
    }
    let mut known = Known::default();
    let prepared = prepare(app, who, spec, &mut known).await?;
    known.check_runnable(app, who, &prepared.class).await?;
    let depth = tenant_depth(app, &who.tenant).await?;
    // Held until the store has the command, whose rows keep the bytes from then on.
    let stored = store_inline(app, prepared.inline).await?;
    let blobs = stored.iter().map(|blob| (blob.digest, blob.size)).collect();
    accept(app, who, command(app, who, (key, prepared.class, depth), &prepared.document, blobs)?).await
}

/// The command that accepts a job which was looked through, under its key and within the depth of its
/// tenant's queue.
pub(super) fn command(
    app: &App,
    who: &Principal,
    (key, class, queue_depth_tenant_max): (Option<SubmitKey>, ClassSpec, u64),
    document: &JobDocument,
    blobs: Vec<(Digest, u64)>,
) -> Result<SubmitJob, ApiError> {
    Ok(SubmitJob {
        id: JobId::from_parts(app.unix_ms(), app.entropy.bytes()),
        tenant: who.tenant.clone(),
        actor: who.token.to_string(),
        key,
        class,
        priority: document.spec.priority,
        retries: document.spec.retries,
        retry_on: document.spec.retry_on.clone(),
        queue_timeout: document.spec.queue_timeout_ms.map(Duration::from_millis),
        deadline: document.spec.deadline_ms.map(Duration::from_millis),
        document: document.write()?,
        blobs,
        inputs: document.reads(),
        queue_depth_tenant_max,
        retry_of: None,
    })
}

/// Most waiting jobs of a tenant.
pub(super) async fn tenant_depth(app: &App, tenant: &str) -> Result<u64, ApiError> {
    if let Some(max) = app.registry.tenant_depth(tenant) {
        return Ok(max);
    }
    let own = app.store.tenant_get(tenant).await?.map(|tenant| tenant.queue_depth_max);
    let max = own.unwrap_or(app.settings.queue_depth_tenant_max);
    app.registry.put_tenant_depth(tenant, max);
    Ok(max)
}

async fn told(app: &App, who: &Principal, reply: SubmitReply) -> Result<Submitted, ApiError> {
    match reply {
        SubmitReply::Created(job) => {
            let job = job_view(app, *job)?;
            let trace = submit_trace(app.sampling, &job.spec, job.id).trace_id();
            tracing::info!(job = %job.id, trace_id = trace, "the job was accepted");
            Ok(Submitted { job, created: true })
        }
        SubmitReply::Existing(id) => {
            Ok(Submitted { job: job_view(app, visible_job(app, who, id).await?)?, created: false })
        }
        refused => Err(refusal(&refused)),
    }
}

/// The job that a submit made, or had made before, and whether it is new.
pub(super) fn replied(reply: &SubmitReply) -> Option<(JobId, bool)> {
    match reply {
        SubmitReply::Created(job) => Some((job.id, true)),
        SubmitReply::Existing(job) => Some((*job, false)),
        SubmitReply::KeyMismatch | SubmitReply::TenantQueueFull { .. } | SubmitReply::QueueFull { .. } => {
            None
        }
    }
}

/// Why a submit made no job.
pub(super) fn refusal(reply: &SubmitReply) -> ApiError {
    match reply {
        SubmitReply::TenantQueueFull { max } => queue_full(format!(
            "{max} jobs of this tenant wait in the queue, which is as many as it may have"
        )),
        SubmitReply::QueueFull { max } => {
            queue_full(format!("{max} jobs wait in the queue, which is as many as it holds"))
        }
        SubmitReply::KeyMismatch | SubmitReply::Created(_) | SubmitReply::Existing(_) => key_mismatch(),
    }
}

pub(super) fn key_mismatch() -> ApiError {
    ApiError::new(
        ErrorCode::IdempotencyKeyMismatch,
        "this idempotency key was used before with another request",
    )
    .with_hint("use a new key for a new job, or send the very same request again")
}

fn queue_full(detail: String) -> ApiError {
    let mut error = ApiError::new(ErrorCode::QueueFull, detail)
        .with_hint("submit again after a while; jobs that were accepted are not affected");
    error.retry_after_s = Some(5);
    error
}

/// Checks an idempotency key, which stands for one request.
pub(super) fn submit_key(key: Option<String>, request: &[u8]) -> Result<Option<SubmitKey>, ApiError> {
    let Some(key) = key else { return Ok(None) };
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
    {
        return Err(ApiError::field("Idempotency-Key", "must be 1 to 255 visible ASCII characters"));
    }
    Ok(Some(SubmitKey { key, request: digest_of(request) }))
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Looks through a spec: checks every field, resolves the module, checks the params, takes the
/// digests of inline bytes, and checks that the tenant may see each blob. Nothing is stored.
pub(super) async fn prepare(
    app: &App,
    who: &Principal,
    mut spec: JobSpec,
    known: &mut Known,
) -> Result<Prepared, ApiError> {
    let limits = check_spec(&spec, app.settings.slot_default)?;
    let module = known.module(app, who, &spec.module).await?;
    if let Some(schema) = &module.metadata.params_schema {
        check_params(schema, spec.params.as_ref())?;
    }
    let mut inline = Vec::new();
    let mut asked = Vec::new();
    if let Some(stdin) = &mut spec.stdin {
        take_inline("/stdin", stdin, &mut inline, &mut asked)?;
    }
    for (index, input) in spec.inputs.iter_mut().enumerate() {
        take_inline(&format!("/inputs/{index}/source"), &mut input.source, &mut inline, &mut asked)?;
    }
    let params = match &spec.params {
        Some(params) => {
            let text = serde_json::to_vec(params).map_err(ApiError::internal)?;
            Some(digested(text, &mut inline))
        }
        None => None,
    };
    let sizes = visible_sizes(app, who, &asked, &inline).await?;
    let grant = |source: &BlobSource| match source {
        BlobSource::Digest(digest) => {
            BlobGrant { digest: *digest, size: sizes.get(digest).copied().unwrap_or_default() }
        }
        // Inline bytes were replaced by their digest above.
        BlobSource::Text(_) | BlobSource::Base64(_) => BlobGrant { digest: digest_of(b""), size: 0 },
    };
    let mut inputs: Vec<_> = spec
        .inputs
        .iter()
        .map(|input| InputGrant {
            guest_path: input.guest_path(),
            blob: grant(&input.source),
            kind: input.kind,
            mode: input.mode,
        })
        .collect();
    inputs.extend(params.map(|blob| InputGrant {
        guest_path: PARAMS_PATH.into(),
        blob,
        kind: InputKind::File,
        mode: InputMode::Ro,
    }));
    let stdin = spec.stdin.as_ref().map(grant);
    let class = class_of(who, &spec, &limits, &module);
    let document = document(spec, limits, &module, who, stdin, inputs);
    Ok(Prepared { document, class, inline })
}

fn class_of(who: &Principal, spec: &JobSpec, limits: &Limits, module: &ResolvedModule) -> ClassSpec {
    let mut features = module.metadata.features.clone();
    features.sort_unstable();
    features.dedup();
    ClassSpec {
        tenant: who.tenant.clone(),
        zone: spec.zone.clone(),
        labels: spec.labels.clone(),
        features,
        cpus_milli: limits.cpus_milli,
        memory_bytes: limits.memory_bytes,
        isolation: spec.isolation,
    }
}

fn document(
    spec: JobSpec,
    limits: Limits,
    module: &ResolvedModule,
    who: &Principal,
    stdin: Option<BlobGrant>,
    inputs: Vec<InputGrant>,
) -> JobDocument {
    let by_digest = spec.module.parse::<Digest>().is_ok();
    let name = if module.owner == who.tenant {
        module.name.clone()
    } else {
        format!("{}:{}", module.owner, module.name)
    };
    JobDocument {
        module: ModuleRef {
            name: (!by_digest).then_some(name),
            version: (!by_digest).then(|| module.version.clone()),
            digest: module.digest,
        },
        module_size: module.size,
        world: module.metadata.world,
        program: if by_digest { "module".into() } else { module.name.clone() },
        limits,
        stdin,
        inputs,
        spec,
    }
}

/// Takes inline bytes out of the spec and puts their digest in their place.
fn take_inline(
    pointer: &str,
    source: &mut BlobSource,
    inline: &mut Inline,
    asked: &mut Vec<(String, Digest)>,
) -> Result<(), ApiError> {
    let bytes = match source {
        BlobSource::Digest(digest) => {
            asked.push((pointer.to_owned(), *digest));
            return Ok(());
        }
        BlobSource::Text(text) => std::mem::take(text).into_bytes(),
        BlobSource::Base64(text) => STANDARD.decode(text.as_bytes()).map_err(|_| {
            ApiError::field(format!("{pointer}/base64"), "must be standard base64 with padding")
        })?,
    };
    if bytes.len() > INLINE_BYTES_MAX {
        return Err(ApiError::field(pointer, "must be at most 64 KiB inline")
            .with_hint("upload it as a blob first and name its digest"));
    }
    *source = BlobSource::Digest(digested(bytes, inline).digest);
    Ok(())
}

fn digested(bytes: Vec<u8>, inline: &mut Inline) -> BlobGrant {
    let grant = BlobGrant { digest: digest_of(&bytes), size: bytes.len() as u64 };
    inline.push((grant.digest, bytes.into()));
    grant
}

/// Makes inline bytes durable, each under its digest.
async fn store_inline(app: &App, inline: Inline) -> Result<Vec<StoredBlob>, ApiError> {
    let mut blobs = Vec::with_capacity(inline.len());
    for (digest, bytes) in inline {
        blobs.push(app.blobs.put_bytes(digest, bytes).await?);
    }
    Ok(blobs)
}

/// Gives a command to the store and says what became of it. An input that was removed since it was
/// looked for, which takes a caller that stopped for hours, is `not_found`.
pub(super) async fn accept(app: &App, who: &Principal, command: SubmitJob) -> Result<Submitted, ApiError> {
    let is_inline = |digest: &&Digest| command.blobs.iter().any(|(inline, _)| inline == *digest);
    let inputs: Vec<_> = command.inputs.iter().filter(|digest| !is_inline(digest)).copied().collect();
    let tenant = command.tenant.clone();
    let operation =
        if command.retry_of.is_some() { AuditOperation::JobRetry } else { AuditOperation::JobSubmit };
    let note = who.note(operation, command.id);
    let span = spans::submit(&tenant);
    match app.store.audited(note).job_submit(command).await {
        Ok(reply) => {
            spans::accepted(&span, app.sampling, &reply);
            drop(span);
            told(app, who, reply).await
        }
        Err(error) => {
            let there = app.store.blob_visible(&tenant, &inputs).await?;
            match inputs.iter().find(|digest| !there.contains_key(digest)) {
                Some(digest) => Err(ApiError::not_found("input")
                    .with_hint(format!("upload {digest} again: PUT /v1/blobs/{{digest}}"))),
                None => Err(error.into()),
            }
        }
    }
}

/// The sizes of all blobs that a spec names. A blob that the tenant may not see is `not_found`.
async fn visible_sizes(
    app: &App,
    who: &Principal,
    asked: &[(String, Digest)],
    inline: &[(Digest, Bytes)],
) -> Result<HashMap<Digest, u64>, ApiError> {
    let digests: Vec<_> = asked.iter().map(|(_, digest)| *digest).collect();
    let mut sizes = app.store.blob_visible(&who.tenant, &digests).await?;
    sizes.extend(inline.iter().map(|(digest, bytes)| (*digest, bytes.len() as u64)));
    let missing: Vec<_> = asked
        .iter()
        .filter(|(_, digest)| !sizes.contains_key(digest))
        .map(|(pointer, digest)| FieldError {
            pointer: pointer.clone(),
            detail: format!("there is no blob {digest}, or this token may not see it"),
        })
        .collect();
    if missing.is_empty() {
        return Ok(sizes);
    }
    let mut error = invalid(missing).with_hint("upload the bytes first: PUT /v1/blobs/{digest}");
    error.code = ErrorCode::NotFound;
    Err(error)
}

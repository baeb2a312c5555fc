//! Give a node work.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use gristmill_lifecycle::{
    command::{AcquireLeases, EndLeases, LeaseGranted},
    placement::{Refusal, Room, ZoneProfile, zone_refusals},
};
use gristmill_protocol::{
    ErrorCode, JobId, NodeId,
    node_api::{AcquireGrant, AcquireRequest, LeaseGrant},
};

use crate::{
    app::App,
    document::JobDocument,
    error::ApiError,
    placement::{node_profile, zone_profile},
    principal::NodePrincipal,
    registry::Registry,
    spans,
    trace::attempt_trace,
    wake::Topic,
};

/// Most leases in one answer.
const LEASES_MAX: u32 = 256;
const INCARNATION_BYTES_MAX: usize = 128;

/// Grants leases for what is free on the node, at once or as soon as a fitting job is ready within
/// the time that the node waits. Leases of an earlier start of the node process end first. A node
/// that drains gets nothing. A lease granted to a node whose call is gone is given back. A job that is
/// asked for by name and that the node's zone may not know of is `not_found`, as one that does not exist.
pub async fn acquire_leases(
    app: &App,
    node: &NodePrincipal,
    request: AcquireRequest,
) -> Result<AcquireGrant, ApiError> {
    check_incarnation(app, node, &request)?;
    end_former_leases(app, node.node, &request.incarnation).await?;
    let nothing = |drain| AcquireGrant { leases: Vec::new(), drain };
    let (drain, idle) = node_wishes(&app.registry, node.node);
    let (Some(zone), Some(profile)) =
        (zone_profile(app, &node.zone), node_profile(&app.registry, node.node, &request.incarnation))
    else {
        return Ok(nothing(drain));
    };
    if let Some(job) = request.job {
        check_named(app, job, &zone).await?;
    }
    if idle || request.leases_max == 0 || app.shutdown.is_cancelled() {
        return Ok(nothing(drain));
    }
    let command = AcquireLeases {
        node: node.node,
        zone,
        profile,
        incarnation: request.incarnation,
        free: Room { cpus_milli: request.cpus_milli_free, memory_bytes: request.memory_bytes_free },
        leases_max: request.leases_max.min(LEASES_MAX),
        job: request.job,
    };
    let wait = Duration::from_millis(request.wait_ms).min(app.settings.long_poll_max);
    let hold = (!wait.is_zero()).then(|| hold(app, node, &command, wait));
    let granted = app.store.lease_acquire(command, hold).await?;
    let mut leases = Vec::with_capacity(granted.len());
    for lease in granted {
        leases.push(lease_grant(app, node, lease).await?);
    }
    Ok(AcquireGrant { leases, drain: node_wishes(&app.registry, node.node).0 })
}

fn check_incarnation(app: &App, node: &NodePrincipal, request: &AcquireRequest) -> Result<(), ApiError> {
    if request.incarnation.is_empty() || request.incarnation.len() > INCARNATION_BYTES_MAX {
        return Err(ApiError::field("/incarnation", "must be 1 to 128 bytes long"));
    }
    match app.registry.with_node(node.node, |live| live.is_former(&request.incarnation)) {
        Some(true) => {
            Err(ApiError::new(ErrorCode::Conflict, "another process of this node has replaced this one")
                .with_hint("stop this process; two machines must not share one node's key"))
        }
        _ => Ok(()),
    }
}

/// A node knows only of jobs that may come into its zone, also by name.
async fn check_named(app: &App, job: JobId, zone: &ZoneProfile) -> Result<(), ApiError> {
    let class = match app.store.job_get(job).await? {
        Some(job) => app.store.class_get(job.class).await?,
        None => None,
    };
    let hides =
        |refusal: &Refusal| matches!(refusal, Refusal::OtherZone { .. } | Refusal::TenantNotAdmitted { .. });
    match class {
        Some(class) if !zone_refusals(&class, zone).iter().any(hides) => Ok(()),
        _ => Err(ApiError::not_found("job")),
    }
}

/// Whether an operator asked the node to drain, and whether it takes no work for any reason.
fn node_wishes(registry: &Registry, node: NodeId) -> (bool, bool) {
    registry
        .with_node(node, |live| {
            let record = &live.record;
            (record.drain, record.drain || record.draining || record.revoked_at.is_some())
        })
        .unwrap_or((false, true))
}

/// Resolves when a claim should wait no longer: the time is over, the server stops, the node takes no
/// more work, or what the claim was made under has changed.
fn hold(app: &App, node: &NodePrincipal, command: &AcquireLeases, wait: Duration) -> BoxFuture<'static, ()> {
    let (profile, incarnation) = (command.profile.clone(), command.incarnation.clone());
    let mut news = app.wakes.listen(Topic::Node(node.node));
    let shutdown = app.shutdown.clone();
    let registry = Arc::clone(&app.registry);
    let (id, zone) = (node.node, node.zone.clone());
    let version = registry.zone(&zone).map(|zone| zone.version);
    Box::pin(async move {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return,
                () = shutdown.cancelled() => return,
                () = news.woken() => {
                    if node_wishes(&registry, id).1
                        || node_profile(&registry, id, &incarnation).as_ref() != Some(&profile)
                        || registry.zone(&zone).map(|zone| zone.version) != version
                    {
                        return;
                    }
                }
            }
        }
    })
}

/// Ends leases that an earlier start of the node process holds: that process is gone.
async fn end_former_leases(app: &App, node: NodeId, incarnation: &str) -> Result<(), ApiError> {
    let held = app.store.lease_of_node(node).await?;
    let attempts: Vec<_> =
        held.into_iter().filter(|(_, holder)| holder != incarnation).map(|(key, _)| key).collect();
    if !attempts.is_empty() {
        let incarnation_kept = Some(incarnation.to_owned());
        let command = EndLeases { node, attempts, incarnation_kept, actor: node.to_string() };
        app.store.lease_end(command).await?;
    }
    Ok(())
}

async fn lease_grant(app: &App, node: &NodePrincipal, lease: LeaseGranted) -> Result<LeaseGrant, ApiError> {
    let text = match &lease.document {
        Some(text) => Arc::clone(text),
        None => app.store.job_document(lease.job).await?.ok_or_else(|| ApiError::not_found("job"))?,
    };
    let document = JobDocument::read(&text)?;
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let _span = spans::lease(app.sampling, node, &lease, &document.spec);
    let trace = attempt_trace(app.sampling, &document.spec, lease.job, lease.attempt);
    tracing::debug!(job = %lease.job, attempt = lease.attempt, trace_id = trace.trace_id(), "leased");
    let left_ms = |at: gristmill_protocol::Timestamp| {
        u64::try_from(at.as_millisecond() - app.clock.now().as_millisecond()).unwrap_or(0)
    };
    Ok(LeaseGrant {
        job: lease.job,
        attempt: lease.attempt,
        fence: lease.fence,
        lease_token: lease.token,
        ttl_ms: ms(app.settings.lease_ttl),
        renew_ms: ms(app.settings.lease_renew),
        stop_ms: ms(app.settings.lease_stop),
        tenant: lease.tenant,
        module: document.module.digest,
        module_size: document.module_size,
        world: document.world,
        program: document.program,
        args: document.spec.args,
        env: document.spec.env,
        bare_env: document.spec.bare_env,
        stdin: document.stdin,
        inputs: document.inputs,
        limits: document.limits,
        success_exit_codes: document.spec.success_exit_codes,
        reproducible: document.spec.reproducible,
        deadline_left_ms: lease.deadline_at.map(left_ms),
        deadline_text: lease.deadline_at.map(|at| at.to_string()),
        traceparent: Some(trace.to_string()),
    })
}

//! What nodes and the server send to each other: reading never panics, and what was read is written
//! and read again as the same.
//!
//! The first byte of an input says what the rest is.
#![no_main]

use gristmill_protocol::{
    Digest, NodeId, Outcome, Problem,
    node_api::{
        AcquireGrant, AcquireRequest, AttemptChange, AttemptReport, AttemptUpdate, EnrollGrant,
        EnrollRequest, HeartbeatGrant, HeartbeatRequest, LeaseGrant, RenewGrant, RenewRequest, UpdatesGrant,
        UpdatesRequest, WatchGrant, WatchRequest, parse_signature_params, signature_base, signature_params,
    },
};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fn message<T: Serialize + DeserializeOwned>(json: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(json) else { return };
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    let twice = serde_json::to_vec(&again).expect("and written again");
    assert_eq!(written, twice, "a message changes on the way");
}

/// Texts of identities: one text for one value.
fn identity(text: &str) {
    if let Ok(id) = text.parse::<NodeId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
}

/// The signature headers of a request, one a line: method, path, query, digest, lease, parameters.
fn signature(text: &str) {
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (method, path, query) = (line(), line(), line());
    let digest = Some(line()).filter(|value| !value.is_empty());
    let lease = Some(line()).filter(|value| !value.is_empty());
    let params = line();
    let Some(read) = parse_signature_params(params, digest.is_some(), lease.is_some()) else { return };
    let written =
        signature_params(digest.is_some(), lease.is_some(), read.created_unix_s, read.nonce, &read.node);
    assert_eq!(written, params, "only the canonical text is accepted");
    assert!(parse_signature_params(params, digest.is_none(), lease.is_some()).is_none());
    assert!(parse_signature_params(params, digest.is_some(), lease.is_none()).is_none());
    // Each part stands on a line of its own, so that no request passes for another.
    let base = signature_base(method, path, query, digest, lease, params);
    assert_eq!(base.lines().count(), 4 + usize::from(digest.is_some()) + usize::from(lease.is_some()));
    assert!(base.ends_with(params));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind {
        b'a' => message::<EnrollRequest>(rest),
        b'b' => message::<EnrollGrant>(rest),
        b'c' => message::<HeartbeatRequest>(rest),
        b'd' => message::<HeartbeatGrant>(rest),
        b'e' => message::<AcquireRequest>(rest),
        b'f' => message::<AcquireGrant>(rest),
        b'g' => message::<LeaseGrant>(rest),
        b'h' => message::<RenewRequest>(rest),
        b'i' => message::<RenewGrant>(rest),
        b'j' => message::<WatchRequest>(rest),
        b'k' => message::<WatchGrant>(rest),
        b'l' => message::<UpdatesRequest>(rest),
        b'm' => message::<UpdatesGrant>(rest),
        b'n' => message::<AttemptUpdate>(rest),
        b'o' => message::<AttemptChange>(rest),
        b'p' => message::<AttemptReport>(rest),
        b'q' => message::<Outcome>(rest),
        b'r' => message::<Problem>(rest),
        b's' => std::str::from_utf8(rest).map(signature).unwrap_or_default(),
        b't' => std::str::from_utf8(rest).map(identity).unwrap_or_default(),
        _ => {}
    }
});

//! The text that a node signs with each request (RFC 9421), and its parameters.

use crate::NodeId;

/// Header that carries the token of the attempt's lease.
pub const LEASE_HEADER: &str = "gristmill-lease";
/// Parameters of the request signature (RFC 9421 section 4.1).
pub const SIGNATURE_INPUT_HEADER: &str = "signature-input";
/// The request signature (RFC 9421 section 4.2).
pub const SIGNATURE_HEADER: &str = "signature";
/// Digest of the request's body (RFC 9530); signed with every JSON or log body. Blob bodies are
/// covered by the digest in their path.
pub const CONTENT_DIGEST_HEADER: &str = "content-digest";
/// How far a signature's `created` may lie from the server's clock, in seconds.
pub const SIGNATURE_SKEW_SECONDS: i64 = 300;

/// The text that is signed: the signature base of RFC 9421 section 2.5 over `@method`, `@path`,
/// `@query` and, if there is one, `content-digest` and the lease header.
///
/// `query` has no leading question mark. `params` is the exact text that follows `sig1=` in the
/// `signature-input` header; build it with [`signature_params`].
pub fn signature_base(
    method: &str,
    path: &str,
    query: &str,
    content_digest: Option<&str>,
    lease: Option<&str>,
    params: &str,
) -> String {
    use std::fmt::Write;
    let mut base = format!("\"@method\": {method}\n\"@path\": {path}\n\"@query\": ?{query}\n");
    if let Some(value) = content_digest {
        let _ = writeln!(base, "\"{CONTENT_DIGEST_HEADER}\": {value}");
    }
    if let Some(value) = lease {
        let _ = writeln!(base, "\"{LEASE_HEADER}\": {value}");
    }
    let _ = write!(base, "\"@signature-params\": {params}");
    base
}

/// The signature parameters: covered components, creation time in seconds since 1970 by the
/// server's clock as the node knows it, a nonce of at least 16 random bytes in hex, and the node's id.
pub fn signature_params(
    has_content_digest: bool,
    has_lease: bool,
    created_unix_s: i64,
    nonce: &str,
    node: &NodeId,
) -> String {
    let mut components = String::from("\"@method\" \"@path\" \"@query\"");
    if has_content_digest {
        components.push_str(" \"content-digest\"");
    }
    if has_lease {
        components.push_str(" \"gristmill-lease\"");
    }
    format!("({components});created={created_unix_s};nonce=\"{nonce}\";keyid=\"{node}\";alg=\"ed25519\"")
}

/// What the signature parameters say, apart from the covered components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureParams<'a> {
    /// Creation time in seconds since 1970, by the server's clock as the node knows it.
    pub created_unix_s: i64,
    /// 16 to 64 random bytes in hex.
    pub nonce: &'a str,
    /// The node that signed.
    pub node: NodeId,
}

/// Reads signature parameters, whatever the text is. `None` unless the text is exactly the one that
/// [`signature_params`] makes for a request with these headers, so that nothing that is present goes
/// unsigned.
pub fn parse_signature_params(
    text: &str,
    has_content_digest: bool,
    has_lease: bool,
) -> Option<SignatureParams<'_>> {
    let after = |name: &str| text.split_once(name).map(|(_, rest)| rest);
    let quoted = |name: &str| after(name)?.split_once('"').map(|(value, _)| value);
    let created_unix_s = after(";created=")?.split_once(';')?.0.parse().ok()?;
    let nonce = quoted(";nonce=\"")?;
    let node = quoted(";keyid=\"")?.parse().ok()?;
    let is_nonce = (32..=128).contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_hexdigit());
    let canonical = signature_params(has_content_digest, has_lease, created_unix_s, nonce, &node);
    (is_nonce && canonical == text).then_some(SignatureParams { created_unix_s, nonce, node })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_back_only_from_their_own_exact_text() {
        let node = NodeId::from_parts(1, [7; 10]);
        let nonce = "0123456789abcdef0123456789abcdef";
        let text = signature_params(true, false, 1_700_000_000, nonce, &node);
        let read = parse_signature_params(&text, true, false).expect("its own text");
        assert_eq!(read, SignatureParams { created_unix_s: 1_700_000_000, nonce, node });
        assert_eq!(parse_signature_params(&text, true, true), None, "a header would go unsigned");
        assert_eq!(parse_signature_params(&text, false, false), None, "a header is missing");
        for (from, to) in
            [("created=17", "created=+17"), ("0123", "zzzz"), (";alg=", "; alg="), ("(\"@m", "( \"@m")]
        {
            assert_eq!(parse_signature_params(&text.replace(from, to), true, false), None, "{to}");
        }
        assert_eq!(parse_signature_params("", false, false), None);
    }
}

//! The node's Ed25519 key and the request signatures made with it (RFC 9421, RFC 8032).

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use gristmill_protocol::{
    NodeId,
    node_api::{
        CONTENT_DIGEST_HEADER, LEASE_HEADER, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER, signature_base,
        signature_params,
    },
};
use sha2::{Digest as _, Sha256};

/// A key that cannot be made or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node's key is damaged; remove the node's state and enrol it again")]
pub struct InvalidKey;

/// An Ed25519 key pair. It never leaves the node.
pub struct NodeKey {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey(…)")
    }
}

impl NodeKey {
    /// Makes a key from the system's randomness.
    pub fn generate() -> Result<Self, InvalidKey> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| InvalidKey)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Reads a key in PKCS#8 form, as [`NodeKey::to_pkcs8`] gave it.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, InvalidKey> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| InvalidKey)?;
        Ok(Self { pair, pkcs8: pkcs8.to_vec() })
    }

    /// The key in PKCS#8 form. This is the secret.
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key, 32 bytes in standard base64, as enrolment wants it.
    pub fn public_base64(&self) -> String {
        STANDARD.encode(self.pair.public_key().as_ref())
    }

    /// The headers that authenticate one request: name and value. `body` is covered when given.
    pub(crate) fn sign(&self, request: &Unsigned<'_>) -> Vec<(&'static str, String)> {
        let digest = request.body.map(|body| format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body))));
        let mut nonce = [0u8; 16];
        rand::fill(&mut nonce);
        let params = signature_params(
            digest.is_some(),
            request.lease.is_some(),
            request.created_unix_s,
            &hex::encode(nonce),
            request.node,
        );
        let base = signature_base(
            request.method,
            request.path,
            request.query,
            digest.as_deref(),
            request.lease,
            &params,
        );
        let signature = STANDARD.encode(self.pair.sign(base.as_bytes()).as_ref());
        let mut headers = vec![
            (SIGNATURE_INPUT_HEADER, format!("sig1={params}")),
            (SIGNATURE_HEADER, format!("sig1=:{signature}:")),
        ];
        headers.extend(digest.map(|value| (CONTENT_DIGEST_HEADER, value)));
        headers.extend(request.lease.map(|value| (LEASE_HEADER, value.to_owned())));
        headers
    }
}

/// What a signature covers.
pub(crate) struct Unsigned<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) body: Option<&'a [u8]>,
    pub(crate) lease: Option<&'a str>,
    pub(crate) created_unix_s: i64,
    pub(crate) node: &'a NodeId,
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    fn header<'a>(headers: &'a [(&'static str, String)], name: &str) -> Option<&'a str> {
        headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_signature_verifies_over_the_base_that_the_server_rebuilds() {
        let key = NodeKey::generate().expect("a key");
        let again = NodeKey::from_pkcs8(key.to_pkcs8()).expect("the same key");
        assert_eq!(key.public_base64(), again.public_base64());
        let node = NodeId::from_parts(7, [7; 10]);
        let headers = again.sign(&Unsigned {
            method: "PUT",
            path: "/v1/node/attempts/j/1/logs/stdout",
            query: "offset=0",
            body: Some(b"hello"),
            lease: Some("aa"),
            created_unix_s: 1_800_000_000,
            node: &node,
        });
        let digest = header(&headers, CONTENT_DIGEST_HEADER);
        assert_eq!(digest, Some("sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:"));
        let input = header(&headers, SIGNATURE_INPUT_HEADER).and_then(|text| text.strip_prefix("sig1="));
        let params = input.expect("signature-input");
        assert!(params.contains(&format!("keyid=\"{node}\"")) && params.contains("created=1800000000"));
        let base = signature_base(
            "PUT",
            "/v1/node/attempts/j/1/logs/stdout",
            "offset=0",
            digest,
            header(&headers, LEASE_HEADER),
            params,
        );
        let text = header(&headers, SIGNATURE_HEADER).expect("signature");
        let inner = text.strip_prefix("sig1=:").and_then(|rest| rest.strip_suffix(':')).expect("form");
        let signature = STANDARD.decode(inner).expect("base64");
        let public = STANDARD.decode(key.public_base64()).expect("base64");
        let verifier = UnparsedPublicKey::new(&ED25519, public);
        assert!(verifier.verify(base.as_bytes(), &signature).is_ok());
        assert!(verifier.verify(base.replace("PUT", "GET").as_bytes(), &signature).is_err());
    }

    #[test]
    fn no_two_signatures_share_a_nonce() {
        let key = NodeKey::generate().expect("a key");
        let node = NodeId::from_parts(7, [7; 10]);
        let sign = || {
            key.sign(&Unsigned {
                method: "GET",
                path: "/",
                query: "",
                body: None,
                lease: None,
                created_unix_s: 0,
                node: &node,
            })
        };
        assert_ne!(sign(), sign());
        assert!(NodeKey::from_pkcs8(b"no key").is_err());
    }
}

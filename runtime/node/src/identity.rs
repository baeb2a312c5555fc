//! Who the node is: a key made here, and the id that the server gave for it.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use gristmill_client::node::{Backoff, CallError, NodeKey, Transport, enroll};
use gristmill_protocol::{
    ErrorCode, NODE_PROTOCOL_VERSION, NodeId, node::NodeCapabilities, node_api::EnrollRequest,
};
use serde::{Deserialize, Serialize};

use crate::{NodeConfig, state::write_private};

/// The node's identity.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) zone: String,
    pub(crate) key: Arc<NodeKey>,
}

/// `identity.json`. Without `node` and `zone` the key waits for its enrolment.
#[derive(Serialize, Deserialize)]
struct IdentityFile {
    node: Option<NodeId>,
    zone: Option<String>,
    private_key: String,
}

impl Identity {
    /// Reads the identity, or enrols with the join token when there is none yet.
    ///
    /// While the server cannot be reached it is asked again and again, with growing delays; only
    /// its refusal is an error, and a certificate or address with which no connection can come about. Dropping the future gives up; the key made so far is kept, so that
    /// a token redeemed by a call whose answer got lost can be redeemed again by the same key.
    pub(crate) async fn load_or_enroll(
        file: &Path,
        transport: &Transport,
        config: &NodeConfig,
        capabilities: NodeCapabilities,
    ) -> anyhow::Result<Self> {
        let (key, known) = match fs::read(file) {
            Ok(bytes) => read_identity(&bytes)
                .with_context(|| format!("failed to read the node's identity {}", file.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (NodeKey::generate()?, None),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("failed to read the node's identity {}", file.display()));
            }
        };
        let key = Arc::new(key);
        if let Some((node, zone)) = known {
            return Ok(Self { node, zone, key });
        }
        let Some(join_token) = config.join_token.clone() else {
            bail!(
                "this node is not enrolled and has no join token; make one with `gristmill join-token create` and pass it with --join-token-file"
            );
        };
        write_identity(file, &key, None)?;
        let request = EnrollRequest {
            protocol_versions: (NODE_PROTOCOL_VERSION, NODE_PROTOCOL_VERSION),
            join_token,
            public_key: key.public_base64(),
            name: config.name.clone(),
            labels: config.labels.clone(),
            capabilities,
        };
        let grant = enroll_until_answered(transport, &request).await?;
        write_identity(file, &key, Some((grant.node, grant.zone.clone())))?;
        tracing::info!(node = %grant.node, zone = %grant.zone, "the node is enrolled");
        Ok(Self { node: grant.node, zone: grant.zone, key })
    }
}

async fn enroll_until_answered(
    transport: &Transport,
    request: &EnrollRequest,
) -> anyhow::Result<gristmill_protocol::node_api::EnrollGrant> {
    let mut backoff = Backoff::between(Duration::from_millis(500), Duration::from_secs(15));
    loop {
        match enroll(transport, request).await {
            Ok(grant) => return Ok(grant),
            Err(CallError::Connection { fault }) => {
                return Err(fault).context("this node cannot enrol: the server cannot be spoken to");
            }
            Err(error) if error.is_worth_repeating() => {
                tracing::warn!(%error, "the server does not answer the enrolment; asking again");
                tokio::time::sleep(backoff.next_delay(error.retry_after())).await;
            }
            Err(error) => return Err(enrolment_refused(&error)),
        }
    }
}

fn enrolment_refused(error: &CallError) -> anyhow::Error {
    let advice = match error.code() {
        Some(ErrorCode::Unauthenticated | ErrorCode::Forbidden | ErrorCode::NotFound) => {
            "; a join token works once and for at most 15 minutes: make another with `gristmill join-token create`"
        }
        _ => "",
    };
    anyhow::anyhow!("the server refused to enrol this node: {error}{advice}")
}

type Known = Option<(NodeId, String)>;

fn read_identity(bytes: &[u8]) -> anyhow::Result<(NodeKey, Known)> {
    let file: IdentityFile = serde_json::from_slice(bytes)?;
    let key = NodeKey::from_pkcs8(&STANDARD.decode(&file.private_key)?)?;
    Ok((key, file.node.zip(file.zone)))
}

fn write_identity(path: &Path, key: &NodeKey, known: Known) -> anyhow::Result<()> {
    let (node, zone) = known.unzip();
    let file = IdentityFile { node, zone, private_key: STANDARD.encode(key.to_pkcs8()) };
    let bytes = serde_json::to_vec_pretty(&file)?;
    write_private(path, &bytes)
        .with_context(|| format!("failed to write the node's identity {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_file() {
        let temp = tempfile::tempdir().expect("a directory");
        let path = temp.path().join("identity.json");
        let key = NodeKey::generate().expect("a key");
        write_identity(&path, &key, None).expect("written");
        let (_, known) = read_identity(&fs::read(&path).expect("read")).expect("an identity");
        assert_eq!(known, None, "a key that waits for its enrolment is no identity yet");
        let node = NodeId::from_parts(1, [2; 10]);
        write_identity(&path, &key, Some((node, "lab".into()))).expect("written");
        let (again, known) = read_identity(&fs::read(&path).expect("read")).expect("an identity");
        assert_eq!(again.public_base64(), key.public_base64());
        assert_eq!(known, Some((node, "lab".into())));
        assert!(read_identity(b"{\"private_key\": \"AAAA\"}").is_err());
    }
}

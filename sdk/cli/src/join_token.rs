//! `gristmill join-token`: single-use tokens with which nodes enrol.

use std::path::PathBuf;

use clap::Subcommand;
use gristmill_protocol::node::JoinTokenSpec;
use serde_json::json;

use crate::{
    args::Global,
    connect::connect,
    failure::Exit,
    job_args::duration_ms,
    printer::{Printer, pairs, time},
    saved::write_private,
};

/// Make tokens with which nodes enrol
#[derive(Debug, Subcommand)]
pub(crate) enum JoinTokenCommand {
    /// Make a token for one node; its secret is shown only now
    Create {
        /// Zone that the node will belong to
        #[arg(long, default_value = "default")]
        zone: String,
        /// How long it can be redeemed, at most 15m [default: 15m]
        #[arg(long, value_name = "D", value_parser = duration_ms)]
        ttl: Option<u64>,
        /// The only name that the node may take
        #[arg(long, value_name = "NAME")]
        node_name: Option<String>,
        /// Write the secret to this file, readable by you only, instead of showing it
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
}

/// Runs the command.
pub(crate) async fn run(command: JoinTokenCommand, global: &Global) -> anyhow::Result<Exit> {
    let JoinTokenCommand::Create { zone, ttl, node_name, secret_file } = command;
    let connection = connect(global).await?;
    let spec = JoinTokenSpec { zone, ttl_ms: ttl, node_name };
    let created = connection.client.join_token_create(&spec).await?;
    let head = |secret: String| {
        pairs(&[
            ("id", Some(created.id.to_string())),
            ("zone", Some(created.zone.clone())),
            ("expires", Some(time(created.expires_at))),
            ("secret", Some(secret)),
        ])
    };
    let printer = Printer::new(global.json());
    match secret_file {
        None => printer.show(&created, |created| head(created.secret.clone()))?,
        Some(path) => {
            write_private(&std::path::absolute(&path)?, created.secret.as_bytes())?;
            let document = json!({
                "id": created.id, "zone": created.zone, "expires_at": created.expires_at, "secret_file": path,
            });
            printer.show(&document, |_| head(format!("in {}", path.display())))?;
        }
    }
    Ok(Exit::Ok)
}

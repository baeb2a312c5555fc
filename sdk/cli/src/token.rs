//! `gristmill token`: the secrets with which users authenticate.

use std::path::PathBuf;

use clap::Subcommand;
use gristmill_protocol::{
    TokenId,
    tenancy::{Scope, TokenCreated, TokenSpec},
};
use serde_json::json;

use crate::{
    args::Global,
    connect::connect,
    failure::Exit,
    job_args::{duration_ms, from_str},
    printer::{Printer, pairs, time},
    saved::write_private,
    table::table,
};

/// User tokens
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; its secret is shown only now
    Create {
        /// Name for people
        #[arg(long)]
        name: String,
        /// Tenant that it acts for [default: your own]
        #[arg(long)]
        tenant: Option<String>,
        /// What it may do: read, submit, publish, metrics, admin [default: the first three]
        #[arg(long, value_name = "SCOPE,…", value_delimiter = ',', value_parser = from_str::<Scope>)]
        scopes: Option<Vec<Scope>>,
        /// How long it is valid [default: 90d]
        #[arg(long, value_name = "D", value_parser = duration_ms)]
        ttl: Option<u64>,
        /// Write the secret to this file, readable by you only, instead of showing it
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// List tokens; never their secrets
    List,
    /// Take a token back, at once and for good
    Revoke {
        /// Its id
        id: TokenId,
    },
}

/// Runs the command.
pub(crate) async fn run(command: TokenCommand, global: &Global) -> anyhow::Result<Exit> {
    let connection = connect(global).await?;
    let client = &connection.client;
    let printer = Printer::new(global.json());
    match command {
        TokenCommand::Create { name, tenant, scopes, ttl, secret_file } => {
            let spec = TokenSpec { name, tenant, scopes, ttl_ms: ttl };
            let created = client.token_create(&spec).await?;
            show_created(&created, secret_file.as_deref(), printer)?;
        }
        TokenCommand::List => {
            let tokens = client.token_list().await?;
            printer.show(&json!({ "items": tokens }), |_| {
                let rows = tokens.iter().map(|token| {
                    let state =
                        token.revoked_at.map_or_else(String::new, |at| format!("revoked {}", time(at)));
                    let scopes: Vec<_> = token.scopes.iter().map(|scope| scope.as_str()).collect();
                    vec![
                        token.id.to_string(),
                        token.name.clone(),
                        token.tenant.clone(),
                        scopes.join(","),
                        time(token.expires_at),
                        state,
                    ]
                });
                table(&["id", "name", "tenant", "scopes", "expires", ""], rows)
            })?;
        }
        TokenCommand::Revoke { id } => {
            client.token_revoke(&id).await?;
            printer.show(&json!({ "id": id, "revoked": true }), |_| format!("{id} is revoked"))?;
        }
    }
    Ok(Exit::Ok)
}

fn show_created(
    created: &TokenCreated,
    secret_file: Option<&std::path::Path>,
    printer: Printer,
) -> anyhow::Result<()> {
    let token = &created.token;
    let head = |secret: String| {
        pairs(&[
            ("id", Some(token.id.to_string())),
            ("name", Some(token.name.clone())),
            ("tenant", Some(token.tenant.clone())),
            ("expires", Some(time(token.expires_at))),
            ("secret", Some(secret)),
        ])
    };
    let Some(path) = secret_file else {
        return printer.show(created, |created| head(created.secret.clone()));
    };
    write_private(&std::path::absolute(path)?, created.secret.as_bytes())?;
    printer.show(&json!({ "token": token, "secret_file": path }), |_| head(format!("in {}", path.display())))
}

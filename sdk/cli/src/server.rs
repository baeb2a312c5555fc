//! `gristmill server run`: the control plane as a service.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use gristmill_server::{
    Server, ServerConfig,
    config::{Rate, TlsFiles},
};
use serde_json::json;

use crate::{
    args::Global,
    configuration::{Given, ServerFlags, needed},
    failure::{Exit, Failure},
    interrupt::Interrupt,
    printer::Printer,
};

/// Run the server
#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// Run the server until SIGTERM or Ctrl-C
    Run(ServerRunArgs),
}

/// Run the server until SIGTERM or Ctrl-C
#[derive(Debug, Args)]
pub(crate) struct ServerRunArgs {
    #[command(flatten)]
    settings: ServerFlags,
}

impl ServerCommand {
    /// What its options say about settings.
    pub(crate) fn given(&self) -> Given {
        let Self::Run(args) = self;
        args.settings.given()
    }
}

/// Where the server listens, in words that promise no address which the certificate may not name.
fn reached_at(address: SocketAddr, is_tls: bool) -> String {
    let scheme = if is_tls { "https" } else { "http" };
    let place = if address.ip().is_unspecified() {
        format!("{scheme} on port {} of every address of this machine", address.port())
    } else if is_tls {
        format!("{scheme} on {address}")
    } else {
        return format!("{scheme}://{address}");
    };
    if is_tls { place + "; dial it by a name in its certificate" } else { place }
}

/// For whoever wants to try it, and for whoever has no certificate.
const PLAIN_HINT: &str = "one `openssl` command makes a certificate, the README has it; for this machine alone, let --listen name 127.0.0.1";

/// Whether other machines could reach the server without TLS, which it refuses.
fn is_plain_beyond_loopback(config: &ServerConfig) -> bool {
    let mut addresses = std::iter::once(config.listen).chain(config.node_listen);
    config.tls.is_none() && !config.behind_proxy && addresses.any(|address| !address.ip().is_loopback())
}

/// Runs the command.
pub(crate) async fn run(command: ServerCommand, global: &Global) -> anyhow::Result<Exit> {
    let ServerCommand::Run(_) = command;
    let interrupt = Interrupt::for_service();
    let settings = &global.loaded.settings.server;
    let data_dir = needed("server.data", settings.data.as_ref())?;
    let mut config = settings.config.clone();
    config.data_dir.clone_from(&data_dir);
    config.sampling = crate::traces::sampling();
    let tls = settings.tls_cert.clone().zip(settings.tls_key.clone());
    config.tls = tls.map(|(cert, key)| TlsFiles { cert, key });
    config.clients.token_rate = Rate::of(settings.requests_per_second);
    config.clients.stranger_rate = Rate::of(settings.stranger_requests_per_second);
    crate::environment::keep_files_private();
    crate::environment::allow_many_connections();
    let is_tls = config.tls.is_some();
    let is_open = is_plain_beyond_loopback(&config);
    let server = match Server::start(config).await {
        Err(error) if is_open => {
            return Err(Failure::local(format!("cannot start the server: {error:#}"))
                .hint(PLAIN_HINT)
                .into());
        }
        started => started.context("cannot start the server")?,
    };
    let token_file = data_dir.join("admin.token");
    let node_address = server.node_addr().map(|address| address.to_string());
    let document = json!({
        "server": server.base_url(), "listen": server.local_addr().to_string(), "node_address": node_address, "data_dir": data_dir,
        "token_file": token_file,
    });
    Printer::new(global.json()).show(&document, |_| {
        format!(
            "server   {}\ndata     {}\ntoken    in {}\n",
            reached_at(server.local_addr(), is_tls),
            data_dir.display(),
            token_file.display()
        )
    })?;
    interrupt.first().await;
    tokio::select! {
        () = server.shutdown() => {}
        () = interrupt.second() => tracing::warn!("stopped before every request was answered"),
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_promised_that_the_certificate_may_not_name() {
        let told = |address: &str, is_tls| reached_at(address.parse().expect("an address"), is_tls);
        assert_eq!(told("127.0.0.1:7070", false), "http://127.0.0.1:7070");
        assert_eq!(told("10.0.0.1:7", true), "https on 10.0.0.1:7; dial it by a name in its certificate");
        for any in ["0.0.0.0:7070", "[::]:7070"] {
            let text = told(any, true);
            assert!(
                text.starts_with("https on port 7070 of every address") && !text.contains("127"),
                "{text}"
            );
        }
    }
}

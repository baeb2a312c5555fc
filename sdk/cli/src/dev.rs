//! `gristmill dev`: a server and a node here, with the command line logged in.

use clap::Args;
use serde_json::json;

use crate::{
    args::Global,
    configuration::{DevFlags, Given},
    embedded::{Embedded, EmbeddedConfig, machine_offer},
    environment,
    failure::Exit,
    interrupt::Interrupt,
    printer::{self, Printer},
    saved::{Contexts, SavedContext},
};

/// The saved context of `dev`.
const CONTEXT: &str = "dev";

/// Start a server and a node here, with the command line logged in
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    settings: DevFlags,
}

impl DevArgs {
    /// What its options say about settings.
    pub(crate) fn given(&self) -> Given {
        self.settings.given()
    }
}

/// Runs the command: until Ctrl-C or SIGTERM, then it drains.
pub(crate) async fn run(global: &Global) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::for_service();
    let settings = &global.loaded.settings.dev;
    let data_dir = match &settings.data {
        Some(dir) => std::path::absolute(dir)?,
        None => environment::data_dir()?.join("dev"),
    };
    let (offer, notice) = machine_offer(settings.slots);
    let config = EmbeddedConfig { data_dir: data_dir.clone(), listen: settings.listen, offer };
    let embedded = Embedded::start(config).await?;
    let former = log_in(&embedded)?;
    let server = embedded.endpoint.server.clone();
    let token_file = data_dir.join("server").join("admin.token");
    let document = json!({
        "server": server, "data_dir": data_dir, "token_file": token_file, "context": CONTEXT,
        "slot": offer.total, "notice": notice,
    });
    Printer::new(global.json()).show(&document, |_| {
        let mut text = format!(
            "server   {server}\ndocs     {server}/docs describes the API\ndata     {}\n\
             token    in {}, an administrator's\nnode     local, {}\n\
             context  {CONTEXT}: the command line is logged in\n",
            data_dir.display(),
            token_file.display(),
            printer::slot(offer.total.cpus_milli, offer.total.memory_bytes),
        );
        if let Some(notice) = &notice {
            text.push_str("note     ");
            text.push_str(notice);
            text.push('\n');
        }
        text + "\ntry      gristmill run FILE.wasm\nCtrl-C finishes what runs and ends; a second one stops it\n"
    })?;
    interrupt.first().await;
    tracing::info!("finishing what runs");
    tokio::select! {
        () = embedded.drain() => {}
        () = interrupt.second() => tracing::warn!("what still runs is tried again at the next start"),
    }
    embedded.stop().await;
    log_out(&server, former)?;
    Ok(Exit::Ok)
}

/// Saves the context and makes it current; returns the one that was current before.
fn log_in(embedded: &Embedded) -> anyhow::Result<Option<String>> {
    let endpoint = &embedded.endpoint;
    let saved = SavedContext {
        server: endpoint.server.clone(),
        token: endpoint.token.as_ref().map(|token| token.expose().to_owned()),
        ca_file: None,
    };
    Contexts::change(|contexts| {
        contexts.contexts.insert(CONTEXT.into(), saved);
        let former = contexts.current.replace(CONTEXT.into());
        Ok(former.filter(|name| name != CONTEXT))
    })
}

/// Makes the former context current again, unless another one was chosen or another `dev` took over.
fn log_out(server: &str, former: Option<String>) -> anyhow::Result<()> {
    Contexts::change(|contexts| {
        if contexts.contexts.get(CONTEXT).is_some_and(|saved| saved.server == server) {
            contexts.contexts.remove(CONTEXT);
            if contexts.current.as_deref() == Some(CONTEXT) {
                contexts.current = former.filter(|name| contexts.contexts.contains_key(name));
            }
        }
        Ok(())
    })
}

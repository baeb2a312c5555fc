//! `gristmill context`: saved servers and their tokens.

use clap::Subcommand;
use serde_json::json;

use crate::{
    args::Global,
    configuration::Origin,
    connect::read_secret,
    failure::{Exit, Failure},
    printer::Printer,
    saved::{Contexts, SavedContext},
    table::table,
};

/// Saved servers and their tokens
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the saved contexts; never their tokens
    List,
    /// Make a context the current one
    Use {
        /// Its name
        name: String,
    },
    /// Save a server (`--server` or GRISTMILL_SERVER) with a token (`--token-file` or GRISTMILL_TOKEN) under a
    /// name and make it current
    Set {
        /// Its name
        name: String,
    },
    /// Have no current context, so that `run` uses the private instance
    Clear,
    /// Forget a context and its token
    Remove {
        /// Its name
        name: String,
    },
}

/// Runs the command.
pub(crate) fn run(command: ContextCommand, global: &Global) -> anyhow::Result<Exit> {
    match command {
        ContextCommand::List => {}
        ContextCommand::Use { name } => Contexts::change(|contexts| {
            contexts.named(&name)?;
            contexts.current = Some(name);
            Ok(())
        })?,
        ContextCommand::Set { name } => set(&name, global)?,
        ContextCommand::Clear => Contexts::change(|contexts| {
            contexts.current = None;
            Ok(())
        })?,
        ContextCommand::Remove { name } => Contexts::change(|contexts| {
            contexts.named(&name)?;
            contexts.contexts.remove(&name);
            contexts.current.take_if(|current| *current == name);
            Ok(())
        })?,
    }
    show(&Contexts::load()?, global)?;
    Ok(Exit::Ok)
}

fn set(name: &str, global: &Global) -> anyhow::Result<()> {
    let saved = named(global)?;
    // A server address that cannot be used is refused before it is saved.
    gristmill_client::user::Client::new(&saved.endpoint())?;
    Contexts::change(|contexts| {
        contexts.contexts.insert(name.to_owned(), saved);
        contexts.current = Some(name.to_owned());
        Ok(())
    })
}

/// The server that an option or a variable names, with its token. What a file of settings says is not
/// saved once more.
fn named(global: &Global) -> anyhow::Result<SavedContext> {
    let loaded = &global.loaded;
    let client = &loaded.settings.client;
    let is_named = matches!(loaded.origin("client.server"), Origin::Option(_) | Origin::Environment(_));
    let Some(server) = client.server.clone().filter(|_| is_named) else {
        return Err(Failure::usage("a context needs a server")
            .hint("add --server URL, or set GRISTMILL_SERVER")
            .into());
    };
    let token_file = match loaded.origin("client.token_file") {
        Origin::Option(_) => client.token_file.as_ref(),
        Origin::Environment(_) if client.token.is_none() => client.token_file.as_ref(),
        _ => None,
    };
    let token = match token_file {
        Some(path) => Some(read_secret(path)?),
        None => client.token.clone(),
    };
    let ca_file = client.ca_file.as_ref().map(std::path::absolute).transpose()?;
    Ok(SavedContext { server, token: token.map(|token| token.expose().to_owned()), ca_file })
}

fn show(contexts: &Contexts, global: &Global) -> anyhow::Result<()> {
    let document = json!({
        "current": contexts.current,
        "items": contexts.contexts.iter().map(|(name, saved)| json!({
            "name": name,
            "server": saved.server,
            "has_token": saved.token.is_some(),
            "ca_file": saved.ca_file,
        })).collect::<Vec<_>>(),
    });
    Printer::new(global.json()).show(&document, |_| {
        let rows = contexts.contexts.iter().map(|(name, saved)| {
            let current = if contexts.current.as_ref() == Some(name) { "*" } else { "" };
            let token = if saved.token.is_some() { "yes" } else { "no" };
            vec![current.into(), name.clone(), saved.server.clone(), token.into()]
        });
        table(&["", "name", "server", "token"], rows)
    })
}

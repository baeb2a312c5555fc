//! Which server a command talks to, and as whom: options, then environment, then the saved
//! context, then the private instance.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use gristmill_client::user::{Client, Endpoint, Secret};

use crate::{
    args::Global,
    configuration::Origin,
    failure::Failure,
    private,
    saved::{Contexts, SavedContext},
};

/// A server to talk to. Keep it for as long as the server is needed: the private instance ends some
/// time after the last one is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The typed calls.
    pub(crate) client: Client,
    /// Keeps the private instance alive, if it is that.
    pub(crate) attachment: Option<private::Attachment>,
}

/// The server that was named or saved; `None` when there is no such.
pub(crate) fn configured(global: &Global) -> anyhow::Result<Option<Endpoint>> {
    let Some(choice) = select(global, &Contexts::load()?)? else { return Ok(None) };
    let mut endpoint = choice.endpoint;
    if let Some(path) = &choice.token_file {
        endpoint.token = Some(read_secret(path)?);
    }
    Ok(Some(endpoint))
}

/// A server, and where its token has still to be read from.
#[derive(Debug)]
struct Choice {
    endpoint: Endpoint,
    token_file: Option<PathBuf>,
}

/// The choice itself: the more explicit wins, and a saved context is more explicit than a file of
/// settings. A saved token is only ever sent to its own server.
fn select(global: &Global, contexts: &Contexts) -> Result<Option<Choice>, Failure> {
    let loaded = &global.loaded;
    let client = &loaded.settings.client;
    let is_named = match loaded.origin("client.server") {
        Origin::Option(_) => true,
        Origin::Environment(_) => global.context.is_none(),
        _ => false,
    };
    let context = global.context.as_deref().or(contexts.current.as_deref());
    let mut endpoint = match (&client.server, context) {
        (Some(server), _) if is_named => saved_for(server, contexts),
        (_, Some(name)) => contexts.named(name)?.endpoint(),
        (Some(server), None) => saved_for(server, contexts),
        (None, None) => return Ok(None),
    };
    let token_file = match loaded.origin("client.token_file") {
        Origin::Option(_) => true,
        Origin::Environment(_) => client.token.is_none(),
        Origin::File(..) => {
            let is_of_file = matches!(loaded.origin("client.server"), Origin::File(..));
            let is_chosen = client.server.as_deref().is_some_and(|own| is_same(own, &endpoint.server));
            is_of_file && is_chosen && client.token.is_none() && endpoint.token.is_none()
        }
        Origin::Default => false,
    };
    endpoint.token = client.token.clone().or(endpoint.token);
    if matches!(loaded.origin("client.ca_file"), Origin::Option(_) | Origin::Environment(_)) {
        endpoint.ca_file.clone_from(&client.ca_file);
    }
    endpoint.ca_file = endpoint.ca_file.or_else(|| client.ca_file.clone());
    Ok(Some(Choice { endpoint, token_file: client.token_file.clone().filter(|_| token_file) }))
}

/// A server as it is saved, or with nothing but its address.
fn saved_for(server: &str, contexts: &Contexts) -> Endpoint {
    let known = contexts.contexts.values().find(|saved| is_same(&saved.server, server));
    let unknown = || Endpoint { server: server.to_owned(), token: None, ca_file: None };
    known.map_or_else(unknown, SavedContext::endpoint)
}

fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// Connects to the configured server or, when there is none, to the private instance if this user
/// ever had one; it is started if need be.
pub(crate) async fn connect(global: &Global) -> anyhow::Result<Connection> {
    if configured(global)?.is_none() && !private::exists()? {
        return Err(Failure::local("no server is configured")
            .hint("name one with --server or a saved context, or start one with `gristmill dev`; `gristmill run` needs none")
            .into());
    }
    connect_or_begin(global).await
}

/// Like [`connect`], but without any server a private instance is begun: for commands that bring
/// something new.
pub(crate) async fn connect_or_begin(global: &Global) -> anyhow::Result<Connection> {
    if let Some(endpoint) = configured(global)? {
        return Ok(Connection { client: Client::new(&endpoint)?, attachment: None });
    }
    let (endpoint, attachment) = private::attach().await.context("cannot start the private instance")?;
    Ok(Connection { client: Client::new(&endpoint)?, attachment: Some(attachment) })
}

/// The address that was named or saved.
pub(crate) fn server_address(global: &Global) -> anyhow::Result<Option<String>> {
    Ok(configured(global)?.map(|endpoint| endpoint.server))
}

/// How a file with a secret comes about.
const SECRET_HINT: &str = "check the path; `gristmill token create` and `gristmill join-token create` write such a file with --secret-file, \
                           and a server's first start writes admin.token into its data directory";

/// Reads a secret from a file, or from standard input for `-`.
pub(crate) fn read_secret(path: &Path) -> anyhow::Result<Secret> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("cannot read the secret from standard input")?
    } else {
        std::fs::read_to_string(path).map_err(|error| {
            let failure = Failure::file(format!("cannot read the secret in {}", path.display()), &error);
            if error.kind() == std::io::ErrorKind::NotFound { failure.hint(SECRET_HINT) } else { failure }
        })?
    };
    if text.trim().is_empty() {
        return Err(Failure::local(format!("{} holds no secret", path.display())).hint(SECRET_HINT).into());
    }
    Ok(Secret::new(&text))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::configuration::{Loaded, Sources};

    /// Global options with a file of settings and variables.
    fn global(words: &[&str], file: &str, variables: &[(&str, &str)]) -> Global {
        let line = [&["gristmill", "zone", "list"], words].concat();
        let mut global = crate::args::Cli::try_parse_from(line).expect("a valid line").global;
        let path = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(path.path(), file).expect("written");
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
        };
        let sources = Sources {
            file: Some(path.path()),
            given: global.given(),
            variable: &variable,
            is_service: false,
        };
        global.loaded = Loaded::from(sources).expect("valid settings");
        global
    }

    fn contexts() -> Contexts {
        let saved = |server: &str, token: &str| SavedContext {
            server: server.into(),
            token: Some(token.into()),
            ca_file: None,
        };
        Contexts {
            current: Some("one".into()),
            contexts: [("one".into(), saved("http://one", "t1")), ("two".into(), saved("http://two", "t2"))]
                .into(),
        }
    }

    type Chosen = Option<(String, Option<String>)>;

    fn chosen(words: &[&str], variables: &[(&str, &str)]) -> Chosen {
        chosen_from(&global(words, "", variables), &contexts())
    }

    /// The server, and its token or the name of the file with it.
    fn chosen_from(global: &Global, contexts: &Contexts) -> Chosen {
        let choice = select(global, contexts).expect("a choice")?;
        let token = choice.endpoint.token.map(|token| token.expose().to_owned());
        let file = choice.token_file.and_then(|path| path.to_str().map(str::to_owned));
        Some((choice.endpoint.server, file.or(token)))
    }

    fn pair(server: &str, token: Option<&str>) -> (String, Option<String>) {
        (server.to_owned(), token.map(str::to_owned))
    }

    #[test]
    fn the_more_explicit_choice_wins() {
        let (server, token) = (("GRISTMILL_SERVER", "http://e"), ("GRISTMILL_TOKEN", "env"));
        assert_eq!(chosen(&[], &[]), Some(pair("http://one", Some("t1"))));
        assert_eq!(chosen(&["--context", "two"], &[]), Some(pair("http://two", Some("t2"))));
        assert_eq!(chosen(&["--server", "http://two/"], &[]), Some(pair("http://two", Some("t2"))));
        assert_eq!(chosen(&["--context", "two"], &[token]), Some(pair("http://two", Some("env"))));
        assert_eq!(chosen(&["--context", "two"], &[server]), Some(pair("http://two", Some("t2"))));
        assert_eq!(chosen(&[], &[server, token]), Some(pair("http://e", Some("env"))));
        assert_eq!(chosen(&["--token-file", "f"], &[token]), Some(pair("http://one", Some("f"))));
    }

    #[test]
    fn a_saved_token_is_not_sent_to_another_server() {
        assert_eq!(chosen(&["--server", "http://other"], &[]), Some(pair("http://other", None)));
    }

    #[test]
    fn a_file_of_settings_counts_when_no_context_does_and_its_token_is_for_its_server() {
        let file = "[client]\nserver = \"http://f\"\ntoken_file = \"/t\"\n";
        let chosen = |words: &[&str], contexts| chosen_from(&global(words, file, &[]), &contexts);
        assert_eq!(chosen(&[], Contexts::default()), Some(pair("http://f", Some("/t"))));
        assert_eq!(chosen(&[], contexts()), Some(pair("http://one", Some("t1"))));
        assert_eq!(
            chosen(&["--server", "http://other"], Contexts::default()),
            Some(pair("http://other", None))
        );
    }
}

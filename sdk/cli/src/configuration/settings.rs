//! Every setting: one table that the options, the variables, the files, the help and the manual come from.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use gristmill_client::user::Secret;
use gristmill_protocol::OuterLimit;
use gristmill_server::{ServerConfig, config::Rate};

use super::field::Field;
use crate::{args::LogFormat, terminal::ColorChoice};

/// Where `server run` and `dev` listen when nothing else is said.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7070);
/// What a node keeps for later jobs when nothing else is said.
const CACHE_BYTES: u64 = 20 << 30;

/// The values of all settings. The default is what holds when nothing is said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// What commands that talk to a server use.
    pub(crate) client: ClientSettings,
    /// `log.level`.
    pub(crate) log_level: Option<String>,
    /// `log.format`.
    pub(crate) log_format: Option<LogFormat>,
    /// What `server run` uses.
    pub(crate) server: ServerSettings,
    /// What `node run` and `node run-once` use.
    pub(crate) node: NodeSettings,
    /// What `dev` uses.
    pub(crate) dev: DevSettings,
}

/// Settings of commands that talk to a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientSettings {
    pub(crate) server: Option<String>,
    pub(crate) token: Option<Secret>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) color: ColorChoice,
}

/// Settings of a server.
#[derive(Debug, Clone)]
pub(crate) struct ServerSettings {
    pub(crate) data: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    /// Of one token; 0 for no limit.
    pub(crate) requests_per_second: u32,
    /// Of one address without a known token or signature; 0 for no limit.
    pub(crate) stranger_requests_per_second: u32,
    /// All that is the server's own.
    pub(crate) config: ServerConfig,
}

impl Default for ServerSettings {
    fn default() -> Self {
        let config = ServerConfig::new("", LISTEN);
        let per_second = |rate: Option<Rate>| rate.map_or(0, |rate| rate.per_second.get());
        Self {
            data: None,
            tls_cert: None,
            tls_key: None,
            requests_per_second: per_second(config.clients.token_rate),
            stranger_requests_per_second: per_second(config.clients.stranger_rate),
            config,
        }
    }
}

/// Settings of a node.
#[derive(Debug, Clone)]
pub(crate) struct NodeSettings {
    pub(crate) server: Option<String>,
    pub(crate) state: Option<PathBuf>,
    pub(crate) join_token_file: Option<PathBuf>,
    pub(crate) name: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) slots: Option<u32>,
    pub(crate) cpus_milli: Option<u32>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) attempts_max: Option<u32>,
    pub(crate) isolation: OuterLimit,
    pub(crate) allow_weak_isolation: bool,
    pub(crate) cache_bytes_max: u64,
    pub(crate) ca_file: Option<PathBuf>,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            server: None,
            state: None,
            join_token_file: None,
            name: None,
            labels: BTreeMap::new(),
            slots: None,
            cpus_milli: None,
            memory_bytes: None,
            attempts_max: None,
            isolation: OuterLimit::default(),
            allow_weak_isolation: false,
            cache_bytes_max: CACHE_BYTES,
            ca_file: None,
        }
    }
}

/// Settings of `dev`.
#[derive(Debug, Clone)]
pub(crate) struct DevSettings {
    pub(crate) data: Option<PathBuf>,
    pub(crate) listen: SocketAddr,
    pub(crate) slots: Option<u32>,
}

impl Default for DevSettings {
    fn default() -> Self {
        Self { data: None, listen: LISTEN, slots: None }
    }
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Table of the file, and first part of the key.
    pub(crate) section: &'static str,
    /// Name in the file.
    pub(crate) name: &'static str,
    /// What its value is called in the help.
    pub(crate) value: &'static str,
    /// What it is, in one sentence.
    pub(crate) about: &'static str,
    /// The default in words, where it is no fixed value.
    pub(crate) default: Option<&'static str>,
    /// The option's name; without one, that of the setting.
    flag: Option<&'static str>,
    /// The variable's name; without one, that of section and setting.
    variable: Option<&'static str>,
    /// Whether every command takes the option.
    pub(crate) is_global: bool,
    /// Whether it may stand in a file and be an option; secrets may not.
    pub(crate) is_secret: bool,
    /// Whether few need it.
    pub(crate) is_advanced: bool,
    /// Its place among the values.
    pub(crate) field: for<'a> fn(&'a mut Settings) -> Field<'a>,
}

impl Setting {
    const fn new(
        section: &'static str,
        name: &'static str,
        value: &'static str,
        about: &'static str,
        field: for<'a> fn(&'a mut Settings) -> Field<'a>,
    ) -> Self {
        Self {
            section,
            name,
            value,
            about,
            default: None,
            flag: None,
            variable: None,
            is_global: false,
            is_secret: false,
            is_advanced: false,
            field,
        }
    }

    const fn default(mut self, text: &'static str) -> Self {
        self.default = Some(text);
        self
    }

    const fn flag(mut self, name: &'static str) -> Self {
        self.flag = Some(name);
        self
    }

    const fn advanced(mut self) -> Self {
        self.is_advanced = true;
        self
    }

    /// An option that every command takes, with a variable of its own name.
    const fn global(mut self, variable: &'static str) -> Self {
        self.is_global = true;
        self.variable = Some(variable);
        self
    }

    const fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    /// `section.name`.
    pub(crate) fn key(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The option's name without the dashes.
    pub(crate) fn option(&self) -> String {
        self.flag.map_or_else(|| self.name.replace('_', "-"), str::to_owned)
    }

    /// The environment variable.
    pub(crate) fn variable(&self) -> String {
        let derived = || format!("GRISTMILL_{}_{}", self.section, self.name).to_uppercase();
        self.variable.map_or_else(derived, str::to_owned)
    }

    /// The default as people read it.
    pub(crate) fn default_text(&self) -> Option<String> {
        let fixed = || (self.field)(&mut Settings::default()).show();
        self.default.map_or_else(fixed, |text| Some(text.to_owned()))
    }

    /// Whether texts are a value of this setting; what is wrong, if not.
    pub(crate) fn check(&self, texts: &[String]) -> Result<(), String> {
        (self.field)(&mut Settings::default()).set(texts)
    }
}

/// The sections of a file, each with what it is about.
pub(crate) const SECTIONS: [(&str, &str); 5] = [
    ("client", "Commands that talk to a server. A saved context comes before this section."),
    ("log", "What every command logs on standard error."),
    ("server", "`gristmill server run`."),
    ("node", "`gristmill node run` and `gristmill node run-once`."),
    ("dev", "`gristmill dev`."),
];

/// The rows of one section.
pub(crate) fn rows(section: &str) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| setting.section == section)
}

/// The table.
#[rustfmt::skip]
pub(crate) static SETTINGS: &[Setting] = &[
    Setting::new("client", "server", "URL", "Server address, http://HOST:PORT or https://HOST",
        |s| Field::Text(&mut s.client.server)).global("GRISTMILL_SERVER"),
    Setting::new("client", "token", "TOKEN", "User token; in the environment only",
        |s| Field::Secret(&mut s.client.token)).global("GRISTMILL_TOKEN").secret(),
    Setting::new("client", "token_file", "FILE", "File with the user token (`-`: standard input)",
        |s| Field::Path(&mut s.client.token_file)).global("GRISTMILL_TOKEN_FILE"),
    Setting::new("client", "ca_file", "FILE", "PEM file with certificate authorities to trust beside the system's",
        |s| Field::Path(&mut s.client.ca_file)).global("GRISTMILL_CA_FILE"),
    Setting::new("client", "color", "WHEN", "When to colour: auto, always or never",
        |s| Field::Color(&mut s.client.color)).global("GRISTMILL_COLOR"),

    Setting::new("log", "level", "LEVEL", "What to log on standard error: error, warn, info, debug, trace, or a filter",
        |s| Field::Text(&mut s.log_level)).default("info for services, else warn").flag("log-level").global("GRISTMILL_LOG"),
    Setting::new("log", "format", "FORMAT", "How to log: text or json",
        |s| Field::LogFormat(&mut s.log_format)).default("text on a terminal and for other commands than services, else json").flag("log-format").global("GRISTMILL_LOG_FORMAT"),

    Setting::new("server", "data", "DIR", "Directory of the database and the blobs; needed",
        |s| Field::Path(&mut s.server.data)),
    Setting::new("server", "listen", "ADDRESS", "Address to listen on; port 0 takes any free port",
        |s| Field::Address(&mut s.server.config.listen)),
    Setting::new("server", "node_listen", "ADDRESS", "A second address that serves only nodes, which users can then not crowd out",
        |s| Field::OptionalAddress(&mut s.server.config.node_listen)).default("none"),
    Setting::new("server", "tls_cert", "FILE", "PEM file with the certificate chain",
        |s| Field::Path(&mut s.server.tls_cert)),
    Setting::new("server", "tls_key", "FILE", "PEM file with the private key",
        |s| Field::Path(&mut s.server.tls_key)),
    Setting::new("server", "behind_proxy", "BOOL", "A proxy in front of it speaks TLS, so plain HTTP beyond loopback is meant, and X-Forwarded-For ends with the client's address",
        |s| Field::Flag(&mut s.server.config.behind_proxy)),
    Setting::new("server", "slot_cpus", "N", "Cores of a job that does not say how many",
        |s| Field::Cores(&mut s.server.config.settings.slot_default.cpus_milli)).advanced(),
    Setting::new("server", "slot_memory", "SIZE", "Memory of a job that does not say how much",
        |s| Field::Bytes(&mut s.server.config.settings.slot_default.memory_bytes)).advanced(),
    Setting::new("server", "queue_depth_max", "N", "Most jobs that may wait, over all tenants",
        |s| Field::Count(&mut s.server.config.settings.queue_depth_max)).advanced(),
    Setting::new("server", "queue_depth_tenant_max", "N", "Most jobs of one tenant that may wait",
        |s| Field::Count(&mut s.server.config.settings.queue_depth_tenant_max)).advanced(),
    Setting::new("server", "lease_ttl", "D", "How long a lease lasts without a renewal",
        |s| Field::Duration(&mut s.server.config.settings.lease_ttl)).advanced(),
    Setting::new("server", "lease_renew", "D", "How often nodes renew",
        |s| Field::Duration(&mut s.server.config.settings.lease_renew)).advanced(),
    Setting::new("server", "lease_stop", "D", "How long after its last renewal a node stops a guest by itself",
        |s| Field::Duration(&mut s.server.config.settings.lease_stop)).advanced(),
    Setting::new("server", "sweep_period", "D", "How often the server looks for what has run out",
        |s| Field::Duration(&mut s.server.config.settings.sweep_period)).advanced(),
    Setting::new("server", "infrastructure_retries_max", "N", "How often a job is tried again after attempts that infrastructure lost",
        |s| Field::Small(&mut s.server.config.settings.infrastructure_retries_max)).advanced(),
    Setting::new("server", "backoff_base", "D", "Longest wait before the first retry; doubles with every further one",
        |s| Field::Duration(&mut s.server.config.settings.backoff_base)).advanced(),
    Setting::new("server", "backoff_max", "D", "Longest wait before any retry",
        |s| Field::Duration(&mut s.server.config.settings.backoff_max)).advanced(),
    Setting::new("server", "long_poll_max", "D", "Longest time that a waiting call of a node is held",
        |s| Field::Duration(&mut s.server.config.settings.long_poll_max)).advanced(),
    Setting::new("server", "idempotency_ttl", "D", "How long an idempotency key is remembered, at least",
        |s| Field::Duration(&mut s.server.config.settings.idempotency_ttl)).advanced(),
    Setting::new("server", "bulk_jobs_max", "N", "Most jobs of one bulk call",
        |s| Field::Small(&mut s.server.config.settings.bulk_jobs_max)).advanced(),
    Setting::new("server", "bulk_bytes_max", "SIZE", "Largest body of one bulk submit",
        |s| Field::Bytes(&mut s.server.config.settings.bulk_bytes_max)).advanced(),
    Setting::new("server", "stream_keep_alive", "D", "Longest silence on a stream of events or logs",
        |s| Field::Duration(&mut s.server.config.settings.stream_keep_alive)).advanced(),
    Setting::new("server", "stream_slow_max", "D", "How long a client of a stream may take for one message before it is cut off",
        |s| Field::Duration(&mut s.server.config.settings.stream_slow_max)).advanced(),
    Setting::new("server", "upload_ttl", "D", "How long an unfinished upload is kept after its last progress",
        |s| Field::Duration(&mut s.server.config.settings.upload_ttl)).advanced(),
    Setting::new("server", "upload_age_max", "D", "How long an upload is kept at most, from its creation",
        |s| Field::Duration(&mut s.server.config.settings.upload_age_max)).advanced(),
    Setting::new("server", "upload_count_tenant_max", "N", "Most unfinished uploads of one tenant",
        |s| Field::Count(&mut s.server.config.settings.upload_count_tenant_max)).advanced(),
    Setting::new("server", "upload_bytes_tenant_max", "SIZE", "Most bytes of one tenant's unfinished uploads; a declared length counts from the beginning",
        |s| Field::Bytes(&mut s.server.config.settings.upload_bytes_tenant_max)).advanced(),
    Setting::new("server", "keep_jobs", "D", "How long jobs are kept after their end, with their attempts and outputs",
        |s| Field::Duration(&mut s.server.config.settings.retention.job_ttl)),
    Setting::new("server", "keep_logs", "D", "How long logs are kept after the end of their job, at most as long as the job",
        |s| Field::Duration(&mut s.server.config.settings.retention.log_ttl)),
    Setting::new("server", "keep_jobs_max", "N", "Most jobs of one tenant that are kept after their end; the oldest go first",
        |s| Field::OptionalCount(&mut s.server.config.settings.retention.jobs_tenant_max)).default("no limit"),
    Setting::new("server", "keep_bytes_max", "SIZE", "Most bytes of outputs and logs that are kept of one tenant's jobs after their end; the oldest jobs go first",
        |s| Field::OptionalBytes(&mut s.server.config.settings.retention.bytes_tenant_max)).default("no limit"),
    Setting::new("server", "keep_events", "D", "How long events are kept, at least as long as their job",
        |s| Field::Duration(&mut s.server.config.settings.retention.event_ttl)),
    Setting::new("server", "keep_audit", "D", "How long it is remembered who changed what",
        |s| Field::Duration(&mut s.server.config.settings.retention.audit_ttl)),
    Setting::new("server", "keep_blobs", "D", "How long blobs are kept that nothing refers to any more",
        |s| Field::Duration(&mut s.server.config.settings.retention.blob_grace)),
    Setting::new("server", "purge_period", "D", "How often the server looks for what is too old",
        |s| Field::Duration(&mut s.server.config.settings.retention.period)).advanced(),
    Setting::new("server", "leftover_period", "D", "How often it looks for bytes that belong to nobody, such as a crash leaves behind",
        |s| Field::Duration(&mut s.server.config.settings.retention.leftover_period)).advanced(),
    Setting::new("server", "connections_max", "N", "Most connections of an address to listen on, at least 16; an eighth serves only nodes, further ones are closed",
        |s| Field::Size(&mut s.server.config.connections_max)).advanced(),
    Setting::new("server", "connections_peer_max", "N", "Most connections of one client; not behind a proxy",
        |s| Field::Size(&mut s.server.config.connections_peer_max)).advanced(),
    Setting::new("server", "requests_per_second", "N", "Requests a second that one token may make on average; 0 for no limit",
        |s| Field::Small(&mut s.server.requests_per_second)).advanced(),
    Setting::new("server", "stranger_requests_per_second", "N", "The same for an address whose token or signature is not known; 0 for no limit",
        |s| Field::Small(&mut s.server.stranger_requests_per_second)).advanced(),
    Setting::new("server", "requests_max", "N", "Requests of users handled at a time, apart from waiting ones and transfers",
        |s| Field::Size(&mut s.server.config.clients.requests_max)).advanced(),
    Setting::new("server", "polls_max", "N", "Requests of users that wait for something to happen, at a time",
        |s| Field::Size(&mut s.server.config.clients.polls_max)).advanced(),
    Setting::new("server", "transfers_max", "N", "Uploads and downloads of users at a time",
        |s| Field::Size(&mut s.server.config.clients.transfers_max)).advanced(),
    Setting::new("server", "node_requests_max", "N", "Requests of nodes at a time, those that wait among them",
        |s| Field::Size(&mut s.server.config.clients.node_requests_max)).advanced(),
    Setting::new("server", "pace_window", "D", "Time spent waiting for a slow client after which it is looked at",
        |s| Field::Duration(&mut s.server.config.clients.pace.window)).advanced(),
    Setting::new("server", "pace_bytes_min", "SIZE", "What a client must have sent in that time, or it is cut off",
        |s| Field::Bytes(&mut s.server.config.clients.pace.bytes_min)).advanced(),
    Setting::new("server", "head_timeout", "D", "How long a connection may be idle, or take to send the head of a request",
        |s| Field::Duration(&mut s.server.config.head_timeout)).advanced(),
    Setting::new("server", "drain_timeout", "D", "How long requests under way may take when the server stops",
        |s| Field::Duration(&mut s.server.config.drain_timeout)).advanced(),

    Setting::new("node", "server", "URL", "Server address, http://HOST:PORT or https://HOST",
        |s| Field::Text(&mut s.node.server)).default("the saved context's").global("GRISTMILL_SERVER"),
    Setting::new("node", "state", "DIR", "Private directory of the node: identity, caches, scratch; needed",
        |s| Field::Path(&mut s.node.state)),
    Setting::new("node", "join_token_file", "FILE", "File with the join token (`-`: standard input); needed the first time only",
        |s| Field::Path(&mut s.node.join_token_file)),
    Setting::new("node", "name", "NAME", "Name for people; it counts at enrolment",
        |s| Field::Text(&mut s.node.name)).default("the host's name"),
    Setting::new("node", "labels", "K=V", "Label that jobs may ask for",
        |s| Field::Labels(&mut s.node.labels)).flag("label"),
    Setting::new("node", "slots", "N", "Standard slots to offer: 2 cores and 8 GiB each",
        |s| Field::OptionalCount(&mut s.node.slots)).default("as many as fit"),
    Setting::new("node", "cpus", "N", "Cores to offer",
        |s| Field::OptionalCores(&mut s.node.cpus_milli)).default("those of the slots"),
    Setting::new("node", "memory", "SIZE", "Memory to offer, such as 16GiB",
        |s| Field::OptionalBytes(&mut s.node.memory_bytes)).default("that of the slots"),
    Setting::new("node", "attempts_max", "N", "Most attempts at a time, whatever their size",
        |s| Field::OptionalCount(&mut s.node.attempts_max)).default("32 for each core"),
    Setting::new("node", "isolation", "LEVEL", "Do not start unless executors can be isolated at this level or a stronger one: process, cgroup_v1, cgroup_v2",
        |s| Field::Level(&mut s.node.isolation)),
    Setting::new("node", "allow_weak_isolation", "BOOL", "Start even where the kernel offers no system-call or no file rules for executors; jobs that require a level of isolation never come to such a node",
        |s| Field::Flag(&mut s.node.allow_weak_isolation)),
    Setting::new("node", "cache_max", "SIZE", "Space for inputs, trees and compiled code that are kept for later jobs",
        |s| Field::Bytes(&mut s.node.cache_bytes_max)),
    Setting::new("node", "ca_file", "FILE", "PEM file with certificate authorities to trust beside the system's",
        |s| Field::Path(&mut s.node.ca_file)).global("GRISTMILL_CA_FILE"),

    Setting::new("dev", "data", "DIR", "Directory of the database, the blobs and the node's state",
        |s| Field::Path(&mut s.dev.data)).default("dev below the data directory"),
    Setting::new("dev", "listen", "ADDRESS", "Address to listen on; port 0 takes any free port",
        |s| Field::Address(&mut s.dev.listen)),
    Setting::new("dev", "slots", "N", "Standard slots to offer",
        |s| Field::OptionalCount(&mut s.dev.slots)).default("as many as fit"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gristmill_lifecycle::Settings as Rules;
    use gristmill_server::config::{ClientLimits, PaceRule, Retention};

    use super::*;

    #[test]
    fn keys_and_options_are_distinct_and_every_section_is_known() {
        let keys: BTreeSet<_> = SETTINGS.iter().map(Setting::key).collect();
        assert_eq!(keys.len(), SETTINGS.len());
        for (section, _) in SECTIONS {
            let options: Vec<_> = rows(section).map(Setting::option).collect();
            let distinct: BTreeSet<_> = options.iter().collect();
            assert!(!options.is_empty() && distinct.len() == options.len(), "{section}");
        }
        let sections: BTreeSet<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
        assert!(SETTINGS.iter().all(|setting| sections.contains(setting.section)));
    }

    #[test]
    fn every_default_that_is_shown_is_a_value_of_its_setting() {
        for setting in SETTINGS.iter().filter(|setting| setting.default.is_none()) {
            if let Some(text) = setting.default_text() {
                assert_eq!(setting.check(&[text]), Ok(()), "{}", setting.key());
            }
        }
    }

    /// A field that is added to the server's settings does not compile here until it has a row above.
    #[test]
    fn every_field_of_the_servers_settings_has_a_row() {
        let ServerConfig {
            data_dir: _,
            listen: _,
            node_listen: _,
            tls: _,
            behind_proxy: _,
            settings,
            connections_max: _,
            connections_peer_max: _,
            clients,
            head_timeout: _,
            drain_timeout: _,
            // As the variables of OpenTelemetry say.
            sampling: _,
        } = ServerSettings::default().config;
        let Rules {
            lease_ttl: _,
            lease_renew: _,
            lease_stop: _,
            sweep_period: _,
            queue_depth_max: _,
            queue_depth_tenant_max: _,
            infrastructure_retries_max: _,
            backoff_base: _,
            backoff_max: _,
            long_poll_max: _,
            bulk_jobs_max: _,
            bulk_bytes_max: _,
            stream_keep_alive: _,
            stream_slow_max: _,
            idempotency_ttl: _,
            upload_ttl: _,
            upload_age_max: _,
            upload_count_tenant_max: _,
            upload_bytes_tenant_max: _,
            slot_default: _,
            retention,
        } = settings;
        let Retention {
            job_ttl: _,
            log_ttl: _,
            jobs_tenant_max: _,
            bytes_tenant_max: _,
            event_ttl: _,
            audit_ttl: _,
            blob_grace: _,
            period: _,
            leftover_period: _,
        } = retention;
        let ClientLimits {
            requests_max: _,
            polls_max: _,
            transfers_max: _,
            node_requests_max: _,
            token_rate: _,
            stranger_rate: _,
            pace: PaceRule { window: _, bytes_min: _ },
        } = clients;
        // The fields above, of which `tls` and `slot_default` have two rows each.
        assert_eq!(rows("server").count(), (9 + 1) + (20 + 1) + 9 + 8);
    }
}

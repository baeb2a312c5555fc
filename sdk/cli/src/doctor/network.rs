//! Proxies, certificates, and the server.

use std::{path::Path, time::Duration};

use gristmill_client::user::{Client, ClientError, Endpoint, RetryPolicy};
use gristmill_protocol::{ErrorCode, Timestamp, job::JobFilter, units::format_duration_us};

use super::Check;
use crate::{args::Global, connect::configured};

/// Clocks may differ by this much before somebody should know.
const CLOCK_OFFSET_MAX_S: i64 = 15;
/// Before this time no clock can be right: the build is younger.
const CLOCK_LEAST_S: i64 = 1_767_225_600;

/// The proxies that calls go through.
pub(super) fn proxies(variable: &dyn Fn(&str) -> Option<String>) -> Check {
    let names = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let set: Vec<_> = names
        .iter()
        .filter_map(|name| variable(name).filter(|text| !text.is_empty()).map(|text| (*name, text)))
        .collect();
    if set.is_empty() {
        return Check::ok("proxy", "none; calls go straight to the server");
    }
    for (name, text) in &set {
        let with_scheme = if text.contains("://") { text.clone() } else { format!("http://{text}") };
        let is_address = reqwest::Url::parse(&with_scheme).is_ok_and(|url| url.host_str().is_some());
        if !is_address {
            let advice = "set it to http://HOST:PORT, or unset it";
            return Check::failed("proxy", format!("{name} is no address"), advice);
        }
    }
    let used: Vec<_> = set.iter().map(|(name, _)| *name).collect();
    let except = variable("NO_PROXY").or_else(|| variable("no_proxy")).unwrap_or_default();
    let except = if except.is_empty() { "loopback".to_owned() } else { format!("loopback, {except}") };
    Check::ok("proxy", format!("as {} says, except for {except}", used.join(" and ")))
}

/// The files of certificates that are set, and whether there are authorities at all.
pub(super) fn tls(global: &Global) -> Vec<Check> {
    let settings = &global.loaded.settings;
    let ca_file = settings.client.ca_file.clone().or_else(|| settings.node.ca_file.clone());
    let endpoint = Endpoint { server: "https://example.com".into(), token: None, ca_file: ca_file.clone() };
    let authorities = match (Client::new(&endpoint), &ca_file) {
        (Ok(_), Some(path)) => {
            Check::ok("authorities", format!("the system's and those in {}", path.display()))
        }
        (Ok(_), None) => Check::ok("authorities", "the system's"),
        (Err(error), Some(_)) => Check::failed(
            "authorities",
            error.to_string(),
            "let --ca-file, GRISTMILL_CA_FILE or ca_file name a PEM file with the company's authority",
        ),
        (Err(error), None) => Check::warning(
            "authorities",
            format!("no HTTPS server can be trusted: {error}"),
            "install the system's certificates (Debian: ca-certificates), or name a PEM file with --ca-file",
        ),
    };
    let mut checks = vec![authorities];
    if let (Some(cert), Some(key)) = (&settings.server.tls_cert, &settings.server.tls_key) {
        checks.push(certificate(cert, key));
    }
    checks
}

/// The certificate that this machine's server shows, and its key.
fn certificate(cert: &Path, key: &Path) -> Check {
    const NAME: &str = "certificate";
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let advice = "correct server.tls_cert and server.tls_key";
    let (chain, secret) = match (read(cert), read(key)) {
        (Ok(chain), Ok(secret)) => (chain, secret),
        (Err(detail), _) | (_, Err(detail)) => return Check::failed(NAME, detail, advice),
    };
    if !reqwest::Certificate::from_pem_bundle(&chain).is_ok_and(|chain| !chain.is_empty()) {
        return Check::failed(NAME, format!("{} holds no certificate in PEM form", cert.display()), advice);
    }
    if !String::from_utf8_lossy(&secret).contains("PRIVATE KEY-----") {
        return Check::failed(NAME, format!("{} holds no private key in PEM form", key.display()), advice);
    }
    if others_may_read(key) {
        let detail = format!("others may read {}", key.display());
        return Check::warning(NAME, detail, format!("chmod 600 {}", key.display()));
    }
    Check::ok(NAME, format!("{} and its key", cert.display()))
}

fn others_may_read(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}

/// The configured server: whether it answers, knows us, and has the same time.
pub(super) async fn server(global: &Global) -> Vec<Check> {
    let own_time = Timestamp::now();
    let endpoint = match configured(global) {
        Ok(Some(endpoint)) => endpoint,
        Ok(None) => {
            let detail = "none is configured; `gristmill run` uses a private instance";
            return vec![Check::ok("server", detail), own_clock(own_time)];
        }
        Err(error) => {
            let advice = "name another one with --server, or see `gristmill context list`";
            return vec![Check::failed("server", format!("{error:#}"), advice), own_clock(own_time)];
        }
    };
    let client = match Client::new(&endpoint) {
        Ok(client) => client.with_retry(RetryPolicy { tries: 1, ..RetryPolicy::default() }),
        Err(error) => {
            let advice = "correct the address or the CA file";
            return vec![Check::failed("server", error.to_string(), advice), own_clock(own_time)];
        }
    };
    match client.probe().await {
        Err(ClientError::Connection { fault, .. }) => {
            let told = format!("{} cannot be spoken to: {fault}", client.server());
            let not_asked = Check::failed("server", "not asked, for want of a connection", "see `tls`");
            vec![Check::failed("tls", told, fault.hint()), not_asked, own_clock(own_time)]
        }
        Err(error) => {
            let advice = error.hint().unwrap_or_else(|| "check the address and that the server runs".into());
            vec![Check::failed("server", error.to_string(), advice), own_clock(own_time)]
        }
        Ok(probe) => {
            let version = probe.version.map_or_else(String::new, |version| format!(", version {version}"));
            let took = format_duration_us(probe.round_trip.as_micros() as u64);
            let reached = format!("{} answers in {took}{version}", client.server());
            let server = if probe.is_ready {
                Check::ok("server", reached)
            } else {
                let advice = "look at the server's log; it starts, stops, or cannot write";
                Check::failed("server", format!("{} answers, but is not ready", client.server()), advice)
            };
            let mut checks = Vec::new();
            if client.server().starts_with("https:") {
                checks.push(Check::ok("tls", format!("the certificate of {} is trusted", client.server())));
            }
            checks.push(server);
            checks.push(token(&client, endpoint.token.is_some()).await);
            checks.push(clock(probe.clock, probe.round_trip));
            checks
        }
    }
}

/// Whether the server knows the token.
async fn token(client: &Client, is_there: bool) -> Check {
    let one = JobFilter { page_size: Some(1), ..JobFilter::default() };
    let advice =
        "give a token with --token-file or GRISTMILL_TOKEN, or save one with `gristmill context set`";
    match client.job_list(&one).await {
        Ok(_) => Check::ok("token", "the server knows it"),
        // A token for one purpose may not list jobs.
        Err(ClientError::Api { problem, .. }) if problem.code == ErrorCode::Forbidden => {
            Check::ok("token", "the server knows it; it may not list jobs")
        }
        Err(error) if is_there => Check::failed("token", error.to_string(), advice),
        Err(_) => Check::warning("token", "there is none for this server", advice),
    }
}

fn own_clock(now: Timestamp) -> Check {
    if now.as_second() < CLOCK_LEAST_S {
        return Check::failed(
            "clock",
            format!("it says {now}, which is past"),
            "set the clock, and run a time service",
        );
    }
    Check::ok("clock", "plausible; there is no server to compare it with")
}

/// The server's clock against this one. The server's answer names whole seconds.
fn clock(theirs: Option<Timestamp>, round_trip: Duration) -> Check {
    let now = Timestamp::now();
    let Some(theirs) = theirs else { return own_clock(now) };
    let slack = 1 + round_trip.as_secs() as i64;
    let offset = now.as_second() - theirs.as_second();
    if offset.abs() <= CLOCK_OFFSET_MAX_S + slack {
        return Check::ok("clock", format!("within {} s of the server's", offset.abs() + slack));
    }
    let side = if offset > 0 { "ahead of" } else { "behind" };
    Check::warning(
        "clock",
        format!("{} s {side} the server's", offset.abs()),
        "run a time service on both; certificates and requests that nodes sign depend on the time",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_proxy_is_an_address_or_fails() {
        let with = |set: &'static [(&'static str, &'static str)]| {
            proxies(&|name| set.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned()))
        };
        assert_eq!(with(&[]).verdict, Verdict::Ok);
        let through = with(&[("HTTPS_PROXY", "http://user:secret@proxy:3128"), ("NO_PROXY", "example.com")]);
        assert_eq!(through.detail, "as HTTPS_PROXY says, except for loopback, example.com");
        assert_eq!(with(&[("http_proxy", "http://")]).verdict, Verdict::Failed);
    }

    #[test]
    fn a_clock_that_is_off_is_told_with_its_side() {
        let ahead = Timestamp::now() - Duration::from_secs(100);
        assert_eq!(clock(Some(ahead), Duration::ZERO).verdict, Verdict::Warning);
        assert!(clock(Some(ahead), Duration::ZERO).detail.contains("ahead of"));
        assert_eq!(clock(Some(Timestamp::now()), Duration::ZERO).verdict, Verdict::Ok);
        assert_eq!(own_clock(Timestamp::UNIX_EPOCH).verdict, Verdict::Failed);
    }
}

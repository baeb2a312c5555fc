//! The dashboard and what Prometheus is given: whether Grafana can import the one, and what a real Prometheus
//! says to both.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use gristmill_tests::{cli::Home, cluster::free_port, eventually, guests, repository, skip};
use reqwest::Client;
use serde_json::{Value, json};

/// For Prometheus to start, to read the server a few times and to compute rates from that.
const LIMIT: Duration = Duration::from_secs(90);
/// Panels that Grafana has without a plugin, of those that are used here.
const PANELS: [&str; 2] = ["stat", "timeseries"];
/// Ids of units in Grafana, of those that are used here.
const UNITS: [&str; 7] = ["Bps", "bytes", "ops", "percentunit", "reqps", "s", "short"];
/// Widest place on a dashboard, in columns.
const COLUMNS: u64 = 24;

/// The dashboard.
pub(super) fn dashboard() -> Value {
    let file = fs::read(repository().join("deploy/grafana/gristmill.json")).expect("the dashboard");
    serde_json::from_slice(&file).expect("the dashboard is JSON")
}

/// Every expression of the dashboard, with the title of its panel.
pub(super) fn expressions(dashboard: &Value) -> Vec<(&str, &str)> {
    let panels = dashboard["panels"].as_array().expect("panels");
    panels
        .iter()
        .flat_map(|panel| {
            let title = panel["title"].as_str().expect("a title");
            let targets = panel["targets"].as_array().expect("a panel asks something");
            targets.iter().map(move |target| (title, target["expr"].as_str().expect("an expression")))
        })
        .collect()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Names after `$` in a text, with or without braces.
fn variables(text: &str) -> BTreeSet<&str> {
    let after = text.split('$').skip(1).map(|rest| rest.trim_start_matches('{'));
    after
        .map(|rest| {
            let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            &rest[..end.unwrap_or(rest.len())]
        })
        .collect()
}

/// What is wrong with one panel.
fn faults(panel: &Value, source: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |holds: bool, what: &str| {
        if !holds {
            faults.push(format!("{}: {what}", panel["title"]));
        }
    };
    check(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "no title");
    check(PANELS.contains(&panel["type"].as_str().unwrap_or_default()), "another kind of panel");
    check(panel["id"].as_u64().is_some_and(|id| id > 0), "no id");
    check(panel["datasource"] == *source, "another data source");
    let fields = BTreeSet::from(["datasource", "fieldConfig", "gridPos", "id", "targets", "title", "type"]);
    check(keys(panel) == fields, "other fields than those of a panel");
    let place = &panel["gridPos"];
    check(keys(place) == BTreeSet::from(["h", "w", "x", "y"]), "no place");
    check(keys(place).iter().all(|side| place[side].is_u64()), "a place that is no number");
    check(place["h"].as_u64() > Some(0) && place["w"].as_u64() > Some(0), "no room");
    check(place["x"].as_u64().unwrap_or(COLUMNS) + place["w"].as_u64().unwrap_or(1) <= COLUMNS, "too wide");
    let shown = &panel["fieldConfig"];
    check(UNITS.contains(&shown["defaults"]["unit"].as_str().unwrap_or_default()), "another unit");
    check(shown["overrides"].is_array(), "no list of overrides");
    let targets = panel["targets"].as_array().expect("targets");
    let marks: BTreeSet<_> = targets.iter().map(|target| target["refId"].as_str()).collect();
    check(marks.len() == targets.len() && !marks.contains(&None), "targets that are called the same");
    for target in targets {
        check(target["datasource"] == *source, "a target of another data source");
        let fields = BTreeSet::from(["datasource", "expr", "legendFormat", "refId"]);
        check(keys(target) == fields, "other fields than those of a target");
        check(target["legendFormat"].is_string(), "no legend");
    }
    faults
}

#[test]
fn the_dashboard_is_one_that_grafana_imports_as_it_stands() {
    let dashboard = dashboard();
    // With an id of its own it would replace another dashboard; Grafana finds it again by its uid.
    assert!(dashboard["id"].is_null());
    let uid = dashboard["uid"].as_str().expect("a uid");
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    assert!((1..=40).contains(&uid.len()) && uid.chars().all(is_plain), "{uid}");
    assert!(dashboard["title"].as_str().is_some_and(|title| !title.is_empty()));
    // Since 36 data sources are objects, which these panels need; 42 is the last of this model.
    assert!((36..=42).contains(&dashboard["schemaVersion"].as_u64().expect("a version")));
    assert!(dashboard["time"]["from"].is_string() && dashboard["time"]["to"].is_string());
    assert!(dashboard["annotations"]["list"].is_array() && dashboard["tags"].is_array());

    let source = json!({"type": "prometheus", "uid": "${source}"});
    let panels = dashboard["panels"].as_array().expect("panels");
    let faults: Vec<_> = panels.iter().flat_map(|panel| faults(panel, &source)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    for field in ["id", "title"] {
        let names: BTreeSet<_> = panels.iter().map(|panel| panel[field].to_string()).collect();
        assert_eq!(names.len(), panels.len(), "each panel has its own {field}");
    }
    let mut taken = BTreeMap::new();
    for panel in panels {
        let side = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                let before = taken.insert((x, y), &panel["title"]);
                assert!(before.is_none(), "{} lies on {}", panel["title"], before.expect("a panel"));
            }
        }
    }

    let defined = dashboard["templating"]["list"].as_array().expect("variables");
    let sources = defined.iter().filter(|one| one["type"] == "datasource" && one["query"] == "prometheus");
    assert_eq!(sources.map(|one| one["name"].as_str()).collect::<Vec<_>>(), [Some("source")]);
    let defined: BTreeSet<_> = defined.iter().map(|one| one["name"].as_str().expect("a name")).collect();
    let text = dashboard.to_string();
    let used: BTreeSet<_> = variables(&text).into_iter().filter(|name| *name != "__rate_interval").collect();
    assert_eq!(used, defined, "variables are those that are defined");
}

/// A Prometheus in a directory of its own. Killed when dropped.
struct Prometheus {
    child: Child,
    url: String,
    http: Client,
}

impl Prometheus {
    /// Starts one that reads a server every second; `None` after saying so when there is none and the run is
    /// told to do without.
    fn start(dir: &Path, server: &str) -> Option<Self> {
        let deploy = repository().join("deploy/prometheus");
        fs::copy(deploy.join("gristmill.rules.yml"), dir.join("gristmill.rules.yml")).expect("copied");
        let mut config = fs::read_to_string(deploy.join("prometheus.yml")).expect("the configuration");
        for (there, here) in [
            ("127.0.0.1:7070", server),
            ("/etc/prometheus/gristmill.token", &*super::text(&dir.join("gristmill.token"))),
            ("scrape_interval: 15s", "scrape_interval: 1s\n  evaluation_interval: 1s"),
        ] {
            assert!(config.contains(there), "{there} is not in\n{config}");
            config = config.replace(there, here);
        }
        let file = dir.join("prometheus.yml");
        fs::write(&file, config).expect("written");
        let port = free_port();
        let log = fs::File::create(dir.join("prometheus.log")).expect("a log");
        let started = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = match started {
            Ok(child) => child,
            Err(error) => {
                skip::without("PROMTOOL", format_args!("prometheus (Debian): {error}"));
                return None;
            }
        };
        let http = Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().expect("a client");
        Some(Self { child, url: format!("http://127.0.0.1:{port}"), http })
    }

    /// The data of an answer of its API, or why there is none.
    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let asked = self.http.get(format!("{}/api/v1/{path}", self.url)).query(query).send().await;
        let answer: Value = match asked {
            Ok(answer) => answer.json().await.map_err(|error| error.to_string())?,
            Err(error) => return Err(error.to_string()),
        };
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer.to_string()) }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What Prometheus says to every panel, until none is empty any more.
async fn expect_every_panel_to_show_something(prometheus: &Prometheus, dir: &Path) {
    let dashboard = dashboard();
    let asked = expressions(&dashboard);
    let give_up = std::time::Instant::now() + LIMIT;
    loop {
        let mut empty = Vec::new();
        for (title, expression) in &asked {
            let expression = expression.replace("$__rate_interval", "1m");
            match prometheus.ask("query", &[("query", &expression)]).await {
                Ok(data) if data["result"].as_array().is_some_and(|series| !series.is_empty()) => {}
                Ok(_) => empty.push(format!("{title}: nothing for {expression}")),
                Err(error) => empty.push(format!("{title}: {expression}: {error}")),
            }
        }
        if empty.is_empty() {
            return;
        }
        let log = || fs::read_to_string(dir.join("prometheus.log")).unwrap_or_default();
        assert!(std::time::Instant::now() < give_up, "{empty:#?}\n{}", log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_reads_a_server_and_answers_every_panel_and_every_alert() {
    let home = Home::default();
    let server = format!("127.0.0.1:{}", free_port());
    let mut dev = home.start(["dev", "--listen", &server]);
    dev.wait_for_stdout("Ctrl-C");
    let token = super::text(&home.path().join("gristmill.token"));
    let made = ["token", "create", "--name", "prometheus", "--scopes", "metrics", "--secret-file", &token];
    home.run(made).expect_code(0);
    let Some(prometheus) = Prometheus::start(home.path(), &server) else { return };
    // One that succeeds, one that fails, and a request that is refused, so that no panel has to be empty.
    let module = |name: &str, bytes| super::text(&home.file(name, bytes));
    home.run(["run", &module("works.wasm", guests::noop())]).expect_code(0);
    let failed = home.run(["run", &module("fails.wasm", guests::exits_with(3))]);
    assert_ne!(failed.code, 0);
    prometheus.http.get(format!("http://{server}/v1/jobs")).send().await.expect("a refusal");

    expect_every_panel_to_show_something(&prometheus, home.path()).await;
    let targets = prometheus.ask("targets", &[]).await.expect("the targets");
    let target = &targets["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&json!("up"), &json!("")), "{targets}");

    let text = fs::read_to_string(home.path().join("gristmill.rules.yml")).expect("the rules");
    let count = text.lines().filter(|line| line.trim().starts_with("- alert:")).count();
    let rules = eventually("the rules to be evaluated", LIMIT, || async {
        let groups = prometheus.ask("rules", &[]).await.ok()?;
        let rules = groups["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    })
    .await;
    assert!(count > 10 && rules.len() == count, "{} of {count} rules", rules.len());
    let broken: Vec<_> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
    assert!(broken.is_empty(), "{broken:#?}");

    drop(dev);
    eventually("the alert that the server is gone", LIMIT, || async {
        let alerts = prometheus.ask("alerts", &[]).await.ok()?;
        let alerts = alerts["alerts"].as_array()?;
        alerts.iter().any(|alert| alert["labels"]["alertname"] == "GristmillServerDown").then_some(())
    })
    .await;
}

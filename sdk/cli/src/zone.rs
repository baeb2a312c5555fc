//! `gristmill zone`: zones and their policies.

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use gristmill_protocol::{
    OuterLimit,
    limits::SlotSize,
    zone::{ZonePolicy, ZoneSpec, ZoneView},
};
use serde_json::json;

use crate::{
    args::Global,
    connect::connect,
    failure::{Exit, Failure},
    job_args::{bytes, cpus_milli},
    printer::{Printer, pairs, slot, time},
    table::table,
};

/// Zones and their policies
#[derive(Debug, Subcommand)]
pub(crate) enum ZoneCommand {
    /// List zones
    List,
    /// Make a zone
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        settings: ZoneSettings,
    },
    /// Show a zone
    Show {
        /// Its name
        name: String,
    },
    /// Change what is given and leave the rest
    Set {
        /// Its name
        name: String,
        #[command(flatten)]
        settings: ZoneSettings,
    },
}

/// What a zone is for and what it allows
#[derive(Debug, Default, Args)]
pub(crate) struct ZoneSettings {
    /// Text for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Only these tenants may use it; `all` for every tenant
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    tenants: Option<Vec<String>>,
    /// Most cores that a job may ask for here; with --slot-max-memory
    #[arg(long, value_name = "N", value_parser = cpus_milli)]
    slot_max_cpus: Option<u32>,
    /// Most memory that a job may ask for here; with --slot-max-cpus
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    slot_max_memory: Option<u64>,
    /// Have no bound for what a job may ask for
    #[arg(long, conflicts_with_all = ["slot_max_cpus", "slot_max_memory"])]
    no_slot_max: bool,
    /// Run jobs only on nodes with this level of isolation or a stronger one; `any` for every node
    #[arg(long, value_name = "LEVEL", value_parser = required_level())]
    isolation: Option<Required>,
    /// Let jobs run with any isolation, as `--isolation any`
    #[arg(long, conflicts_with = "isolation")]
    no_isolation: bool,
}

/// What a zone requires of its nodes' isolation, if anything.
#[derive(Debug, Clone, Copy)]
struct Required(Option<OuterLimit>);

/// The word for no requirement, in tables and on the command line.
const ANY: &str = "any";

fn required_level() -> impl TypedValueParser<Value = Required> {
    let levels = OuterLimit::ALL.iter().map(|level| level.as_str());
    PossibleValuesParser::new(levels.chain([ANY])).try_map(|text| {
        if text == ANY { Ok(Required(None)) } else { text.parse().map(|level| Required(Some(level))) }
    })
}

impl ZoneSettings {
    fn apply(self, spec: &mut ZoneSpec) -> Result<(), Failure> {
        if let Some(description) = self.description {
            spec.description = description;
        }
        if let Some(tenants) = self.tenants {
            spec.policy.tenants = if tenants == ["all"] { Vec::new() } else { tenants };
        }
        if let Some(Required(level)) = self.isolation.or(self.no_isolation.then_some(Required(None))) {
            spec.policy.isolation = level;
        }
        if self.no_slot_max {
            spec.policy.slot_max = None;
        }
        let former = spec.policy.slot_max;
        let cpus = self.slot_max_cpus.or(former.map(|slot| slot.cpus_milli));
        let memory = self.slot_max_memory.or(former.map(|slot| slot.memory_bytes));
        spec.policy.slot_max = match (cpus, memory) {
            (Some(cpus_milli), Some(memory_bytes)) => Some(SlotSize { cpus_milli, memory_bytes }),
            (None, None) => None,
            _ => return Err(Failure::usage("the largest slot needs --slot-max-cpus and --slot-max-memory")),
        };
        Ok(())
    }
}

/// Runs the command.
pub(crate) async fn run(command: ZoneCommand, global: &Global) -> anyhow::Result<Exit> {
    let connection = connect(global).await?;
    let client = &connection.client;
    let printer = Printer::new(global.json());
    match command {
        ZoneCommand::List => {
            let zones = client.zone_list().await?;
            printer.show(&json!({ "items": zones }), |_| zones_table(&zones))?;
        }
        ZoneCommand::Create { name, settings } => {
            let mut spec = ZoneSpec { name, description: String::new(), policy: ZonePolicy::default() };
            settings.apply(&mut spec)?;
            printer.show(&client.zone_create(&spec).await?, details)?;
        }
        ZoneCommand::Show { name } => printer.show(&client.zone_get(&name).await?, details)?,
        ZoneCommand::Set { name, settings } => {
            let zone = client.zone_get(&name).await?;
            let mut spec = ZoneSpec { name: zone.name, description: zone.description, policy: zone.policy };
            settings.apply(&mut spec)?;
            printer.show(&client.zone_set(&spec, zone.version).await?, details)?;
        }
    }
    Ok(Exit::Ok)
}

fn tenants(policy: &ZonePolicy) -> String {
    if policy.tenants.is_empty() { "all".into() } else { policy.tenants.join(", ") }
}

fn slot_max(policy: &ZonePolicy) -> String {
    policy.slot_max.map_or_else(|| ANY.into(), |max| slot(max.cpus_milli, max.memory_bytes))
}

fn isolation(policy: &ZonePolicy) -> String {
    policy.isolation.map_or_else(|| ANY.into(), |level| level.to_string())
}

fn zones_table(zones: &[ZoneView]) -> String {
    let rows = zones.iter().map(|zone| {
        vec![
            zone.name.clone(),
            tenants(&zone.policy),
            slot_max(&zone.policy),
            isolation(&zone.policy),
            zone.description.clone(),
        ]
    });
    table(&["name", "tenants", "largest slot", "isolation", "description"], rows)
}

fn details(zone: &ZoneView) -> String {
    pairs(&[
        ("name", Some(zone.name.clone())),
        ("description", (!zone.description.is_empty()).then(|| zone.description.clone())),
        ("tenants", Some(tenants(&zone.policy))),
        ("largest slot", Some(slot_max(&zone.policy))),
        ("isolation", Some(isolation(&zone.policy))),
        ("created", Some(time(zone.created_at))),
        ("version", Some(zone.version.to_string())),
    ])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        settings: ZoneSettings,
    }

    fn given(words: &[&str]) -> Result<ZoneSettings, clap::Error> {
        Line::try_parse_from([&["x"], words].concat()).map(|line| line.settings)
    }

    fn spec() -> ZoneSpec {
        let slot_max = Some(SlotSize { cpus_milli: 1_000, memory_bytes: 1 << 30 });
        let policy =
            ZonePolicy { tenants: vec!["a".into()], slot_max, isolation: Some(OuterLimit::CgroupV1) };
        ZoneSpec { name: "z".into(), description: "old".into(), policy }
    }

    #[test]
    fn what_is_not_given_stays_as_it_is() {
        let mut changed = spec();
        ZoneSettings { slot_max_cpus: Some(4_000), ..ZoneSettings::default() }
            .apply(&mut changed)
            .expect("a valid change");
        assert_eq!(changed.policy.slot_max, Some(SlotSize { cpus_milli: 4_000, memory_bytes: 1 << 30 }));
        assert_eq!((changed.description.as_str(), changed.policy.tenants.len()), ("old", 1));
        assert_eq!(changed.policy.isolation, Some(OuterLimit::CgroupV1));
        ZoneSettings { isolation: Some(Required(Some(OuterLimit::CgroupV2))), ..ZoneSettings::default() }
            .apply(&mut changed)
            .expect("a valid change");
        assert_eq!(changed.policy.isolation, Some(OuterLimit::CgroupV2));
        for word in ["--isolation=any", "--no-isolation"] {
            let mut open = changed.clone();
            given(&[word]).expect("a valid line").apply(&mut open).expect("a valid change");
            assert_eq!(open.policy, ZonePolicy { isolation: None, ..changed.policy.clone() }, "{word}");
        }
        given(&["--isolation", "process"])
            .expect("a valid line")
            .apply(&mut changed)
            .expect("a valid change");
        assert_eq!(changed.policy.isolation, Some(OuterLimit::Process));
        assert!(given(&["--isolation", "none"]).is_err_and(|error| error.to_string().contains("any")));
        ZoneSettings { no_isolation: true, ..ZoneSettings::default() }
            .apply(&mut changed)
            .expect("a valid change");
        ZoneSettings { no_slot_max: true, tenants: Some(vec!["all".into()]), ..ZoneSettings::default() }
            .apply(&mut changed)
            .expect("a valid change");
        assert_eq!(changed.policy, ZonePolicy::default());
        let half = ZoneSettings { slot_max_cpus: Some(1), ..ZoneSettings::default() };
        assert!(half.apply(&mut changed).is_err());
    }
}

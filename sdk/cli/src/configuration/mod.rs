//! The settings of every command, in layers: option, then environment, then file, then default.

mod example;
mod field;
mod file;
mod flags;
mod manual;
mod rules;
mod settings;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

pub(crate) use self::{
    example::example,
    field::{bytes_text, duration_text},
    file::Problem,
    flags::{DevFlags, Given, NodeFlags, ServerFlags},
    manual::manual,
    settings::{SECTIONS, SETTINGS, Setting, Settings},
};
use crate::{environment, failure::Failure};

/// The file of a whole machine.
const SYSTEM_FILE: &str = "/etc/gristmill/gristmill.toml";
/// The file of one user, below the configuration directory.
const USER_FILE: &str = "gristmill.toml";

/// Where a value comes from; the later one of these wins.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// Nobody said anything.
    #[default]
    Default,
    /// A line of a file.
    File(PathBuf, usize),
    /// A variable.
    Environment(String),
    /// An option, with its dashes.
    Option(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Option(name) => write!(f, "option {name}"),
        }
    }
}

/// What settings are made of.
pub(crate) struct Sources<'a> {
    /// The file named by `--config`.
    pub(crate) file: Option<&'a Path>,
    /// What the command line says.
    pub(crate) given: Given,
    /// The environment.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    /// Whether they are for a service: then a machine's file that cannot be read is an error.
    pub(crate) is_service: bool,
}

/// The settings in force, each with its origin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded {
    /// The values.
    pub(crate) settings: Settings,
    /// The file that was read, if any.
    pub(crate) file: Option<PathBuf>,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Puts the layers together. Fails with everything that is wrong with the first layer that has
    /// something wrong.
    pub(crate) fn from(sources: Sources<'_>) -> Result<Self, Failure> {
        let mut loaded = Self::default();
        let named = sources.file.map(Path::to_owned).or_else(|| named_by(sources.variable));
        if let Some((path, text)) = find(named, sources.is_service)? {
            let problems = loaded.add_file(&path, &text);
            if !problems.is_empty() {
                return Err(refuse(&path, &problems));
            }
            loaded.file = Some(path);
        }
        loaded.add_environment(sources.variable)?;
        loaded.add_options(sources.given)?;
        let problems = rules::check(&loaded);
        match problems.first() {
            None => Ok(loaded),
            Some(problem) => {
                let failure =
                    Failure::usage(format!("{}: {}", problem.key, problem.detail)).code("configuration");
                let origins = "`gristmill config show --origin` says where each setting comes from";
                Err(failure.hint(problem.hint.as_deref().unwrap_or(origins)))
            }
        }
    }

    fn add_file(&mut self, path: &Path, text: &str) -> Vec<Problem> {
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        let (said, problems) = file::read(text, &dir);
        for said in said {
            // The texts were checked when they were read.
            let _ = self.set(said.setting, &said.texts, Origin::File(path.to_owned(), said.line));
        }
        problems
    }

    fn add_environment(&mut self, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), Failure> {
        for setting in SETTINGS {
            let name = setting.variable();
            let Some(text) = variable(&name).filter(|text| !text.trim().is_empty()) else { continue };
            let texts: Vec<_> = text.split(',').map(|part| part.trim().to_owned()).collect();
            let texts = if setting.value == "K=V" { texts } else { vec![text.trim().to_owned()] };
            let set = self.set(setting, &texts, Origin::Environment(name.clone()));
            set.map_err(|detail| Failure::usage(format!("{name}: {detail}")).code("configuration"))?;
        }
        Ok(())
    }

    fn add_options(&mut self, given: Given) -> Result<(), Failure> {
        for (option, texts) in given.0 {
            let named = SETTINGS.iter().filter(|setting| match option {
                flags::Name::Global(name) => setting.is_global && setting.option() == name,
                flags::Name::Of(section, name) => setting.section == section && setting.name == name,
            });
            for setting in named {
                let name = format!("--{}", setting.option());
                let set = self.set(setting, &texts, Origin::Option(name.clone()));
                set.map_err(|detail| Failure::usage(format!("{name}: {detail}")))?;
            }
        }
        Ok(())
    }

    fn set(&mut self, setting: &Setting, texts: &[String], origin: Origin) -> Result<(), String> {
        (setting.field)(&mut self.settings).set(texts)?;
        self.origins.insert(setting.key(), origin);
        Ok(())
    }

    /// Where the value of a setting comes from.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or_default()
    }

    /// A setting's value as text, if it has one; secrets are not shown.
    pub(crate) fn shown(&self, setting: &Setting) -> Option<String> {
        (setting.field)(&mut self.settings.clone()).show()
    }
}

/// The path of a setting that a command cannot do without, made absolute.
pub(crate) fn needed(key: &str, path: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = path {
        return Ok(std::path::absolute(path)?);
    }
    let setting = SETTINGS.iter().find(|setting| setting.key() == key);
    let (option, variable) = setting.map(|row| (row.option(), row.variable())).unwrap_or_default();
    let hint =
        format!("give --{option}, set {variable}, or write it into a file (`gristmill config example`)");
    Err(Failure::usage(format!("{key} is needed and nowhere set")).hint(hint).into())
}

/// The file that is read when no option names one.
pub(crate) fn file_in_force(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<PathBuf>, Failure> {
    Ok(find(named_by(variable), false)?.map(|(path, _)| path))
}

fn named_by(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    variable("GRISTMILL_CONFIG").filter(|text| !text.is_empty()).map(PathBuf::from)
}

/// The file that counts and its text: the named one, else the user's, else the machine's.
fn find(named: Option<PathBuf>, is_service: bool) -> Result<Option<(PathBuf, String)>, Failure> {
    let is_named = named.is_some();
    let user = environment::config_dir().map(|dir| dir.join(USER_FILE)).ok();
    let candidates =
        named.map_or_else(|| user.into_iter().chain([SYSTEM_FILE.into()]).collect(), |path| vec![path]);
    for path in candidates {
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(Some((std::path::absolute(&path).unwrap_or(path), text))),
            Err(error) if !is_named && is_absent(&error, is_service) => {}
            Err(error) => {
                let hint = "name a file that can be read with --config or GRISTMILL_CONFIG";
                let detail = format!("cannot read the settings in {}: {error}", path.display());
                return Err(Failure::local(detail).code("configuration").hint(hint));
            }
        }
    }
    Ok(None)
}

/// A machine's file may be for its services alone; for others it is as if it were not there.
fn is_absent(error: &std::io::Error, is_service: bool) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    match error.kind() {
        NotFound | NotADirectory => true,
        PermissionDenied => !is_service,
        _ => false,
    }
}

fn refuse(path: &Path, problems: &[Problem]) -> Failure {
    let lines: Vec<_> =
        problems.iter().map(|problem| format!("{}:{}", path.display(), problem.text())).collect();
    Failure::local(lines.join("\n"))
        .code("configuration")
        .hint(format!("correct the file; `gristmill config check {}` checks it", path.display()))
}

/// Everything that is wrong with a file, and how many settings it makes.
pub(crate) fn check(path: &Path, text: &str) -> (usize, Vec<Problem>) {
    let mut loaded = Loaded::default();
    let mut problems = loaded.add_file(path, text);
    for mut problem in rules::check(&loaded) {
        if let Origin::File(_, line) = loaded.origin(&problem.key) {
            problem.line = Some(line);
        }
        problems.push(problem);
    }
    (loaded.origins.len(), problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        file: &str,
        variables: &[(&str, &str)],
        given: &[(&'static str, &'static str, &str)],
    ) -> Result<Loaded, Failure> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("settings.toml");
        std::fs::write(&path, file).expect("written");
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let given = given
            .iter()
            .map(|(section, name, text)| (flags::Name::Of(section, name), vec![(*text).to_owned()]));
        Loaded::from(Sources {
            file: Some(&path),
            given: Given(given.collect()),
            variable: &variable,
            is_service: false,
        })
    }

    #[test]
    fn an_option_beats_a_variable_beats_the_file_beats_the_default() {
        let file = "[server]\nlease_ttl = \"40s\"\nlease_stop = \"26s\"\nlease_renew = \"5s\"\n";
        let variables = [("GRISTMILL_SERVER_LEASE_TTL", "50s"), ("GRISTMILL_SERVER_LEASE_STOP", "27s")];
        let loaded = load(file, &variables, &[("server", "lease_ttl", "1m")]).expect("valid");
        let rules = &loaded.settings.server.config.settings;
        let seconds =
            [rules.lease_ttl, rules.lease_stop, rules.lease_renew, rules.sweep_period].map(|d| d.as_secs());
        assert_eq!(seconds, [60, 27, 5, 1]);
        let origin = |key: &str| loaded.origin(key).to_string();
        assert_eq!(origin("server.lease_ttl"), "option --lease-ttl");
        assert_eq!(origin("server.lease_stop"), "environment GRISTMILL_SERVER_LEASE_STOP");
        assert!(origin("server.lease_renew").ends_with("settings.toml:4"));
        assert_eq!(origin("server.sweep_period"), "default");
    }

    #[test]
    fn labels_of_a_higher_layer_replace_those_below() {
        let file = "[node.labels]\na = \"1\"\n";
        let loaded = load(file, &[("GRISTMILL_NODE_LABELS", "b=2, c=3")], &[]).expect("valid");
        assert_eq!(
            loaded.shown(SETTINGS.iter().find(|s| s.name == "labels").expect("a row")).as_deref(),
            Some("b=2,c=3")
        );
    }

    #[test]
    fn a_wrong_variable_is_named_and_a_secret_is_not_shown() {
        let error = load("", &[("GRISTMILL_NODE_CACHE_MAX", "lots")], &[]).expect_err("refused").to_string();
        assert!(error.starts_with("GRISTMILL_NODE_CACHE_MAX: \"lots\" is not understood"), "{error}");
        let loaded = load("", &[("GRISTMILL_TOKEN", "gmu_secret")], &[]).expect("valid");
        for setting in SETTINGS {
            assert!(
                !loaded.shown(setting).is_some_and(|text| text.contains("gmu_secret")),
                "{}",
                setting.key()
            );
        }
        assert!(!format!("{loaded:?}").contains("gmu_secret"));
    }

    #[test]
    fn settings_that_do_not_go_together_are_named_with_their_lines() {
        let (count, problems) = check(Path::new("x.toml"), "[server]\n\nlease_ttl = \"20s\"\n");
        assert_eq!((count, problems.len()), (1, 1));
        assert_eq!(problems[0].line, Some(3), "{problems:?}");
        assert!(problems[0].detail.contains("server.lease_stop"), "{problems:?}");
    }

    #[test]
    fn a_slot_that_no_job_may_have_is_refused_wherever_it_is_set() {
        let slot = |setting: &str| check(Path::new("x.toml"), &format!("[server]\n{setting}\n")).1;
        for fits in
            ["slot_memory = \"8GiB\"", "slot_memory = \"64KiB\"", "slot_cpus = 256", "slot_cpus = 0.01"]
        {
            assert_eq!(slot(fits), [], "{fits}");
        }
        for (refused, key, rule) in [
            ("slot_memory = \"9GiB\"", "server.slot_memory", "must be from 64KiB to 8GiB, found 9GiB, "),
            ("slot_memory = \"8589934593\"", "server.slot_memory", "to 8GiB, found 8589934593, "),
            ("slot_memory = \"1KiB\"", "server.slot_memory", "must be from 64KiB to 8GiB, found 1KiB, "),
            ("slot_cpus = 257", "server.slot_cpus", "must be from 0.01 to 256, found 257, "),
            ("slot_cpus = 0.009", "server.slot_cpus", "must be from 0.01 to 256, found 0.009, "),
        ] {
            let problems = slot(refused);
            assert_eq!(problems.len(), 1, "{refused}: {problems:?}");
            assert_eq!((problems[0].key.as_str(), problems[0].line), (key, Some(2)), "{problems:?}");
            assert!(problems[0].detail.contains(rule), "{problems:?}");
            assert!(problems[0].hint.is_some(), "{problems:?}");
        }
        let error = load("", &[("GRISTMILL_SERVER_SLOT_MEMORY", "16GiB")], &[]).expect_err("refused");
        assert!(error.to_string().starts_with("server.slot_memory: must be from 64KiB to 8GiB"), "{error}");
        load("", &[], &[("server", "slot_cpus", "300")]).expect_err("refused as an option too");
    }
}

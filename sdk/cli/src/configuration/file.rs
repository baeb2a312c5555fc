//! Reads a file of settings: what it says, line by line, and everything that is wrong with it.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::settings::{SECTIONS, SETTINGS, Setting, Settings, rows};

/// Most mistakes of the notation that are reported; later ones follow from earlier ones.
const SYNTAX_PROBLEMS_MAX: usize = 3;

/// A setting that a file names.
#[derive(Debug)]
pub(crate) struct Said {
    /// Which one.
    pub(crate) setting: &'static Setting,
    /// Its texts.
    pub(crate) texts: Vec<String>,
    /// The line, from 1.
    pub(crate) line: usize,
}

/// Something that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Problem {
    /// The line of the file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<usize>,
    /// The key as it stands there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) key: String,
    /// What is wrong.
    pub(crate) detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

impl Problem {
    /// `LINE: KEY: what is wrong; what to do`, as far as they are known.
    pub(crate) fn text(&self) -> String {
        let line = self.line.map(|line| format!("{line}: ")).unwrap_or_default();
        let key = if self.key.is_empty() { String::new() } else { format!("{}: ", self.key) };
        let hint = self.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("{line}{key}{}{hint}", self.detail)
    }
}

/// What the text of a file says. Relative paths are made relative to `dir`, the file's own directory.
pub(crate) fn read(text: &str, dir: &Path) -> (Vec<Said>, Vec<Problem>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let lines = Lines(text);
    let mut reading = Reading { lines, dir, said: Vec::new(), problems: Vec::new() };
    if errors.is_empty() {
        for (name, value) in table.get_ref() {
            reading.section(name.get_ref(), value.get_ref(), name.span().start);
        }
        reading.said.sort_by_key(|said| said.line);
        reading.problems.sort_by_key(|problem| problem.line);
    }
    for error in errors.iter().take(SYNTAX_PROBLEMS_MAX) {
        let line = error.span().map(|span| reading.lines.of(span.start));
        let detail = error.message().lines().collect::<Vec<_>>().join(", ");
        let hint = Some("write TOML: [section] and name = value".into());
        reading.problems.push(Problem { line, key: String::new(), detail, hint });
    }
    (reading.said, reading.problems)
}

struct Lines<'a>(&'a str);

impl Lines<'_> {
    fn of(&self, offset: usize) -> usize {
        1 + self.0.bytes().take(offset).filter(|&byte| byte == b'\n').count()
    }
}

struct Reading<'a> {
    lines: Lines<'a>,
    dir: &'a Path,
    said: Vec<Said>,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn section(&mut self, section: &str, value: &DeValue<'_>, at: usize) {
        let line = self.lines.of(at);
        if !SECTIONS.iter().any(|(name, _)| *name == section) {
            let (detail, hint) = unknown_section(section, value);
            return self.problem(line, section, detail, Some(hint));
        }
        let DeValue::Table(table) = value else {
            let hint = format!("write [{section}] and the settings below it");
            return self.problem(line, section, "is a section, no setting".into(), Some(hint));
        };
        for (name, value) in table {
            let line = self.lines.of(name.span().start);
            self.setting(section, name.get_ref(), value.get_ref(), line);
        }
    }

    fn setting(&mut self, section: &str, name: &str, value: &DeValue<'_>, line: usize) {
        let key = format!("{section}.{name}");
        let Some(setting) = rows(section).find(|setting| setting.name == name) else {
            let hint = unknown_key(section, name);
            return self.problem(line, &key, "is no known key".into(), Some(hint));
        };
        if setting.is_secret {
            let hint = format!("set {} or name a file with token_file", setting.variable());
            return self.problem(line, &key, "is a secret and belongs in no file".into(), Some(hint));
        }
        let field = (setting.field)(&mut Settings::default()).texts_of(value);
        match field.and_then(|texts| setting.check(&texts).map(|()| texts)) {
            Err(detail) => self.problem(line, &key, detail, None),
            Ok(mut texts) => {
                let is_path = setting.value == "DIR" || (setting.value == "FILE" && texts != ["-"]);
                if is_path {
                    texts = texts.iter().map(|text| self.dir.join(text).display().to_string()).collect();
                }
                self.said.push(Said { setting, texts, line });
            }
        }
    }

    fn problem(&mut self, line: usize, key: &str, detail: String, hint: Option<String>) {
        self.problems.push(Problem { line: Some(line), key: key.to_owned(), detail, hint });
    }
}

fn unknown_section(name: &str, value: &DeValue<'_>) -> (String, String) {
    let at_home: Vec<_> = SETTINGS.iter().filter(|setting| setting.name == name).collect();
    if let (false, Some(setting)) = (value.is_table(), at_home.first()) {
        let homes: Vec<_> = at_home.iter().map(|setting| format!("[{}]", setting.section)).collect();
        return (
            "stands outside of a section".into(),
            format!("put {} below {}", setting.name, homes.join(" or ")),
        );
    }
    let sections: Vec<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
    let hint = match nearest(name, &sections) {
        Some(near) => format!("did you mean [{near}]?"),
        None => format!("known are {}", sections.join(", ")),
    };
    ("is no known section".into(), hint)
}

fn unknown_key(section: &str, name: &str) -> String {
    let names: Vec<_> = rows(section).filter(|row| !row.is_secret).map(|row| row.name).collect();
    // The name of the option, which differs in its dashes.
    let name = name.replace('-', "_");
    if let Some(near) = nearest(&name, &names) {
        return format!("did you mean {near}?");
    }
    match SETTINGS.iter().find(|setting| setting.name == name) {
        Some(setting) => format!("it belongs below [{}]", setting.section),
        None => format!("known are {}", names.join(", ")),
    }
}

/// The word that a mistyped one most likely stands for.
fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let allowed = (typed.chars().count() / 3).max(2);
    let distances = known.iter().map(|word| (strsim::damerau_levenshtein(typed, word), *word));
    let near = distances.filter(|(distance, word)| {
        *distance <= allowed || (typed.len() > 3 && (word.contains(typed) || typed.contains(word)))
    });
    near.min_by_key(|(distance, _)| *distance).map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        read(text, Path::new("/etc/gristmill")).1.iter().map(Problem::text).collect()
    }

    #[test]
    fn a_wrong_key_is_named_with_its_line_and_the_nearest_known_one() {
        assert_eq!(
            problems("[server]\nlisten = \"127.0.0.1:1\"\n\nlease_tll = \"30s\"\n"),
            ["4: server.lease_tll: is no known key; did you mean lease_ttl?"]
        );
        assert_eq!(
            problems("[server]\nlease-ttl = \"1s\""),
            ["2: server.lease-ttl: is no known key; did you mean lease_ttl?"]
        );
        assert_eq!(problems("[sever]"), ["1: sever: is no known section; did you mean [server]?"]);
        assert_eq!(
            problems("cache_max = \"1GiB\""),
            ["1: cache_max: stands outside of a section; put cache_max below [node]"]
        );
        assert_eq!(
            problems("[server]\ncache_max = \"1GiB\""),
            ["2: server.cache_max: is no known key; it belongs below [node]"]
        );
    }

    #[test]
    fn a_wrong_value_is_named_with_what_should_stand_there() {
        assert_eq!(
            problems(
                "[server]\nlease_ttl = 30\nbehind_proxy = \"yes\"\nqueue_depth_max = 0\nlisten = \"7070\""
            ),
            [
                "2: server.lease_ttl: a duration in quotes, such as \"30s\", should stand here, not a number",
                "3: server.behind_proxy: true or false, without quotes, should stand here, not a text",
                "4: server.queue_depth_max: \"0\" is not understood; write a whole number from 1",
                "5: server.listen: \"7070\" is no address with a port, such as 127.0.0.1:7070",
            ]
        );
        assert_eq!(
            problems("[client]\ntoken = \"gmu_x\""),
            [
                "2: client.token: is a secret and belongs in no file; set GRISTMILL_TOKEN or name a file with token_file"
            ]
        );
    }

    #[test]
    fn what_is_no_toml_is_named_with_its_line() {
        let found = problems("[server]\nlisten 127.0.0.1\n");
        assert!(found[0].starts_with("2: "), "{found:?}");
        assert!(problems("[server]\ndata = \"a\"\ndata = \"b\"\n")[0].starts_with("3: "));
    }

    #[test]
    fn relative_paths_are_below_the_directory_of_the_file_and_labels_are_a_table() {
        let (said, problems) = read(
            "[node]\nstate = \"state\"\njoin_token_file = \"-\"\nlabels = { gpu = \"no\", os = \"linux\" }\ncpus = 1.5",
            Path::new("/etc/gristmill"),
        );
        assert_eq!(problems, []);
        let texts: Vec<_> = said.iter().map(|said| said.texts.join(" ")).collect();
        assert_eq!(texts, ["/etc/gristmill/state", "-", "gpu=no os=linux", "1.5"]);
    }
}

//! A file of settings to start from: every key with what it is, at its default.

use std::fmt::Write as _;

use super::settings::{SECTIONS, Setting, Settings, rows};

/// Values for what has no default, so that an example shows how one is written.
const SAMPLES: [(&str, &str); 14] = [
    ("server.data", "/var/lib/gristmill"),
    ("server.tls_cert", "/etc/gristmill/cert.pem"),
    ("server.tls_key", "/etc/gristmill/key.pem"),
    ("server.keep_jobs_max", "100000"),
    ("server.keep_bytes_max", "500GiB"),
    ("node.server", "https://queue.example.com:7070"),
    ("node.state", "/var/lib/gristmill-node"),
    ("node.join_token_file", "/etc/gristmill/join.token"),
    ("node.name", "lab-1"),
    ("node.ca_file", "/etc/gristmill/ca.pem"),
    ("node.memory", "16GiB"),
    ("client.server", "https://queue.example.com:7070"),
    ("client.ca_file", "/etc/gristmill/ca.pem"),
    ("client.token_file", "/home/me/gristmill.token"),
];
/// What an example sets, because nothing works without it.
const NEEDED: [&str; 4] = ["server.data", "node.server", "node.state", "node.join_token_file"];

/// The file with the given sections. What stands behind `#` is the default, or a sample if there is
/// none.
pub(crate) fn example(sections: &[&str]) -> String {
    let mut text = String::from(
        "# Settings of Gristmill. An option of the command line comes before a variable of the environment, that\n\
         # before this file, this before the default. Relative paths are below this file's directory.\n\
         # `gristmill config check FILE` checks it; `gristmill config show --origin` shows what is in force.\n",
    );
    for (section, about) in SECTIONS.iter().filter(|(name, _)| sections.contains(name)) {
        let _ = write!(text, "\n# {about}\n[{section}]\n");
        for setting in rows(section).filter(|setting| !setting.is_secret) {
            let _ = write!(text, "\n# {}\n{}\n", setting.about, line(setting));
        }
    }
    text
}

fn line(setting: &Setting) -> String {
    let key = setting.key();
    let sample = SAMPLES.iter().find(|(name, _)| *name == key).map(|(_, text)| (*text).to_owned());
    let mut settings = Settings::default();
    let field = (setting.field)(&mut settings);
    let fixed = field.show();
    let mark = if NEEDED.contains(&key.as_str()) { "" } else { "# " };
    let value = match (fixed.or(sample), setting.value) {
        (Some(text), _) if field.is_bare() => text,
        (Some(text), _) => format!("{text:?}"),
        (None, "N") => "1".to_owned(),
        (None, "K=V") => "{ gpu = \"no\" }".to_owned(),
        (None, "LEVEL") => "\"info\"".to_owned(),
        (None, "FORMAT") => "\"json\"".to_owned(),
        (None, "ADDRESS") => "\"0.0.0.0:7071\"".to_owned(),
        (None, "DIR") => "\"/var/lib/gristmill\"".to_owned(),
        (None, _) => "\"\"".to_owned(),
    };
    let note = setting.default.map(|text| format!("  # default: {text}")).unwrap_or_default();
    format!("{mark}{} = {value}{note}", setting.name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::check, *};

    fn is_current(name: &str, sections: &[&str]) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/config").join(name);
        let wanted = example(sections);
        if std::env::var_os("GRISTMILL_WRITE_EXAMPLES").is_some() {
            std::fs::write(&path, &wanted).expect("written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            found, wanted,
            "{name} is stale; run this test with GRISTMILL_WRITE_EXAMPLES=1 and look at the difference"
        );
    }

    #[test]
    fn the_example_files_are_what_the_table_says() {
        is_current("server.toml", &["server", "log"]);
        is_current("node.toml", &["node", "log"]);
    }

    #[test]
    fn every_key_of_an_example_is_valid_also_what_is_behind_a_hash() {
        let names: Vec<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
        let text = example(&names);
        assert_eq!(check(Path::new("x.toml"), &text).1, []);
        // What stands in for another setting cannot be there beside it.
        let rivals = ["# slots"];
        let lines = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") && !rivals.iter().any(|rival| line.starts_with(rival)) => rest,
            _ => line,
        });
        let all = lines.collect::<Vec<_>>().join("\n");
        let (count, problems) = check(Path::new("x.toml"), &all);
        assert_eq!(problems, []);
        let documented = super::super::SETTINGS.iter().filter(|setting| !setting.is_secret).count();
        // `slots` of two sections are left out above.
        assert_eq!(count, documented - 2);
    }
}

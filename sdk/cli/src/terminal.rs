//! Whether to colour, and the few styles there are.

use std::{fmt, io::IsTerminal as _, str::FromStr, sync::OnceLock};

use anstyle::{AnsiColor, Style};

use crate::environment;

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless the environment says otherwise.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl ColorChoice {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Auto, "auto"), (Self::Always, "always"), (Self::Never, "never")];

    /// The same for the parser of the command line, which colours its help and its errors.
    pub(crate) fn for_help(self) -> clap::ColorChoice {
        match self {
            Self::Auto => clap::ColorChoice::Auto,
            Self::Always => clap::ColorChoice::Always,
            Self::Never => clap::ColorChoice::Never,
        }
    }
}

impl fmt::Display for ColorChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(choice, _)| choice == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for ColorChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text).map(|(choice, _)| *choice);
        found.ok_or_else(|| format!("{text:?} is not understood; write auto, always or never"))
    }
}

static CHOICE: OnceLock<ColorChoice> = OnceLock::new();

/// Decides for this process; the first call counts.
pub(crate) fn choose(choice: ColorChoice) {
    let _ = CHOICE.set(choice);
}

/// Whether to colour what goes to standard output.
pub(crate) fn colors_stdout() -> bool {
    is_colored(std::io::stdout().is_terminal(), &environment::variable)
}

/// Whether to colour what goes to standard error.
pub(crate) fn colors_stderr() -> bool {
    is_colored(std::io::stderr().is_terminal(), &environment::variable)
}

fn is_colored(is_terminal: bool, variable: &dyn Fn(&str) -> Option<String>) -> bool {
    match CHOICE.get().copied().unwrap_or_default() {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => by_environment(is_terminal, variable),
    }
}

/// <https://no-color.org> and the older `CLICOLOR` and `CLICOLOR_FORCE`.
fn by_environment(is_terminal: bool, variable: &dyn Fn(&str) -> Option<String>) -> bool {
    let set = |name| variable(name).filter(|text| !text.is_empty());
    if set("NO_COLOR").is_some() {
        return false;
    }
    if set("CLICOLOR_FORCE").is_some_and(|text| text != "0") {
        return true;
    }
    is_terminal
        && set("CLICOLOR").is_none_or(|text| text != "0")
        && set("TERM").is_none_or(|text| text != "dumb")
}

/// What went wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// What went well.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What needs a look.
pub(crate) const NOTABLE: Style = AnsiColor::Yellow.on_default();
/// What to do next.
pub(crate) const ADVICE: Style = AnsiColor::Cyan.on_default();

/// Text for standard error in a style, if that is coloured.
pub(crate) fn on_stderr(style: Style, text: &str) -> String {
    if colors_stderr() { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

/// The style of a word that says how something is: of jobs, attempts, nodes and checks.
pub(crate) fn style_of(word: &str) -> Option<Style> {
    match word {
        "succeeded" | "active" | "ok" | "now" => Some(GOOD),
        "failed" | "timed_out" | "lost" | "revoked" | "never_runnable" => Some(BAD),
        "cancelled" | "running" | "draining" | "away" | "waiting" | "warning" => Some(NOTABLE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_heeded_and_the_stricter_word_wins() {
        let colored = |is_terminal, set: &[(&str, &str)]| {
            by_environment(is_terminal, &|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(colored(true, &[]) && !colored(false, &[]));
        assert!(!colored(true, &[("NO_COLOR", "1")]) && colored(true, &[("NO_COLOR", "")]));
        assert!(!colored(true, &[("CLICOLOR", "0")]) && !colored(true, &[("TERM", "dumb")]));
        assert!(colored(false, &[("CLICOLOR_FORCE", "1")]) && !colored(false, &[("CLICOLOR_FORCE", "0")]));
        assert!(!colored(true, &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]));
    }
}

//! The options of services, made from the table of settings.

use std::marker::PhantomData;

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, builder::ValueParser, parser::ValueSource,
};

use super::{
    field::Field,
    settings::{Setting, Settings, rows},
};

/// How an option names its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// An option that every command takes; without the dashes.
    Global(&'static str),
    /// Section and setting.
    Of(&'static str, &'static str),
}

/// What a command line says about settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given(pub(crate) Vec<(Name, Vec<String>)>);

impl Given {
    /// What options say that every command takes, by their names without the dashes.
    pub(crate) fn global<const N: usize>(options: [(&'static str, Option<&String>); N]) -> Self {
        let given = options.into_iter().filter_map(|(name, text)| text.map(|text| (name, text)));
        Self(given.map(|(name, text)| (Name::Global(name), vec![text.clone()])).collect())
    }

    /// Both.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// The settings of a section as options.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags<S>(Given, PhantomData<S>);

/// A section as a type.
pub(crate) trait Section {
    /// Its name.
    const NAME: &'static str;
}

macro_rules! section {
    ($marker:ident, $flags:ident, $name:literal) => {
        /// Marks a section.
        #[derive(Debug, Clone, Default)]
        pub(crate) struct $marker;

        impl Section for $marker {
            const NAME: &'static str = $name;
        }

        /// The options of this section.
        pub(crate) type $flags = Flags<$marker>;
    };
}

section!(OfServer, ServerFlags, "server");
section!(OfNode, NodeFlags, "node");
section!(OfDev, DevFlags, "dev");

impl<S> Flags<S> {
    /// What was given.
    pub(crate) fn given(&self) -> Given {
        self.0.clone()
    }
}

fn options<S: Section>() -> impl Iterator<Item = &'static Setting> {
    rows(S::NAME).filter(|setting| !setting.is_global && !setting.is_secret)
}

fn arg(setting: &'static Setting) -> Arg {
    let default = setting.default_text();
    let shown = default.as_ref().map(|text| format!(" [default: {text}]")).unwrap_or_default();
    let key = setting.key();
    let long = format!("{}{shown}\n[environment: {}] [file: {key}]", setting.about, setting.variable());
    let check = move |text: &str| setting.check(&[text.to_owned()]).map(|()| text.to_owned());
    let arg = Arg::new(key)
        .long(setting.option())
        .value_name(setting.value)
        .help(format!("{}{shown}", setting.about))
        .long_help(long)
        .value_parser(ValueParser::new(check));
    let arg = if setting.is_advanced { arg.help_heading("Tuning") } else { arg };
    match (setting.field)(&mut Settings::default()) {
        Field::Flag(_) => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Field::Labels(_) => arg.action(ArgAction::Append),
        _ => arg,
    }
}

impl<S: Section> Args for Flags<S> {
    fn augment_args(command: Command) -> Command {
        options::<S>().fold(command, |command, setting| command.arg(arg(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Section> FromArgMatches for Flags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for setting in options::<S>() {
            let key = setting.key();
            if matches.value_source(&key) == Some(ValueSource::CommandLine)
                && let Some(texts) = matches.get_many::<String>(&key)
            {
                given.push((Name::Of(setting.section, setting.name), texts.cloned().collect()));
            }
        }
        Ok(Self(Given(given), PhantomData))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

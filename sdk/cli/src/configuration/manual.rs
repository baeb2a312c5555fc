//! The manual page on settings, `gristmill.toml(5)`.

use clap_mangen::roff::{Roff, bold, italic, roman};

use super::settings::{SECTIONS, rows};

/// The page.
pub(crate) fn manual() -> String {
    let mut page = Roff::new();
    page.control("TH", ["gristmill.toml", "5", "", concat!("gristmill ", env!("CARGO_PKG_VERSION")), ""]);
    page.control("SH", ["NAME"]);
    page.text([roman("gristmill.toml - settings of Gristmill")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "A setting is an option of the command line, else a variable of the environment, else a key of a file, \
         else it has its default. One file is read: the one named by ",
    ), bold("--config"), roman(" or "), bold("GRISTMILL_CONFIG"), roman(", else gristmill.toml in the user's \
         configuration directory, else /etc/gristmill/gristmill.toml. It is TOML; a relative path in it is below \
         its own directory. Sizes and durations are written as "), italic("8GiB"), roman(" and "), italic("1h30m"), roman(".")]);
    for (section, about) in SECTIONS {
        page.control("SH", [format!("[{section}]").as_str()]);
        page.text([roman(about)]);
        for setting in rows(section) {
            page.control("TP", []);
            page.text([bold(setting.name), roman(" = "), italic(setting.value)]);
            let default = setting.default_text().map(|text| format!(" Default: {text}.")).unwrap_or_default();
            let option = if setting.is_secret {
                format!("{} only", setting.variable())
            } else {
                format!("--{}, {}", setting.option(), setting.variable())
            };
            page.text([roman(format!("{}.{default} ({option})", setting.about))]);
        }
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("gristmill-config"),
        roman("(1), "),
        bold("gristmill-server"),
        roman("(1), "),
        bold("gristmill-node"),
        roman("(1)"),
    ]);
    page.render()
}

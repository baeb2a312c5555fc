//! What a person sees while a command works: one moving line on standard error, on a terminal only.

use std::{io::IsTerminal as _, time::Duration};

use gristmill_client::user::OnSent;
use gristmill_protocol::units::format_bytes;
use indicatif::{ProgressBar, ProgressStyle};

use crate::harmless::harmless;

/// A moving line with the present phase; nothing at all when standard error is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts the line.
    pub(crate) fn start() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: None };
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar: Some(bar) }
    }

    /// Whether somebody sees it.
    pub(crate) fn is_shown(&self) -> bool {
        self.bar.as_ref().is_some_and(|bar| !bar.is_finished())
    }

    /// Says what is being done now.
    pub(crate) fn phase(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(harmless(text));
        }
    }

    /// Says what is being sent, and how much of it has been.
    pub(crate) fn sending(&self, what: &str, size: u64) -> OnSent {
        let Some(bar) = self.bar.clone() else { return OnSent::nobody() };
        let what = harmless(what);
        OnSent::new(move |sent| {
            let percent = sent.saturating_mul(100).checked_div(size).unwrap_or(100);
            let (sent, size) = (format_bytes(sent), format_bytes(size));
            bar.set_message(format!("{what}: {sent} of {size} ({percent} %)"));
        })
    }

    /// Takes the line away for good.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

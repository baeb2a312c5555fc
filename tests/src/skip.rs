//! What a test does where the machine lacks something: it fails, unless the run was told to do without.

use std::fmt::Display;

/// Says that what is `missing` is why the test ends here.
///
/// # Panics
/// When the run was not told to do without `part` (`GRISTMILL_SKIP_PART=1`, set by `tests/run` for what it
/// could not install): nothing is left out in silence.
pub fn without(part: &str, missing: impl Display) {
    let told = std::env::var_os(format!("GRISTMILL_SKIP_{part}")).is_some();
    assert!(told, "{missing}; tests/run sets up what the tests need");
    eprintln!("SKIPPED: {missing}");
}

//! The rules of Gristmill, pure and synchronous: what may follow a job's or an attempt's state, when
//! to try again, where a job may run, and what each command makes of the rows it concerns.
//!
//! Nothing here does I/O, asks a clock or draws a random number: the time and the randomness are
//! parameters. A store loads what a batch of commands [needs](working_set::Needs) into a
//! [`WorkingSet`], lets the commands decide in order, and writes the changes in one transaction.

pub mod attempt;
pub mod command;
pub mod explain;
pub mod job;
pub mod placement;
pub mod record;
pub mod retention;
pub mod retry;
pub mod settings;
pub mod totals;
pub mod working_set;

pub use settings::Settings;
pub use working_set::WorkingSet;

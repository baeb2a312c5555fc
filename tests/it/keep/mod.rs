//! What is kept, for how long, and how it comes back: retention, backup and restore, upgrades.

mod backup;
mod operations;
mod retention;
mod upgrade;

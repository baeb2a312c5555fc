//! Jobs that mean harm, through the whole system, and the list of all hostile inputs.

mod crashes;
mod guests;
mod jobs;
mod list;
mod memory;
mod uploads;

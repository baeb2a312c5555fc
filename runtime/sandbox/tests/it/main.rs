//! The sandbox from outside: every limit, every way to stop, and what a guest can reach.

mod component;
mod disk;
mod ends;
mod files;
mod guest;
mod hostile;
mod log;
mod reproducible;
mod stops;

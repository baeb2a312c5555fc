//! Executors and compilers as real child processes.

mod bounds;
mod compiles;
mod gone;
mod hostile_compile;
mod runs;
mod setup;

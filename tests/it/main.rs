//! The whole system, seen from outside: the real binary, real programs, real kills.

mod e2e;
mod faults;
mod hostile;
mod keep;
mod tidy;

//! The node: the process in a zone that leases jobs, runs their guests in executors and reports how
//! they ended. It only ever dials out.
//!
//! | file | what it does |
//! |---|---|
//! | `node`, `once`, `local` | a node from start to end; a node for one job; a run without a server |
//! | `poller` | asks for work while there is room |
//! | `keeper`, `lease` | renewals, cancels, and the rule by which a guest stops before its lease is lost |
//! | `work` | what is done for each attempt, told if it lasts |
//! | `attempt/` | one attempt: stage, compile, run, collect, report |
//! | `outbox` | reports, batched and repeated until answered |
//! | `cache/`, `code` | inputs, trees and compiled code kept for later jobs |
//! | `identity`, `state` | who the node is, and its private directory |

mod attempt;
mod cache;
mod clock;
mod code;
mod config;
mod executors;
mod heartbeat;
mod identity;
mod keeper;
mod lease;
mod local;
mod node;
mod once;
mod outbox;
mod places;
mod poller;
mod room;
mod services;
mod state;
mod turns;
mod verdicts;
mod work;

pub use attempt::AttemptEnd;
pub use config::{NodeConfig, Offer, machine_capacity, offer};
pub use local::{LocalInput, LocalOutput, LocalRun, LocalRunEnd, run_local};
pub use node::Node;
pub use once::{RunOnceEnd, run_once};

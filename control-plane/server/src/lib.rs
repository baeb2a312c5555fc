//! The control plane of Gristmill: queue, leases, modules, blobs, zones and nodes behind one HTTP API.
//!
//! `http → ops → {store, blob, lifecycle}`; `sweep, retention → ops`. Only `store/` names sqlx, only `http/`
//! names axum, and only `clock` asks the time.

pub mod app;
pub mod auth;
pub mod backup;
pub mod blob;
mod checksums;
pub mod clock;
pub mod denials;
mod document;
mod job_rules;
mod placement;

pub mod config;
pub mod data_dir;
pub mod entropy;
pub mod error;
pub mod feed;
pub mod forgeries;
mod gates;
pub mod http;
mod listener;
mod names;
pub mod ops;
mod pace;
pub mod paging;
pub mod phases;
pub mod principal;
mod process;
pub mod purged;
pub mod registry;
pub mod request_times;
pub mod restore;
pub mod retention;
mod seldom;
mod server;
mod spans;
pub mod store;
pub mod sweep;
mod tally;
mod trace;
pub mod upload_desk;
pub mod upload_files;
mod verify;
mod versions;
pub mod wake;

pub use config::{ServerConfig, TlsFiles};
pub use server::Server;

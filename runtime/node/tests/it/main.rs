//! The node against a server that is only a script: what it sends, and how it takes bad answers.

mod fake_server;
mod protocol;

//! Tests of the rules: every state with every event, the retry rule, placement, and whole histories
//! of random commands.

mod histories;
mod placement;
mod retries;
mod tables;

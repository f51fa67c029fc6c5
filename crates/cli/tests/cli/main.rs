//! Tests of the command line as users see it: its output, where the output goes, and its exit codes. They need root,
//! `ip` and `nft`; each test has a network namespace, a state directory and a configuration of its own.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the harness is test code too, outside of functions marked as tests"
)]

mod client;
mod commands;
mod conflicts;
mod daemon;
mod definitions;
mod environment;
mod examples;
mod files;
mod help;
mod host;
mod implementors;
mod runs;
mod same;
mod settings;
mod state;
mod streams;
mod top;

//! Tests with real traffic, in network namespaces that each test makes for itself. They need root, `ip`,
//! `nft` and both variants of `iptables`; what is missing fails the test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the harness is test code too, outside of functions marked as tests"
)]

mod at_once;
mod drift;
mod failed;
mod killed;
mod lost;
mod operation;
mod restored;
mod self_test;
mod world;

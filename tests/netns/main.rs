//! Tests with real traffic, in network namespaces that each test makes for itself. They need root, `ip`,
//! `nft` and both variants of `iptables`; what is missing fails the test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the harness is test code too, outside of functions marked as tests"
)]

mod at_once;
mod crashes;
mod drift;
mod exposures;
mod failed;
mod forward;
mod internet;
mod killed;
mod lost;
mod operation;
mod reach;
mod restored;
mod run;
mod self_test;
mod supervised;
mod tap;
mod withdrawn;
mod world;

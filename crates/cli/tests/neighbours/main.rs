//! The program beside other network tools as Debian ships them, each on a machine of its own ([`world::machine`]): before
//! us and after us, reloaded, restarted and stopped while functions serve. They need what `scripts/neighbours` installs,
//! and what the tests in `netns` need; what is missing fails the test.
//!
//! Each scenario is played twice, with our program and without ([`stage::play`]). What is the neighbour's works at every
//! step in both. Once everything of ours is purged, the two hosts are the same.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the harness is test code too, outside of functions marked as tests"
)]

mod bus;
mod comparable;
mod container;
mod docker;
mod firewalld;
mod functions;
mod leases;
mod networkd;
mod podman;
mod router;
mod stage;
mod ufw;
#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the harness of the tests in netns, of which these need a part"
)]
#[path = "../netns/world/mod.rs"]
mod world;

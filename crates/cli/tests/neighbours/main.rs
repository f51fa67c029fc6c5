//! The program together with other network tools as Debian ships them, each on a machine of its own
//! ([`world::machine`]). The tools start before us or after us, and are reloaded, restarted and stopped while
//! functions serve. The tests need what `scripts/neighbours` installs, and what the tests in `netns` need; anything
//! missing fails the test.
//!
//! Each scenario is played twice, with our program and without ([`stage::play`]). In both, everything of the neighbour
//! works at each step. Once everything of ours is purged, the two hosts are equal.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the harness is test code too, outside of functions marked as tests"
)]

mod bus;
mod comparable;
mod container;
mod containers;
mod docker;
mod firewalld;
mod functions;
mod leases;
mod network_manager;
mod networkd;
mod owning;
mod plugin;
mod podman;
mod router;
mod stage;
mod systemd;
mod ufw;
#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the harness of the tests in netns, of which these need a part"
)]
#[path = "../netns/world/mod.rs"]
mod world;

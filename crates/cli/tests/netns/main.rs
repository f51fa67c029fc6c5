//! Tests with real traffic, in network namespaces that each test creates for itself. They need root, `ip`, `nft` and
//! both variants of `iptables`; anything missing fails the test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the harness is test code too, outside of functions marked as tests"
)]

mod api;
mod at_once;
mod attacks;
mod cni;
mod crashes;
mod daemon;
#[path = "../../../vmm/tests/vmm/description/mod.rs"]
#[allow(dead_code, reason = "of the tests of the drivers, whose played VMMs are used here")]
mod description;
#[path = "../../../vmm/tests/vmm/directory.rs"]
#[allow(dead_code, reason = "as above")]
mod directory;
mod drift;
mod egress;
mod ended;
mod explained;
mod exposures;
mod failed;
mod flows;
mod forgotten;
mod forward;
mod full;
mod gateway;
mod healed;
mod histories;
mod injected;
mod internet;
mod ipv6;
mod killed;
#[cfg(feature = "toy-kind")]
mod kinds;
mod leases;
mod limits;
mod lost;
#[path = "../../../vmm/tests/vmm/machine.rs"]
#[allow(dead_code, reason = "as above")]
mod machine;
mod manifests;
mod members;
mod misfits;
mod names;
mod operation;
mod owners;
mod passages;
#[path = "../../../vmm/tests/vmm/played.rs"]
mod played;
mod pods;
mod policies;
mod pressure;
mod program;
mod proxied;
mod published;
mod reach;
mod real;
mod redirects;
mod refused;
mod restored;
mod router;
mod routing;
mod run;
mod said;
mod segments;
mod self_test;
#[path = "../../../vmm/tests/vmm/server.rs"]
#[allow(dead_code, reason = "as above")]
mod server;
mod shadows;
mod shared;
mod soak;
mod stuck;
mod supervised;
mod sysctls;
mod tap;
mod translated;
mod uplinks;
mod vmms;
mod watchers;
mod withdrawn;
mod world;

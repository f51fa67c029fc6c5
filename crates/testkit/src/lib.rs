//! Shared parts of the tests: network namespaces, guests, traffic and servers.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a test fails by a panic, and many are called for what they do"
)]

pub mod fuzz;
pub mod namespace;

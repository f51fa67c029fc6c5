//! The daemon: what `riklet-sdn serve` is made of.
//!
//! ```text
//!  clients ──► server (HTTP on a unix socket, async) ──► engine (one thread) ──► Node ──► kernel
//!                                                          │  ▲ notifications
//!                                                          ▼  │
//!                                                        worker (one thread): TAPs made in advance, and deleted
//! ```

pub mod documents;
pub mod engine;
pub mod events;
pub mod local;
pub mod manifests;
pub mod metrics;
pub mod problems;
pub mod server;

use std::time::{Instant, SystemTime};

/// What passes; for how long something takes, and when it is due.
#[expect(clippy::disallowed_methods, reason = "the daemon is where time comes in")]
fn now() -> Instant {
    Instant::now()
}

/// What people call the time.
#[expect(clippy::disallowed_methods, reason = "the daemon is where time comes in")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

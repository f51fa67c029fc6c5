//! The daemon, `riklet-sdn serve`, and the code that it shares with the command line without a daemon.
//!
//! ```text
//!  clients ──► server (HTTP on a unix socket, async) ─┐
//!                                                     ├──► engine (one thread) ──► LocalNode ──► Node ──► kernel
//!  definition files ──► manifests (one thread) ───────┘       │  ▲ notifications
//!                                                             ▼  │
//!                                                           background (one thread): creates and deletes TAPs
//! ```
//!
//! [`local::LocalNode`] implements [`riklet_api::NodeApi`] for a node in the same process. The command line uses its
//! own when no daemon listens; the engine has the daemon's. [`engine::Engine`] gives any thread access to the latter.
//!
//! ```
//! use riklet_api::NodeApi;
//! use riklet_daemon::local::LocalNode;
//! use riklet_kernel::fake::FakeKernel;
//! use riklet_sdn::{Config, Node};
//!
//! let state_dir = std::env::temp_dir().join("riklet-sdn-nothing-here");
//! let config = Config::in_directory(state_dir);
//! let mut node = LocalNode::new(Node::with_kernel(config, FakeKernel::new()));
//! assert!(node.list()?.is_empty());
//! assert_eq!(node.inspect(&"hello".parse()?).unwrap_err().status, 404);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod documents;
pub mod engine;
pub mod events;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod local;
pub mod manifests;
pub mod metrics;
mod names;
mod offload;
pub mod problems;
pub mod server;

use std::time::{Instant, SystemTime};

/// Returns the time of the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the daemon is where time comes in")]
fn now() -> Instant {
    Instant::now()
}

/// Returns the time of day.
#[expect(clippy::disallowed_methods, reason = "the daemon is where time comes in")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

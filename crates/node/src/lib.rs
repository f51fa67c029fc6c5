//! The network of a node that runs functions as microVMs: a TAP for each, and its ports on the host.
//!
//! A node agent embeds this library; the program `riklet-sdn` is its command line. Everything works
//! synchronously, on the network namespace of the calling thread, and needs `CAP_NET_ADMIN`.
//!
//! # In use
//!
//! [`Node`] does what a node agent asks for, in one call each. On an instance's TAP runs whatever VMM the
//! agent starts. `examples/embed` is such an agent.
//!
//! ```
//! use riklet_core::definition::{self, Source};
//! use riklet_kernel::fake::FakeKernel;
//! use riklet_sdn::{Config, Node, Selector, UpOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = r#"{ "apiVersion": "v1", "kind": "Function", "name": "hello",
//!     "spec": { "function": { "exposure": { "port": 8080, "targetPort": 3000 } } } }"#;
//! let workloads = definition::parse(&[Source { name: "hello.json".into(), text: text.into() }])?;
//!
//! # let state_dir = std::env::temp_dir().join(format!("riklet-sdn-tour-{}", std::process::id()));
//! # let made = state_dir.clone();
//! let config = Config { state_dir, ..Config::default() };
//! // `Node::new(config)` is the same on the kernel of this host.
//! let mut node = Node::with_kernel(config, FakeKernel::new());
//!
//! let report = node.up(&workloads, UpOptions::default())?;
//! let hello = &report.instances[0];
//! assert_eq!(hello.interface().to_string(), "rik0");
//! assert_eq!(hello.addresses.v4.guest.to_string(), "10.231.0.2");
//! assert_eq!(hello.exposures()[0].to_string(), "tcp 8080 -> 3000");
//!
//! assert!(node.check()?.is_empty());
//! node.down(&Selector::All, true)?;
//! # std::fs::remove_dir_all(made)?;
//! # Ok(())
//! # }
//! ```
//!
//! # The way through
//!
//! What is decided is decided in pure code; what acts decides nothing.
//!
//! ```text
//! text ── definition::parse ──► Workload ─┐
//!                                store ───┤ a slot: lowest free; a host port has one holder
//!                                         ▼
//!              workload::fragment(workload, slot, node) ──► Fragment { link, addresses, entries }
//!                                         ▼
//!              plan::plan(desired, observed) ──► Plan: steps, which print themselves
//!                                         ▼
//!              Kernel: each step an effect ──► Report { done, failures }
//! ```
//!
//! | crate | what it is |
//! | --- | --- |
//! | [`riklet_core`] | definitions, addresses, the firewall's ruleset, the plan: pure |
//! | [`riklet_kernel`] | the effects on a Linux host, and a kernel in memory that obeys the same laws |
//! | this one | the records ([`store`]), and the operations that put all together ([`Node`]) |
//!
//! # What holds
//!
//! * Bringing up, taking down, repairing and recovering after a crash are one path: the records are changed
//!   in one transaction, then the kernel is converged to them. Every call may be repeated.
//! * A process that is killed anywhere on that path leaves nothing behind that the next call does not finish.
//! * Nothing is touched but what is ours: interfaces `rik<slot>` that bear our alias, our table or chains of
//!   the firewall, and the sysctls that were recorded before they were changed. Taking all down with `purge`
//!   leaves the host as it was.
//! * An operation costs the same with ten instances present and with ten thousand.
//! * What was not done is not reported as done, and one instance's failure does not stop the others.
//! * Any number of processes may call at once.

mod accounts;
mod answer;
mod apply;
mod cache;
mod config;
mod converge;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod host;
mod inspect;
mod instance;
mod node;
mod operations;
mod outcome;
mod ownership;
mod plan;
mod purge;
mod rebuild;
mod record;
mod repair;
mod report;
mod request;
mod running;
mod session;
mod shadow;
pub mod store;
mod task;
mod views;
mod warm;

pub use config::{
    API_SOCKET, Config, ConfigError, ConfigReason, DEFAULT_STATE_DIR, FirewallChoice,
    FirewallChoiceError,
};
pub use error::{Failure, NodeError};
pub use inspect::{Inspection, Listed};
pub use instance::{Instance, LinkStatus};
pub use node::Node;
pub use operations::NodeOperations;
pub use rebuild::{RebuildOptions, Rebuilt};
pub use report::{Drift, Report};
pub use request::{Request, UpOptions};
pub use riklet_core::{ErrorKind, model::Selector};
pub use shadow::Warning;
pub use task::{BackgroundTask, TaskOutcome};
pub use warm::WarmNode;

//! The network of a node that runs functions as microVMs: a TAP for each, and its ports on the host.
//!
//! A node agent embeds this library; the program `riklet-sdn` is its command line. Every call is synchronous, works on the
//! network namespace of the calling thread, and needs `CAP_NET_ADMIN`.
//!
//! # In use
//!
//! [`Node`] has a method for each operation. The agent starts a VMM of its choice on the TAP of an instance, as
//! `examples/embed` shows. A long-lived agent with a thread for slow work uses a [`WarmNode`].
//!
//! ```
//! use riklet_sdn::{
//!     Config, Node, Selector, UpOptions,
//!     definition::{self, Source},
//!     fake::FakeKernel,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = r#"{ "apiVersion": "v1", "kind": "Function", "name": "hello",
//!     "spec": { "function": { "exposure": { "port": 8080, "targetPort": 3000 } } } }"#;
//! let workloads = definition::parse(&[Source { name: "hello.json".into(), text: text.into() }])?;
//!
//! # let state_dir = std::env::temp_dir().join(format!("riklet-sdn-tour-{}", std::process::id()));
//! # let made = state_dir.clone();
//! let config = Config::in_directory(state_dir);
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
//! # The way of the data
//!
//! An operation reads from top to bottom in the file of its name, such as `apply.rs` for `up` and `down`:
//!
//! ```text
//! session    takes the lock, opens the records, begins a transaction, and asks what the host is like
//! record     writes what is asked for: each workload in its slot, with its ports
//! converge   looks at the kernel, plans (pure), and applies the plan, until nothing new fails
//! outcome    writes how far the kernel followed
//! answer     gives each request its part of that
//! ```
//!
//! [`riklet_core`] decides, and is pure; [`riklet_kernel`] acts, and decides nothing. The items of both that an
//! embedder needs are exported here.
//!
//! # What holds
//!
//! * Bringing up, taking down, repairing and recovering after a crash are one path: the records are changed
//!   in one transaction, then the kernel is converged to them. Every call may be repeated.
//! * A process that is killed anywhere on that path leaves nothing behind that the next call does not finish.
//! * Only our own objects are touched: interfaces `rik<slot>` that bear our mark, our tables or chains of the firewall,
//!   our routing rules and routes, our files for network managers, and the sysctls that were recorded before they were
//!   changed. Taking all down with `purge` leaves the host as it
//!   was.
//! * A running function is not taken down, except by its supervisor.
//! * An operation costs the same with ten instances present and with ten thousand.
//! * Nothing is reported as done that was not done, and one instance's failure does not stop the others.
//! * Any number of processes may call at once.
//!
//! # Stability
//!
//! `docs/public-api.txt` lists the public API. Structs and enums that will grow are `#[non_exhaustive]`. The module
//! [`store`] is for the other packages of this project: it may change with any version.

mod accounts;
mod answer;
mod apply;
mod cache;
mod choices;
mod config;
mod converge;
mod error;
pub mod explain;
mod flow_task;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod holders;
mod host;
mod inspect;
mod instance;
mod ipv6;
mod known;
mod node;
mod operations;
mod outcome;
mod overlap;
mod ownership;
mod preview;
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
mod uplinks;
mod views;
mod warm;

pub use config::{
    API_SOCKET, Config, ConfigError, ConfigReason, DEFAULT_IMAGE_DIR, DEFAULT_IMAGE_ROOTS,
    DEFAULT_MEMBER_RUNS, DEFAULT_STATE_DIR, FirewallChoice, FirewallChoiceError, VmmConfig,
};
pub use error::{Failure, InstanceError, NodeError};
pub use flow_task::{Begun, FlowOutcome, FlowTask, Ticket};
pub use host::decided_by;
pub use inspect::{Inspection, ListedInstance};
pub use instance::{Instance, LinkStatus};
pub use node::Node;
pub use operations::NodeOperations;
pub use overlap::overlapping_route;
pub use rebuild::{RebuildOptions, Rebuilt};
pub use report::{Drift, IdleEntry, InUse, Report, Warning};
pub use request::{Request, UpOptions};
pub use riklet_core::{
    ErrorKind, definition, firewall, link, model, model::Selector, plan, workload,
};
pub use riklet_kernel::{AccountKind, Kernel, KernelError, Listener, Refusal, fake, process};
pub use shadow::{AbsentAddress, Occupant, Shadow};
pub use task::{BackgroundTask, TaskOutcome};
pub use uplinks::UplinkFlaw;
pub use warm::WarmNode;

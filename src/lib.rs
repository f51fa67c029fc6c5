//! The network of a node that runs functions as microVMs: a TAP for each, and its ports on the host.
//!
//! A node agent embeds this library; the program `riklet-sdn` is its command line. Everything works
//! synchronously, on the network namespace of the calling thread, and needs `CAP_NET_ADMIN`.
//!
//! # In use
//!
//! [`Sdn`] does what a node agent asks for, in one call each. On an instance's TAP runs whatever VMM the
//! agent starts: [`vmm::attachment`] has what it needs to know. `examples/embed.rs` is such an agent.
//!
//! ```
//! use riklet_sdn::definition::{self, Source};
//! use riklet_sdn::kernel::fake::FakeKernel;
//! use riklet_sdn::{Config, Sdn, UpOptions, Which};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = r#"{ "apiVersion": "v1", "kind": "Function", "name": "hello",
//!     "spec": { "function": { "exposure": { "port": 8080, "targetPort": 3000 } } } }"#;
//! let workloads = definition::parse(&[Source { name: "hello.json".into(), text: text.into() }])?;
//!
//! # let state_dir = std::env::temp_dir().join(format!("riklet-sdn-tour-{}", std::process::id()));
//! # let made = state_dir.clone();
//! let config = Config { state_dir, ..Config::default() };
//! // `Sdn::new(config)` is the same on the kernel of this host.
//! let mut sdn = Sdn::with_kernel(config, FakeKernel::new());
//!
//! let report = sdn.up(&workloads, UpOptions::default())?;
//! let hello = &report.instances[0];
//! assert_eq!(hello.interface().to_string(), "rik0");
//! assert_eq!(hello.addresses.guest.to_string(), "10.231.0.2");
//! assert_eq!(hello.exposures()[0].to_string(), "tcp 8080 -> 3000");
//!
//! assert!(sdn.check()?.is_empty());
//! sdn.down(&Which::All, true)?;
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
//!              network::fragment(workload, slot, node) ──► Fragment { link, addresses, entries }
//!                                         ▼
//!              plan::plan(desired, observed) ──► Plan: steps, which print themselves
//!                                         ▼
//!              Kernel: each step an effect ──► Report { done, failures }
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`model`] | the vocabulary: types that cannot hold an invalid value |
//! | [`definition`] | what users write, JSON or YAML, and located reasons why not |
//! | [`network`] | what each kind of workload needs from the node |
//! | [`firewall`] | what the firewall must mean, and its two renderings: nf_tables and iptables |
//! | [`plan`](mod@plan) | what must be done: desired against observed |
//! | [`kernel`] | the one seam to everything outside; [`kernel::fake`] obeys its laws in memory |
//! | [`store`] | what the node remembers, in SQLite |
//! | [`sdn`] | the façade, which puts them together |
//! | [`vmm`] | microVMs: what their VMMs are told, their images, processes and runs; the builtin guest |
//! | [`process`] | the one place that starts programs |
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

pub mod daemon;
pub mod definition;
pub mod firewall;
pub mod http;
pub mod kernel;
pub mod model;
mod nearest;
pub mod network;
pub mod plan;
pub mod process;
pub mod sdn;
pub mod store;
pub mod vmm;
pub mod wire;

pub use model::{InstanceName, Workload};
pub use sdn::{
    Config, Drift, FirewallChoice, Instance, Report, Sdn, SdnError, UpOptions, Warning, Which,
};

//! The API of a node: the documents, the operations as the trait [`NodeApi`], and the [`Client`] of a daemon.
//!
//! ```text
//!                              ┌─ LocalNode (riklet-daemon): the node in this process
//!  command line ──► NodeApi ───┼─ Client: HTTP on a unix socket ──► server ─┐
//!  definition files ───────────┴─ Engine (riklet-daemon) ◄──────────────────┘
//! ```
//!
//! ```
//! use riklet_api::{ApiError, Client, NodeApi};
//! use std::path::Path;
//!
//! /// The same function asks a daemon, or the node of this process.
//! fn tcp_ports(node: &mut dyn NodeApi) -> Result<Vec<String>, ApiError> {
//!     let exposures = node.list()?.into_iter().flat_map(|listed| listed.instance.exposures);
//!     Ok(exposures.filter(|e| e.protocol == "TCP").map(|e| e.port.to_string()).collect())
//! }
//!
//! match Client::connect(Path::new("/run/nobody-listens.sock")) {
//!     Ok(mut daemon) => println!("{}", tcp_ports(&mut daemon)?.join(" ")),
//!     Err(error) => println!("no daemon: {error}"),
//! }
//! # Ok::<(), ApiError>(())
//! ```
//!
//! A document that describes a type of `riklet-sdn` or `riklet-core` is named after that type, with `Document`
//! appended. docs/json.md describes the fields of the documents, which `--output json` prints too. The command line
//! renders its text from the same documents, so the text does not depend on which implementation answered.

mod client;
mod collection;
mod event;
mod health;
mod instance;
mod node_api;
mod plan;
mod problem;
mod report;
mod run;
mod settings;
mod text;
mod token;

pub use client::{Client, database_is_open};
pub use collection::Collection;
pub use event::{Event, Notification, RefusedDocument, Topic, epoch_millis};
pub use health::{Health, Version};
pub use instance::{
    ExposureDocument, InspectionDocument, InstanceDocument, LinkEnd, ListEntry, Ports,
};
pub use node_api::{NodeApi, Notifications};
pub use plan::{Check, PlanDocument, Unsettled};
pub use problem::{ApiError, Detail, HttpStatus, Problem};
pub use report::{FailureDocument, RebuiltDocument, ReportDocument};
pub use riklet_core::ErrorKind;
pub use run::{
    EndedRun, ReadyRuns, ReadyTimes, RunDocument, RunningInstance, StartedRuns, StoppedRun,
};
pub use settings::SettingsDocument;
pub use text::{chain, lines};
pub use token::{Token, TokenError};

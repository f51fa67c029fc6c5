//! The pure part of Riklet SDN: it decides, and does nothing.
//!
//! ```text
//! text ── definition::parse ──► Workload ─► workload::fragment ─► Fragment ─► plan::plan ─► Plan
//! ```

pub mod address;
pub mod definition;
pub mod digest;
mod error_kind;
mod excerpt;
pub mod explain;
pub mod firewall;
pub mod flows;
pub mod forwarding;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod guard;
pub mod lease;
pub mod link;
pub mod manager;
pub mod model;
pub mod names;
pub mod nearest;
pub mod plan;
pub mod reach;
pub mod routing;
pub mod shaping;
pub mod small;
pub mod switch;
pub mod workload;

pub use error_kind::ErrorKind;

//! What the firewall must mean ([`Ruleset`]), and how each backend says it. Pure: nothing here touches
//! the kernel, and no text of a rule exists anywhere else.

mod gate;
pub mod iptables;
pub mod nftables;
mod ruleset;

pub use gate::{Gate, GateFamily, GateState};
pub use ruleset::{
    Backend, Change, Entry, FirewallState, IptablesVariant, Ruleset, Skeleton, SkeletonState,
};

/// The chain that exposures stand in, in either backend, and what the names of all our chains begin with.
pub const CHAIN: &str = "RIKLET";

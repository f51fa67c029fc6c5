//! What the firewall must mean ([`Ruleset`]), and how each backend says it. Pure: nothing here touches
//! the kernel, and no text of a rule exists anywhere else.

mod confinement;
mod foreign_chain;
pub mod iptables;
pub mod names;
pub mod nftables;
mod ruleset;

pub use confinement::Confinement;
pub use foreign_chain::{ForeignChain, ForeignChainState, ForeignFamily};
pub use ruleset::{
    Backend, BaseRuleset, BaseState, Change, Entry, FirewallState, IptablesVariant, Ruleset,
};

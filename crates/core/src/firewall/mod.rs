//! The meaning of the firewall ([`Ruleset`]), and its form in each backend. Pure: nothing here touches the
//! kernel.
//!
//! No rule exists in any form outside of this folder, and no name of a table, chain or set outside of
//! [`names`].

mod confinement;
mod foreign_chain;
pub mod iptables;
pub mod names;
pub mod nftables;
pub mod passage;
pub mod refusal;
mod ruleset;
mod translated_ports;
mod translation;
mod xtables;

pub use confinement::Confinement;
pub use foreign_chain::{ForeignChain, ForeignChainState, ForeignFamily};
pub use passage::PortBan;
pub use refusal::{RefusedPacket, RefusingRule};
pub use ruleset::{
    Backend, BaseRuleset, BaseState, Change, Entry, EntryError, EntryTable, FirewallState,
    IptablesVariant, Ruleset,
};
pub(crate) use ruleset::{
    MAIL, NAME_SERVERS, PUBLIC_V6, SPECIAL_RANGES, SPECIAL_RANGES_V6, Special,
};
pub use translated_ports::TranslatedPorts;
pub use translation::{Ban, Side, Translation, Wanted};

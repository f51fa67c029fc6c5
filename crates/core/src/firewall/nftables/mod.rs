//! The ruleset as messages of nf_tables: the table `inet riklet`, and the passage through foreign tables.
//!
//! Messages are those of `netlink-packet-netfilter`; nothing here sends one. The same types describe what is expected
//! and what was read, so that `==` compares them.

pub(in crate::firewall) mod attribute;
pub mod ban;
pub mod base_ruleset;
mod change;
pub mod confinement;
mod egress;
pub mod element;
mod expression;
pub mod foreign_chain;
mod foreign_rule;
pub mod foreign_set;
pub mod foreign_translation;
mod ipv6;
mod layout;
pub mod names;
mod object;
mod other_ports;
pub mod policies;
pub mod policy_chain;
mod proxies;
pub mod refused;
mod register;
pub mod rule_message;
mod rules;
pub mod sets;
mod sound;
mod state;
pub mod tables;

pub use change::operations;
pub use element::Element;
pub use layout::Layout;
pub use object::{Chain, Operation, Rule, Set, Table, TableName};
pub use other_ports::AskedPorts;
pub use policy_chain::{PolicyChain, PolicyChange};
pub use sound::is_sound;
pub use state::FoundTable;

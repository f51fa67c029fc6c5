//! The positions of our passage in the forward chains of others.
//!
//! A packet that our own chains allow passes every other base chain on the hook `forward` as well: an accept in one
//! does not override a drop in another (nft(8), "Verdict statements"). If a chain of others would drop it whatever its
//! addresses and ports are, our passage accepts it directly before that rule, and no earlier: an operator's rules for
//! single addresses, ports or interfaces decide first.
//!
//! Both backends translate rules of others into [`Rule`]; [`places`] decides. A test of a property that is not known of
//! all our traffic is [`Test::Other`]: such a rule is specific, and stays before the passage.

mod place;
mod ports;
mod rule;
#[cfg(test)]
mod tests;
mod traffic;

pub use place::{Place, Places, Sides, drops, places};
pub use ports::{PortBan, Stage, dropped_ports};
pub use rule::{Chain, Element, Field, Hook, Operator, Rule, Rules, Test, Value, Verdict};
pub(super) use traffic::Packet;

//! Decides the routing rules and routes that lead packets to guests, and answers of guests to the uplink that was
//! asked. Pure.
//!
//! The routes to guests are in the table `main`. An earlier rule of another program may look up another table for
//! packets to guests; then a rule of ours before it leads them to `main`.
//!
//! A host may have several uplinks. Its processes answer from the address that a client asked, and either the host has
//! a rule for that source, or the client is answered by the default route. A guest's answer is routed while its source
//! is still the guest's own address, so a rule by source misses it. The firewall marks the connection with the uplink
//! that it came in by, and rules of ours send answers with that mark back: to the table of the rule by source where the
//! host has one, or else by the default route that the uplink has, which we copy to a table of ours.

mod decide;
mod marks;
mod rule;
mod way;

pub use decide::{Routing, decide, sources};
pub use marks::{UplinkMarks, our_tables};
pub use rule::{MAIN, PROTOCOL, RoutingRule};
pub use way::{AnswerPath, HostRoute, LONGEST_DEFAULT, NextHop, TABLES, UplinkRoute, Way};

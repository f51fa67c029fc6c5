//! The chains that refuse packets of guests. Each tells of some, and drops.

use super::{Rule, Table, layout::rule};
use crate::firewall::{
    RefusingRule,
    names::iptables::{
        REFUSED_BROADCAST, REFUSED_EGRESS, REFUSED_FLOWS, REFUSED_GUEST, REFUSED_HOST,
        REFUSED_INVALID, REFUSED_LOOPBACK, REFUSED_MAIL, REFUSED_MULTICAST, REFUSED_RATE,
        REFUSED_SPOOFED,
    },
    refusal::GROUP,
};

/// The chains of the table raw, and of mangle.
const ARRIVING: [(&str, RefusingRule); 4] = [
    (REFUSED_SPOOFED, RefusingRule::Spoofed),
    (REFUSED_LOOPBACK, RefusingRule::Loopback),
    (REFUSED_MULTICAST, RefusingRule::Multicast),
    (REFUSED_BROADCAST, RefusingRule::Broadcast),
];

/// The other chains of the table mangle.
const LATER: [(&str, RefusingRule); 7] = [
    (REFUSED_INVALID, RefusingRule::Invalid),
    (REFUSED_RATE, RefusingRule::Rate),
    (REFUSED_FLOWS, RefusingRule::Flows),
    (REFUSED_GUEST, RefusingRule::Guest),
    (REFUSED_EGRESS, RefusingRule::Egress),
    (REFUSED_MAIL, RefusingRule::Mail),
    (REFUSED_HOST, RefusingRule::Host),
];

fn of_table(table: Table) -> impl Iterator<Item = (&'static str, RefusingRule)> {
    let (arriving, later) = match table {
        Table::Raw => (&ARRIVING[..], &[][..]),
        Table::Mangle => (&ARRIVING[..], &LATER[..]),
        Table::Filter | Table::Nat | Table::Security => (&[][..], &[][..]),
    };
    arriving.iter().chain(later).copied()
}

/// Returns the names of the chains in a table.
pub(super) fn chains(table: Table) -> impl Iterator<Item = &'static str> {
    of_table(table).map(|(chain, _)| chain)
}

/// Returns the rules of the chains in a table. A packet from one guest to another is refused by routing, so it goes on.
pub(super) fn rules(table: Table) -> impl Iterator<Item = Rule> {
    of_table(table).flat_map(|(chain, refusing)| {
        let told = format!(
            "{}-m limit --limit 20/sec --limit-burst 100 -j NFLOG --nflog-prefix {} --nflog-group {GROUP}",
            of_guest(refusing),
            refusing.prefix(),
        );
        let drop = (refusing != RefusingRule::Guest).then(|| rule(chain, "-j DROP"));
        [rule(chain, told)].into_iter().chain(drop)
    })
}

/// Returns the match of few packets of each guest, by their source. A guest that sends from addresses of others would fill
/// the table of the match.
fn of_guest(refusing: RefusingRule) -> &'static str {
    if refusing == RefusingRule::Spoofed {
        return "";
    }
    "-m hashlimit --hashlimit-upto 1/sec --hashlimit-burst 10 --hashlimit-mode srcip \
     --hashlimit-name riklet-told --hashlimit-htable-expire 60000 "
}

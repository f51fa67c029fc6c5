//! Proxies of policies: the rule that leads a guest's connections to one.

use super::{
    base_ruleset,
    expression::{by_source_and_tcp_port, destination_is_elsewhere, from_guest, translate},
    object::{Rule, comment},
};
use crate::{
    firewall::names::nftables::{PREROUTING, PROXIES},
    model::Family,
};

/// Returns the rule. What the host itself has or publishes is not for the proxy. If nobody listens there, the host or the
/// proxy's own refuses: the policy lets nothing go past it.
pub(super) fn to_the_proxy() -> Rule {
    let v4 = Family::V4;
    let parts = [
        from_guest(),
        destination_is_elsewhere(),
        by_source_and_tcp_port(v4),
        translate(v4, PROXIES),
    ];
    Rule::new(&base_ruleset::name(), PREROUTING, comment("connections by a proxy"), &parts)
}

//! The rules for packets of guests that leave by an uplink, or are for the host itself.

use super::{
    base_ruleset, element,
    expression::{
        Expression, accept, back, decided_by_guest, destination_public, destination_translated,
        echo_request, established, from_guest, has_ports, jump, not_to_guest, out_of, reject,
        reject_port, reset, source, source_in, tcp, to_port,
    },
    names,
    object::{Rule, comment},
};
use crate::{
    firewall::{
        BaseRuleset,
        names::nftables::{
            ALLOWED, FORWARD, HOST_REFUSE, INPUT, REFUSE, REFUSED_DEFAULT, REFUSED_HOST,
            REFUSED_MAIL, REFUSED_SHORT, UPLINKS, WHOLE,
        },
        ruleset::{MAIL, NAME_SERVERS},
    },
    model::{Egress, Family},
};

/// Returns the rules, from where packets are accepted that are part of a connection or were translated. What a policy names
/// comes first, then reaches of guests' own, then that of the node's guests.
pub(super) fn rules(base_ruleset: &BaseRuleset) -> Vec<Rule> {
    let named = [
        (REFUSE, "connections", vec![tcp(), reset()]),
        (REFUSE, "everything else", vec![reject()]),
        (HOST_REFUSE, "connections", vec![tcp(), reset()]),
        (HOST_REFUSE, "everything else", vec![reject_port()]),
        // What is named has ports, whatever the protocol: a packet that is too short for them would pass it by.
        (WHOLE, "long enough for ports", vec![has_ports(), back()]),
        (WHOLE, "too short for ports", vec![jump(REFUSED_SHORT)]),
        (FORWARD, "guests send whole packets", vec![from_guest(), jump(WHOLE)]),
        (ALLOWED, "what policies allow", vec![accept()]),
        (FORWARD, "what policies name", what_policies_name(Family::V4, false)),
        (INPUT, names::AS_FAST_AS_THEY_MAY, vec![names::too_fast()]),
        (INPUT, "what guests go on with", vec![from_guest(), established(), accept()]),
        (INPUT, "what others publish", vec![from_guest(), destination_translated(), accept()]),
        (INPUT, "guests send whole packets", vec![from_guest(), jump(WHOLE)]),
        (INPUT, "what policies name", what_policies_name(Family::V4, true)),
        (INPUT, "guests ping the host", vec![from_guest(), echo_request(Family::V4), accept()]),
    ];
    let mut all: Vec<_> =
        named.into_iter().map(|(chain, text, parts)| rule(chain, text, &parts)).collect();
    let v6 = base_ruleset.pool.v6();
    if v6.is_some() {
        let text = "IPv6: what policies name";
        all.push(rule(FORWARD, text, &what_policies_name(Family::V6, false)));
        all.push(rule(INPUT, text, &what_policies_name(Family::V6, true)));
        let echo = [from_guest(), echo_request(Family::V6), accept()];
        all.push(rule(INPUT, "IPv6: guests ping the host", &echo));
    }
    let families = || [Some(Family::V4), v6.map(|_| Family::V6)].into_iter().flatten();
    for egress in Egress::ALL.into_iter().filter(|egress| *egress != base_ruleset.egress) {
        for family in families() {
            let set = element::guests_of(family, egress);
            let guests = [from_guest(), source_in(family, set)].concat();
            all.extend(leaving(base_ruleset, egress, family, &guests));
            let text = format!("no more than {egress}");
            all.push(rule(FORWARD, &text, &[guests.clone(), jump(REFUSED_DEFAULT)]));
            if egress == Egress::All {
                all.push(rule(INPUT, "guests to the host", &[guests, accept()]));
            } else {
                all.extend(to_the_host(egress, &guests));
            }
        }
    }
    let guests = [from_guest(), source(base_ruleset.pool.v4())].concat();
    all.extend(leaving(base_ruleset, base_ruleset.egress, Family::V4, &guests));
    if let Some(pool) = v6 {
        let guests = [from_guest(), source(pool)].concat();
        all.extend(leaving(base_ruleset, base_ruleset.egress, Family::V6, &guests));
    }
    all.extend(to_the_host(base_ruleset.egress, &from_guest()));
    all
}

/// Returns the parts of the rule that leads guests to the chains of their policies.
fn what_policies_name(family: Family, host: bool) -> Vec<Vec<Expression>> {
    vec![from_guest(), decided_by_guest(family, element::policies_of(family, host))]
}

fn rule(chain: &str, text: &str, parts: &[Vec<Expression>]) -> Rule {
    Rule::new(&base_ruleset::name(), chain, comment(text), parts)
}

/// Returns the rules for packets of this family that these guests send out of the host.
fn leaving(
    base_ruleset: &BaseRuleset,
    egress: Egress,
    family: Family,
    guests: &[Expression],
) -> Vec<Rule> {
    let rule = |text: &str, parts: &[Vec<Expression>]| rule(FORWARD, text, parts);
    let out = [guests, &out_of(UPLINKS)].concat();
    let mut rules = match egress {
        Egress::None => return vec![],
        Egress::All => vec![rule("guests to the Internet", &[out, accept()])],
        Egress::Internet => {
            let names = NAME_SERVERS.map(|(protocol, port)| {
                let text = format!("guests to name servers by {protocol}");
                rule(&text, &[out.clone(), to_port(protocol, port), accept()])
            });
            let (protocol, port) = MAIL;
            let mail = [guests.to_vec(), to_port(protocol, port), jump(REFUSED_MAIL)];
            let mail = rule("no mail of guests", &mail);
            let last = rule("guests to the Internet", &[out, destination_public(family), accept()]);
            names.into_iter().chain([mail, last]).collect()
        }
    };
    if base_ruleset.any_uplink {
        let parts = [guests.to_vec(), not_to_guest(), destination_public(family), accept()];
        rules.push(rule("guests to public addresses", &parts));
    }
    rules
}

/// Returns the rules for packets of these guests to the host itself. Others judge what is accepted here, too.
fn to_the_host(egress: Egress, guests: &[Expression]) -> Vec<Rule> {
    let rule = |text: &str, parts: &[Vec<Expression>]| rule(INPUT, text, parts);
    let names = NAME_SERVERS.map(|(protocol, port)| {
        let text = format!("guests to name servers by {protocol}");
        rule(&text, &[guests.to_vec(), to_port(protocol, port), accept()])
    });
    let nothing = rule("nothing else to the host", &[guests.to_vec(), jump(REFUSED_HOST)]);
    match egress {
        Egress::All => vec![],
        Egress::Internet => names.into_iter().chain([nothing]).collect(),
        Egress::None => vec![nothing],
    }
}

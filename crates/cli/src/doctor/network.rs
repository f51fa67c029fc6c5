//! Looks at the host's network, apart from its firewall: forwarding, uplinks, resolvers, the pool and routing rules.

use std::collections::{BTreeMap, BTreeSet};

use riklet_core::{
    firewall::{Backend, Confinement},
    forwarding::ON,
    model::{InterfaceName, Pool},
    routing::{self, UplinkMarks},
    switch::{self, IP_FORWARD},
};
use riklet_kernel::{HostFacts, KernelError, Links, Routes, Sysctls};
use riklet_sdn::{Config, overlapping_route};

use super::finding::{Finding, unreadable};
use crate::input;

const SET_POOL: &str = "set pool to a range that no route covers";

pub(super) fn forwarding(kernel: &mut impl Sysctls) -> Finding {
    match kernel.sysctl(IP_FORWARD) {
        Ok(Some(value)) if value == "1" => Finding::ok("forwarding", "on"),
        Ok(Some(_)) => Finding::note(
            "forwarding",
            "off for the host as a whole",
            "nothing to do: `up` turns it on for the interfaces that guests are reached by, and \
             `down --all --purge` off again",
        ),
        Ok(None) => Finding::fail("forwarding", format!("no sysctl {IP_FORWARD}"), "mount /proc"),
        Err(error) => unreadable("forwarding", &error, "mount /proc"),
    }
}

/// Returns a finding for each sysctl that `up` would have to set and cannot write. If all of them are right, returns
/// one finding; if they can be written, none.
pub(super) fn read_only_sysctls(
    config: &Config,
    kernel: &mut (impl Routes + Sysctls),
) -> Vec<Finding> {
    if input::require_privilege().is_err() {
        return vec![Finding::unseen("sysctls", "whether they can be written")];
    }
    let uplinks = config.uplinks.clone().map_or_else(|| kernel.uplinks(), Ok).unwrap_or_default();
    let needed = [switch::disable_ipv6("default")];
    let needed = needed.into_iter().chain(uplinks.iter().map(switch::forwarding));
    let read_only = needed.filter(|name| matches!(kernel.sysctl_is_writable(name), Ok(false)));
    let read_only: Vec<_> = read_only.collect();
    let wrong = read_only.iter().filter_map(|name| {
        let value = kernel.sysctl(name).ok().flatten().filter(|value| value != ON)?;
        Some(Finding::fail(
            "sysctls",
            format!("{name} is {value}, must be {ON}, and cannot be written"),
            format!("`sysctl -w {name}={ON}` where /proc/sys can be written"),
        ))
    });
    let wrong: Vec<_> = wrong.collect();
    if wrong.is_empty() && !read_only.is_empty() {
        return vec![Finding::ok("sysctls", "read-only, and as functions need them")];
    }
    wrong
}

/// Returns the finding about packets that the host forwards only because of us.
pub(super) fn left_open(open: &Confinement) -> Finding {
    let list = |names: Vec<&InterfaceName>| {
        names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    // What is said of one family holds for the other: it is about the same interfaces.
    let open = open.v6().filter(|_| open.from().is_empty()).unwrap_or(open);
    let (from, to) = (list(open.from().iter().collect()), list(open.to().iter().collect()));
    Finding::note(
        "forwarding",
        format!("only because functions are up, packets from {from} are forwarded to {to}"),
        "`riklet-sdn serve` drops them, and allows them once somebody sets ip_forward to 1",
    )
}

pub(super) fn uplink(config: &Config, kernel: &mut (impl Links + Routes)) -> Finding {
    let names = match uplinks(config, kernel) {
        Err(error) => return unreadable("uplink", &error, "set uplink"),
        Ok(names) => names,
    };
    if names.is_empty() {
        return Finding::note(
            "uplink",
            "no default route",
            "guests do not reach the Internet; published ports work. Add a route, or set uplink",
        );
    }
    if let Some(missing) = names.iter().find(|name| matches!(kernel.link(name), Ok(None))) {
        let advice = "guests do not reach the Internet by it; published ports work. Correct uplink";
        return Finding::note("uplink", format!("there is no interface {missing}"), advice);
    }
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    Finding::ok("uplink", names.join(", "))
}

/// Returns the configured uplinks, or those of the default route.
pub(super) fn uplinks(
    config: &Config,
    kernel: &mut impl Routes,
) -> Result<BTreeSet<InterfaceName>, KernelError> {
    match &config.uplinks {
        Some(configured) => Ok(configured.clone()),
        None => kernel.uplinks(),
    }
}

/// Returns a finding if guests get no name server of the host's.
pub(super) fn resolvers(kernel: &mut impl HostFacts) -> Option<Finding> {
    match kernel.resolvers() {
        Ok(servers) => servers.is_empty().then(|| {
            Finding::note(
                "DNS",
                "the host names no server that a guest can reach: its loopback is out of reach",
                "set `dns` in definitions; a guest without it has no name server",
            )
        }),
        Err(error) => Some(unreadable("DNS", &error, "set `dns` in definitions")),
    }
}

pub(super) fn loopback(kernel: &mut impl Links) -> Finding {
    let link = InterfaceName::try_from("lo").ok().map(|name| kernel.link(&name));
    match link {
        Some(Ok(Some(link))) if link.up => Finding::ok("loopback", "up"),
        Some(Err(error)) => unreadable("loopback", &error, "a kernel with rtnetlink is needed"),
        _ => Finding::note(
            "loopback",
            "lo is down",
            "published ports do not answer at 127.0.0.1: `ip link set lo up`",
        ),
    }
}

pub(super) fn pool(
    config: &Config,
    decided: Option<(Backend, Pool)>,
    kernel: &mut impl Routes,
) -> Vec<Finding> {
    let mut overlap = |pool| overlapping_route(kernel, pool);
    let unanswered = |error| vec![unreadable("pool", &error, "a kernel with rtnetlink is needed")];
    let overlaps = |pool, route| format!("{pool} overlaps the route to {route}");
    let theirs = format!("addresses there that guests get are theirs; {SET_POOL}");
    if let Some((_, pool)) = decided {
        return match overlap(pool) {
            Err(error) => unanswered(error),
            Ok(None) => vec![Finding::ok("pool", format!("{pool} is used"))],
            Ok(Some(route)) => {
                let within = route.destination.prefix_len() > pool.v4().prefix_len();
                let spared = within && config.pool.is_none();
                let advice = if spared {
                    "nothing to do: new functions get other addresses"
                } else {
                    &*theirs
                };
                vec![Finding::note(
                    "pool",
                    format!("{pool} is used, and overlaps the route to {route}"),
                    advice,
                )]
            }
        };
    }
    let free = |pool| Finding::ok("pool", format!("{pool} overlaps no route"));
    if let Some(pool) = config.pool {
        return match overlap(pool) {
            Err(error) => unanswered(error),
            Ok(None) => vec![free(pool)],
            Ok(Some(route)) => vec![Finding::note("pool", overlaps(pool, route), theirs)],
        };
    }
    let mut findings = Vec::new();
    for pool in Pool::candidates() {
        let route = match overlap(pool) {
            Err(error) => return unanswered(error),
            Ok(None) => {
                findings.push(free(pool));
                return findings;
            }
            Ok(Some(route)) => route,
        };
        let advice = "nothing to do: the next candidate is taken";
        findings.push(Finding::note("pool", overlaps(pool, route), advice));
    }
    findings.push(Finding::fail("pool", "every candidate overlaps a route", SET_POOL));
    findings
}

/// Returns a finding that names a routing rule that may divert packets to guests, and that none of ours can precede.
pub(super) fn routing_rule(pool: Pool, kernel: &mut impl Routes) -> Option<Finding> {
    let rules = match kernel.rules() {
        Ok(rules) => rules,
        Err(error) => {
            let advice = "a kernel with rtnetlink is needed";
            return Some(unreadable("routing", &error, advice));
        }
    };
    let (marks, ways) = (UplinkMarks::default(), BTreeMap::new());
    let rule = routing::decide(pool.v4(), &rules, &marks, &ways).unanswered?;
    Some(Finding::note(
        "routing",
        format!("the rule {rule} may take packets to functions elsewhere"),
        "give it a priority of 3 or more: then rules of ours come before it",
    ))
}

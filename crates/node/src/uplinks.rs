//! The ways by which answers to clients leave the host, and what is wrong with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{Config, NodeError};
use riklet_core::{
    model::{InterfaceName, MarkMask, Pool},
    routing::{self, Routing, RoutingRule, UplinkMarks, Way},
    switch,
};
use riklet_kernel::{Kernel, KernelError, Links, Routes, Sysctls};

type Ways = BTreeMap<InterfaceName, Way>;

/// The reason why clients beyond the network of an uplink get no answer by it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UplinkFlaw {
    /// The kernel drops their packets: it would answer them by another interface (`rp_filter` is 1).
    Strict(InterfaceName),
    /// The uplink is configured, and no default route leads out of it.
    NoWay(InterfaceName),
    /// Other uplinks have all the marks.
    Unmarked(InterfaceName),
    /// A routing rule of another program takes all answers, and there is no room for ours before it.
    Preceded(RoutingRule),
}

impl UplinkFlaw {
    /// Returns the remedy.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Strict(name) => format!("`sysctl -w {}=2`", switch::rp_filter(name.as_str())),
            Self::NoWay(name) => {
                format!("add one: `ip route add default via ROUTER dev {name} metric 1000`")
            }
            Self::Unmarked(_) => "use fewer uplinks".to_owned(),
            Self::Preceded(_) => {
                "give it a priority of 5 or more: then rules of ours come before it".to_owned()
            }
        }
    }
}

impl fmt::Display for UplinkFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strict(name) => write!(
                f,
                "{name} checks sources strictly (rp_filter is 1): packets of clients beyond its network \
                 do not reach functions"
            ),
            Self::NoWay(name) => write!(
                f,
                "no default route leads out of {name}: answers to clients beyond its network leave by \
                 another uplink"
            ),
            Self::Unmarked(name) => write!(
                f,
                "only {} uplinks can be told apart: answers to clients of {name} leave by the default \
                 route",
                MarkMask::UPLINKS
            ),
            Self::Preceded(rule) => write!(
                f,
                "the routing rule {rule} comes first: answers leave by its default route, whatever \
                 uplink was asked"
            ),
        }
    }
}

/// The decision about routing, and the ways that it is based on.
#[derive(Debug)]
pub(crate) struct Routed {
    pub(crate) marks: UplinkMarks,
    pub(crate) routing: Routing,
    ways: Ways,
}

impl Routed {
    /// Reads the routing rules, and asks for the ways of answers: from addresses with a rule of their own, and by each
    /// of these candidates.
    pub(crate) fn look(
        kernel: &mut impl Routes,
        mask: MarkMask,
        pool: Pool,
        candidates: &BTreeSet<InterfaceName>,
        recorded: Option<&str>,
    ) -> Result<Self, KernelError> {
        let rules = kernel.rules()?;
        let ways = ways(kernel, &rules, candidates, recorded.is_none())?;
        let marks = UplinkMarks::new(mask, &ways, recorded);
        let mut routing = routing::decide(pool.v4(), &rules, &marks, &ways);
        if let Some(pool) = pool.v6() {
            // Answers of IPv6 leave by the default route.
            let unmarked = UplinkMarks::new(mask, &Ways::new(), None);
            let of_v6 = routing::decide(pool, &rules, &unmarked, &Ways::new());
            routing.rules.extend(of_v6.rules);
            routing.unanswered = routing.unanswered.or(of_v6.unanswered);
        }
        if let Some(rule) = &routing.unanswered {
            tracing::warn!(
                "the routing rule {rule} comes first, and may take packets to or from functions \
                 elsewhere: `riklet-sdn doctor` says more"
            );
        }
        Ok(Self { marks, routing, ways })
    }

    /// Warns of what keeps clients from being answered.
    pub(crate) fn warn(
        &self,
        kernel: &mut impl Sysctls,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<(), KernelError> {
        for flaw in flaws(kernel, uplinks, &self.ways, &self.marks)? {
            tracing::warn!("{flaw}: {}", flaw.advice());
        }
        Ok(())
    }
}

/// Returns what keeps clients at the host's uplinks from being answered.
pub(crate) fn look_at_flaws(
    kernel: &mut impl Kernel,
    config: &Config,
) -> Result<Vec<UplinkFlaw>, NodeError> {
    let uplinks = kernel.uplinks()?;
    let configured = config.uplinks.iter().flatten();
    let mut candidates: BTreeSet<_> = uplinks.iter().chain(configured.clone()).cloned().collect();
    candidates.extend(addressed(kernel)?);
    let rules = kernel.rules()?;
    let ways = ways(kernel, &rules, &candidates, true)?;
    let marks = UplinkMarks::new(config.mark_mask.unwrap_or_default(), &ways, None);
    let mut found = flaws(kernel, &uplinks, &ways, &marks)?;
    let pool = config.pool.or_else(|| Pool::candidates().first().copied());
    if let Some(pool) = pool {
        let decided = routing::decide(pool.v4(), &rules, &marks, &ways);
        let of_guests =
            decided.unanswered.as_ref().is_some_and(|rule| rule.may_take(pool.v4().into()));
        found.extend(decided.unanswered.filter(|_| !of_guests).map(UplinkFlaw::Preceded));
    }
    for name in configured.filter(|name| !ways.contains_key(*name)) {
        if kernel.link(name)?.is_some() {
            found.push(UplinkFlaw::NoWay(name.clone()));
        }
    }
    Ok(found)
}

/// Returns the interfaces of the host that have an address.
fn addressed(kernel: &mut impl Links) -> Result<Vec<InterfaceName>, KernelError> {
    let interfaces = kernel.host_interfaces()?.into_iter();
    Ok(interfaces.filter(|(_, found)| found.addressed).map(|(name, _)| name).collect())
}

/// Asks for the ways of answers. A single candidate is asked for only if it is `unknown`: it needs no mark, so nothing
/// depends on its way.
fn ways(
    kernel: &mut impl Routes,
    rules: &[RoutingRule],
    candidates: &BTreeSet<InterfaceName>,
    unknown: bool,
) -> Result<Ways, KernelError> {
    let mut ways = Ways::new();
    for source in routing::sources(rules) {
        let path = kernel.answer_path(source)?;
        // The default route of the table main is found by its uplink.
        if let Some(path) = path.filter(|path| path.table != routing::MAIN) {
            ways.entry(path.uplink).or_insert(Way::Table(path.table));
        }
    }
    if !unknown && ways.is_empty() && candidates.len() < 2 {
        return Ok(ways);
    }
    for uplink in candidates {
        if !ways.contains_key(uplink)
            && let Some(hop) = kernel.next_hop(uplink)?
        {
            ways.insert(uplink.clone(), Way::Hop(hop));
        }
    }
    Ok(ways)
}

/// Returns the flaws of these ways, given the uplinks of the default route.
///
/// A packet is checked by the route of an answer without a mark, which takes the default route. A rule by source does
/// not count: the packet is for a guest's address by then.
fn flaws(
    kernel: &mut impl Sysctls,
    uplinks: &BTreeSet<InterfaceName>,
    ways: &Ways,
    marks: &UplinkMarks,
) -> Result<Vec<UplinkFlaw>, KernelError> {
    let mut found = Vec::new();
    if marks.is_empty() {
        return Ok(found);
    }
    let marked: BTreeSet<_> = marks.marks().map(|(name, _)| name).collect();
    let is_default = |name| uplinks.len() == 1 && uplinks.contains(name);
    for name in ways.keys() {
        if !is_default(name) && is_strict(kernel, name)? {
            found.push(UplinkFlaw::Strict(name.clone()));
        }
        if !marked.contains(name) {
            found.push(UplinkFlaw::Unmarked(name.clone()));
        }
    }
    Ok(found)
}

/// Reports whether an interface checks sources strictly. The greater of its own value and that of `all` counts.
fn is_strict(kernel: &mut impl Sysctls, name: &InterfaceName) -> Result<bool, KernelError> {
    let mut greatest = 0;
    for of in ["all", name.as_str()] {
        let value = kernel.sysctl(&switch::rp_filter(of))?.and_then(|value| value.parse().ok());
        greatest = greatest.max(value.unwrap_or(0));
    }
    Ok(greatest == 1)
}

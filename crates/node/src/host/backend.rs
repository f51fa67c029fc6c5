//! The firewall's backend and the pool: chosen at the first use, and recorded.

use std::collections::BTreeSet;

use super::ETHERNET_MTU;
use crate::{
    Config, NodeError,
    config::FirewallChoice,
    ipv6::with_recorded_range,
    store::{Setting, Settings, Store},
};
use riklet_core::{
    firewall::{Backend, BaseRuleset, Confinement, FirewallState, Ruleset},
    model::{Egress, FlowLimit, Pool},
    routing::UplinkMarks,
};
use riklet_kernel::{Firewall, HostFacts, Kernel, KernelError};

/// Returns the firewall's backend and the pool that were decided at the first use; `None` if the node was not used yet.
pub(crate) fn decision(settings: &Settings) -> Result<Option<(Backend, Pool)>, NodeError> {
    let (backend, pool) = (settings.get(Setting::Backend), settings.get(Setting::Pool));
    let (Some(backend), Some(pool)) = (backend, pool) else { return Ok(None) };
    let wrong = |what, value: &str| NodeError::Setting { what, value: value.to_owned() };
    let backend = Backend::from_name(backend).ok_or_else(|| wrong("firewall", backend))?;
    let pool = pool.parse().map_err(|_wrong| wrong("pool", pool))?;
    Ok(Some((backend, pool)))
}

/// Returns the firewall's backend, and the pool with its range of IPv6 if one was ever chosen, that these records decide; `None`
/// if the node was not used yet.
///
/// # Errors
/// Fails if the records cannot be read, or have a value that is none.
pub fn decided_by(store: &Store) -> Result<Option<(Backend, Pool)>, NodeError> {
    let settings = store.settings()?;
    let Some((backend, pool)) = decision(&settings)? else { return Ok(None) };
    Ok(Some((backend, with_recorded_range(pool, &settings)?)))
}

pub(super) fn refuse_conflict(
    config: &Config,
    backend: Backend,
    pool: Pool,
) -> Result<(), NodeError> {
    let decided = |what, configured: String, recorded: String| {
        Err(NodeError::Decided { what, configured, recorded })
    };
    if !config.firewall.allows(backend) {
        return decided("firewall", config.firewall.as_str().to_owned(), backend.to_string());
    }
    match config.pool {
        Some(configured) if configured != pool => {
            decided("pool", configured.to_string(), pool.to_string())
        }
        _ => Ok(()),
    }
}

/// Checks that the state of the backend can be read before the backend is decided for good: iptables-nft refuses a
/// whole table because of one rule that only `nft` can write.
fn try_to_read(
    kernel: &mut impl Firewall,
    backend: Backend,
    pool: Pool,
) -> Result<(), KernelError> {
    kernel.firewall_state(backend, &any_ruleset(pool)).map(drop)
}

/// Returns a ruleset for reading a firewall of which only the readability or the owner matters.
fn any_ruleset(pool: Pool) -> Ruleset {
    let (confined, owner) = (Confinement::default(), None);
    let (mtu, uplinks, any_uplink) = (ETHERNET_MTU, BTreeSet::new(), false);
    let marks = UplinkMarks::default();
    let (egress, flows) = (Egress::default(), FlowLimit::default());
    let base_ruleset =
        BaseRuleset { pool, mtu, uplinks, any_uplink, egress, flows, confined, marks, owner };
    Ruleset { base_ruleset, entries: BTreeSet::new() }
}

/// Returns the state of our firewall in each backend that can be read.
pub(crate) fn firewalls(
    kernel: &mut impl Kernel,
    config: &Config,
) -> Result<Vec<(Backend, FirewallState)>, NodeError> {
    let pool = config.pool.or_else(|| Pool::candidates().first().copied());
    let Some(pool) = pool else { return Ok(vec![]) };
    let iptables = kernel.iptables()?.map(Backend::Iptables);
    let mut found = Vec::new();
    for backend in [Some(Backend::Nftables), iptables].into_iter().flatten() {
        match kernel.firewall_state(backend, &any_ruleset(pool)) {
            Err(error) if error.refusal().is_incompatible() => {}
            state => found.push((backend, state?)),
        }
    }
    Ok(found)
}

pub(super) fn choose_backend(
    kernel: &mut (impl Firewall + HostFacts),
    config: &Config,
    pool: Pool,
) -> Result<Backend, NodeError> {
    if config.firewall == FirewallChoice::Nftables {
        return Ok(Backend::Nftables);
    }
    let Some(backend) = kernel.iptables()?.map(Backend::Iptables) else {
        return match config.firewall {
            FirewallChoice::Iptables => Err(NodeError::NoIptables),
            _ => Ok(Backend::Nftables),
        };
    };
    match try_to_read(kernel, backend, pool) {
        Ok(()) => Ok(backend),
        Err(error)
            if error.refusal().is_incompatible() && config.firewall == FirewallChoice::Auto =>
        {
            Ok(Backend::Nftables)
        }
        Err(error) => Err(error.into()),
    }
}

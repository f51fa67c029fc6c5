//! What was decided for the node, and what the host is like at this moment.

use std::collections::{BTreeMap, BTreeSet};

use super::config::FirewallChoice;
use super::{Config, NodeError};
use crate::store::{Setting, Store, Tx};
use riklet_core::{
    firewall::{Backend, BaseRuleset, FirewallState, Ruleset},
    model::{Mtu, Owner, OwnerError, Pool},
    plan::IP_FORWARD,
    workload::NodeFacts,
};
use riklet_kernel::{Kernel, KernelError};

/// The MTU of Ethernet (RFC 894), for a host that has no uplink.
const ETHERNET_MTU: u32 = 1500;

/// The node as an operation finds it.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) backend: Backend,
    pub(super) node: NodeFacts,
    /// `None` where nothing of ours shall remain.
    pub(super) base_ruleset: Option<BaseRuleset>,
    /// Values that sysctls shall have.
    pub(super) sysctls: BTreeMap<String, String>,
    /// The firewall's tables that were there before us.
    pub(super) foreign_tables: BTreeSet<String>,
    /// Whether forwarding is off, and nothing is recorded of it yet.
    must_record_sysctls: bool,
    /// Whether the node has recorded no decision yet.
    pub(super) first_use: bool,
    /// Whether the owner is not recorded yet: this is the first use, or an earlier version made the records.
    must_record_owner: bool,
    /// What the sysctls were before we changed them.
    former_sysctls: BTreeMap<String, String>,
}

impl Host {
    /// The node, with what was decided at its first use; `None` where it was not used yet.
    pub(super) fn decided(
        kernel: &mut impl Kernel,
        config: &Config,
        store: &Store,
    ) -> Result<Option<Self>, NodeError> {
        let Some((backend, pool)) = decision(store)? else { return Ok(None) };
        refuse_conflict(config, backend, pool)?;
        let tables = store.setting(Setting::Tables)?.unwrap_or_default();
        let tables = tables.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect();
        Self::look(kernel, config, store, (backend, pool), tables).map(Some)
    }

    /// The same, and decides where nothing is decided yet; [`Self::record`] makes the decision last.
    pub(super) fn decide(
        kernel: &mut impl Kernel,
        config: &Config,
        store: &Store,
    ) -> Result<Self, NodeError> {
        if let Some(host) = Self::decided(kernel, config, store)? {
            return Ok(host);
        }
        let pool = choose_pool(kernel, config)?;
        let backend = choose_backend(kernel, config, pool)?;
        Self::first(kernel, config, store, (backend, pool))
    }

    /// A node that is used for the first time.
    pub(super) fn first(
        kernel: &mut impl Kernel,
        config: &Config,
        store: &Store,
        (backend, pool): (Backend, Pool),
    ) -> Result<Self, NodeError> {
        let tables = kernel.firewall_tables(backend)?;
        let mut host = Self::look(kernel, config, store, (backend, pool), tables)?;
        host.first_use = true;
        Ok(host)
    }

    /// The same host, where nothing of ours shall remain.
    pub(super) fn removed(mut self, kernel: &mut impl Kernel) -> Result<Self, NodeError> {
        self.base_ruleset = None;
        self.sysctls = BTreeMap::new();
        for (name, former) in &self.former_sysctls {
            // An interface that has gone takes its sysctls along.
            if kernel.sysctl(name)?.is_some() {
                self.sysctls.insert(name.clone(), former.clone());
            }
        }
        Ok(self)
    }

    fn look(
        kernel: &mut impl Kernel,
        config: &Config,
        store: &Store,
        (backend, pool): (Backend, Pool),
        foreign_tables: BTreeSet<String>,
    ) -> Result<Self, NodeError> {
        let uplinks = match &config.uplinks {
            Some(uplinks) => uplinks.clone(),
            None => kernel.uplinks()?,
        };
        let mut mtu = config.mtu.map(Mtu::bytes);
        if mtu.is_none() {
            for uplink in &uplinks {
                let found = kernel.link(uplink)?.map(|link| link.mtu);
                mtu = mtu.into_iter().chain(found).min();
            }
        }
        let forwards = kernel.sysctl(IP_FORWARD)?.as_deref() == Some("1");
        let former_sysctls = store.recorded_sysctls()?;
        let (owner, must_record_owner) = owner(config, store)?;
        let guard = !forwards || !former_sysctls.is_empty();
        Ok(Self {
            backend,
            base_ruleset: Some(BaseRuleset { pool, uplinks, guard, owner: Some(owner.clone()) }),
            node: NodeFacts { pool, mtu: mtu.map_or(ETHERNET_MTU, |mtu| mtu.min(Mtu::MAX)), owner },
            sysctls: BTreeMap::from([(IP_FORWARD.to_owned(), "1".to_owned())]),
            foreign_tables,
            must_record_sysctls: !forwards && former_sysctls.is_empty(),
            first_use: false,
            must_record_owner,
            former_sysctls,
        })
    }

    /// Records what was decided, and what is about to be changed and must be restored.
    pub(super) fn record(&self, kernel: &mut impl Kernel, tx: &Tx<'_>) -> Result<(), NodeError> {
        if self.first_use {
            let tables: Vec<_> = self.foreign_tables.iter().map(String::as_str).collect();
            tx.set_setting(Setting::Backend, self.backend.as_str())?;
            tx.set_setting(Setting::Pool, &self.node.pool.to_string())?;
            tx.set_setting(Setting::Tables, &tables.join(","))?;
        }
        if self.must_record_owner {
            tx.set_setting(Setting::Owner, &self.node.owner.to_string())?;
        }
        if self.must_record_sysctls {
            for (name, value) in kernel.forwarding_sysctls()? {
                tx.record_sysctl(&name, &value)?;
            }
        }
        Ok(())
    }
}

/// The firewall's backend and the pool that were decided at the first use; `None` where the node was not used yet.
pub(super) fn decision(store: &Store) -> Result<Option<(Backend, Pool)>, NodeError> {
    let backend = store.setting(Setting::Backend)?;
    let pool = store.setting(Setting::Pool)?;
    let (Some(backend), Some(pool)) = (backend, pool) else { return Ok(None) };
    let backend = Backend::from_name(&backend)
        .ok_or(NodeError::Setting { what: "firewall", value: backend })?;
    let pool = pool.parse().map_err(|_wrong| NodeError::Setting { what: "pool", value: pool })?;
    Ok(Some((backend, pool)))
}

fn refuse_conflict(config: &Config, backend: Backend, pool: Pool) -> Result<(), NodeError> {
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

/// What the backend has at this moment, which matters only in that it can be read: what is decided stays, and
/// iptables-nft refuses a whole table because of one rule that only `nft` can write.
fn try_to_read(kernel: &mut impl Kernel, backend: Backend, pool: Pool) -> Result<(), KernelError> {
    kernel.firewall(backend, &any_ruleset(pool)).map(drop)
}

/// A ruleset to look at a firewall with, of which only that it can be read matters, or whose it is.
fn any_ruleset(pool: Pool) -> Ruleset {
    let base_ruleset = BaseRuleset { pool, uplinks: BTreeSet::new(), guard: false, owner: None };
    Ruleset { base_ruleset, entries: BTreeSet::new() }
}

/// The owner of what this state directory records, and whether that is not recorded yet.
pub(super) fn owner(config: &Config, store: &Store) -> Result<(Owner, bool), NodeError> {
    if let Some(text) = store.setting(Setting::Owner)? {
        let owner = text.parse();
        let wrong = |OwnerError| NodeError::Setting { what: "owner", value: text };
        return Ok((owner.map_err(wrong)?, false));
    }
    let directory = Store::canonical(&config.state_dir);
    Ok((Owner::new(store.random_owner()?, &directory.to_string_lossy()), true))
}

/// The firewalls of ours that the host has, by each backend that can be read.
pub(super) fn firewalls(
    kernel: &mut impl Kernel,
    config: &Config,
) -> Result<Vec<(Backend, FirewallState)>, NodeError> {
    let pool = config.pool.or_else(|| Pool::candidates().first().copied());
    let Some(pool) = pool else { return Ok(vec![]) };
    let iptables = kernel.iptables()?.map(Backend::Iptables);
    let mut found = Vec::new();
    for backend in [Some(Backend::Nftables), iptables].into_iter().flatten() {
        match kernel.firewall(backend, &any_ruleset(pool)) {
            Err(error) if error.refusal().is_incompatible() => {}
            state => found.push((backend, state?)),
        }
    }
    Ok(found)
}

fn choose_backend(
    kernel: &mut impl Kernel,
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

fn choose_pool(kernel: &mut impl Kernel, config: &Config) -> Result<Pool, NodeError> {
    let routes = kernel.routes()?;
    let covered = |pool: Pool| routes.iter().copied().find(|&route| pool.overlaps(route));
    let candidates = config.pool.map_or_else(Pool::candidates, |pool| vec![pool]);
    let mut overlap = None;
    for pool in candidates {
        match covered(pool) {
            None => return Ok(pool),
            Some(route) => overlap = overlap.or(Some(NodeError::PoolOverlaps { pool, route })),
        }
    }
    Err(overlap.unwrap_or(NodeError::Setting { what: "pool", value: String::new() }))
}

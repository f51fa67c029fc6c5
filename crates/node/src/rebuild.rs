//! Rebuilds the records from the kernel: the aliases of the interfaces name their instances.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use ipnet::{IpNet, Ipv6Net};

use super::{
    NodeError, Report,
    host::{self, Host, Interfaces, decision},
    session::{Context, Operations, Session},
};
use crate::store::{self, Phase, Setting, Store, StoreError, Tx};
use riklet_core::{
    firewall::{Backend, Change, Ruleset},
    forwarding::{OFF, ON},
    link::LinkState,
    model::{Addresses, InstanceName, Ipv6, Mark, Mtu, Owner, Pool, Slot},
    plan::{self, Adoption, Object, Step},
    switch,
    workload::{
        self, NodeFacts,
        alias::{self, Marked},
    },
};
use riklet_kernel::Kernel;

/// Options of [`Node::rebuild`](crate::Node::rebuild).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RebuildOptions {
    /// Sets the database aside whatever it holds, even if it seems sound, or is that of a newer version or another
    /// program.
    pub force: bool,
}

impl RebuildOptions {
    /// Sets the present database aside whatever it holds, or does not.
    #[must_use]
    pub const fn force(self, force: bool) -> Self {
        Self { force, ..self }
    }
}

/// The outcome of [`Node::rebuild`](crate::Node::rebuild) and [`Node::adopt`](crate::Node::adopt).
#[derive(Debug)]
#[non_exhaustive]
pub struct Rebuilt {
    /// The path of the former database; `None` if it was kept, or there was none.
    pub set_aside: Option<PathBuf>,
    /// The instances that were recorded anew.
    pub recovered: Vec<InstanceName>,
    /// The recovered instances that lost exposures because their alias had no room for them, or a policy. With a policy,
    /// they reach nothing until they are brought up again.
    pub incomplete: Vec<InstanceName>,
    /// The instances whose record could not be read, and that have no interface of ours: they are recorded no longer.
    pub lost: Vec<InstanceName>,
    /// The repair that followed.
    pub report: Report,
}

impl<K: Kernel> Operations<'_, K> {
    pub(crate) fn rebuild(
        &mut self,
        options: RebuildOptions,
        adoption: Adoption,
    ) -> Result<Rebuilt, NodeError> {
        self.context.refuse_blank_adoption(adoption)?;
        let state_dir = &self.context.config.state_dir;
        if let Some(daemon) = store::daemon(state_dir) {
            return Err(NodeError::Open { state_dir: state_dir.clone(), daemon });
        }
        let _lock = self.context.lock()?;
        match self.rebuild_locked(options, adoption) {
            // What verifies a database may have missed something: any error leads out.
            Err(error) if error.is_unsound() && !options.force => {
                self.rebuild_locked(options.force(true), adoption)
            }
            done => done,
        }
    }

    fn rebuild_locked(
        &mut self,
        options: RebuildOptions,
        adoption: Adoption,
    ) -> Result<Rebuilt, NodeError> {
        self.let_go_of_records();
        let found = self.context.marked()?;
        let set_aside = self.context.set_aside_if_unsound(options, adoption, &found)?;
        let mut session = self.session()?;
        let recovered = session.recover_all(adoption, &found)?;
        if adoption == Adoption::All {
            session.empty_other_records(&found)?;
        }
        let mut report = session.reconcile(&recovered.slots, adoption)?;
        report.done.extend(session.remove_other_firewalls()?);
        let Recovered { names, incomplete, lost, .. } = recovered;
        Ok(Rebuilt { set_aside, recovered: names, incomplete, lost, report })
    }
}

/// The instances that were recorded anew.
#[derive(Debug, Default)]
struct Recovered {
    slots: BTreeSet<Slot>,
    names: Vec<InstanceName>,
    incomplete: Vec<InstanceName>,
    lost: Vec<InstanceName>,
}

impl<K: Kernel> Session<'_, K> {
    /// Records the interfaces that are not recorded, or whose record cannot be read. `found` is everything that bears a
    /// mark.
    fn recover_all(
        &mut self,
        adoption: Adoption,
        found: &[(Object, Mark)],
    ) -> Result<Recovered, NodeError> {
        let (tx, context) = self.begin()?;
        let links = context.kernel.links()?.into_iter();
        let links: Vec<_> = links.filter_map(marked).collect();
        if !found.is_empty() {
            let (owner, is_new) = host::owner(context.config, &tx)?;
            if let Some(lost) = plan::lost_owner(&owner, found).filter(|_| is_new) {
                // The state directory keeps its former identifier, so that its objects keep their mark.
                let owner = Owner::new(lost, owner.directory());
                tx.set_setting(Setting::Owner, &owner.to_string())?;
            }
            let host = match context.decided(&tx, Interfaces::Recorded)? {
                Some(host) => host,
                None => context.deduce(&tx, links.first().map(|(_, link, _)| link))?.into(),
            };
            if adoption == Adoption::All {
                refuse_other_pool(&host, &links)?;
            }
            host.record(&tx)?;
        }
        let mut recovered = Recovered::default();
        let owned = tx.manifests()?;
        let unreadable = tx.all()?.unreadable;
        for unreadable in &unreadable {
            tx.remove_unreadable(unreadable)?;
        }
        let pool = decision(&tx.settings()?)?.map(|(_, pool)| pool);
        for (slot, link, marked) in links {
            if pool.and_then(|pool| pool.addresses(slot)).is_none() {
                continue;
            }
            if recover(&tx, slot, &link, &marked)? {
                if let Some(file) = owned.get(&marked.name) {
                    tx.set_manifest(&marked.name, Some(file))?;
                }
                recovered.slots.insert(slot);
                recovered.names.push(marked.name.clone());
                recovered.incomplete.extend((!marked.complete).then_some(marked.name));
            }
        }
        context.commit(tx)?;
        let names = unreadable.into_iter().map(|unreadable| unreadable.record.name);
        recovered.lost = names.filter(|name| !recovered.names.contains(name)).collect();
        Ok(recovered)
    }

    /// Empties the records that the objects were taken from: once ours are gone, an operation on those would bring the
    /// instances up again. This comes before the objects get our mark, since that mark is what leads to those records.
    fn empty_other_records(&mut self, found: &[(Object, Mark)]) -> Result<(), NodeError> {
        let (ours, _) = host::owner(self.context.config, self.store)?;
        for (owner, directory) in plan::other_owners(&ours, found) {
            match Store::give_up(Path::new(directory), owner) {
                Ok(Some(copy)) => {
                    tracing::info!(
                        "the records in {directory} are empty now; a copy is {}",
                        copy.display()
                    );
                }
                Ok(None) => {}
                // The instances are ours all the same.
                Err(error) => tracing::warn!(
                    "the records in {directory} still have what was taken over from them: {error}"
                ),
            }
        }
        Ok(())
    }

    /// Removes our objects from other backends: the other records may have used them, and both would translate packets.
    fn remove_other_firewalls(&mut self) -> Result<Vec<Step>, NodeError> {
        let Self { context, store, .. } = self;
        let Some(host) = context.decided(store, Interfaces::Recorded)? else { return Ok(vec![]) };
        let mut done = Vec::new();
        for (backend, state) in host::firewalls(context.kernel, context.config)? {
            if backend != host.backend && !state.marks.is_empty() {
                context.kernel.change_firewall(backend, &Change::Remove)?;
                done.push(Step::Firewall(backend, Change::Remove));
            }
        }
        Ok(done)
    }
}

impl<K: Kernel> Context<'_, K> {
    /// Sets damaged records aside, and returns their new path. Sound records exist afterwards. A refusal comes before
    /// anything is moved.
    fn set_aside_if_unsound(
        &self,
        options: RebuildOptions,
        adoption: Adoption,
        found: &[(Object, Mark)],
    ) -> Result<Option<PathBuf>, NodeError> {
        let dir = &self.config.state_dir;
        if !options.force {
            match self.sound_store() {
                Err(error) if error.is_unsound() => {}
                sound => {
                    let store = sound?;
                    let (owner, _) = host::owner(self.config, &store)?;
                    let recorded = store.setting(Setting::Backend)?.is_some();
                    self.refuse(plan::claims(&owner, recorded, adoption, found))?;
                    return Ok(None);
                }
            }
        }
        let (owner, _) = host::owner(self.config, &Store::in_memory()?)?;
        self.refuse(plan::claims(&owner, false, adoption, found))?;
        let set_aside = Store::set_aside(dir)?;
        drop(Store::open(dir)?);
        Ok(set_aside)
    }

    /// Refuses to begin with a state directory that has no records, if this adoption would be refused. Creates nothing.
    fn refuse_blank_adoption(&mut self, adoption: Adoption) -> Result<(), NodeError> {
        if Store::exists(&self.config.state_dir).unwrap_or(true) {
            return Ok(());
        }
        let found = self.marked()?;
        let claims = self.claims_of_nobody(adoption, &found);
        self.refuse(claims)
    }

    fn sound_store(&self) -> Result<Store, NodeError> {
        let store = Store::open(&self.config.state_dir)?;
        store.verify()?;
        let (owner, _) = host::owner(self.config, &store)?;
        let records = store.all()?;
        match decision(&store.settings()?)? {
            Some((backend, pool)) => {
                let node = NodeFacts { pool, mtu: Mtu::MAX, owner, backend, policies: true };
                for record in &records.readable {
                    workload::fragment(&record.workload, record.slot, &node)?;
                }
            }
            None if records.names().next().is_none() => {}
            // Records always have a pool.
            None => return Err(NodeError::Setting { what: "pool", value: String::new() }),
        }
        Ok(store)
    }

    /// Deduces the decisions of a node whose records are lost: the backend is the one that has our rules, and the pool
    /// is the one that has the address of this interface.
    fn deduce(&mut self, tx: &Tx<'_>, link: Option<&LinkState>) -> Result<Host, NodeError> {
        let survey = self.survey(Interfaces::Listed);
        let pool = match link {
            Some(link) => self.deduce_pool(link)?,
            None => Host::decide(self.kernel, self.config, tx, survey)?.node.pool,
        };
        if let Some(range) = link.and_then(range_of) {
            tx.set_setting(Setting::Ipv6, Ipv6::On.as_str())?;
            tx.set_setting(Setting::PoolV6, &range.to_string())?;
        }
        let iptables = self.kernel.iptables()?.map(Backend::Iptables);
        for backend in [Some(Backend::Nftables), iptables].into_iter().flatten() {
            let host = Host::first(self.kernel, self.config, tx, (backend, pool), survey)?;
            let Some(base_ruleset) = &host.base_ruleset else { continue };
            let expected = Ruleset { base_ruleset: base_ruleset.clone(), entries: [].into() };
            if !self.kernel.firewall_state(backend, &expected)?.marks.is_empty() {
                self.deduce_forwarding(tx, &host)?;
                return Ok(host);
            }
        }
        let fresh = Host::decide(self.kernel, self.config, tx, survey)?;
        Host::first(self.kernel, self.config, tx, (fresh.backend, pool), survey)
    }

    /// Deduces the interfaces on which we turned on forwarding: those that clients reach the host by, if they forward
    /// and the host as a whole does not.
    fn deduce_forwarding(&mut self, tx: &Tx<'_>, host: &Host) -> Result<(), NodeError> {
        if self.kernel.sysctl(switch::IP_FORWARD)?.as_deref() != Some(OFF) {
            return Ok(());
        }
        let of_ipv4 = host.sysctls.keys().filter(|name| switch::interface(name).is_some());
        for name in of_ipv4 {
            if self.kernel.sysctl(name)?.as_deref() == Some(ON) {
                tx.record_sysctl(name, OFF)?;
            }
        }
        Ok(())
    }

    fn deduce_pool(&self, link: &LinkState) -> Result<Pool, NodeError> {
        let slot = Slot::of_interface(link.name.as_str());
        let fits = |pool: &Pool| {
            let addresses = slot.and_then(|slot| pool.addresses(slot));
            let mut hosts = addresses.into_iter().flat_map(|addresses| addresses.hosts());
            hosts.any(|host| link.addresses.iter().any(|address| address.addr() == host))
        };
        let mut known = self.config.pool.into_iter().chain(Pool::candidates());
        known.find(fits).map_or_else(
            || {
                let address = link.addresses.first().copied().unwrap_or_default();
                Err(NodeError::UnknownPool { interface: link.name.to_string(), address })
            },
            Ok,
        )
    }
}

/// Returns the range that the IPv6 address of an interface is from; `None` if it has none of ours.
fn range_of(link: &LinkState) -> Option<Ipv6Net> {
    let slot = Slot::of_interface(link.name.as_str())?;
    let range = link.addresses.iter().find_map(|network| match network {
        IpNet::V6(network) if network.addr().is_unique_local() => {
            Some(Ipv6Net::new_assert(network.addr(), 64).trunc())
        }
        _ => None,
    })?;
    let pool = Pool::candidates().first()?.with_v6(range).ok()?;
    let mut hosts = pool.addresses(slot)?.hosts();
    hosts.any(|host| link.addresses.contains(&Addresses::network(host))).then_some(range)
}

/// Refuses interfaces whose addresses would have to change: their guests would not be told.
fn refuse_other_pool(host: &Host, links: &[(Slot, LinkState, Marked)]) -> Result<(), NodeError> {
    for (slot, link, _) in links {
        let wanted = host.node.pool.addresses(*slot);
        let wanted: Vec<_> = wanted.into_iter().flat_map(|addresses| addresses.hosts()).collect();
        let has = |address: &IpNet| wanted.contains(&address.addr());
        if let Some(&address) = link.addresses.first()
            && !link.addresses.iter().any(has)
        {
            return Err(NodeError::UnknownPool { interface: link.name.to_string(), address });
        }
    }
    Ok(())
}

fn marked(link: LinkState) -> Option<(Slot, LinkState, Marked)> {
    let slot = Slot::of_interface(link.name.as_str())?;
    let marked = alias::parse(link.alias.as_deref()?)?;
    Some((slot, link, marked))
}

/// Records an instance in its slot, unless it is recorded or being removed. If the records give its slot, name or port
/// to another instance, the interface has leaked, and the repair deletes it.
fn recover(tx: &Tx<'_>, slot: Slot, link: &LinkState, marked: &Marked) -> Result<bool, NodeError> {
    if tx.get(&marked.name)?.is_some() {
        return Ok(false);
    }
    let workload = workload::recover(marked, link.tap);
    match tx.put_at(&workload, slot) {
        Ok(record) => Ok(record.phase == Phase::Pending),
        Err(StoreError::SlotTaken { .. } | StoreError::PortTaken { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

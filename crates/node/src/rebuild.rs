//! The records anew, from what the kernel has: the interfaces' aliases say whose they are.

use std::{collections::BTreeSet, path::PathBuf};

use ipnet::IpNet;

use super::{
    Host, Node, NodeError, Report,
    host::{self, decision},
};
use crate::store::{Phase, Setting, Store, StoreError, Tx};
use riklet_core::{
    firewall::{Backend, BaseState, Change, Ruleset},
    forwarding::{OFF, ON},
    link::{LinkState, Tap},
    model::{
        Account, Execution, Function, InstanceName, Mark, Mtu, Owner, Pool, Queues, Slot, Workload,
    },
    plan::{self, Adoption, Object, Step},
    switch,
    workload::{
        self, NodeFacts,
        alias::{self, Marked},
    },
};
use riklet_kernel::Kernel;

/// How [`Node::rebuild`] goes about the present database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RebuildOptions {
    /// Sets it aside whatever it holds, even where it seems sound, is of a newer version or another program's.
    pub force: bool,
}

/// What [`Node::rebuild`] found and did.
#[derive(Debug)]
pub struct Rebuilt {
    /// Where the former database is now; `None` where it was kept, or there was none.
    pub set_aside: Option<PathBuf>,
    /// The instances that were recorded anew.
    pub recovered: Vec<InstanceName>,
    /// Those of them that lost exposures which their alias had no room for.
    pub incomplete: Vec<InstanceName>,
    /// The repair that followed.
    pub report: Report,
}

impl<K: Kernel> Node<K> {
    /// Sets a database aside that does not hold what was written to it, records every interface of ours that is not
    /// recorded, and repairs. What a definition had besides its exposures and what its TAP shows is lost with such a
    /// database: the kernel does not know it.
    ///
    /// # Errors
    /// Where something belongs to the records in another state directory; then nothing is changed. Where the state
    /// directory cannot be used, no known pool has the interfaces' addresses, or, without [`RebuildOptions::force`], the
    /// database is newer or another program's. Otherwise as with [`Self::repair`].
    pub fn rebuild(&mut self, options: RebuildOptions) -> Result<Rebuilt, NodeError> {
        self.recover_all(options, Adoption::Lost)
    }

    /// Takes over what belongs to the records in another state directory: as [`Self::rebuild`], and it all bears our
    /// mark afterwards. Connections stay. The other records keep what they have, and their operations are refused.
    ///
    /// A TAP that a VMM has open stays with its instance: where our records have another instance in its slot, that one
    /// is a failure of the report.
    ///
    /// # Errors
    /// As with [`Self::rebuild`], except for what belongs to other records; and where our pool is not theirs.
    pub fn adopt(&mut self) -> Result<Rebuilt, NodeError> {
        self.recover_all(RebuildOptions::default(), Adoption::All)
    }

    fn recover_all(
        &mut self,
        options: RebuildOptions,
        adoption: Adoption,
    ) -> Result<Rebuilt, NodeError> {
        let _lock = self.lock()?;
        self.forget_store();
        let found = self.marked()?;
        let (mut store, set_aside) = self.usable_store(options, adoption, &found)?;
        let tx = store.transaction()?;
        let links = self.kernel.links()?.into_iter();
        let links: Vec<_> = links.filter_map(marked).collect();
        if !found.is_empty() {
            let (owner, is_new) = host::owner(&self.config, &tx)?;
            if let Some(lost) = plan::lost_owner(&owner, &found).filter(|_| is_new) {
                // What bears its mark needs no other then.
                let owner = Owner::new(lost, owner.directory());
                tx.set_setting(Setting::Owner, &owner.to_string())?;
            }
            let host = match self.decided(&tx, false)? {
                Some(host) => host,
                None => self.deduce(&tx, links.first().map(|(_, link, _)| link))?,
            };
            if adoption == Adoption::All {
                refuse_other_pool(&host, &links)?;
            }
            host.record(&tx)?;
        }
        let (mut recovered, mut incomplete) = (vec![], vec![]);
        let mut slots = BTreeSet::new();
        let pool = decision(&tx)?.map(|(_, pool)| pool);
        for (slot, link, marked) in links {
            if pool.and_then(|pool| pool.addresses(slot)).is_none() {
                continue;
            }
            if recover(&tx, slot, &link, &marked)? {
                slots.insert(slot);
                recovered.push(marked.name.clone());
                incomplete.extend((!marked.complete).then_some(marked.name));
            }
        }
        tx.commit()?;
        drop(store);
        let mut report = self.mend(&slots, adoption)?;
        report.done.extend(self.remove_other_firewalls()?);
        Ok(Rebuilt { set_aside, recovered, incomplete, report })
    }

    /// The present database where it is sound, or else a new one, and where the present one is then. Refuses before
    /// anything is moved.
    fn usable_store(
        &self,
        options: RebuildOptions,
        adoption: Adoption,
        found: &[(Object, Mark)],
    ) -> Result<(Store, Option<PathBuf>), NodeError> {
        let dir = &self.config.state_dir;
        if !options.force {
            match self.sound_store() {
                Err(error) if error.is_unsound() => {}
                sound => {
                    let store = sound?;
                    let (owner, _) = host::owner(&self.config, &store)?;
                    let recorded = store.setting(Setting::Backend)?.is_some();
                    self.refuse(plan::claims(&owner, recorded, adoption, found))?;
                    return Ok((store, None));
                }
            }
        }
        let (owner, _) = host::owner(&self.config, &Store::in_memory()?)?;
        self.refuse(plan::claims(&owner, false, adoption, found))?;
        let set_aside = Store::set_aside(dir)?;
        Ok((Store::open(dir)?, set_aside))
    }

    fn sound_store(&self) -> Result<Store, NodeError> {
        let store = Store::open(&self.config.state_dir)?;
        store.verify()?;
        let (owner, _) = host::owner(&self.config, &store)?;
        let records = store.all()?;
        match decision(&store)? {
            Some((_, pool)) => {
                let node = NodeFacts { pool, mtu: Mtu::MAX, owner };
                for record in &records {
                    workload::fragment(&record.workload, record.slot, &node)?;
                }
            }
            None if records.is_empty() => {}
            // The records are of some pool.
            None => return Err(NodeError::Setting { what: "pool", value: String::new() }),
        }
        Ok(store)
    }

    /// The decisions of a node whose records are lost: the backend is the one that has our rules, the pool
    /// the one that this interface's address is of.
    fn deduce(&mut self, tx: &Tx<'_>, link: Option<&LinkState>) -> Result<Host, NodeError> {
        let scope = self.scope(true);
        let pool = match link {
            Some(link) => self.deduce_pool(link)?,
            None => self.decide(tx, true)?.node.pool,
        };
        let iptables = self.kernel.iptables()?.map(Backend::Iptables);
        for backend in [Some(Backend::Nftables), iptables].into_iter().flatten() {
            let host = Host::first(&mut self.kernel, &self.config, tx, (backend, pool), scope)?;
            let Some(base_ruleset) = &host.base_ruleset else { continue };
            let expected = Ruleset { base_ruleset: base_ruleset.clone(), entries: [].into() };
            if self.kernel.firewall(backend, &expected)?.base_ruleset != BaseState::Absent {
                self.deduce_forwarding(tx, &host)?;
                return Ok(host);
            }
        }
        let fresh = self.decide(tx, true)?;
        Host::first(&mut self.kernel, &self.config, tx, (fresh.backend, pool), scope)
    }

    /// Removes what another backend has of ours: other records may have used it, and both would translate.
    fn remove_other_firewalls(&mut self) -> Result<Vec<Step>, NodeError> {
        let store = self.open_store()?;
        let host = self.decided(&store, false)?;
        self.keep_store(store);
        let Some(host) = host else { return Ok(vec![]) };
        let mut done = Vec::new();
        for (backend, state) in host::firewalls(&mut self.kernel, &self.config)? {
            if backend != host.backend && !state.marks.is_empty() {
                self.kernel.change_firewall(backend, &Change::Remove)?;
                done.push(Step::Firewall(backend, Change::Remove));
            }
        }
        Ok(done)
    }

    /// Where the host does not forward and interfaces that clients ask at do, it was most likely us who switched them.
    fn deduce_forwarding(&mut self, tx: &Tx<'_>, host: &Host) -> Result<(), NodeError> {
        if self.kernel.sysctl(switch::IP_FORWARD)?.as_deref() != Some(OFF) {
            return Ok(());
        }
        for name in host.sysctls.keys() {
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

/// Refuses interfaces whose addresses would have to change, which their guests would not hear of.
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

/// Records an instance in its slot, unless it is recorded or being removed. An interface whose slot, name or
/// port is another's by the records leaked, and goes with the repair.
fn recover(tx: &Tx<'_>, slot: Slot, link: &LinkState, marked: &Marked) -> Result<bool, NodeError> {
    if tx.get(&marked.name)?.is_some() {
        return Ok(false);
    }
    let workload = Workload::Function(Function {
        name: marked.name.clone(),
        execution: execution(link.tap.unwrap_or_default()),
        exposures: marked.exposures.clone(),
    });
    match tx.put_at(&workload, slot) {
        Ok(record) => Ok(record.phase == Phase::Pending),
        Err(StoreError::SlotTaken { .. } | StoreError::PortTaken { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What the TAP is like because a definition said so: another would have to be made if the record did not.
fn execution(tap: Tap) -> Execution {
    Execution {
        // The administrator's is that of a definition that names nobody.
        user: tap.owner.filter(|&id| id != Tap::ROOT).map(Account::Id),
        group: tap.group.map(Account::Id),
        // How many is not known; two is the least that makes it such a TAP.
        queues: Queues::new(2).ok().filter(|_| tap.multi_queue),
        ..Execution::default()
    }
}

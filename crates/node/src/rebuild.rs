//! The records anew, from what the kernel has: the interfaces' aliases say whose they are.

use std::{collections::BTreeSet, path::PathBuf};

use super::{Host, Node, NodeError, Report};
use crate::store::{Phase, Store, StoreError, Tx};
use riklet_core::{
    firewall::{Backend, BaseRuleset, BaseState, Ruleset},
    link::{LinkState, Tap},
    model::{Account, Execution, Function, InstanceName, Pool, Queues, Slot, Workload},
    plan::IP_FORWARD,
    workload::alias::{self, Marked},
};
use riklet_kernel::Kernel;

/// What [`Node::rebuild`] found and did.
#[derive(Debug)]
pub struct Rebuilt {
    /// Where the corrupt database is now; `None` where it was sound, or there was none.
    pub set_aside: Option<PathBuf>,
    /// The instances that were recorded anew.
    pub recovered: Vec<InstanceName>,
    /// Those of them that lost exposures which their alias had no room for.
    pub incomplete: Vec<InstanceName>,
    /// The repair that followed.
    pub report: Report,
}

impl<K: Kernel> Node<K> {
    /// Sets a corrupt database aside, records every interface of ours that is not recorded, and repairs.
    /// What a definition had besides its exposures and what its TAP shows is lost: the kernel does not know it.
    ///
    /// # Errors
    /// Where the state directory cannot be used, the database is newer or another program's, or no known
    /// pool has the interfaces' addresses. Otherwise as with [`Self::repair`].
    pub fn rebuild(&mut self) -> Result<Rebuilt, NodeError> {
        let _lock = self.lock()?;
        let (mut store, set_aside) = self.usable_store()?;
        let tx = store.transaction()?;
        let links = self.kernel.links()?.into_iter();
        let found: Vec<_> = links.filter_map(marked).collect();
        if let Some((_, link, _)) = found.first() {
            let host = match Host::decided(&mut self.kernel, &self.config, &tx)? {
                Some(host) => host,
                None => self.deduce(&tx, link)?,
            };
            host.record(&mut self.kernel, &tx)?;
        }
        let (mut recovered, mut incomplete) = (vec![], vec![]);
        let mut slots = BTreeSet::new();
        for (slot, link, marked) in found {
            if recover(&tx, slot, &link, &marked)? {
                slots.insert(slot);
                recovered.push(marked.name.clone());
                incomplete.extend((!marked.complete).then_some(marked.name));
            }
        }
        tx.commit()?;
        drop(store);
        Ok(Rebuilt { set_aside, recovered, incomplete, report: self.mend(&slots)? })
    }

    fn usable_store(&self) -> Result<(Store, Option<PathBuf>), NodeError> {
        let dir = &self.config.state_dir;
        let opened = Store::open(dir).and_then(|store| store.all().map(|_| store));
        match opened {
            Err(error) if error.is_corrupt() => {
                let set_aside = Store::set_aside(dir)?;
                Ok((Store::open(dir)?, set_aside))
            }
            opened => Ok((opened?, None)),
        }
    }

    /// The decisions of a node whose records are lost: the backend is the one that has our rules, the pool
    /// the one that this interface's address is of.
    fn deduce(&mut self, tx: &Tx<'_>, link: &LinkState) -> Result<Host, NodeError> {
        let pool = self.deduce_pool(link)?;
        let iptables = self.kernel.iptables()?.map(Backend::Iptables);
        for backend in [Some(Backend::Nftables), iptables].into_iter().flatten() {
            let host = Host::first(&mut self.kernel, &self.config, backend, pool)?;
            let Some(base_ruleset) = &host.base_ruleset else { continue };
            let guarded = BaseRuleset { guard: true, ..base_ruleset.clone() };
            let expected = Ruleset { base_ruleset: guarded, entries: [].into() };
            match self.kernel.firewall(backend, &expected)?.base_ruleset {
                BaseState::Absent => {}
                BaseState::Altered(_) => return Ok(host),
                BaseState::Intact => {
                    // We had enabled forwarding: the guard is there only then.
                    tx.record_sysctl(IP_FORWARD, "0")?;
                    return Ok(host);
                }
            }
        }
        let fresh = Host::decide(&mut self.kernel, &self.config, tx)?;
        Host::first(&mut self.kernel, &self.config, fresh.backend, pool)
    }

    fn deduce_pool(&self, link: &LinkState) -> Result<Pool, NodeError> {
        let slot = Slot::of_interface(link.name.as_str());
        let fits = |pool: &Pool| {
            let host = slot.and_then(|slot| pool.addresses(slot)).map(|a| a.host);
            link.addresses.iter().any(|address| Some(address.addr()) == host)
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

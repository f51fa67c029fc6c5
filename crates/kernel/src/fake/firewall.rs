use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use super::{FakeKernel, System};
use crate::{Firewall, ForeignChains, ImplicitTables, KernelError, Refusal, RulesetVersion};
use riklet_core::{
    firewall::{
        Backend, Ban, BaseRuleset, BaseState, Change, Entry, FirewallState, ForeignChain,
        ForeignChainState, IptablesVariant, PortBan, Ruleset, TranslatedPorts, Translation, Wanted,
    },
    model::{InterfaceName, Mark, Owner},
};

pub(super) const LEGACY: Backend = Backend::Iptables(IptablesVariant::Legacy);

impl Firewall for FakeKernel {
    fn can_refuse(&mut self, _backend: Backend) -> Result<bool, KernelError> {
        self.observe();
        Ok(true)
    }

    fn probe_firewall(
        &mut self,
        backend: Backend,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, KernelError> {
        let mut system = self.system();
        system.probes += 1;
        let ruleset = system.firewall.get(&backend);
        Ok(ruleset
            .is_some_and(|r| r.base_ruleset == *base_ruleset && r.entries.is_superset(entries)))
    }

    fn ruleset_version(
        &mut self,
        _backend: Backend,
    ) -> Result<Option<RulesetVersion>, KernelError> {
        let system = self.system();
        let transactions = self.transactions(&system);
        let mut hasher = DefaultHasher::new();
        if let Some(ruleset) = system.firewall.get(&LEGACY) {
            format!("{:?}", ruleset.base_ruleset).hash(&mut hasher);
        }
        let (place, legacy, legacy_ours) = ("here".to_owned(), 0, hasher.finish());
        Ok(Some(RulesetVersion { place, transactions, legacy, legacy_ours }))
    }

    fn firewall_state(
        &mut self,
        backend: Backend,
        expected: &Ruleset,
    ) -> Result<FirewallState, KernelError> {
        let system = self.list();
        let Some(ruleset) = system.firewall.get(&backend) else {
            return Ok(FirewallState::absent());
        };
        let base_ruleset = if ruleset.base_ruleset == expected.base_ruleset {
            BaseState::Intact
        } else {
            BaseState::Altered(vec!["the base ruleset differs".to_owned()])
        };
        let mark = ruleset.base_ruleset.owner.as_ref().map_or(Mark::Unsigned, Owner::mark);
        let entries = ruleset.entries.clone();
        Ok(FirewallState { base_ruleset, entries, strays: vec![], marks: [mark].into() })
    }

    fn change_firewall(&mut self, backend: Backend, change: &Change) -> Result<(), KernelError> {
        let refused = |source| KernelError::ChangeFirewall { backend: backend.as_str(), source };
        let mut system = self.effect().map_err(refused)?;
        self.transactions(&system);
        match change {
            Change::Reset(ruleset) => {
                if backend == Backend::Iptables(IptablesVariant::Nft) {
                    // Each of three tables is a transaction; the last is counted with what has changed.
                    self.count_transactions(2);
                }
                system.firewall.insert(backend, ruleset.clone());
            }
            Change::Remove => {
                system.firewall.remove(&backend);
            }
            Change::Delta { remove, add, .. } => {
                let ruleset = system.firewall.get_mut(&backend);
                let missing = || refused(Refusal::errno(Refusal::ENOENT));
                let ruleset = ruleset.ok_or_else(missing)?;
                if !ruleset.entries.is_superset(remove) {
                    return Err(missing());
                }
                let mut entries: BTreeSet<Entry> =
                    ruleset.entries.difference(remove).copied().collect();
                let clashes = |entry: &Entry| entries.iter().any(|other| clash(entry, other));
                if add.iter().any(clashes) {
                    return Err(refused(Refusal::errno(Refusal::EEXIST)));
                }
                entries.extend(add);
                ruleset.entries = entries;
            }
        }
        self.transactions(&system);
        Ok(())
    }
}

impl ForeignChains for FakeKernel {
    fn foreign_chains(
        &mut self,
        _backend: Backend,
        _uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, KernelError> {
        let system = self.list();
        Ok(system.foreign_chains.keys().filter_map(|chain| system.foreign_chain(chain)).collect())
    }

    fn owned_foreign_chains(
        &mut self,
        _uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, KernelError> {
        let system = self.observe();
        Ok(system.owned_chains.iter().filter_map(|chain| system.foreign_chain(chain)).collect())
    }

    fn drops_around(
        &mut self,
        _uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<String>, KernelError> {
        self.list();
        Ok(vec![])
    }

    fn translations(&mut self, wanted: &Wanted) -> Result<BTreeSet<Translation>, KernelError> {
        let mut system = self.system();
        system.searches += 1;
        let is_wanted = |found: &&Translation| {
            wanted.iter().any(|(protocol, address, ports)| {
                let of = found.address.map(IpAddr::V4);
                let meets = address.is_none() || of.is_none() || *address == of;
                *protocol == found.protocol && meets && ports.overlaps(found.ports)
            })
        };
        Ok(system.translations.iter().filter(is_wanted).cloned().collect())
    }

    fn translated_ports(&mut self) -> Result<Option<TranslatedPorts>, KernelError> {
        Ok(Some(TranslatedPorts::of(&self.translations(&TranslatedPorts::all())?)))
    }

    fn bans(&mut self) -> Result<BTreeSet<Ban>, KernelError> {
        self.list();
        Ok(BTreeSet::new())
    }

    fn port_bans(
        &mut self,
        _uplinks: &BTreeSet<InterfaceName>,
        _exposures: &BTreeSet<Entry>,
    ) -> Result<BTreeSet<PortBan>, KernelError> {
        self.list();
        Ok(BTreeSet::new())
    }

    fn passages(&mut self) -> Result<Vec<ForeignChain>, KernelError> {
        let open = self.list().foreign_chains.clone().into_iter().filter(|(_, open)| *open);
        Ok(open.map(|(foreign_chain, _)| foreign_chain).collect())
    }

    fn open_passage(
        &mut self,
        foreign_chain: &ForeignChain,
        _uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<(), KernelError> {
        self.set_passage(foreign_chain, true)
    }

    fn close_passage(&mut self, foreign_chain: &ForeignChain) -> Result<(), KernelError> {
        self.set_passage(foreign_chain, false)
    }
}

impl System {
    fn foreign_chain(&self, foreign_chain: &ForeignChain) -> Option<ForeignChainState> {
        let open = *self.foreign_chains.get(foreign_chain)?;
        Some(ForeignChainState {
            foreign_chain: foreign_chain.clone(),
            drops: true,
            open,
            touched: open,
            owned: self.owned_chains.contains(foreign_chain),
            parts: BTreeSet::new(),
        })
    }
}

impl FakeKernel {
    fn set_passage(&mut self, foreign_chain: &ForeignChain, open: bool) -> Result<(), KernelError> {
        let refused =
            |source| KernelError::SetPassage { foreign_chain: foreign_chain.clone(), source };
        let mut system = self.effect().map_err(refused)?;
        if system.owned_chains.contains(foreign_chain) {
            return Err(refused(Refusal::errno(Refusal::EPERM)));
        }
        if let Some(state) = system.foreign_chains.get_mut(foreign_chain) {
            *state = open;
        }
        Ok(())
    }
}

impl ImplicitTables for FakeKernel {
    fn older_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError> {
        self.empty_tables(backend)
    }

    fn empty_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError> {
        let makes_tables = backend == Backend::Iptables(IptablesVariant::Nft);
        let system = self.observe();
        Ok(if makes_tables { system.implicit_tables.clone() } else { BTreeSet::new() })
    }

    fn remove_empty_tables(
        &mut self,
        backend: Backend,
        except: &BTreeSet<String>,
    ) -> Result<(), KernelError> {
        let refused = |source| KernelError::ChangeFirewall { backend: backend.as_str(), source };
        let mut system = self.effect().map_err(refused)?;
        if backend == Backend::Iptables(IptablesVariant::Nft) {
            system.implicit_tables.retain(|table| except.contains(table));
        }
        Ok(())
    }
}

/// Reports whether two entries exclude each other.
fn clash(one: &Entry, other: &Entry) -> bool {
    match (*one, *other) {
        (
            Entry::Exposure { protocol, host_address, host_ports, .. },
            Entry::Exposure { protocol: p, host_address: address, host_ports: ports, .. },
        ) => (protocol, host_address) == (p, address) && host_ports.overlaps(ports),
        (Entry::Hairpin { guest }, Entry::Hairpin { guest: other }) => guest == other,
        _ => false,
    }
}

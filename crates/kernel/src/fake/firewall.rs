use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use super::{FakeKernel, System};
use crate::{Firewall, ForeignChains, ImplicitTables, KernelError, Refusal, RulesetVersion};
use riklet_core::{
    firewall::{
        Backend, Ban, BaseRuleset, BaseState, Change, Entry, EntryTable, FirewallState,
        ForeignChain, ForeignChainState, IptablesVariant, PortBan, Ruleset, TranslatedPorts,
        Translation, Wanted,
    },
    model::{Family, InterfaceName, Mark, Owner},
};

pub(super) const LEGACY: Backend = Backend::Iptables(IptablesVariant::Legacy);

impl Firewall for FakeKernel {
    fn can_refuse(&mut self, _backend: Backend) -> Result<bool, KernelError> {
        self.observe();
        Ok(true)
    }

    fn can_judge(&mut self, backend: Backend) -> Result<bool, KernelError> {
        Ok(backend == Backend::Nftables || self.observe().nf_tables)
    }

    fn probe_firewall(
        &mut self,
        backend: Backend,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, KernelError> {
        let mut system = self.system();
        system.probes += 1;
        let Some(ruleset) = system.ruleset(backend) else { return Ok(false) };
        let stands = ruleset.as_ref().is_ok_and(|ruleset| {
            ruleset.base_ruleset == *base_ruleset && ruleset.entries.is_superset(entries)
        });
        Ok(stands)
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
        let altered = |line: &str| BaseState::Altered(vec![line.to_owned()]);
        let (ruleset, base_ruleset) = match system.ruleset(backend) {
            None => return Ok(FirewallState::absent()),
            Some(Err(part)) => (part, altered("a part is missing, or for another base ruleset")),
            Some(Ok(whole)) if whole.base_ruleset == expected.base_ruleset => {
                (whole, BaseState::Intact)
            }
            Some(Ok(whole)) => (whole, altered("the base ruleset differs")),
        };
        let mark = ruleset.base_ruleset.owner.as_ref().map_or(Mark::Unsigned, Owner::mark);
        let entries = ruleset.entries;
        Ok(FirewallState { base_ruleset, entries, strays: vec![], marks: [mark].into() })
    }

    fn change_firewall(&mut self, backend: Backend, change: &Change) -> Result<(), KernelError> {
        let refused = |source| KernelError::ChangeFirewall { backend: backend.as_str(), source };
        let (policies, rest) = parts(backend, change);
        // Without nf_tables, there is no table to write that nothing stands in.
        let needed = |part: &PartOfChange| match part {
            PartOfChange::Policies(Change::Reset(ruleset)) => {
                self.system().nf_tables || !ruleset.entries.is_empty()
            }
            _ => true,
        };
        let policies = policies.filter(needed);
        for part in policies.iter().chain(&rest) {
            self.change_part(backend, part).map_err(refused)?;
        }
        match change {
            Change::Remove => self.remove_policies(backend).map_err(refused),
            _ => Ok(()),
        }
    }
}

/// A change of the table of policies, or of the rest of the firewall.
#[derive(Debug)]
enum PartOfChange {
    Policies(Change),
    Rest(Change),
}

/// Returns the part of a change that concerns the table of policies beside this backend, and the rest; none for what it does
/// not concern.
fn parts(backend: Backend, change: &Change) -> (Option<PartOfChange>, Option<PartOfChange>) {
    if backend == Backend::Nftables {
        return (None, Some(PartOfChange::Rest(change.clone())));
    }
    let divide = |entries: &BTreeSet<Entry>| -> (BTreeSet<Entry>, BTreeSet<Entry>) {
        entries.iter().partition(|entry| entry.table() == EntryTable::Policies)
    };
    match change {
        Change::Remove => (None, Some(PartOfChange::Rest(Change::Remove))),
        Change::Reset(Ruleset { base_ruleset, entries }) => {
            let (policies, rest) = divide(entries);
            let whole =
                |entries| Change::Reset(Ruleset { base_ruleset: base_ruleset.clone(), entries });
            let policies = PartOfChange::Policies(whole(policies));
            (Some(policies), Some(PartOfChange::Rest(whole(rest))))
        }
        Change::Delta { remove, add, owner } => {
            let ((remove, other_removed), (add, other_added)) = (divide(remove), divide(add));
            let delta = |remove: BTreeSet<Entry>, add: BTreeSet<Entry>| {
                let some = !remove.is_empty() || !add.is_empty();
                some.then(|| Change::Delta { remove, add, owner: owner.clone() })
            };
            let policies = delta(remove, add).map(PartOfChange::Policies);
            (policies, delta(other_removed, other_added).map(PartOfChange::Rest))
        }
    }
}

impl FakeKernel {
    /// Makes one part of a change: one effect.
    fn change_part(&self, backend: Backend, part: &PartOfChange) -> Result<(), Refusal> {
        let mut system = self.effect()?;
        self.transactions(&system);
        if let (PartOfChange::Policies(_), false) = (part, system.nf_tables) {
            return Err(Refusal::errno(Refusal::ENOENT));
        }
        let (place, change) = match part {
            PartOfChange::Policies(change) => (system.policies.take(), change),
            PartOfChange::Rest(change) => (system.firewall.remove(&backend), change),
        };
        if matches!(part, PartOfChange::Rest(Change::Reset(_)))
            && backend == Backend::Iptables(IptablesVariant::Nft)
        {
            // Each of three tables is a transaction; the last is counted with what has changed.
            self.count_transactions(2);
        }
        let (now, done) = changed(place, change);
        match part {
            PartOfChange::Policies(_) => system.policies = now,
            PartOfChange::Rest(_) => {
                system.firewall.extend(now.map(|ruleset| (backend, ruleset)));
            }
        }
        self.transactions(&system);
        done
    }

    /// Removes the table of policies beside this backend, if there is one: one effect.
    fn remove_policies(&self, backend: Backend) -> Result<(), Refusal> {
        if backend == Backend::Nftables || self.system().policies.is_none() {
            return Ok(());
        }
        let mut system = self.effect()?;
        self.transactions(&system);
        system.policies = None;
        self.transactions(&system);
        Ok(())
    }
}

/// Returns rules after a change, and whether it was refused: then they are as before.
fn changed(before: Option<Ruleset>, change: &Change) -> (Option<Ruleset>, Result<(), Refusal>) {
    match change {
        Change::Reset(ruleset) => (Some(ruleset.clone()), Ok(())),
        Change::Remove => (None, Ok(())),
        Change::Delta { remove, add, .. } => {
            let missing = || Err(Refusal::errno(Refusal::ENOENT));
            let Some(mut ruleset) = before else { return (None, missing()) };
            if !ruleset.entries.is_superset(remove) {
                return (Some(ruleset), missing());
            }
            let mut entries: BTreeSet<Entry> =
                ruleset.entries.difference(remove).copied().collect();
            let clashes = |entry: &Entry| entries.iter().any(|other| clash(entry, other));
            if add.iter().any(clashes) {
                return (Some(ruleset), Err(Refusal::errno(Refusal::EEXIST)));
            }
            entries.extend(add);
            ruleset.entries = entries;
            (Some(ruleset), Ok(()))
        }
    }
}

impl System {
    /// Returns the ruleset of a backend, with the policies beside it: `Err` with what there is if parts are missing, or are for
    /// other base rulesets.
    fn ruleset(&self, backend: Backend) -> Option<Result<Ruleset, Ruleset>> {
        let rest = self.firewall.get(&backend);
        if backend == Backend::Nftables || (!self.nf_tables && self.policies.is_none()) {
            return rest.cloned().map(Ok);
        }
        let entries = |of: &Ruleset| of.entries.clone();
        match (rest, &self.policies) {
            (None, None) => None,
            (Some(part), None) | (None, Some(part)) => Some(Err(part.clone())),
            (Some(rest), Some(policies)) => {
                let base_ruleset = rest.base_ruleset.clone();
                let same = base_ruleset == policies.base_ruleset;
                let entries = entries(rest).into_iter().chain(entries(policies)).collect();
                let both = Ruleset { base_ruleset, entries };
                Some(if same { Ok(both) } else { Err(both) })
            }
        }
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

    fn deciding_chains(&mut self, _family: Family) -> Result<BTreeSet<String>, KernelError> {
        self.list();
        Ok(BTreeSet::new())
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

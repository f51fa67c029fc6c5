//! Answers about the firewall from its last complete listing and our changes since.

use std::collections::BTreeSet;

use super::Watched;
use crate::{
    Firewall, ForeignChains, ImplicitTables, KernelError, RulesetVersion,
    linux::{Linux, firewall::foreign_translations::Translations},
};
use riklet_core::{
    firewall::{
        Backend, Ban, BaseRuleset, BaseState, Change, Entry, FirewallState, ForeignChain,
        ForeignChainState, PortBan, Ruleset, TranslatedPorts, Translation, Wanted,
    },
    model::{Family, InterfaceName, Owner},
};

/// The firewall by its last complete listing, with our changes since.
#[derive(Debug)]
pub(super) struct Known {
    backend: Backend,
    base_ruleset: BaseRuleset,
    entries: BTreeSet<Entry>,
}

impl Firewall for Watched {
    fn can_refuse(&mut self, backend: Backend) -> Result<bool, KernelError> {
        self.kernel.can_refuse(backend)
    }

    fn can_judge(&mut self, backend: Backend) -> Result<bool, KernelError> {
        self.kernel.can_judge(backend)
    }

    fn probe_firewall(
        &mut self,
        backend: Backend,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, KernelError> {
        self.watch = self.kernel.watch(backend);
        self.catch_up()?;
        if self.is_known(backend, base_ruleset, entries) {
            return Ok(true);
        }
        self.kernel.probe_firewall(backend, base_ruleset, entries)
    }

    fn ruleset_version(
        &mut self,
        _backend: Backend,
    ) -> Result<Option<RulesetVersion>, KernelError> {
        Ok(None)
    }

    fn firewall_state(
        &mut self,
        backend: Backend,
        expected: &Ruleset,
    ) -> Result<FirewallState, KernelError> {
        self.watch = self.kernel.watch(backend);
        self.catch_up()?;
        if self.is_known(backend, &expected.base_ruleset, &BTreeSet::new())
            && let Some(known) = &self.firewall
        {
            let (base_ruleset, entries) = (BaseState::Intact, known.entries.clone());
            let marks = known.base_ruleset.owner.iter().map(Owner::mark).collect();
            return Ok(FirewallState { base_ruleset, entries, strays: vec![], marks });
        }
        self.firewall = None;
        let state = self.kernel.firewall_state(backend, expected)?;
        let whole = state.base_ruleset == BaseState::Intact && state.strays.is_empty();
        self.firewall = whole.then(|| Known {
            backend,
            base_ruleset: expected.base_ruleset.clone(),
            entries: state.entries.clone(),
        });
        // If another program changed the firewall while it was read, it is unknown again.
        self.listen()?;
        Ok(state)
    }

    fn change_firewall(&mut self, backend: Backend, change: &Change) -> Result<(), KernelError> {
        self.watch = self.kernel.watch(backend);
        let by_program = self.watch.is_by_program();
        // Nothing that others did meanwhile matters to a change that only adds entries.
        let only_adds = matches!(change, Change::Delta { remove, .. } if remove.is_empty());
        if by_program || !only_adds {
            self.listen_to_firewall()?;
        }
        self.applying = by_program;
        let known = self.has_all_to_remove(backend, change);
        let kernel = self.changing();
        let done = if known {
            kernel.change_known_firewall(backend, change)
        } else {
            kernel.change_firewall(backend, change)
        };
        match done {
            Ok(()) => self.follow(backend, change),
            // A refusal shows that the firewall is not as it was remembered.
            Err(_) => self.firewall = None,
        }
        // Notifications of a change by our own socket are recognized later as well.
        let heard = if by_program { self.listen_to_firewall() } else { Ok(()) };
        self.applying = false;
        done.and(heard)
    }
}

impl ForeignChains for Watched {
    fn foreign_chains(
        &mut self,
        backend: Backend,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, KernelError> {
        self.catch_up()?;
        if let Some((known, foreign_chains)) = &self.foreign_chains
            && known == uplinks
        {
            return Ok(foreign_chains.clone());
        }
        let foreign_chains = self.kernel.foreign_chains(backend, uplinks)?;
        self.foreign_chains = Some((uplinks.clone(), foreign_chains.clone()));
        Ok(foreign_chains)
    }

    fn owned_foreign_chains(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, KernelError> {
        self.kernel.owned_foreign_chains(uplinks)
    }

    fn deciding_chains(&mut self, family: Family) -> Result<BTreeSet<String>, KernelError> {
        self.kernel.deciding_chains(family)
    }

    fn drops_around(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<String>, KernelError> {
        self.kernel.drops_around(uplinks)
    }

    fn translations(&mut self, wanted: &Wanted) -> Result<BTreeSet<Translation>, KernelError> {
        self.catch_up()?;
        let nftables = &mut self.kernel.nftables;
        let failed = |source| KernelError::ListForeignChains { source };
        let mut known = match self.translations.take() {
            Some(known) => known,
            None => Translations::read(nftables).map_err(failed)?,
        };
        let found = known.search(nftables, wanted).map_err(failed)?;
        self.translations = Some(known);
        Ok(found)
    }

    fn translated_ports(&mut self) -> Result<Option<TranslatedPorts>, KernelError> {
        self.kernel.translated_ports()
    }

    fn bans(&mut self) -> Result<BTreeSet<Ban>, KernelError> {
        self.kernel.bans()
    }

    fn port_bans(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
        exposures: &BTreeSet<Entry>,
    ) -> Result<BTreeSet<PortBan>, KernelError> {
        self.kernel.port_bans(uplinks, exposures)
    }

    fn passages(&mut self) -> Result<Vec<ForeignChain>, KernelError> {
        self.kernel.passages()
    }

    fn open_passage(
        &mut self,
        foreign_chain: &ForeignChain,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<(), KernelError> {
        self.with_passage(|kernel| kernel.open_passage(foreign_chain, uplinks))
    }

    fn close_passage(&mut self, foreign_chain: &ForeignChain) -> Result<(), KernelError> {
        self.with_passage(|kernel| kernel.close_passage(foreign_chain))
    }
}

impl Watched {
    fn with_passage(
        &mut self,
        change: impl FnOnce(&mut Linux) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        self.listen()?;
        let done = change(self.changing());
        let heard = self.listen();
        self.foreign_chains = None;
        done.and(heard)
    }
}

impl ImplicitTables for Watched {
    fn older_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError> {
        self.kernel.older_tables(backend)
    }

    fn empty_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError> {
        self.kernel.empty_tables(backend)
    }

    fn remove_empty_tables(
        &mut self,
        backend: Backend,
        except: &BTreeSet<String>,
    ) -> Result<(), KernelError> {
        self.changing().remove_empty_tables(backend, except)
    }
}

impl Watched {
    /// Reports whether the firewall is known to have this, without asking.
    pub(super) fn is_known(
        &self,
        backend: Backend,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> bool {
        let open = self.foreign_chains.as_ref().is_some_and(|(_, foreign_chains)| {
            foreign_chains.iter().all(|state| state.open || state.owned)
        });
        let stands = self.firewall.as_ref().is_some_and(|known| {
            known.backend == backend
                && known.base_ruleset == *base_ruleset
                && entries.iter().all(|entry| known.entries.contains(entry))
        });
        open && stands
    }

    /// Reports whether the firewall is known to have the entries that a change removes.
    fn has_all_to_remove(&self, backend: Backend, change: &Change) -> bool {
        let Change::Delta { remove, .. } = change else { return false };
        self.firewall.as_ref().is_some_and(|known| {
            known.backend == backend && remove.iter().all(|entry| known.entries.contains(entry))
        })
    }

    /// Applies a change of ours to the remembered firewall.
    fn follow(&mut self, backend: Backend, change: &Change) {
        match change {
            Change::Reset(Ruleset { base_ruleset, entries }) => {
                let (base_ruleset, entries) = (base_ruleset.clone(), entries.clone());
                self.firewall = Some(Known { backend, base_ruleset, entries });
            }
            Change::Delta { remove, add, .. } => {
                if let Some(known) = &mut self.firewall {
                    for entry in remove {
                        known.entries.remove(entry);
                    }
                    known.entries.extend(add);
                }
            }
            Change::Remove => self.firewall = None,
        }
    }
}

//! The ruleset on Linux: a folder for each backend, and the code that they share.
//!
//! A backend is a [`FirewallBackend`]: `probe`, `state`, `apply`, `watch`, and its way with tables and chains of
//! others. [`Linux::with_backend`] is the one place that tells the backends apart.

pub(super) mod confinement;
mod foreign_chains;
pub(super) mod foreign_translations;
pub(super) mod iptables;
pub(super) mod nftables;
pub(super) mod watch;

use std::{borrow::Cow, collections::BTreeSet, os::fd::AsFd};

use self::{foreign_translations::Translations, iptables::Iptables, watch::Watch};
use super::{Linux, socket_option::namespace_cookie};
use crate::{Firewall, ForeignChains, ImplicitTables, KernelError, Refusal, RulesetVersion};
use riklet_core::{
    firewall::{
        Backend, Ban, BaseRuleset, BaseState, Change, Confinement, Entry, FirewallState,
        ForeignChain, ForeignChainState, PortBan, Ruleset, TranslatedPorts, Translation, Wanted,
        nftables::confinement as table,
    },
    model::{Family, InterfaceName},
};

/// A firewall of Linux that enforces the ruleset.
///
/// Errors are refusals in the kernel's or the program's own words; the caller adds the operation.
pub(super) trait FirewallBackend {
    /// Does the same as [`Firewall::probe_firewall`].
    fn probe(
        &mut self,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, Refusal>;

    /// Does the same as [`Firewall::firewall_state`].
    fn state(&mut self, expected: &Ruleset) -> Result<FirewallState, Refusal>;

    /// Does the same as [`Firewall::change_firewall`].
    fn apply(&mut self, change: &Change) -> Result<(), Refusal>;

    /// Does the same for a change of entries of which those to remove are known to be there.
    fn apply_known(&mut self, change: &Change) -> Result<(), Refusal> {
        self.apply(change)
    }

    /// Does the same as [`Firewall::can_refuse`].
    fn can_refuse(&mut self) -> Result<bool, Refusal> {
        Ok(true)
    }

    /// Does the same as [`Firewall::can_judge`].
    fn can_judge(&mut self) -> Result<bool, Refusal> {
        Ok(true)
    }

    /// Returns the way in which a long-lived process is notified of changes of this backend's ruleset. Does not ask the
    /// kernel.
    fn watch(&self) -> Watch;

    /// Does the same as [`ForeignChains::foreign_chains`].
    fn foreign_chains(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, Refusal>;

    /// Does the same as [`ImplicitTables::older_tables`].
    fn older_tables(&mut self) -> Result<BTreeSet<String>, Refusal> {
        Ok(BTreeSet::new())
    }

    /// Does the same as [`ImplicitTables::empty_tables`].
    fn empty_tables(&mut self) -> Result<BTreeSet<String>, Refusal> {
        Ok(BTreeSet::new())
    }

    /// Does the same as [`ImplicitTables::remove_empty_tables`].
    fn remove_empty_tables(&mut self, _except: &BTreeSet<String>) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Linux {
    /// Calls a function with a backend.
    fn with_backend<T>(
        &mut self,
        backend: Backend,
        act: impl FnOnce(&mut dyn FirewallBackend) -> T,
    ) -> T {
        let Self { nftables, listed, launcher, .. } = self;
        match backend {
            Backend::Nftables => act(nftables),
            Backend::Iptables(variant) => {
                act(&mut Iptables { variant, launcher, nftables, listed })
            }
        }
    }

    /// Changes the ruleset as [`Firewall::change_firewall`] does. The entries to remove are known to be there.
    pub(super) fn change_known_firewall(
        &mut self,
        backend: Backend,
        change: &Change,
    ) -> Result<(), KernelError> {
        let applied = self.with_backend(backend, |firewall| firewall.apply_known(change));
        applied.map_err(unchanged(backend))
    }

    /// Returns how to hear of changes of this backend's ruleset.
    pub(super) fn watch(&mut self, backend: Backend) -> Watch {
        self.with_backend(backend, |backend| backend.watch())
    }
}

/// Returns what tells the network namespace of this socket since this start of the host from all others; `None` if the
/// kernel does not say it.
#[expect(clippy::disallowed_methods, reason = "a file of procfs, which only the kernel writes")]
fn place(socket: impl AsFd) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{}:{}", boot.trim(), namespace_cookie(socket)?))
}

fn unreadable(backend: Backend) -> impl FnOnce(Refusal) -> KernelError {
    move |source| KernelError::ReadFirewall { backend: backend.as_str(), source }
}

fn unchanged(backend: Backend) -> impl FnOnce(Refusal) -> KernelError {
    move |source| KernelError::ChangeFirewall { backend: backend.as_str(), source }
}

impl Firewall for Linux {
    fn can_refuse(&mut self, backend: Backend) -> Result<bool, KernelError> {
        let found = self.with_backend(backend, |firewall| firewall.can_refuse());
        found.map_err(unreadable(backend))
    }

    fn can_judge(&mut self, backend: Backend) -> Result<bool, KernelError> {
        let found = self.with_backend(backend, |firewall| firewall.can_judge());
        found.map_err(unreadable(backend))
    }

    fn probe_firewall(
        &mut self,
        backend: Backend,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, KernelError> {
        let (base_ruleset, confined) = self.without_confinement(base_ruleset);
        if !confined {
            return Ok(false);
        }
        let probed = self.with_backend(backend, |firewall| firewall.probe(&base_ruleset, entries));
        probed.map_err(unreadable(backend))
    }

    fn ruleset_version(&mut self, backend: Backend) -> Result<Option<RulesetVersion>, KernelError> {
        let connection = self.nftables.connection().map_err(unreadable(backend))?;
        let transactions = connection.transactions().map_err(unreadable(backend))?;
        let place = place(&*connection);
        let (legacy, legacy_ours) = iptables::legacy::version().map_err(unreadable(backend))?;
        Ok(place.map(|place| RulesetVersion { place, transactions, legacy, legacy_ours }))
    }

    fn firewall_state(
        &mut self,
        backend: Backend,
        expected: &Ruleset,
    ) -> Result<FirewallState, KernelError> {
        let (ruleset, confined) = self.confined_elsewhere(expected);
        let state = self.with_backend(backend, |firewall| firewall.state(&ruleset));
        let mut state = state.map_err(unreadable(backend))?;
        if !confined {
            let line = format!("table {}: other interfaces", table::name());
            state.base_ruleset = match state.base_ruleset {
                BaseState::Absent => BaseState::Absent,
                BaseState::Intact => BaseState::Altered(vec![line]),
                BaseState::Altered(lines) => BaseState::Altered([lines, vec![line]].concat()),
            };
        }
        Ok(state)
    }

    fn change_firewall(&mut self, backend: Backend, change: &Change) -> Result<(), KernelError> {
        let apply = |kernel: &mut Self, change: &Change| {
            kernel.with_backend(backend, |firewall| firewall.apply(change))
        };
        let applied = match change {
            Change::Reset(whole) => {
                let (ruleset, confined) = self.confined_elsewhere(whole);
                let part = Change::Reset(ruleset.into_owned());
                apply(self, &part).and_then(|()| {
                    if confined || self.confine(&whole.base_ruleset.confined)? {
                        return Ok(());
                    }
                    apply(self, change)
                })
            }
            Change::Remove => {
                apply(self, change).and_then(|()| self.confine(&Confinement::default()).map(drop))
            }
            Change::Delta { .. } => apply(self, change),
        };
        applied.map_err(unchanged(backend))
    }
}

impl Linux {
    /// Does the same as [`Self::without_confinement`] for a ruleset.
    fn confined_elsewhere<'a>(&mut self, ruleset: &'a Ruleset) -> (Cow<'a, Ruleset>, bool) {
        match self.without_confinement(&ruleset.base_ruleset) {
            (Cow::Borrowed(_), stands) => (Cow::Borrowed(ruleset), stands),
            (Cow::Owned(base_ruleset), stands) => {
                let entries = ruleset.entries.clone();
                (Cow::Owned(Ruleset { base_ruleset, entries }), stands)
            }
        }
    }
}

impl ForeignChains for Linux {
    fn foreign_chains(
        &mut self,
        backend: Backend,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, KernelError> {
        let found = self.with_backend(backend, |firewall| firewall.foreign_chains(uplinks));
        found.map_err(|source| KernelError::ListForeignChains { source })
    }

    fn owned_foreign_chains(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, KernelError> {
        let found = foreign_chains::in_owned_tables(&mut self.nftables, uplinks);
        found.map_err(|source| KernelError::ListForeignChains { source })
    }

    fn drops_around(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<String>, KernelError> {
        let found = foreign_chains::drops_around(&mut self.nftables, uplinks);
        found.map_err(|source| KernelError::ListForeignChains { source })
    }

    fn deciding_chains(&mut self, family: Family) -> Result<BTreeSet<String>, KernelError> {
        let found = foreign_chains::deciding_chains(&mut self.nftables, family);
        found.map_err(|source| KernelError::ListForeignChains { source })
    }

    fn translations(&mut self, wanted: &Wanted) -> Result<BTreeSet<Translation>, KernelError> {
        let found = Translations::read(&mut self.nftables)
            .and_then(|known| known.search_once(&mut self.nftables, wanted));
        found.map_err(|source| KernelError::ListForeignChains { source })
    }

    fn translated_ports(&mut self) -> Result<Option<TranslatedPorts>, KernelError> {
        let found = Translations::read(&mut self.nftables)
            .and_then(|mut known| known.ports(&mut self.nftables));
        found.map_err(|source| KernelError::ListForeignChains { source })
    }

    fn bans(&mut self) -> Result<BTreeSet<Ban>, KernelError> {
        let found = foreign_translations::bans(&mut self.nftables);
        found.map_err(|source| KernelError::ListForeignChains { source })
    }

    fn port_bans(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
        exposures: &BTreeSet<Entry>,
    ) -> Result<BTreeSet<PortBan>, KernelError> {
        let found = foreign_chains::port_bans(&mut self.nftables, uplinks, exposures);
        found.map_err(|source| KernelError::ListForeignChains { source })
    }

    fn passages(&mut self) -> Result<Vec<ForeignChain>, KernelError> {
        let found = foreign_chains::touched(&mut self.nftables);
        found.map_err(|source| KernelError::ListForeignChains { source })
    }

    fn open_passage(
        &mut self,
        foreign_chain: &ForeignChain,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<(), KernelError> {
        self.set_passage(foreign_chain, Some(uplinks))
    }

    fn close_passage(&mut self, foreign_chain: &ForeignChain) -> Result<(), KernelError> {
        self.set_passage(foreign_chain, None)
    }
}

impl Linux {
    fn set_passage(
        &mut self,
        foreign_chain: &ForeignChain,
        open: Option<&BTreeSet<InterfaceName>>,
    ) -> Result<(), KernelError> {
        let Self { nftables, launcher, .. } = self;
        let set = foreign_chains::set_passage(nftables, launcher, foreign_chain, open);
        set.map_err(|source| KernelError::SetPassage {
            foreign_chain: foreign_chain.clone(),
            source,
        })
    }
}

impl ImplicitTables for Linux {
    fn older_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError> {
        let found = self.with_backend(backend, |firewall| firewall.older_tables());
        found.map_err(unreadable(backend))
    }

    fn empty_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError> {
        let found = self.with_backend(backend, |firewall| firewall.empty_tables());
        found.map_err(unreadable(backend))
    }

    fn remove_empty_tables(
        &mut self,
        backend: Backend,
        except: &BTreeSet<String>,
    ) -> Result<(), KernelError> {
        let removed = self.with_backend(backend, |firewall| firewall.remove_empty_tables(except));
        removed.map_err(unchanged(backend))
    }
}

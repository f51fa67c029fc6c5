//! The rules of the firewall that an operation left, for the next one.
//!
//! A command reads the rules before it changes any, which takes iptables as long as the change itself. The kernel numbers
//! the transactions of nf_tables. If the number is still that of the end of the last operation, nobody has changed any rule
//! since, so nothing needs to be read. If it is another, somebody may have added a chain that drops packets of functions, so
//! the foreign chains are looked at. The same holds for the ports that others translate.

use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt,
};

use super::{NodeError, host::Host, session::Context};
use crate::store::{Setting, Store};
use riklet_core::{
    firewall::{
        Backend, Change, Entry, EntryTable, ForeignChain, IptablesVariant, TranslatedPorts,
        Translation, Wanted, iptables,
    },
    model::InterfaceName,
    plan::{Observed, Step},
};
use riklet_kernel::{ForeignChains, Kernel, KernelError, OwnChanges, RulesetVersion};

/// The rules before an operation.
#[derive(Debug)]
pub(crate) struct KnownRules {
    backend: Backend,
    uplinks: BTreeSet<InterfaceName>,
    version: RulesetVersion,
    /// A hash of the rules as they must be, and of the program that writes them.
    meaning: u64,
    /// The part that is as the last operation left it, which found and made it so.
    stands: Part,
    /// The part that is as it must be once this operation has done its plan.
    looked_at: Part,
    /// The ports that others translate, if they are known.
    translated: Option<TranslatedPorts>,
    /// True if the last operation left them unknown.
    learned: bool,
}

/// A part of the rules that is as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Nothing,
    /// Each foreign chain has its passage, or cannot be changed.
    ForeignChains,
    /// As well, our rules stand, and no foreign chain is one that cannot be changed.
    All,
}

impl Part {
    fn from_name(name: &str) -> Option<Self> {
        [Self::All, Self::ForeignChains].into_iter().find(|part| part.as_str() == name)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::ForeignChains => "foreign-chains",
            Self::All => "all",
        }
    }
}

impl<K: Kernel> Context<'_, K> {
    /// Returns what is known of the rules; `None` if they have to be read. A long-lived process hears of changes instead.
    ///
    /// Call it before the first look at the rules: what is learned of them is recorded with the version that they have now.
    pub(crate) fn known_rules(
        &mut self,
        store: &Store,
        host: &Host,
    ) -> Result<Option<KnownRules>, NodeError> {
        let Some(base_ruleset) = host.base_ruleset.as_ref().filter(|_| !self.cache.is_kept())
        else {
            return Ok(None);
        };
        let (backend, uplinks) = (host.backend, base_ruleset.uplinks.clone());
        let Some(version) = self.kernel.ruleset_version(backend)? else { return Ok(None) };
        let mut hasher = DefaultHasher::new();
        format!("{:?} {backend:?} {base_ruleset:?}", program()).hash(&mut hasher);
        let meaning = hasher.finish();
        let recorded = store.setting(Setting::Ruleset)?;
        let same = version_text(&version, meaning);
        let known = recorded.as_deref().and_then(|text| text.strip_prefix(&*same)).unwrap_or("");
        let mut words = known.split(' ');
        let part = words.next().and_then(Part::from_name);
        let (stands, looked_at) = (part.unwrap_or(Part::Nothing), Part::Nothing);
        // An earlier version of this program recorded no ports.
        let (translated, learned) = (words.next().and_then(TranslatedPorts::parse), false);
        Ok(Some(KnownRules {
            backend,
            uplinks,
            version,
            meaning,
            stands,
            looked_at,
            translated,
            learned,
        }))
    }
}

impl KnownRules {
    /// Reports whether they need not be read.
    pub(crate) fn stand(&self) -> bool {
        self.stands == Part::All
    }

    /// Reports whether the foreign chains need not be looked at: nobody has changed a rule since they were.
    pub(crate) fn foreign_chains_stand(&self) -> bool {
        self.stands >= Part::ForeignChains
    }

    /// Notes that our rules were looked at, and the foreign chains, either all of them or those that cannot be changed.
    pub(crate) fn looked_at(self, found: &Observed, all_foreign_chains: bool) -> Self {
        let looked_at = if !all_foreign_chains && !self.foreign_chains_stand() {
            Part::Nothing
        } else if self.is_legacy() || found.foreign_chains.iter().any(|state| state.owned) {
            // The version does not comprise the rules of the legacy iptables that translate.
            Part::ForeignChains
        } else {
            Part::All
        };
        Self { looked_at, ..self }
    }

    fn is_legacy(&self) -> bool {
        self.backend == Backend::Iptables(IptablesVariant::Legacy)
    }

    /// Returns the translations of these ports by others, as [`ForeignChains::translations`] does. Searches no rules if it is
    /// known that there are none.
    pub(crate) fn translations(
        &mut self,
        kernel: &mut impl ForeignChains,
        wanted: &Wanted,
    ) -> Result<BTreeSet<Translation>, KernelError> {
        if self.translated.is_none() {
            self.translated = kernel.translated_ports()?;
            self.learned |= self.translated.is_some();
        }
        match &self.translated {
            Some(ports) if !ports.meet(wanted) => Ok(BTreeSet::new()),
            _ => kernel.translations(wanted),
        }
    }

    /// Returns the setting for the next operation, after these steps were done; `None` if it stays as it is. Looks at the
    /// foreign chains once more if the number of transactions of the steps is not known.
    pub(crate) fn after(
        &self,
        done: &[Step],
        kernel: &mut impl Kernel,
    ) -> Result<Option<String>, NodeError> {
        let steps = done.iter().filter(|step| changes_rules(step));
        let changes: Option<Vec<_>> = steps.clone().map(Self::own_changes).collect();
        let known: Option<OwnChanges> =
            changes.map(|all| all.into_iter().fold(OwnChanges::default(), OwnChanges::and));
        let looked_at = self.looked_at;
        let news = self.learned || looked_at != self.stands;
        if looked_at == Part::Nothing || (known == Some(OwnChanges::default()) && !news) {
            return Ok(None);
        }
        let Some(now) = kernel.ruleset_version(self.backend)? else { return Ok(None) };
        let (part, translated) = match known {
            // No step of ours makes or ends a translation by others.
            Some(changes) if now.follows(&self.version, changes) => {
                // Ours may have made the table of the legacy iptables that translates, in which others may do so as well.
                (looked_at, self.translated.as_ref().filter(|_| !changes.legacy))
            }
            // Another version of iptables may write in other transactions.
            None if self.is_passed(&now, kernel)? => (Part::ForeignChains, None),
            Some(_) if steps.clone().any(is_reset) && self.is_passed(&now, kernel)? => {
                (Part::ForeignChains, None)
            }
            _ => return Ok(None),
        };
        let mut text = version_text(&now, self.meaning) + part.as_str();
        text.extend(translated.iter().map(|ports| format!(" {ports}")));
        Ok(Some(text))
    }

    /// Returns the changes that a step makes; `None` if they are not known.
    fn own_changes(step: &Step) -> Option<OwnChanges> {
        let transactions = |transactions| Some(OwnChanges { transactions, legacy: false });
        match step {
            Step::Firewall(Backend::Iptables(variant), Change::Delta { remove, add, .. })
                if !iptables::rewrites(remove) =>
            {
                let tables: BTreeSet<_> = remove.iter().chain(add).map(Entry::table).collect();
                let legacy = *variant == IptablesVariant::Legacy;
                let counts = |table: &&EntryTable| !legacy || **table == EntryTable::Policies;
                let transactions = tables.iter().filter(counts).count().try_into().ok()?;
                let legacy = legacy && tables.contains(&EntryTable::Mangle);
                Some(OwnChanges { transactions, legacy })
            }
            Step::Firewall(backend, Change::Reset(ruleset))
                if ruleset.base_ruleset.confined.is_empty() =>
            {
                match backend {
                    Backend::Nftables => transactions(1),
                    Backend::Iptables(IptablesVariant::Nft) => {
                        // The table of policies is one more.
                        transactions(u64::try_from(iptables::Table::OURS.len()).ok()? + 1)
                    }
                    Backend::Iptables(IptablesVariant::Legacy) => {
                        Some(OwnChanges { transactions: 1, legacy: true })
                    }
                }
            }
            Step::Firewall(Backend::Nftables, Change::Delta { .. })
            | Step::OpenPassage(ForeignChain::Nftables { .. }, _) => transactions(1),
            _ => None,
        }
    }

    /// Reports whether the foreign chains of this version have their passages, or cannot be changed.
    fn is_passed(&self, now: &RulesetVersion, kernel: &mut impl Kernel) -> Result<bool, NodeError> {
        let found = kernel.foreign_chains(self.backend, &self.uplinks)?;
        let passed = found.iter().all(|state| state.open || state.owned || !state.drops);
        Ok(passed && kernel.ruleset_version(self.backend)?.as_ref() == Some(now))
    }
}

/// Reports whether a step changes rules.
const fn changes_rules(step: &Step) -> bool {
    matches!(
        step,
        Step::Firewall(..)
            | Step::OpenPassage(..)
            | Step::ClosePassage(_)
            | Step::RemoveEmptyTables(..)
    )
}

/// Reports whether a step writes all rules of ours.
const fn is_reset(step: &Step) -> bool {
    matches!(step, Step::Firewall(_, Change::Reset(_)))
}

/// Returns the begin of the setting.
fn version_text(version: &RulesetVersion, meaning: u64) -> String {
    format!("{version} {meaning:016x} ")
}

/// Returns what tells this program from other versions of it, which may write other rules: its file.
fn program() -> Option<(u64, u64, u64, i64, i64)> {
    let file = fs::metadata("/proc/self/exe").ok()?;
    Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

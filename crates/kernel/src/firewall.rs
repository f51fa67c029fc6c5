use std::{collections::BTreeSet, fmt};

use crate::{KernelError, sealed::Sealed};
use riklet_core::{
    firewall::{
        Backend, Ban, BaseRuleset, Change, Entry, FirewallState, ForeignChain, ForeignChainState,
        PortBan, Ruleset, TranslatedPorts, Translation, Wanted,
    },
    model::{Family, InterfaceName},
};

/// A state of all rules that forwarded packets pass, of whichever program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesetVersion {
    /// Tells the network namespace, and the time since the host started, from all others.
    pub place: String,
    /// The number of transactions of nf_tables so far, of which each that changes a rule counts.
    pub transactions: u64,
    /// A hash of the rules of the legacy iptables for forwarded packets, whose changes nobody numbers, in the tables that
    /// are never ours.
    pub legacy: u64,
    /// A hash of those in the table that our ruleset changes if the legacy iptables is its backend, and of whether there is
    /// a table that translates addresses.
    pub legacy_ours: u64,
}

/// The changes of rules that this program made since a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnChanges {
    /// The number of transactions of nf_tables.
    pub transactions: u64,
    /// True if [`RulesetVersion::legacy_ours`] may have changed.
    pub legacy: bool,
}

impl OwnChanges {
    /// Returns these changes and others, in whichever order they were made.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        let transactions = self.transactions.saturating_add(other.transactions);
        Self { transactions, legacy: self.legacy || other.legacy }
    }
}

impl RulesetVersion {
    /// Reports whether these changes lead from the other version to this one, and nobody else changed a rule.
    #[must_use]
    pub fn follows(&self, other: &Self, changes: OwnChanges) -> bool {
        (&self.place, self.legacy) == (&other.place, other.legacy)
            && (changes.legacy || self.legacy_ours == other.legacy_ours)
            && other.transactions.checked_add(changes.transactions) == Some(self.transactions)
    }
}

impl fmt::Display for RulesetVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, transactions, legacy, legacy_ours } = self;
        write!(f, "{place} {transactions} {legacy:016x} {legacy_ours:016x}")
    }
}

/// The ruleset of this program, in any of the firewall backends.
pub trait Firewall: Sealed {
    /// Reports whether the kernel has what this backend needs to refuse services of the host to guests, as every reach of
    /// guests but `all` asks for: with iptables, the match `socket`. Changes nothing but that the kernel loads the module.
    ///
    /// # Errors
    /// Fails if the kernel does not answer, as it may not for the legacy iptables before a rule of it is there.
    fn can_refuse(&mut self, backend: Backend) -> Result<bool, KernelError>;

    /// Reports whether the kernel has what policies of functions need: nf_tables, whatever the backend is.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn can_judge(&mut self, backend: Backend) -> Result<bool, KernelError>;

    /// Reports whether the base ruleset and these entries are in place, as far as this can be told without
    /// listing rules of others. A backend that cannot tell answers `true`; its [`Change::Delta`] then fails.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn probe_firewall(
        &mut self,
        backend: Backend,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, KernelError>;

    /// Returns the version of all rules that forwarded packets pass. Of the rules of the legacy iptables that translate
    /// addresses, it comprises only whether there is a table for them. Returns `None` if notifications tell of changes.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn ruleset_version(&mut self, backend: Backend) -> Result<Option<RulesetVersion>, KernelError>;

    /// Reads all our objects in the firewall and compares them with the expected ruleset.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn firewall_state(
        &mut self,
        backend: Backend,
        expected: &Ruleset,
    ) -> Result<FirewallState, KernelError>;

    /// Applies one transaction. [`Change::Reset`] and [`Change::Remove`] may be repeated.
    ///
    /// # Errors
    /// Fails if the change is refused; then nothing has changed. With iptables, each table is a transaction
    /// of its own: the tables before the refused one have changed (the table of policies comes first, mangle before nat, and
    /// jumps come last; with [`Change::Remove`], the order is reversed). A [`Change::Delta`] is refused on repetition.
    fn change_firewall(&mut self, backend: Backend, change: &Change) -> Result<(), KernelError>;
}

/// Base chains of others on the hook `forward`, and our passage through them.
pub trait ForeignChains: Sealed {
    /// Returns the foreign forward chains, beside this backend's own chains. `uplinks` are the interfaces that our traffic
    /// uses beside our own: rules for other interfaces do not concern it.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn foreign_chains(
        &mut self,
        backend: Backend,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, KernelError>;

    /// Returns the foreign forward chains of nf_tables whose table another process owns. On a host without such tables the
    /// cost does not depend on the rules of others.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn owned_foreign_chains(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, KernelError>;

    /// Returns the chains of others before and after the hook forward that drop our traffic whatever its addresses and ports
    /// are, by name. No passage is made there: the host's own packets pass these chains as well.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn drops_around(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<String>, KernelError>;

    /// Returns the chains of others at which packets of this family enter, at whatever hook, and that may decide about them: they
    /// have rules, or drop by their policy. By name, such as `ip filter OUTPUT`. Reads the rules of these chains. Those of
    /// ip6tables-legacy are not read.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn deciding_chains(&mut self, family: Family) -> Result<BTreeSet<String>, KernelError>;

    /// Returns the rules of others that translate packets for one of these ports. Their rules in chains that translate
    /// destinations are read, as far as packets for these ports reach them; no others are.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn translations(&mut self, wanted: &Wanted) -> Result<BTreeSet<Translation>, KernelError>;

    /// Returns the ports of all [`Self::translations`], as long as [`Firewall::ruleset_version`] stays as it is. `None` if
    /// finding them would take reading many chains, or if the version does not comprise all
    /// rules that translate.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn translated_ports(&mut self) -> Result<Option<TranslatedPorts>, KernelError>;

    /// Returns the rules of others that drop forwarded packets of a range of addresses. Reads all rules in chains that
    /// packets of guests pass.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn bans(&mut self) -> Result<BTreeSet<Ban>, KernelError>;

    /// Returns the rules of others that drop packets of these exposures for their ports, whoever sends them by an uplink.
    /// Reads all rules in chains that filter packets of guests.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn port_bans(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
        exposures: &BTreeSet<Entry>,
    ) -> Result<BTreeSet<PortBan>, KernelError>;

    /// Returns the foreign chains of tables that have a passage or another object of ours. The rules of others in nf_tables
    /// are not read.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn passages(&mut self) -> Result<Vec<ForeignChain>, KernelError>;

    /// Opens our passages through one chain, and through all others of its table, in one transaction: each directly
    /// before the rule that would drop our traffic. Moves those that stand elsewhere, and removes those that are not
    /// needed. Repetition changes nothing more.
    ///
    /// # Errors
    /// Fails if the kernel refuses, as it does if the chain does not exist; then nothing has changed.
    fn open_passage(
        &mut self,
        foreign_chain: &ForeignChain,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<(), KernelError>;

    /// Removes our objects from the table of one chain, in one transaction. Changes nothing if there are none, or no
    /// such table.
    ///
    /// # Errors
    /// Fails if the kernel refuses; then nothing has changed.
    fn close_passage(&mut self, foreign_chain: &ForeignChain) -> Result<(), KernelError>;
}

/// Tables that a backend creates by being called: iptables-nft creates `ip filter`, `ip nat`, `ip raw` and
/// `ip mangle`, with empty base chains, when they are first named.
pub trait ImplicitTables: Sealed {
    /// Returns the names of the implicit tables that exist, such as `nat`, and of their base chains, such as `nat OUTPUT`,
    /// without those that hold nothing but objects of ours: no other program has anything there.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn older_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError>;

    /// Returns the names of the implicit tables that hold nothing but idle base chains, and of all idle base chains in them: those
    /// with policy accept and without rules.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn empty_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError>;

    /// Deletes the [`Self::empty_tables`], except those named: what was there before us. Repetition changes nothing more.
    ///
    /// # Errors
    /// Fails if the kernel refuses, as it does if another program fills a table meanwhile; then none is deleted.
    fn remove_empty_tables(
        &mut self,
        backend: Backend,
        except: &BTreeSet<String>,
    ) -> Result<(), KernelError>;
}

//! nf_tables by netlink.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, NetfilterSubsystem,
    none::ControlMessage,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::netlink::{Request, Socket};
use crate::Refusal;
use riklet_core::firewall::{
    BaseRuleset, Change, Entry, FirewallState, ForeignChainState, ForeignFamily, Ruleset,
    nftables::{
        Chain, Found, Operation, Rule, Set, Table, TableName, base_ruleset, element, foreign_chain,
        operations, tables,
    },
};

/// Each element asked for is answered by a message of its own; so many of them fit the receive buffer.
const ELEMENTS_A_REQUEST: usize = 16;

/// A connection to nf_tables, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Nftables {
    socket: Socket,
    port: Option<u32>,
}

impl Nftables {
    pub(super) fn open() -> Result<Self, Refusal> {
        let socket = Socket::open(NETLINK_NETFILTER)?;
        Ok(Self { port: socket.port(), socket })
    }

    /// By which the kernel names it in what it tells others of its changes.
    pub(super) const fn port(&self) -> Option<u32> {
        self.port
    }

    /// Whether the skeleton and these entries stand, and no firewall of iptables-nft came after it.
    /// Costs the same however many entries there are.
    pub(super) fn probe(
        &mut self,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, Refusal> {
        let expected = base_ruleset::table(base_ruleset);
        if self.table(&expected.name)?.as_ref() != Some(&expected) {
            return Ok(false);
        }
        for expected in base_ruleset::chains(base_ruleset) {
            if self.chain(&expected.table, &expected.name)?.as_ref() != Some(&expected) {
                return Ok(false);
            }
        }
        Ok(self.holds(entries)? && !self.is_shut_by_iptables()?)
    }

    /// Whether the chain FORWARD of iptables-nft is there and has never been opened.
    fn is_shut_by_iptables(&mut self) -> Result<bool, Refusal> {
        let table = foreign_chain::iptables_filter();
        let forward = self.chain(&table, foreign_chain::IPTABLES_FORWARD)?;
        if !forward.is_some_and(|chain| foreign_chain::filters_forwarded(&chain))
            || self.chain(&table, foreign_chain::PASSAGE)?.is_some()
        {
            return Ok(false);
        }
        Ok(self.table(&table)?.is_some_and(|table| !table.is_owned()))
    }

    /// Everything in our table, held against what is expected.
    pub(super) fn state(&mut self, expected: &Ruleset) -> Result<FirewallState, Refusal> {
        let name = base_ruleset::name();
        let Some(table) = self.table(&name)? else {
            return Ok(FirewallState::absent());
        };
        let mut chains = self.chains(name.family)?;
        chains.retain(|chain| chain.table == name);
        let rules = self.rules(&name, None)?;
        let sets: Vec<_> = self.dump(&name.get_sets())?.into_iter().filter_map(Set::read).collect();
        let mut elements = BTreeMap::new();
        for set in &sets {
            let request = element::get(&name, &set.name, &[]);
            let found = self.socket.query_as(&request, NLM_F_DUMP, element::read)?;
            elements.insert(set.name.clone(), found.into_iter().flatten().collect());
        }
        Ok(Found { table, chains, rules, sets, elements }.against(expected))
    }

    /// One transaction: all of it, or nothing.
    pub(super) fn change(&mut self, change: &Change) -> Result<(), Refusal> {
        if let Change::Delta { remove, .. } = change {
            // The kernel deletes by key, whatever a map has for it.
            for entry in remove {
                if !self.holds(&BTreeSet::from([*entry]))? {
                    let words = format!("removing {entry}");
                    return Err(Refusal { errno: Some(Refusal::ENOENT), words });
                }
            }
        }
        self.commit(operations(change)?)
    }

    /// The foreign chains that drop what is forwarded, and those that have something of ours.
    ///
    /// `iptables_nft_is_ours`: the backend is iptables-nft, which itself keeps what is ours in `ip filter`.
    pub(super) fn foreign_chains(
        &mut self,
        iptables_nft_is_ours: bool,
    ) -> Result<Vec<ForeignChainState>, Refusal> {
        let mut states = Vec::new();
        for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::Inet] {
            let tables = self.tables_of(family)?;
            let chains = self.chains(family)?;
            let candidates = foreign_chain::candidates(&tables, &chains, iptables_nft_is_ours);
            let mut found = Vec::new();
            for chain in candidates {
                let passage = chains.iter().find(|other| {
                    other.table == chain.table && other.name == foreign_chain::PASSAGE
                });
                if passage.is_some() || foreign_chain::drops(chain) {
                    found.push(self.foreign_chain(chain.clone(), passage.cloned())?);
                }
            }
            states.extend(foreign_chain::states(&found));
        }
        Ok(states)
    }

    /// Opens (or mends) or closes one gate.
    pub(super) fn set_passage(
        &mut self,
        family: ForeignFamily,
        table: &str,
        chain: &str,
        open: bool,
    ) -> Result<(), Refusal> {
        let table = foreign_chain::table(family, table);
        let Some(found) = self.chain(&table, chain)? else {
            let words = format!("chain {table} {chain}");
            let missing = Refusal { errno: Some(Refusal::ENOENT), words };
            return if open { Err(missing) } else { Ok(()) };
        };
        let passage = self.chain(&table, foreign_chain::PASSAGE)?;
        let found = self.foreign_chain(found, passage)?;
        self.commit(if open { found.open() } else { found.close() })
    }

    fn foreign_chain(
        &mut self,
        chain: Chain,
        passage: Option<Chain>,
    ) -> Result<foreign_chain::Found, Refusal> {
        let rules = self.rules(&chain.table, Some(&chain.name))?;
        let passage = match passage {
            Some(passage) => {
                let rules = self.rules(&passage.table, Some(&passage.name))?;
                Some((passage, rules))
            }
            None => None,
        };
        Ok(foreign_chain::Found { chain, rules, passage })
    }

    /// The names of the IPv4 tables that are there of those that iptables-nft makes by being called.
    pub(super) fn tables(&mut self) -> Result<BTreeSet<String>, Refusal> {
        let tables = self.tables_of(NetfilterProtoFamily::IPv4)?;
        Ok(tables::of_iptables(tables).map(|table| table.name.name).collect())
    }

    /// The names of those of them that hold nothing but empty base chains with policy accept.
    pub(super) fn empty_tables(&mut self) -> Result<BTreeSet<String>, Refusal> {
        let tables = self.tables_of(NetfilterProtoFamily::IPv4)?;
        let chains = self.chains(NetfilterProtoFamily::IPv4)?;
        Ok(tables::empty(tables, &chains).map(|table| table.name.name).collect())
    }

    /// Deletes those, except these.
    pub(super) fn remove_empty_tables(&mut self, except: &BTreeSet<String>) -> Result<(), Refusal> {
        let tables = self.tables_of(NetfilterProtoFamily::IPv4)?;
        let chains = self.chains(NetfilterProtoFamily::IPv4)?;
        self.commit(tables::remove_empty(tables, &chains, except))
    }

    /// Whether all these entries are there.
    fn holds(&mut self, entries: &BTreeSet<Entry>) -> Result<bool, Refusal> {
        let mut wanted: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for entry in entries {
            let (set, element) = element::of_entry(entry)?;
            wanted.entry(set).or_default().push(element);
        }
        for (set, elements) in wanted {
            for chunk in elements.chunks(ELEMENTS_A_REQUEST) {
                let request = element::get(&base_ruleset::name(), set, chunk);
                let answer = self.socket.query_as(&request, 0, element::read);
                let Some(answer) = found(answer)? else { return Ok(false) };
                let found: BTreeSet<_> = answer.into_iter().flatten().collect();
                if !chunk.iter().all(|element| found.contains(element)) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn table(&mut self, name: &TableName) -> Result<Option<Table>, Refusal> {
        let answer = self.get(&name.get())?;
        Ok(answer.into_iter().flatten().find_map(Table::read))
    }

    fn chain(&mut self, table: &TableName, name: &str) -> Result<Option<Chain>, Refusal> {
        let answer = self.get(&table.get_chain(name))?;
        Ok(answer.into_iter().flatten().find_map(Chain::read))
    }

    fn tables_of(&mut self, family: NetfilterProtoFamily) -> Result<Vec<Table>, Refusal> {
        let found = self.dump(&tables::get_tables(family))?;
        Ok(found.into_iter().filter_map(Table::read).collect())
    }

    fn chains(&mut self, family: NetfilterProtoFamily) -> Result<Vec<Chain>, Refusal> {
        let found = self.dump(&tables::get_chains(family))?;
        Ok(found.into_iter().filter_map(Chain::read).collect())
    }

    fn rules(&mut self, table: &TableName, chain: Option<&str>) -> Result<Vec<Rule>, Refusal> {
        let found = self.dump(&table.get_rules(chain))?;
        Ok(found.into_iter().filter_map(Rule::read).collect())
    }

    /// What the kernel answers; `None` where what was asked for is not there.
    fn get(
        &mut self,
        message: &NetfilterMessage,
    ) -> Result<Option<Vec<NetfilterMessage>>, Refusal> {
        found(self.socket.query(message, 0))
    }

    fn dump(&mut self, message: &NetfilterMessage) -> Result<Vec<NetfilterMessage>, Refusal> {
        self.socket.query(message, NLM_F_DUMP)
    }

    fn commit(&mut self, operations: Vec<Operation>) -> Result<(), Refusal> {
        if operations.is_empty() {
            return Ok(());
        }
        let (what, messages): (Vec<_>, Vec<_>) = operations
            .into_iter()
            .map(|Operation { what, message, flags }| (what, Request { message, flags }))
            .unzip();
        let begin = control(ControlMessage::BatchBegin);
        let end = control(ControlMessage::BatchEnd);
        let batch = [begin].into_iter().chain(messages).chain([end]).collect();
        self.socket.transaction(batch).map_err(|(index, refusal)| {
            // The first message is the begin of the batch, which stands for all of it.
            let what = index.checked_sub(1).and_then(|index| what.get(index));
            match what {
                Some(what) if refusal.words.is_empty() => {
                    Refusal { words: what.clone(), ..refusal }
                }
                Some(what) => Refusal { words: format!("{what}: {}", refusal.words), ..refusal },
                None => refusal,
            }
        })
    }
}

/// `None` where what was asked for is not there.
fn found<T>(answer: Result<T, Refusal>) -> Result<Option<T>, Refusal> {
    match answer {
        Err(refusal) if refusal.errno == Some(Refusal::ENOENT) => Ok(None),
        answer => answer.map(Some),
    }
}

/// The begin or the end of a batch: the resource is the subsystem that it is for (`nfgenmsg.res_id`).
fn control(message: ControlMessage) -> Request<NetfilterMessage> {
    let subsystem = u8::from(NetfilterSubsystem::NfTables).into();
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, subsystem);
    Request { message: NetfilterMessage::new(header, message), flags: 0 }
}

#[cfg(test)]
mod tests;

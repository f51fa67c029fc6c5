//! Reads and changes objects of nf_tables through one socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_DUMP, NetlinkSerializable};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, NetfilterSubsystem,
    none::ControlMessage,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::{
    Refusal,
    linux::{
        netlink::{HEADER, NetlinkRequest, Socket, attributes, decode},
        refusals,
    },
};
use riklet_core::firewall::{
    Entry, RefusingRule,
    nftables::{
        Chain, Element, Operation, Rule, Set, Table, TableName, element,
        foreign_set::{self, ForeignElement},
        is_sound, policy_chain, tables,
    },
};

/// The number of elements that one request asks for. Each is answered by a message of its own, and all of them must fit
/// the receive buffer.
const ELEMENTS_A_REQUEST: usize = 16;

/// Reads a message about an object; a malformed one is left out.
pub(in crate::linux) fn read(message: &[u8]) -> Option<NetfilterMessage> {
    is_sound(message).then(|| decode(message)).flatten()
}

/// A connection to nf_tables, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(in super::super) struct Connection {
    pub(super) socket: Socket,
    port: Option<u32>,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    pub(super) fn open() -> Result<Self, Refusal> {
        let socket = Socket::open(NETLINK_NETFILTER)?;
        Ok(Self { port: socket.port(), socket })
    }

    pub(super) const fn port(&self) -> Option<u32> {
        self.port
    }

    /// Returns the number of transactions so far (`nft_net.base_seq` of `net/netfilter/nf_tables_api.c`), of which each that
    /// changes something counts.
    pub(in super::super) fn transactions(&mut self) -> Result<u64, Refusal> {
        /// `NFTA_GEN_ID`.
        const NUMBER: u16 = 1;
        let number = |message: &[u8]| {
            let mut attributes = attributes(message.get(HEADER + GetGeneration::BODY..)?);
            let (_, number) = attributes.find(|(kind, _)| *kind == NUMBER)?;
            number.try_into().ok().map(u32::from_be_bytes)
        };
        let found = self.socket.query_as(&GetGeneration, 0, number)?;
        let unnamed = || Refusal::words("the kernel does not number its transactions");
        found.first().map(|number| (*number).into()).ok_or_else(unnamed)
    }

    /// Reports whether a table of ours has all these entries.
    pub(super) fn holds(
        &mut self,
        table: &TableName,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, Refusal> {
        let mut wanted: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for entry in entries {
            let (set, elements) = element::of_entry(entry)?;
            wanted.entry(set).or_default().extend(elements);
        }
        let policies = policy_chain::of(entries);
        for ((guest, _), chain) in &policies {
            let (map, element) = chain.lead(*guest);
            wanted.entry(map).or_default().push(element);
        }
        for (set, elements) in wanted {
            if !self.has_elements(table, set, &elements)? {
                return Ok(false);
            }
        }
        let chains: BTreeMap<_, _> = policies.values().map(|chain| (chain.name(), chain)).collect();
        for chain in chains.into_values() {
            if !self.has_policy_chain(table, chain)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn has_elements(
        &mut self,
        table: &TableName,
        set: &str,
        elements: &[Element],
    ) -> Result<bool, Refusal> {
        for chunk in elements.chunks(ELEMENTS_A_REQUEST) {
            let request = element::get(table, set, chunk);
            let answer = self.socket.query_as(&request, 0, element::read);
            let Some(answer) = found(answer)? else { return Ok(false) };
            let found: BTreeSet<_> = answer.into_iter().flatten().collect();
            if !chunk.iter().all(|element| found.contains(element)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(in super::super) fn table(&mut self, name: &TableName) -> Result<Option<Table>, Refusal> {
        let answer = self.get(&name.get())?;
        Ok(answer.into_iter().flatten().find_map(Table::read))
    }

    pub(super) fn chain(
        &mut self,
        table: &TableName,
        name: &str,
    ) -> Result<Option<Chain>, Refusal> {
        let answer = self.get(&table.get_chain(name))?;
        Ok(answer.into_iter().flatten().find_map(Chain::read))
    }

    pub(super) fn tables(&mut self, family: NetfilterProtoFamily) -> Result<Vec<Table>, Refusal> {
        let found = self.dump(&tables::get_tables(family))?;
        Ok(found.into_iter().filter_map(Table::read).collect())
    }

    pub(in super::super) fn chains(
        &mut self,
        family: NetfilterProtoFamily,
    ) -> Result<Vec<Chain>, Refusal> {
        let found = self.dump(&tables::get_chains(family))?;
        Ok(found.into_iter().filter_map(Chain::read).collect())
    }

    /// Returns the rules of one chain, or of all chains of the table.
    pub(in super::super) fn rules(
        &mut self,
        table: &TableName,
        chain: Option<&str>,
    ) -> Result<Vec<Rule>, Refusal> {
        self.socket.query_as(&table.get_rules(chain), NLM_F_DUMP, Rule::read)
    }

    /// Returns the rules of these chains of others, as `read` reads them from messages of the kernel. A chain that was deleted
    /// meanwhile has none.
    pub(in super::super) fn rules_of(
        &mut self,
        table: &TableName,
        chains: BTreeSet<String>,
        read: impl Fn(&[u8]) -> Option<Rule>,
    ) -> Result<BTreeMap<String, Vec<Rule>>, Refusal> {
        /// From this number of chains on, one listing of the whole table costs less than one for each.
        const MANY: usize = 32;
        let mut found = BTreeMap::new();
        if chains.len() < MANY {
            for chain in chains {
                let rules =
                    self.socket.query_as(&table.get_rules(Some(&chain)), NLM_F_DUMP, &read)?;
                found.insert(chain, rules);
            }
            return Ok(found);
        }
        found.extend(chains.into_iter().map(|chain| (chain, Vec::new())));
        for rule in self.socket.query_as(&table.get_rules(None), NLM_F_DUMP, &read)? {
            if let Some(rules) = found.get_mut(&rule.chain) {
                rules.push(rule);
            }
        }
        Ok(found)
    }

    pub(in super::super) fn sets(&mut self, table: &TableName) -> Result<Vec<Set>, Refusal> {
        Ok(self.dump(&table.get_sets())?.into_iter().filter_map(Set::read).collect())
    }

    /// Returns all elements of a set or map.
    pub(super) fn elements(
        &mut self,
        table: &TableName,
        set: &str,
    ) -> Result<Vec<Element>, Refusal> {
        let request = element::get(table, set, &[]);
        let found = self.socket.query_as(&request, NLM_F_DUMP, element::read)?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Returns the number of refused packets by interface and rule.
    pub(super) fn refused_packets(
        &mut self,
    ) -> Result<BTreeMap<(u32, RefusingRule), u64>, Refusal> {
        refusals::counts(&mut self.socket)
    }

    /// Returns all elements of a foreign set or map.
    pub(super) fn foreign_elements(
        &mut self,
        table: &TableName,
        set: &str,
    ) -> Result<Vec<ForeignElement>, Refusal> {
        let request = element::get(table, set, &[]);
        let found = self.socket.query_as(&request, NLM_F_DUMP, foreign_set::read)?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Returns the answer of the kernel, or `None` if the object does not exist.
    fn get(
        &mut self,
        message: &NetfilterMessage,
    ) -> Result<Option<Vec<NetfilterMessage>>, Refusal> {
        found(self.socket.query_as(message, 0, read))
    }

    fn dump(&mut self, message: &NetfilterMessage) -> Result<Vec<NetfilterMessage>, Refusal> {
        self.socket.query_as(message, NLM_F_DUMP, read)
    }

    /// Applies these operations in one transaction. A refusal names the operation that was refused.
    pub(in super::super) fn commit(&mut self, operations: Vec<Operation>) -> Result<(), Refusal> {
        if operations.is_empty() {
            return Ok(());
        }
        let (what, messages): (Vec<_>, Vec<_>) = operations
            .into_iter()
            .map(|Operation { what, message, flags }| (what, NetlinkRequest { message, flags }))
            .unzip();
        let begin = control(ControlMessage::BatchBegin);
        let end = control(ControlMessage::BatchEnd);
        let batch = [begin].into_iter().chain(messages).chain([end]).collect();
        self.socket.transaction(batch).map_err(|(index, refusal)| {
            // The first message begins the batch; its refusal is that of the whole batch.
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

/// The request `NFT_MSG_GETGEN`.
#[derive(Debug, Clone)]
struct GetGeneration;

impl GetGeneration {
    /// `sizeof(struct nfgenmsg)`.
    const BODY: usize = 4;
}

impl NetlinkSerializable for GetGeneration {
    fn message_type(&self) -> u16 {
        const GET_GENERATION: u16 = 16;
        u16::from(u8::from(NetfilterSubsystem::NfTables)) << 8 | GET_GENERATION
    }

    fn buffer_len(&self) -> usize {
        Self::BODY
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

/// Returns `None` if the object does not exist.
pub(super) fn found<T>(answer: Result<T, Refusal>) -> Result<Option<T>, Refusal> {
    match answer {
        Err(refusal) if refusal.errno == Some(Refusal::ENOENT) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Returns the begin or the end of a batch: the resource is the subsystem that it is for
/// (`nfgenmsg.res_id`).
fn control(message: ControlMessage) -> NetlinkRequest<NetfilterMessage> {
    let subsystem = u8::from(NetfilterSubsystem::NfTables).into();
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, subsystem);
    NetlinkRequest { message: NetfilterMessage::new(header, message), flags: 0 }
}

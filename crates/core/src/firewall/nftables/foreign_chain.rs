//! Our passage through foreign base chains on the hook forward.
//!
//! Its rules have the form in which iptables-nft writes them, so that iptables-nft can still list its table.

use netlink_packet_netfilter::{
    NetfilterProtoFamily,
    nftables::{HookNumber, InetHookNumber},
};

use super::{
    base_ruleset,
    expression::{DROP, accept, counter, from_guest, jump, to_guest},
    object::{Chain, Operation, Rule, Table, TableName},
};
use crate::firewall::{
    ForeignChain, ForeignChainState, ForeignFamily,
    names::{self, FORWARD_CHAIN},
};

/// Returns the name of the table in which iptables-nft has its chain FORWARD.
#[must_use]
pub fn iptables_filter() -> TableName {
    TableName::new(NetfilterProtoFamily::IPv4, names::iptables::FILTER)
}

/// Returns the name of a foreign chain's table.
#[must_use]
pub fn table(family: ForeignFamily, name: &str) -> TableName {
    let family = match family {
        ForeignFamily::Ip => NetfilterProtoFamily::IPv4,
        ForeignFamily::Inet => NetfilterProtoFamily::Inet,
    };
    TableName::new(family, name)
}

/// Reports whether forwarded packets pass this chain.
#[must_use]
pub fn filters_forwarded(chain: &Chain) -> bool {
    let forward = HookNumber::Inet(InetHookNumber::Forward);
    chain.base.as_ref().is_some_and(|base| base.kind == "filter" && base.hook == forward)
}

/// A foreign forward chain as it was read, with our passage beside it.
#[derive(Debug)]
pub struct FoundChain {
    /// The base chain.
    pub chain: Chain,
    /// The rules of the base chain.
    pub rules: Vec<Rule>,
    /// Our passage, and its rules.
    pub passage: Option<(Chain, Vec<Rule>)>,
}

/// Keeps the chains that may be foreign forward chains: somebody else's, on the hook forward, in a table that
/// can be changed. If the backend is iptables-nft, its table `ip filter` is its own.
#[must_use]
pub fn candidates<'a>(
    tables: &[Table],
    chains: &'a [Chain],
    iptables_nft_is_ours: bool,
) -> Vec<&'a Chain> {
    let owned = |name: &TableName| tables.iter().any(|t| t.name == *name && t.is_owned());
    let ours = |name: &TableName| {
        *name == base_ruleset::name() || (iptables_nft_is_ours && *name == iptables_filter())
    };
    let candidate = |c: &&Chain| filters_forwarded(c) && !ours(&c.table) && !owned(&c.table);
    chains.iter().filter(candidate).collect()
}

/// Reports whether a candidate is a foreign forward chain whatever its rules are.
#[must_use]
pub fn drops(chain: &Chain) -> bool {
    let policy = chain.base.as_ref().map(|base| base.policy);
    policy == Some(DROP) || is_of_iptables(chain)
}

/// Reports whether it is the chain FORWARD of iptables-nft. Its policy or its rules may drop at any time.
#[must_use]
pub fn is_of_iptables(chain: &Chain) -> bool {
    chain.table == iptables_filter() && chain.name == names::iptables::FORWARD
}

/// Returns the foreign forward chains among the candidates of one family.
///
/// A chain that accepts by policy is one only if it has something of ours: a rule that jumps to the passage, or
/// a passage that belongs to no other foreign forward chain of its table.
#[must_use]
pub fn states(found: &[FoundChain]) -> Vec<ForeignChainState> {
    let mut states = Vec::new();
    let mut accounted: Vec<&TableName> = Vec::new();
    for found in found.iter().filter(|found| drops(&found.chain) || found.is_jumped_from()) {
        accounted.push(&found.chain.table);
        states.extend(found.state());
    }
    for found in found.iter().filter(|found| found.passage.is_some()) {
        if !accounted.contains(&&found.chain.table) {
            accounted.push(&found.chain.table);
            states.extend(found.state());
        }
    }
    states
}

impl FoundChain {
    /// Returns the chain, and whether its passage is open; `None` if its family is not supported.
    #[must_use]
    pub fn state(&self) -> Option<ForeignChainState> {
        let family = match self.chain.table.family {
            NetfilterProtoFamily::IPv4 => ForeignFamily::Ip,
            NetfilterProtoFamily::Inet => ForeignFamily::Inet,
            _ => return None,
        };
        let (table, chain) = (self.chain.table.name.clone(), self.chain.name.clone());
        Some(ForeignChainState {
            foreign_chain: ForeignChain::Nftables { family, table, chain },
            open: self.jumps_once_and_first() && self.passage_is_complete(),
            touched: self.is_jumped_from() || self.passage.is_some(),
        })
    }

    /// Reports whether one of its rules jumps to the passage.
    #[must_use]
    pub fn is_jumped_from(&self) -> bool {
        self.jumps().next().is_some()
    }

    /// Opens the passage, or repairs one that is open.
    #[must_use]
    pub fn open(&self) -> Vec<Operation> {
        let table = &self.chain.table;
        let mut operations = Vec::new();
        if !self.passage_is_complete() {
            match &self.passage {
                None => operations.push(self.passage_chain().add()),
                Some(_) => operations.push(table.delete_rules(FORWARD_CHAIN, None)),
            }
            operations.extend(self.passage_rules().iter().map(Rule::append));
        }
        if !self.jumps_once_and_first() {
            operations.extend(self.delete_jumps());
            operations.push(self.jump().insert());
        }
        operations
    }

    /// Removes what is ours. The passage stays if another chain jumps to it.
    #[must_use]
    pub fn close(&self) -> Vec<Operation> {
        let mut operations: Vec<_> = self.delete_jumps().collect();
        if let Some((passage, rules)) = &self.passage {
            let own = rules.len() + self.jumps().count();
            if usize::try_from(passage.references).is_ok_and(|references| references <= own) {
                operations.push(self.chain.table.delete_rules(FORWARD_CHAIN, None));
                operations.push(self.chain.table.delete_chain(FORWARD_CHAIN, 0));
            }
        }
        operations
    }

    fn jumps(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.target() == Some(FORWARD_CHAIN))
    }

    fn delete_jumps(&self) -> impl Iterator<Item = Operation> {
        let chain = &self.chain;
        self.jumps().map(|rule| chain.table.delete_rules(&chain.name, Some(rule.handle)))
    }

    fn jumps_once_and_first(&self) -> bool {
        self.rules.first().is_some_and(|rule| rule.means(&self.jump())) && self.jumps().count() == 1
    }

    fn passage_is_complete(&self) -> bool {
        self.passage.as_ref().is_some_and(|(_, found)| {
            let wanted = self.passage_rules();
            found.len() == wanted.len() && found.iter().zip(&wanted).all(|(f, w)| f.means(w))
        })
    }

    fn jump(&self) -> Rule {
        Rule::new(
            &self.chain.table,
            &self.chain.name,
            Vec::new(),
            &[counter(), jump(FORWARD_CHAIN)],
        )
    }

    fn passage_chain(&self) -> Chain {
        let table = self.chain.table.clone();
        Chain { table, name: FORWARD_CHAIN.to_owned(), base: None, references: 0 }
    }

    fn passage_rules(&self) -> [Rule; 2] {
        [from_guest(), to_guest()].map(|interface| {
            let parts = [interface, counter(), accept()];
            Rule::new(&self.chain.table, FORWARD_CHAIN, Vec::new(), &parts)
        })
    }
}

//! The passage through foreign base chains on the hook forward.
//!
//! Rules stand as iptables-nft writes them, so that it can still list its table.

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

/// The table of the iptables-nft chain FORWARD.
#[must_use]
pub fn iptables_filter() -> TableName {
    TableName::new(NetfilterProtoFamily::IPv4, names::iptables::FILTER)
}

/// The table of a gate.
#[must_use]
pub fn table(family: ForeignFamily, name: &str) -> TableName {
    let family = match family {
        ForeignFamily::Ip => NetfilterProtoFamily::IPv4,
        ForeignFamily::Inet => NetfilterProtoFamily::Inet,
    };
    TableName::new(family, name)
}

/// Whether forwarded packets pass this chain.
#[must_use]
pub fn filters_forwarded(chain: &Chain) -> bool {
    let forward = HookNumber::Inet(InetHookNumber::Forward);
    chain.base.as_ref().is_some_and(|base| base.kind == "filter" && base.hook == forward)
}

/// What was read of a foreign base chain and the passage beside it.
#[derive(Debug)]
pub struct Found {
    pub chain: Chain,
    /// The rules of the base chain.
    pub rules: Vec<Rule>,
    /// Our chain beside it, and its rules.
    pub passage: Option<(Chain, Vec<Rule>)>,
}

/// The chains that may be gates: foreign, on the hook forward, in a table that can be changed.
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

/// Whether a candidate is a gate whatever is in it.
#[must_use]
pub fn drops(chain: &Chain) -> bool {
    let policy = chain.base.as_ref().map(|base| base.policy);
    policy == Some(DROP) || is_of_iptables(chain)
}

/// Whether it is the chain FORWARD of iptables-nft. Its policy or rules may come to drop at any time.
#[must_use]
pub fn is_of_iptables(chain: &Chain) -> bool {
    chain.table == iptables_filter() && chain.name == names::iptables::FORWARD
}

/// The gates among the candidates of one family.
///
/// One that accepts by policy is a gate only where it has something of ours: a rule that leads into the
/// passage, or a passage that no other gate of its table accounts for.
#[must_use]
pub fn states(found: &[Found]) -> Vec<ForeignChainState> {
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

impl Found {
    /// The gate, and whether it is open.
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

    /// Whether a rule of it leads into the passage.
    #[must_use]
    pub fn is_jumped_from(&self) -> bool {
        self.jumps().next().is_some()
    }

    /// Opens it, or mends what is open.
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

    /// Takes what is ours out of it; the passage stays where another chain leads into it.
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

//! Our passage through foreign base chains on the hook forward.
//!
//! Its rules have the form in which iptables-nft writes them, so that iptables-nft can still list its table.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_netfilter::{
    NetfilterProtoFamily,
    nftables::{HookNumber, InetHookNumber},
};

use super::{
    base_ruleset,
    expression::{DROP, accept, counter, from_guest, jump, to_guest},
    foreign_rule::{self, Sets},
    foreign_set::ForeignSet,
    object::{Chain, Operation, Rule, Table, TableName},
};
use crate::{
    firewall::{
        Entry, ForeignChain, ForeignChainState, ForeignFamily, PortBan,
        names::{self, PASSAGE_CHAIN, is_our_chain},
        passage::{self, Hook, Place, Places, Rules, Sides, Stage},
    },
    model::InterfaceName,
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

/// Reports whether our packets pass this chain before or after the hook forward.
#[must_use]
pub fn filters_around(chain: &Chain) -> bool {
    let hooks = [InetHookNumber::PreRouting, InetHookNumber::PostRouting].map(HookNumber::Inet);
    chain.base.as_ref().is_some_and(|base| base.kind == "filter" && hooks.contains(&base.hook))
}

/// Reports whether packets pass this chain before anybody translates their destination.
fn filters_untranslated(chain: &Chain) -> bool {
    let prerouting = HookNumber::Inet(InetHookNumber::PreRouting);
    chain.base.as_ref().is_some_and(|base| {
        base.hook == prerouting && base.priority < names::nftables::priority::BEFORE_DSTNAT
    })
}

/// Reports whether the chain drops packets that no rule accepts.
#[must_use]
pub fn drops_by_policy(chain: &Chain) -> bool {
    chain.base.as_ref().is_some_and(|base| base.policy == DROP)
}

/// Keeps the tables that have a foreign forward chain, or a passage of ours. If the backend is iptables-nft, some tables
/// are its own.
#[must_use]
pub fn candidates(
    tables: Vec<Table>,
    chains: &[Chain],
    iptables_nft_is_ours: bool,
) -> Vec<ForeignTable> {
    let ours = |name: &TableName| {
        let of_iptables = name.family == NetfilterProtoFamily::IPv4
            && names::iptables::OUR_TABLES.contains(&&*name.name);
        base_ruleset::is_ours(name) || (iptables_nft_is_ours && of_iptables)
    };
    let tables = tables.into_iter().filter(|table| !ours(&table.name));
    let found = tables.map(|table| ForeignTable::new(table, chains, filters_forwarded));
    let has_passage = |table: &ForeignTable| table.ours().any(|chain| chain.name == PASSAGE_CHAIN);
    found.filter(|table| table.bases().next().is_some() || has_passage(table)).collect()
}

/// Reports whether a base chain of others may decide about packets: it drops by its policy, or has another rule than jumps to
/// chains of ours. These are its rules.
#[must_use]
pub fn decides(chain: &Chain, rules: &[Rule]) -> bool {
    drops_by_policy(chain) || rules.iter().any(|rule| !is_ours(rule))
}

/// Keeps the tables of others that have a chain before or after the hook forward.
#[must_use]
pub fn candidates_around(tables: Vec<Table>, chains: &[Chain]) -> Vec<ForeignTable> {
    let tables = tables.into_iter().filter(|table| !base_ruleset::is_ours(&table.name));
    let found = tables.map(|table| ForeignTable::new(table, chains, filters_around));
    found.filter(|table| table.bases().next().is_some()).collect()
}

/// A foreign table, as far as it was read.
#[derive(Debug)]
pub struct ForeignTable {
    table: Table,
    /// All its chains.
    chains: Vec<Chain>,
    /// Tells which base chains are looked at.
    is_base: fn(&Chain) -> bool,
    /// The rules of each chain that was read.
    pub rules: BTreeMap<String, Vec<Rule>>,
    /// The sets that were read.
    pub sets: BTreeMap<String, ForeignSet>,
    /// True if rules for ports are understood as well.
    asks_ports: bool,
}

/// The parts of a table that have to be read as well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// The chains whose rules are needed.
    pub chains: BTreeSet<String>,
    /// The sets whose elements are needed.
    pub sets: BTreeSet<String>,
}

impl ForeignTable {
    /// Returns a table with those of these chains that are its own, of which nothing else was read. Base chains for which
    /// `is_base` is true are looked at.
    #[must_use]
    pub fn new(table: Table, chains: &[Chain], is_base: fn(&Chain) -> bool) -> Self {
        let chains = chains.iter().filter(|chain| chain.table == table.name).cloned().collect();
        let (rules, sets) = Default::default();
        Self { table, chains, is_base, rules, sets, asks_ports: false }
    }

    /// Returns the table for [`Self::port_bans`]: its sets of ports have to be read as well.
    #[must_use]
    pub fn asking_for_ports(self) -> Self {
        Self { asks_ports: true, ..self }
    }

    /// Returns the rules that drop packets of these exposures for their ports.
    #[must_use]
    pub fn port_bans(
        &self,
        uplinks: &BTreeSet<InterfaceName>,
        exposures: &BTreeSet<Entry>,
    ) -> BTreeSet<PortBan> {
        let (rules, _) = self.translated();
        let (general, _) = self.translated_as(false);
        let (places, none) = (self.places(&general, uplinks), Places::new());
        let dropped = self.bases().flat_map(|base| {
            let stage = if filters_forwarded(base) {
                Stage::After(&places)
            } else if filters_untranslated(base) {
                Stage::Before
            } else {
                Stage::After(&none)
            };
            passage::dropped_ports(&rules, (&base.name, stage), uplinks, exposures)
        });
        let table = &self.table.name;
        let ban = |(protocol, port, chain): (_, _, String)| {
            PortBan::new(protocol, port, format!("{table} {chain}"))
        };
        dropped.map(ban).collect()
    }

    /// Returns the name of the table.
    #[must_use]
    pub const fn name(&self) -> &TableName {
        &self.table.name
    }

    /// Returns the base chains that drop our traffic whatever its addresses and ports are.
    #[must_use]
    pub fn dropping(&self, uplinks: &BTreeSet<InterfaceName>) -> Vec<String> {
        let (rules, _) = self.translated();
        let drops = |chain: &&Chain| passage::drops(&rules, &chain.name, uplinks);
        let named = |chain: &Chain| format!("{} {}", self.table.name, chain.name);
        self.bases().filter(drops).map(named).collect()
    }

    /// Returns the parts that decide about our traffic and are not read yet: the chains that forwarded packets reach,
    /// and ours.
    ///
    /// If other rules lead to a chain of ours, all chains are needed.
    #[must_use]
    pub fn missing(&self) -> Missing {
        let (rules, missing_sets) = self.translated();
        let bases = self.bases().map(|chain| &*chain.name);
        let reachable = rules.reachable(bases).into_iter().filter(|name| !is_our_chain(name));
        let mut chains: BTreeSet<String> = reachable.map(str::to_owned).collect();
        chains.extend(self.ours().map(|chain| chain.name.clone()));
        chains.retain(|name| !self.rules.contains_key(name));
        if chains.is_empty() && missing_sets.is_empty() {
            let strays = self.ours().any(|chain| self.outer_references(chain) > self.found(chain));
            let unread = self.chains.iter().filter(|chain| !self.rules.contains_key(&chain.name));
            chains.extend(unread.filter(|_| strays).map(|chain| chain.name.clone()));
        }
        Missing { chains, sets: missing_sets }
    }

    /// Returns the foreign forward chains of this table, or one that stands for our objects if there is none.
    #[must_use]
    pub fn states(&self, uplinks: &BTreeSet<InterfaceName>) -> Vec<ForeignChainState> {
        let Some(family) = self.family() else { return vec![] };
        let (rules, _) = self.translated();
        let all = self.places(&rules, uplinks);
        let touched = self.is_touched();
        let (as_it_should_be, owned) = (self.is_open(&all), self.table.is_owned());
        let state = |chain: &str, drops, parts| ForeignChainState {
            foreign_chain: ForeignChain::Nftables {
                family,
                table: self.table.name.name.clone(),
                chain: chain.to_owned(),
            },
            drops,
            // Our objects belong to the table as a whole: their state is reported for the chains that need a passage,
            // or for all if none does.
            open: as_it_should_be || !drops && !all.is_empty(),
            touched,
            owned,
            parts,
        };
        let parts = || {
            let bases = self.bases().map(|chain| &*chain.name);
            let reached = rules.reachable(bases).into_iter().map(str::to_owned);
            reached.chain(self.sets.keys().cloned()).collect::<BTreeSet<_>>()
        };
        let bases = self.bases().map(|chain| {
            let drops = !passage::places(&rules, &chain.name, uplinks).is_empty();
            state(&chain.name, drops, parts())
        });
        let mut states: Vec<_> = bases.collect();
        if let (true, Some(chain)) = (states.is_empty(), self.ours().next()) {
            states.push(state(&chain.name, false, BTreeSet::new()));
        }
        states
    }

    /// Returns the foreign forward chains of this table if it has objects of ours, or one that stands for these if there is
    /// none. It needs no rules.
    #[must_use]
    pub fn touched(&self) -> Vec<ForeignChain> {
        let Some((family, first)) = self.family().zip(self.ours().next()) else { return vec![] };
        let named = |chain: &Chain| ForeignChain::Nftables {
            family,
            table: self.table.name.name.clone(),
            chain: chain.name.clone(),
        };
        let bases: Vec<_> = self.bases().map(named).collect();
        if bases.is_empty() { vec![named(first)] } else { bases }
    }

    /// Opens the passages that are needed, moves those that stand elsewhere, and removes our other objects.
    #[must_use]
    pub fn open(&self, uplinks: &BTreeSet<InterfaceName>) -> Vec<Operation> {
        let (rules, _) = self.translated();
        let places = self.places(&rules, uplinks);
        if places.is_empty() {
            return self.close();
        }
        let mut operations = Vec::new();
        if !self.passage_is_complete() {
            match self.rules.get(PASSAGE_CHAIN) {
                None => operations.push(self.passage_chain().add()),
                Some(_) => operations.push(self.table.name.delete_rules(PASSAGE_CHAIN, None)),
            }
            operations.extend(self.passage_rules().iter().map(Rule::append));
        }
        for (name, found) in self.rules.iter().filter(|(name, _)| !is_our_chain(name)) {
            let wanted = self.jumps(name, &places);
            if !stand(found, &wanted) {
                operations.extend(self.delete_jumps(name, found));
                let others: Vec<_> = found.iter().filter(|rule| !is_ours(rule)).collect();
                for (index, jump) in wanted {
                    operations.push(match others.get(index) {
                        Some(before) => jump.insert_before(before.handle),
                        None => jump.append(),
                    });
                }
            }
        }
        operations.extend(self.delete_chains(|name| name != PASSAGE_CHAIN));
        operations
    }

    /// Removes all our objects.
    #[must_use]
    pub fn close(&self) -> Vec<Operation> {
        let others = self.rules.iter().filter(|(name, _)| !is_our_chain(name));
        let jumps = others.flat_map(|(name, rules)| self.delete_jumps(name, rules));
        jumps.chain(self.delete_chains(|_| true)).collect()
    }

    fn family(&self) -> Option<ForeignFamily> {
        match self.table.name.family {
            NetfilterProtoFamily::IPv4 => Some(ForeignFamily::Ip),
            NetfilterProtoFamily::Inet => Some(ForeignFamily::Inet),
            _ => None,
        }
    }

    fn bases(&self) -> impl Iterator<Item = &Chain> {
        self.chains.iter().filter(|chain| (self.is_base)(chain))
    }

    fn ours(&self) -> impl Iterator<Item = &Chain> {
        self.chains.iter().filter(|chain| is_our_chain(&chain.name))
    }

    fn is_touched(&self) -> bool {
        self.ours().next().is_some() || self.rules.values().flatten().any(is_ours)
    }

    /// Returns the foreign rules that were read, and the sets that they also need.
    fn translated(&self) -> (Rules, BTreeSet<String>) {
        self.translated_as(self.asks_ports)
    }

    fn translated_as(&self, asks_ports: bool) -> (Rules, BTreeSet<String>) {
        let mut sets = Sets { found: &self.sets, missing: BTreeSet::new(), asks_ports };
        let mut rules = Rules::default();
        for chain in self.chains.iter().filter(|chain| !is_our_chain(&chain.name)) {
            let Some(found) = self.rules.get(&chain.name) else { continue };
            let others = found.iter().filter(|rule| !is_ours(rule));
            let others = others.map(|rule| foreign_rule::translate(rule, &mut sets)).collect();
            let hook = chain
                .base
                .as_ref()
                .map(|_| Hook { forward: filters_forwarded(chain), drops: drops_by_policy(chain) });
            let references = Some(self.outer_references(chain));
            let chain_of = passage::Chain { hook, rules: others, references };
            rules.chains.insert(chain.name.clone(), chain_of);
        }
        (rules, sets.missing)
    }

    /// Returns how many rules and elements of maps lead to a chain; the kernel counts its rules as well.
    fn outer_references(&self, chain: &Chain) -> usize {
        let own = self.rules.get(&chain.name).map_or(0, Vec::len);
        usize::try_from(chain.references).unwrap_or(usize::MAX).saturating_sub(own)
    }

    /// Returns how many of the rules that were read lead to a chain.
    fn found(&self, chain: &Chain) -> usize {
        let all = self.rules.values().flatten();
        all.filter(|rule| rule.target() == Some(&*chain.name)).count()
    }

    fn places(&self, rules: &Rules, uplinks: &BTreeSet<InterfaceName>) -> Places {
        let mut places = Places::new();
        for base in self.bases() {
            for (place, sides) in passage::places(rules, &base.name, uplinks) {
                let entry = places.entry(place).or_default();
                *entry = entry.or(sides);
            }
        }
        places
    }

    /// Reports whether our objects are as they should be with passages at these positions.
    fn is_open(&self, places: &Places) -> bool {
        let stands = |(name, found): (&String, &Vec<Rule>)| {
            is_our_chain(name) || stand(found, &self.jumps(name, places))
        };
        let chain = if places.is_empty() {
            self.ours().next().is_none()
        } else {
            self.passage_is_complete() && self.ours().count() == 1
        };
        chain && self.rules.iter().all(stands)
    }

    /// Returns the jumps that belong into a chain, each with the number of rules of others before it.
    fn jumps(&self, chain: &str, places: &Places) -> Vec<(usize, Rule)> {
        let here = places.iter().filter(|(place, _)| place.chain == chain);
        here.map(|(Place { index, .. }, sides)| (*index, self.jump(chain, *sides))).collect()
    }

    fn jump(&self, chain: &str, sides: Sides) -> Rule {
        let interface = match sides {
            Sides { from: true, to: true } => vec![],
            Sides { from: true, .. } => from_guest(),
            Sides { .. } => to_guest(),
        };
        let parts = [interface, counter(), jump(PASSAGE_CHAIN)];
        Rule::new(&self.table.name, chain, Vec::new(), &parts)
    }

    fn delete_jumps(&self, chain: &str, rules: &[Rule]) -> Vec<Operation> {
        let jumps = rules.iter().filter(|rule| is_ours(rule));
        jumps.map(|rule| self.table.name.delete_rules(chain, Some(rule.handle))).collect()
    }

    fn delete_chains(&self, which: impl Fn(&str) -> bool) -> Vec<Operation> {
        let chains: Vec<_> = self.ours().filter(|chain| which(&chain.name)).collect();
        let table = &self.table.name;
        // Our own chains may lead to each other.
        let rules = chains.iter().map(|chain| table.delete_rules(&chain.name, None));
        let chains = chains.iter().map(|chain| table.delete_chain(&chain.name, 0));
        rules.chain(chains).collect()
    }

    fn passage_is_complete(&self) -> bool {
        self.rules.get(PASSAGE_CHAIN).is_some_and(|found| {
            let wanted = self.passage_rules();
            found.len() == wanted.len() && found.iter().zip(&wanted).all(|(f, w)| f.means(w))
        })
    }

    fn passage_chain(&self) -> Chain {
        let table = self.table.name.clone();
        Chain { table, name: PASSAGE_CHAIN.to_owned(), base: None, references: 0 }
    }

    fn passage_rules(&self) -> [Rule; 2] {
        [from_guest(), to_guest()].map(|interface| {
            let parts = [interface, counter(), accept()];
            Rule::new(&self.table.name, PASSAGE_CHAIN, Vec::new(), &parts)
        })
    }
}

fn is_ours(rule: &Rule) -> bool {
    rule.target().is_some_and(is_our_chain)
}

/// Reports whether the rules contain exactly these jumps of ours.
fn stand(found: &[Rule], wanted: &[(usize, Rule)]) -> bool {
    let mut others = 0;
    let mut wanted = wanted.iter();
    for rule in found {
        if !is_ours(rule) {
            others += 1;
        } else if !wanted.next().is_some_and(|(index, jump)| *index == others && rule.means(jump)) {
            return false;
        }
    }
    wanted.next().is_none()
}

//! The contents of each table.

use std::collections::BTreeSet;

use super::{Rule, Saved, Table, foreign_rule, refused};
use crate::{
    address::Ipv6Unsupported,
    firewall::{
        BaseRuleset, Confinement, Entry, EntryError, EntryTable, Ruleset,
        names::{
            CHAIN, PASSAGE_CHAIN,
            iptables::{
                self as names, CONFINE_CHAIN, FORWARD_CHAIN, HAIRPIN_CHAIN, INPUT_CHAIN,
                JUMP_COMMENT, LAST_CHAIN, MARK_CHAIN, POLICY_CHAIN, POSTROUTING_CHAIN,
                PREROUTING_CHAIN, RAW_CHAIN, REFUSED_BROADCAST, REFUSED_EGRESS, REFUSED_FLOWS,
                REFUSED_GUEST, REFUSED_HOST, REFUSED_INVALID, REFUSED_LOOPBACK, REFUSED_MAIL,
                REFUSED_MULTICAST, REFUSED_RATE, REFUSED_SPOOFED,
            },
        },
        passage::{self, Place, Places, Sides},
        ruleset::{MAIL, NAME_SERVERS, SPECIAL_RANGES},
    },
    model::Family,
    model::{Egress, FlowLimit, InterfaceName, Mark, Owner, PortRange, Protocol, Slot},
    routing::UplinkMarks,
};

/// The contents of one table, as far as they are ours.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) table: Table,
    /// Our chains.
    pub(super) chains: Vec<&'static str>,
    /// The rules of our chains; those of one chain are in order.
    pub(super) rules: Vec<Rule>,
    /// The rules that jump from built-in chains to ours: the first rules of each, in order.
    pub(super) jumps: Vec<Rule>,
    /// The jumps to the passage, each with the number of rules of others before it.
    pub(super) passages: Vec<(usize, Rule)>,
}

impl Layout {
    pub(super) const fn empty(table: Table) -> Self {
        Self { table, chains: vec![], rules: vec![], jumps: vec![], passages: vec![] }
    }

    /// Adds passages at these places, and the chain that they lead to.
    pub(super) fn add_passages(&mut self, places: &Places, owner: Option<&Owner>) {
        if !places.is_empty() {
            self.chains.push(PASSAGE_CHAIN);
            self.rules.extend(passage_rules());
            self.passages = passages(places, owner);
        }
    }

    pub(super) fn rules_of<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.chain == chain)
    }

    /// Returns the jumps in this chain, in order, each with the number of rules of others before it.
    pub(super) fn placed_jumps(&self, chain: &str) -> Vec<(usize, &Rule)> {
        let first = self.jumps.iter().map(|jump| (0, jump));
        let passages = self.passages.iter().map(|(index, jump)| (*index, jump));
        first.chain(passages).filter(|(_, jump)| jump.chain == chain).collect()
    }

    /// Returns the chains of others that have a jump to ours.
    pub(super) fn jumping(&self) -> impl Iterator<Item = &str> {
        let jumps = self.jumps.iter().chain(self.passages.iter().map(|(_, jump)| jump));
        jumps.map(|jump| &*jump.chain)
    }
}

/// The match of the packets that begin a TCP connection.
const SYN: &str = "-p tcp -m tcp --tcp-flags SYN,RST SYN";

pub(super) fn rule(chain: &str, body: impl Into<String>) -> Rule {
    Rule { chain: chain.to_owned(), body: body.into() }
}

/// Returns the pattern of all our interfaces.
fn ours() -> String {
    format!("{}+", Slot::PREFIX)
}

/// Reports whether this chain holds entries.
pub(super) fn holds_entries(chain: &str) -> bool {
    [CHAIN, HAIRPIN_CHAIN, POLICY_CHAIN].contains(&chain)
}

/// Returns the rules that jump to our chains of this table. Each bears the mark of its owner as a comment.
pub(super) fn jumps(table: Table, owner: Option<&Owner>) -> Vec<Rule> {
    let mark = marked(owner);
    // The kernel drops packets that arrive for 127.0.0.0/8 as martian, but only after this rule, which would translate
    // them. The host's own packets are translated for 127.0.0.1 only: other addresses there are those of local services.
    let local = format!("! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL {mark}-j {CHAIN}");
    let loopback = format!("-d 127.0.0.1/32 {mark}-j {CHAIN}");
    match table {
        Table::Filter | Table::Security => vec![],
        Table::Raw => vec![rule(names::PREROUTING, format!("! -i lo {mark}-j {RAW_CHAIN}"))],
        Table::Mangle => vec![
            rule(names::INPUT, format!("-i {} {mark}-j {INPUT_CHAIN}", ours())),
            rule(names::FORWARD, format!("{mark}-j {FORWARD_CHAIN}")),
            rule(names::POSTROUTING, format!("{mark}-j {LAST_CHAIN}")),
            rule(names::PREROUTING, format!("-i {} {mark}-j {PREROUTING_CHAIN}", ours())),
            rule(names::PREROUTING, format!("-i {} {mark}-j {MARK_CHAIN}", ours())),
        ],
        Table::Nat => vec![
            rule(names::PREROUTING, &*local),
            rule(names::OUTPUT, loopback),
            rule(names::OUTPUT, &*local),
            rule(names::POSTROUTING, format!("{mark}-j {POSTROUTING_CHAIN}")),
        ],
    }
}

/// Returns the match that names the owner.
fn marked(owner: Option<&Owner>) -> String {
    let mark = owner.map(|owner| format!("-m comment --comment \"{JUMP_COMMENT}{owner}\" "));
    mark.unwrap_or_default()
}

/// Returns the mark on a jump of ours.
pub(super) fn mark(jump: &Rule) -> Mark {
    let comment = jump.body.split_once(&format!("--comment \"{JUMP_COMMENT}"));
    let owner = comment.and_then(|(_, rest)| rest.split_once('"')?.0.parse::<Owner>().ok());
    owner.map_or(Mark::Unsigned, |owner| owner.mark())
}

/// Returns the layout of the whole ruleset, in the order of [`Table`].
pub(super) fn of_ruleset(ruleset: &Ruleset) -> Result<[Layout; 3], EntryError> {
    let mut layouts = of_base_ruleset(&ruleset.base_ruleset);
    for layout in &mut layouts {
        let entries = ruleset.entries.iter().filter(|entry| stands_in(entry, layout.table));
        let rules: Result<Vec<_>, _> = entries.map(of_entry).collect();
        layout.rules.extend(rules?);
    }
    Ok(layouts)
}

/// Reports whether this table has the rule of this entry.
pub(super) fn stands_in(entry: &Entry, table: Table) -> bool {
    match entry.table() {
        EntryTable::Policies => false,
        EntryTable::Mangle => table == Table::Mangle,
        EntryTable::Nat => table == Table::Nat,
    }
}

/// Returns the layout of the base ruleset, in the order of [`Table`].
pub(super) fn of_base_ruleset(base_ruleset: &BaseRuleset) -> [Layout; 3] {
    [mangle(base_ruleset), raw(base_ruleset), nat(base_ruleset)]
}

/// Returns the layout of the table mangle. Answers are marked for their uplinks only if some are routed by that.
fn mangle(base_ruleset: &BaseRuleset) -> Layout {
    let mut chains = vec![FORWARD_CHAIN, LAST_CHAIN, PREROUTING_CHAIN, INPUT_CHAIN, POLICY_CHAIN];
    let mut rules = forward(base_ruleset);
    rules.extend(last());
    rules.extend(arriving(PREROUTING_CHAIN, base_ruleset));
    rules.extend(tracked(base_ruleset));
    chains.extend(refused::chains(Table::Mangle));
    rules.extend(refused::rules(Table::Mangle));
    let BaseRuleset { egress, confined, marks, owner, .. } = base_ruleset;
    if !confined.is_empty() {
        chains.push(CONFINE_CHAIN);
        rules.extend(confinement(confined));
    }
    let mut jumps = jumps(Table::Mangle, owner.as_ref());
    rules.extend(to_the_host(*egress, marks));
    if marks.is_empty() {
        jumps.retain(|jump| !jump.body.ends_with(MARK_CHAIN));
    } else {
        chains.push(MARK_CHAIN);
        let bits = marks.bits();
        rules.extend(marks.marks().map(|(_, mark)| {
            let (given, set) = (format!("{mark:#x}/{bits:#x}"), "-j MARK --set-xmark");
            rule(MARK_CHAIN, format!("-m connmark --mark {given} {set} {given}"))
        }));
    }
    Layout { table: Table::Mangle, chains, rules, jumps, passages: vec![] }
}

/// Returns the rules of the chain that refuses. They stand in the table mangle: whatever other programs accept in the
/// table filter, before or after us, has passed them.
fn forward(
    BaseRuleset { pool, uplinks, any_uplink, egress, confined, marks, .. }: &BaseRuleset,
) -> Vec<Rule> {
    let (ours, pool) = (ours(), pool.v4());
    // An allowed packet returns to the rules of others: only a passage accepts.
    let established = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN";
    // Segments are clamped before any packet is accepted: see the rules of nftables.
    let clamp = format!("{SYN} -j TCPMSS --clamp-mss-to-pmtu");
    let (bits, asked_host) = (marks.bits(), marks.asked());
    let asked = marks.marks().map(|(uplink, mark)| {
        let translated = format!("-i {uplink} -o {ours} -m conntrack --ctstate DNAT");
        format!("{translated} -j CONNMARK --set-xmark {mark:#x}/{bits:#x}")
    });
    let mut bodies: Vec<_> = asked.collect();
    bodies.extend([
        format!("-i {ours} {clamp}"),
        format!("-o {ours} {clamp}"),
        format!("-i {ours} {established}"),
        format!("-o {ours} {established}"),
        format!("-o {ours} -m conntrack --ctstate DNAT -j RETURN"),
        // A packet that others translate, such as one for a container's port, is for a port that they publish on the
        // host.
        format!(
            "-s {pool} -i {ours} -m mark --mark {asked_host:#x}/{asked_host:#x} \
             -m conntrack --ctstate DNAT -j RETURN"
        ),
    ]);
    let to_uplinks = |to: &str| -> Vec<_> {
        let body = |uplink| format!("-s {pool} -i {ours} -o {uplink} {to}-j RETURN");
        uplinks.iter().map(body).collect()
    };
    // Routing refuses it as well, and it was told of before.
    bodies.push(format!("-i {ours} -o {ours} -j DROP"));
    bodies.extend(judged(marks).map(|body| format!("-i {ours} {body}")));
    let special = SPECIAL_RANGES.map(|range| format!("-d {range} -i {ours} -j {REFUSED_EGRESS}"));
    let public = any_uplink.then(|| format!("-s {pool} -i {ours} ! -o {ours} -j RETURN"));
    match egress {
        Egress::All => {
            bodies.extend(to_uplinks(""));
            if let Some(public) = public {
                bodies.extend(special);
                bodies.push(public);
            }
        }
        Egress::Internet => {
            bodies.extend(NAME_SERVERS.iter().flat_map(|server| to_uplinks(&to_port(*server))));
            bodies.push(format!("-i {ours} {}-j {REFUSED_MAIL}", to_port(MAIL)));
            bodies.extend(special);
            bodies.extend(to_uplinks(""));
            bodies.extend(public);
        }
        Egress::None => {}
    }
    bodies.push(format!("-i {ours} -j {REFUSED_EGRESS}"));
    bodies.push(format!("-o {ours} -j DROP"));
    let from = confined.from().iter().filter(|name| is_nameable(name));
    bodies.extend(from.map(|from| format!("-i {from} -j {CONFINE_CHAIN}")));
    bodies.into_iter().map(|body| rule(FORWARD_CHAIN, body)).collect()
}

/// Returns the rules that let pass what the table of policies allows, and drop the rest of guests with policies: where that
/// table stands, nothing of theirs that it refuses comes here.
fn judged(marks: &UplinkMarks) -> [String; 2] {
    let allowed = marks.allowed();
    [format!("-m mark --mark {allowed:#x}/{allowed:#x} -j RETURN"), format!("-j {POLICY_CHAIN}")]
}

/// Returns the match of packets to this port.
fn to_port((protocol, port): (Protocol, u16)) -> String {
    format!("-p {protocol} -m {protocol} --dport {port} ")
}

/// Returns the rules for packets of guests to the host itself. What returns is judged by others. The host itself refuses
/// what nobody listens for: `REJECT` does not exist in this table.
fn to_the_host(egress: Egress, marks: &UplinkMarks) -> impl Iterator<Item = Rule> {
    let servers = (egress == Egress::Internet).then_some(NAME_SERVERS).into_iter().flatten();
    let bodies = [
        "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN".to_owned(),
        "-m conntrack --ctstate DNAT -j RETURN".to_owned(),
    ];
    let bodies = bodies.into_iter().chain(judged(marks));
    let echo = "-p icmp -m icmp --icmp-type 8 -j RETURN".to_owned();
    let servers = servers.map(|server| format!("{}-j RETURN", to_port(server)));
    let listened =
        ["tcp", "udp"].map(|by| format!("-p {by} -m socket --nowildcard -j {REFUSED_HOST}"));
    let others = ["tcp", "udp"].map(|by| format!("-p {by} -j RETURN"));
    let refused = listened.into_iter().chain(others).chain([format!("-j {REFUSED_HOST}")]);
    let rest = [echo].into_iter().chain(servers).chain(refused);
    let bodies = bodies.chain(rest.filter(move |_| egress != Egress::All));
    bodies.map(|body| rule(INPUT_CHAIN, body))
}

/// Returns the rules for leaving packets. Those that were forwarded are judged once more, as in FORWARD; the host's own
/// packets to guests are not. Before Linux 5.7, a leaving packet has no interface that it came in by: then only packets to
/// guests are judged.
fn last() -> [Rule; 2] {
    let ours = ours();
    [format!("-i {ours}"), format!("-o {ours} -m addrtype ! --src-type LOCAL")]
        .map(|packets| rule(LAST_CHAIN, format!("{packets} -j {FORWARD_CHAIN}")))
}

/// Returns the rules that drop packets of others that only our forwarding makes possible.
fn confinement(confined: &Confinement) -> impl Iterator<Item = Rule> {
    let to = confined.to().iter().filter(|name| is_nameable(name));
    to.map(|to| {
        let but = if confined.exempts(to) { format!("! -i {to} ") } else { String::new() };
        rule(CONFINE_CHAIN, format!("{but}-o {to} -j DROP"))
    })
}

/// Reports whether iptables can name the interface. It reads a `+` at the end as a wildcard, and `!`, quotes
/// and backslashes in its own way.
pub(super) fn is_nameable(name: &InterfaceName) -> bool {
    !name.as_str().ends_with('+') && !name.as_str().contains(['!', '"', '\'', '\\'])
}

/// Returns the rules for packets that arrive from guests. Packets with addresses of other guests are left to the guard of
/// the TAP and to `rp_filter`: here each guest would need a rule.
fn arriving(chain: &str, base_ruleset: &BaseRuleset) -> [Rule; 6] {
    let segments = format!("{SYN} -j TCPMSS --set-mss {}", base_ruleset.segment_size(Family::V4));
    let bit = base_ruleset.marks.asked();
    let asked = format!("-m addrtype --dst-type LOCAL -j MARK --set-xmark {bit:#x}/{bit:#x}");
    let bodies = [
        format!("! -s {} -j {REFUSED_SPOOFED}", base_ruleset.pool.v4()),
        format!("-d 127.0.0.0/8 -j {REFUSED_LOOPBACK}"),
        format!("-d 224.0.0.0/3 -j {REFUSED_MULTICAST}"),
        format!("-m addrtype --dst-type BROADCAST -j {REFUSED_BROADCAST}"),
        asked,
        segments,
    ];
    bodies.map(|body| rule(chain, body))
}

/// Returns the rules for packets of guests whose connections are known.
fn tracked(BaseRuleset { pool, marks, flows, .. }: &BaseRuleset) -> Vec<Rule> {
    let (pool, bit) = (pool.v4(), marks.asked());
    // Others (wg-quick, say) replace a packet's mark by its connection's in this chain, after us.
    let asked = format!("-m addrtype --dst-type LOCAL -j CONNMARK --set-xmark {bit:#x}/{bit:#x}");
    // A routing rule of ours refuses what goes from one guest to another without the mark.
    let translated =
        format!("-d {pool} -m conntrack --ctstate DNAT -j MARK --set-xmark {bit:#x}/{bit:#x}");
    let limits = flow_limits(*flows);
    let invalid = format!("-m conntrack --ctstate INVALID -j {REFUSED_INVALID}");
    let untranslated = "-m conntrack ! --ctstate DNAT -m addrtype ! --dst-type LOCAL";
    let told = format!("-d {pool} {untranslated} -j {REFUSED_GUEST}");
    let bodies = [invalid].into_iter().chain(limits).chain([asked, translated, told]);
    bodies.map(|body| rule(PREROUTING_CHAIN, body)).collect()
}

/// Returns the rules that limit the flows of each guest, in the order of those of nftables. Only a packet that begins a flow
/// has one that is not confirmed; one that nobody tracks has none. The kernel keeps rates by name, whatever rule asks for
/// them, so the name has the numbers.
fn flow_limits(limit: FlowLimit) -> impl Iterator<Item = String> {
    /// A time after which each guest may begin a full burst of flows again, in milliseconds.
    const REFILLED: u32 = 60_000;
    let numbers = limit.number().zip(limit.each_second()).into_iter();
    let matches = numbers.flat_map(|(most, rate)| {
        let by_rate = format!("--hashlimit-above {rate}/sec --hashlimit-burst {most}");
        let by_source = format!("--hashlimit-mode srcip --hashlimit-name riklet-{rate}-{most}");
        let many = format!("--connlimit-above {most} --connlimit-mask 32 --connlimit-saddr");
        [
            format!(
                "hashlimit {by_rate} {by_source} --hashlimit-htable-expire {REFILLED} -j {REFUSED_RATE}"
            ),
            format!("connlimit {many} -j {REFUSED_FLOWS}"),
        ]
    });
    matches.map(|limit| format!("-m conntrack ! --ctstatus CONFIRMED -m {limit}"))
}

/// Returns the layout of the table raw. Packets of others come there as well, those of the host to itself aside: they may
/// have the address of a gateway.
fn raw(base_ruleset: &BaseRuleset) -> Layout {
    let (ours, pool) = (ours(), base_ruleset.pool.v4());
    let elsewhere = [format!("-s {pool} ! -i {ours} -j DROP"), format!("! -i {ours} -j RETURN")];
    let elsewhere = elsewhere.into_iter().map(|body| rule(RAW_CHAIN, body));
    let arriving = arriving(RAW_CHAIN, base_ruleset);
    Layout {
        table: Table::Raw,
        chains: [RAW_CHAIN].into_iter().chain(refused::chains(Table::Raw)).collect(),
        rules: elsewhere.chain(arriving).chain(refused::rules(Table::Raw)).collect(),
        jumps: jumps(Table::Raw, base_ruleset.owner.as_ref()),
        passages: vec![],
    }
}

fn nat(BaseRuleset { pool, owner, .. }: &BaseRuleset) -> Layout {
    let (ours, pool) = (ours(), pool.v4());
    let bodies = [
        format!("-s {pool} ! -o {ours} -j MASQUERADE"),
        format!("-s 127.0.0.0/8 -o {ours} -j MASQUERADE"),
        format!("-j {HAIRPIN_CHAIN}"),
    ];
    Layout {
        table: Table::Nat,
        chains: vec![CHAIN, POSTROUTING_CHAIN, HAIRPIN_CHAIN],
        rules: bodies.into_iter().map(|body| rule(POSTROUTING_CHAIN, body)).collect(),
        jumps: jumps(Table::Nat, owner.as_ref()),
        passages: vec![],
    }
}

/// Returns the layout of our passages through a table that is not ours; empty if there are none.
pub(super) fn of_passages(table: Table, places: &Places) -> Layout {
    let mut layout = Layout::empty(table);
    layout.add_passages(places, None);
    layout
}

/// Returns the rules of a passage. It accepts everything from and to guests; our own chains decide which of these
/// packets may pass.
fn passage_rules() -> [Rule; 2] {
    ["-i", "-o"].map(|end| rule(PASSAGE_CHAIN, format!("{end} {} -j ACCEPT", ours())))
}

/// Returns the jumps to passages at these places.
fn passages(places: &Places, owner: Option<&Owner>) -> Vec<(usize, Rule)> {
    let jump = |(Place { chain, index }, sides): (&Place, &Sides)| {
        let interface = match sides {
            Sides { from: true, to: true } => String::new(),
            Sides { from: true, .. } => format!("-i {} ", ours()),
            Sides { .. } => format!("-o {} ", ours()),
        };
        (*index, rule(chain, format!("{interface}{}-j {PASSAGE_CHAIN}", marked(owner))))
    };
    places.iter().map(jump).collect()
}

/// Returns the places of passages for the chain FORWARD of a table.
pub(super) fn places(saved: &Saved, table: Table, uplinks: &BTreeSet<InterfaceName>) -> Places {
    passage::places(&foreign_rule::of_table(saved, table), names::FORWARD, uplinks)
}

/// Returns the rule of an entry. Fails if it has an IPv6 address or is what a policy says: neither has a place in these tables.
pub(super) fn of_entry(entry: &Entry) -> Result<Rule, EntryError> {
    Ok(match *entry {
        Entry::Exposure { protocol, host_address, host_ports, guest, guest_ports } => {
            let guest = Ipv6Unsupported::refuse(guest)?;
            let address = host_address.map(Ipv6Unsupported::refuse).transpose()?;
            let bound = address.map(|address| format!("-d {address}/32 ")).unwrap_or_default();
            let target = target(host_ports, guest_ports);
            let ports = written(host_ports, ':');
            rule(
                CHAIN,
                format!(
                    "{bound}-p {protocol} -m {protocol} --dport {ports} \
                     -j DNAT --to-destination {guest}{target}"
                ),
            )
        }
        Entry::Policy { .. }
        | Entry::Reach { .. }
        | Entry::Via { .. }
        | Entry::Names { .. }
        | Entry::Pinned { .. } => {
            return Err(EntryError::Policy);
        }
        Entry::Judged { guest } => {
            let guest = Ipv6Unsupported::refuse(guest)?;
            rule(POLICY_CHAIN, format!("-s {guest}/32 -j DROP"))
        }
        Entry::Hairpin { guest } => {
            let guest = Ipv6Unsupported::refuse(guest)?;
            rule(HAIRPIN_CHAIN, format!("-s {guest}/32 -d {guest}/32 -j MASQUERADE"))
        }
    })
}

/// Returns the ports that a rule translates to, after the address. A range to the same ports has none: the port stays.
/// A range to other ports names the port of the host that leads to the first (iptables-extensions(8), DNAT).
fn target(host_ports: PortRange, guest_ports: PortRange) -> String {
    let ports = written(guest_ports, '-');
    match (host_ports.is_single(), host_ports == guest_ports) {
        (true, _) => format!(":{ports}"),
        (false, true) => String::new(),
        (false, false) => format!(":{ports}/{}", host_ports.first()),
    }
}

/// Returns a port, or a range with this sign between its ends.
fn written(ports: PortRange, sign: char) -> String {
    if ports.is_single() {
        ports.to_string()
    } else {
        format!("{}{sign}{}", ports.first(), ports.last())
    }
}

/// Returns the ports of a text that [`written`] made.
fn read(text: &str, sign: char) -> Option<PortRange> {
    let (first, last) = text.split_once(sign).unwrap_or((text, text));
    PortRange::between(first.parse().ok()?, last.parse().ok()?)
}

/// Returns the entry of a rule, or `None` if it is not exactly as [`of_entry`] writes it.
pub(super) fn entry_of(rule: &Rule) -> Option<Entry> {
    let words: Vec<&str> = rule.body.split(' ').collect();
    let entry = match *words {
        ["-s", guest, "-j", "DROP"] => {
            Entry::Judged { guest: guest.strip_suffix("/32")?.parse().ok()? }
        }
        ["-s", guest, "-d", _, "-j", "MASQUERADE"] => {
            Entry::Hairpin { guest: guest.strip_suffix("/32")?.parse().ok()? }
        }
        [ref bound @ .., "-p", protocol, "-m", _, "--dport", ports, "-j", "DNAT", _, to] => {
            let host_address = match *bound {
                [] => None,
                ["-d", address] => Some(address.strip_suffix("/32")?.parse().ok()?),
                _ => return None,
            };
            let host_ports = read(ports, ':')?;
            let (guest, guest_ports) = match to.split_once(':') {
                None => (to, host_ports),
                Some((guest, ports)) => {
                    (guest, read(ports.split_once('/').map_or(ports, |(ports, _)| ports), '-')?)
                }
            };
            Entry::Exposure {
                protocol: Protocol::from_name(protocol)?,
                host_address,
                host_ports,
                guest: guest.parse().ok()?,
                guest_ports,
            }
        }
        _ => return None,
    };
    of_entry(&entry).is_ok_and(|written| written == *rule).then_some(entry)
}

//! Foreign forward chains, and the tables of iptables-nft.

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage,
    nftables::{
        ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage,
        TableAttribute, TableFlags, TableMessage,
    },
};

use super::*;
use riklet_core::{
    firewall::nftables::{Operation, TableName, foreign_chain},
    model::InterfaceName,
};

fn uplinks() -> BTreeSet<InterfaceName> {
    [InterfaceName::try_from("eth0").unwrap()].into()
}

/// Returns the foreign chains that drop our traffic or have rules of ours: `chain`, `open` and `touched`.
fn foreign_chains(kernel: &mut Nftables) -> Vec<(String, bool, bool)> {
    let states = kernel.connection().unwrap().foreign_chains(false, &uplinks()).unwrap();
    let states = states.into_iter().filter(|state| state.drops || state.touched || !state.open);
    states.map(|state| (state.foreign_chain.to_string(), state.open, state.touched)).collect()
}

fn set(
    kernel: &mut Nftables,
    family: ForeignFamily,
    table: &str,
    open: bool,
) -> Result<(), Refusal> {
    let uplinks = uplinks();
    kernel.connection().unwrap().set_passage(family, table, open.then_some(&uplinks))
}

#[test]
fn a_drop_behind_many_chains_is_found() {
    in_namespace(|| {
        nft(
            "add table inet theirs; add chain inet theirs unused; add rule inet theirs unused drop",
        );
        nft("add chain inet theirs forward { type filter hook forward priority 0; }");
        for number in 0..40 {
            nft(&format!(
                "add chain inet theirs c{number}; add rule inet theirs c{number} ip saddr 192.0.2.1 drop; \
                 add rule inet theirs forward jump c{number}"
            ));
        }
        assert_eq!(foreign_chains(&mut Nftables::default()), []);
        nft("add rule inet theirs c39 drop");
        let forward = vec![("inet theirs forward".to_owned(), false, false)];
        assert_eq!(foreign_chains(&mut Nftables::default()), forward);
    });
}

#[test]
fn a_passage_through_iptables_is_opened_repaired_and_closed() {
    in_namespace(|| {
        for rule in
            ["-P FORWARD DROP", "-A FORWARD -i eth7 -j ACCEPT", "-N DOCKER", "-A FORWARD -j DOCKER"]
        {
            iptables(rule);
        }
        let before = (iptables_save(), listing());
        let mut kernel = Nftables::default();
        let forward = |open, touched| vec![("ip filter FORWARD".to_owned(), open, touched)];
        let mut set = |open| set(&mut kernel, ForeignFamily::Ip, "filter", open).unwrap();
        let foreign_chains = || foreign_chains(&mut Nftables::default());
        assert_eq!(foreign_chains(), forward(false, false));
        // The backend iptables-nft has tables of its own, but not this one.
        iptables("-t mangle -P FORWARD DROP");
        let mut fresh = Nftables::default();
        let mut count = |iptables_nft_is_ours| {
            let connection = fresh.connection().unwrap();
            connection.foreign_chains(iptables_nft_is_ours, &uplinks()).unwrap().len()
        };
        assert_eq!((count(false), count(true)), (2, 1));
        nft("delete table ip mangle");
        set(false);
        assert_eq!((iptables_save(), listing()), before);

        set(true);
        assert_eq!(foreign_chains(), forward(true, true));
        let open = (iptables_save(), listing());
        let rules = "-A FORWARD -i eth7 -j ACCEPT\n-A FORWARD -j DOCKER\n-A FORWARD -j RIKLET-PASSAGE\n\
                     -A RIKLET-PASSAGE -i rik+ -j ACCEPT\n-A RIKLET-PASSAGE -o rik+ -j ACCEPT\n";
        assert!(open.0.contains(rules), "{}", open.0);
        set(true);
        assert_eq!((iptables_save(), listing()), open);

        for (damage, undo) in [
            ("-D FORWARD -j RIKLET-PASSAGE", ""),
            ("-I FORWARD -j RIKLET-PASSAGE", ""),
            ("-I DOCKER -j RIKLET-PASSAGE", ""),
            ("-A FORWARD -s 203.0.113.9 -j DROP", "-D FORWARD -s 203.0.113.9 -j DROP"),
            ("-I FORWARD -j DROP", "-D FORWARD -j DROP"),
            ("-F RIKLET-PASSAGE", ""),
            ("-D RIKLET-PASSAGE -i rik+ -j ACCEPT", ""),
            ("-I RIKLET-PASSAGE -i rik3 -j DROP", ""),
            ("-N RIKLET-FORWARD", ""),
        ] {
            iptables(damage);
            assert_eq!(foreign_chains(), forward(false, true), "{damage}");
            set(true);
            assert_eq!(foreign_chains(), forward(true, true), "{damage}");
            if !undo.is_empty() {
                iptables(undo);
                set(true);
            }
            assert_eq!(iptables_save(), open.0, "{damage}");
        }
        set(false);
        assert_eq!((iptables_save(), listing()), before);
    });
}

#[test]
fn only_chains_that_drop_our_traffic_get_a_passage() {
    in_namespace(|| {
        nft("table inet foo {
               chain forward { type filter hook forward priority 0; policy drop; tcp dport 22 accept; }
               chain later { type filter hook forward priority 5; policy drop; }
               chain open { type filter hook forward priority 6; policy accept; ip saddr 203.0.113.9 drop; }
               chain input { type filter hook input priority 0; policy drop; }
             }
             table ip6 foo { chain f { type filter hook forward priority 0; policy drop; }; }
             table ip bar { chain f { type filter hook forward priority 0; policy accept; }; }");
        let before = listing();
        let mut kernel = Nftables::default();
        kernel.apply(&Change::Reset(ruleset([]))).unwrap();
        let foo = |open, touched| {
            ["forward", "later"].map(|chain| (format!("inet foo {chain}"), open, touched)).to_vec()
        };
        assert_eq!(foreign_chains(&mut kernel), foo(false, false));
        set(&mut kernel, ForeignFamily::Inet, "foo", true).unwrap();
        // Our objects belong to the table as a whole, whichever chain needs a passage.
        let states = foreign_chains(&mut kernel);
        assert_eq!(states[..2], foo(true, true));
        // If a policy becomes accept, the passage has to be closed.
        nft("add chain inet foo later { policy accept; }");
        assert!(foreign_chains(&mut kernel).iter().any(|(_, open, _)| !open));
        set(&mut kernel, ForeignFamily::Inet, "foo", true).unwrap();
        assert!(!listing().split("chain later").nth(1).unwrap().contains("jump RIKLET-PASSAGE"));
        nft("add chain inet foo later { policy drop; }");
        set(&mut kernel, ForeignFamily::Inet, "foo", false).unwrap();
        kernel.apply(&Change::Remove).unwrap();
        assert_eq!(listing(), before);

        set(&mut kernel, ForeignFamily::Inet, "gone", false).unwrap();
        let refused = set(&mut kernel, ForeignFamily::Inet, "gone", true).unwrap_err();
        assert_eq!(refused.errno, Some(Refusal::ENOENT));
    });
}

/// Loads chains of a table `inet foo`, opens the passages, and returns the rules beside which they stand: the rule after
/// each, as nft(8) prints it.
fn passed(chains: &str) -> Vec<String> {
    nft("table inet foo; delete table inet foo");
    nft(&format!("table inet foo {{ {} }}", chains.replace("; }", "\n}\n")));
    let mut kernel = Nftables::default();
    set(&mut kernel, ForeignFamily::Inet, "foo", true).unwrap();
    assert!(foreign_chains(&mut kernel).iter().all(|(_, open, _)| *open), "{chains}");
    let before = listing();
    set(&mut kernel, ForeignFamily::Inet, "foo", true).unwrap();
    assert_eq!(listing(), before, "{chains}");
    let lines: Vec<_> = before.lines().map(str::trim).collect();
    let (mut found, mut chain) = (Vec::new(), "");
    for (line, next) in lines.iter().zip(&lines[1..]) {
        if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches(" {");
        }
        if line.contains("jump RIKLET-PASSAGE") {
            let side = line.split(" counter").next().unwrap().split(" jump").next().unwrap();
            let side = if side.starts_with("counter") { "" } else { side };
            // nft(8) lists elements in any order.
            let next = next.split_once(" {").map_or_else(
                || (*next).to_owned(),
                |(before, after)| format!("{before}{}", after.rsplit_once('}').unwrap().1),
            );
            found.push(format!("{chain}: {side} > {next}"));
        }
    }
    found
}

#[test]
fn a_passage_stands_directly_before_the_rule_that_drops_our_traffic() {
    const BASE: &str = "chain f { type filter hook forward priority 10; policy accept;";
    in_namespace(|| {
        for (rules, expected) in [
            // These packets are not dropped, or only by specific rules.
            (
                "ct state vmap { established : accept, related : accept, invalid : drop }; }",
                &[][..],
            ),
            ("meta nfproto ipv6 drop; ip6 saddr fd00::/8 drop; }", &[]),
            ("iifname { \"wlan0\", \"br-*\" } drop; iifname \"lan*\" drop; }", &[]),
            ("tcp dport { 25, 465 } drop; ip saddr { 192.0.2.0/24, 203.0.113.9 } drop; }", &[]),
            ("ip saddr . tcp dport { 192.0.2.1 . 25 } drop; limit rate over 5/second drop; }", &[]),
            ("iifname . oifname { \"lan0\" . \"eth0\" } drop; meta mark 7 drop; }", &[]),
            (
                "fib saddr . iif oif missing drop; meta l4proto 41-47 drop; ct count over 9 drop; }",
                &[],
            ),
            // Dropped.
            (
                "ct state established,related accept; ip saddr 203.0.113.9 drop; reject; }",
                &["f:  > reject"],
            ),
            (
                "ct state { established, related } accept; ct status dnat accept; drop; }",
                &["f: iifname \"rik*\" > drop"],
            ),
            (
                "ct state vmap { established : accept, related : accept, new : drop }; }",
                &["f:  > ct state vmap"],
            ),
            (
                "meta l4proto tcp reject with tcp reset; reject; }",
                &["f:  > meta l4proto tcp reject with tcp reset"],
            ),
            (
                "meta l4proto { tcp, udp } counter log prefix \"x\" drop; }",
                &["f:  > meta l4proto counter packets 0 bytes 0 log prefix \"x\" drop"],
            ),
            ("iifname != \"lan0\" drop; }", &["f:  > iifname != \"lan0\" drop"]),
            (
                "meta l4proto != { tcp } iifname != \"lan0\" drop; }",
                &["f:  > meta l4proto != tcp iifname != \"lan0\" drop"],
            ),
            (
                "iifname \"eth*\" drop; ip daddr 192.0.2.1 drop; drop; }",
                &["f: oifname \"rik*\" > iifname \"eth*\" drop", "f: iifname \"rik*\" > drop"],
            ),
            ("iifname { \"eth*\", \"en*\" } drop; }", &["f: oifname \"rik*\" > iifname drop"]),
            (
                "meta mark & 0x1 != 0x1 drop; }",
                &["f:  > meta mark & 0x00000001 != 0x00000001 drop"],
            ),
            ("meta l4proto 6-17 drop; }", &["f:  > meta l4proto 6-17 drop"]),
            (
                "iifname . oifname vmap { \"eth0\" . \"lan0\" : accept, * : drop }; }",
                &["f:  > iifname . oifname vmap"],
            ),
            // Behind jumps, gotos and maps.
            ("jump z; drop; } chain z { ip saddr 203.0.113.9 drop; drop; }", &["z:  > drop"]),
            ("goto z; } chain z { iifname \"lan0\" accept; drop; }", &["z:  > drop"]),
            (
                "iifname vmap { \"eth0\" : jump wan, \"lan0\" : jump lan }; } chain wan { ip saddr 203.0.113.9 drop; drop; } \
              chain lan { drop; }",
                &["wan: oifname \"rik*\" > drop"],
            ),
            // Shared with another hook, or with a ban.
            (
                "jump z; } chain i { type filter hook input priority 0; jump z; } chain z { drop; }",
                &["f:  > jump z"],
            ),
            ("tcp dport 25 jump z; jump z; } chain z { log; drop; }", &["f:  > jump z"]),
            (
                "jump z; } chain i { type filter hook input priority 0; \
              tcp dport vmap { 25 : jump z }; } chain z { drop; }",
                &["f:  > jump z"],
            ),
        ] {
            // Chains are created before the rules that lead to them.
            let names = rules.split("chain ").skip(1).filter_map(|rest| rest.split(' ').next());
            let mut text = String::new();
            for name in names.filter(|name| *name != "i") {
                text += "chain ";
                text += name;
                text += " { }; ";
            }
            assert_eq!(passed(&format!("{text} {BASE} {rules}")), expected, "{rules}");
        }
    });
}

#[test]
fn rules_of_iptables_nft_are_understood() {
    in_namespace(|| {
        let mut kernel = Nftables::default();
        for (rule, drops) in [
            ("-m conntrack --ctstate INVALID -j DROP", false),
            ("-m comment --comment none -s 203.0.113.9 -j REJECT", false),
            ("-p tcp -m multiport --dports 25,465 -j DROP", false),
            ("-m addrtype --dst-type BROADCAST -j DROP", false),
            ("-m mark --mark 1 -j DROP", false),
            ("-m limit --limit 1/s -j DROP", false),
            ("-j LOG", false),
            ("-j NFQUEUE", false),
            ("-m conntrack --ctstate NEW -j DROP", true),
            ("-m conntrack --ctstate DNAT -j DROP", true),
            ("-m state --state NEW,ESTABLISHED -j REJECT", true),
            ("-m conntrack ! --ctstate RELATED -j DROP", true),
            ("-m mark ! --mark 1 -j DROP", true),
            ("-m comment --comment everything -j REJECT", true),
            ("-p tcp -j REJECT --reject-with tcp-reset", true),
            ("! -i docker0 -j DROP", true),
        ] {
            iptables("-F FORWARD");
            iptables(&format!("-A FORWARD {rule}"));
            let found = foreign_chains(&mut kernel);
            assert_eq!(!found.is_empty(), drops, "{rule}");
        }
    });
}

/// Makes a table with a base chain that drops, which only the returned connection can change.
fn owned(table: &TableName, chain: &str) -> Nftables {
    let forward = HookNumber::Inet(InetHookNumber::Forward);
    let name = table.name.clone();
    let attributes =
        vec![TableAttribute::Name(name.clone()), TableAttribute::Flags(TableFlags::Owner)];
    let add_table = NfTablesMessage::NewTable(TableMessage { attributes });
    let attributes = vec![
        ChainAttribute::Table(name),
        ChainAttribute::Name(chain.to_owned()),
        ChainAttribute::Type("filter".to_owned()),
        ChainAttribute::Hook(vec![Hook::Number(forward), Hook::Priority(0)]),
        ChainAttribute::Policy(0),
    ];
    let add_chain = NfTablesMessage::NewChain(ChainMessage { attributes });
    let operation = |message| Operation {
        what: String::new(),
        message: NetfilterMessage::new(NetfilterHeader::new(table.family, 0, 0), message),
        flags: NLM_F_CREATE,
    };
    let mut owner = Nftables::default();
    owner.connection().unwrap().commit([add_table, add_chain].map(operation).into()).unwrap();
    owner
}

#[test]
fn a_table_with_an_owner_is_read_and_not_changed() {
    in_namespace(|| {
        let owners = [
            owned(&foreign_chain::table(ForeignFamily::Ip, "filter"), "FORWARD"),
            owned(&foreign_chain::table(ForeignFamily::Inet, "firewalld"), "forward"),
        ];
        let mut kernel = Nftables::default();
        let states = kernel.connection().unwrap().foreign_chains(false, &uplinks()).unwrap();
        assert_eq!(states.len(), 2);
        for state in states {
            assert!(state.is_blocked(), "{state:?}");
        }
        kernel.apply(&Change::Reset(ruleset([]))).unwrap();
        assert!(kernel.probe(&base_ruleset(), &BTreeSet::new()).unwrap());
        drop(owners);
    });
}

#[test]
fn empty_tables_of_iptables_are_removed() {
    in_namespace(|| {
        let mut kernel = Connection::open().unwrap();
        assert_eq!(kernel.implicit_tables().unwrap(), BTreeSet::new());
        iptables("-A INPUT -i lo -j ACCEPT");
        iptables("-D INPUT -i lo -j ACCEPT");
        iptables("-t nat -P PREROUTING ACCEPT");
        iptables("-t mangle -A INPUT -j ACCEPT");
        iptables("-t raw -P PREROUTING DROP");
        nft("add table ip other");
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<BTreeSet<_>>();
        let there = names(&["filter", "mangle", "nat", "raw"]);
        let tables = |kernel: &mut Connection| kernel.implicit_tables().unwrap();
        assert_eq!(tables(&mut kernel), there);
        let all = kernel.older_tables().unwrap();
        for before in [&there, &all] {
            kernel.remove_empty_tables(before).unwrap();
            assert_eq!(kernel.older_tables().unwrap(), all);
        }
        kernel.remove_empty_tables(&names(&["mangle", "nat", "raw"])).unwrap();
        assert_eq!(tables(&mut kernel), names(&["mangle", "nat", "raw"]));
        nft("add set ip nat s { type ipv4_addr; }");
        kernel.remove_empty_tables(&BTreeSet::new()).unwrap();
        assert_eq!(tables(&mut kernel), names(&["mangle", "nat", "raw"]));
        assert!(listing().contains("table ip other"));
    });
}

#[test]
fn base_chains_are_removed_that_a_table_did_not_have_before() {
    in_namespace(|| {
        let mut kernel = Connection::open().unwrap();
        nft("add table ip nat");
        nft("add chain ip nat PREROUTING { type nat hook prerouting priority -100; }");
        nft("add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }");
        nft("add rule ip nat POSTROUTING oifname lan0 masquerade");
        let before = kernel.older_tables().unwrap();
        assert!(before.contains("nat PREROUTING") && !before.contains("nat OUTPUT"), "{before:?}");
        let listed = listing();
        iptables("-t nat -A OUTPUT -o lo -j ACCEPT");
        iptables("-t nat -D OUTPUT -o lo -j ACCEPT");
        assert!(listing().contains("chain OUTPUT"), "{}", listing());
        kernel.remove_empty_tables(&before).unwrap();
        assert_eq!(listing(), listed);
        kernel.remove_empty_tables(&before).unwrap();
        assert_eq!(listing(), listed);
    });
}

#[test]
fn tables_that_hold_only_what_is_ours_are_not_older() {
    in_namespace(|| {
        let mut kernel = Connection::open().unwrap();
        iptables("-t nat -A POSTROUTING -o lan0 -j ACCEPT");
        iptables("-t mangle -A POSTROUTING -o lan0 -j ACCEPT");
        iptables("-t raw -P PREROUTING DROP");
        let before = kernel.older_tables().unwrap();
        for (table, chain) in [("nat", "OUTPUT"), ("nat", "POSTROUTING"), ("mangle", "FORWARD")] {
            iptables(&format!("-t {table} -N RIKLET-{chain}"));
            iptables(&format!("-t {table} -I {chain} -j RIKLET-{chain}"));
        }
        iptables("-t raw -N RIKLET-RAW");
        iptables("-t raw -A PREROUTING -j RIKLET-RAW");
        assert_eq!(kernel.older_tables().unwrap(), before);
        iptables("-t mangle -D POSTROUTING -o lan0 -j ACCEPT");
        let ours = |name: &String| name.starts_with("mangle");
        let older: BTreeSet<_> = before.into_iter().filter(|name| !ours(name)).collect();
        assert_eq!(kernel.older_tables().unwrap(), older);
        nft("add set ip mangle s { type ipv4_addr; }");
        assert!(kernel.older_tables().unwrap().contains("mangle"));
    });
}

//! Foreign chains that end in a drop, and the bans in front of it.

use std::{net::Ipv4Addr, time::Duration};

use serde_json::Value;

use crate::{
    internet::{assert_internet, assert_repair_restores},
    reach::{FIRST, SECOND, TARGET, assert_published, pair},
    world::{
        CLIENT, Firewall, INTERNET, INTERNET_FAR, NODE_LAN, NODE_UPLINK, World,
        foreign::{bans, docker_like, published},
        function::{exposure, function},
        held::{Held, HoldPoint},
        on_every_firewall,
        owned::Owned,
        traffic::{PATIENCE, ping, tcp_ask},
        transport::{Path, Transport, assert_no_way, assert_paths},
        wait_for,
    },
};

const PORT: u16 = 7;
/// Longer than the daemon takes to repair, even when it pauses between repairs.
const SOON: Duration = Duration::from_secs(20);
/// Longer than an answered ping takes.
const A_WHILE: Duration = Duration::from_millis(300);

/// A table like firewalld's, strict about translated packets: a zone for each interface, with bans in front.
const ZONES: &str = "table inet zones {
    chain forward { type filter hook forward priority filter + 10; policy accept
      ct state { established, related } accept
      ct state invalid drop
      jump dispatch
      reject with icmpx admin-prohibited
    }
    chain dispatch {
      iifname \"up0\" goto public
      oifname vmap { \"nowhere\" : drop }
      goto public
    }
    chain public {
      jump banned
      reject with icmpx admin-prohibited
    }
    chain banned {
      BAN
    }
    chain last { type filter hook forward priority filter + 20; policy drop
      oifname \"nowhere\" accept
    }
  }";

fn load(world: &World, ban: &str) {
    let _absent = world.node.feed(&["nft", "delete", "table", "inet", "zones"], "");
    world.node.feed(&["nft", "-f", "-"], &ZONES.replace("BAN", ban)).success();
}

on_every_firewall!(chain_ending_in_a_reject_is_passed_and_its_bans_hold, |world| {
    load(world, &format!("ip daddr {INTERNET_FAR} drop"));
    let pair = pair(world);
    assert_published(world, &pair, &Transport::ALL);
    let guest = &pair[0].guest.namespace;
    let near = Transport::Tcp.serve(&world.internet, INTERNET, PORT);
    let path =
        Path { from: guest, to: (INTERNET, PORT), seen_as: NODE_UPLINK, server: (INTERNET, PORT) };
    let far = Transport::Tcp.serve(&world.internet, INTERNET_FAR, PORT);
    assert_paths("past the ban", &[Transport::Tcp], &[path]);
    assert_no_way(&[(Transport::Tcp, guest, (INTERNET_FAR, PORT))]);
    drop((near, far));
    world.riklet(&["check"], "").success();

    // The table is loaded anew, without the ban and without our passage.
    load(world, "");
    assert_repair_restores(world, &pair);
    world.down(&["--all", "--purge"]);
    assert!(!world.node.tool(&["nft", "list", "ruleset"]).contains("RIKLET"));
});

on_every_firewall!(the_next_up_passes_a_chain_that_others_load_meanwhile, |world| {
    let pair = pair(world);
    let legacy = |rule: &str| {
        let arguments = [&["iptables", "--wait"], &*rule.split(' ').collect::<Vec<_>>()];
        world.program(Firewall::IptablesLegacy.xtables(), &arguments.concat(), "").success();
    };
    for (number, name) in ["third", "fourth", "fifth"].into_iter().enumerate() {
        match number {
            0 => load(world, ""),
            1 => legacy("-P FORWARD DROP"),
            _ => legacy("-I FORWARD -j DROP"),
        }
        let up = function(name, &[]).to_string();
        let plan = world.riklet(&["plan", "-"], &up).success();
        assert!(plan.contains("passage"), "{name}: {plan}");
        world.riklet(&["up", "-"], &up).success();
        world.riklet(&["check"], "").success();
        assert_published(world, &pair, &[Transport::Tcp]);
        assert!(ping(&pair[0].guest.namespace, INTERNET, PATIENCE), "{name}");
    }
    assert_published(world, &pair, &Transport::ALL);
    assert_internet(world, &pair[1]);
});

on_every_firewall!(bans_in_front_of_dockers_rules_hold, |world| {
    let variant = variant(world);
    docker_like(world, variant);
    let ban = |arguments: &str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        world.program(variant.xtables(), &[&["iptables"], &*arguments].concat(), "").success();
    };
    ban(&format!("-I DOCKER-USER -d {INTERNET_FAR} -j DROP"));
    ban(&format!("-I FORWARD -p tcp -m conntrack --ctorigdstport {FIRST} -j DROP"));
    let pair = pair(world);
    let guest = &pair[0].guest.namespace;
    assert!(ping(guest, INTERNET, PATIENCE), "what is not banned");
    assert!(!ping(guest, INTERNET_FAR, A_WHILE), "banned in DOCKER-USER");
    assert_no_way(&[(Transport::Tcp, &world.client, (NODE_LAN, FIRST))]);
    tcp_ask(&world.client, (NODE_LAN, SECOND)).unwrap();
    // A ban is inserted later, in front.
    ban(&format!("-I FORWARD -s {CLIENT} -j DROP"));
    world.riklet(&["repair"], "").success();
    world.riklet(&["check"], "").success();
    assert_no_way(&[(Transport::Tcp, &world.client, (NODE_LAN, SECOND))]);
    assert!(ping(guest, INTERNET, PATIENCE), "what is not banned");
});

on_every_firewall!(doctor_names_bans_of_many_addresses, |world| {
    let variant = variant(world);
    docker_like(world, variant);
    let ban = |arguments: &str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        world.program(variant.xtables(), &[&["iptables"], &*arguments].concat(), "").success();
    };
    let legacy = if variant == Firewall::IptablesLegacy { "iptables-legacy" } else { "ip" };
    let doctor = |expected: &str| {
        let said = world.riklet(&["--output", "json", "doctor"], "").success();
        let findings: Value = serde_json::from_str(&said).expect("JSON");
        let found = findings.as_array().into_iter().flatten();
        let named = found.filter_map(|finding| finding["found"].as_str());
        let named: Vec<_> = named.filter(|found| found.contains("drops packets ")).collect();
        assert_eq!(named.join("\n"), expected, "{said}");
    };
    let pair = pair(world);
    ban(&format!("-I DOCKER-USER -d {INTERNET_FAR} -j DROP"));
    ban("-I FORWARD -s 10.0.0.0/8 -p tcp --dport 25 -j DROP");
    ban("-I FORWARD -s 224.0.0.0/4 -j DROP");
    doctor("");
    tcp_ask(&world.client, (NODE_LAN, FIRST)).unwrap();
    ban("-I FORWARD -d 10.0.0.0/8 -j DROP");
    assert_no_way(&[(Transport::Tcp, &world.client, (NODE_LAN, FIRST))]);
    let pool = format!("{legacy} filter FORWARD: drops packets to 10.0.0.0-10.255.255.255");
    doctor(&pool);
    ban("-I DOCKER-USER -s 192.168.0.0/16 -j REJECT");
    let clients =
        format!("{legacy} filter DOCKER-USER: drops packets from 192.168.0.0-192.168.255.255");
    doctor(&[pool, clients].join("\n"));
    ban("-F DOCKER-USER");
    ban("-D FORWARD -d 10.0.0.0/8 -j DROP");
    let table = "table inet theirs {
      set bogons { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.0/24 }; }
      chain forward { type filter hook forward priority 10; ip saddr @bogons drop; }
    }";
    world.node.feed(&["nft", "-f", "-"], table).success();
    let bogons = [
        "inet theirs forward: drops packets from 10.0.0.0-10.255.255.255",
        "inet theirs forward: drops packets from 192.0.2.0-192.0.2.255",
    ];
    doctor(&bogons.join("\n"));
    // The largest are named.
    let networks = (0..40).map(|number| format!("-A FORWARD -s 100.64.{number}.0/24 -j DROP"));
    let rules = format!("*filter\n{}\nCOMMIT\n", networks.collect::<Vec<_>>().join("\n"));
    world.program(variant.xtables(), &["iptables-restore", "--noflush"], &rules).success();
    // Our passage has its place behind them.
    world.riklet(&["repair"], "").success();
    let said = world.riklet(&["--output", "json", "doctor"], "").success();
    assert!(said.contains(bogons[0]), "{said}");
    assert_eq!(said.matches("drops packets from 100.64.").count(), 19, "{said}");
    assert!(
        said.contains("\"22 more rules drop packets of as many addresses or fewer\""),
        "{said}"
    );
    drop(pair);
});

on_every_firewall!(doctor_names_bans_of_published_ports, |world| {
    let variant = variant(world);
    docker_like(world, variant);
    let pair = pair(world);
    let doctor = || {
        let said = world.riklet(&["--output", "json", "doctor"], "").success();
        let findings: Value = serde_json::from_str(&said).expect("JSON");
        let found = findings.as_array().into_iter().flatten();
        let named = found.filter_map(|finding| finding["found"].as_str());
        named.filter(|found| found.contains("for the published ")).collect::<Vec<_>>().join("\n")
    };
    let bans = |place: &str, ports: &[u16]| {
        let ban = |port| format!("{place}: drops packets for the published tcp port {port}");
        ports.iter().map(ban).collect::<Vec<_>>().join("\n")
    };
    let user = |rule: &str| {
        let arguments = format!("iptables --wait {rule}");
        let arguments: Vec<_> = arguments.split(' ').collect();
        world.program(variant.xtables(), &arguments, "").success();
    };
    let legacy = if variant == Firewall::IptablesLegacy { "iptables-legacy" } else { "ip" };
    let chain = format!("{legacy} filter DOCKER-USER");
    let original = |port| format!("DOCKER-USER -p tcp -m conntrack --ctorigdstport {port} -j DROP");
    user(&format!("-I {}", original(TARGET)));
    user(&format!("-I DOCKER-USER -p tcp --dport {FIRST} -j DROP"));
    user(&format!("-I DOCKER-USER -s 203.0.113.9 -p tcp --dport {TARGET} -j DROP"));
    assert_published(world, &pair, &[Transport::Tcp]);
    assert_eq!(doctor(), "", "these are rules for other ports, or for one client");

    user(&format!("-I {}", original(FIRST)));
    assert_no_way(&[(Transport::Tcp, &world.client, (NODE_LAN, FIRST))]);
    assert_eq!(doctor(), bans(&chain, &[FIRST]));
    user(&format!("-D {}", original(FIRST)));
    for ports in [format!("--dport {TARGET}"), format!("-m multiport --dports 22,{TARGET}")] {
        let rule = format!("DOCKER-USER -p tcp {ports} -j REJECT");
        user(&format!("-I {rule}"));
        assert_no_way(&[(Transport::Tcp, &world.client, (NODE_LAN, FIRST))]);
        assert_eq!(doctor(), bans(&chain, &[FIRST, SECOND]), "{ports}");
        user(&format!("-D {rule}"));
    }
    for (rule, ports) in [
        (format!("raw PREROUTING -p tcp --dport {FIRST}"), &[FIRST][..]),
        (format!("raw PREROUTING -p tcp --dport {TARGET}"), &[]),
        (format!("mangle POSTROUTING -p tcp --dport {TARGET}"), &[FIRST, SECOND]),
    ] {
        let (table, rule) = rule.split_once(' ').expect("a table");
        user(&format!("-t {table} -I {rule} -j DROP"));
        let chain = rule.split(' ').next().expect("a chain");
        assert_eq!(doctor(), bans(&format!("{legacy} {table} {chain}"), ports), "{rule}");
        user(&format!("-t {table} -D {rule} -j DROP"));
    }
    for (rule, ports) in [
        (format!("tcp dport {TARGET} drop"), &[FIRST, SECOND][..]),
        (format!("tcp dport {{ 22, {TARGET} }} drop"), &[FIRST, SECOND]),
        (format!("meta l4proto tcp ct original proto-dst {FIRST} drop"), &[FIRST]),
        (format!("ip protocol tcp ct original proto-dst {{ 1, 80-{FIRST} }} reject"), &[FIRST]),
        (format!("ip daddr 10.0.0.0/8 tcp dport vmap {{ {TARGET} : drop }}"), &[FIRST, SECOND]),
        ("tcp dport != 22 drop".to_owned(), &[FIRST][..]),
        (format!("ip saddr 203.0.113.9 tcp dport {TARGET} drop"), &[]),
        (format!("meta l4proto tcp ct reply proto-dst {FIRST} drop"), &[]),
        (format!("udp dport {TARGET} limit rate 1/second drop"), &[]),
    ] {
        let table = format!(
            "table inet theirs {{ chain forward {{ type filter hook forward priority 10; {rule}; }}; }}"
        );
        world.node.feed(&["nft", "-f", "-"], &table).success();
        assert_eq!(doctor(), bans("inet theirs forward", ports), "{rule}");
        world.node.feed(&["nft", "delete table inet theirs"], "").success();
    }
    assert_published(world, &pair, &[Transport::Tcp]);
});

// Docker, libvirt and others insert accepts for their networks at the head of FORWARD whenever they start.
on_every_firewall!(accepts_that_others_insert_open_no_guest, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let variant = variant(world);
    let pair = pair(world);
    let [first, second] = &pair;
    let accept = "*filter\n-I FORWARD -j ACCEPT\nCOMMIT\n";
    world
        .program(variant.xtables(), &["iptables-restore", "--noflush", "--wait"], accept)
        .success();
    let earlier =
        "table inet early { chain forward { type filter hook forward priority -200; accept; }; }";
    world.node.feed(&["nft", "-f", "-"], earlier).success();

    let guest = &first.guest.namespace;
    let private = Transport::Tcp.serve(&world.client, CLIENT, PORT);
    let pool = format!("{}/24", Ipv4Addr::from(u32::from(first.address()) & !0xff));
    world.client.tool(&["ip", "route", "replace", &pool, "via", &NODE_LAN.to_string()]);
    assert_no_way(&[
        (Transport::Tcp, guest, (second.address(), TARGET)),
        (Transport::Udp, guest, (second.address(), TARGET)),
        (Transport::Tcp, guest, (CLIENT, PORT)),
        (Transport::Tcp, &world.client, (first.address(), TARGET)),
        (Transport::Udp, &world.client, (first.address(), TARGET)),
    ]);
    tcp_ask(&world.node, private.address).unwrap();
    world.client.tool(&["ip", "route", "delete", &pool]);
    assert_published(world, &pair, &Transport::ALL);
    assert_internet(world, first);
    world.riklet(&["check"], "").success();
});

// An accept ends the chain that it is in, and only that one.
on_every_firewall!(an_accept_before_our_jump_opens_no_guest, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let variant = variant(world);
    let pair = pair(world);
    let [first, second] = &pair;
    let guest = &first.guest.namespace;
    guest.send_loopback_to(first.gateway());
    let private = Transport::Tcp.serve(&world.client, CLIENT, PORT);
    let local = Transport::Tcp.serve(&world.node, Ipv4Addr::LOCALHOST, PORT);
    let pool = format!("{}/24", Ipv4Addr::from(u32::from(first.address()) & !0xff));
    world.client.tool(&["ip", "route", "replace", &pool, "via", &NODE_LAN.to_string()]);
    let chains = ["mangle FORWARD", "raw PREROUTING", "mangle PREROUTING", "mangle POSTROUTING"];
    for (table, chain) in chains.map(|chain| chain.split_once(' ').expect("two words")) {
        let change = |operation: &str| {
            let rule = ["iptables", "--wait", "-t", table, operation, chain, "-j", "ACCEPT"];
            world.program(variant.xtables(), &rule, "").success();
        };
        change("-I");
        assert_no_way(&[
            (Transport::Tcp, guest, (second.address(), TARGET)),
            (Transport::Udp, guest, (second.address(), TARGET)),
            (Transport::Tcp, guest, (CLIENT, PORT)),
            (Transport::Tcp, guest, (Ipv4Addr::LOCALHOST, PORT)),
            (Transport::Tcp, &world.client, (first.address(), TARGET)),
            (Transport::Udp, &world.client, (first.address(), TARGET)),
        ]);
        for to in [private.address, local.address, (first.address(), TARGET).into()] {
            tcp_ask(&world.node, to).unwrap();
        }
        tcp_ask(&world.client, (NODE_LAN, FIRST)).unwrap();
        assert!(ping(guest, INTERNET, PATIENCE), "{table} {chain}");
        let asked = (Transport::Tcp, &second.guest.namespace, (NODE_LAN, FIRST));
        if world.firewall != Firewall::Nftables && (table, chain) == ("mangle", "PREROUTING") {
            // Answers to other guests get no mark, so routing refuses them until ours is the first jump again.
            assert_no_way(&[asked]);
            let check = world.riklet(&["check"], "");
            assert!(check.stdout.contains("mangle: not first: -A PREROUTING"), "{check}");
            world.riklet(&["repair"], "").success();
        }
        tcp_ask(asked.1, asked.2).unwrap();
        change("-D");
    }
    world.client.tool(&["ip", "route", "delete", &pool]);
    world.riklet(&["check"], "").success();
});

/// Earlier versions refused in the table filter.
#[test]
fn chains_of_an_earlier_version_in_the_table_filter_are_removed() {
    for firewall in [Firewall::IptablesNft, Firewall::IptablesLegacy] {
        let world = &World::new(firewall);
        let _pair = pair(world);
        let earlier = "*filter\n:RIKLET-FORWARD - [0:0]\n:RIKLET-CONFINE - [0:0]\n\
                       -A RIKLET-FORWARD -i eth0 -j RIKLET-CONFINE\n-A RIKLET-FORWARD -o rik+ -j DROP\n\
                       -I FORWARD -m comment --comment \"riklet-sdn 1 /run/x\" -j RIKLET-FORWARD\nCOMMIT\n";
        let restore = ["iptables-restore", "--noflush", "--wait"];
        world.program(firewall.xtables(), &restore, earlier).success();
        let save = || {
            let save = ["iptables-save", "-t", "filter"];
            world.program(firewall.xtables(), &save, "").success()
        };
        assert!(save().contains("RIKLET"));
        world.riklet(&["repair"], "").success();
        assert!(!save().contains("RIKLET"), "{}", save());
        world.riklet(&["check"], "").success();
    }
}

on_every_firewall!(doctor_says_that_functions_are_cut_off, |world| {
    let variant = variant(world);
    let append = ["iptables", "--wait", "-A", "FORWARD", "-j", "DROP"];
    world.program(variant.xtables(), &append, "").success();
    let unused = world.riklet(&["doctor"], "").success();
    assert!(unused.contains("nothing to do: `up` lets guests' packets pass it"), "{unused}");
    let pair = pair(world);
    world.riklet(&["doctor"], "").success();
    let insert = ["iptables", "--wait", "-I", "FORWARD", "-j", "DROP"];
    world.program(variant.xtables(), &insert, "").success();
    assert_no_way(&[(Transport::Tcp, &world.client, (NODE_LAN, FIRST))]);
    let doctor = world.riklet(&["doctor"], "");
    let said = &doctor.stdout;
    assert_eq!(doctor.code, Some(3), "{said}");
    assert!(
        said.contains("our passage through it is not in its place")
            && said.contains("riklet-sdn repair"),
        "{said}"
    );
    world.riklet(&["repair"], "").success();
    assert_published(world, &pair, &[Transport::Tcp]);
    world.riklet(&["doctor"], "").success();
});

on_every_firewall!(doctor_names_drops_before_forwarding, |world| {
    let _pair = pair(world);
    let doctor = || world.riklet(&["doctor"], "").stdout;
    let bans = "table inet early { chain pre { type filter hook prerouting priority -150;
                  ip saddr 203.0.113.9 drop; iifname \"wlan0\" drop; }; }";
    world.node.feed(&["nft", "-f", "-"], bans).success();
    assert!(!doctor().contains("early"), "bans: {}", doctor());
    world.node.feed(&["nft", "add rule inet early pre iifname up0 drop"], "").success();
    assert!(doctor().contains("inet early pre: somebody else's chain"), "{}", doctor());
    let legacy = |rule: &str| {
        let arguments = [&["iptables", "-t", "mangle"], &*rule.split(' ').collect::<Vec<_>>()];
        let program = Firewall::IptablesLegacy.xtables();
        world.program(program, &arguments.concat(), "").success();
    };
    legacy("-A PREROUTING -s 203.0.113.9 -j DROP");
    assert!(!doctor().contains("iptables-legacy mangle"), "bans: {}", doctor());
    legacy("-A POSTROUTING -o rik+ -j DROP");
    assert!(doctor().contains("iptables-legacy mangle POSTROUTING: somebody"), "{}", doctor());
    assert!(!doctor().contains("mangle PREROUTING"), "{}", doctor());
});

on_every_firewall!(chain_of_bans_only_is_left_alone, |world| {
    let rules = format!(
        "table inet bans {{ chain forward {{ type filter hook forward priority filter; policy accept
           ip daddr {INTERNET_FAR} drop
           iifname \"wlan0\" drop
           tcp dport {{ 25, 465 }} reject
         }}
         }}"
    );
    world.node.feed(&["nft", "-f", "-"], &rules).success();
    let before = world.node.tool(&["nft", "list", "table", "inet", "bans"]);
    let pair = pair(world);
    let guest = &pair[0].guest.namespace;
    assert_published(world, &pair, &Transport::ALL);
    assert!(ping(guest, INTERNET, PATIENCE));
    assert!(!ping(guest, INTERNET_FAR, A_WHILE));
    world.riklet(&["repair"], "").success();
    assert_eq!(world.node.tool(&["nft", "list", "table", "inet", "bans"]), before);
});

/// A rule that others add while the first `up` writes ours is not taken for one that it looked at.
fn assert_rule_added_during_first_up_is_seen(firewall: Firewall) {
    let world = &World::new(firewall);
    let held = Held::restore(world, "RIKLET-RAW - ", HoldPoint::Before);
    let function =
        |name: &str| function(name, &[exposure(Transport::Tcp, FIRST, TARGET)]).to_string();
    let up = world.riklet_in_background(&["up", "-"], &function("first"));
    held.wait();
    world.program(firewall.xtables(), &["iptables", "-A", "FORWARD", "-j", "DROP"], "").success();
    drop(held);
    up.wait().success();
    world.riklet(&["up", "-"], &function("first")).success();
    let save = world.program(firewall.xtables(), &["iptables-save", "-t", "filter"], "").success();
    assert!(save.contains("-j RIKLET-PASSAGE"), "{save}");
}

#[test]
fn a_rule_that_is_added_during_the_first_up_is_seen_with_iptables_nft() {
    assert_rule_added_during_first_up_is_seen(Firewall::IptablesNft);
}

#[test]
fn a_rule_that_is_added_during_the_first_up_is_seen_with_iptables_legacy() {
    assert_rule_added_during_first_up_is_seen(Firewall::IptablesLegacy);
}

/// The processor time of `up` and its programs, in seconds: of the first one, which looks at everything, of the next, of the
/// one after that, and of one after somebody has changed a rule.
struct Cost {
    first: f64,
    next: f64,
    later: f64,
    changed: f64,
}

impl Cost {
    /// Returns the smallest of a few.
    fn measure(world: &World) -> Self {
        let [first, next, later, changed] = [f64::INFINITY; 4];
        let mut least = Self { first, next, later, changed };
        let change = ["iptables", "--wait", "-I", "FORWARD", "-s", "192.0.2.1", "-j", "DROP"];
        for _ in 0..3 {
            let up = |name: &str, port: u16| {
                let exposures = [exposure(Transport::Tcp, port, TARGET)];
                world.processor_time(&["up", "-"], &function(name, &exposures).to_string())
            };
            least.first = least.first.min(up("f0", 8000));
            least.next = least.next.min(up("f1", 8001));
            least.later = least.later.min(up("f3", 8003));
            world.program(variant(world).xtables(), &change, "").success();
            least.changed = least.changed.min(up("f2", 8002));
            world.down(&["--all", "--purge"]);
        }
        least
    }
}

// The program is built without optimization here, in which decoding costs ten times as much.
on_every_firewall!(thousands_of_bans_do_not_slow_an_up_down, |world| {
    let alone = Cost::measure(world);
    bans(world, variant(world), 20_000);
    let beside = Cost::measure(world);
    let ratio =
        [beside.first / alone.first, beside.next / alone.next, beside.changed / alone.changed];
    assert!(ratio[0] < 15.0, "the first costs {ratio:?} times as much");
    assert!(ratio[1] < 5.0, "the next costs {ratio:?} times as much");
    assert!(ratio[2] < 20.0, "the next after a change costs {ratio:?} times as much");
});

on_every_firewall!(thousands_of_published_ports_do_not_slow_an_up_down, |world| {
    let alone = Cost::measure(world);
    published(world, variant(world), 5000);
    let beside = Cost::measure(world);
    let ratio = [beside.first / alone.first, beside.next / alone.next, beside.later / alone.later];
    assert!(ratio[0] < 25.0, "the first costs {ratio:?} times as much");
    // The second one notes the ports that others have, for the later ones.
    assert!(ratio[1] < 40.0, "the next costs {ratio:?} times as much");
    assert!(ratio[2] < 15.0, "a later one costs {ratio:?} times as much");
});

/// Returns the variant of iptables that others use on a host with this firewall.
fn variant(world: &World) -> Firewall {
    match world.firewall {
        Firewall::IptablesLegacy => Firewall::IptablesLegacy,
        Firewall::Nftables | Firewall::IptablesNft => Firewall::IptablesNft,
    }
}

on_every_firewall!(the_daemon_moves_the_passage_when_others_reorder_their_rules, |world| {
    load(world, "");
    let daemon = world.daemon(&[]);
    let pair = pair(world);
    daemon.wait_until_idle();
    let heals = |what: &str, change: &str| {
        world.node.feed(&["nft", "-f", "-"], change).success();
        wait_for(what, SOON, || {
            let published = tcp_ask(&world.client, (NODE_LAN, FIRST)).is_ok();
            let guest = &pair[0].guest.namespace;
            (published && ping(guest, INTERNET, A_WHILE)).then_some(())
        });
        assert_internet(world, &pair[0]);
    };
    heals("a drop in front", "insert rule inet zones dispatch drop");
    heals("a chain that is led to", "insert rule inet zones banned meta l4proto tcp reject");
    heals("a map", "insert rule inet zones dispatch oifname vmap { \"up0\" : drop }");
    heals("the table anew", &format!("delete table inet zones\n{}", ZONES.replace("BAN", "")));
    wait_for("nothing to be left to do", SOON, || {
        let check = daemon.get("/v1/check");
        check["steps"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
});

on_every_firewall!(a_table_that_another_process_owns_is_named_by_everything_that_looks, |world| {
    let rules = "add chain inet theirs f { type filter hook forward priority 10; policy accept; }\n\
         add rule inet theirs f reject\n";
    let mut theirs = Owned::load(world, "theirs", rules);
    let says = |text: &str, who: &str| {
        assert!(text.contains("functions are cut off: the chain inet theirs f"), "{who}: {text}");
        assert!(text.contains("have the owner accept"), "{who}: {text}");
    };
    // The first `up` looks at everything, and the second at its function only.
    for name in ["first", "second"] {
        let up = world.riklet(&["up", "-"], &function(name, &[]).to_string());
        assert_eq!(up.code, Some(0), "{up}");
        says(&up.stderr, "up");
    }
    says(&world.riklet(&["plan", "-"], &function("third", &[]).to_string()).success(), "plan");
    let check = world.riklet(&["check"], "");
    assert_eq!(check.code, Some(1), "{check}");
    says(&check.stdout, "check");
    says(&world.riklet(&["repair"], "").stderr, "repair");
    let doctor = world.riklet(&["doctor"], "");
    assert_eq!(doctor.code, Some(3), "{doctor}");
    assert!(doctor.stdout.contains("inet theirs f: drops guests' packets"), "{doctor}");

    let daemon = world.daemon(&[]);
    says(&daemon.events(), "an event");
    let put = daemon.ask("PUT", "/v1/functions/third", &function("third", &[]).to_string());
    says(&put.body, "an answer of the daemon");
    let down = daemon.ask("DELETE", "/v1/functions/third", "");
    assert!(down.status == 200 && !down.body.contains("cut off"), "{down:?}");
    // The table changes, and is told of once more only when it changed what it does.
    theirs.reload(&rules.replace(" reject", " accept"));
    wait_for("the daemon to say that it passes", SOON, || {
        daemon.events().contains("inet theirs f no longer cuts functions off").then_some(())
    });
    world.riklet(&["check"], "").success();
    theirs.reload(rules);
    wait_for("the daemon to say it again", SOON, || {
        (daemon.events().matches("functions are cut off").count() == 2).then_some(())
    });
    theirs.end();
    wait_for("no drift", SOON, || (world.riklet(&["check"], "").code == Some(0)).then_some(()));
    world.riklet(&["down", "--all", "--purge"], "").success();
});

//! Foreign routes and routing rules: functions work with them, and nothing of ours is left among them.

use std::{fs::File, io::Write, net::Ipv4Addr, time::Duration};

use crate::{
    internet::assert_internet,
    reach::{FIRST, TARGET, assert_published, pair},
    uplinks::{assert_both_uplinks, rule_by_source},
    world::{
        CLIENT, Firewall, INTERNET, INTERNET_FAR, NODE_LAN, NODE_OTHER, Namespace, OTHER, World,
        function::{exposure, function},
        on_every_firewall,
        state::{SystemState, assert_same},
        traffic::{tcp_ask, tcp_server},
        transport::{Path, Transport, assert_no_way, assert_paths},
        wait_for,
    },
};

/// The network of the second uplink.
pub(crate) const OTHER_NETWORK: &str = "172.20.0.0/24";

/// Asserts that a guest reaches a distant server by `oth0`, masqueraded.
#[track_caller]
pub(crate) fn assert_reached_by_other(world: &World, guest: &Namespace) {
    let server = (INTERNET_FAR, TARGET);
    let _servers = Transport::ALL.map(|transport| transport.serve(&world.other, server.0, TARGET));
    let path = Path { from: guest, to: server, seen_as: NODE_OTHER, server };
    assert_paths("guest → other uplink", &Transport::ALL, &[path]);
}

on_every_firewall!(vpn_with_two_half_default_routes_is_an_uplink, |world| {
    let via = OTHER.to_string();
    second_uplink(world);
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        world.node.tool(&["ip", "route", "add", half, "via", &via]);
    }
    let before = SystemState::take(&world.node);
    let pair = pair(world);
    assert_published(world, &pair, &Transport::ALL);
    assert_reached_by_other(world, &pair[0].guest.namespace);
    world.riklet(&["check"], "").success();
    world.down(&["--all", "--purge"]);
    assert_same(&before, &SystemState::take(&world.node));
});

/// Makes the namespace `other` a second way to the Internet.
pub(crate) fn second_uplink(world: &World) {
    world.other.tool(&["ip", "address", "add", &format!("{INTERNET_FAR}/32"), "dev", "lo"]);
}

// A function with the address of a router would cut the host off from it.
#[test]
fn next_hops_and_addresses_within_a_configured_pool_stay_whose_they_are() {
    for serves in [false, true] {
        let world = &World::new(Firewall::Nftables);
        for words in [
            "ip route add 198.51.100.0/25 via 203.0.113.5",
            "ip address add 203.0.113.9/24 dev up0",
            "ip route add 198.51.100.128/26 nexthop via 203.0.113.13 nexthop via 203.0.113.18",
            "ip nexthop add id 7 via 203.0.113.20 dev up0",
            "ip route add 198.51.100.192/26 nhid 7 table 7",
        ] {
            world.node.tool(&words.split(' ').collect::<Vec<_>>());
        }
        let pool = ["--pool", "203.0.113.0/24"];
        let daemon = serves.then(|| world.daemon(&pool));
        if let Some(daemon) = &daemon {
            daemon.wait_until_idle();
        }
        let arguments = if serves { vec!["up", "-"] } else { [&pool[..], &["up", "-"]].concat() };
        world.riklet(&arguments, &function("web", &[]).to_string()).success();
        let listed = world.riklet(&["list"], "").success();
        assert!(listed.contains("203.0.113.26"), "with a daemon: {serves}: {listed}");
        let links = world.node.tool(&["ip", "-oneline", "link"]);
        for slot in 0..6 {
            assert!(!links.contains(&format!(": rik{slot}:")), "with a daemon: {serves}: {links}");
        }
    }
}

on_every_firewall!(another_uplink_takes_over_without_an_operation, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    second_uplink(world);
    let pair = pair(world);
    let guest = &pair[0].guest.namespace;
    assert_internet(world, &pair[0]);
    let via = OTHER.to_string();
    world.node.tool(&["ip", "route", "add", "default", "via", &via, "metric", "200"]);
    assert_internet(world, &pair[0]);
    world.node.tool(&["ip", "link", "set", "up0", "down"]);
    assert_reached_by_other(world, guest);
    // An interface that is not an uplink leads to public addresses only.
    let server = tcp_server(&world.client, (CLIENT, TARGET));
    tcp_ask(&world.node, server.address).unwrap();
    assert_no_way(&[
        (Transport::Tcp, guest, (CLIENT, TARGET)),
        (Transport::Tcp, guest, (OTHER, TARGET)),
    ]);
    // The next operation finds the new uplink.
    world.riklet(&["repair"], "").success();
    world.riklet(&["check"], "").success();
    assert_reached_by_other(world, guest);
});

on_every_firewall!(a_configured_uplink_is_the_only_one, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    second_uplink(world);
    let config = File::create(world.directory.path().join("config.toml"));
    config.unwrap().write_all(b"uplink = \"up0\"").unwrap();
    let pair = pair(world);
    assert_internet(world, &pair[0]);
    world.node.tool(&["ip", "route", "replace", "default", "via", &OTHER.to_string()]);
    let server = tcp_server(&world.other, (INTERNET_FAR, TARGET));
    tcp_ask(&world.node, server.address).unwrap();
    assert_no_way(&[(Transport::Tcp, &pair[0].guest.namespace, (INTERNET_FAR, TARGET))]);
});

// As wg-quick does for UDP, and scripts for several providers for everything.
on_every_firewall!(guests_reach_each_other_beside_a_program_that_restores_all_marks, |world| {
    let pair = pair(world);
    let iptables = "*mangle\n-A PREROUTING -j CONNMARK --restore-mark\nCOMMIT\n";
    let restore = ["iptables-restore", "--noflush", "--wait"];
    world.program(world.firewall.xtables(), &restore, iptables).success();
    let chain = "add table ip vpn\n\
                 add chain ip vpn premangle { type filter hook prerouting priority -145; }\n\
                 add rule ip vpn premangle meta mark set ct mark\n";
    world.node.feed(&["nft", "-f", "-"], chain).success();
    world.riklet(&["check"], "").success();
    assert_published(world, &pair, &Transport::ALL);
    assert_internet(world, &pair[0]);
});

on_every_firewall!(a_daemon_follows_the_routing_rules, |world| {
    let daemon = world.daemon(&[]);
    let pair = pair(world);
    daemon.wait_until_idle();
    rule_by_source(world);
    let ours = || -> Vec<String> {
        let rules = world.node.tool(&["ip", "rule"]);
        rules.lines().filter(|rule| rule.contains("proto 82")).map(str::to_owned).collect()
    };
    let apart = || {
        ours().iter().filter(|rule| rule.contains("from 10.231.0.0/16 to 10.231.0.0/16 ")).count()
            == 3
    };
    let answered = || ours().iter().any(|rule| rule.contains("lookup 100")).then_some(());
    let soon = Duration::from_secs(10);
    wait_for("the rules of ours", soon, answered);
    daemon.wait_until_idle();
    assert_both_uplinks(world, &pair, "beside a daemon");
    // Our rules are flushed.
    world.node.tool(&["ip", "rule", "flush", "protocol", "82"]);
    wait_for("the rules of ours", soon, answered);
    wait_for("the rules that keep guests apart", soon, || apart().then_some(()));
    world.node.tool(&["ip", "rule", "del", "from", OTHER_NETWORK, "lookup", "100"]);
    wait_for("no other rule of ours", soon, || (ours().len() == 3 && apart()).then_some(()));
    daemon.wait_until_idle();
    world.riklet(&["check"], "").success();
    assert_published(world, &pair, &[Transport::Tcp]);
});

on_every_firewall!(our_rule_precedes_a_rule_that_would_divert_guest_packets, |world| {
    let via = INTERNET.to_string();
    world.node.tool(&["ip", "route", "add", "default", "via", &via, "table", "7"]);
    let rule = ["ip", "rule", "add", "pref", "700", "to", "10.0.0.0/8", "lookup", "7"];
    world.node.tool(&rule);
    let before = SystemState::take(&world.node);
    let pair = pair(world);
    assert_published(world, &pair, &Transport::ALL);
    assert_internet(world, &pair[0]);
    world.riklet(&["check"], "").success();
    // The new rule has a preference that no rule of ours can precede.
    let first = ["ip", "rule", "add", "pref", "1", "to", "10.0.0.0/8", "lookup", "7"];
    world.node.tool(&first);
    let doctor = world.riklet(&["doctor"], "").success();
    assert!(doctor.contains("the rule 1: from all to 10.0.0.0/8 lookup 7 may take"), "{doctor}");
    assert_no_way(&[(Transport::Tcp, &world.client, (NODE_LAN, FIRST))]);
    world.node.tool(&["ip", "rule", "del", "pref", "1"]);
    world.riklet(&["check"], "").success();
    assert_published(world, &pair, &[Transport::Tcp]);
    world.down(&["--all", "--purge"]);
    assert_same(&before, &SystemState::take(&world.node));
});

on_every_firewall!(a_route_that_comes_later_takes_its_addresses_from_new_functions, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let first = pair(world);
    assert_eq!(first[1].address(), Ipv4Addr::new(10, 231, 0, 6));
    // The addresses of the next four slots are in use elsewhere by now.
    world.node.tool(&["ip", "route", "add", "10.231.0.8/29", "via", &OTHER.to_string()]);
    world.node.tool(&["ip", "route", "add", "10.231.0.18/32", "via", &OTHER.to_string()]);
    world.node.tool(&["ip", "route", "add", "blackhole", "10.0.0.0/8"]);
    let serves = [(Transport::Tcp, TARGET)];
    let later = [("third", 7001), ("fourth", 7002)];
    let [third, fourth] = world.start(later.map(|(name, port)| {
        (function(name, &[exposure(Transport::Tcp, port, TARGET)]), &serves[..])
    }));
    let addresses = [third.address(), fourth.address()].map(|address| address.octets()[3]);
    assert_eq!(addresses, [22, 26], "of the slots 5 and 6");
    for (port, function) in [(7001, &third), (7002, &fourth)] {
        let answer = tcp_ask(&world.client, (NODE_LAN, port)).unwrap();
        assert_eq!(answer.server.ip(), function.address());
    }
    assert_published(world, &first, &[Transport::Tcp]);
    world.riklet(&["check"], "").success();
    let doctor = world.riklet(&["doctor"], "").success();
    let words = "10.231.0.0/16 is used, and overlaps the route to 10.231.0.8/29 by oth0";
    assert!(doctor.contains(words), "{doctor}");
});

/// Returns the number of bytes that the program receives from the kernel by netlink.
fn received(world: &World, arguments: &[&str], stdin: &str) -> u64 {
    let trace = world.directory.path().join("trace").to_str().expect("UTF-8").to_owned();
    let program = env!("CARGO_BIN_EXE_riklet-sdn");
    let traced = ["-f", "-qq", "-e", "trace=recvfrom,recvmsg", "-e", "signal=none", "-o", &trace];
    let command = [&traced[..], &[program], arguments].concat();
    world.program("strace", &command, stdin).success();
    let lines = world.node.tool(&["cat", &trace]);
    let lengths = lines.lines().filter_map(|line| line.rsplit_once(" = ")?.1.parse::<u64>().ok());
    lengths.sum()
}

#[test]
fn up_reads_as_much_beside_many_routes_as_beside_few() {
    let world = World::new(Firewall::Nftables);
    let up = |name: &str, port: u16| {
        let definition = function(name, &[exposure(Transport::Tcp, port, TARGET)]);
        received(&world, &["up", "-"], &definition.to_string())
    };
    up("first", 8000);
    let few = up("second", 8001);
    let route = |n: u32| format!("route add 11.{}.{}.0/24 via {INTERNET}\n", n / 250, n % 250);
    let routes: String = (0..20_000).map(route).collect();
    world.node.feed(&["ip", "-batch", "-"], &routes).success();
    let many = up("third", 8002);
    // Of a listing of routes, the first part is read.
    let part = 4096;
    assert!(few > 1000 && many < few + few / 10 + part, "{few} bytes, then {many}");
}

//! Foreign routes and routing rules: functions work with them, and nothing of ours is left among them.

use std::{fs::File, io::Write, net::Ipv4Addr, time::Duration};

use crate::{
    internet::assert_internet,
    reach::{FIRST, TARGET, assert_published, pair},
    world::{
        CLIENT, INTERNET, INTERNET_FAR, NODE_LAN, NODE_OTHER, Namespace, OTHER, World,
        function::Function,
        on_every_firewall,
        state::{SystemState, assert_same},
        traffic::{tcp_ask, tcp_server},
        transport::{Path, Transport, assert_no_way, assert_paths},
        wait_for,
    },
};

/// A client behind a router of the second uplink.
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// The network of the second uplink.
const OTHER_NETWORK: &str = "172.20.0.0/24";

/// Asserts that a guest reaches a distant server by `oth0`, masqueraded.
#[track_caller]
fn assert_reached_by_other(world: &World, guest: &Namespace) {
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
fn second_uplink(world: &World) {
    world.other.tool(&["ip", "address", "add", &format!("{INTERNET_FAR}/32"), "dev", "lo"]);
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

/// Makes the network behind `oth0` a second uplink, by a routing rule on the source address. A client is far behind
/// it.
fn rule_by_source(world: &World) {
    let via = OTHER.to_string();
    world.other.tool(&["ip", "address", "add", &format!("{FAR}/32"), "dev", "lo"]);
    world.node.tool(&["ip", "route", "add", "default", "via", &via, "table", "100"]);
    world.node.tool(&["ip", "rule", "add", "from", OTHER_NETWORK, "lookup", "100"]);
}

/// Asserts that the far client is answered at the second uplink, and the others as usual.
#[track_caller]
fn assert_both_uplinks(world: &World, pair: &[Function; 2], when: &str) {
    let address = pair[0].address();
    let (node, far) = (NODE_OTHER.to_string(), FAR.to_string());
    world.other.tool(&["ip", "route", "add", &node, "dev", "eth0", "src", &far]);
    let path = Path {
        from: &world.other,
        to: (NODE_OTHER, FIRST),
        seen_as: FAR,
        server: (address, TARGET),
    };
    assert_paths(&format!("far client → second uplink, {when}"), &Transport::ALL, &[path]);
    world.other.tool(&["ip", "route", "del", &node, "dev", "eth0"]);
    assert_published(world, pair, &Transport::ALL);
    assert_internet(world, &pair[0]);
}

on_every_firewall!(answers_leave_by_the_uplink_that_was_asked, |world| {
    let before = SystemState::take(&world.node);
    let early = pair(world);
    assert_published(world, &early, &[Transport::Tcp]);
    rule_by_source(world);
    assert_eq!(world.riklet(&["check"], "").code, Some(1));
    world.riklet(&["repair"], "").success();
    world.riklet(&["check"], "").success();
    assert_both_uplinks(world, &early, "after a repair");
    // Marks that others set are kept.
    let chain = "add table ip mine\nadd chain ip mine early { type filter hook prerouting priority -200; }\n\
                 add rule ip mine early iifname \"rik*\" meta mark set 0x84000\n\
                 add chain ip mine see { type filter hook forward priority 10; }\n\
                 add rule ip mine see iifname \"rik*\" oifname oth0 meta mark 0x84001 counter\n";
    world.node.feed(&["nft", "-f", "-"], chain).success();
    assert_both_uplinks(world, &early, "beside other marks");
    let seen = world.node.tool(&["nft", "list", "chain", "ip", "mine", "see"]);
    assert!(!seen.contains("packets 0 "), "{seen}");
    world.node.tool(&["nft", "delete", "table", "ip", "mine"]);

    // With another mask, nothing of the first one is left.
    world.riklet(&["--mark-mask", "0x7f00000", "repair"], "").success();
    assert_both_uplinks(world, &early, "with another mask");
    let rules = world.node.tool(&["ip", "rule"]);
    assert!(rules.contains("fwmark 0x100000/0x700000 lookup 100"), "{rules}");
    world.down(&["--all", "--purge"]);
    world.node.tool(&["ip", "rule", "del", "from", OTHER_NETWORK, "lookup", "100"]);
    world.node.tool(&["ip", "route", "flush", "table", "100"]);
    assert_same(&before, &SystemState::take(&world.node));
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
    let answered = || ours().iter().any(|rule| rule.contains("lookup 100")).then_some(());
    let soon = Duration::from_secs(10);
    wait_for("the rules of ours", soon, answered);
    daemon.wait_until_idle();
    assert_both_uplinks(world, &pair, "beside a daemon");
    // Our rules are flushed.
    world.node.tool(&["ip", "rule", "flush", "protocol", "82"]);
    wait_for("the rules of ours", soon, answered);
    world.node.tool(&["ip", "rule", "del", "from", OTHER_NETWORK, "lookup", "100"]);
    wait_for("no rule of ours", soon, || ours().is_empty().then_some(()));
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

//! Tests of the harness itself.

use std::{net::Ipv4Addr, sync::mpsc, thread, time::Duration};

use riklet_core::model::{Pool, Slot};

use crate::world::{
    CLIENT, Firewall, INTERNET, INTERNET_FAR, NODE_LAN, NODE_LAN_SECOND, NODE_OTHER, NODE_UPLINK,
    Namespace, OTHER, World,
    foreign::{docker_like, nft_foreign},
    guest::{Guest, Nic},
    on_every_firewall,
    sctp::{sctp_ask, sctp_server},
    state::{SystemState, assert_same},
    traffic::{
        Ear, PATIENCE, SILENCE, UdpClient, assert_tcp_closed, assert_tcp_refused, ping, say,
        tcp_ask, tcp_echo, tcp_server, udp_ask, udp_server,
    },
    wait_for,
};

/// Attaches a guest to a TAP that the program did not create, and returns it with the node's address for it.
fn guest(world: &World, mtu: u32) -> (Guest, Ipv4Addr) {
    let nic = Nic { mtu, ..Nic::of_slot(Pool::candidates()[0], Slot::new(0)) };
    let (tap, node) = (&nic.interface, nic.gateway);
    world.node.tool(&["ip", "tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr"]);
    world.node.tool(&["ip", "link", "set", tap, "mtu", &mtu.to_string(), "up"]);
    world.node.tool(&["ip", "address", "add", &format!("{node}/30"), "dev", tap]);
    (Guest::attach(world, nic), node)
}

#[test]
fn node_and_neighbours_reach_each_other() {
    let world = World::new(Firewall::Nftables);
    for address in [NODE_LAN, NODE_LAN_SECOND, NODE_UPLINK, NODE_OTHER] {
        let server = tcp_server(&world.node, (address, 80));
        let answer = tcp_ask(&world.client, (address, 80)).unwrap();
        assert_eq!(answer.client.ip(), CLIENT);
        assert_eq!(answer.server, server.address);
    }
    for (namespace, there, here) in [
        (&world.client, CLIENT, NODE_LAN),
        (&world.internet, INTERNET, NODE_UPLINK),
        (&world.internet, INTERNET_FAR, NODE_UPLINK),
        (&world.other, OTHER, NODE_OTHER),
    ] {
        let server = udp_server(namespace, (there, 53));
        let answer = udp_ask(&world.node, server.address, PATIENCE).unwrap();
        assert_eq!(answer.client.ip(), here);
        assert!(ping(&world.node, there, PATIENCE));
    }
    assert_tcp_refused(&world.client, (NODE_LAN, 81));
    assert_eq!(udp_ask(&world.client, (NODE_LAN, 81), PATIENCE), None);
}

#[test]
fn nobody_is_forwarded_before_the_node_forwards() {
    let world = World::new(Firewall::Nftables);
    let server = tcp_server(&world.client, (CLIENT, 80));
    for stranger in [&world.internet, &world.other] {
        assert_tcp_closed(stranger, server.address);
    }
    assert!(!ping(&world.other, CLIENT, SILENCE));

    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    assert_eq!(world.node.sysctl("net/ipv4/ip_forward"), "1");
    for (stranger, address) in [(&world.internet, INTERNET), (&world.other, OTHER)] {
        assert_eq!(tcp_ask(stranger, server.address).unwrap().client.ip(), address);
    }
}

#[test]
fn a_guest_is_wired_to_its_tap() {
    let world = World::new(Firewall::Nftables);
    for (mtu, size) in [(1500, 300_000), (9000, 300_001)] {
        let (guest, node) = guest(&world, mtu);
        let address = guest.nic.address;
        assert!(ping(&world.node, address, PATIENCE));
        assert!(ping(&guest.namespace, node, PATIENCE));

        let inside = tcp_server(&guest.namespace, (address, 3000));
        let outside = tcp_server(&world.node, (node, 3000));
        assert_eq!(tcp_ask(&world.node, inside.address).unwrap().client.ip(), node);
        assert_eq!(tcp_ask(&guest.namespace, outside.address).unwrap().client.ip(), address);
        let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
        assert!(tcp_echo(&world.node, inside.address, &bytes).unwrap() == bytes);
        assert!(tcp_echo(&guest.namespace, outside.address, &bytes).unwrap() == bytes);

        let tap = guest.nic.interface.clone();
        drop((inside, guest));
        wait_for("the TAP to have lost its carrier", PATIENCE, || {
            world.node.tool(&["ip", "link", "show", &tap]).contains("NO-CARRIER").then_some(())
        });
        world.node.tool(&["ip", "link", "delete", &tap]);
    }
}

#[test]
fn a_datagram_client_keeps_its_port() {
    let world = World::new(Firewall::Nftables);
    let server = udp_server(&world.node, (NODE_LAN, 53));
    let mut client = UdpClient::new(&world.client, server.address);
    let first = client.ask(PATIENCE).unwrap();
    assert_eq!(client.ask(PATIENCE), Some(first));
    assert_ne!(udp_ask(&world.client, server.address, PATIENCE), Some(first));
    drop(server);
    assert_eq!(client.ask(PATIENCE), None);
}

#[test]
fn a_hostile_neighbour_reaches_the_loopback_of_a_node_that_lets_it() {
    let world = World::new(Firewall::Nftables);
    let local = Ipv4Addr::LOCALHOST;
    let server = tcp_server(&world.node, (local, 80));
    let ear = Ear::new(&world.node, (Ipv4Addr::UNSPECIFIED, 53));
    world.client.send_loopback_to(NODE_LAN);
    world.client.tool(&["ip", "address", "add", "127.0.0.9/32", "dev", "lo"]);
    assert!(ping(&world.client, NODE_LAN, PATIENCE));
    for (route_localnet, reached) in [("0", false), ("1", true)] {
        world.node.set_sysctl("net/ipv4/conf/lan0/route_localnet", route_localnet);
        assert_eq!(tcp_ask(&world.client, server.address).is_ok(), reached);
        say(&world.client, Ipv4Addr::new(127, 0, 0, 9), (NODE_LAN, 53), "from 127.0.0.9");
        assert_eq!(ear.hear(SILENCE).is_some(), reached);
    }
}

#[test]
fn nothing_outlives_a_world_even_after_a_panic() {
    let host = Namespace::current();
    let links = || host.tool(&["ip", "-brief", "link"]);
    let before = links();
    let (sender, receiver) = mpsc::channel();
    let panicked = thread::spawn(move || {
        let world = World::new(Firewall::Nftables);
        sender.send((world.client.clone(), world.directory.path().to_owned())).unwrap();
        let _server = tcp_server(&world.node, (NODE_LAN, 80));
        std::panic::resume_unwind(Box::new("a test fails"));
    });
    assert!(panicked.join().is_err());
    let (client, directory): (Namespace, _) = receiver.recv().unwrap();
    assert!(!directory.exists());
    // A cable vanishes with the namespace of its other end.
    wait_for("the node to vanish", Duration::from_secs(20), || {
        (!client.tool(&["ip", "link"]).contains("eth0")).then_some(())
    });
    assert_eq!(links(), before);
}

on_every_firewall!(the_node_has_the_firewall_under_test, |world| {
    let version = world.program("iptables", &["--version"], "").success();
    let variant = match world.firewall {
        Firewall::Nftables | Firewall::IptablesNft => "nf_tables",
        Firewall::IptablesLegacy => "legacy",
    };
    assert!(version.contains(variant), "{version}");
    assert!(world.riklet(&["--version"], "").success().starts_with("riklet-sdn "));
    let missing = world.program("sh", &["-c", "echo gone >&2; exit 3"], "unread").failure(3);
    assert_eq!(missing, "gone\n");
});

on_every_firewall!(foreign_firewalls_drop_what_the_node_would_forward, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let server = tcp_server(&world.client, (CLIENT, 80));
    tcp_ask(&world.internet, server.address).unwrap();
    docker_like(world, world.firewall);
    assert_tcp_closed(&world.internet, server.address);
    let forward = world.program("iptables", &["-S", "FORWARD"], "").success();
    assert!(forward.starts_with("-P FORWARD DROP\n"), "{forward}");
});

#[test]
fn a_foreign_nft_firewall_drops_what_the_node_would_forward() {
    let world = World::new(Firewall::Nftables);
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let server = tcp_server(&world.client, (CLIENT, 80));
    tcp_ask(&world.internet, server.address).unwrap();
    nft_foreign(&world.node);
    assert_tcp_closed(&world.internet, server.address);
}

on_every_firewall!(a_snapshot_differs_exactly_when_the_system_does, |world| {
    let node = &world.node;
    let address = ["address", "add", "10.1.1.1/32", "dev", "lo"];
    let neighbour = ["neighbour", "add", "192.168.7.77", "lladdr", "2:0:0:0:0:1", "dev", "lan0"];
    let rule = ["-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP"];
    let changes: [(&str, &[&str]); 5] = [
        ("ip", &address),
        ("ip", &neighbour),
        ("ip", &["route", "add", "192.0.2.0/24", "via", "192.168.7.2"]),
        ("iptables", &rule),
        ("nft", &["add", "table", "inet", "more"]),
    ];
    nft_foreign(node);
    node.tool(&["nft", "delete", "table", "ip", "filter"]);
    docker_like(world, world.firewall);
    let mut before = SystemState::take(node);
    for (program, arguments) in changes {
        assert_same(&before, &SystemState::take(node));
        world.program(program, arguments, "").success();
        let after = SystemState::take(node);
        let differences = before.differences(&after);
        let only_more = differences.contains("\n  + ") && !differences.contains("\n  - ");
        assert!(only_more, "after {program} {arguments:?}: {differences}");
        before = after;
    }
    // Traffic changes nothing in a snapshot.
    udp_ask(node, (CLIENT, 53), SILENCE);
    tcp_ask(node, (CLIENT, 53)).unwrap_err();
    assert_same(&before, &SystemState::take(node));
});

#[test]
fn snapshot_changes_nothing() {
    let world = World::new(Firewall::IptablesLegacy);
    let before = SystemState::take(&world.node);
    assert_eq!(world.node.tool(&["nft", "list", "ruleset"]), "");
    // The legacy variant creates empty tables when it lists rules. It cannot remove them.
    world.program("iptables", &["-S"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    assert_ne!(before, SystemState::take(&world.node));
    world.node.set_sysctl("net/ipv4/ip_forward", "0");
    assert_same(&before, &SystemState::take(&world.node));
}

#[test]
fn sctp_associations_are_established() {
    let world = World::new(Firewall::Nftables);
    let server = sctp_server(&world.node, (NODE_LAN, 7));
    let answer = sctp_ask(&world.client, server.address).unwrap();
    assert_eq!((answer.client.ip(), answer.server), (CLIENT.into(), server.address));
    assert_eq!(sctp_ask(&world.node, server.address).unwrap().client.ip(), NODE_LAN);
    sctp_ask(&world.client, (NODE_LAN, 8)).unwrap_err();
    drop(server);
    sctp_ask(&world.client, (NODE_LAN, 7)).unwrap_err();
}

on_every_firewall!(sctp_associations_pass_dnat, |world| {
    let (guest, _) = guest(world, 1500);
    let server = sctp_server(&guest.namespace, (guest.nic.address, 3000));
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let published = (NODE_LAN, 8080);
    sctp_ask(&world.client, published).unwrap_err();
    let to = server.address.to_string();
    if world.firewall == Firewall::Nftables {
        let rules = format!(
            "table ip exposed {{ chain prerouting {{ type nat hook prerouting priority dstnat; \
             ip protocol sctp sctp dport 8080 dnat to {to}\n}}\n}}\n"
        );
        world.node.feed(&["nft", "-f", "-"], &rules).success();
    } else {
        let rule = ["-t", "nat", "-A", "PREROUTING", "-p", "sctp", "--dport", "8080", "-j", "DNAT"];
        world.program("iptables", &[&rule[..], &["--to-destination", &to]].concat(), "").success();
    }
    let answer = sctp_ask(&world.client, published).unwrap();
    assert_eq!((answer.client.ip(), answer.server), (CLIENT.into(), server.address));
});

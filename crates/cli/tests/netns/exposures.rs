//! Exposures: addresses, ranges and protocols, and the effect of a change.

use std::{io::ErrorKind::ConnectionRefused, net::Ipv4Addr};

use crate::world::{
    CLIENT, Firewall, NODE_LAN, NODE_LAN_SECOND, NODE_OTHER, NODE_UPLINK, World,
    function::{Function, bound, every_transport, exposure, function},
    on_every_firewall,
    traffic::{Connection, PATIENCE, UdpClient},
    transport::{
        Path, Transport,
        Transport::{Sctp, Tcp, Udp},
        assert_paths, assert_refused,
    },
};

/// Returns the path from the client to this address of the node, which must lead to this port of the function.
fn leads<'a>(world: &'a World, to: (Ipv4Addr, u16), function: &Function, port: u16) -> Path<'a> {
    Path { from: &world.client, to, seen_as: CLIENT, server: (function.address(), port) }
}

on_every_firewall!(an_exposure_is_bound_to_the_address_that_it_names, |world| {
    let at = |address| every_transport(80, 3000).map(|exposure| bound(address, exposure));
    let serves = Transport::ALL.map(|transport| (transport, 3000));
    let functions = [("lan", NODE_LAN), ("uplink", NODE_UPLINK), ("local", Ipv4Addr::LOCALHOST)];
    let functions = functions.map(|(name, address)| (function(name, &at(address)), &serves[..]));
    let [lan, uplink, local] = world.start(functions);
    let from_client =
        [leads(world, (NODE_LAN, 80), &lan, 3000), leads(world, (NODE_UPLINK, 80), &uplink, 3000)];
    assert_paths("client → address", &Transport::ALL, &from_client);
    let from_node = [
        (NODE_LAN, NODE_LAN, &lan),
        (NODE_UPLINK, NODE_UPLINK, &uplink),
        (Ipv4Addr::LOCALHOST, local.gateway(), &local),
    ];
    let from_node = from_node.map(|(address, seen_as, function)| Path {
        from: &world.node,
        to: (address, 80),
        seen_as,
        server: (function.address(), 3000),
    });
    assert_paths("node → address", &Transport::ALL, &from_node);
    let from_function =
        [(NODE_LAN, &lan), (NODE_UPLINK, &uplink)].map(|(address, function)| Path {
            from: &local.guest.namespace,
            to: (address, 80),
            seen_as: local.address(),
            server: (function.address(), 3000),
        });
    assert_paths("function → address", &Transport::ALL, &from_function);

    for transport in Transport::ALL {
        for address in [NODE_LAN_SECOND, NODE_OTHER, lan.gateway()] {
            assert_refused(transport, &world.client, (address, 80));
        }
    }
    for transport in [Tcp, Udp] {
        for address in [NODE_LAN_SECOND, NODE_OTHER, lan.gateway(), Ipv4Addr::new(127, 0, 0, 2)] {
            assert_refused(transport, &world.node, (address, 80));
        }
        assert_refused(transport, &lan.guest.namespace, (lan.gateway(), 80));
    }
});

on_every_firewall!(range_may_span_all_ports, |world| {
    let wide = [exposure(Udp, "49152-65535", "49152-65535"), exposure(Tcp, "2-65535", "1-65534")];
    let serves = [49152, 57000, 65535].map(|port| (Udp, port));
    let serves = [&serves[..], &[1, 29_999, 65_534].map(|port| (Tcp, port))].concat();
    let [wide] = world.start([(function("wide", &wide), &serves)]);
    let at = |port, target| leads(world, (NODE_LAN, port), &wide, target);
    assert_paths("same ports", &[Udp], &[49152, 57000, 65535].map(|port| at(port, port)));
    let others = [(2, 1), (30_000, 29_999), (65_535, 65_534)].map(|(port, to)| at(port, to));
    assert_paths("other ports", &[Tcp], &others);
    assert_refused(Udp, &world.client, (NODE_LAN, 49151));
    assert_refused(Tcp, &world.client, (NODE_LAN, 1));
    // The guest refuses, so it was asked: only published ports reach it.
    assert_refused(Udp, &world.client, (NODE_LAN, 50_000));
    assert_eq!(world.riklet(&["check"], "").success(), "");
    world.riklet(&["down", "wide"], "").success();
    assert_refused(Udp, &world.client, (NODE_LAN, 57000));
    assert_eq!(world.assert_in_step().len(), 0);
});

on_every_firewall!(a_range_is_one_rule_and_is_bound_to_its_address, |world| {
    let lan = [bound(NODE_LAN, exposure(Udp, "20000-20999", "20000-20999"))];
    let uplink = [bound(NODE_UPLINK, exposure(Udp, "20000-20999", "21000-21999"))];
    let (serves, others) = ([20000, 20500, 20999], [21000, 21500, 21999]);
    let [lan, uplink] = world.start([
        (function("lan", &lan), &serves.map(|port| (Udp, port))),
        (function("uplink", &uplink), &others.map(|port| (Udp, port))),
    ]);
    let same = serves.map(|port| leads(world, (NODE_LAN, port), &lan, port));
    assert_paths("to the one", &[Udp], &same);
    let other = serves.map(|port| leads(world, (NODE_UPLINK, port), &uplink, port + 1000));
    assert_paths("to the other", &[Udp], &other);
    assert_refused(Udp, &world.client, (NODE_LAN, 21000));
    if world.firewall != Firewall::Nftables {
        let rules = world.program("iptables", &["-t", "nat", "-S", "RIKLET"], "").success();
        assert_eq!(rules.lines().filter(|line| line.starts_with("-A ")).count(), 2, "{rules}");
    }
    assert_eq!(world.assert_in_step().len(), 2);
});

on_every_firewall!(many_exposures_change_in_one_transaction, |world| {
    let port = |number: u16| exposure(Udp, 10_000 + 2 * number, 4000 + number);
    let (all, half): (Vec<_>, Vec<_>) = ((0..60).map(port).collect(), (0..30).map(port).collect());
    let serves = [(Udp, 4000), (Udp, 4059)];
    let [many, stays] = world.start([
        (function("many", &all), &serves),
        (function("stays", &[exposure(Udp, 53, 53)]), &[(Udp, 53)]),
    ]);
    let paths = [
        leads(world, (NODE_LAN, 10_118), &many, 4059),
        leads(world, (NODE_LAN, 10_000), &many, 4000),
        leads(world, (NODE_LAN, 53), &stays, 53),
    ];
    assert_paths("at first", &[Udp], &paths);
    world.up(&[function("many", &half)]);
    assert_refused(Udp, &world.client, (NODE_LAN, 10_118));
    assert_paths("the others", &[Udp], &paths[1..]);
    assert_eq!(world.assert_in_step().len(), 2);
    world.riklet(&["down", "many"], "").success();
    assert_refused(Udp, &world.client, (NODE_LAN, 10_000));
    assert_paths("the other function", &[Udp], &paths[2..]);
    assert_eq!(world.assert_in_step().len(), 1);
});

on_every_firewall!(a_range_maps_port_by_port_beside_other_exposures, |world| {
    let many = function(
        "many",
        &[
            exposure(Tcp, "8000-8010", "3000-3010"),
            exposure(Udp, "8000-8010", "4000-4010"),
            exposure(Tcp, 80, 3005),
            exposure(Tcp, 53, 3000),
        ],
    );
    // Another function may have the same ports by other protocols.
    let rest = function(
        "rest",
        &[exposure(Udp, 53, 53), exposure(Sctp, 53, 53), exposure(Sctp, "8000-8010", "1-11")],
    );
    let of_many = [3000, 3005, 3010].map(|port| (Tcp, port)).into_iter();
    let of_many: Vec<_> = of_many.chain([4000, 4005, 4010].map(|port| (Udp, port))).collect();
    let of_rest = [(Udp, 53), (Sctp, 53), (Sctp, 11)];
    let [many, rest] = world.start([(many, &of_many), (rest, &of_rest)]);
    let at = |port, function, target| leads(world, (NODE_LAN, port), function, target);
    let tcp = [(8000, 3000), (8005, 3005), (8010, 3010), (80, 3005), (53, 3000)];
    assert_paths("range", &[Tcp], &tcp.map(|(port, target)| at(port, &many, target)));
    let udp = [(8000, 4000), (8005, 4005), (8010, 4010)];
    assert_paths("range", &[Udp], &udp.map(|(port, target)| at(port, &many, target)));
    assert_paths("the other function", &[Udp, Sctp], &[at(53, &rest, 53)]);
    assert_paths("the other function", &[Sctp], &[at(8010, &rest, 11)]);
    for transport in Transport::ALL {
        for port in [7999, 8011] {
            assert_refused(transport, &world.client, (NODE_LAN, port));
        }
    }
    assert_refused(Udp, &world.client, (NODE_LAN, 80));
    // The port is within the range, but nobody serves it: the guest refuses.
    assert_refused(Tcp, &world.client, (NODE_LAN, 8001));
});

on_every_firewall!(changed_definition_affects_only_its_changed_exposures, |world| {
    let before = [
        exposure(Tcp, 8080, 3000),
        exposure(Tcp, 8081, 3000),
        exposure(Tcp, 8082, 3001),
        exposure(Udp, 8080, 3000),
        exposure(Udp, 8081, 3000),
    ];
    let after = [
        exposure(Tcp, 8080, 3000),
        exposure(Tcp, 8082, 3002),
        exposure(Tcp, 8083, 3001),
        exposure(Udp, 8080, 3000),
    ];
    let serves = [(Tcp, 3001), (Tcp, 3002), (Udp, 3000)];
    let [changed] = world.start([(function("changed", &before), &serves)]);
    let connect = |port| {
        let guest = &changed.guest.namespace;
        Connection::new(&world.client, (NODE_LAN, port), guest, (changed.address(), 3000))
    };
    let (stays, goes) = (connect(8080), connect(8081));
    let [mut datagrams_stay, mut datagrams_go] =
        [8080, 8081].map(|port| UdpClient::new(&world.client, (NODE_LAN, port)));
    let seen = datagrams_stay.ask(PATIENCE).unwrap();
    datagrams_go.ask(PATIENCE).unwrap();
    let tap = world.node.tool(&["ip", "-o", "link", "show", &changed.guest.nic.interface]);

    let nics = world.up(&[function("changed", &after)]);
    assert_eq!(nics[0].address, changed.address());
    stays.assert_alive();
    goes.assert_reset();
    assert_eq!(datagrams_stay.ask(PATIENCE), Some(seen));
    assert!(datagrams_go.try_ask(PATIENCE).is_err_and(|e| e.kind() == ConnectionRefused));
    assert_refused(Tcp, &world.client, (NODE_LAN, 8081));
    let moved = [(8082, 3002), (8083, 3001)];
    let moved = moved.map(|(port, target)| leads(world, (NODE_LAN, port), &changed, target));
    assert_paths("changed", &[Tcp], &moved);

    world.up(&[function("changed", &[exposure(Tcp, 8080, 3000)]), function("another", &[])]);
    stays.assert_alive();
    assert!(datagrams_stay.try_ask(PATIENCE).is_err_and(|e| e.kind() == ConnectionRefused));
    world.up(&[function("changed", &[])]);
    stays.assert_reset();
    // It was the same interface throughout.
    let same = world.node.tool(&["ip", "-o", "link", "show", &changed.guest.nic.interface]);
    assert_eq!(same.split(':').next(), tap.split(':').next());
});

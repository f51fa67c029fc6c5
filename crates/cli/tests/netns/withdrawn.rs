//! The effect on clients when a port is withdrawn, moves to another function, or is published late.

use std::{
    io::ErrorKind::ConnectionRefused,
    net::{Ipv4Addr, SocketAddr},
};

use crate::world::{
    CLIENT, INTERNET, NODE_LAN, NODE_UPLINK, World,
    function::{Function, every_transport, exposure, function, shadowing},
    on_every_firewall,
    sctp::SctpClient,
    traffic::{Connection, PATIENCE, UdpClient, tcp_server, udp_ask, udp_server},
    transport::{
        Path, Transport,
        Transport::{Sctp, Tcp, Udp},
        assert_no_way, assert_paths, assert_refused,
    },
};

const SERVES: [(Transport, u16); 3] = [(Tcp, 3000), (Udp, 3000), (Sctp, 3000)];

/// Brings up one function on port 8080, by every protocol.
fn start(world: &World, name: &str, target: u16) -> Function {
    let serves = Transport::ALL.map(|transport| (transport, target));
    let [function] = world.start([(function(name, &every_transport(8080, target)), &serves)]);
    function
}

/// Asserts that the node itself answers a datagram: nobody serves the port.
#[track_caller]
fn assert_nobody(client: &mut UdpClient) {
    let result = client.try_ask(PATIENCE);
    assert!(result.as_ref().is_err_and(|e| e.kind() == ConnectionRefused), "{result:?}");
}

/// Asserts that this port of the function answers a datagram from the same client port as before.
#[track_caller]
fn assert_answered_by(client: &mut UdpClient, function: &Function, port: u16) {
    let server = SocketAddr::from((function.address(), port));
    assert_eq!(client.ask(PATIENCE).map(|answer| answer.server), Some(server));
}

on_every_firewall!(a_port_that_was_taken_down_is_refused_at_once, |world| {
    let gone = [&every_transport(8080, 3000)[..], &[exposure(Tcp, 8081, 4000)]].concat();
    let [goes, stays] = world.start([
        (function("goes", &gone), &SERVES),
        (function("stays", &every_transport(9090, 3000)), &SERVES),
    ]);
    let guest = (&goes.guest.namespace, (goes.address(), 4000));
    let connection = Connection::new(&world.client, (NODE_LAN, 8081), guest.0, guest.1);
    connection.assert_alive();
    let client = |from, to: Ipv4Addr, port| UdpClient::new(from, (to, port));
    let mut clients = [
        client(&world.client, NODE_LAN, 8080),
        client(&world.internet, NODE_UPLINK, 8080),
        client(&world.node, NODE_LAN, 8080),
        client(&world.node, Ipv4Addr::LOCALHOST, 8080),
        client(&stays.guest.namespace, stays.gateway(), 8080),
    ];
    for client in &mut clients {
        assert_answered_by(client, &goes, 3000);
    }
    let mut unconcerned = client(&world.client, NODE_LAN, 9090);
    let seen = unconcerned.ask(PATIENCE).unwrap();
    let internet = udp_server(&world.internet, (INTERNET, 53));
    udp_ask(&goes.guest.namespace, internet.address, PATIENCE).unwrap();

    let address = goes.address().to_string();
    let flows = |end| world.node.tool(&["conntrack", "-L", end, &address]);
    let ends = ["--orig-src", "--reply-src"];
    assert!(ends.into_iter().all(|end| flows(end).contains("udp")));
    // The guest is still running.
    world.down(&["goes"]);
    assert_eq!(ends.map(flows), ["", ""]);
    clients.iter_mut().for_each(assert_nobody);
    connection.assert_reset();
    for transport in Transport::ALL {
        assert_refused(transport, &world.client, (NODE_LAN, 8080));
        assert_refused(transport, &world.internet, (NODE_UPLINK, 8080));
    }
    assert_refused(Tcp, &stays.guest.namespace, (NODE_LAN, 8080));
    assert_refused(Udp, &stays.guest.namespace, (NODE_LAN, 8080));
    assert_no_way(&[(Sctp, &stays.guest.namespace, (NODE_LAN, 8080))]);
    for address in [NODE_LAN, Ipv4Addr::LOCALHOST] {
        assert_refused(Tcp, &world.node, (address, 8080));
        assert_refused(Udp, &world.node, (address, 8080));
    }

    assert_eq!(unconcerned.ask(PATIENCE), Some(seen));
    let to = (NODE_LAN, 9090);
    let server = (stays.address(), 3000);
    let path = Path { from: &world.client, to, seen_as: CLIENT, server };
    assert_paths("what stays", &Transport::ALL, &[path]);
});

on_every_firewall!(clients_follow_a_port_to_another_function, |world| {
    let first = start(world, "first", 3001);
    let mut remote = UdpClient::new(&world.client, (NODE_LAN, 8080));
    let mut local = UdpClient::new(&world.node, (Ipv4Addr::LOCALHOST, 8080));
    let mut answered_by = |function: &Function, port| {
        assert_answered_by(&mut remote, function, port);
        assert_answered_by(&mut local, function, port);
    };
    answered_by(&first, 3001);
    world.down(&["first"]);
    let second = start(world, "second", 3002);
    answered_by(&second, 3002);

    // The port moves from one function to the other in one call, whichever is named first.
    let exposed = |target| every_transport(8080, target);
    let nics = world.up(&[function("second", &[]), function("third", &exposed(3003))]);
    let third = Function::start(world, nics[1].clone(), &[(Udp, 3003)]);
    answered_by(&third, 3003);
    world.up(&[function("second", &exposed(3002)), function("third", &[])]);
    answered_by(&second, 3002);
    // The port moves to another port of the same function.
    world.up(&[function("second", &exposed(3004))]);
    let guest = &second.guest.namespace;
    let _moved = Udp.serve(guest, second.address(), 3004);
    answered_by(&second, 3004);
});

on_every_firewall!(early_client_is_answered_once_the_port_is_published, |world| {
    let [neighbour] = world.start([(function("neighbour", &[]), &[])]);
    let mut clients = [
        UdpClient::new(&world.client, (NODE_LAN, 8080)),
        UdpClient::new(&world.node, (NODE_LAN, 8080)),
        UdpClient::new(&world.node, (Ipv4Addr::LOCALHOST, 8080)),
        UdpClient::new(&neighbour.guest.namespace, (neighbour.gateway(), 8080)),
    ];
    clients.iter_mut().for_each(assert_nobody);
    let association = SctpClient::new(&world.client, (NODE_LAN, 8080)).unwrap();
    association.ask().unwrap_err();
    let late = start(world, "late", 3000);
    for client in &mut clients {
        assert_answered_by(client, &late, 3000);
    }
    assert_eq!(association.ask().unwrap().server, (late.address(), 3000).into());
});

on_every_firewall!(an_exposure_shadows_a_local_process_while_it_lasts, |world| {
    // The kernel tracks connections only once the first function is up.
    world.up(&[function("neighbour", &[])]);
    let [_tcp, datagrams] = [
        tcp_server(&world.node, (Ipv4Addr::UNSPECIFIED, 8080)),
        udp_server(&world.node, (NODE_LAN, 8080)),
    ];
    let mut client = UdpClient::new(&world.client, (NODE_LAN, 8080));
    let path = |server| Path { from: &world.client, to: (NODE_LAN, 8080), seen_as: CLIENT, server };
    let of_node = path((NODE_LAN, 8080));
    assert_paths("process", &[Tcp, Udp], &[of_node]);
    assert_eq!(client.ask(PATIENCE).unwrap().server, datagrams.address);
    let serves = Transport::ALL.map(|transport| (transport, 3000));
    let exposures = every_transport(8080, 3000).map(shadowing);
    let [function] = world.start([(function("shadow", &exposures), &serves)]);
    assert_paths("function", &Transport::ALL, &[path((function.address(), 3000))]);
    assert_answered_by(&mut client, &function, 3000);
    world.down(&["shadow"]);
    assert_paths("process", &[Tcp, Udp], &[of_node]);
    assert_eq!(client.ask(PATIENCE).unwrap().server, datagrams.address);
});

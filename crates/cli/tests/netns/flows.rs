//! The limit of the flows that a guest begins.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    reach::{FIRST, SECOND, pair},
    world::{
        INTERNET, NODE_LAN, Namespace, World,
        function::{Function, function},
        on_every_firewall,
        traffic::{Connection, PATIENCE, SILENCE, UdpClient, tcp_ask, udp_ask},
        transport::Transport::{Tcp, Udp},
        wait_for,
    },
};

const SERVICE: u16 = 7000;
/// The first port of the servers that flows stay open to.
const KEPT: u16 = 7001;

/// Sets the limit for all guests.
fn limit(world: &World, flows: u16) {
    world.riklet(&["repair", "--flows", &flows.to_string()], "").success();
    // Answered datagrams have flows that outlast the test, however slow it is.
    for timeout in ["udp_timeout", "udp_timeout_stream"] {
        world.node.set_sysctl(&format!("net/netfilter/nf_conntrack_{timeout}"), "3000");
    }
}

/// Begins as many flows as there are ports.
fn connections(world: &World, guest: &Namespace, flows: u16) -> Vec<Connection> {
    let to = (KEPT..KEPT + flows).map(|port| (INTERNET, port));
    to.map(|to| Connection::new(guest, to, &world.internet, to)).collect()
}

fn answered(guest: &Namespace, flows: u16) -> Vec<UdpClient> {
    let client = |_| {
        let mut client = UdpClient::new(guest, (INTERNET, SERVICE));
        client.try_ask(PATIENCE).expect("a guest below its limit is answered");
        client
    };
    (0..flows).map(client).collect()
}

/// Asserts that the guest can begin no flow, neither to a host of the Internet nor to another guest's published port.
#[track_caller]
fn assert_at_limit(guest: &Namespace) {
    let targets: [SocketAddr; 2] = [(INTERNET, SERVICE).into(), (NODE_LAN, SECOND).into()];
    for to in targets {
        assert_eq!(udp_ask(guest, to, SILENCE), None, "{to} is asked beyond the limit");
        let begun = Tcp.ask_within(SILENCE, guest, to);
        assert!(begun.is_err(), "{to} is asked beyond the limit: {begun:?}");
    }
}

/// Asserts that what the guest has begun goes on, and that nobody else is affected.
#[track_caller]
fn assert_undisturbed(
    world: &World,
    [_, second]: &[Function; 2],
    connections: &[Connection],
    answered: &mut [UdpClient],
) {
    for connection in connections {
        connection.assert_alive();
    }
    for client in answered {
        client.try_ask(PATIENCE).expect("an established flow goes on");
    }
    for transport in [Tcp, Udp] {
        let answer = transport.ask(&second.guest.namespace, (INTERNET, SERVICE));
        answer.expect("another guest begins flows");
        for from in [&world.client, &world.node, &second.guest.namespace] {
            let answer = transport.ask(from, (NODE_LAN, FIRST));
            answer.expect("the guest at its limit answers at its published port");
        }
    }
}

/// Returns the number of entries in the node's table.
fn entries(world: &World) -> usize {
    world.node.sysctl("net/netfilter/nf_conntrack_count").parse().expect("a number")
}

on_every_firewall!(a_guest_begins_as_many_flows_as_it_may, |world| {
    let pair = pair(world);
    let guest = &pair[0].guest.namespace;
    let _servers = [Tcp, Udp].map(|by| by.serve(&world.internet, INTERNET, SERVICE));

    limit(world, 64);
    let tcp = connections(world, guest, 32);
    let mut udp = answered(guest, 32);
    assert_at_limit(guest);
    assert_undisturbed(world, &pair, &tcp, &mut udp);
    // What others begin does not count, however many they are.
    let mut asked = BTreeSet::new();
    for _ in 0..80 {
        let answer = udp_ask(&world.client, (NODE_LAN, FIRST), PATIENCE);
        asked.insert(answer.expect("the guest answers").client.port());
    }
    assert!(asked.len() > 64, "{asked:?}");
    assert_at_limit(guest);

    let before = entries(world);
    let socket = UdpClient::new(guest, (INTERNET, SERVICE));
    for port in 20_000..24_000 {
        socket.send_to((INTERNET, port));
    }
    assert_at_limit(guest);
    // Flows of others may have ended meanwhile.
    assert!(entries(world) <= before, "{before} entries have become {}", entries(world));
    assert_undisturbed(world, &pair, &tcp, &mut udp);
    world.riklet(&["check"], "").success();

    // Flows that end make room.
    drop(tcp);
    wait_for("a flow after others have ended", PATIENCE, || {
        Tcp.ask_within(SILENCE, guest, (INTERNET, SERVICE).into()).ok()
    });
    assert_undisturbed(world, &pair, &[], &mut udp);
});

on_every_firewall!(the_limit_of_flows_is_changed_live, |world| {
    let pair = pair(world);
    let guest = &pair[0].guest.namespace;
    let _servers = [Tcp, Udp].map(|by| by.serve(&world.internet, INTERNET, SERVICE));
    limit(world, 8);
    let mut udp = answered(guest, 8);
    assert_at_limit(guest);

    limit(world, 64);
    udp.extend(answered(guest, 24));
    tcp_ask(guest, (INTERNET, SERVICE)).expect("the limit is higher");
    assert_undisturbed(world, &pair, &[], &mut udp);

    world.riklet(&["repair", "--flows", "unlimited"], "").success();
    udp.extend(answered(guest, 80));
    assert_undisturbed(world, &pair, &[], &mut udp);

    let third = function("third", &[]).to_string();
    let refused = world.riklet(&["--flows", "8", "up", "-"], &third).failure(2);
    assert!(refused.contains("hint: `riklet-sdn repair --flows 8`"), "{refused}");
    world.riklet(&["check"], "").success();
});

on_every_firewall!(closed_connections_of_a_guest_do_not_fill_the_table, |world| {
    const LIMIT: u16 = 64;
    const EACH_SECOND: f64 = 4.0;
    let pair = pair(world);
    let guest = &pair[0].guest.namespace;
    let _server = Tcp.serve(&world.internet, INTERNET, SERVICE);
    limit(world, LIMIT);
    #[expect(clippy::disallowed_methods, reason = "the test measures a rate")]
    let now = Instant::now;
    let begin = now();
    let open = |_: &i32| {
        Tcp.ask_within(Duration::from_millis(30), guest, (INTERNET, SERVICE).into()).is_ok()
    };
    let opened = u32::try_from((0..160).filter(open).count()).expect("few");
    let allowed = f64::from(LIMIT) + EACH_SECOND * begin.elapsed().as_secs_f64() + 1.0;
    assert!(f64::from(opened) <= allowed, "{opened} connections, of {allowed} allowed");
    tcp_ask(&pair[1].guest.namespace, (INTERNET, SERVICE)).expect("another guest begins flows");
});

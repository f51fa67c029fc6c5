//! Attacks while the firewall has no rules: another program, or an administrator, has taken them away.

use std::net::Ipv4Addr;

use rustix::process::Signal;

use super::{by_every_kind, flush, own, unguard};
use crate::{
    internet::assert_internet,
    reach::{FIRST, SECOND, TARGET, assert_published, pair},
    world::{
        NODE_LAN, World,
        function::{Function, every_transport, exposure, function},
        on_every_firewall,
        traffic::{Connection, Ear, PATIENCE, SILENCE, ping, say, tcp_ask},
        transport::{Transport, assert_no_way},
    },
};

const SECRET: u16 = 4000;

/// Asserts that guests do not reach each other, nor 127.0.0.1, while the host reaches them.
#[track_caller]
fn assert_apart(world: &World, [first, second]: &[Function; 2]) {
    let local = Ear::new(&world.node, (Ipv4Addr::LOCALHOST, SECRET));
    let secret = Ear::new(&second.guest.namespace, (second.address(), SECRET));
    let guest = &first.guest;
    guest.send(&own(guest, Ipv4Addr::LOCALHOST, SECRET, "to the loopback").frame());
    guest.send(&own(guest, second.address(), SECRET, "to another guest").frame());
    assert_eq!((local.hear(SILENCE), secret.hear(SILENCE)), (None, None));
    let tries = [Transport::Tcp, Transport::Udp];
    assert_no_way(&tries.map(|t| (t, &guest.namespace, (second.address(), TARGET))));
    // Refused at once, by routing.
    assert!(!ping(&guest.namespace, second.address(), SILENCE));
    say(&world.node, Ipv4Addr::UNSPECIFIED, (second.address(), SECRET), "from the host");
    assert!(secret.hear(PATIENCE).is_some(), "the host reaches its guests");
    tcp_ask(&world.node, (second.address(), TARGET)).expect("the host reaches its guests");
    assert!(ping(&guest.namespace, first.gateway(), PATIENCE), "a guest reaches its gateway");
}

/// Asserts that without the routing rule and the guard both attacks would succeed.
#[track_caller]
fn assert_notices(world: &World, [first, second]: &[Function; 2]) {
    let local = Ear::new(&world.node, (Ipv4Addr::LOCALHOST, SECRET));
    let secret = Ear::new(&second.guest.namespace, (second.address(), SECRET));
    let guest = &first.guest;
    let rules = world.node.tool(&["ip", "rule", "list"]);
    let rule = rules.lines().find(|rule| rule.ends_with("prohibit proto 82"));
    let priority = rule.and_then(|rule| rule.split_once(':')).expect("the rule").0;
    world.node.tool(&["ip", "rule", "delete", "pref", priority]);
    unguard(world, guest);
    guest.send(&own(guest, Ipv4Addr::LOCALHOST, SECRET, "to the loopback").frame());
    guest.send(&own(guest, second.address(), SECRET, "to another guest").frame());
    assert!(local.hear(PATIENCE).is_some() && secret.hear(PATIENCE).is_some());
}

by_every_kind!(guests_stay_apart_without_a_firewall, |world, pair| {
    // Everything is forwarded, so that only what we set can refuse.
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    assert_published(world, &pair, &Transport::ALL);
    assert_apart(world, &pair);
    flush(world);
    assert_apart(world, &pair);
    assert_notices(world, &pair);
    world.riklet(&["repair"], "").success();
    world.riklet(&["check"], "").success();
    assert_published(world, &pair, &Transport::ALL);
    assert_internet(world, &pair[0]);
});

by_every_kind!(a_flow_between_guests_does_not_begin_in_a_gap, |world, pair| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let [first, second] = &pair;
    let secret = Ear::new(&second.guest.namespace, (second.address(), SECRET));
    flush(world);
    let guest = &first.guest;
    let send = |words: &str| guest.send(&own(guest, second.address(), SECRET, words).frame());
    send("in the gap");
    world.riklet(&["repair"], "").success();
    send("after it");
    assert_eq!(secret.hear(SILENCE), None);
});

on_every_firewall!(connections_by_an_exposure_survive_a_gap, |world| {
    let [first, second] = pair(world);
    let at = (first.address(), SECRET);
    let guests = (&second.guest.namespace, &first.guest.namespace);
    let mut exposures = every_transport(FIRST, TARGET).to_vec();
    exposures.push(exposure(Transport::Tcp, 8081, SECRET));
    world.up(&[function("first", &exposures)]);
    let connection = Connection::new(guests.0, (NODE_LAN, 8081), guests.1, at);
    connection.assert_alive();
    flush(world);
    world.riklet(&["repair"], "").success();
    connection.assert_alive();
});

on_every_firewall!(a_daemon_that_is_killed_leaves_guests_apart, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let daemon = world.daemon(&[]);
    let pair = pair(world);
    daemon.wait_until_idle();
    assert_apart(world, &pair);
    daemon.end(Signal::KILL);
    flush(world);
    assert_apart(world, &pair);
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    assert_apart(world, &pair);
    tcp_ask(&pair[0].guest.namespace, (NODE_LAN, SECOND)).expect("the published port answers");
});

//! Routes and routing rules of others: functions work with them, and nothing of ours stays among them.

use std::{fs::File, io::Write};

use crate::{
    internet::assert_internet,
    reach::{TARGET, assert_published, pair},
    world::{
        CLIENT, INTERNET_FAR, NODE_OTHER, Namespace, OTHER, World, on_every_firewall,
        state::{SystemState, assert_same},
        traffic::{tcp_ask, tcp_server},
        transport::{Path, Transport, assert_no_way, assert_paths},
    },
};

/// A guest reaches a server far away by `oth0`, and is masqueraded.
#[track_caller]
fn assert_reached_by_other(world: &World, guest: &Namespace) {
    let server = (INTERNET_FAR, TARGET);
    let _servers = Transport::ALL.map(|transport| transport.serve(&world.other, server.0, TARGET));
    let path = Path { from: guest, to: server, seen_as: NODE_OTHER, server };
    assert_paths("guest → other uplink", &Transport::ALL, &[path]);
}

on_every_firewall!(a_vpn_that_cuts_the_default_route_in_halves, |world| {
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

/// Has the namespace `other` be another way to the Internet.
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
    // What is not public is not reached by an interface that was no uplink.
    let server = tcp_server(&world.client, (CLIENT, TARGET));
    tcp_ask(&world.node, server.address).unwrap();
    assert_no_way(&[
        (Transport::Tcp, guest, (CLIENT, TARGET)),
        (Transport::Tcp, guest, (OTHER, TARGET)),
    ]);
    // The next operation finds the uplink.
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

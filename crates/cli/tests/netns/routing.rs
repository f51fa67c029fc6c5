//! Routes and routing rules of others: functions work with them, and nothing of ours stays among them.

use std::net::Ipv4Addr;

use crate::{
    reach::{TARGET, assert_published, pair},
    world::{
        INTERNET_FAR, OTHER, World, on_every_firewall,
        state::{SystemState, assert_same},
        transport::{Path, Transport, assert_paths},
    },
};

/// A guest reaches a server far away by `oth0`, and is masqueraded.
#[track_caller]
fn assert_reached_by_other(world: &World, guest: &crate::world::Namespace) {
    const NODE_OTHER: Ipv4Addr = crate::world::NODE_OTHER;
    let server = (INTERNET_FAR, TARGET);
    let _servers = Transport::ALL.map(|transport| transport.serve(&world.other, server.0, TARGET));
    let path = Path { from: guest, to: server, seen_as: NODE_OTHER, server };
    assert_paths("guest → other uplink", &Transport::ALL, &[path]);
}

on_every_firewall!(a_vpn_that_cuts_the_default_route_in_halves, |world| {
    let via = OTHER.to_string();
    world.other.tool(&["ip", "address", "add", &format!("{INTERNET_FAR}/32"), "dev", "lo"]);
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

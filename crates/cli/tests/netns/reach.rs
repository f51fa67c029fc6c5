//! A published port answers from everywhere a user would try it, and the function sees the client's address.

use std::net::Ipv4Addr;

use crate::world::{
    CLIENT, INTERNET, NODE_LAN, NODE_LAN_SECOND, NODE_OTHER, NODE_UPLINK, OTHER, World,
    function::{Function, every_transport, function},
    on_every_firewall,
    traffic::tcp_echo,
    transport::{Path, Transport, assert_paths, assert_refused},
};

/// The port that each function serves, by every protocol.
pub(crate) const TARGET: u16 = 3000;
/// The port at which [`pair`] publishes the first function.
pub(crate) const FIRST: u16 = 8080;
pub(crate) const SECOND: u16 = 9090;

/// Brings up two functions of one file by one call: the first at port [`FIRST`], the other at [`SECOND`].
pub(crate) fn pair(world: &World) -> [Function; 2] {
    let serves = Transport::ALL.map(|transport| (transport, TARGET));
    let published = [("first", FIRST), ("second", SECOND)];
    world.start(
        published.map(|(name, port)| (function(name, &every_transport(port, TARGET)), &serves[..])),
    )
}

/// Asserts that everyone who can ask is answered, at every address of the node, and that the function sees the right
/// address.
#[track_caller]
pub(crate) fn assert_published(
    world: &World,
    [first, second]: &[Function; 2],
    transports: &[Transport],
) {
    let taps = [first.gateway(), second.gateway()];
    let of_node = [NODE_LAN, NODE_LAN_SECOND, NODE_UPLINK, NODE_OTHER, taps[0], taps[1]];
    let path = |from, address, seen_as| Path {
        from,
        to: (address, FIRST),
        seen_as,
        server: (first.address(), TARGET),
    };

    let client: Vec<_> = of_node[..4].iter().map(|&to| path(&world.client, to, CLIENT)).collect();
    assert_paths("client → node", transports, &client);
    let strangers =
        [path(&world.internet, NODE_UPLINK, INTERNET), path(&world.other, NODE_OTHER, OTHER)];
    assert_paths("stranger → node", transports, &strangers);
    // Linux sends from the first address of a network, even to the second one.
    let node = |to| path(&world.node, to, if to == NODE_LAN_SECOND { NODE_LAN } else { to });
    let node = of_node.map(node);
    assert_paths("node → itself", transports, &node);
    let node = path(&world.node, Ipv4Addr::LOCALHOST, first.gateway());
    assert_paths("node → loopback", transports, &[node]);
    // Other loopback addresses are those of local services.
    for transport in transports.iter().filter(|transport| **transport != Transport::Sctp) {
        assert_refused(*transport, &world.node, (Ipv4Addr::new(127, 0, 0, 2), FIRST));
    }
    let function = of_node.map(|to| path(&second.guest.namespace, to, second.address()));
    assert_paths("function → another", transports, &function);
    let hairpin = of_node.map(|to| path(&first.guest.namespace, to, first.gateway()));
    assert_paths("function → itself", transports, &hairpin);
}

on_every_firewall!(a_published_port_answers_everybody, |world| {
    let pair = pair(world);
    assert_published(world, &pair, &Transport::ALL);
    let bytes: Vec<u8> = (0..=250).cycle().take(300_001).collect();
    let [first, second] = &pair;
    for (from, to) in [
        (&world.client, NODE_LAN),
        (&world.node, Ipv4Addr::LOCALHOST),
        (&second.guest.namespace, NODE_LAN),
        (&first.guest.namespace, NODE_LAN),
    ] {
        assert!(tcp_echo(from, (to, FIRST), &bytes).unwrap() == bytes, "more than one packet");
    }
    // This also works with strict reverse path filtering (RFC 3704).
    world.node.set_sysctl("net/ipv4/conf/all/rp_filter", "1");
    assert_published(world, &pair, &Transport::ALL);
});

//! Ports that others publish on the node, as Docker and kube-proxy do, are published to guests as well.

use std::net::Ipv4Addr;

use crate::{
    reach::pair,
    world::{
        CLIENT, NODE_LAN, NODE_OTHER, NODE_UPLINK, OTHER, on_every_firewall,
        transport::{Path, Transport, assert_no_way, assert_paths},
    },
};

const PORT: u16 = 5432;
const TARGET: u16 = 7;
/// A virtual address that is not the node's, which foreign rules translate as kube-proxy does for services.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

on_every_firewall!(guests_reach_what_others_publish_on_the_node, |world| {
    let rules = format!(
        "table ip theirs {{
           chain prerouting {{
             type nat hook prerouting priority dstnat - 5;
             fib daddr type local meta l4proto {{ tcp, udp }} th dport {PORT} dnat to {OTHER}:{TARGET}
             ip daddr {SERVICE} meta l4proto {{ tcp, udp }} th dport {PORT} dnat to {OTHER}:{TARGET}
           }}
           chain input {{
             type filter hook input priority filter;
             iifname \"rik*\" meta l4proto {{ tcp, udp }} th dport {TARGET} drop
           }}
         }}"
    );
    world.node.feed(&["nft", "-f", "-"], &rules).success();
    let _servers = Transport::ALL.map(|transport| transport.serve(&world.other, OTHER, TARGET));
    let _local = Transport::ALL.map(|transport| transport.serve(&world.node, NODE_LAN, TARGET));
    let functions = pair(world);
    let transports = [Transport::Tcp, Transport::Udp];
    for function in &functions {
        let from = &function.guest.namespace;
        for address in [NODE_LAN, NODE_UPLINK, NODE_OTHER] {
            let (to, server) = ((address, PORT), (OTHER, TARGET));
            assert_paths(
                "guest → node",
                &transports,
                &[Path { from, to, seen_as: NODE_OTHER, server }],
            );
        }
        // Guests reach neither the virtual address, nor a service that the host refuses to them, nor a server behind
        // the node.
        let closed = [(SERVICE, PORT), (NODE_LAN, TARGET), (OTHER, TARGET), (CLIENT, TARGET)];
        let tries: Vec<_> = closed
            .into_iter()
            .flat_map(|to| transports.map(|transport| (transport, from, to)))
            .collect();
        assert_no_way(&tries);
    }
});

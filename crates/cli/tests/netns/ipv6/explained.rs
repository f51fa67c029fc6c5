//! `explain` of packets of IPv6: compared with real ones.

use std::net::{Ipv6Addr, SocketAddr};

use serde_json::{Value, json};

use super::{
    CLIENT, Dual, FAR, FIRST, GATEWAY, INTERNET, NODE_LAN, NODE_UPLINK, TARGET, dual,
    policies::{DATABASE, PORTS, To, serve, with_egress},
    with, without,
};
use crate::world::{
    Namespace, World,
    function::{every_transport, function},
    random::Random,
    transport::{
        Transport::{self, Tcp, Udp},
        assert_no_way,
    },
};

/// Returns what the program says of a packet, as text, and whether it arrives.
#[track_caller]
fn said(world: &World, from: &str, (by, to): (Transport, To)) -> (bool, String) {
    let (by, to) = (by.as_str().to_lowercase(), SocketAddr::from(to));
    let output = world.riklet(&["explain", from, "to", &format!("{to}/{by}")], "");
    assert!(matches!(output.code, Some(0 | 1)), "{output}");
    (output.code == Some(0), output.stdout)
}

/// Asserts that each packet arrives where the program says that it does, and no other.
#[track_caller]
fn assert_said(world: &World, tries: &[(&str, &Namespace, (Transport, To))]) {
    let mut lost = Vec::new();
    for (from, namespace, to) in tries {
        let (arrives, text) = said(world, from, *to);
        let (by, to) = *to;
        if arrives {
            let answer = by.ask(namespace, to);
            answer.unwrap_or_else(|error| panic!("{from}, {by} to {to:?}: {error}, but\n{text}"));
        } else {
            lost.push((by, *namespace, to));
        }
    }
    assert_no_way(&lost);
}

fn start(world: &World) -> [Dual; 2] {
    let open = function("open", &every_transport(FIRST, TARGET)[..2]);
    let [first, open] = world.start([(function("f", &[]), &[]), (open, &[])]);
    [dual(world, first, "f"), dual(world, open, "open")]
}

#[test]
fn it_says_what_becomes_of_packets() {
    let world = &with();
    let _servers = serve(world);
    let [caller, open] = start(world);
    let (guest, client) = (caller.namespace(), CLIENT.to_string());
    let published = [(Tcp, (NODE_LAN, FIRST)), (Udp, (NODE_UPLINK, FIRST))];
    let outside = [FAR, INTERNET, DATABASE, NODE_LAN].into_iter();
    let outside = outside.flat_map(|to| PORTS.map(|port| (to, port)));
    let outside = outside.flat_map(|to| [(Tcp, to), (Udp, to)]);
    let direct = (Tcp, (open.address, TARGET));
    let loopback = (Tcp, (Ipv6Addr::LOCALHOST, FIRST));
    let of_guest = published.into_iter().chain(outside).chain([direct, loopback]);
    let mut tries: Vec<_> = of_guest.map(|to| ("f", guest, to)).collect();
    tries.extend(published.map(|to| (&*client, &world.client, to)));
    let own = caller.address.to_string();
    tries.extend([
        (&*client, &world.client, (Tcp, (NODE_LAN, 7000))),
        (&*client, &world.client, (Tcp, (NODE_LAN, 7002))),
        (&*client, &world.client, direct),
        ("host", &world.node, loopback),
        ("host", &world.node, (Udp, (NODE_LAN, FIRST))),
        ("host", &world.node, direct),
        ("open", open.namespace(), (Tcp, (NODE_LAN, FIRST))),
        (&*own, guest, (Tcp, (NODE_LAN, FIRST))),
    ]);
    assert_said(world, &tries);
    let (_, text) = said(world, "f", (Tcp, (DATABASE, 7000)));
    let reason = "refused: the node's egress is internet, which has public addresses only: not addresses outside of 2000::/3";
    assert!(text.contains(reason), "{text}");
    assert!(text.contains("to allow it, add [fd98::1]:7000/tcp to network.egress.allow"), "{text}");
    let (_, text) = said(world, &client, published[0]);
    assert!(text.contains(&format!("translated to [{}]:{TARGET}", open.address)), "{text}");
    let asked = ["--output", "json", "explain", "f", &format!("[{FAR}]:7000")];
    let document: Value = serde_json::from_str(&world.riklet(&asked, "").success()).unwrap();
    assert_eq!((&document["arrives"], &document["to"]["address"]), (&json!(true), &json!(FAR)));
    assert_eq!(document["from"]["address"], json!(caller.address));
    let (arrives, text) = said(world, "f", (Udp, (GATEWAY, 53)));
    assert!(!arrives && text.contains("passes: a name server"), "{text}");
}

#[test]
fn it_names_chains_of_ipv6_that_it_does_not_follow() {
    let world = &with();
    let _servers = serve(world);
    let [_caller, _open] = start(world);
    let to = (Tcp, (FAR, 7000));
    let (arrives, text) = said(world, "f", to);
    assert!(arrives && !text.contains("Not followed"), "{text}");
    world.node.tool(&[
        "nft",
        "add table ip6 others; add chain ip6 others far { type filter hook forward priority 0; }; \
         add rule ip6 others far ip6 daddr 2001:db8:34::/48 drop; \
         add table ip v4; add chain ip v4 far { type filter hook forward priority 0; policy drop; }",
    ]);
    let (arrives, text) = said(world, "f", to);
    assert!(
        arrives && text.contains("Not followed: the rules of others in ip6 others far."),
        "{text}"
    );
}

/// Returns some destinations of a policy, chosen from these places.
fn destinations(random: &mut Random) -> Vec<String> {
    let places = [
        "[fd98::/16]",
        "[fd98::1]",
        "[2001:db8::/32]",
        "[::/0]",
        "[2001:db8:33::9]",
        "host",
        "0.0.0.0/0",
    ];
    let ports = ["", ":7000", ":7000-7001", ":25", ":8080"];
    let protocols = ["", "/tcp", "/udp"];
    let count = random.below(4);
    let mut pick = |all: &[&str]| all[random.below(all.len())].to_owned();
    (0..count).map(|_| pick(&places) + &pick(&ports) + &pick(&protocols)).collect()
}

#[test]
fn it_says_what_becomes_of_random_packets_by_random_policies() {
    let world = &with();
    let _servers = serve(world);
    let [caller, open] = start(world);
    let random = &mut Random::new();
    let addresses = [FAR, INTERNET, DATABASE, NODE_LAN, NODE_UPLINK, open.address];
    let all = addresses.into_iter().flat_map(|to| PORTS.map(|port| (to, port)));
    let all = all.chain([NODE_LAN, NODE_UPLINK, open.address].map(|to| (to, FIRST)));
    let all: Vec<(Transport, To)> = all.flat_map(|to| [(Tcp, to), (Udp, to)]).collect();
    for _ in 0..8 {
        let mut egress = json!({ "allow": destinations(random), "deny": destinations(random) });
        if let Some(default) = ["none", "internet", "all"].get(random.below(4)) {
            egress["default"] = json!(default);
        }
        world.riklet(&["up", "-"], &with_egress("f", &egress).to_string()).success();
        let picked = (0..20).map(|_| all[random.below(all.len())]);
        let tries: Vec<_> = picked.map(|to| ("f", caller.namespace(), to)).collect();
        assert_said(world, &tries);
    }
}

#[test]
fn a_function_without_ipv6_has_no_packet_of_it() {
    let world = &without();
    let [_one] = world.start([(function("f", &[]), &[])]);
    let refused = world.riklet(&["explain", "f", "to", "[2001:db8:33::9]:443"], "").failure(1);
    assert!(refused.contains("f has no address of IPv6"), "{refused}");
}

//! Policies of functions, beside functions without one.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    os::fd::OwnedFd,
};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, socket_with,
};

use serde_json::{Value, json};

use crate::{
    egress::{assert_none, assert_way},
    world::{
        Firewall, INTERNET, NODE_LAN, World,
        function::{Function, every_transport, function},
        namespace::Namespace,
        on_every_firewall,
        traffic::{Connection, PATIENCE, SILENCE, assert_tcp_refused, ping},
        transport::Transport::{self, Tcp, Udp},
        wait_for,
    },
};

/// A host behind the uplink in a private network, and another one.
const DATABASE: Ipv4Addr = Ipv4Addr::new(10, 9, 5, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 6, 1);
/// The ports that the hosts, and the node itself, serve.
const PORTS: [u16; 2] = [7000, 7001];
/// The port at which the node publishes the function `open`.
const PUBLISHED: u16 = 8080;
const TARGET: u16 = 3000;

fn with_egress(name: &str, egress: &Value) -> Value {
    let mut definition = function(name, &[]);
    definition["spec"]["function"]["network"] = json!({ "egress": egress });
    definition
}

/// Returns each port of an address by each of these protocols.
fn every(by: &[Transport], address: Ipv4Addr) -> Vec<(Transport, (Ipv4Addr, u16))> {
    by.iter().flat_map(|by| PORTS.map(|port| (*by, (address, port)))).collect()
}

/// Returns the table of nf_tables that has the policies.
fn table(world: &World) -> &'static str {
    if world.firewall == Firewall::Nftables { "riklet" } else { "riklet-policies" }
}

/// Returns the names of the sets of what policies allow.
fn allowed_sets(world: &World) -> Vec<String> {
    let listing = world.node.tool(&["nft", "list", "table", "inet", table(world)]);
    let sets = listing.lines().filter_map(|line| line.trim().strip_prefix("set policy-"));
    let names = sets.map(|line| format!("policy-{}", line.trim_end_matches(" {")));
    names.filter(|name| name.ends_with("-allowed")).collect()
}

fn serve(world: &World) -> Vec<crate::world::traffic::Server> {
    for address in [DATABASE, OTHER] {
        world.internet.tool(&["ip", "address", "add", &format!("{address}/32"), "dev", "lo"]);
    }
    let outside = [INTERNET, DATABASE, OTHER].map(|address| (&world.internet, address));
    let all = outside.into_iter().chain([(&world.node, NODE_LAN)]);
    let each = all.flat_map(|(at, address)| {
        every(&[Tcp, Udp], address).into_iter().map(move |(by, (_, port))| (by, at, address, port))
    });
    each.map(|(by, at, address, port)| by.serve(at, address, port)).collect()
}

/// Brings up a function with this policy, and one without. Returns both.
fn pair(world: &World, egress: &Value) -> [Function; 2] {
    let open = function("open", &every_transport(PUBLISHED, TARGET));
    world.start([(with_egress("f", egress), &[]), (open, &[(Tcp, TARGET), (Udp, TARGET)])])
}

/// Has the program change the policy of the function.
#[track_caller]
fn change(world: &World, egress: &Value) {
    world.riklet(&["up", "-"], &with_egress("f", egress).to_string()).success();
}

on_every_firewall!(a_policy_names_what_a_function_reaches, |world| {
    let egress = json!({
        "default": "none",
        "allow": ["10.9.5.0/24:7000/tcp", "10.9.6.1:7000-7001", "host:7001/udp"],
        "deny": ["10.9.6.1:7001/udp"],
    });
    let _servers = serve(world);
    let [function, open] = pair(world, &egress);
    let allowed = [
        (Tcp, (DATABASE, 7000)),
        (Tcp, (OTHER, 7000)),
        (Tcp, (OTHER, 7001)),
        (Udp, (OTHER, 7000)),
        (Udp, (NODE_LAN, 7001)),
        // Published ports are open to all functions.
        (Tcp, (NODE_LAN, PUBLISHED)),
    ];
    let addresses = [INTERNET, DATABASE, OTHER, NODE_LAN];
    let all = addresses.into_iter().flat_map(|address| every(&[Tcp, Udp], address));
    let rest: Vec<_> = all.filter(|to| !allowed.contains(to)).collect();
    assert_way(&function, &allowed);
    assert_none(&function, &rest);
    assert_tcp_refused(&function.guest.namespace, (DATABASE, 7001));
    assert_way(&open, &every(&[Tcp, Udp], INTERNET));
    assert_none(&open, &every(&[Tcp, Udp], DATABASE));
    assert_none(&function, &[(Tcp, (open.address(), TARGET))]);

    // The node's reach is not asked for what a policy has a default for.
    world.riklet(&["repair", "--egress", "all"], "").success();
    assert_way(&function, &allowed);
    assert_none(&function, &rest);
    assert_way(&open, &every(&[Tcp, Udp], DATABASE));
    assert_way(&open, &every(&[Tcp, Udp], NODE_LAN));

    // A default alone widens and narrows.
    world.riklet(&["repair", "--egress", "none"], "").success();
    change(world, &json!({ "default": "all" }));
    assert_way(&function, &every(&[Tcp, Udp], DATABASE));
    assert_way(&function, &every(&[Tcp, Udp], NODE_LAN));
    change(world, &json!({ "default": "internet", "deny": [format!("{INTERNET}:7000/tcp")] }));
    assert_way(&function, &[(Tcp, (INTERNET, 7001)), (Udp, (INTERNET, 7000))]);
    assert_none(&function, &[(Tcp, (INTERNET, 7000)), (Tcp, (DATABASE, 7000))]);
    assert_none(&open, &every(&[Tcp, Udp], INTERNET));
    world.riklet(&["check"], "").success();
    world.down(&["f"]);
    world.riklet(&["check"], "").success();
});

on_every_firewall!(a_changed_policy_ends_only_what_it_no_longer_allows, |world| {
    let without_policy = function("f", &[]).to_string();
    for address in [DATABASE, OTHER] {
        world.internet.tool(&["ip", "address", "add", &format!("{address}/32"), "dev", "lo"]);
    }
    let wide = json!({ "default": "none", "allow": ["10.9.5.1:7000-7001/tcp", "host:7000/tcp"] });
    let open = function("open", &every_transport(PUBLISHED, TARGET));
    let [narrowed, open] = world.start([(with_egress("f", &wide), &[]), (open, &[])]);
    let connect = |from: &Function, server, to: (Ipv4Addr, u16)| {
        Connection::new(&from.guest.namespace, to, server, to)
    };
    let ended = connect(&narrowed, &world.internet, (DATABASE, 7000));
    let at_the_host = connect(&narrowed, &world.node, (NODE_LAN, 7000));
    let kept = connect(&narrowed, &world.internet, (DATABASE, 7001));
    let of_other = connect(&open, &world.internet, (INTERNET, 7000));
    let published = Connection::new(
        &world.client,
        (NODE_LAN, PUBLISHED),
        &open.guest.namespace,
        (open.address(), TARGET),
    );
    change(world, &json!({ "default": "none", "allow": ["10.9.5.1:7001/tcp"] }));
    kept.assert_alive();
    of_other.assert_alive();
    published.assert_alive();
    ended.assert_reset();
    at_the_host.assert_reset();
    world.riklet(&["check"], "").success();

    // Without a policy, the node's reach counts.
    world.riklet(&["up", "-"], &without_policy).success();
    kept.assert_reset();
    of_other.assert_alive();
});

on_every_firewall!(a_policy_survives_a_flush_by_repair, |world| {
    let _servers = serve(world);
    let [function, _open] = pair(world, &json!({ "default": "none", "allow": ["10.9.5.1:7000"] }));
    let shown = || world.riklet(&["inspect", "f"], "").success();
    let policy = "egress    none, allow 10.9.5.1:7000";
    assert!(shown().contains(&format!("{policy} (in the firewall)\n")), "{}", shown());
    let allowed = allowed_sets(world);
    let [allowed] = &*allowed else { panic!("{allowed:?}") };
    let wider =
        format!("element inet {} {allowed} {{ 0.0.0.0/0 . 0-255 . 0-65535 }}", table(world));
    world.node.tool(&["nft", "flush", "set", "inet", table(world), "reach-none"]);
    assert_ne!(world.riklet(&["check"], "").code, Some(0), "the policy is missing");
    assert!(shown().contains(&format!("{policy} (MISSING in the firewall)\n")), "{}", shown());
    world.riklet(&["repair"], "").success();
    assert_way(&function, &[(Tcp, (DATABASE, 7000))]);
    assert_none(&function, &[(Tcp, (INTERNET, 7000))]);
    world.node.tool(&["nft", "flush", "set", "inet", table(world), allowed]);
    world.node.tool(&[&["nft", "add"], &wider.split(' ').collect::<Vec<_>>()[..]].concat());
    assert_way(&function, &[(Tcp, (OTHER, 7000))]);
    world.riklet(&["repair"], "").success();
    assert_way(&function, &[(Tcp, (DATABASE, 7000))]);
    assert_none(&function, &[(Tcp, (OTHER, 7000))]);
    world.riklet(&["check"], "").success();
});

on_every_firewall!(a_function_whose_policy_is_lost_reaches_nothing, |world| {
    let _servers = serve(world);
    let egress = json!({ "default": "internet", "allow": ["10.9.5.1:7000"] });
    let [function, open] = pair(world, &egress);
    let allowed = [(Tcp, (DATABASE, 7000)), (Tcp, (INTERNET, 7000))];
    assert_way(&function, &allowed);
    let state = world.directory.path().join("state");
    for file in ["riklet-sdn.db", "riklet-sdn.db-journal"] {
        world.node.tool(&["rm", &state.join(file).display().to_string()]);
    }
    let rebuilt = world.riklet(&["repair", "--rebuild"], "");
    assert!(rebuilt.stderr.contains("warning: f lost "), "{rebuilt}");
    assert!(!rebuilt.stderr.contains("open lost"), "{rebuilt}");
    assert_none(&function, &allowed);
    assert_way(&function, &[(Tcp, (NODE_LAN, PUBLISHED))]);
    assert_way(&open, &every(&[Tcp, Udp], INTERNET));
    change(world, &egress);
    assert_way(&function, &allowed);
    world.riklet(&["check"], "").success();
});

// A packet that ends before the place of a port has none to look for.
on_every_firewall!(what_is_denied_is_denied_to_packets_without_ports, |world| {
    for address in [DATABASE, OTHER] {
        world.internet.tool(&["ip", "address", "add", &format!("{address}/32"), "dev", "lo"]);
    }
    let [function, _open] =
        pair(world, &json!({ "default": "all", "deny": [DATABASE.to_string(), "host"] }));
    let [guest, far, node] =
        [&function.guest.namespace, &world.internet, &world.node].map(raw_socket);
    for length in 0..9 {
        for to in [DATABASE, NODE_LAN, function.gateway()] {
            let to = SocketAddr::from((to, 0));
            // It may be told of the one before.
            let sent =
                || rustix::net::sendto(&guest, &[7; 8][..length.min(8)], SendFlags::empty(), &to);
            sent().or_else(|_refused| sent()).expect("a packet");
        }
    }
    let to = SocketAddr::from((OTHER, 0));
    let sent = || rustix::net::sendto(&guest, &[7; 8], SendFlags::empty(), &to);
    sent().or_else(|_refused| sent()).expect("a packet");
    let first = wait_for("the packet that is allowed", PATIENCE, || destination(&far));
    assert_eq!(first, OTHER, "it is the first that arrives");
    assert_eq!(destination(&node), None, "the host hears nothing");
    assert!(!ping(&function.guest.namespace, NODE_LAN, SILENCE), "nor an echo request");
});

/// Opens a socket for packets of a protocol that nobody uses (RFC 3692).
fn raw_socket(namespace: &Namespace) -> OwnedFd {
    let protocol = NonZeroU32::new(253).map(Protocol::from_raw);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = || socket_with(AddressFamily::INET, SocketType::RAW, flags, protocol);
    namespace.run(|| socket().expect("a raw socket"))
}

/// Returns the destination of the next packet, which comes with its header (raw(7)).
fn destination(socket: &OwnedFd) -> Option<Ipv4Addr> {
    let mut packet = [0; 64];
    rustix::net::recv(socket, &mut packet, RecvFlags::empty()).ok()?;
    packet[16..20].first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

/// The variants of iptables, beside whose rules the policies stand in a table of nf_tables.
const BESIDE: [Firewall; 2] = [Firewall::IptablesNft, Firewall::IptablesLegacy];
/// A policy that names less than the node's guests reach, and something beyond that.
const NARROW: [&str; 2] = ["10.9.5.1:7000", "host:7001/udp"];

/// Runs the variant of iptables that the node uses.
fn iptables(world: &World, words: &str) {
    let words: Vec<_> = words.split(' ').collect();
    world.program("iptables", &words, "").success();
}

#[test]
fn losing_one_part_of_the_firewall_opens_nothing() {
    for firewall in BESIDE {
        let world = &World::new(firewall);
        let _servers = serve(world);
        let [function, open] = pair(world, &json!({ "default": "none", "allow": NARROW }));
        let allowed = [(Tcp, (DATABASE, 7000)), (Udp, (NODE_LAN, 7001))];
        let refused = every(&[Tcp, Udp], INTERNET);
        let public = every(&[Tcp, Udp], INTERNET);
        assert_way(&function, &allowed);
        world.node.tool(&["nft", "delete", "table", "inet", table(world)]);
        assert_none(&function, &refused);
        assert_none(&function, &allowed);
        assert!(!ping(&function.guest.namespace, NODE_LAN, SILENCE), "{firewall:?}");
        assert_way(&function, &[(Tcp, (NODE_LAN, PUBLISHED))]);
        assert_way(&open, &public);
        assert_none(&open, &every(&[Tcp, Udp], DATABASE));
        let checked = world.riklet(&["check"], "");
        assert_ne!(checked.code, Some(0), "{firewall:?}: {checked}");
        world.riklet(&["repair"], "").success();
        assert_way(&function, &allowed);
        assert_none(&function, &refused);

        for chain in ["FORWARD", "POSTROUTING", "INPUT", "RIKLET-POLICY"] {
            iptables(world, &format!("-t mangle -F {chain}"));
        }
        assert_none(&function, &refused);
        assert_none(&function, &[(Tcp, (NODE_LAN, 7001))]);
        world.riklet(&["repair"], "").success();
        assert_way(&function, &allowed);
        assert_way(&open, &public);
        world.riklet(&["check"], "").success();

        world.riklet(&["down", "--all", "--purge"], "").success();
        let tables = world.node.tool(&["nft", "list", "tables"]);
        assert!(!tables.contains("riklet"), "{tables}");
    }
}

#[test]
fn a_policy_lifts_no_ban_of_others_and_passes_their_drops() {
    for firewall in BESIDE {
        let world = &World::new(firewall);
        let _servers = serve(world);
        for words in [
            "-P FORWARD DROP",
            "-N DOCKER-USER",
            "-A FORWARD -j DOCKER-USER",
            "-A DOCKER-USER -d 10.9.6.1 -j DROP",
            "-A DOCKER-USER -j RETURN",
        ] {
            iptables(world, words);
        }
        let [function, open] =
            pair(world, &json!({ "default": "internet", "allow": ["10.9.0.0/16", "host"] }));
        assert_way(&function, &every(&[Tcp, Udp], DATABASE));
        assert_way(&function, &every(&[Tcp, Udp], INTERNET));
        assert_none(&function, &every(&[Tcp, Udp], OTHER));
        assert_none(&open, &every(&[Tcp, Udp], DATABASE));
        assert_way(&open, &every(&[Tcp, Udp], INTERNET));
        iptables(world, "-I INPUT -s 10.231.0.0/16 -p tcp --dport 7000 -j DROP");
        assert_none(&function, &[(Tcp, (NODE_LAN, 7000))]);
        assert_way(&function, &[(Tcp, (NODE_LAN, 7001))]);
        world.riklet(&["check"], "").success();
    }
}

on_every_firewall!(the_daemon_heals_a_lost_policy, |world| {
    let _servers = serve(world);
    let daemon = world.daemon(&[]);
    let [function, _open] = pair(world, &json!({ "default": "none", "allow": NARROW }));
    let allowed = [(Tcp, (DATABASE, 7000)), (Udp, (NODE_LAN, 7001))];
    assert_way(&function, &allowed);
    daemon.wait_until_idle();
    world.node.tool(&["nft", "delete", "table", "inet", table(world)]);
    wait_for("the repair", PATIENCE, || daemon.events().contains("event: repaired").then_some(()));
    daemon.wait_until_idle();
    assert_way(&function, &allowed);
    assert_none(&function, &every(&[Tcp, Udp], INTERNET));
    world.riklet(&["check"], "").success();
});

#[test]
fn an_entry_that_changes_nothing_is_warned_of() {
    let world = &World::new(Firewall::Nftables);
    let egress = json!({
        "default": "none", "allow": ["10.9.5.1:7000/tcp", "10.9.6.1"], "deny": ["10.9.5.0/24", "host:22"],
    });
    let definition = with_egress("f", &egress).to_string();
    let warnings = [
        "f: network.egress.allow: 10.9.5.1:7000/tcp allows nothing: deny has all of it",
        "f: network.egress.deny: host:22 changes nothing: the default is none",
    ];
    for command in ["plan", "up"] {
        let output = world.riklet(&[command, "-"], &definition);
        assert_eq!(output.code, Some(0), "{output}");
        for warning in warnings {
            assert!(output.stderr.contains(warning), "{command}: {output}");
        }
        assert_eq!(output.stderr.matches("network.egress").count(), 2, "{output}");
    }
    let daemon = world.daemon(&[]);
    let changed = with_egress("f", &json!({ "allow": ["9.9.9.9", "9.9.9.9"] })).to_string();
    world.riklet(&["up", "-"], &changed).success();
    let event = "network.egress.allow: 9.9.9.9 is there twice";
    wait_for("an event", PATIENCE, || daemon.events().contains(event).then_some(()));
}

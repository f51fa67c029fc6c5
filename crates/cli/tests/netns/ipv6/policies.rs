//! Policies that name destinations of IPv6.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    os::fd::OwnedFd,
};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType,
    recvfrom, sendto, socket_with,
};
use serde_json::{Value, json};

use super::{
    CLIENT, Dual, FAR, FIRST, INTERNET, NODE_LAN, PRIVATE, TARGET, dual, of, with, without,
};
use crate::{
    attacks::flush,
    world::{
        Firewall, INTERNET as INTERNET_V4, Namespace, World,
        function::{Function, every_transport, function},
        traffic::{
            Connection, PATIENCE, SILENCE, Server, assert_tcp_refused, tcp_ask, tcp_server,
            udp_server,
        },
        transport::Transport::{self, Tcp, Udp},
        wait_for,
    },
};

/// A host behind the uplink in a unique local network.
pub(super) const DATABASE: Ipv6Addr = Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 1);
/// The ports that the hosts, and the node itself, serve.
pub(super) const PORTS: [u16; 2] = [7000, 7001];

pub(super) fn with_egress(name: &str, egress: &Value) -> Value {
    let mut definition = function(name, &[]);
    definition["spec"]["function"]["network"] = json!({ "egress": egress });
    definition
}

pub(super) fn serve(world: &World) -> Vec<Server> {
    let own = format!("address add {DATABASE}/128 dev eth0 nodad\n");
    world.internet.feed(&["ip", "-6", "-batch", "-"], &own).success();
    let places = [
        (&world.internet, FAR),
        (&world.internet, INTERNET),
        (&world.internet, DATABASE),
        (&world.other, PRIVATE),
        (&world.node, NODE_LAN),
    ];
    let each = places.into_iter().flat_map(|place| PORTS.map(|port| (place, port)));
    each.flat_map(|((at, address), port)| {
        [tcp_server(at, (address, port)), udp_server(at, (address, port))]
    })
    .collect()
}

/// Brings up a function with this policy, and one without that is published. Returns both.
fn pair(world: &World, egress: &Value) -> [Dual; 2] {
    let open = function("open", &every_transport(FIRST, TARGET)[..2]);
    let [first, open] = world.start([(with_egress("f", egress), &[]), (open, &[])]);
    [dual(world, first, "f"), dual(world, open, "open")]
}

/// Has the program change the policy of the function.
#[track_caller]
fn change(world: &World, egress: &Value) {
    world.riklet(&["up", "-"], &with_egress("f", egress).to_string()).success();
}

pub(super) type To = (Ipv6Addr, u16);

#[track_caller]
pub(super) fn assert_way(from: &Dual, targets: &[(Transport, To)]) {
    for (transport, to) in targets {
        let answer = transport.ask(from.namespace(), *to);
        answer.unwrap_or_else(|error| panic!("{transport} to {to:?}: {error}"));
    }
}

/// Asserts that each is refused at once: nobody waits. The host limits the errors that it tells a guest in a second
/// (`net.ipv6.icmp.ratelimit`), so a datagram is sent until one comes back, and none is ever answered.
#[track_caller]
pub(super) fn assert_refused(from: &Dual, targets: &[(Transport, To)]) {
    for (transport, to) in targets {
        if *transport == Tcp {
            assert_tcp_refused(from.namespace(), *to);
            continue;
        }
        wait_for(&format!("an error for {transport} to {to:?}"), PATIENCE, || {
            let answer = transport.ask_within(SILENCE, from.namespace(), (*to).into());
            let error = answer.expect_err("no answer").kind();
            [ErrorKind::PermissionDenied, ErrorKind::ConnectionRefused]
                .contains(&error)
                .then_some(())
        });
    }
}

/// Returns each port of an address by both protocols.
pub(super) fn every(address: Ipv6Addr) -> Vec<(Transport, To)> {
    [Tcp, Udp].into_iter().flat_map(|by| PORTS.map(|port| (by, (address, port)))).collect()
}

#[test]
fn a_policy_names_what_a_function_reaches() {
    let world = &with();
    let _servers = serve(world);
    let egress = json!({
        "default": "none",
        "allow": ["[2001:db8:33::/48]:7000/tcp", "fd98::1", "host:7001/udp", "10.0.0.0/8"],
        "deny": ["[fd98::/16]:7001/udp"],
    });
    let [function, open] = pair(world, &egress);
    let allowed = [
        (Tcp, (FAR, 7000)),
        (Tcp, (DATABASE, 7000)),
        (Tcp, (DATABASE, 7001)),
        (Udp, (DATABASE, 7000)),
        (Udp, (NODE_LAN, 7001)),
        // Published ports are open to all functions.
        (Tcp, (NODE_LAN, FIRST)),
    ];
    let all = [FAR, INTERNET, DATABASE, NODE_LAN].into_iter().flat_map(every);
    let rest: Vec<_> = all.filter(|to| !allowed.contains(to)).collect();
    assert_way(&function, &allowed);
    assert_refused(&function, &rest);
    assert_way(&open, &every(FAR));
    assert_refused(&open, &every(DATABASE));

    // The node's reach is not asked for what a policy has a default for.
    world.riklet(&["repair", "--egress", "all"], "").success();
    assert_way(&function, &allowed);
    assert_refused(&function, &rest);
    assert_way(&open, &every(DATABASE));

    // Another guest is reached by what it publishes, whatever a policy allows.
    change(world, &json!({ "default": "all", "allow": ["::/0"], "deny": ["[::/0]:7001/tcp"] }));
    assert_way(&function, &[(Udp, (DATABASE, 7001)), (Tcp, (NODE_LAN, FIRST))]);
    assert_refused(&function, &[(Tcp, (DATABASE, 7001)), (Tcp, (FAR, 7001))]);
    for (by, from, to) in [(Tcp, &function, &open), (Udp, &open, &function)] {
        let answer = by.ask_within(SILENCE, from.namespace(), (to.address, TARGET).into());
        assert!(answer.is_err(), "{by}: {answer:?}");
    }
    world.riklet(&["check"], "").success();
    world.down(&["f"]);
    world.riklet(&["check"], "").success();
}

#[test]
fn nothing_goes_around_a_proxy() {
    let world = &with();
    let _servers = serve(world);
    let [f, open] = pair(world, &json!({ "via": "127.0.0.1:3128", "viaPorts": [7000] }));
    assert_way(&f, &[(Tcp, (FAR, 7001)), (Udp, (FAR, 7001)), (Tcp, (NODE_LAN, FIRST))]);
    assert_refused(&f, &[(Tcp, (FAR, 7000)), (Udp, (FAR, 7000))]);
    assert_way(&open, &[(Tcp, (FAR, 7000))]);
    let _proxy = Tcp.serve(&world.node, Ipv4Addr::LOCALHOST, 3128);
    let answer = Tcp.ask(f.namespace(), (INTERNET_V4, 7000)).expect("the proxy answers");
    assert_eq!(answer.server, (Ipv4Addr::LOCALHOST, 3128).into());
}

#[test]
fn what_is_not_public_is_refused_unless_it_is_named() {
    let world = &with();
    let _servers = serve(world);
    let [function, open] = pair(world, &json!({ "default": "internet" }));
    world.riklet(&["repair", "--egress", "none"], "").success();
    let gateway = Ipv6Addr::from(u128::from(function.address) - 1);
    assert_way(&function, &every(FAR));
    assert_refused(&function, &every(DATABASE));
    assert_refused(&function, &every(NODE_LAN));
    assert_refused(&function, &[(Tcp, (gateway, 7000)), (Udp, (gateway, 7000))]);
    assert_refused(&open, &every(FAR));
    // Destinations of IPv4 say nothing of IPv6.
    change(world, &json!({ "default": "internet", "deny": ["0.0.0.0/0"] }));
    assert_way(&function, &every(FAR));
    change(world, &json!({ "default": "internet", "deny": ["[2001:db8:33::9]:7001/tcp"] }));
    assert_way(&function, &[(Tcp, (FAR, 7000)), (Udp, (FAR, 7001))]);
    assert_refused(&function, &[(Tcp, (FAR, 7001))]);
    // Without a default, the node's counts.
    change(world, &json!({ "allow": ["[fd98::1]:7000/tcp"] }));
    assert_way(&function, &[(Tcp, (DATABASE, 7000))]);
    assert_refused(&function, &[(Tcp, (FAR, 7000)), (Udp, (DATABASE, 7000))]);
}

#[test]
fn a_changed_policy_ends_only_what_it_no_longer_allows() {
    let world = &with();
    let wide = json!({ "default": "none", "allow": ["[fd99::2]:7000-7001/tcp", "host:7000/tcp"] });
    let [narrowed, open] = pair(world, &wide);
    let connect = |from: &Dual, server, to: To| Connection::new(from.namespace(), to, server, to);
    let ended = connect(&narrowed, &world.other, (PRIVATE, 7000));
    let at_the_host = connect(&narrowed, &world.node, (NODE_LAN, 7000));
    let kept = connect(&narrowed, &world.other, (PRIVATE, 7001));
    let of_other = connect(&open, &world.internet, (FAR, 7000));
    // The guest serves at its port already.
    let (to, at) = ((NODE_LAN, 8081), (open.address, 3001));
    let exposed = json!({ "port": to.1, "targetPort": at.1 });
    let wider = function("open", &[&every_transport(FIRST, TARGET)[..2], &[exposed]].concat());
    world.riklet(&["up", "-"], &wider.to_string()).success();
    let published = Connection::new(&world.client, to, open.namespace(), at);
    assert_eq!(published.server.peer_addr().unwrap().ip(), CLIENT);
    change(world, &json!({ "default": "none", "allow": ["[fd99::2]:7001/tcp"] }));
    kept.assert_alive();
    of_other.assert_alive();
    published.assert_alive();
    ended.assert_reset();
    at_the_host.assert_reset();
    world.riklet(&["check"], "").success();

    // Without a policy, the node's reach counts.
    world.riklet(&["up", "-"], &function("f", &[]).to_string()).success();
    kept.assert_reset();
    of_other.assert_alive();
    published.assert_alive();
}

#[test]
fn what_began_in_a_gap_ends_with_the_repair() {
    let world = &with();
    let [named, open] = pair(world, &json!({ "default": "none", "allow": ["2001:db8:33::9"] }));
    let connect = |from: &Dual, at, to: To| Connection::new(from.namespace(), to, at, to);
    let held = connect(&named, &world.internet, (FAR, 7000));
    let of_open = connect(&open, &world.internet, (FAR, 7001));
    flush(world);
    let host = connect(&open, &world.node, (NODE_LAN, 7003));
    let host_of_named = connect(&named, &world.node, (NODE_LAN, 7004));
    for one in [&host, &host_of_named] {
        one.assert_alive();
    }
    world.riklet(&["repair"], "").success();
    for allowed in [&held, &of_open] {
        allowed.assert_alive();
    }
    for refused in [&host, &host_of_named] {
        refused.assert_reset();
    }
    world.riklet(&["check"], "").success();
}

#[test]
fn functions_of_one_policy_share_its_chains() {
    let world = &with();
    let egress = json!({ "allow": ["[2001:db8:33::9]:7000", "10.9.5.1"], "deny": ["host:22"] });
    world.up(&[with_egress("a", &egress), with_egress("b", &egress)]);
    let listing = || world.node.tool(&["nft", "list", "table", "inet", "riklet"]);
    let chains = |listing: &str, begin: &str| {
        let heading = format!("chain {begin}");
        listing.lines().filter(|line| line.trim().starts_with(&heading)).count()
    };
    for begin in ["policy-", "policy6-", "host-policy-", "host-policy6-"] {
        assert_eq!(chains(&listing(), begin), 1, "{begin}: {}", listing());
    }
    change_to(world, "a", &json!({ "allow": ["10.9.5.1"] }));
    assert_eq!((chains(&listing(), "policy-"), chains(&listing(), "policy6-")), (1, 1));
    assert_eq!(chains(&listing(), "host-policy6-"), 1);
    world.riklet(&["check"], "").success();
    world.down(&["b"]);
    assert_eq!((chains(&listing(), "policy-"), chains(&listing(), "policy6-")), (1, 0));
    world.riklet(&["check"], "").success();
    world.riklet(&["down", "--all", "--purge"], "").success();
}

#[track_caller]
fn change_to(world: &World, name: &str, egress: &Value) {
    world.riklet(&["up", "-"], &with_egress(name, egress).to_string()).success();
}

#[test]
fn a_policy_survives_a_flush_by_repair() {
    let world = &with();
    let _servers = serve(world);
    let [function, _open] =
        pair(world, &json!({ "default": "none", "allow": ["[fd99::2]:7000", "host:7001"] }));
    let shown = || world.riklet(&["inspect", "f"], "").success();
    let policy = "egress    none, allow [fd99::2]:7000 host:7001";
    assert!(shown().contains(&format!("{policy} (in the firewall)\n")), "{}", shown());
    let allowed = [(Tcp, (PRIVATE, 7000)), (Udp, (NODE_LAN, 7001))];
    let refused = [(Tcp, (PRIVATE, 7001)), (Udp, (FAR, 7000))];
    let table = world.node.tool(&["nft", "list", "table", "inet", "riklet"]);
    let set = table.lines().find_map(|line| line.trim().strip_prefix("set policy6-"));
    let set = format!("policy6-{}", set.expect("a set").trim_end_matches(" {"));
    for broken in ["map inet riklet policies6".to_owned(), format!("set inet riklet {set}")] {
        assert_way(&function, &allowed);
        let words: Vec<_> = ["nft", "flush"].into_iter().chain(broken.split(' ')).collect();
        world.node.tool(&words);
        assert_refused(&function, &allowed[..1]);
        assert_ne!(world.riklet(&["check"], "").code, Some(0), "{broken}");
        assert!(shown().contains(&format!("{policy} (MISSING in the firewall)\n")), "{}", shown());
        world.riklet(&["repair"], "").success();
    }
    let wider = format!("element inet riklet {set} {{ ::/0 . 0-255 . 0-65535 }}");
    world.node.tool(&["nft", "flush", "set", "inet", "riklet", &set]);
    world.node.tool(&[&["nft", "add"], &wider.split(' ').collect::<Vec<_>>()[..]].concat());
    assert_way(&function, &refused);
    world.riklet(&["repair"], "").success();
    assert_way(&function, &allowed);
    assert_refused(&function, &refused);
    world.riklet(&["check"], "").success();
}

// A packet that ends before the place of a port has none to look for.
#[test]
fn what_is_denied_is_denied_to_packets_without_ports() {
    let world = &with();
    let [function, _open] = pair(world, &json!({ "default": "all", "deny": ["fd99::2", "host"] }));
    let [guest, near, far, node] =
        [function.namespace(), &world.other, &world.internet, &world.node].map(raw_socket);
    let send = |to: Ipv6Addr, length: usize| {
        let to = SocketAddr::from((to, 0));
        // It may be told of the one before.
        let sent = || sendto(&guest, &[7; 8][..length], SendFlags::empty(), &to);
        sent().or_else(|_refused| sent()).expect("a packet");
    };
    for length in 0..=8 {
        for to in [PRIVATE, NODE_LAN] {
            send(to, length);
        }
    }
    send(FAR, 8);
    wait_for("the packet that is allowed", PATIENCE, || heard(&far).then_some(()));
    assert!(!heard(&near) && !heard(&node), "nobody else hears anything");
    // A neighbour that cannot ask for its gateway reaches nothing, so that is not denied.
    function.namespace().tool(&["ip", "-6", "neighbour", "flush", "dev", "eth0"]);
    let _server = tcp_server(&world.internet, (FAR, 7000));
    tcp_ask(function.namespace(), (FAR, 7000)).unwrap();
}

/// Opens a socket for packets of a protocol that nobody uses (RFC 3692).
fn raw_socket(namespace: &Namespace) -> OwnedFd {
    let protocol = NonZeroU32::new(253).map(Protocol::from_raw);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = || socket_with(AddressFamily::INET6, SocketType::RAW, flags, protocol);
    namespace.run(|| socket().expect("a raw socket"))
}

fn heard(socket: &OwnedFd) -> bool {
    let received = recvfrom(socket, &mut [0; 64], RecvFlags::empty());
    matches!(received, Ok((_, _, Some(SocketAddrAny { .. }))))
}

#[test]
fn guests_without_ipv6_may_have_such_a_policy() {
    let entries = json!({ "default": "none", "allow": ["2001:db8::/32", "203.0.113.0/24"] });
    let worlds = [without(), of(Firewall::IptablesNft), of(Firewall::IptablesLegacy)];
    for world in &worlds {
        let _server = tcp_server(&world.internet, (INTERNET_V4, 7000));
        let [function]: [Function; 1] = world.start([(with_egress("f", &entries), &[])]);
        let namespace = &function.guest.namespace;
        tcp_ask(namespace, (INTERNET_V4, 7000)).unwrap();
        world.riklet(&["check"], "").success();
        let shown = world.riklet(&["inspect", "f"], "").success();
        assert!(shown.contains("none, allow 2001:db8::/32 203.0.113.0/24 (in the"), "{shown}");
    }
}

#[test]
fn what_a_policy_refuses_is_told_with_its_destination() {
    let world = &with();
    let _daemon = world.daemon(&[]);
    let egress = json!({ "default": "none", "deny": ["[2001:db8:33::/48]:7000/tcp"] });
    let [function, _open] = pair(world, &egress);
    assert_refused(&function, &[(Tcp, (FAR, 7000)), (Udp, (FAR, 7001))]);
    for (rule, protocol, port, words) in [
        ("policy", "tcp", 7000, "f tcp [2001:db8:33::9]:7000: its policy denies that"),
        ("default", "udp", 7001, "f udp [2001:db8:33::9]:7001: beyond the default of its policy"),
    ] {
        let told = |event: &Value| {
            let found = &event["refused"];
            (&event["name"], &found["rule"], &found["protocol"])
                == (&json!("f"), &json!(rule), &json!(protocol))
                && (&found["destination"], &found["port"]) == (&json!(FAR), &json!(port))
        };
        wait_for("an event", PATIENCE, || {
            let events = world.riklet(&["--output", "json", "events", "--refused"], "").success();
            let mut events = events.lines().map(|line| serde_json::from_str(line).expect("JSON"));
            events.any(|event| told(&event)).then_some(())
        });
        let text = world.riklet(&["events", "--refused"], "").success();
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn an_entry_that_is_none_is_refused_with_the_right_form() {
    let world = &without();
    for (entry, reason) in [
        ("2001:db8::1:443", "write [2001:db8::1]:443 for the port, or [2001:db8::1:443]"),
        ("2001:db8::1/32", "write 2001:db8::/32, or an address without a prefix"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1/128 is written as IPv6 and means IPv4"),
    ] {
        for list in ["allow", "deny"] {
            let definition = with_egress("f", &json!({ list: [entry] })).to_string();
            for command in ["validate", "plan", "up"] {
                let refused = world.riklet(&[command, "-"], &definition);
                assert_ne!(refused.code, Some(0), "{refused}");
                let path = format!("egress.{list}[0]");
                let said = refused.stderr.contains(reason) && refused.stderr.contains(&path);
                assert!(said, "{command} {entry}: {refused}");
            }
        }
    }
    assert!(!world.riklet(&["list"], "").success().contains('f'));
}

//! Names in policies, by their addresses of IPv6.

use std::net::Ipv6Addr;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    Dual, FAR, INTERNET, NODE_UPLINK, dual,
    policies::{DATABASE, assert_refused, assert_way, every, serve},
    with, without,
};
use crate::world::{
    INTERNET as SERVER, INTERNET_FAR, World,
    command::Running,
    function::{Function, function},
    resolver::{Answer, dig},
    traffic::{PATIENCE, tcp_ask, tcp_server},
    transport::Transport::{Tcp, Udp},
    wait_for,
};

const NONE: &[Ipv6Addr] = &[];

fn with_names(name: &str, egress: &Value) -> Value {
    let mut definition = function(name, &[]);
    let function = &mut definition["spec"]["function"];
    function["execution"]["dns"] = json!([SERVER]);
    function["network"] = json!({ "egress": egress });
    definition
}

/// Starts a name server with records of both families. `guest` is an address of a guest.
fn name_server(world: &World, guest: Ipv6Addr) -> Running {
    let mut options = vec![
        format!("--host-record=api.example.com,{INTERNET_FAR},{FAR}"),
        format!("--host-record=other.example.com,{INTERNET}"),
        format!("--host-record=cdn.example.net,{FAR}"),
        "--cname=www.example.org,cdn.example.net".to_owned(),
        format!("--host-record=mixed.example.org,{FAR}"),
        format!("--host-record=mixed.example.org,{DATABASE}"),
        format!("--host-record=private.example.org,{INTERNET_FAR},{DATABASE}"),
        "--local=/example.com/example.org/".to_owned(),
    ];
    for (name, address) in rebound(guest) {
        options.push(format!("--host-record={name}.example.org,{address}"));
    }
    world.name_server(&options.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Returns addresses that no name may lead to.
fn rebound(guest: Ipv6Addr) -> Vec<(&'static str, Ipv6Addr)> {
    let address = |text: &str| text.parse().expect("an address");
    vec![
        ("unique-local", DATABASE),
        ("link-local", address("fe80::1")),
        ("site-local", address("fec0::1")),
        ("loopback", Ipv6Addr::LOCALHOST),
        ("unspecified", Ipv6Addr::UNSPECIFIED),
        ("mapped", address("::ffff:10.9.5.1")),
        ("mapped-public", address("::ffff:198.51.100.9")),
        ("translated", address("64:ff9b::10.9.5.1")),
        ("tunnel", address("2002:a09:501::1")),
        ("group", address("ff02::1")),
        ("node", NODE_UPLINK),
        ("guest", guest),
    ]
}

/// Has the guest ask its gateway.
#[track_caller]
fn ask(guest: &Function, words: &[&str]) -> Answer {
    dig(&guest.guest.namespace, guest.gateway(), words)
}

#[track_caller]
fn assert_answer(guest: &Function, words: &[&str], addresses: &[Ipv6Addr]) {
    let answer = ask(guest, words);
    assert!(answer.is("NOERROR", addresses), "{words:?}: {answer:?}");
}

fn start(world: &World, egress: &Value) -> [Dual; 2] {
    let [named, open] = world.start([(with_names("f", egress), &[]), (function("open", &[]), &[])]);
    [dual(world, named, "f"), dual(world, open, "open")]
}

#[test]
fn a_guest_reaches_what_it_was_told_for_an_allowed_name() {
    let world = &with();
    // Otherwise a daemon that ends leaves what it kept from being forwarded, and the next one makes the table anew.
    for switch in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        world.node.set_sysctl(switch, "1");
    }
    let _servers = serve(world);
    let daemon = world.daemon(&[]);
    let egress = json!({ "allow": ["api.example.com:7000/tcp", "*.example.org:7001"] });
    let [named, open] = start(world, &egress);
    let _names = name_server(world, open.address);
    let guest = &named.function;
    assert_refused(&named, &every(FAR));

    // It is let through before the answer arrives, at these ports only.
    assert_answer(guest, &["AAAA", "api.example.com"], &[FAR]);
    assert_way(&named, &[(Tcp, (FAR, 7000))]);
    let rest = [(Udp, (FAR, 7000)), (Tcp, (FAR, 7001)), (Tcp, (INTERNET, 7000))];
    assert_refused(&named, &rest);
    let v4 = ask(guest, &["api.example.com"]);
    assert!(v4.is("NOERROR", &[INTERNET_FAR]), "{v4:?}");
    assert_answer(guest, &["+tcp", "AAAA", "API.example.COM"], &[FAR]);
    assert_eq!(ask(guest, &["AAAA", "other.example.com"]).status, "REFUSED");
    assert_eq!(ask(guest, &["AAAA", "none.example.org"]).status, "NXDOMAIN");

    // By an alias, at every port of the rule.
    assert_answer(guest, &["AAAA", "www.example.org"], &[FAR]);
    assert_way(&named, &[(Tcp, (FAR, 7001)), (Udp, (FAR, 7001))]);
    assert_refused(&named, &[(Udp, (FAR, 7000))]);
    assert_answer(guest, &["AAAA", "mixed.example.org"], &[FAR]);

    // What was let through is no drift, and survives the daemon.
    daemon.wait_until_idle();
    assert!(!daemon.events().contains("event: repaired"), "{}", daemon.events());
    let told = [(Tcp, (FAR, 7000)), (Udp, (FAR, 7001))];
    daemon.end(Signal::KILL);
    assert_way(&named, &told);
    world.riklet(&["check"], "").success();
    world.riklet(&["repair"], "").success();
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    assert_way(&named, &told);
    assert_refused(&named, &rest[..1]);

    // It ends with the name in the policy.
    let narrower =
        json!({ "allow": ["api.example.com:7000"], "deny": ["[2001:db8:33::9]:7000/udp"] });
    world.riklet(&["up", "-"], &with_names("f", &narrower).to_string()).success();
    assert_way(&named, &told[..1]);
    assert_refused(&named, &told[1..]);
    assert_answer(guest, &["AAAA", "api.example.com"], &[FAR]);
    assert_way(&named, &told[..1]);
    assert_refused(&named, &[(Udp, (FAR, 7000)), (Tcp, (FAR, 7001))]);
    world.riklet(&["check"], "").success();
    world.down(&["f"]);
    world.riklet(&["check"], "").success();
}

#[test]
fn a_name_leads_to_public_addresses_only() {
    let world = &with();
    let _servers = serve(world);
    let _daemon = world.daemon(&[]);
    let [named, open] = start(world, &json!({ "allow": ["*.example.org:7000-7001"] }));
    let _names = name_server(world, open.address);
    for (name, address) in rebound(open.address) {
        let name = format!("{name}.example.org");
        let direct = dig(&world.internet, SERVER, &["AAAA", &name]);
        assert!(direct.is("NOERROR", &[address]), "{name}: {direct:?}");
        assert_answer(&named.function, &["AAAA", &name], NONE);
    }
    wait_for("an event", PATIENCE, || {
        let events = world.riklet(&["events", "--refused"], "").success();
        let is_told = events.contains(
            "f AAAA unique-local.example.org: an answer with an address that is not public",
        );
        is_told.then_some(())
    });
    assert_answer(&named.function, &["AAAA", "mixed.example.org"], &[FAR]);
    assert_way(&named, &[(Tcp, (FAR, 7000))]);
    // A private address of one family spoils no public one of the other.
    assert_answer(&named.function, &["AAAA", "private.example.org"], NONE);
    let v4 = ask(&named.function, &["private.example.org"]);
    assert!(v4.is("NOERROR", &[INTERNET_FAR]), "{v4:?}");
    assert_refused(&named, &every(DATABASE));
    assert_refused(&named, &every(NODE_UPLINK));
}

#[test]
fn a_guest_without_ipv6_waits_for_none_of_its_addresses() {
    // Nobody answers at the server.
    let silent = |guest: &Function| {
        assert_answer(guest, &["AAAA", "api.example.com"], NONE);
        assert_eq!(ask(guest, &["AAAA", "other.example.com"]).status, "REFUSED");
        assert_eq!(ask(guest, &["A", "api.example.com"]).status, "SERVFAIL");
    };
    let egress = json!({ "allow": ["api.example.com:7000"] });
    for mut world in [without(), with()] {
        let daemon = world.daemon(&[]);
        let [guest] = world.start([(with_names("f", &egress), &[])]);
        if world.environment.contains_key("RIKLET_SDN_IPV6") {
            let guest = dual(&world, guest, "f");
            assert_eq!(ask(&guest.function, &["AAAA", "api.example.com"]).status, "SERVFAIL");
            daemon.end(Signal::TERM);
            world.environment.insert("RIKLET_SDN_IPV6".to_owned(), "off".to_owned());
            world.riklet(&["repair"], "").success();
            let _daemon = world.daemon(&[]);
            silent(&guest.function);
        } else {
            silent(&guest);
        }
    }
}

#[test]
fn every_new_name_is_usable_when_its_answer_arrives() {
    let world = &with();
    let _daemon = world.daemon(&[]);
    let [named, _open] = start(world, &json!({ "allow": ["*.example.org:7000/tcp"] }));
    let number = |n: u16| Ipv6Addr::new(0x2001, 0xdb8, 0x33, 0, 0, 0, 1, n);
    let own = |n| format!("address add {}/128 dev eth0 nodad\n", number(n));
    let own: String = (1..40).map(own).collect();
    world.internet.feed(&["ip", "-6", "-batch", "-"], &own).success();
    let options: Vec<_> =
        (1..40).map(|n| format!("--host-record=n{n}.example.org,{}", number(n))).collect();
    let _servers: Vec<_> =
        (1..40).map(|n| tcp_server(&world.internet, (number(n), 7000))).collect();
    let _names = world.name_server(&options.iter().map(String::as_str).collect::<Vec<_>>());
    for n in 1..40 {
        assert_answer(&named.function, &["AAAA", &format!("n{n}.example.org")], &[number(n)]);
        tcp_ask(named.namespace(), (number(n), 7000)).unwrap();
    }
}

//! Names in policies: what the daemon answers, and what is reached by it.

use std::net::Ipv4Addr;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    egress::{assert_none, assert_way},
    world::{
        INTERNET, INTERNET_FAR, NODE_UPLINK, World,
        function::{Function, function},
        on_every_firewall,
        resolver::{Answer, dig},
        traffic::{Connection, PATIENCE},
        transport::Transport::{Tcp, Udp},
        wait_for,
    },
};

const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 9, 5, 1);

fn with_names(name: &str, allow: &[&str]) -> Value {
    let mut definition = function(name, &[]);
    let function = &mut definition["spec"]["function"];
    function["execution"]["dns"] = json!([INTERNET]);
    function["network"] = json!({ "egress": { "allow": allow } });
    definition
}

fn options() -> Vec<String> {
    let record = |name: &str, address: Ipv4Addr| format!("--host-record={name},{address}");
    vec![
        record("api.example.com", INTERNET_FAR),
        record("other.example.com", INTERNET),
        record("cdn.example.net", INTERNET_FAR),
        "--cname=www.example.org,cdn.example.net".to_owned(),
        record("rebound.example.org", PRIVATE),
        record("node.example.org", NODE_UPLINK),
        record("local.example.org", Ipv4Addr::LOCALHOST),
        record("guest.example.org", Ipv4Addr::new(10, 231, 0, 6)),
        record("mixed.example.org", INTERNET_FAR),
        record("mixed.example.org", PRIVATE),
        record("old.example.net", INTERNET_FAR),
        "--local=/example.com/example.org/".to_owned(),
    ]
}

fn name_server(world: &World) -> crate::world::command::Running {
    let options = options();
    world.name_server(&options.iter().map(String::as_str).collect::<Vec<_>>())
}

fn serve(world: &World) -> Vec<crate::world::traffic::Server> {
    world.internet.tool(&["ip", "address", "add", &format!("{PRIVATE}/32"), "dev", "lo"]);
    let at = [INTERNET_FAR, INTERNET, PRIVATE].into_iter();
    let each = at.flat_map(|address| [7000, 7001].map(|port| (address, port)));
    let each = each.flat_map(|to| [(Tcp, to), (Udp, to)]);
    each.map(|(by, (address, port))| by.serve(&world.internet, address, port)).collect()
}

/// Has the guest ask its gateway.
#[track_caller]
fn ask(guest: &Function, words: &[&str]) -> Answer {
    dig(&guest.guest.namespace, guest.gateway(), words)
}

#[track_caller]
fn assert_answer(guest: &Function, words: &[&str], status: &str, addresses: &[Ipv4Addr]) {
    let answer = ask(guest, words);
    assert!(answer.is(status, addresses), "{words:?}: {answer:?}");
}

on_every_firewall!(a_guest_reaches_what_it_was_told_for_an_allowed_name, |world| {
    // Otherwise a daemon that ends leaves what it kept from being forwarded, and the next one makes the table anew.
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let (_servers, _names) = (serve(world), name_server(world));
    let daemon = world.daemon(&[]);
    let allow = ["api.example.com:7000/tcp", "*.example.org:7001"];
    let [guest, open] = world.start([(with_names("f", &allow), &[]), (function("open", &[]), &[])]);
    let far = |port| (INTERNET_FAR, port);
    let every = [(Tcp, far(7000)), (Udp, far(7000)), (Tcp, far(7001)), (Udp, far(7001))];
    assert_none(&guest, &every);

    // It is let through before the answer arrives, at these ports only.
    assert_answer(&guest, &["api.example.com"], "NOERROR", &[INTERNET_FAR]);
    assert_way(&guest, &[(Tcp, far(7000))]);
    let rest =
        [(Udp, far(7000)), (Tcp, far(7001)), (Tcp, (INTERNET, 7000)), (Tcp, (PRIVATE, 7000))];
    assert_none(&guest, &rest);
    assert_answer(&guest, &["+tcp", "API.example.COM"], "NOERROR", &[INTERNET_FAR]);
    assert_answer(&guest, &["+noedns", "api.example.com"], "NOERROR", &[INTERNET_FAR]);
    assert_answer(&guest, &["AAAA", "api.example.com"], "NOERROR", &[]);
    assert_answer(&guest, &["TXT", "api.example.com"], "NOERROR", &[]);
    assert_answer(&guest, &["none.example.org"], "NXDOMAIN", &[]);

    // Other names, and names below or above.
    for name in [
        "other.example.com",
        "a.api.example.com",
        "example.org",
        "org",
        ".",
        "1.2.3.4.in-addr.arpa",
    ] {
        assert_answer(&guest, &[name], "REFUSED", &[]);
    }
    wait_for("an event", PATIENCE, || {
        let events = world.riklet(&["events", "--refused"], "").success();
        let is_told =
            events.contains("f A other.example.com: network.egress.allow has no such name");
        is_told.then_some(())
    });
    assert_none(&guest, &[(Tcp, (INTERNET, 7000))]);
    let metrics = daemon.ask("GET", "/metrics", "").body;
    for line in ["outcome=\"answered\"} 6", "outcome=\"refused\"} 6"] {
        let line = format!("riklet_sdn_function_names_total{{function=\"f\",{line}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }

    // Addresses that are not public are not told, by whichever name.
    for name in ["rebound", "node", "local", "guest"] {
        assert_answer(&guest, &[&format!("{name}.example.org")], "REFUSED", &[]);
    }
    assert_answer(&guest, &["mixed.example.org"], "NOERROR", &[INTERNET_FAR]);
    assert_none(&guest, &[(Tcp, (PRIVATE, 7001)), (Tcp, (NODE_UPLINK, 7001))]);

    // By an alias, at every port of the rule.
    assert_answer(&guest, &["www.example.org"], "NOERROR", &[INTERNET_FAR]);
    assert_way(&guest, &[(Tcp, far(7001)), (Udp, far(7001))]);
    assert_none(&guest, &[(Udp, far(7000))]);

    // There is no other resolver for it, and this one is for nobody else.
    let other = dig(&guest.guest.namespace, INTERNET, &["api.example.com"]);
    assert_eq!(other.status, "", "{other:?}");
    assert_eq!(ask(&open, &["api.example.com"]).status, "");
    let other = dig(&open.guest.namespace, INTERNET, &["api.example.com"]);
    assert!(other.is("NOERROR", &[INTERNET_FAR]), "{other:?}");

    // What was let through is no drift, and survives the daemon.
    daemon.wait_until_idle();
    assert!(!daemon.events().contains("event: repaired"), "{}", daemon.events());
    daemon.end(Signal::KILL);
    assert_way(&guest, &[(Tcp, far(7000)), (Udp, far(7001))]);
    assert_eq!(ask(&guest, &["api.example.com"]).status, "", "nobody answers");
    world.riklet(&["check"], "").success();
    assert_way(&guest, &[(Tcp, far(7000)), (Udp, far(7001))]);
    world.riklet(&["repair"], "").success();
    assert_way(&guest, &[(Tcp, far(7000)), (Udp, far(7001))]);
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    assert_way(&guest, &[(Tcp, far(7000)), (Udp, far(7001))]);
    assert_none(&guest, &[(Tcp, (INTERNET, 7000)), (Udp, far(7000))]);
    assert_answer(&guest, &["api.example.com"], "NOERROR", &[INTERNET_FAR]);

    // It ends with the policy.
    let narrower = with_names("f", &["old.example.net:7001/tcp"]).to_string();
    world.riklet(&["up", "-"], &narrower).success();
    assert_none(&guest, &every);
    assert_answer(&guest, &["api.example.com"], "REFUSED", &[]);
    assert_answer(&guest, &["old.example.net"], "NOERROR", &[INTERNET_FAR]);
    assert_way(&guest, &[(Tcp, far(7001))]);
    assert!(has_pins(world));
    world.riklet(&["check"], "").success();

    // It ends with the function, also for the next one at its address.
    world.riklet(&["down", "f"], "").success();
    assert!(!has_pins(world));
    assert_eq!(ask(&guest, &["old.example.net"]).status, "");
    drop(guest);
    let [again] = world.start([(with_names("f", &["old.example.net:7001/tcp"]), &[])]);
    assert_none(&again, &every);
    assert_answer(&again, &["old.example.net"], "NOERROR", &[INTERNET_FAR]);
    assert_way(&again, &[(Tcp, far(7001))]);
});

/// Asserts that the address of a name is let through until the guest asks again, and that nothing else is.
#[track_caller]
fn assert_kept(guest: &Function, held: &[&Connection]) {
    assert_way(guest, &[(Tcp, (INTERNET_FAR, 7000))]);
    assert_none(guest, &[(Udp, (INTERNET_FAR, 7000)), (Tcp, (INTERNET, 7001))]);
    for connection in held {
        connection.assert_alive();
    }
}

on_every_firewall!(what_was_told_outlives_rules_policies_and_daemons, |world| {
    let (_servers, _names) = (serve(world), name_server(world));
    let daemon = world.daemon(&[]);
    let with = |more: &str| with_names("f", &["api.example.com:7000-7002/tcp", more]);
    let [guest] = world.start([(with("other.example.com:7002"), &[])]);
    let connect =
        |to: (Ipv4Addr, u16)| Connection::new(&guest.guest.namespace, to, &world.internet, to);
    let change = |definition: &Value| world.riklet(&["up", "-"], &definition.to_string()).success();
    assert_answer(&guest, &["api.example.com"], "NOERROR", &[INTERNET_FAR]);
    assert_answer(&guest, &["other.example.com"], "NOERROR", &[INTERNET]);
    let (held, other) = (connect((INTERNET_FAR, 7002)), connect((INTERNET, 7002)));

    // The policy loses one name, and keeps the other.
    change(&with("*.example.org:7001"));
    assert_kept(&guest, &[&held]);
    other.assert_reset();

    // The rules are lost, and written anew.
    world.node.tool(&["nft", "flush", "ruleset"]);
    wait_for("the rules", PATIENCE, || world.riklet(&["check"], "").code.filter(|code| *code == 0));
    assert_kept(&guest, &[&held]);

    // The next daemon writes the rules anew, since the host does not forward by itself, and knows the names.
    daemon.end(Signal::TERM);
    assert_kept(&guest, &[&held]);
    let daemon = world.daemon(&[]);
    assert_kept(&guest, &[&held]);
    change(&with("none.example.org:7001"));
    assert_kept(&guest, &[&held]);
    // One that is killed before it has noted what it did forgets all flows of the function.
    daemon.wait_until_idle();
    daemon.end(Signal::KILL);
    let daemon = world.daemon(&[]);
    assert_kept(&guest, &[&held]);

    // What is denied now is let through no more, and neither is what the policy has no name for.
    let mut denied = with("none.example.org:7001");
    denied["spec"]["function"]["network"]["egress"]["deny"] =
        json!([format!("{INTERNET_FAR}:7000")]);
    change(&denied);
    assert_none(&guest, &[(Tcp, (INTERNET_FAR, 7000))]);
    assert_way(&guest, &[(Tcp, (INTERNET_FAR, 7001))]);
    held.assert_alive();
    change(&with_names("f", &["none.example.org:7001"]));
    assert_none(&guest, &[(Tcp, (INTERNET_FAR, 7000)), (Tcp, (INTERNET_FAR, 7001))]);
    held.assert_reset();
    daemon.wait_until_idle();
});

/// Reports whether any address is let through for a name.
fn has_pins(world: &World) -> bool {
    let ruleset = world.node.tool(&["nft", "list", "ruleset"]);
    ruleset.contains(&format!("{INTERNET_FAR} . tcp . 7001"))
}

on_every_firewall!(what_is_denied_stays_so_for_allowed_names, |world| {
    let (_servers, _names) = (serve(world), name_server(world));
    let _daemon = world.daemon(&[]);
    let mut definition = with_names("f", &["api.example.com:7000-7001"]);
    definition["spec"]["function"]["network"]["egress"]["deny"] =
        json!([format!("{INTERNET_FAR}:7001")]);
    let [guest] = world.start([(definition, &[])]);
    assert_answer(&guest, &["api.example.com"], "NOERROR", &[INTERNET_FAR]);
    assert_way(&guest, &[(Tcp, (INTERNET_FAR, 7000)), (Udp, (INTERNET_FAR, 7000))]);
    assert_none(&guest, &[(Tcp, (INTERNET_FAR, 7001)), (Udp, (INTERNET_FAR, 7001))]);
});

on_every_firewall!(names_are_refused_where_nobody_answers, |world| {
    let definition = with_names("f", &["api.example.com:7000"]).to_string();
    let refused = world.riklet(&["up", "-"], &definition).failure(2);
    let reason = "f: network.egress.allow has api.example.com:7000, a name, and no daemon runs";
    assert!(refused.contains(reason), "{refused}");
    assert!(refused.contains("hint: start one with `riklet-sdn serve`"), "{refused}");
    assert!(!world.riklet(&["list"], "").success().contains("rik0"));
});

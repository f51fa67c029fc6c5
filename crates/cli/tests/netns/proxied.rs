//! Connections that a policy leads to a proxy.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use serde_json::{Value, json};

use crate::{
    egress::{assert_none, assert_way},
    world::{
        Firewall, INTERNET, INTERNET_FAR, NODE_LAN, NODE_UPLINK, World,
        function::{Function, exposure, function},
        on_every_firewall,
        traffic::{Connection, Server, assert_tcp_refused},
        transport::Transport::{Tcp, Udp},
    },
};

/// The proxy on another machine, in a private network; and the one on the node.
const PROXY: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 9, 5, 1), 3128);
const OWN_PROXY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 3129);
const TARGET: u16 = 3000;

fn with_proxy(egress: &Value) -> Value {
    let mut definition = function("f", &[]);
    definition["spec"]["function"]["network"] = json!({ "egress": egress });
    definition
}

fn serve(world: &World) -> Vec<Server> {
    world.internet.tool(&["ip", "address", "add", &format!("{}/32", PROXY.0), "dev", "lo"]);
    let servers = [
        (Tcp, INTERNET, 80),
        (Tcp, INTERNET, 443),
        (Udp, INTERNET, 443),
        (Tcp, INTERNET, 8443),
        (Tcp, PROXY.0, 443),
    ];
    servers.map(|(by, address, port)| by.serve(&world.internet, address, port)).into()
}

/// Returns the address and the port of the server that the guest gets.
#[track_caller]
fn reached(guest: &Function, to: (Ipv4Addr, u16)) -> SocketAddr {
    Tcp.ask(&guest.guest.namespace, to).unwrap_or_else(|error| panic!("{to:?}: {error}")).server
}

#[track_caller]
fn change(world: &World, egress: &Value) {
    world.riklet(&["up", "-"], &with_proxy(egress).to_string()).success();
}

on_every_firewall!(connections_are_led_to_the_proxy_of_a_policy, |world| {
    let _servers = serve(world);
    let proxy = Tcp.serve(&world.internet, PROXY.0, PROXY.1);
    let published = function("open", &[exposure(Tcp, 80, TARGET)]);
    let via = json!({ "via": "10.9.5.1:3128" });
    let [guest, open] = world.start([(with_proxy(&via), &[]), (published, &[(Tcp, TARGET)])]);

    // Whomever it asks, also where nobody listens or nothing would be allowed.
    for to in [(INTERNET, 80), (INTERNET, 443), (INTERNET_FAR, 443), (PROXY.0, 443)] {
        let ends = Tcp.ask(&guest.guest.namespace, to).expect("the proxy answers");
        assert_eq!((ends.server, ends.client.ip()), (PROXY.into(), NODE_UPLINK.into()), "{to:?}");
    }
    // The rest of its traffic goes as before, by itself to the proxy too; and none goes around it.
    assert_eq!(reached(&guest, (INTERNET, 8443)), (INTERNET, 8443).into());
    assert_eq!(reached(&guest, PROXY), PROXY.into());
    assert_none(&guest, &[(Udp, (INTERNET, 443))]);
    assert_eq!(reached(&guest, (NODE_LAN, 80)), (open.address(), TARGET).into());
    // Others have no proxy.
    assert_eq!(reached(&open, (INTERNET, 443)), (INTERNET, 443).into());

    let said = world.riklet(&["explain", "f", "to", "198.51.100.9:443/tcp"], "").success();
    assert!(said.contains("the proxy 10.9.5.1:3128"), "{said}");
    let said = world.riklet(&["explain", "f", "to", "198.51.100.9:443/udp"], "");
    assert!(said.code == Some(1) && said.stdout.contains("network.egress.via"), "{said}");
    let shown = world.riklet(&["inspect", "f"], "").success();
    let policy = "egress    as the node, via 10.9.5.1:3128 (in the firewall)\n";
    assert!(shown.contains(policy), "{shown}");
    world.riklet(&["check"], "").success();

    // Without the proxy there is no way.
    drop(proxy);
    assert_tcp_refused(&guest.guest.namespace, (INTERNET, 443));
    world.riklet(&["up", "-"], &function("f", &[]).to_string()).success();
    assert_eq!(reached(&guest, (INTERNET, 443)), (INTERNET, 443).into());
    world.riklet(&["check"], "").success();
    world.down(&["f", "open"]);
});

on_every_firewall!(a_changed_proxy_ends_connections_that_go_around_it, |world| {
    world.internet.tool(&["ip", "address", "add", &format!("{}/32", PROXY.0), "dev", "lo"]);
    let [guest, open] = world.start([(function("f", &[]), &[]), (function("open", &[]), &[])]);
    let connect = |from: &Function, to, at: (Ipv4Addr, u16)| {
        let server = if at == OWN_PROXY { &world.node } else { &world.internet };
        Connection::new(&from.guest.namespace, to, server, at)
    };
    let direct = connect(&guest, (INTERNET, 443), (INTERNET, 443));
    let other = connect(&guest, (INTERNET, 8443), (INTERNET, 8443));
    let of_other = connect(&open, (INTERNET, 80), (INTERNET, 80));
    change(world, &json!({ "via": "10.9.5.1:3128" }));
    other.assert_alive();
    of_other.assert_alive();
    direct.assert_reset();

    let led = connect(&guest, (INTERNET_FAR, 80), PROXY);
    change(world, &json!({ "via": "127.0.0.1:3129", "viaPorts": [443, 8080] }));
    other.assert_alive();
    led.assert_reset();
    let led = connect(&guest, (INTERNET_FAR, 8080), OWN_PROXY);
    change(
        world,
        &json!({ "via": "127.0.0.1:3129", "viaPorts": [443, 8080], "deny": ["203.0.113.1"] }),
    );
    led.assert_alive();
    other.assert_reset();
    of_other.assert_alive();
    world.riklet(&["check"], "").success();
});

on_every_firewall!(a_proxy_on_the_node_learns_whom_a_guest_meant, |world| {
    let _servers = serve(world);
    let listener = world.node.run(|| TcpListener::bind(OWN_PROXY).expect("a proxy"));
    let egress = json!({ "default": "none", "via": "127.0.0.1:3129", "viaPorts": [443] });
    let [guest] = world.start([(with_proxy(&egress), &[])]);
    let meant = thread::scope(|scope| {
        let proxy = scope.spawn(|| {
            let (connection, _) = listener.accept().expect("a connection");
            rustix::net::sockopt::ip_original_dst(&connection).expect("SO_ORIGINAL_DST")
        });
        let ask = || TcpStream::connect((INTERNET_FAR, 443)).expect("the proxy accepts");
        let _connection = guest.guest.namespace.run(ask);
        proxy.join().expect("the proxy's answer")
    });
    assert_eq!(SocketAddr::from(meant), (INTERNET_FAR, 443).into());
    assert_none(&guest, &[(Tcp, (INTERNET, 80)), (Tcp, (NODE_LAN, 3129))]);
});

on_every_firewall!(without_the_rule_nothing_goes_around_the_proxy, |world| {
    let _servers = serve(world);
    let _proxy = Tcp.serve(&world.internet, PROXY.0, PROXY.1);
    let [guest] = world.start([(with_proxy(&json!({ "via": "10.9.5.1:3128" })), &[])]);
    let table = if world.firewall == Firewall::Nftables { "riklet" } else { "riklet-policies" };
    world.node.tool(&["nft", "flush", "map", "inet", table, "proxies"]);
    assert_none(&guest, &[(Tcp, (INTERNET, 80)), (Tcp, (INTERNET, 443)), (Udp, (INTERNET, 443))]);
    assert_way(&guest, &[(Tcp, (INTERNET, 8443))]);
    assert_ne!(world.riklet(&["check"], "").code, Some(0), "the rule is missing");
    world.riklet(&["repair"], "").success();
    assert_eq!(reached(&guest, (INTERNET, 443)), PROXY.into());
    world.node.tool(&["nft", "flush", "ruleset"]);
    assert_none(&guest, &[(Tcp, (INTERNET, 80)), (Tcp, (INTERNET, 443))]);
    world.riklet(&["repair"], "").success();
    assert_eq!(reached(&guest, (INTERNET, 443)), PROXY.into());
});

on_every_firewall!(a_proxy_is_no_guest, |world| {
    let refused =
        world.riklet(&["up", "-"], &with_proxy(&json!({ "via": "10.231.0.6:80" })).to_string());
    assert_eq!(refused.code, Some(1), "{refused}");
    let said = "f: network.egress.via 10.231.0.6:80 is in 10.231.0.0/16, which guests have";
    assert!(refused.stderr.contains(said), "{refused}");
    let listed = world.riklet(&["--output", "json", "list"], "").success();
    assert_eq!(listed.trim(), "[]", "nothing is recorded");
});

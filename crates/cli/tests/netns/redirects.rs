//! ICMP redirects: a guest changes no route of the host, even without the guard on its TAP.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use crate::{
    reach::pair,
    world::{Namespace, World, function::Function, on_every_firewall, wait_for},
};

/// A destination that the host reaches by the guest.
const BEYOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
/// The router that the guest recommends.
const RECOMMENDED: Ipv4Addr = Ipv4Addr::new(10, 231, 255, 254);

/// Returns a count of `/proc/net/snmp`, as `nstat` names it.
fn count(namespace: &Namespace, name: &str) -> u64 {
    let line = namespace.tool(&["nstat", "-a", "-s", "-z", name]);
    let count = line.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{name} in {line}"))
}

/// Makes the guest a router that knows a better one, as its kernel tells everybody who asks it.
fn recommend(world: &World, function: &Function) {
    let guest = &function.guest;
    guest.namespace.set_sysctl("net/ipv4/ip_forward", "1");
    guest.namespace.set_sysctl("net/ipv4/icmp_ratelimit", "0");
    let (tap, mac) = (&guest.nic.interface, guest.nic.mac);
    let better = format!("route add {BEYOND} via {RECOMMENDED} dev eth0 onlink\n");
    guest.namespace.feed(&["ip", "-batch", "-"], &better).success();
    let by_guest = format!(
        "route add {BEYOND} via {} dev {tap}\nneighbour add {RECOMMENDED} lladdr {mac} dev {tap}\n",
        function.address()
    );
    world.node.feed(&["ip", "-batch", "-"], &by_guest).success();
}

/// Sends packets to the destination until the guest's redirect has arrived, and reports whether the host follows it.
fn follows(world: &World) -> bool {
    let received = count(&world.node, "IcmpInRedirects");
    let sender = world.node.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    let sender = sender.expect("a socket");
    wait_for("a redirect of the guest", Duration::from_secs(10), || {
        sender.send_to(b"?", (BEYOND, 9)).expect("a packet");
        (count(&world.node, "IcmpInRedirects") > received).then_some(())
    });
    let route = world.node.tool(&["ip", "route", "get", &BEYOND.to_string()]);
    world.node.tool(&["ip", "route", "flush", "cache"]);
    route.contains(&format!("via {RECOMMENDED}"))
}

on_every_firewall!(redirects_of_guests_are_refused, |world| {
    world.node.set_sysctl("net/ipv4/conf/all/accept_redirects", "1");
    let [function, _other] = pair(world);
    recommend(world, &function);
    let tap = &function.guest.nic.interface;
    world.node.tool(&["tc", "qdisc", "delete", "dev", tap, "clsact"]);
    assert!(!follows(world));
    // This shows that the test would notice.
    world.node.set_sysctl(&format!("net/ipv4/conf/{tap}/accept_redirects"), "1");
    assert!(follows(world));
    let check = world.riklet(&["check"], "");
    let line = format!("~ TAP {tap}: accept_redirects 0");
    assert!(check.code == Some(1) && check.stdout.contains(&line), "{check}");
});

//! Guests with IPv6 learn their router from the daemon, and keep it as long as the host has a route.

use std::{net::Ipv6Addr, time::Duration};

use rustix::process::Signal;

use super::{asking, bare};
use crate::{
    ipv6::{FAR, INTERNET, address_of, with},
    world::{
        Namespace,
        function::function,
        guest::Guest,
        traffic::{tcp_ask, tcp_server},
        wait_for,
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Gives the guest an address of the link, for which its kernel asks for a router.
fn begin_v6(guest: &Guest) {
    guest.namespace.tool(&["ip", "address", "add", "fe80::42/64", "dev", "eth0", "nodad"]);
}

/// Returns the default routes of a guest.
fn routes(guest: &Namespace) -> String {
    guest.tool(&["ip", "-6", "route", "show", "default"])
}

/// Waits until the guest has learned its router, or lost it.
#[track_caller]
fn wait_until_routed(guest: &Guest, wanted: bool) {
    let what = if wanted { "the guest to have a router" } else { "the guest to lose its router" };
    wait_for(what, PATIENCE, || {
        let routes = routes(&guest.namespace);
        let known = routes.contains("default via fe80::1 dev eth0 proto ra");
        (known == wanted && routes.lines().count() <= 1).then_some(())
    });
}

#[test]
fn a_guest_has_a_router_as_long_as_the_host_has_a_route() {
    let world = &with();
    let daemon = world.daemon(&["--mtu", "1400"]);
    let guest = bare(world, asking("web"));
    begin_v6(&guest);
    wait_until_routed(&guest, true);
    let addresses = guest.namespace.tool(&["ip", "-6", "address", "show", "dev", "eth0"]);
    assert_eq!(addresses.matches("inet6 ").count(), 1, "it chose no address: {addresses}");
    assert_eq!(guest.namespace.sysctl("net/ipv6/conf/eth0/mtu"), "1400");
    let own: Ipv6Addr = address_of(world, "web").expect("an address");
    guest.namespace.tool(&["ip", "address", "add", &own.to_string(), "dev", "eth0", "nodad"]);
    let _server = tcp_server(&world.internet, (FAR, 80));
    tcp_ask(&guest.namespace, (FAR, 80)).expect("the guest reaches the Internet");

    let default = ["default", "via", &INTERNET.to_string(), "dev", "up0"];
    let route = |change| world.node.tool(&[&["ip", "-6", "route", change][..], &default].concat());
    route("delete");
    wait_until_routed(&guest, false);
    route("add");
    wait_until_routed(&guest, true);

    // The route went while there was no daemon.
    daemon.end(Signal::TERM);
    route("delete");
    let daemon = world.daemon(&[]);
    wait_until_routed(&guest, false);
    route("add");
    wait_until_routed(&guest, true);
    tcp_ask(&guest.namespace, (FAR, 80)).expect("the guest reaches the Internet");
    world.riklet(&["check"], "").success();

    // One that comes while the host has none gets none.
    drop(guest);
    route("delete");
    let guest = bare(world, function("next", &[]));
    begin_v6(&guest);
    wait_for("an advertisement", PATIENCE, || {
        let mtu = guest.namespace.sysctl("net/ipv6/conf/eth0/mtu");
        (mtu == "1400").then_some(())
    });
    assert_eq!(routes(&guest.namespace), "");
    drop(daemon);
}

/// Without IPv6, nobody is told of a router.
#[test]
fn a_guest_without_ipv6_is_told_of_no_router() {
    let mut world = with();
    world.environment.remove("RIKLET_SDN_IPV6");
    let world = &world;
    let _daemon = world.daemon(&[]);
    let guest = bare(world, asking("web"));
    let sniffer = crate::world::sniffer::Sniffer::new(&guest.namespace, 0x86dd);
    begin_v6(&guest);
    let mut asker = super::Asker::new(&guest);
    // The question of the guest's kernel was there before this one.
    let solicited = || sniffer.heard().iter().any(|frame| frame.get(54) == Some(&134));
    assert!(asker.ask(&guest, super::DISCOVER, None, None).is_some());
    assert!(!solicited() && routes(&guest.namespace).is_empty());
}

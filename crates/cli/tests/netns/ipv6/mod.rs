//! IPv6 for guests, by the backend nftables.
//!
//! ```text
//! client 2001:db8:7::2 ──── lan0 2001:db8:7::1 ┐
//!                                              node ── rikN fe80::1 ═══ Guest
//! internet 2001:db8:cb::1 ── up0 2001:db8:cb::2 ┤
//!          2001:db8:33::9                      │
//! other fd99::2 ─────────── oth0 fd99::1 ──────┘
//! ```

mod closed;
mod explained;
mod learned;
mod names;
mod pods;
mod policies;
mod reached;
mod setting;

use std::net::Ipv6Addr;

use serde_json::Value;

use crate::world::{
    Firewall, Namespace, World,
    function::{Function, every_transport, function},
    traffic::{PATIENCE, Server, tcp_server, udp_server},
    wait_for,
};

const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 2);
const NODE_LAN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 1);
pub(crate) const NODE_UPLINK: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xcb, 0, 0, 0, 0, 2);
pub(crate) const INTERNET: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xcb, 0, 0, 0, 0, 1);
pub(crate) const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x33, 0, 0, 0, 0, 9);
/// A neighbour in a unique local network.
const PRIVATE: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2);
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The port that each function serves.
const TARGET: u16 = 3000;
/// The port at which the first function is published.
const FIRST: u16 = 8080;

/// Returns a world whose cables have IPv6, and whose program does not.
fn without() -> World {
    of(Firewall::Nftables)
}

fn of(firewall: Firewall) -> World {
    let world = World::new(firewall);
    let batch = |namespace: &Namespace, commands: &str| {
        namespace.feed(&["ip", "-6", "-batch", "-"], commands).success();
    };
    let address = |address: &str, link: &str| format!("address add {address} dev {link} nodad\n");
    let node = [
        address(&format!("{NODE_LAN}/64"), "lan0"),
        address("fe80::71/64", "lan0"),
        address(&format!("{NODE_UPLINK}/64"), "up0"),
        address("fe80::cb2/64", "up0"),
        address("fd99::1/64", "oth0"),
        address("fe80::99/64", "oth0"),
        format!("route add default via {INTERNET} dev up0\n"),
    ];
    batch(&world.node, &node.concat());
    let far = |namespace, global: &str, link: &str, rest: &str| {
        let addresses = [address(global, "eth0"), address(link, "eth0"), rest.to_owned()];
        batch(namespace, &addresses.concat());
    };
    let by_node = format!("route add default via {NODE_LAN} dev eth0\n");
    far(&world.client, &format!("{CLIENT}/64"), "fe80::72/64", &by_node);
    // It has a route to the client, and none to any guest.
    let routes = format!(
        "{}route add 2001:db8:7::/64 via {NODE_UPLINK} dev eth0\n",
        address(&format!("{FAR}/128"), "eth0")
    );
    far(&world.internet, &format!("{INTERNET}/64"), "fe80::cb1/64", &routes);
    far(&world.other, &format!("{PRIVATE}/64"), "fe80::992/64", "");
    wait_for("the host's addresses to be local", PATIENCE, || {
        let local =
            world.node.tool(&["ip", "-6", "route", "show", "table", "local", "type", "local"]);
        let addresses =
            ["2001:db8:7::1", "2001:db8:cb::2", "fd99::1", "fe80::71", "fe80::cb2", "fe80::99"];
        addresses.iter().all(|address| local.contains(&format!("{address} "))).then_some(())
    });
    world
}

/// Returns a world whose program has IPv6 on.
pub(crate) fn with() -> World {
    let mut world = without();
    world.environment.insert("RIKLET_SDN_IPV6".to_owned(), "on".to_owned());
    world
}

/// A guest with IPv6, which serves at its address.
struct Dual {
    function: Function,
    address: Ipv6Addr,
    _servers: [Server; 2],
}

impl Dual {
    fn namespace(&self) -> &Namespace {
        &self.function.guest.namespace
    }

    fn tap(&self) -> &str {
        &self.function.guest.nic.interface
    }
}

/// Returns the address of IPv6 that an inspection shows.
pub(crate) fn address_of(world: &World, name: &str) -> Option<Ipv6Addr> {
    let shown = world.riklet(&["--output", "json", "inspect", name], "").success();
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    shown["guest"]["address6"].as_str().map(|address| address.parse().expect("an address"))
}

/// Gives a guest its address of IPv6, and serves there.
fn dual(world: &World, function: Function, name: &str) -> Dual {
    let address = address_of(world, name).expect("an address of IPv6");
    let namespace = &function.guest.namespace;
    let commands = format!(
        "address add fe80::42/64 dev eth0 nodad\naddress add {address}/127 dev eth0 nodad\n\
         route add default via {GATEWAY} dev eth0\n"
    );
    namespace.feed(&["ip", "-6", "-batch", "-"], &commands).success();
    let servers =
        [tcp_server(namespace, (address, TARGET)), udp_server(namespace, (address, TARGET))];
    Dual { function, address, _servers: servers }
}

/// Brings up two functions by one call: the first is published at port [`FIRST`], the other at no port.
fn pair(world: &World) -> [Dual; 2] {
    let exposed = every_transport(FIRST, TARGET);
    let [first, second] =
        world.start([(function("first", &exposed[..2]), &[]), (function("second", &[]), &[])]);
    [dual(world, first, "first"), dual(world, second, "second")]
}

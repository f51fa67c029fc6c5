//! Attacks by frames that a guest's kernel would not send: each is named by what the attacker wants, and beside each the
//! traffic that is allowed goes on.

mod elsewhere;
mod flushed;
mod frame;
mod host;
mod unpublished;

use std::net::Ipv4Addr;

use riklet_core::model::MacAddress;

use crate::world::{Firewall, Namespace, World, guest::Guest};
use frame::Packet;

/// The host's MAC address on every TAP.
const GATEWAY: MacAddress = MacAddress::new([0x0a, 0x52, 0x49, 0x4b, 0, 1]);
/// The port of a name server: guests reach those of the host.
const NAMES: u16 = 53;

/// Makes a test for each firewall of the same attack by two functions, and one by two pods: `by_every_kind!(name, |world,
/// pair| { … });` with `world: &World` and `pair: [Function; 2]`.
macro_rules! by_every_kind {
    ($(#[$attribute:meta])* $name:ident, |$world:ident, $pair:ident| $body:block) => {
        $(#[$attribute])*
        fn $name($world: &$crate::world::World, $pair: [$crate::world::function::Function; 2]) $body

        mod $name {
            use $crate::world::on_every_firewall;

            on_every_firewall!(functions, |world| {
                super::$name(world, $crate::reach::pair(world));
            });
            on_every_firewall!(pods, |world| {
                super::$name(world, $crate::pods::pair(world));
            });
        }
    };
}
use by_every_kind;

/// Returns a packet of UDP that the guest may send, with these words.
fn own(guest: &Guest, to: Ipv4Addr, port: u16, words: &str) -> Packet {
    Packet::udp((guest.nic.address, 7000), (to, port), words).by(guest.nic.mac, GATEWAY)
}

/// Takes all rules of all firewalls away, as an administrator or another program may, and has them accept everything.
#[track_caller]
pub(crate) fn flush(world: &World) {
    world.node.tool(&["nft", "flush", "ruleset"]);
    let tables = ["filter", "nat", "mangle", "raw", "security"];
    let chains = ["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"];
    if world.firewall == Firewall::IptablesLegacy {
        for table in tables {
            for arguments in [&["-F"][..], &["-X"]] {
                world.program("iptables", &[&["-t", table], arguments].concat(), "").success();
            }
            for chain in chains {
                // Not every table has every chain.
                let _set = world.program("iptables", &["-t", table, "-P", chain, "ACCEPT"], "");
            }
        }
    }
}

/// Removes the guard from a guest's TAP.
#[track_caller]
fn unguard(world: &World, guest: &Guest) {
    world.node.tool(&["tc", "qdisc", "delete", "dev", &guest.nic.interface, "clsact"]);
}

/// Returns the neighbours of a namespace on this interface.
#[track_caller]
fn neighbours(namespace: &Namespace, interface: &str) -> String {
    namespace.tool(&["ip", "-4", "neighbour", "show", "dev", interface])
}

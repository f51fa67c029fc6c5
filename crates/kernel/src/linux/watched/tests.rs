mod firewall;

use std::{net::IpAddr, sync::mpsc, thread, time::Duration};

use riklet_testkit::namespace::{ip, isolated, run, run_with};

use super::*;
use crate::{Firewall, ForeignChains, LinkDeletion, OperationScope, OwnChanges, Sysctls};
use riklet_core::{
    firewall::{
        Backend, BaseRuleset, BaseState, Change, Confinement, Entry, FirewallState,
        IptablesVariant, Ruleset,
    },
    link::{LinkSpec, Tap},
    model::{Egress, FlowLimit, Owner, OwnerId, PortRange, Protocol},
    small::SmallSet,
    switch::IP_FORWARD,
    workload::{NodeFacts, reserved},
};

fn owner() -> Owner {
    Owner::new(OwnerId::new(1), "/run/riklet-sdn")
}

fn spec(number: u16) -> LinkSpec {
    let owner = owner();
    let node = NodeFacts {
        pool: "10.231.0.0/16".parse().unwrap(),
        mtu: 1500,
        owner,
        backend: Backend::Nftables,
        policies: true,
    };
    reserved(Slot::new(number), &node).unwrap().link
}

fn name(number: u16) -> InterfaceName {
    Slot::new(number).interface()
}

fn watched() -> Watched {
    let mut watched = Watched::open(Linux::new()).unwrap();
    watched.links().unwrap();
    watched.changes().unwrap();
    watched
}

#[expect(clippy::disallowed_methods, reason = "between two looks at the condition")]
fn wait_for_carrier(interface: &str) {
    for _ in 0..1000 {
        if ip(&format!("link show {interface}")).contains("state UP") {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{interface} has no carrier after 10 s");
}

fn slots(watched: &mut Watched) -> Vec<u16> {
    watched.changes().unwrap().links.into_iter().map(Slot::number).collect()
}

/// Asserts that the mirror equals the kernel.
#[track_caller]
fn assert_mirrors(watched: &mut Watched, after: &str) {
    let by_name = |links: Vec<LinkState>| -> BTreeMap<InterfaceName, LinkState> {
        links.into_iter().map(|link| (link.name.clone(), link)).collect()
    };
    let (found, wanted) = (watched.links().unwrap(), Linux::new().links().unwrap());
    assert_eq!(by_name(found), by_name(wanted), "after {after}");
}

#[test]
fn the_mirror_follows_changes_by_any_process() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(3)).unwrap();
        // This interface is created by another socket, as by another process.
        Linux::new().create_link(&spec(5)).unwrap();
        assert_mirrors(&mut watched, "creation");
        assert_eq!(slots(&mut watched), [3, 5]);
        let changes = [
            "link set rik3 alias riklet-sdn:hello",
            "link set rik3 mtu 1400",
            "link set rik3 address 02:00:00:00:00:01",
            "link set rik3 group 7",
            "addr add 192.0.2.1/24 dev rik3",
            "addr del 192.0.2.1/24 dev rik3",
            "addr del 10.231.0.13/30 dev rik3",
            "neigh replace 10.231.0.14 lladdr 06:00:00:00:00:02 dev rik3 nud permanent",
            "neigh del 10.231.0.14 dev rik3",
            "neigh add 10.231.0.14 lladdr 06:00:00:00:00:01 dev rik3 nud permanent",
            "neigh change 10.231.0.14 lladdr 06:00:00:00:00:01 dev rik3 nud stale",
            "link set rik3 down",
            "link set rik3 up",
            "link set rik3 down",
            "link set rik3 name rik9",
            "link set rik9 up",
            "link del rik9",
            "link set rik5 down",
            "link set rik5 name other0",
            "link set other0 name rik6",
            "link del rik6",
        ];
        for change in changes {
            ip(change);
            assert_mirrors(&mut watched, change);
            assert!(!slots(&mut watched).is_empty(), "{change}");
        }
    });
}

#[test]
fn an_operation_sees_the_host_as_at_its_start_and_its_own_changes() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(1)).unwrap();
        watched.create_link(&spec(2)).unwrap();
        let alias = |watched: &mut Watched, number| {
            watched.link(&name(number)).unwrap().and_then(|link| link.alias)
        };
        ip("link set rik1 alias before");
        watched.start_operation().unwrap();
        ip("link set rik1 alias during");
        assert_eq!(alias(&mut watched, 1).as_deref(), Some("before"));
        watched.set_aliases(&[(name(2), "ours".to_owned())].into());
        assert_eq!(alias(&mut watched, 2).as_deref(), Some("ours"));
        assert_eq!(alias(&mut watched, 1).as_deref(), Some("during"), "our change was followed");
        ip("link set rik1 alias later");
        watched.start_operation().unwrap();
        assert_eq!(alias(&mut watched, 1).as_deref(), Some("later"), "another operation");
        ip("link set rik1 alias idle");
        watched.changes().unwrap();
        assert_eq!(alias(&mut watched, 1).as_deref(), Some("idle"), "no operation");
    });
}

#[test]
fn a_recreated_interface_keeps_nothing_of_the_former_one() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(3)).unwrap();
        ip("link del rik3");
        ip("tuntap add rik3 mode tap");
        assert_mirrors(&mut watched, "both in one batch");
        ip("link add rik4 type veth peer name far0");
        ip("addr add 192.0.2.1/24 dev far0");
        ip("link set far0 name rik7");
        assert_mirrors(&mut watched, "a stranger takes our name, and brings its address");
        assert_eq!(watched.link(&name(7)).unwrap().unwrap().addresses.len(), 1);
    });
}

#[test]
fn a_refresh_finds_changes_without_a_notification() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(3)).unwrap();
        watched.changes().unwrap();
        super::super::sysctl::set("net.ipv6.conf.rik3.disable_ipv6", "0").unwrap();
        super::super::sysctl::set("net.ipv4.conf.rik3.route_localnet", "0").unwrap();
        super::super::sysctl::set("net.ipv4.conf.rik3.accept_redirects", "1").unwrap();
        assert_eq!(slots(&mut watched), [0; 0], "nobody is told");
        watched.refresh();
        assert_eq!(slots(&mut watched), [3]);
        assert_mirrors(&mut watched, "a refresh");
        watched.configure_link(&spec(3)).unwrap();
        assert_mirrors(&mut watched, "mending it");
    });
}

#[test]
fn interfaces_are_listed_again_after_lost_notifications() {
    isolated(|| {
        let mut watched = watched();
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&watched.route, 4096).unwrap();
        for number in 0..20 {
            Linux::new().create_link(&spec(number)).unwrap();
        }
        ip("link set rik7 down");
        assert!(watched.changes().unwrap().lost);
        assert_mirrors(&mut watched, "an overflow");
    });
}

/// Creates two uplinks, of which the first has the default route.
fn two_uplinks() {
    for (near, address) in [("up0", "192.0.2.1/24"), ("up1", "198.51.100.1/24")] {
        ip(&format!("link add {near} type veth peer name {near}-far"));
        ip(&format!("addr add {address} dev {near}"));
        ip(&format!("link set {near} up"));
        ip(&format!("link set {near}-far up"));
    }
    ip("route add default via 192.0.2.2");
    // The kernel notifies of the carrier a while later.
    ["up0", "up1"].into_iter().for_each(wait_for_carrier);
}

#[test]
fn a_route_that_comes_after_its_rule_changes_the_uplinks() {
    isolated(|| {
        two_uplinks();
        let mut watched = watched();
        assert!(!watched.changes().unwrap().uplinks, "nothing was known before");
        ip("rule add from 198.51.100.0/24 lookup 77");
        assert!(watched.changes().unwrap().uplinks, "a rule");
        for change in [
            "route replace default via 198.51.100.2 table 77",
            "route flush table 77",
            "route add default via 192.0.2.2 table 77",
            "route replace default via 198.51.100.2 table 77",
        ] {
            assert!(!watched.changes().unwrap().uplinks, "before {change}");
            ip(change);
            assert!(watched.changes().unwrap().uplinks, "{change}");
        }
    });
}

#[test]
fn only_the_default_route_changes_the_uplinks() {
    isolated(|| {
        two_uplinks();
        let mut watched = watched();
        assert_eq!(watched.uplinks().unwrap(), ["up0".parse().unwrap()].into());
        watched.create_link(&spec(0)).unwrap();
        assert!(watched.uplinks.is_some(), "our route is no default route");
        assert!(!watched.changes().unwrap().uplinks);
        ip("route replace default via 198.51.100.2");
        assert!(watched.changes().unwrap().uplinks);
        assert_eq!(watched.uplinks().unwrap(), ["up1".parse().unwrap()].into());
        ip("link set up1 mtu 1400");
        assert!(watched.changes().unwrap().uplinks);
        assert_eq!(watched.link(&"up1".parse().unwrap()).unwrap().unwrap().mtu, 1400);
        ip("link set up0 mtu 1400");
        assert!(!watched.changes().unwrap().uplinks, "it is none any more");
    });
}

#[test]
fn a_change_of_forwarding_is_noticed() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(0)).unwrap();
        assert_eq!(watched.sysctl(IP_FORWARD).unwrap().as_deref(), Some("0"));
        watched.set_sysctl(IP_FORWARD, "1").unwrap();
        assert_eq!(watched.sysctl(IP_FORWARD).unwrap().as_deref(), Some("1"));
        watched.changes().unwrap();
        super::super::sysctl::set(IP_FORWARD, "0").unwrap();
        assert!(watched.changes().unwrap().forwarding);
        assert_eq!(watched.sysctl(IP_FORWARD).unwrap().as_deref(), Some("0"));
        watched.create_link(&spec(1)).unwrap();
        assert!(!watched.changes().unwrap().forwarding, "that an interface came is nothing of it");
    });
}

#[test]
fn a_change_of_ip_forward_changes_every_interface() {
    isolated(|| {
        let write = super::super::sysctl::set;
        let mut watched = watched();
        watched.create_link(&spec(0)).unwrap();
        watched.create_link(&spec(1)).unwrap();
        watched.changes().unwrap();
        write("net.ipv4.conf.rik1.forwarding", "0").unwrap();
        let changes = watched.changes().unwrap();
        assert_eq!(changes.links, [Slot::new(1)].into());
        assert!(!changes.forwarding, "it is ours");
        assert_mirrors(&mut watched, "the switch of a TAP");
        watched.configure_link(&spec(1)).unwrap();
        assert_mirrors(&mut watched, "its repair");
        watched.changes().unwrap();
        write("net.ipv4.conf.rik1.rp_filter", "0").unwrap();
        let changes = watched.changes().unwrap();
        assert_eq!((changes.links, changes.forwarding), ([Slot::new(1)].into(), false));
        assert_mirrors(&mut watched, "its check of sources");
        write("net.ipv4.conf.rik1.rp_filter", "1").unwrap();
        for value in ["1", "0"] {
            write(IP_FORWARD, value).unwrap();
            assert_mirrors(&mut watched, "the switch of the host");
        }
        let changes = watched.changes().unwrap();
        assert_eq!(changes.links, [Slot::new(0), Slot::new(1)].into());
        assert!(changes.forwarding);
    });
}

#[test]
fn changes_of_foreign_interfaces_are_noticed() {
    isolated(|| {
        let mut watched = watched();
        let switch = "net.ipv4.conf.up0.forwarding";
        assert_eq!(watched.sysctl(switch).unwrap(), None);
        for change in [
            "link add up0 type veth peer name far",
            "addr add 192.0.2.1/24 dev up0",
            "addr del 192.0.2.1/24 dev up0",
            "link del up0",
        ] {
            ip(change);
            let found = watched.host_interfaces().unwrap();
            assert_eq!(found, Linux::new().host_interfaces().unwrap(), "after {change}");
            assert!(watched.changes().unwrap().forwarding, "{change}");
            assert!(!watched.changes().unwrap().forwarding, "once");
            let switch_is_there = watched.sysctl(switch).unwrap().is_some();
            assert_eq!(switch_is_there, change != "link del up0");
        }
        watched.create_link(&spec(0)).unwrap();
        assert!(!watched.changes().unwrap().forwarding, "ours is none of them");
    });
}

#[test]
fn changes_of_an_interface_that_is_down_are_read_from_the_kernel() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(3)).unwrap();
        ip("link set rik3 down");
        assert_mirrors(&mut watched, "down");
        for silent in ["link set rik3 group 9", "link set rik3 alias theirs"] {
            ip(silent);
            assert_mirrors(&mut watched, silent);
        }
        watched.set_owner(&name(3), &Tap { owner: Some(7), ..Tap::default() }).unwrap();
        assert_mirrors(&mut watched, "another owner");
        watched.drain_links(&[(name(3), SmallSet::default())].into()).unwrap();
        assert_mirrors(&mut watched, "drained");
    });
}

#[test]
fn an_mtu_change_that_enables_ipv6_is_noticed() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(3)).unwrap();
        for change in ["link set rik3 mtu 1000", "link set rik3 mtu 1400"] {
            ip(change);
            assert_mirrors(&mut watched, change);
        }
        assert!(watched.link(&name(3)).unwrap().unwrap().ipv6, "which is to be turned off");
    });
}

#[test]
fn two_interfaces_may_swap_names() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(1)).unwrap();
        watched.create_link(&spec(2)).unwrap();
        for change in ["rik1 name x", "rik2 name rik1", "x name rik2"] {
            ip(&format!("link set {change}"));
        }
        assert_mirrors(&mut watched, "a swap in one batch");
    });
}

mod attachment;
mod shaping;

use riklet_testkit::namespace::{ip, isolated, run, run_with};

use std::os::fd::OwnedFd;

use super::*;
use crate::linux::{guard::Blocks, tap};
use riklet_core::{
    address::{GATEWAY_LINK_LOCAL, GATEWAY_MAC},
    guard::Guard,
    link::{DRAINING_GROUP, Remedy, Tap},
    model::{Addresses, MacAddress, Pool, Slot},
    shaping::Shaping,
};
use rustix::io::Errno;

fn spec(number: u16) -> LinkSpec {
    let slot = Slot::new(number);
    let addresses = "10.231.0.0/16".parse::<Pool>().unwrap().addresses(slot).unwrap();
    LinkSpec {
        name: slot.interface(),
        alias: format!("riklet-sdn:test{number} tcp:8080:80"),
        mac: GATEWAY_MAC,
        link_local: None,
        mtu: 1400,
        addresses: addresses.hosts().map(Addresses::network).collect(),
        neighbours: addresses.guests().map(|guest| (guest, slot.guest_mac())).collect(),
        device: Device::Tap(Tap::default()),
        shaping: Shaping::default(),
    }
}

/// Returns the numbers of the blocks of a slot.
fn blocks(number: u16) -> [u32; 2] {
    let slot = Slot::new(number);
    Blocks::of(slot, Guard::of_interface(slot, &spec(number).addresses)).numbers()
}

fn route() -> Route {
    Route::open().unwrap()
}

fn differences(route: &mut Route, spec: &LinkSpec) -> Vec<String> {
    let state = route.link(&spec.name).unwrap().expect("the link is there");
    assert_eq!(spec.stray_addresses(&state), Vec::<IpNet>::new());
    spec.differences(&state).iter().map(ToString::to_string).collect()
}

fn attach(spec: &LinkSpec) -> OwnedFd {
    tap::attach(&spec.name).unwrap()
}

#[test]
fn a_created_link_matches_its_specification() {
    isolated(|| {
        let (mut route, spec) = (route(), spec(5));
        assert_eq!(route.link(&spec.name).unwrap(), None);
        route.create_link(&spec).unwrap();
        assert_eq!(differences(&mut route, &spec), [""; 0]);
        assert_eq!(ip("-6 addr show dev rik5"), "", "no link-local address");
        assert_eq!(run("cat", "/proc/sys/net/ipv4/conf/rik5/route_localnet"), "1\n");
        assert_eq!(run("cat", "/proc/sys/net/ipv4/conf/rik5/forwarding"), "1\n");
        assert_eq!(run("cat", "/proc/sys/net/ipv4/ip_forward"), "0\n");
        // The second attempt must not change any interface.
        let before = route.links().unwrap();
        let refused = route.create_link(&spec).unwrap_err();
        assert_eq!(refused.refusal().errno, Some(Refusal::EBUSY), "{refused}");
        assert_eq!(route.links().unwrap(), before);
    });
}

#[test]
fn a_missing_part_of_the_guard_is_a_difference_and_is_restored() {
    isolated(|| {
        let mut route = route();
        for number in [5, 6] {
            route.create_link(&spec(number)).unwrap();
        }
        let [ingress, egress] = blocks(5).map(|block| block.to_string());
        let (ingress, egress) = (&*ingress, &*egress);
        let program = &["prio", "1", "handle", "1", "bpf", "da", "bytecode", "1,6 0 0 0"][..];
        for (lost, broken) in [
            (vec!["qdisc", "delete", "dev", "rik5", "clsact"], [true, false]),
            (vec!["filter", "delete", "block", ingress], [true; 2]),
            (vec!["filter", "delete", "block", egress], [true; 2]),
            ([&["filter", "replace", "block", egress][..], program].concat(), [true; 2]),
        ] {
            run_with("tc", &lost);
            for (number, broken) in [5, 6].into_iter().zip(broken) {
                let wanted = if broken { vec!["guard"] } else { vec![] };
                assert_eq!(differences(&mut route, &spec(number)), wanted, "{lost:?}: {number}");
                let listed = route.links().unwrap();
                let listed = listed.iter().find(|link| link.name == spec(number).name).unwrap();
                assert_eq!(listed.guarded, !broken, "{lost:?}: {number}");
            }
            route.configure_link(&spec(5)).unwrap();
            for number in [5, 6] {
                assert_eq!(differences(&mut route, &spec(number)), [""; 0], "{lost:?}: {number}");
            }
        }
        run_with("tc", &["qdisc", "delete", "dev", "rik5", "clsact"]);
        run_with("tc", &["qdisc", "add", "dev", "rik5", "clsact"]);
        run_with("tc", &[&["filter", "replace", "dev", "rik5", "ingress"][..], program].concat());
        assert_eq!(differences(&mut route, &spec(5)), ["guard"], "hooks of another program");
        route.configure_link(&spec(5)).unwrap();
        assert_eq!(differences(&mut route, &spec(5)), [""; 0]);
    });
}

#[test]
fn a_link_has_the_number_of_its_slot_unless_another_has_it() {
    isolated(|| {
        let mut route = route();
        let [free, taken] =
            [5, 6].map(|number| (spec(number), interface_number(Slot::new(number))));
        ip(&format!("link add other index {} type veth peer name far", taken.1));
        for (spec, _) in [&free, &taken] {
            route.create_link(spec).unwrap();
            assert_eq!(differences(&mut route, spec), [""; 0]);
        }
        assert_eq!(route.index(&free.0.name).unwrap(), free.1);
        assert!(route.index(&taken.0.name).unwrap() < 1 << 16);
        // A deleted interface leaves its number behind.
        for (spec, _) in [&free, &taken] {
            route.delete_link(&spec.name).unwrap();
        }
        ip("link delete other");
        route.create_link(&taken.0).unwrap();
        assert_eq!(route.index(&taken.0.name).unwrap(), taken.1);
    });
}

#[test]
fn links_of_two_pools_have_guards_of_their_own() {
    isolated(|| {
        let mut route = route();
        let mut other = spec(6);
        let address: IpNet = "10.9.0.25/30".parse().unwrap();
        other.addresses = [address].into_iter().collect();
        for spec in [&spec(5), &other] {
            route.create_link(spec).unwrap();
        }
        for spec in [&spec(5), &other] {
            assert_eq!(differences(&mut route, spec), [""; 0]);
        }
        // The guard of one pool does not fit an interface of the other.
        ip("address delete 10.9.0.25/30 dev rik6");
        ip("address add 10.231.0.25/30 dev rik6");
        assert!(differences(&mut route, &spec(6)).contains(&"guard".to_owned()));
        route.configure_link(&spec(6)).unwrap();
        assert_eq!(differences(&mut route, &spec(6)), [""; 0]);
    });
}

#[test]
fn slots_far_apart_share_no_block() {
    isolated(|| {
        let (mut route, numbers) = (route(), [127, 128, 16_383]);
        for number in numbers {
            route.create_link(&spec(number)).unwrap();
        }
        let shown = run("tc", "qdisc show");
        let first = blocks(0)[0];
        for (number, block) in numbers.into_iter().zip([0, 2, 254]) {
            let [from, to] = blocks(number);
            assert_eq!((from, to), (first + block, first + block + 1));
            let wanted = format!(
                "clsact ffff: dev rik{number} parent ffff:fff1 ingress_block {from} egress_block {to} "
            );
            assert!(shown.contains(&wanted), "{wanted}: {shown}");
        }
        run("tc", &format!("filter delete block {}", blocks(128)[0]));
        for (number, broken) in numbers.into_iter().zip([false, true, false]) {
            let wanted = if broken { vec!["guard"] } else { vec![] };
            assert_eq!(differences(&mut route, &spec(number)), wanted, "{number}");
        }
        let links = route.links().unwrap();
        assert_eq!(links.iter().map(|link| link.guarded).collect::<Vec<_>>(), [true, false, true]);
    });
}

#[test]
fn the_kernel_is_asked_whether_it_can_guard_without_a_trace() {
    isolated(|| {
        let (before, mut route) = (ip("-j link"), route());
        assert_eq!(route.can_guard(), Ok(true), "this kernel can");
        assert_eq!(ip("-j link"), before);
    });
}

#[test]
fn host_interfaces_lists_only_foreign_interfaces() {
    isolated(|| {
        let mut route = route();
        route.create_link(&spec(5)).unwrap();
        ip("link add up0.7 type veth peer name far");
        ip("addr add 192.0.2.1/24 dev up0.7");
        ip("link add br0 type bridge");
        ip("addr add 198.51.100.1/24 dev br0");
        let found = route.host_interfaces().unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(name, i)| (name.as_str(), i.addressed, i.bridge))
            .filter(|(name, ..)| ["br0", "far", "lo", "rik5", "up0.7"].contains(name))
            .collect();
        assert_eq!(found, [("br0", true, true), ("far", false, false), ("up0.7", true, false)]);
    });
}

#[test]
fn a_foreign_interface_with_our_name_is_left_alone() {
    isolated(|| {
        ip("link add rik3 type veth peer name peer3");
        let before = ip("-j link");
        let refused = route().create_link(&spec(3)).unwrap_err();
        assert!(matches!(refused, KernelError::CreateLink { step: "TUNSETIFF", .. }), "{refused}");
        assert_eq!(ip("-j link"), before);
    });
}

#[test]
fn an_alias_that_is_not_text_hides_no_interface() {
    isolated(|| {
        let (mut route, spec) = (route(), spec(0));
        route.create_link(&spec).unwrap();
        run_with("sh", &["-c", r"ip link set rik0 alias $(printf 'riklet\377')"]);
        let state = route.link(&spec.name).unwrap().expect("the link is there");
        assert_eq!((state.alias.as_deref(), state.mtu), (None, spec.mtu));
        assert_eq!(route.links().unwrap(), [state]);
    });
}

/// Returns the specification of an interface whose guest has IPv6.
fn spec_v6(number: u16) -> LinkSpec {
    let slot = Slot::new(number);
    let both = "10.231.0.0/16".parse::<Pool>().unwrap().with_v6("fd52::/64".parse().unwrap());
    let addresses = both.unwrap().addresses(slot).unwrap();
    LinkSpec {
        link_local: Some(GATEWAY_LINK_LOCAL),
        addresses: addresses.hosts().map(Addresses::network).collect(),
        neighbours: addresses.guests().map(|guest| (guest, slot.guest_mac())).collect(),
        ..spec(number)
    }
}

#[test]
fn a_link_with_ipv6_matches_its_specification() {
    isolated(|| {
        let (mut route, both) = (route(), spec_v6(5));
        route.create_link(&both).unwrap();
        assert_eq!(differences(&mut route, &both), [""; 0]);
        assert_eq!(route.links().unwrap(), [route.link(&both.name).unwrap().unwrap()]);
        let expected = ["fe80::1/64", "fd52::a/127"];
        let addresses = ip("-6 -o address show dev rik5");
        assert!(expected.iter().all(|address| addresses.contains(address)), "{addresses}");
        for (command, difference) in [
            ("sysctl -qw net.ipv6.conf.rik5.accept_ra=2", "no routes learned by IPv6"),
            ("sysctl -qw net.ipv6.conf.rik5.force_forwarding=0", "force_forwarding 1"),
            ("ip -6 address delete fe80::1/64 dev rik5", "address fe80::1/64"),
            ("ip -6 neighbour delete fd52::b dev rik5", "neighbour fd52::b at 06:52:49:4b:00:05"),
        ] {
            let words: Vec<_> = command.split(' ').collect();
            run_with(words[0], &words[1..]);
            assert_eq!(differences(&mut route, &both), [difference], "{command}");
            route.configure_link(&both).unwrap();
            assert_eq!(differences(&mut route, &both), [""; 0], "{command}");
        }
    });
}

#[test]
fn ipv6_comes_and_goes_with_its_guard() {
    isolated(|| {
        let (mut route, v4, both) = (route(), spec(5), spec_v6(5));
        route.create_link(&v4).unwrap();
        let index = route.index(&v4.name).unwrap();
        let has_guard_of = |route: &mut Route, spec: &LinkSpec| {
            let hooked = route.hooked(index).unwrap();
            route.has_guard_of(hooked, Slot::new(5), &spec.addresses).unwrap()
        };
        assert!(has_guard_of(&mut route, &v4) && !has_guard_of(&mut route, &both));
        for _ in 0..2 {
            route.configure_link(&both).unwrap();
            assert_eq!(differences(&mut route, &both), [""; 0]);
            assert!(has_guard_of(&mut route, &both) && !has_guard_of(&mut route, &v4));
        }
        let state = route.link(&v4.name).unwrap().unwrap();
        for address in v4.stray_addresses(&state) {
            route.remove_address(&v4.name, address).unwrap();
        }
        route.configure_link(&v4).unwrap();
        assert_eq!(differences(&mut route, &v4), [""; 0]);
        assert!(has_guard_of(&mut route, &v4));
    });
}

#[test]
fn a_refused_address_leaves_nothing_of_a_new_link() {
    isolated(|| {
        let (before, spec) = (ip("-j link"), LinkSpec { link_local: None, ..spec_v6(1) });
        let refused = route().create_link(&spec).unwrap_err();
        let KernelError::CreateLink { step, source, .. } = &refused else {
            panic!("{refused}");
        };
        assert_eq!(*step, "address", "{refused}");
        assert!(source.words.contains("IPv6 is disabled on this device"), "{refused}");
        assert_eq!(ip("-j link"), before);
    });
}

#[test]
fn a_refused_part_leaves_nothing_of_a_new_link() {
    isolated(|| {
        let before = ip("-j link");
        for (part, spec) in [
            ("alias", LinkSpec { alias: "x".repeat(300), ..spec(1) }),
            ("MTU", LinkSpec { mtu: 3, ..spec(1) }),
            ("MAC address", LinkSpec { mac: MacAddress::new([0xff; 6]), ..spec(1) }),
        ] {
            let refused = route().create_link(&spec);
            if let Err(KernelError::CreateLink { step, .. }) = &refused {
                assert_eq!(*step, part);
            } else {
                panic!("{part}: {refused:?}");
            }
            assert_eq!(ip("-j link"), before);
        }
    });
}

#[test]
fn an_interrupted_creation_leaves_nothing() {
    isolated(|| {
        let (mut route, spec) = (route(), spec(1));
        let before = ip("-j link");
        let tap = NewTap::create(&spec.name, false, 77).unwrap();
        route.configure_link(&spec).unwrap();
        assert!(route.link(&spec.name).unwrap().is_some());
        drop(tap);
        assert_eq!(route.link(&spec.name).unwrap(), None);
        assert_eq!(ip("-j link"), before);
    });
}

#[test]
fn links_work_without_ipv6() {
    isolated(|| {
        let mut route = route();
        // Below this MTU the kernel has no IPv6 on an interface (RFC 8200, section 5).
        let small = LinkSpec { mtu: 1279, ..spec(1) };
        route.create_link(&small).unwrap();
        assert_eq!(differences(&mut route, &small), [""; 0]);
        run("sysctl", "-qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        route.create_link(&spec(2)).unwrap();
        assert_eq!(differences(&mut route, &spec(2)), [""; 0]);
    });
}

/// Returns a router advertisement (RFC 4861, section 4.2) as a guest sends it, behind the header of its TAP.
fn advertisement() -> Vec<u8> {
    let link_local = |last: u8| [&[0xfe, 0x80][..], &[0; 13], &[last]].concat();
    let all_nodes = [&[0xff, 0x02][..], &[0; 13], &[1]].concat();
    // Type, code, checksum, hop limit, flags, lifetime of half an hour, two timers.
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    let pseudo = [&link_local(2)[..], &all_nodes, &[0, 0, 0, 16, 0, 0, 0, 58]].concat();
    let words = pseudo.iter().chain(&message).copied().collect::<Vec<u8>>();
    let sum: u32 = words.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    message[2..4].copy_from_slice(&(!sum).to_be_bytes());
    let ethernet = [&[0x33, 0x33, 0, 0, 0, 1][..], &[6, 0x52, 0x49, 0x4b, 0, 1], &[0x86, 0xdd]];
    let header = [&[0x60, 0, 0, 0, 0, 16, 58, 255][..], &link_local(2), &all_nodes];
    [&[0; tap::VNET_HEADER][..], &ethernet.concat(), &header.concat(), &message].concat()
}

#[test]
fn a_guest_cannot_become_the_hosts_router() {
    isolated(|| {
        let (mut route, spec) = (route(), spec(1));
        route.create_link(&spec).unwrap();
        let guest = attach(&spec);
        rustix::io::write(&guest, &advertisement()).unwrap();
        assert_eq!(ip("-6 route show default"), "");
        // If IPv6 is turned on again, this is drift, and the guard still drops the advertisement.
        run("sysctl", "-qw net.ipv6.conf.rik1.disable_ipv6=0");
        assert_eq!(differences(&mut route, &spec), ["no IPv6"]);
        rustix::io::write(&guest, &advertisement()).unwrap();
        assert_eq!(ip("-6 route show default"), "", "the guard drops it");
        run("tc", "qdisc delete dev rik1 clsact");
        rustix::io::write(&guest, &advertisement()).unwrap();
        assert_ne!(ip("-6 route show default"), "", "the advertisement is a good one");
        route.configure_link(&spec).unwrap();
        assert_eq!(differences(&mut route, &spec), [""; 0]);
        assert_eq!(ip("-6 route show default"), "");
        run("sysctl", "-qw net.ipv6.conf.rik1.disable_ipv6=0");
        rustix::io::write(&guest, &advertisement()).unwrap();
        assert_eq!(ip("-6 route show default"), "", "the guard is there again");
        route.configure_link(&spec).unwrap();

        let small = LinkSpec { mtu: 1279, ..spec.clone() };
        route.configure_link(&small).unwrap();
        route.configure_link(&spec).unwrap();
        assert_eq!(differences(&mut route, &spec), [""; 0]);
    });
}

#[test]
fn an_interface_that_is_not_a_tap_is_detected() {
    isolated(|| {
        let mut route = route();
        ip("link add rik1 type veth peer name rik2");
        ip("tuntap add rik3 mode tun");
        for number in 1..=3 {
            let state = route.link(&spec(number).name).unwrap().unwrap();
            assert_eq!(state.tap, None);
            assert_eq!(spec(number).differences(&state)[0].to_string(), "a TAP");
        }
    });
}

#[test]
fn drift_is_repaired() {
    isolated(|| {
        let (mut route, spec) = (route(), spec(1));
        route.create_link(&spec).unwrap();
        let drifts = [
            "link set rik1 alias other",
            "link set rik1 address 02:00:00:00:00:01",
            "link set rik1 mtu 1500",
            "link set rik1 group 7",
            "link set rik1 down",
            "addr del 10.231.0.5/30 dev rik1",
            "neigh replace 10.231.0.6 lladdr 02:00:00:00:00:02 nud permanent dev rik1",
            "neigh del 10.231.0.6 dev rik1",
        ];
        for drift in drifts {
            ip(drift);
            let state = route.link(&spec.name).unwrap().unwrap();
            assert_ne!(spec.differences(&state), [], "{drift}");
            route.configure_link(&spec).unwrap();
            assert_eq!(differences(&mut route, &spec), [""; 0], "{drift}");
        }
        let settings = [
            ("forwarding", 1),
            ("route_localnet", 1),
            ("accept_redirects", 0),
            ("send_redirects", 0),
            ("rp_filter", 1),
            ("arp_ignore", 1),
        ];
        let wrong =
            settings.map(|(setting, value)| format!("net.ipv4.conf.rik1.{setting}={}", 1 - value));
        run("sysctl", &format!("-qw {}", wrong.join(" ")));
        let wanted = settings.map(|(setting, value)| format!("{setting} {value}"));
        assert_eq!(differences(&mut route, &spec), wanted);
        route.configure_link(&spec).unwrap();
        assert_eq!(differences(&mut route, &spec), [""; 0]);
        run("sysctl", "-qw net.ipv4.conf.rik1.rp_filter=2 net.ipv4.conf.rik1.arp_ignore=2");
        assert_eq!(differences(&mut route, &spec), [""; 0], "udev may set another mode");
        for drift in drifts {
            ip(drift);
        }
        let guest = attach(&spec);
        route.configure_link(&spec).unwrap();
        assert_eq!(differences(&mut route, &spec), [""; 0], "all at once, with a guest");
        drop(guest);
    });
}

#[test]
fn a_refused_part_is_named_and_the_others_are_configured() {
    isolated(|| {
        let (mut route, good) = (route(), spec(1));
        route.create_link(&good).unwrap();
        let bad = LinkSpec { alias: "changed".to_owned(), mtu: 3, ..good.clone() };
        let refused = route.configure_link(&bad).unwrap_err();
        assert_eq!(refused.to_string(), "cannot configure rik1: MTU");
        assert!(refused.refusal().to_string().contains("mtu less than device minimum"));
        let state = route.link(&good.name).unwrap().unwrap();
        assert_eq!((state.alias.as_deref(), state.mtu), (Some("changed"), 1400));

        let missing = route.configure_link(&spec(2)).unwrap_err();
        assert_eq!(missing.refusal().errno, Some(Refusal::ENODEV));
    });
}

#[test]
fn a_stray_address_is_seen_and_removed() {
    isolated(|| {
        let (mut route, spec) = (route(), spec(1));
        route.create_link(&spec).unwrap();
        ip("addr add 192.0.2.9/24 dev rik1");
        ip("addr add 192.0.2.10 peer 192.0.2.11/32 dev rik1");
        let state = route.link(&spec.name).unwrap().unwrap();
        let strays: Vec<_> = spec.stray_addresses(&state).into_iter().collect();
        assert_eq!(strays.len(), 2, "{strays:?}");
        ip("addr del 192.0.2.10 peer 192.0.2.11/32 dev rik1");
        let stray = "192.0.2.9/24".parse().unwrap();
        route.remove_address(&spec.name, stray).unwrap();
        assert_eq!(differences(&mut route, &spec), [""; 0]);
        let refused = route.remove_address(&spec.name, stray).unwrap_err();
        assert_eq!(refused.refusal().errno, Some(Errno::ADDRNOTAVAIL.raw_os_error()));
    });
}

#[test]
fn a_retired_link_stays_up_and_forwards_nothing() {
    isolated(|| {
        let mut route = route();
        for number in [1, 2] {
            route.create_link(&spec(number)).unwrap();
        }
        let before = route.link(&spec(1).name).unwrap().unwrap();
        let names = [spec(1).name, spec(7).name].into();
        for _ in 0..2 {
            route.retire_links(&names).unwrap();
            let retired = LinkState { group: DRAINING_GROUP, forwarding: false, ..before.clone() };
            assert_eq!(route.link(&spec(1).name).unwrap(), Some(retired));
        }
        assert_eq!(differences(&mut route, &spec(2)), [""; 0]);
    });
}

#[test]
fn only_the_named_links_are_drained_and_deleted() {
    isolated(|| {
        let mut route = route();
        ip("link add rik9 type veth peer name peer9");
        ip("tuntap add rik8 mode tap");
        // Another interface may have the number of the group.
        ip(&format!("link set rik8 group {DRAINING_GROUP:#x}"));
        let before = ip("-j link");
        route.delete_links(&BTreeSet::new()).unwrap();
        // There is more than one batch, and some of the interfaces do not exist.
        let numbers: Vec<u16> = (100..200).collect();
        for number in &numbers {
            route.create_link(&spec(*number)).unwrap();
        }
        let guest = attach(&spec(100));
        let names = numbers.iter().flat_map(|n| [*n, n + 1000]).map(|n| Slot::new(n).interface());
        let addresses = |name: &InterfaceName| {
            let slot = Slot::of_interface(name.as_str()).unwrap();
            spec(slot.number()).addresses
        };
        let names: BTreeMap<_, _> = names.map(|name| (name.clone(), addresses(&name))).collect();
        route.drain_links(&names).unwrap();
        let state = route.link(&spec(100).name).unwrap().unwrap();
        assert_eq!((state.up, state.group), (false, DRAINING_GROUP));
        assert!(state.neighbours.is_empty() && state.addresses.is_empty());
        route.drain_links(&names).unwrap();
        let all = names.keys().cloned().collect();
        route.delete_links(&all).unwrap();
        route.delete_links(&all).unwrap();
        drop(guest);
        assert_eq!(ip("-j link"), before);
        route.drain_links(&names).unwrap();
    });
}

#[test]
fn links_lists_every_rik_interface_whoever_owns_it() {
    isolated(|| {
        let mut route = route();
        ip("link add rik900 type veth peer name rikx");
        let specs: Vec<_> = (0..300).map(spec).collect();
        for spec in &specs {
            route.create_link(spec).unwrap();
        }
        let states = route.links().unwrap();
        assert_eq!(states.len(), 301);
        for spec in &specs {
            let state = states.iter().find(|state| state.name == spec.name).unwrap();
            assert_eq!(spec.differences(state), []);
            assert_eq!(route.link(&spec.name).unwrap().as_ref(), Some(state));
        }
        route.delete_links(&specs.into_iter().map(|spec| spec.name).collect()).unwrap();
    });
}

//! Several uplinks: answers leave by the one that was asked, also where they come, go and come back.

use std::{
    fs::File,
    io::{Error, Write},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use crate::{
    internet::assert_internet,
    reach::{FIRST, TARGET, assert_published, pair},
    routing::{OTHER_NETWORK, assert_reached_by_other, second_uplink},
    world::{
        INTERNET, INTERNET_FAR, NODE_OTHER, NODE_UPLINK, OTHER, World,
        function::{Function, exposure, function},
        on_every_firewall,
        state::{SystemState, assert_same},
        traffic::{Endpoints, tcp_ask, tcp_server},
        transport::{Path, Transport, assert_paths},
        wait_for,
    },
};

/// A client behind a router of the second uplink.
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// Makes the network behind `oth0` a second uplink, by a routing rule on the source address. A client is far behind
/// it.
pub(crate) fn rule_by_source(world: &World) {
    let via = OTHER.to_string();
    far_client(world);
    world.node.tool(&["ip", "route", "add", "default", "via", &via, "table", "100"]);
    world.node.tool(&["ip", "rule", "add", "from", OTHER_NETWORK, "lookup", "100"]);
}

/// Asserts that the far client is answered at the second uplink, and the others as usual.
#[track_caller]
pub(crate) fn assert_both_uplinks(world: &World, pair: &[Function; 2], when: &str) {
    let address = pair[0].address();
    let (node, far) = (NODE_OTHER.to_string(), FAR.to_string());
    world.other.tool(&["ip", "route", "add", &node, "dev", "eth0", "src", &far]);
    let path = Path {
        from: &world.other,
        to: (NODE_OTHER, FIRST),
        seen_as: FAR,
        server: (address, TARGET),
    };
    assert_paths(&format!("far client → second uplink, {when}"), &Transport::ALL, &[path]);
    world.other.tool(&["ip", "route", "del", &node, "dev", "eth0"]);
    assert_published(world, pair, &Transport::ALL);
    assert_internet(world, &pair[0]);
}

on_every_firewall!(answers_leave_by_the_uplink_that_was_asked, |world| {
    let before = SystemState::take(&world.node);
    let early = pair(world);
    assert_published(world, &early, &[Transport::Tcp]);
    rule_by_source(world);
    assert_eq!(world.riklet(&["check"], "").code, Some(1));
    world.riklet(&["repair"], "").success();
    world.riklet(&["check"], "").success();
    assert_both_uplinks(world, &early, "after a repair");
    // Marks that others set are kept.
    let chain = "add table ip mine\nadd chain ip mine early { type filter hook prerouting priority -200; }\n\
                 add rule ip mine early iifname \"rik*\" meta mark set 0x84000\n\
                 add chain ip mine see { type filter hook forward priority 10; }\n\
                 add rule ip mine see iifname \"rik*\" oifname oth0 meta mark 0x84002 counter\n";
    world.node.feed(&["nft", "-f", "-"], chain).success();
    assert_both_uplinks(world, &early, "beside other marks");
    let seen = world.node.tool(&["nft", "list", "chain", "ip", "mine", "see"]);
    assert!(!seen.contains("packets 0 "), "{seen}");
    world.node.tool(&["nft", "delete", "table", "ip", "mine"]);

    // With another mask, nothing of the first one is left.
    world.riklet(&["--mark-mask", "0x7f00000", "repair"], "").success();
    assert_both_uplinks(world, &early, "with another mask");
    let rules = world.node.tool(&["ip", "rule"]);
    assert!(rules.contains("fwmark 0x200000/0x700000 lookup 100"), "{rules}");
    assert_marks_within(world, 0x07f0_0000);
    world.down(&["--all", "--purge"]);
    world.node.tool(&["ip", "rule", "del", "from", OTHER_NETWORK, "lookup", "100"]);
    world.node.tool(&["ip", "route", "flush", "table", "100"]);
    assert_same(&before, &SystemState::take(&world.node));
});

/// Asserts that our rules use no bit of a mark outside of this mask.
#[track_caller]
fn assert_marks_within(world: &World, mask: u32) {
    let nft = world.node.tool(&["nft", "list", "ruleset"]);
    let saved = world.program("iptables-save", &[], "").success();
    let rules = world.node.tool(&["ip", "rule"]);
    let ours = nft.lines().chain(saved.lines()).chain(rules.lines()).filter(|line| {
        ["mark", "MARK"].iter().any(|word| line.contains(word))
            && !["mask 0x", "restore"].iter().any(|word| line.contains(word))
    });
    let mut found = 0;
    for line in ours {
        let words = line.split(|c: char| !c.is_ascii_hexdigit() && c != 'x');
        let numbers = words.filter_map(|word| word.strip_prefix("0x"));
        for number in numbers.filter_map(|digits| u32::from_str_radix(digits, 16).ok()) {
            // nft shows the bits that stay, and those that are set.
            let bits = if number & 0x8000_0000 == 0 { number } else { !number };
            assert_eq!(bits & !mask, 0, "{line}");
            found += 1;
        }
    }
    assert!(found > 3, "no marks in\n{nft}\n{saved}\n{rules}");
}

/// Places a client far behind `oth0`, whose router asks for the node's MAC address from its own address.
fn far_client(world: &World) {
    world.other.set_sysctl("net/ipv4/conf/eth0/arp_announce", "2");
    world.other.tool(&["ip", "address", "add", &format!("{FAR}/32"), "dev", "lo"]);
}

/// Makes `oth0` a second uplink without a routing rule, by a default route of a higher metric, for a far client.
fn second_default_route(world: &World) {
    far_client(world);
    add_second_default_route(world);
}

fn add_second_default_route(world: &World) {
    let via = OTHER.to_string();
    world.node.tool(&["ip", "route", "add", "default", "via", &via, "metric", "200"]);
}

/// Asserts that the far client is answered at the second uplink, by TCP.
#[track_caller]
fn assert_far_is_answered(world: &World, function: &Function, when: &str) {
    let answer = ask_from_far(world);
    let seen = answer.as_ref().map(|answer| (answer.client.ip(), answer.server.ip()));
    assert_eq!(seen.ok(), Some((FAR.into(), function.address().into())), "{when}: {answer:?}");
}

fn ask_from_far(world: &World) -> Result<Endpoints, Error> {
    let (node, far) = (NODE_OTHER.to_string(), FAR.to_string());
    world.other.tool(&["ip", "route", "replace", &node, "dev", "eth0", "src", &far]);
    let answer = tcp_ask(&world.other, (NODE_OTHER, FIRST));
    world.other.tool(&["ip", "route", "delete", &node, "dev", "eth0"]);
    answer
}

on_every_firewall!(answers_leave_by_the_uplink_that_was_asked_without_a_rule_by_source, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    second_default_route(world);
    let before = SystemState::take(&world.node);
    let pair = pair(world);
    assert_both_uplinks(world, &pair, "beside a default route of a higher metric");
    assert_marks_within(world, 0x7f);
    world.riklet(&["check"], "").success();
    // A client behind another router of the same uplink: its route is a particular one.
    let (network, router) = ("192.0.2.8/30", Ipv4Addr::new(172, 20, 0, 3).to_string());
    world.other.tool(&["ip", "address", "add", &format!("{router}/24"), "dev", "eth0"]);
    world.node.tool(&["ip", "route", "add", network, "via", &router]);
    world.node.tool(&["ip", "route", "change", "default", "via", "172.20.0.99", "metric", "200"]);
    world.riklet(&["repair"], "").success();
    assert_far_is_answered(world, &pair[0], "behind a router of its own");
    world.node.tool(&["ip", "route", "delete", network]);
    let via = OTHER.to_string();
    world.node.tool(&["ip", "route", "change", "default", "via", &via, "metric", "200"]);
    world.riklet(&["repair"], "").success();

    // The default route moves without an operation of ours.
    world.node.tool(&["ip", "route", "add", "default", "via", &via, "metric", "50"]);
    world.node.tool(&["ip", "route", "delete", "default", "via", &via, "metric", "200"]);
    world.node.tool(&["ip", "route", "delete", "default", "via", &INTERNET.to_string()]);
    world.node.tool(&[
        "ip",
        "route",
        "add",
        "default",
        "via",
        &INTERNET.to_string(),
        "metric",
        "300",
    ]);
    second_uplink(world);
    world.node.tool(&["ip", "route", "add", &format!("{INTERNET_FAR}/32"), "via", &via]);
    assert_far_is_answered(world, &pair[0], "with the default route");
    let answer = tcp_ask(&world.internet, (NODE_UPLINK, FIRST)).unwrap();
    assert_eq!(answer.client.ip(), INTERNET);
    world.node.tool(&["ip", "route", "delete", &format!("{INTERNET_FAR}/32")]);
    for (gateway, metric) in [(&via, "50"), (&INTERNET.to_string(), "300")] {
        world.node.tool(&["ip", "route", "delete", "default", "via", gateway, "metric", metric]);
    }
    world.node.tool(&["ip", "route", "add", "default", "via", &INTERNET.to_string()]);
    world.node.tool(&["ip", "route", "add", "default", "via", &via, "metric", "200"]);
    world.down(&["--all", "--purge"]);
    assert_same(&before, &SystemState::take(&world.node));
});

on_every_firewall!(answers_pass_by_a_vpn_that_takes_the_default_route, |world| {
    // `oth0` is the VPN here, and a distant client asks at `up0`.
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        world.node.tool(&["ip", "route", "add", half, "via", &OTHER.to_string()]);
    }
    let pair = pair(world);
    let node = NODE_UPLINK.to_string();
    let far = INTERNET_FAR.to_string();
    world.internet.tool(&["ip", "route", "add", &node, "dev", "eth0", "src", &far]);
    let answer = tcp_ask(&world.internet, (NODE_UPLINK, FIRST)).unwrap();
    assert_eq!((answer.client.ip(), answer.server.ip()), (far_ip(), pair[0].address().into()));
});

fn far_ip() -> IpAddr {
    INTERNET_FAR.into()
}

on_every_firewall!(
    answers_leave_by_the_uplink_that_was_asked_among_the_hops_of_one_route,
    |world| {
        world.node.set_sysctl("net/ipv4/ip_forward", "1");
        world.other.tool(&["ip", "address", "add", &format!("{FAR}/32"), "dev", "lo"]);
        let (first, second) = (INTERNET.to_string(), OTHER.to_string());
        world.node.tool(&[
            "ip", "route", "replace", "default", "nexthop", "via", &first, "nexthop", "via",
            &second,
        ]);
        // The kernel chooses the hop by the addresses and the ports.
        world.node.set_sysctl("net/ipv4/fib_multipath_hash_policy", "1");
        let pair = pair(world);
        for attempt in 0..8 {
            assert_far_is_answered(world, &pair[0], &format!("attempt {attempt}"));
        }
    }
);

on_every_firewall!(a_daemon_follows_uplinks_that_come_and_go, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    far_client(world);
    let daemon = world.daemon(&[]);
    let pair = pair(world);
    daemon.wait_until_idle();
    assert!(ask_from_far(world).is_err(), "no way back");
    let soon = Duration::from_secs(10);
    let until_answered = |when: &str| {
        wait_for(when, soon, || ask_from_far(world).ok());
        daemon.wait_until_idle();
        world.riklet(&["check"], "").success();
        assert_published(world, &pair, &[Transport::Tcp]);
    };
    add_second_default_route(world);
    until_answered("the second uplink");
    // Another router.
    let router = Ipv4Addr::new(172, 20, 0, 3).to_string();
    world.other.tool(&["ip", "address", "add", &format!("{router}/24"), "dev", "eth0"]);
    let change = |via: &str| {
        world.node.tool(&["ip", "route", "change", "default", "via", via, "metric", "200"]);
    };
    change("172.20.0.99");
    wait_for("the router that does not answer", soon, || ask_from_far(world).err());
    change(&router);
    until_answered("another router");
    // Our route is deleted, and our rules are flushed.
    world.node.tool(&["ip", "route", "flush", "table", "all", "proto", "82"]);
    until_answered("the route again");
    world.node.tool(&["ip", "rule", "flush", "protocol", "82"]);
    until_answered("the rules again");
    // The link goes, with its routes, and comes back.
    world.node.tool(&["ip", "link", "set", "oth0", "down"]);
    wait_for("one uplink", soon, || {
        let rules = world.node.tool(&["ip", "rule"]);
        (!rules.contains("from 10.231.0.0/16 fwmark")).then_some(())
    });
    daemon.wait_until_idle();
    world.riklet(&["check"], "").success();
    world.node.tool(&["ip", "link", "set", "oth0", "up"]);
    world.node.tool(&["ip", "route", "add", "default", "via", &router, "metric", "200"]);
    until_answered("the uplink that came back");
});

on_every_firewall!(an_uplink_that_checks_sources_strictly_is_named, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    second_default_route(world);
    world.node.set_sysctl("net/ipv4/conf/oth0/rp_filter", "1");
    let definition = function("web", &[exposure(Transport::Tcp, FIRST, TARGET)]).to_string();
    let up = world.riklet(&["up", "-"], &definition);
    let words = "oth0 checks sources strictly";
    assert!(up.code == Some(0) && up.stderr.contains(words), "{up}");
    let again = world.riklet(&["up", "-"], &definition);
    assert!(again.code == Some(0) && !again.stderr.contains(words), "{again}");
    let [web] = world.start([(
        function("web", &[exposure(Transport::Tcp, FIRST, TARGET)]),
        &[(Transport::Tcp, TARGET)],
    )]);
    assert!(ask_from_far(world).is_err());
    let doctor = world.riklet(&["doctor"], "").success();
    let advice = "sysctl -w net.ipv4.conf.oth0.rp_filter=2";
    assert!(doctor.contains(words) && doctor.contains(advice), "{doctor}");
    world.node.tool(&advice.split(' ').collect::<Vec<_>>());
    assert_far_is_answered(world, &web, "after what doctor says");
    let doctor = world.riklet(&["doctor"], "").success();
    assert!(!doctor.contains(words), "{doctor}");
});

on_every_firewall!(an_uplink_without_a_way_back_is_named, |world| {
    let config = File::create(world.directory.path().join("config.toml"));
    config.unwrap().write_all(b"uplink = [\"up0\", \"oth0\"]").unwrap();
    let doctor = world.riklet(&["doctor"], "").success();
    let words = "no default route leads out of oth0";
    assert!(doctor.contains(words), "{doctor}");
    second_default_route(world);
    let doctor = world.riklet(&["doctor"], "").success();
    assert!(!doctor.contains(words), "{doctor}");
});

on_every_firewall!(the_next_up_follows_uplinks_that_come_back, |world| {
    far_client(world);
    for ip_forward in ["0", "1"] {
        world.node.set_sysctl("net/ipv4/ip_forward", ip_forward);
        for before in [true, false] {
            if before {
                add_second_default_route(world);
            }
            let pair = pair(world);
            let up = |name: &str| world.up(&[function(name, &[])]);
            let followed = |when: &str| {
                let when = format!("{when}, ip_forward {ip_forward}, there before: {before}");
                up("next");
                let check = world.riklet(&["check"], "");
                assert_eq!(check.code, Some(0), "{when}: {check}");
                assert_far_is_answered(world, &pair[0], &when);
                assert_published(world, &pair, &[Transport::Tcp]);
            };
            if !before {
                add_second_default_route(world);
            }
            followed("at first");
            for up_meanwhile in [false, true] {
                world.node.tool(&["ip", "route", "delete", "default", "metric", "200"]);
                if up_meanwhile {
                    up("meanwhile");
                }
                add_second_default_route(world);
                followed("its route came back");
                world.node.tool(&["ip", "link", "set", "oth0", "down"]);
                if up_meanwhile {
                    up("meanwhile");
                }
                world.node.tool(&["ip", "link", "set", "oth0", "up"]);
                add_second_default_route(world);
                followed("its link came back");
                world.node.tool(&["ip", "address", "flush", "dev", "oth0"]);
                if up_meanwhile {
                    up("meanwhile");
                }
                let address = format!("{NODE_OTHER}/24");
                world.node.tool(&["ip", "address", "add", &address, "dev", "oth0"]);
                add_second_default_route(world);
                followed("its address came back");
                world.node.tool(&["ip", "link", "set", "oth0", "name", "gone0"]);
                if up_meanwhile {
                    up("meanwhile");
                }
                world.node.tool(&["ip", "link", "set", "gone0", "down"]);
                world.node.tool(&["ip", "link", "set", "gone0", "name", "oth0", "up"]);
                add_second_default_route(world);
                followed("its name came back");
            }
            world.node.tool(&["ip", "route", "delete", "default", "metric", "200"]);
            world.down(&["--all", "--purge"]);
        }
    }
});

/// Calls `followed` each time that an interface without an address at the first `up` has become an uplink: beside the
/// other one, and in its place.
fn late_uplinks(world: &World, followed: impl Fn(&[Function; 2], &str)) {
    far_client(world);
    second_uplink(world);
    for ip_forward in ["0", "1"] {
        world.node.set_sysctl("net/ipv4/ip_forward", ip_forward);
        world.node.tool(&["ip", "address", "flush", "dev", "oth0"]);
        let pair = pair(world);
        world.node.tool(&["ip", "address", "add", &format!("{NODE_OTHER}/24"), "dev", "oth0"]);
        add_second_default_route(world);
        let when = format!("beside another uplink, ip_forward {ip_forward}");
        followed(&pair, &when);
        assert_far_is_answered(world, &pair[0], &when);
        assert_published(world, &pair, &[Transport::Tcp]);
        world.riklet(&["check"], "").success();
        world.node.tool(&["ip", "route", "delete", "default", "metric", "0"]);
        followed(&pair, &format!("alone, ip_forward {ip_forward}"));
        assert_reached_by_other(world, &pair[0].guest.namespace);
        world.riklet(&["check"], "").success();
        let via = INTERNET.to_string();
        world.node.tool(&["ip", "route", "delete", "default", "metric", "200"]);
        world.node.tool(&["ip", "route", "add", "default", "via", &via]);
        world.down(&["--all", "--purge"]);
    }
}

on_every_firewall!(the_next_up_follows_an_uplink_that_got_its_address_later, |world| {
    late_uplinks(world, |_, _| drop(world.up(&[function("next", &[])])));
});

on_every_firewall!(a_daemon_follows_an_uplink_that_gets_its_address_later, |world| {
    let daemon = world.daemon(&[]);
    late_uplinks(world, |pair, when| {
        let soon = Duration::from_secs(10);
        wait_for(when, soon, || ask_from_far(world).ok());
        let guest = &pair[0].guest.namespace;
        let server = tcp_server(&world.other, (INTERNET_FAR, TARGET));
        world.node.tool(&[
            "ip",
            "route",
            "replace",
            &format!("{INTERNET_FAR}/32"),
            "via",
            &OTHER.to_string(),
        ]);
        wait_for(when, soon, || tcp_ask(guest, server.address).ok());
        world.node.tool(&["ip", "route", "delete", &format!("{INTERNET_FAR}/32")]);
        daemon.wait_until_idle();
    });
});

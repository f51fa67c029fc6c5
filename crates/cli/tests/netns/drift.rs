//! Drift: changes behind the program's back are found, named and repaired.

use riklet_core::model::Workload;

use crate::world::{
    Firewall, NODE_LAN, World,
    foreign::{docker_like, nft_foreign},
    on_every_firewall,
    records::{Played, assert_all_answer, without_owner, workload},
    traffic::{assert_tcp_closed, assert_tcp_refused},
};

/// A change behind the program's back.
struct Drift {
    /// The commands that make the change, one per line.
    commands: &'static str,
    /// The words that `check` must print.
    words: &'static [&'static str],
}

const fn drift(commands: &'static str, words: &'static [&'static str]) -> Drift {
    Drift { commands, words }
}

/// Changes to a TAP and to the sysctls.
const OF_THE_NODE: [Drift; 20] = [
    drift("ip link delete rik0", &["+ TAP rik0: address 10.231.0.1/30"]),
    drift("ip link set rik0 down", &["~ TAP rik0: up"]),
    drift("ip address delete 10.231.0.1/30 dev rik0", &["~ TAP rik0: address 10.231.0.1/30"]),
    drift("ip address flush dev rik0", &["~ TAP rik0: address 10.231.0.1/30"]),
    drift("ip address add 192.0.2.9/32 dev rik0", &["- address 192.0.2.9/32 of rik0"]),
    drift("ip link set rik0 alias riklet-sdn:other", &["~ interface rik0: alias \"riklet-sdn:f0 "]),
    drift(
        "ip link set rik0 address 02:00:00:00:00:99",
        &["~ TAP rik0: MAC address 0a:52:49:4b:00:01"],
    ),
    drift("ip link set rik0 mtu 1400", &["~ TAP rik0: MTU 1500 instead of 1400"]),
    drift("ip link set rik0 group default", &["~ TAP rik0: group 0x52494b"]),
    drift("sysctl -qw net.ipv4.conf.rik0.route_localnet=0", &["~ TAP rik0: route_localnet 1"]),
    drift(
        "sysctl -qw net.ipv4.conf.rik0.accept_redirects=1\nsysctl -qw net.ipv4.conf.rik0.send_redirects=1\n\
         sysctl -qw net.ipv4.conf.rik0.rp_filter=0\nsysctl -qw net.ipv4.conf.rik0.arp_ignore=0",
        &["~ TAP rik0: accept_redirects 0, send_redirects 0, rp_filter 1, arp_ignore 1"],
    ),
    drift("sysctl -qw net.ipv4.conf.rik0.src_valid_mark=0", &["~ TAP rik0: src_valid_mark 1"]),
    drift(
        "ip rule delete pref 32763\nip rule delete pref 32762\nip rule delete pref 32762",
        &[
            "+ routing rule 32762: from 10.231.0.0/16 to 10.231.0.0/16 iif lo lookup main",
            "+ routing rule 32762: from 10.231.0.0/16 to 10.231.0.0/16 fwmark 0x40/0x40 lookup main",
            "+ routing rule 32763: from 10.231.0.0/16 to 10.231.0.0/16 prohibit",
        ],
    ),
    drift(
        "ip rule add pref 7 from 10.231.0.0/16 to 10.231.0.0/16 lookup main protocol 82",
        &["- routing rule 7: from 10.231.0.0/16 to 10.231.0.0/16 lookup main"],
    ),
    drift("sysctl -qw net.ipv6.conf.rik0.disable_ipv6=0", &["~ TAP rik0: no IPv6"]),
    drift(
        "ip neighbour delete 10.231.0.2 dev rik0",
        &["~ TAP rik0: neighbour 10.231.0.2 at 06:52:49:4b:00:00"],
    ),
    drift(
        "ip neighbour replace 10.231.0.2 lladdr 2:0:0:0:0:1 dev rik0",
        &["~ TAP rik0: neighbour 10.231.0.2 at 06:52:49:4b:00:00"],
    ),
    drift("sysctl -qw net.ipv4.conf.rik0.forwarding=0", &["~ TAP rik0: forwarding 1"]),
    drift(
        "sysctl -qw net.ipv4.conf.up0.forwarding=0",
        &["~ sysctl net.ipv4.conf.up0.forwarding = 1"],
    ),
    drift(
        "sysctl -qw net.ipv4.ip_forward=1\nsysctl -qw net.ipv4.ip_forward=0",
        &[
            "~ sysctl net.ipv4.conf.up0.forwarding = 1",
            "~ sysctl net.ipv4.conf.lan0.forwarding = 1",
            "~ TAP rik0: forwarding 1",
            "~ TAP rik1: forwarding 1",
        ],
    ),
];

/// Changes to the table `inet riklet`, and to the passage through a foreign chain.
const OF_NFTABLES: [Drift; 10] = [
    drift("nft delete table inet riklet", &["! firewall: the table is missing"]),
    drift("nft flush table inet riklet", &["! firewall: chain inet riklet RIKLET: rule "]),
    drift("nft flush chain inet riklet RIKLET", &["! firewall: chain inet riklet RIKLET: rule "]),
    drift(
        "nft flush chain inet riklet prerouting",
        &["! firewall: chain inet riklet prerouting: "],
    ),
    drift(
        "nft delete element inet riklet exposures { tcp . 8000 }",
        &["+ firewall: tcp 8000 -> 10.231.0.2:3000"],
    ),
    drift(
        "nft add element inet riklet exposures { tcp . 9999 : 10.231.0.2 . 22 }",
        &["- firewall: tcp 9999 -> 10.231.0.2:22"],
    ),
    drift(
        "nft add rule inet riklet RIKLET tcp dport 9999 accept",
        &["! firewall: chain inet riklet RIKLET: rule with handle "],
    ),
    drift(
        "nft insert rule inet riklet forward drop",
        &["! firewall: chain inet riklet forward: rule with handle "],
    ),
    drift(
        "iptables -D FORWARD -j RIKLET-PASSAGE",
        &["+ passage through the foreign chain ip filter FORWARD"],
    ),
    drift("iptables -F RIKLET-PASSAGE", &["+ passage through the foreign chain ip filter FORWARD"]),
];

/// Changes to the chains `RIKLET*`, and to the rules that lead to them.
const OF_IPTABLES: [Drift; 14] = [
    drift("iptables -t nat -D RIKLET 1", &["+ firewall: tcp 8000 -> 10.231.0.2:3000"]),
    drift("iptables -t nat -F RIKLET", &["+ firewall: udp 8000 -> 10.231.0.6:3000"]),
    drift("iptables -t nat -F RIKLET-HAIRPIN", &["+ firewall: hairpin 10.231.0.2"]),
    drift("iptables -t nat -F", &["! firewall: nat: missing: -A PREROUTING "]),
    drift("iptables -t nat -F\niptables -t nat -X", &["! firewall: nat: no chain RIKLET"]),
    drift("iptables -t nat -D PREROUTING 1", &["! firewall: nat: missing: -A PREROUTING "]),
    drift(
        "iptables -t nat -I PREROUTING -s 192.0.2.1 -j ACCEPT",
        &["! firewall: nat: not first: -A PREROUTING "],
    ),
    drift(
        "iptables -t nat -A RIKLET -p tcp --dport 9999 -j ACCEPT",
        &["! firewall: unexpected: -A RIKLET -p tcp -m tcp --dport 9999 -j ACCEPT"],
    ),
    drift(
        "iptables -t nat -A RIKLET -p tcp --dport 8000 -j DNAT --to-destination 10.231.0.2:3000",
        &["! firewall: unexpected: -A RIKLET -p tcp -m tcp --dport 8000 -j DNAT "],
    ),
    drift(
        "iptables -t nat -I RIKLET -p tcp --dport 9999 -j DNAT --to-destination 10.231.0.2:22",
        &["- firewall: tcp 9999 -> 10.231.0.2:22"],
    ),
    drift(
        "iptables -t mangle -F FORWARD",
        &["! firewall: mangle: missing: -A FORWARD -m comment --comment \"riklet-sdn "],
    ),
    drift(
        "iptables -t mangle -I FORWARD -s 192.0.2.1 -j ACCEPT",
        &["! firewall: mangle: not first: -A FORWARD -m comment --comment \"riklet-sdn "],
    ),
    drift("iptables -F FORWARD", &["+ passage through the foreign chain "]),
    drift("iptables -I FORWARD -j RIKLET-PASSAGE", &["+ passage through the foreign chain "]),
];

on_every_firewall!(drift_is_named_and_repaired, |world| {
    docker_like(world, world.firewall);
    world.try_up(&functions()).success();
    let mut played = play(world);
    let of_the_firewall = match world.firewall {
        Firewall::Nftables => &OF_NFTABLES[..],
        Firewall::IptablesNft | Firewall::IptablesLegacy => &OF_IPTABLES[..],
    };
    for Drift { commands, words } in OF_THE_NODE.iter().chain(of_the_firewall) {
        for command in commands.lines() {
            world.program("sh", &["-c", command], "").success();
        }
        assert_drift(world, words);
        world.riklet(&["repair"], "").success();
        if commands.contains("link delete") {
            played.clear();
            played = play(world);
        }
        world.assert_in_step();
        for played in &played {
            played.assert_answers(world);
        }
    }
});

/// Asserts that `check` prints each of these words at the beginning of a line.
#[track_caller]
fn assert_drift(world: &World, words: &[&str]) {
    let check = world.riklet(&["check"], "");
    assert_eq!(check.code, Some(1), "{words:?}: {check}");
    let stdout = without_owner(&check.stdout);
    let named = |words: &&str| stdout.lines().any(|line| line.starts_with(words));
    assert!(words.iter().all(named), "{words:?} not in {check}");
}

fn functions() -> [Workload; 2] {
    [
        workload("f0", &["tcp 8000 3000", "tcp 192.168.7.10 8005 3005"]),
        workload("f1", &["udp 8000 3000"]),
    ]
}

/// Starts guests for all functions.
fn play(world: &World) -> Vec<Played> {
    world.recorded().values().map(|recorded| world.play(recorded)).collect()
}

/// A foreign firewall closes a path that was open before.
#[test]
fn closed_foreign_forward_chain_is_named_and_opened() {
    type Shut = fn(&World);
    let legacy: Shut = |world| docker_like(world, Firewall::IptablesLegacy);
    let shut: [(Shut, &[&str]); 3] = [
        (
            |world| nft_foreign(&world.node),
            &[
                "+ passage through the foreign chain ip filter FORWARD",
                "+ passage through the foreign chain inet mine forward",
            ],
        ),
        (legacy, &["+ passage through the foreign chain iptables-legacy filter FORWARD"]),
        (
            |world| docker_like(world, Firewall::IptablesNft),
            &["+ passage through the foreign chain ip filter FORWARD"],
        ),
    ];
    for (shut, words) in shut {
        let world = &World::new(Firewall::Nftables);
        world.try_up(&functions()).success();
        let played = play(world);
        shut(world);
        assert_tcp_closed(&world.client, (NODE_LAN, 8000));
        assert_drift(world, words);
        world.riklet(&["repair"], "").success();
        world.assert_in_step();
        for played in &played {
            played.assert_answers(world);
        }
    }
}

/// An interface without our mark is foreign, even if it used to be ours.
#[test]
fn tap_without_our_alias_is_named_and_left_alone() {
    let world = &World::new(Firewall::Nftables);
    world.try_up(&functions()).success();
    world.node.tool(&["ip", "link", "set", "rik0", "alias", "mine now"]);
    assert_drift(world, &["! the interface rik0 exists and is not ours: its alias is mine now"]);
    let before = world.node.tool(&["ip", "address", "show", "rik0"]);
    let complaint = world.riklet(&["repair"], "").failure(1);
    assert!(complaint.contains("f0 is not up: the interface rik0 exists and is not ours"));
    assert!(complaint.contains("hint: "), "{complaint}");
    assert_eq!(world.node.tool(&["ip", "address", "show", "rik0"]), before);
    assert_tcp_refused(&world.client, (NODE_LAN, 8000));

    world.node.tool(&["ip", "link", "delete", "rik0"]);
    world.riklet(&["repair"], "").success();
    assert_all_answer(world, &world.assert_in_step());
}

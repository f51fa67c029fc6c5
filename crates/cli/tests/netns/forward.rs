//! Other firewalls on the node: they do not stop our traffic, and traffic that they drop stays dropped.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::{
    internet::{assert_internet, assert_repair_restores},
    reach::{FIRST, SECOND, assert_published, pair},
    world::{
        CLIENT, Firewall, INTERNET, NODE_LAN, OTHER, World,
        foreign::{docker_like, nft_foreign},
        function::{exposure, function},
        on_every_firewall,
        state::{SystemState, assert_same},
        traffic::{Connection, Ear, PATIENCE, say, tcp_ask},
        transport::{Transport, assert_refused},
        wait_for,
    },
};
use rustix::process::Signal;

/// Enough time for a datagram to pass three namespaces, which takes less than a millisecond.
const A_WHILE: Duration = Duration::from_millis(500);

/// The firewall that drops forwarded packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Foreign {
    /// Docker's, with this variant of iptables.
    Docker(Firewall),
    /// A ruleset written for `nft`.
    Nft,
}

impl Foreign {
    fn install(self, world: &World) {
        match self {
            Self::Docker(variant) => docker_like(world, variant),
            Self::Nft => nft_foreign(&world.node),
        }
    }

    /// Lets the other network send to the client's. Returns the traffic that a forwarding node then forwards.
    fn let_other_to_client(self, world: &World) -> BTreeSet<String> {
        match self {
            Self::Docker(variant) => {
                let rules = "*filter\n-A FORWARD -i oth0 -o lan0 -j ACCEPT\n\
                    -A FORWARD -i lan0 -o oth0 -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n";
                let restore = ["iptables-restore", "--noflush", "--wait"];
                world.program(variant.xtables(), &restore, rules).success();
                set(&["other → client"])
            }
            // With `ct state` as `nft` writes it, iptables-nft could not use this table at all.
            Self::Nft => {
                for chain in ["ip filter FORWARD", "inet mine forward"] {
                    let rules = format!(
                        "add rule {chain} iifname oth0 oifname lan0 counter accept\n\
                         add rule {chain} iifname lan0 oifname oth0 counter accept\n"
                    );
                    world.node.feed(&["nft", "-f", "-"], &rules).success();
                }
                set(&["client → other", "other → client"])
            }
        }
    }
}

/// Sends one datagram between each two of the node's networks, and returns which ones arrive.
fn forwarded(world: &World) -> BTreeSet<String> {
    const PORT: u16 = 7;
    let ears = [
        ("client", Ear::new(&world.client, (CLIENT, PORT))),
        ("internet", Ear::new(&world.internet, (INTERNET, PORT))),
        ("other", Ear::new(&world.other, (OTHER, PORT))),
    ];
    // Only the client has routes to both other networks, and each of them has one to the client's.
    for (from, to) in [
        (&world.client, INTERNET),
        (&world.client, OTHER),
        (&world.internet, CLIENT),
        (&world.other, CLIENT),
    ] {
        say(from, Ipv4Addr::UNSPECIFIED, (to, PORT), "hello");
    }
    let name = |address| match address {
        CLIENT => "client",
        INTERNET => "internet",
        OTHER => "other",
        _ => "somebody translated",
    };
    let mut heard = BTreeSet::new();
    let mut timeout = A_WHILE;
    for (to, ear) in &ears {
        while let Some((_, SocketAddr::V4(from))) = ear.hear(timeout) {
            heard.insert(format!("{} → {to}", name(*from.ip())));
        }
        // Every datagram that was forwarded has arrived while the first one listened.
        timeout = Duration::from_millis(1);
    }
    heard
}

/// Tells whether the node sends a packet of the client back to the client's own network, as a router does.
fn sends_back(world: &World) -> bool {
    const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 99);
    let (via, to, ear) =
        (NODE_LAN.to_string(), NOBODY.to_string(), Ear::new(&world.node, (NODE_LAN, 7)));
    world.node.tool(&["ip", "neighbour", "flush", "nud", "all", "to", &to]);
    world.client.tool(&["ip", "route", "replace", &to, "via", &via]);
    say(&world.client, Ipv4Addr::UNSPECIFIED, (NOBODY, 7), "hello");
    // Packets keep their order: once this one arrives, the first has been handled.
    say(&world.client, Ipv4Addr::UNSPECIFIED, (NODE_LAN, 7), "hello");
    assert!(ear.hear(PATIENCE).is_some());
    // A node that forwards the packet asks for the neighbour's address.
    !world.node.tool(&["ip", "neighbour", "show", "nud", "all", "to", &to]).is_empty()
}

fn set(lines: &[&str]) -> BTreeSet<String> {
    lines.iter().map(ToString::to_string).collect()
}

/// Asserts that everything works and that nothing more is forwarded than before, both on a node that did not forward
/// and on one that did.
fn assert_works_with(world: &World, foreign: Foreign) {
    foreign.install(world);
    let allowed = foreign.let_other_to_client(world);
    for (ip_forward, before) in [("0", set(&[])), ("1", allowed.clone())] {
        world.node.set_sysctl("net/ipv4/ip_forward", ip_forward);
        assert_eq!(forwarded(world), before);
        let connection = (ip_forward == "1")
            .then(|| Connection::new(&world.other, (CLIENT, 9), &world.client, (CLIENT, 9)));
        let pair = pair(world);
        assert_published(world, &pair, &Transport::ALL);
        assert_internet(world, &pair[0]);
        // Without a daemon, only the foreign rules decide.
        assert_eq!(forwarded(world), allowed, "while functions are up");
        world.down(&["--all"]);
        assert_eq!(forwarded(world), allowed, "when all functions are down");
        connection.iter().for_each(Connection::assert_alive);
        world.down(&["--all", "--purge"]);
        assert_eq!(world.node.sysctl("net/ipv4/ip_forward"), ip_forward);
    }
}

on_every_firewall!(functions_work_with_docker_on_iptables_nft, |world| {
    assert_works_with(world, Foreign::Docker(Firewall::IptablesNft));
});

on_every_firewall!(functions_work_with_docker_on_iptables_legacy, |world| {
    assert_works_with(world, Foreign::Docker(Firewall::IptablesLegacy));
});

on_every_firewall!(functions_work_with_a_foreign_nft_ruleset, |world| {
    assert_works_with(world, Foreign::Nft);
});

on_every_firewall!(node_without_a_firewall_forwards_as_before, |world| {
    let all = set(&["client → internet", "client → other", "internet → client", "other → client"]);
    for (ip_forward, before) in [("0", set(&[])), ("1", all.clone())] {
        world.node.set_sysctl("net/ipv4/ip_forward", ip_forward);
        assert_eq!(forwarded(world), before);
        let pair = pair(world);
        assert_published(world, &pair, &[Transport::Tcp]);
        // If our rules dropped these packets, nobody would notice that forwarding is now wanted.
        assert_eq!(forwarded(world), all, "while functions are up");
        let doctor = world.riklet(&["doctor"], "").success();
        let said = doctor.contains("packets from lan0, oth0, up0 are forwarded to lan0, oth0, up0");
        assert_eq!(said, ip_forward == "0", "{doctor}");
        world.down(&["--all"]);
        assert_eq!(forwarded(world), all, "when all functions are down");
        world.down(&["--all", "--purge"]);
        assert_eq!(forwarded(world), before, "when nothing of ours is left");
    }
});

/// A daemon notices that other software enables forwarding. Until then it drops the packets that only our own
/// forwarding would allow.
fn assert_daemon_confines(world: &World) {
    let all = set(&["client → internet", "client → other", "internet → client", "other → client"]);
    let daemon = world.daemon(&[]);
    let pair = pair(world);
    assert_published(world, &pair, &[Transport::Tcp]);
    daemon.wait_until_idle();
    assert_eq!(forwarded(world), set(&[]), "beside a daemon");
    let other = function("long", &[exposure(Transport::Tcp, 9000, 4000)]);
    let [long] = world.start([(other, &[])]);
    let at = (long.address(), 4000);
    let through = Connection::new(&world.client, (NODE_LAN, 9000), &long.guest.namespace, at);

    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let passes = |wanted: &BTreeSet<String>| (forwarded(world) == *wanted).then_some(());
    wait_for("all to be forwarded", PATIENCE, || passes(&all));
    assert!(sends_back(world));
    let of_others = Connection::new(&world.other, (CLIENT, 9), &world.client, (CLIENT, 9));
    through.assert_alive();
    world.riklet(&["repair"], "").success();
    assert_eq!(forwarded(world), all);
    of_others.assert_alive();

    world.node.set_sysctl("net/ipv4/ip_forward", "0");
    wait_for("nothing to be forwarded", PATIENCE, || passes(&set(&[])));
    through.assert_alive();
    assert_published(world, &pair, &[Transport::Tcp]);

    assert!(!sends_back(world));
    daemon.end(Signal::TERM);
    assert_eq!(forwarded(world), all, "without the daemon");
    world.riklet(&["check"], "").success();
    through.assert_alive();

    // Commands beside a daemon leave its restriction to it.
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    assert_eq!(forwarded(world), set(&[]), "beside another daemon");
    world.riklet(&["--no-daemon", "check"], "").success();
    world.riklet(&["--no-daemon", "up", "-"], &function("beside", &[]).to_string()).success();
    world.riklet(&["--no-daemon", "repair"], "").success();
    assert_eq!(forwarded(world), set(&[]), "after commands beside it");
    // The restriction ends with a daemon that is killed, and with the traffic of others that relies on forwarding.
    daemon.end(Signal::KILL);
    wait_for("the restriction to end with its daemon", PATIENCE, || passes(&all));
    world.riklet(&["check"], "").success();
    world.riklet(&["repair"], "").success();
    assert_eq!(forwarded(world), all);
    assert_published(world, &pair, &[Transport::Tcp]);
    world.down(&["--all", "--purge"]);
    assert_eq!(forwarded(world), set(&[]));
    assert_eq!(world.node.sysctl("net/ipv4/conf/up0/forwarding"), "0");
}

on_every_firewall!(daemon_drops_what_only_our_forwarding_would_allow, |world| {
    assert_daemon_confines(world);
});

/// A rule that only `nft` can write, which makes its table unusable for iptables-nft.
fn insert_unlistable(world: &World, table: &str, priority: i32) {
    let rules = format!(
        "table ip {table} {{ chain OUTPUT {{ type filter hook output priority {priority}; }}; }}
         insert rule ip {table} OUTPUT ct state established accept"
    );
    world.node.feed(&["nft", "-f", "-"], &rules).success();
}

#[test]
fn nftables_is_chosen_if_iptables_cannot_list_the_rules() {
    let mut world = World::new(Firewall::IptablesNft);
    nft_foreign(&world.node);
    insert_unlistable(&world, "raw", -300);
    let before = SystemState::take(&world.node);
    let definition = function("hello", &[exposure(Transport::Tcp, 8080, 3000)]).to_string();
    let refused = world.riklet(&["up", "-"], &definition).failure(1);
    assert!(refused.contains("hint:") && refused.contains("--firewall nftables"), "{refused}");
    assert_same(&before, &SystemState::take(&world.node));

    world.environment.insert("RIKLET_SDN_FIREWALL".to_owned(), "auto".to_owned());
    world.riklet(&["check"], "").success();
    let pair = pair(&world);
    assert_published(&world, &pair, &Transport::ALL);
    assert_internet(&world, &pair[0]);
    world.down(&["--all", "--purge"]);
    assert_same(&before, &SystemState::take(&world.node));
}

/// If such rules appear later, nothing can be changed until they are removed, and everything keeps working.
#[test]
fn unlistable_rules_added_later_stop_changes_but_not_traffic() {
    let world = World::new(Firewall::IptablesNft);
    let pair = pair(&world);
    let rule =
        ["nft", "insert", "rule", "ip", "mangle", "FORWARD", "ct", "state", "invalid", "drop"];
    world.node.tool(&rule);
    for command in [&["down", "first"][..], &["check"], &["repair"]] {
        let refused = world.riklet(command, "").failure(1);
        assert!(refused.contains("hint: rules that only `nft` can write"), "{refused}");
    }
    assert_published(&world, &pair, &[Transport::Tcp]);
    world.node.tool(&["nft", "flush", "chain", "ip", "mangle", "FORWARD"]);
    world.riklet(&["repair"], "").success();
    world.riklet(&["check"], "").success();
    assert_refused(Transport::Tcp, &world.client, (NODE_LAN, FIRST));
    tcp_ask(&world.client, (NODE_LAN, SECOND)).unwrap();
}

/// The table filter is read by netlink, in which all rules can be read.
#[test]
fn unlistable_rules_in_the_table_filter_do_not_matter() {
    let world = World::new(Firewall::IptablesNft);
    nft_foreign(&world.node);
    insert_unlistable(&world, "filter", 0);
    let before = SystemState::take(&world.node);
    let pair = pair(&world);
    assert_published(&world, &pair, &[Transport::Tcp]);
    assert_internet(&world, &pair[0]);
    world.riklet(&["check"], "").success();
    world.down(&["--all", "--purge"]);
    assert_same(&before, &SystemState::take(&world.node));
}

/// A firewall that starts while functions are up may block them; `check` finds that, and `repair` repairs it.
fn repair_after(world: &World, foreign: Foreign) {
    let pair = pair(world);
    assert_published(world, &pair, &[Transport::Tcp]);
    world.riklet(&["check"], "").success();
    foreign.install(world);
    assert_repair_restores(world, &pair);
    assert_eq!(forwarded(world), set(&[]));
}

on_every_firewall!(repair_restores_functions_after_docker_starts_on_iptables_nft, |world| {
    repair_after(world, Foreign::Docker(Firewall::IptablesNft));
});

on_every_firewall!(repair_restores_functions_after_docker_starts_on_iptables_legacy, |world| {
    repair_after(world, Foreign::Docker(Firewall::IptablesLegacy));
});

on_every_firewall!(repair_restores_functions_after_a_foreign_nft_ruleset_is_loaded, |world| {
    repair_after(world, Foreign::Nft);
});

//! `explain`: what it says of a packet, compared with that packet.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::{
    attacks::flush,
    egress::assert_way,
    world::{
        CLIENT, Firewall, INTERNET, NODE_LAN, NODE_UPLINK, Namespace, World,
        function::{exposure, function},
        on_every_firewall,
        random::Random,
        traffic::Server,
        transport::{
            Transport::{self, Tcp, Udp},
            assert_no_way,
        },
    },
};

/// Hosts behind the uplink in private networks.
const DATABASE: Ipv4Addr = Ipv4Addr::new(10, 9, 5, 1);
const BESIDE: Ipv4Addr = Ipv4Addr::new(10, 9, 6, 1);
/// Ports at which these, the Internet and the node serve: two of no meaning, mail, and names.
const PORTS: [u16; 4] = [7000, 7001, 25, 53];
/// The port at which the node publishes the function `open`.
const PUBLISHED: u16 = 8080;
const TARGET: u16 = 3000;

type Destination = (Transport, (Ipv4Addr, u16));

fn serve(world: &World) -> Vec<Server> {
    for address in [DATABASE, BESIDE] {
        world.internet.tool(&["ip", "address", "add", &format!("{address}/32"), "dev", "lo"]);
    }
    let outside = [INTERNET, DATABASE, BESIDE].map(|address| (&world.internet, address));
    let all: Vec<_> = outside.into_iter().chain([(&world.node, NODE_LAN)]).collect();
    let each = all.iter().flat_map(|(at, address)| {
        let beyond = Some(PUBLISHED).filter(|_| *address != NODE_LAN);
        let ports = PORTS.into_iter().chain(beyond);
        let ports = ports.flat_map(|port| [(Tcp, port), (Udp, port)]);
        ports.map(move |(by, port)| by.serve(at, *address, port))
    });
    each.collect()
}

fn open() -> Value {
    function("open", &[exposure(Tcp, PUBLISHED, TARGET), exposure(Udp, PUBLISHED, TARGET)])
}

/// Returns what the program says of a packet, as text, and whether it arrives.
#[track_caller]
fn said(world: &World, from: &str, (by, (to, port)): Destination) -> (bool, String) {
    let by = by.as_str().to_lowercase();
    let output = world.riklet(&["explain", from, "to", &format!("{to}:{port}/{by}")], "");
    assert!(matches!(output.code, Some(0 | 1)), "{output}");
    (output.code == Some(0), output.stdout)
}

/// Asserts that each packet arrives where the program says that it does, and no other.
#[track_caller]
fn assert_said(world: &World, tries: &[(&str, &Namespace, Destination)]) {
    let mut lost = Vec::new();
    for (from, namespace, to) in tries {
        let (arrives, text) = said(world, from, *to);
        if arrives {
            let (by, to) = *to;
            let answer = by.ask(namespace, to);
            answer.unwrap_or_else(|error| panic!("{from}, {by} to {to:?}: {error}, but\n{text}"));
        } else {
            lost.push((to.0, *namespace, to.1));
        }
    }
    assert_no_way(&lost);
}

on_every_firewall!(it_says_what_becomes_of_packets, |world| {
    let _servers = serve(world);
    let [caller, open] =
        world.start([(function("f", &[]), &[]), (open(), &[(Tcp, TARGET), (Udp, TARGET)])]);
    let guest = &caller.guest.namespace;
    let client = CLIENT.to_string();
    let spoofed = caller.address().to_string();
    let published = [(Tcp, (NODE_LAN, PUBLISHED)), (Udp, (NODE_UPLINK, PUBLISHED))];
    let outside = [INTERNET, DATABASE, NODE_LAN]
        .into_iter()
        .flat_map(|address| PORTS.into_iter().map(move |port| (address, port)))
        .flat_map(|to| [(Tcp, to), (Udp, to)]);
    let direct = (Tcp, (open.address(), TARGET));
    let of_guest = published.into_iter().chain(outside).chain([direct]);
    let mut tries: Vec<_> = of_guest.map(|to| ("f", guest, to)).collect();
    tries.extend(published.map(|to| (&*client, &world.client, to)));
    tries.extend([
        (&*client, &world.client, (Tcp, (NODE_LAN, 7000))),
        (&*client, &world.client, (Tcp, (NODE_LAN, 7002))),
        (&*client, &world.client, direct),
        ("host", &world.node, (Tcp, (Ipv4Addr::LOCALHOST, PUBLISHED))),
        ("host", &world.node, (Udp, (NODE_LAN, PUBLISHED))),
        ("host", &world.node, direct),
        ("open", &open.guest.namespace, (Tcp, (NODE_LAN, PUBLISHED))),
        (&*spoofed, guest, (Tcp, (NODE_LAN, PUBLISHED))),
    ]);
    assert_said(world, &tries);
});

/// Returns some destinations of a policy, chosen from these places.
fn destinations(random: &mut Random) -> Vec<String> {
    let places = ["10.9.5.0/24", "10.9.5.1", "10.8.0.0/15", "0.0.0.0/0", "203.0.113.1", "host"];
    let ports = ["", ":7000", ":7000-7001", ":25", ":53"];
    let protocols = ["", "/tcp", "/udp"];
    let count = random.below(4);
    let mut pick = |all: &[&str]| all[random.below(all.len())].to_owned();
    (0..count).map(|_| pick(&places) + &pick(&ports) + &pick(&protocols)).collect()
}

on_every_firewall!(it_says_what_becomes_of_random_packets_by_random_policies, |world| {
    let _servers = serve(world);
    let [caller, open] =
        world.start([(function("f", &[]), &[]), (open(), &[(Tcp, TARGET), (Udp, TARGET)])]);
    let random = &mut Random::new();
    let addresses = [INTERNET, DATABASE, BESIDE, NODE_LAN, NODE_UPLINK, open.address()];
    let all: Vec<Destination> = addresses
        .into_iter()
        .flat_map(|address| PORTS.into_iter().chain([PUBLISHED]).map(move |port| (address, port)))
        .flat_map(|to| [(Tcp, to), (Udp, to)])
        .collect();
    // Each question lists the rules by a program where iptables has them.
    let rounds = if world.firewall == Firewall::Nftables { 10 } else { 4 };
    for _ in 0..rounds {
        let mut definition = function("f", &[]);
        let mut egress = json!({ "allow": destinations(random), "deny": destinations(random) });
        if let Some(default) = ["none", "internet", "all"].get(random.below(4)) {
            egress["default"] = json!(default);
        }
        definition["spec"]["function"]["network"] = json!({ "egress": egress });
        world.riklet(&["up", "-"], &definition.to_string()).success();
        let picked = (0..20).map(|_| all[random.below(all.len())]);
        let tries: Vec<_> = picked.map(|to| ("f", &caller.guest.namespace, to)).collect();
        assert_said(world, &tries);
    }
});

on_every_firewall!(it_names_the_culprit, |world| {
    let [open] = world.start([(open(), &[(Tcp, TARGET)])]);
    let client = CLIENT.to_string();
    let packet = (Tcp, (NODE_LAN, PUBLISHED));
    let named = |culprit: &str| {
        let (arrives, text) = said(world, &client, packet);
        assert!(!arrives && text.contains(culprit), "{culprit:?} in\n{text}");
        assert_no_way(&[(Tcp, &world.client, packet.1)]);
    };
    let works = || {
        let (arrives, text) = said(world, &client, packet);
        assert!(arrives, "{text}");
        Tcp.ask(&world.client, packet.1).expect("an answer");
    };
    works();

    // An operator's ban. Of the legacy iptables, nf_tables shows nothing.
    let variant = world.firewall;
    let iptables = |arguments: &[&str]| {
        world.program(variant.xtables(), &[&["iptables"], arguments].concat(), "").success();
    };
    iptables(&["-I", "FORWARD", "-s", "192.168.7.0/24", "-j", "DROP"]);
    named("filter FORWARD: drops packets from 192.168.7.0-192.168.7.255");
    iptables(&["-D", "FORWARD", "-s", "192.168.7.0/24", "-j", "DROP"]);
    works();

    // Somebody's flush.
    if world.firewall == Firewall::Nftables {
        world.node.tool(&["nft", "flush", "chain", "inet", "riklet", "RIKLET"]);
    } else {
        iptables(&["-t", "nat", "-F", "RIKLET"]);
    }
    named("rules that open needs are missing in the firewall");
    world.riklet(&["repair"], "").success();
    works();

    // A chain that drops all, since our passage was made.
    if world.firewall != Firewall::IptablesLegacy {
        world.node.tool(&["nft", "add table ip late; add chain ip late guard { type filter hook forward priority 10; policy drop; }"]);
        named("our passage through the chain ip late guard is missing");
        world.riklet(&["repair"], "").success();
        works();
    }

    world.node.tool(&["ip", "link", "set", &open.guest.nic.interface, "down"]);
    named("rik0 of open is down");
    world.riklet(&["repair"], "").success();
    works();

    drop(open);
    named("no VMM of open has rik0 open");
});

on_every_firewall!(it_answers_with_a_document_and_refuses_what_it_does_not_know, |world| {
    let refused = world.riklet(&["explain", "f", "to", "192.0.2.7:443"], "").failure(1);
    assert!(refused.contains("no function is up: nothing of ours decides"), "{refused}");
    let [_open] = world.start([(open(), &[(Tcp, TARGET)])]);
    let asked = ["--output", "json", "explain", "host", "127.0.0.1:8080"];
    let document: Value = serde_json::from_str(&world.riklet(&asked, "").success()).unwrap();
    assert_eq!((&document["arrives"], &document["to"]["port"]), (&true.into(), &8080.into()));
    assert_eq!(document["end"], "arrives at open, port 3000");
    let unknown = world.riklet(&["explain", "opem", "to", "192.0.2.7:443"], "").failure(1);
    assert!(unknown.contains("no instance named opem") && unknown.contains("did you mean open?"));
    for wrong in
        [&["explain", "open", "192.0.2.7"][..], &["explain", "open", "to", "nowhere.invalid:80"]]
    {
        world.riklet(wrong, "").failure(2);
    }
});

#[test]
fn its_hint_helps() {
    let world = &World::new(Firewall::Nftables);
    let _servers = serve(world);
    let [caller] = world.start([(function("f", &[]), &[])]);
    let to = (Tcp, (DATABASE, 7000));
    let (arrives, text) = said(world, "f", to);
    assert!(!arrives, "{text}");
    let (_, entry) = text.split_once("add ").expect("a hint");
    let (entry, _) = entry.split_once(' ').expect("an entry");
    let mut definition = function("f", &[]);
    definition["spec"]["function"]["network"] = json!({ "egress": { "allow": [entry] } });
    world.riklet(&["up", "-"], &definition.to_string()).success();
    assert_way(&caller, &[to]);
}

on_every_firewall!(it_names_the_chains_that_it_does_not_follow, |world| {
    let [_open] = world.start([(open(), &[(Tcp, TARGET)])]);
    let to_itself = (Tcp, (NODE_LAN, PUBLISHED));
    let not_followed = || {
        let (arrives, text) = said(world, "host", to_itself);
        assert!(arrives, "{text}");
        text.lines().find_map(|line| line.strip_prefix("Not followed: ")).unwrap_or("").to_owned()
    };
    assert_eq!(not_followed(), "", "nobody else has rules");
    world.node.tool(&[
        "nft",
        "add table ip others; add chain ip others out { type filter hook output priority 0; policy drop; }; \
         add chain ip others empty { type filter hook input priority 0; }",
    ]);
    let said_of = not_followed();
    assert!(said_of.contains("ip others out") && !said_of.contains("empty"), "{said_of}");
    world.node.tool(&["nft", "delete", "table", "ip", "others"]);
    let program = world.firewall.xtables();
    let rule = ["iptables", "-A", "OUTPUT", "-p", "tcp", "--dport", "25", "-j", "DROP"];
    world.program(program, &rule, "").success();
    let chain = match world.firewall {
        Firewall::IptablesLegacy => "iptables-legacy filter OUTPUT",
        Firewall::Nftables | Firewall::IptablesNft => "ip filter OUTPUT",
    };
    assert!(not_followed().contains(chain), "{}", not_followed());
});

on_every_firewall!(it_tells_that_what_refuses_a_packet_is_missing, |world| {
    let [caller] = world.start([(function("f", &[]), &[])]);
    let _server = Tcp.serve(&world.node, NODE_LAN, 7000);
    let to = (Tcp, (NODE_LAN, 7000));
    assert_said(world, &[("f", &caller.guest.namespace, to)]);
    flush(world);
    let (arrives, text) = said(world, "f", to);
    assert!(!arrives && text.contains("By the rules it is refused, but:"), "{text}");
    assert!(text.contains("rules that f needs are missing in the firewall"), "{text}");
});

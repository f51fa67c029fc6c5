//! Policies that name the same share a chain of the firewall, which comes with the first function and goes with the last.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::{
    Firewall, World, function::function, on_every_firewall, random::Random, wait::duration_of,
};

/// The number of operations on each firewall, and that between two repairs.
const OPERATIONS: usize = 40;
const BETWEEN_REPAIRS: usize = 8;
const NAMES: [&str; 5] = ["f0", "f1", "f2", "f3", "f4"];

/// Returns a function whose policy allows these.
fn allowing(name: &str, allow: &[String]) -> Value {
    let mut definition = function(name, &[]);
    definition["spec"]["function"]["network"] =
        json!({ "egress": { "default": "none", "allow": allow, "deny": ["10.9.0.0/16:25"] } });
    definition
}

/// Returns the destinations of one of some policies.
fn destinations(number: usize) -> Vec<String> {
    (1..=20).map(|host| format!("10.{number}.{host}.0/24:8000-8010/tcp")).collect()
}

/// Returns the chains of policies, by name.
fn chains(world: &World) -> BTreeSet<String> {
    let table = if world.firewall == Firewall::Nftables { "riklet" } else { "riklet-policies" };
    let listing = world.node.feed(&["nft", "list", "table", "inet", table], "").stdout;
    let chains = listing.lines().filter_map(|line| line.trim().strip_prefix("chain "));
    chains.filter(|name| name.starts_with("policy-")).map(ToOwned::to_owned).collect()
}

on_every_firewall!(functions_share_and_leave_a_chain_while_they_are_killed, |world| {
    let mut random = Random::new();
    let up = |name: &str, policy: usize| allowing(name, &destinations(policy)).to_string();
    let usual = duration_of(|| drop(world.riklet(&["up", "-"], &up("f0", 0)).success()));
    let mut killed = 0;
    for number in 1..=OPERATIONS {
        let name = *random.pick(&NAMES);
        let policy = random.below(3);
        let running = match random.below(3) {
            0 => world.riklet_in_background(&["down", name], ""),
            _ => world.riklet_in_background(&["up", "-"], &up(name, policy)),
        };
        if !running.ends_within(random.part_of(usual)) {
            running.signal(Signal::KILL);
        }
        match running.wait().code {
            None => killed += 1,
            Some(0) => assert_eq!(world.riklet(&["check"], "").success(), ""),
            Some(_) => {}
        }
        if number % BETWEEN_REPAIRS == 0 {
            world.riklet(&["repair"], "").success();
            world.riklet(&["check"], "").success();
            let listed = world.riklet(&["list", "--output", "json"], "").success();
            let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
            assert!(chains(world).len() <= listed.len().min(3), "{listed:?}");
        }
    }
    assert!(killed > OPERATIONS / 8, "only {killed} of {OPERATIONS} were killed within {usual:?}");
    for name in NAMES {
        world.riklet(&["up", "-"], &up(name, 0)).success();
    }
    assert_eq!(chains(world).len(), 1);
    world.riklet(&["down", "f0", "f1", "f2", "f3"], "").success();
    assert_eq!(chains(world).len(), 1);
    world.riklet(&["down", "f4"], "").success();
    assert_eq!(chains(world), BTreeSet::new());
    assert_eq!(world.riklet(&["check"], "").success(), "");
});

on_every_firewall!(an_operation_asks_as_much_beside_many_policies_as_beside_few, |world| {
    let asked = |arguments: &[&str], input: &str| {
        let record = world.directory.path().join("strace");
        let record = record.display().to_string();
        let calls = "trace=sendto,sendmsg,recvfrom,recvmsg";
        let traced = ["-f", "-qq", "-o", &record, "-e", calls, env!("CARGO_BIN_EXE_riklet-sdn")];
        world.program("strace", &[&traced[..], arguments].concat(), input).success();
        let calls = world.node.tool(&["cat", &record]);
        let bytes =
            |line: &str| line.rsplit(" = ").next().and_then(|n| n.trim().parse::<usize>().ok());
        // iptables reads the rules of its own.
        let adds = |line: &&str| line.contains("NFT_MSG_NEWSETELEM");
        let program = calls.lines().find(adds).and_then(|line| line.split(' ').next());
        let program = program.expect("a process that changes an element");
        let of_firewall = calls
            .lines()
            .filter(|line| line.starts_with(program) && line.contains("NFNL_SUBSYS_NFTABLES"));
        of_firewall.filter_map(bytes).sum::<usize>()
    };
    let of_three = |world: &World| {
        let up = asked(&["up", "-"], &allowing("f", &destinations(1)).to_string());
        let change = asked(&["up", "-"], &allowing("f", &destinations(2)).to_string());
        let down = asked(&["down", "f"], "");
        world.riklet(&["check"], "").success();
        [up, change, down]
    };
    let others = |numbers: std::ops::Range<usize>| {
        let all = numbers.map(|n| allowing(&format!("o{n}"), &destinations(n)));
        world.riklet(&["up", "-"], &all.collect::<Value>().to_string()).success();
    };
    others(100..102);
    let few = of_three(world);
    others(102..140);
    assert_eq!(chains(world).len(), 40);
    assert!(few.iter().all(|bytes| *bytes > 0), "{few:?}");
    assert_eq!(of_three(world), few, "bytes from the firewall: beside many, and beside few");
});

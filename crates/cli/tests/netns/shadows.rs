//! Ports that somebody else on the host has: an exposure takes none of them unless its definition says so.

use std::{net::Ipv4Addr, process, time::Duration};

use serde_json::Value;

use crate::world::{
    CLIENT, Firewall, NODE_LAN, OTHER, World,
    function::{Function, Serves, bound, exposure, function, shadowing},
    on_every_firewall,
    traffic::{PATIENCE, UdpClient},
    transport::{
        Path,
        Transport::{Tcp, Udp},
        assert_paths, assert_refused,
    },
    wait_for,
};

const PORT: u16 = 8080;
/// Longer than the daemon's pause between two looks at what the kernel does not report.
const SOON: Duration = Duration::from_secs(20);
const SERVES: &Serves = &[(Tcp, 3000), (Udp, 3000)];

/// Asserts that this definition is refused with these words, by `up` and `plan`, and that nothing is recorded.
#[track_caller]
fn assert_occupied(world: &World, definition: &Value, words: &[&str]) {
    for command in ["up", "plan"] {
        let output = world.riklet(&[command, "-"], &definition.to_string());
        assert_eq!(output.code, Some(1), "{command}: {output}");
        let first = output.stderr.lines().next().unwrap_or_default();
        for words in words {
            assert!(first.contains(words), "{command}: {words} in {output}");
        }
    }
    assert_eq!(world.riklet(&["--output", "json", "list"], "").success().trim(), "[]");
}

/// Asserts that `check` finds no drift, and has one warning with these words, and that `doctor` has it as well.
#[track_caller]
fn assert_warned(world: &World, words: &str) {
    let check = world.riklet(&["check"], "");
    assert_eq!(check.code, Some(0), "{check}");
    let warnings = check.stderr.lines().filter(|line| line.starts_with("warning: "));
    assert_eq!(warnings.filter(|line| line.contains(words)).count(), 1, "{check}");
    let doctor = world.riklet(&["doctor"], "");
    assert!(doctor.stdout.contains(words), "{words} in {doctor}");
}

fn at(world: &World, server: (Ipv4Addr, u16)) -> Path<'_> {
    Path { from: &world.client, to: (NODE_LAN, PORT), seen_as: CLIENT, server }
}

on_every_firewall!(a_port_that_a_local_process_listens_on_is_refused, |world| {
    let _server = Tcp.serve(&world.node, Ipv4Addr::UNSPECIFIED, PORT);
    let own = exposure(Tcp, PORT, 3000);
    let pid = format!("(pid {}), which listens on tcp port {PORT}", process::id());
    let refused = format!("error: cannot expose tcp {PORT} -> 3000 for mine: it would shadow ");
    assert_occupied(world, &function("mine", std::slice::from_ref(&own)), &[&refused, &pid]);
    let range = exposure(Tcp, "8000-8100", "8000-8100");
    assert_occupied(world, &function("mine", &[range]), &[&pid]);
    assert_paths("process", &[Tcp], &[at(world, (NODE_LAN, PORT))]);

    let insists = function("mine", &[shadowing(own)]);
    let strict = world.riklet(&["up", "--strict", "-"], &insists.to_string());
    assert!(strict.code == Some(1) && strict.stderr.contains("leave --strict out"), "{strict}");
    let up = world.riklet(&["up", "-"], &insists.to_string());
    let warning = format!("warning: mine: tcp {PORT} -> 3000 shadows ");
    assert!(up.code == Some(0) && up.stderr.starts_with(&warning), "{up}");
    let nics = world.up(&[insists]);
    let mine = Function::start(world, nics[0].clone(), SERVES);
    assert_paths("function", &[Tcp], &[at(world, (mine.address(), 3000))]);
    assert_warned(world, &pid);
});

on_every_firewall!(a_listener_that_comes_later_is_reported, |world| {
    let daemon = world.daemon(&[]);
    world.up(&[function("mine", &[exposure(Tcp, PORT, 3000)])]);
    daemon.wait_until_idle();
    let check = world.riklet(&["check"], "");
    assert!(check.code == Some(0) && check.stderr == "no drift\n", "{check}");
    let server = Tcp.serve(&world.node, NODE_LAN, PORT);
    let words = format!("(pid {}), which listens on tcp port {PORT} of {NODE_LAN}", process::id());
    wait_for("an event about the listener", SOON, || {
        daemon.events().contains(&words).then_some(())
    });
    assert_warned(world, &words);
    drop(server);
    let gone = "no longer: mine";
    wait_for("an event about its end", SOON, || daemon.events().contains(gone).then_some(()));
    let check = world.riklet(&["check"], "");
    assert_eq!(check.stderr, "no drift\n");
});

on_every_firewall!(services_on_other_loopback_addresses_keep_their_packets, |world| {
    let local = Ipv4Addr::new(127, 0, 0, 53);
    let resolver = Udp.serve(&world.node, local, 53);
    let mine = exposure(Udp, 53, 3000);
    assert_occupied(
        world,
        &function("mine", std::slice::from_ref(&mine)),
        &["listens on udp port 53 of 127.0.0.53"],
    );
    let output =
        world.riklet(&["up", "-"], &function("mine", &[bound(local, mine.clone())]).to_string());
    assert!(output.code == Some(2) && output.stderr.contains("only 127.0.0.1 is"), "{output}");
    // On other addresses it clashes with nobody.
    world.up(&[function("mine", &[bound(NODE_LAN, mine.clone())])]);
    let nics = world.up(&[function("mine", &[shadowing(mine)])]);
    let mine = Function::start(world, nics[0].clone(), SERVES);
    let ask = |to| UdpClient::new(&world.node, (to, 53)).ask(PATIENCE).map(|answer| answer.server);
    assert_eq!(ask(local), Some(resolver.address));
    assert_eq!(ask(Ipv4Addr::LOCALHOST), Some((mine.address(), 3000).into()));
    for transport in [Udp, Tcp] {
        assert_refused(transport, &world.node, (Ipv4Addr::new(127, 0, 0, 54), 53));
    }
    let check = world.riklet(&["check"], "");
    assert!(check.code == Some(0) && check.stderr == "no drift\n", "{check}");
});

/// Publishes a port of the node as Docker does, by rules of the node's other firewall.
fn publish(world: &World) -> &'static str {
    let rule = format!("-p tcp --dport {PORT} -j DNAT --to-destination {OTHER}:7");
    let translate = format!(
        "*nat\n:THEIRS - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j THEIRS\n\
         -A THEIRS ! -i docker0 {rule}\nCOMMIT\n"
    );
    match world.firewall {
        Firewall::Nftables => {
            let declared = format!(
                "table ip theirs {{
                   chain web {{
                     meta l4proto tcp dnat to {OTHER}:7
                   }}
                   map published {{
                     type inet_proto . inet_service : verdict
                     elements = {{ tcp . {PORT} : goto web }}
                   }}
                   chain ports {{
                     meta l4proto . th dport vmap @published
                   }}
                   chain prerouting {{
                     type nat hook prerouting priority dstnat
                     fib daddr type local jump ports
                   }}
                 }}"
            );
            world.node.feed(&["nft", "-f", "-"], &declared).success();
            "ip theirs web"
        }
        Firewall::IptablesNft => {
            world.program("iptables-restore", &["--noflush"], &translate).success();
            "ip nat THEIRS"
        }
        Firewall::IptablesLegacy => {
            world.program("iptables-restore", &["--noflush"], &translate).success();
            "iptables-legacy nat THEIRS"
        }
    }
}

/// Takes back what [`publish`] did.
fn unpublish(world: &World) {
    match world.firewall {
        Firewall::Nftables => drop(world.node.tool(&["nft", "delete table ip theirs"])),
        Firewall::IptablesNft | Firewall::IptablesLegacy => {
            world.program("iptables", &["-t", "nat", "-F", "THEIRS"], "").success();
        }
    }
}

on_every_firewall!(a_port_that_another_program_publishes_is_refused, |world| {
    let chain = publish(world);
    let words = format!("the chain {chain}, which translates tcp port {PORT}");
    let mine = exposure(Tcp, PORT, 3000);
    assert_occupied(world, &function("mine", std::slice::from_ref(&mine)), &[&words]);
    // Other ports, protocols and addresses are free.
    let beside = [exposure(Udp, PORT, 3000), exposure(Tcp, PORT + 1, 3000)];
    world.up(&[function("beside", &beside)]);
    let [insists] = world.start([(function("mine", &[shadowing(mine)]), SERVES)]);
    assert_paths("function", &[Tcp], &[at(world, (insists.address(), 3000))]);
    assert_warned(world, &words);
});

// A command trusts what an earlier one found of the rules only until somebody changes one.
on_every_firewall!(a_port_that_is_published_between_two_commands_is_refused, |world| {
    let up = |name: &str, port: u16| {
        let definition = function(name, &[exposure(Tcp, port, 3000)]);
        world.riklet(&["up", "-"], &definition.to_string())
    };
    for (name, port) in [("one", PORT + 1), ("two", PORT + 2), ("three", PORT + 3)] {
        up(name, port).success();
    }
    let chain = publish(world);
    let words = format!("the chain {chain}, which translates tcp port {PORT}");
    // The second refusal follows a command that remembers the translation.
    for (name, port) in [("four", PORT + 4), ("five", PORT + 5)] {
        let refused = up("mine", PORT);
        assert!(refused.code == Some(1) && refused.stderr.contains(&words), "{refused}");
        up(name, port).success();
    }
    unpublish(world);
    up("mine", PORT).success();
});

on_every_firewall!(a_translation_that_comes_later_is_reported, |world| {
    let daemon = world.daemon(&[]);
    let [mine] = world.start([(function("mine", &[exposure(Tcp, PORT, 3000)]), SERVES)]);
    daemon.wait_until_idle();
    let words = format!("the chain {}, which translates tcp port {PORT}", publish(world));
    wait_for("an event about the translation", SOON, || {
        daemon.events().contains(&words).then_some(())
    });
    assert_warned(world, &words);
    assert_paths("function", &[Tcp], &[at(world, (mine.address(), 3000))]);
    // The daemon refuses as well, from memory.
    let other = function("other", &[exposure(Tcp, "8080-8081", "1-2")]);
    world.down(&["mine"]);
    for _ in 0..2 {
        let output = world.riklet(&["up", "-"], &other.to_string());
        assert!(output.code == Some(1) && output.stderr.contains(&words), "{output}");
    }
});

on_every_firewall!(nothing_but_the_lock_is_left_of_the_records, |world| {
    let state = world.directory.path().join("state");
    let left = || {
        let names = std::fs::read_dir(&state).expect("the state directory");
        let mut names: Vec<_> = names.map(|name| name.expect("a name").file_name()).collect();
        names.sort();
        names
    };
    world.up(&[function("mine", &[])]);
    world.down(&["--all"]);
    assert!(left().contains(&"riklet-sdn.db".into()));
    world.down(&["--all", "--purge"]);
    assert_eq!(left(), ["lock"]);
    world.down(&["--all", "--purge"]);
    assert_eq!(world.riklet(&["--output", "json", "list"], "").success().trim(), "[]");
    world.up(&[function("mine", &[])]);
    assert_eq!(world.riklet(&["check"], "").stderr, "no drift\n");
    // A daemon keeps its records.
    let daemon = world.daemon(&[]);
    world.down(&["--all", "--purge"]);
    world.up(&[function("mine", &[])]);
    daemon.wait_until_idle();
    assert!(!daemon.events().contains("was removed"));
    world.riklet(&["check"], "").success();
});

on_every_firewall!(an_address_that_the_host_lacks_is_warned_of, |world| {
    let absent = Ipv4Addr::new(192, 0, 2, 9);
    let mine = function("mine", &[bound(absent, exposure(Tcp, PORT, 3000))]);
    let words = format!("this host does not have the address {absent}");
    let up = world.riklet(&["up", "-"], &mine.to_string());
    assert!(up.code == Some(0) && up.stderr.contains(&words), "{up}");
    assert_warned(world, &words);
    world.node.tool(&["ip", "address", "add", &format!("{absent}/32"), "dev", "lan0"]);
    let check = world.riklet(&["check"], "");
    assert_eq!(check.stderr, "no drift\n");
});

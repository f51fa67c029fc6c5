//! The daemon's life: it stops and starts without disturbing anything, and accepts changes by other processes.

use std::{fs::OpenOptions, io::Write, thread, time::Duration};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};

use crate::world::{
    Firewall, NODE_LAN, World,
    daemon::Api,
    function::{Function, exposure, function},
    on_every_firewall,
    probe::Probe,
    state::{SystemState, assert_same},
    traffic::{Connection, UdpClient, tcp_ask},
    transport::Transport,
    wait_for,
};

const SOON: Duration = Duration::from_secs(20);

on_every_firewall!(a_first_start_is_no_repair, |world| {
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    let told = daemon.events();
    assert!(!told.contains("event: repaired\n"), "{told}");
    daemon.end(Signal::TERM);
    world.node.tool(&["ip", "rule", "flush", "protocol", "82"]);
    let told = world.daemon(&[]).events();
    assert!(told.contains("event: repaired\n"), "{told}");
});

on_every_firewall!(restart_disturbs_no_traffic, |world| {
    let before = SystemState::take(&world.node);
    let mut daemon = world.daemon(&[]);
    let web = function("web", &[exposure(Transport::Tcp, 8080, 3000)]);
    let long = function("long", &[exposure(Transport::Tcp, 9000, 4000)]);
    let [web, long] = world.start([(web, &[(Transport::Tcp, 3000)]), (long, &[])]);
    let at = (long.address(), 4000);
    let connection = Connection::new(&world.client, (NODE_LAN, 9000), &long.guest.namespace, at);
    daemon.wait_until_idle();
    // A TAP that was recreated has its number and its name again, but not the length of its queue.
    let taps = |world: &World| -> Vec<String> {
        let links = world.node.tool(&["ip", "-oneline", "link", "show"]);
        let name = |line: &str| line.split(": ").nth(1).unwrap_or_default().to_owned();
        let length =
            |line: &str| line.split(" qlen ").nth(1)?.split(['\\', ' ']).next().map(str::to_owned);
        links.lines().map(|line| format!("{} {:?}", name(line), length(line))).collect()
    };
    for tap in taps(world).iter().filter_map(|tap| tap.split(' ').next()) {
        if tap.starts_with("rik") {
            world.node.tool(&["ip", "link", "set", "dev", tap, "txqueuelen", "555"]);
        }
    }
    daemon.wait_until_idle();
    let present = taps(world);
    assert!(present.contains(&"rik0 Some(\"555\")".to_owned()), "{present:?}");
    let probe = Probe::start(&world.client, (NODE_LAN, 8080));
    probe.wait_for(5, SOON);
    for signal in [Signal::TERM, Signal::KILL] {
        daemon.end(signal);
        connection.assert_alive();
        daemon = world.daemon(&[]);
        daemon.wait_until_idle();
        connection.assert_alive();
        assert_eq!(taps(world), present, "the same TAPs, warm ones too");
    }
    probe.wait_for(5, SOON);
    let heard = probe.look();
    assert_eq!(heard.refused, 0, "{heard:?}");
    drop((probe, web, long));
    let reply = daemon.ask("DELETE", "/v1/functions?all=true&purge=true", "");
    assert_eq!(reply.status, 200, "{reply:?}");
    daemon.end(Signal::TERM);
    assert_same(&before, &SystemState::take(&world.node));
});

on_every_firewall!(commands_beside_the_daemon_share_its_records, |world| {
    let daemon = world.daemon(&[]);
    let alone = |arguments: &[&str], file: &str| {
        world.riklet(&[&["--api", "/nowhere"], arguments].concat(), file).success()
    };
    let definition = function("alone", &[exposure(Transport::Tcp, 8080, 3000)]);
    alone(&["up", "-"], &definition.to_string());
    let [web] = world.start([(
        function("web", &[exposure(Transport::Tcp, 8081, 3000)]),
        &[(Transport::Tcp, 3000)],
    )]);
    daemon.wait_until_idle();
    let names = |document: &serde_json::Value| -> Vec<String> {
        let all = document.as_array().expect("a list").iter();
        all.map(|listed| listed["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(&daemon.get("/v1/functions")), ["alone", "web"]);
    let listed = alone(&["--output", "json", "list"], "");
    assert_eq!(names(&serde_json::from_str(&listed).expect("JSON")), ["alone", "web"]);
    alone(&["down", "alone"], "");
    daemon.wait_until_idle();
    assert_eq!(names(&daemon.get("/v1/functions")), ["web"]);
    tcp_ask(&world.client, (NODE_LAN, 8081)).expect("it is reached");
    drop(web);
});

// The daemon records a moment later that the kernel has followed its `down`; by then another process may have reused
// the name.
on_every_firewall!(function_brought_up_again_by_another_process_stays_up, |world| {
    /// The number of attempts in which the two should coincide.
    const TRIES: usize = 20;
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    let web = function("web", &[exposure(Transport::Tcp, 8080, 3000)]);
    let file = world.directory.path().join("definition");
    mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let path = file.to_str().expect("UTF-8");
    for number in 0..TRIES {
        let reply = daemon.ask("PUT", "/v1/functions/web", &web.to_string());
        assert_eq!(reply.status, 200, "{reply:?}");
        let other = world.riklet_in_background(&["--api", "/nowhere", "up", path], "");
        // Opening returns once the other process has the file open and waits for its contents.
        let mut definition = OpenOptions::new().write(true).open(&file).expect("a reader");
        let reply = daemon.ask("DELETE", "/v1/functions/web", "");
        assert_eq!(reply.status, 200, "{reply:?}");
        definition.write_all(web.to_string().as_bytes()).expect("a reader");
        drop(definition);
        other.wait().success();
        daemon.wait_until_idle();
        let recorded = daemon.ask("GET", "/v1/functions/web", "");
        assert_eq!(recorded.status, 200, "try {number}: {recorded:?}");
    }
    let [web] = world.start([(web, &[(Transport::Tcp, 3000)])]);
    tcp_ask(&world.client, (NODE_LAN, 8080)).expect("it is reached");
    drop(web);
});

on_every_firewall!(flows_follow_a_port_to_another_function, |world| {
    let _daemon = world.daemon(&[]);
    let definition = |name: &str| function(name, &[exposure(Transport::Udp, 5300, 53)]);
    let [first] = world.start([(definition("first"), &[(Transport::Udp, 53)])]);
    let mut client = UdpClient::new(&world.client, (NODE_LAN, 5300));
    let seen = client.ask(SOON).expect("the first answers").server.ip();
    assert_eq!(seen, first.address());
    world.down(&["first"]);
    let nic = world.up(&[definition("second")]).remove(0);
    let second = Function::start(world, nic, &[(Transport::Udp, 53)]);
    assert_ne!(second.address(), first.address(), "its slot is not used again yet");
    let again = wait_for("the second to answer", SOON, || {
        client.ask(Duration::from_millis(200)).map(|answer| answer.server.ip())
    });
    assert_eq!(again, second.address());
});

on_every_firewall!(run_does_not_disturb_the_daemon, |world| {
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    let hello = function("hello", &[exposure(Transport::Tcp, 8080, 3000)]);
    world.riklet(&["run", "--detach", "-"], &hello.to_string()).success();
    let refused = world.riklet(&["down", "hello"], "").failure(1);
    assert!(refused.contains("cannot take hello down while it runs"), "{refused}");
    let taken = function("other", &[exposure(Transport::Tcp, 8080, 3000)]).to_string();
    assert_eq!(daemon.ask("PUT", "/v1/functions/other", &taken).status, 409);
    daemon.wait_until_idle();
    world.riklet(&["stop", "hello"], "").success();
    daemon.wait_until_idle();
    assert_eq!(daemon.get("/v1/functions"), serde_json::json!([]));
    assert_eq!(daemon.ask("PUT", "/v1/functions/other", &taken).status, 200);
});

#[test]
fn one_of_many_concurrent_requests_gets_the_port() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let api: &Api = &daemon;
    let statuses: Vec<_> = thread::scope(|scope| {
        let ask = |number| {
            let name = format!("f{number}");
            let definition = function(&name, &[exposure(Transport::Tcp, 8080, 3000)]);
            move || {
                let path = format!("/v1/functions/{name}");
                api.ask("PUT", &path, &definition.to_string()).status
            }
        };
        let threads: Vec<_> = (0..16).map(|number| scope.spawn(ask(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 15, "{statuses:?}");
    daemon.wait_until_idle();
}

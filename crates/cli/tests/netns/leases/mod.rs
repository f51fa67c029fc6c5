//! Guests that know nothing ask the node for their configuration, and get it from the daemon.

mod client;
mod networkd;
mod question;
mod v6;

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use riklet_core::model::MacAddress;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    leases::{
        client::Client,
        question::{ACK, Asker, DISCOVER, NAK, OFFER, REQUEST},
    },
    world::{
        Firewall, INTERNET, NODE_LAN, World,
        function::{exposure, function},
        guest::Guest,
        held::{Held, HoldPoint},
        namespace::Namespace,
        on_every_firewall,
        traffic::{PATIENCE, SILENCE, ping},
        transport::Transport::Tcp,
        wait_for,
    },
};

const PORT: u16 = 8080;
const TARGET: u16 = 3000;
const RESOLVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(198, 51, 100, 53)];

/// Returns a function that is published, and that has resolvers of its own.
fn asking(name: &str) -> Value {
    let mut definition = function(name, &[exposure(Tcp, PORT, TARGET)]);
    definition["spec"]["function"]["execution"]["dns"] = json!(RESOLVERS);
    definition
}

/// Brings a function up, and attaches a guest that has no address.
#[track_caller]
fn bare(world: &World, definition: Value) -> Guest {
    let nic = world.up(&[definition]).into_iter().next().expect("a NIC");
    Guest::attach_bare(world, nic)
}

/// Asserts that the guest reaches the Internet, and is reached at its published port.
#[track_caller]
fn assert_traffic(world: &World, guest: &Guest) {
    let reached = ping(&guest.namespace, INTERNET, PATIENCE);
    let state =
        || ["address", "route", "neighbour"].map(|what| guest.namespace.tool(&["ip", what]));
    assert!(reached, "the guest reaches the Internet: {:?}", state());
    let _server = Tcp.serve(&guest.namespace, guest.nic.address, TARGET);
    let asked = Tcp.ask_within(PATIENCE, &world.client, (NODE_LAN, PORT).into());
    assert!(asked.is_ok(), "{asked:?}");
}

/// Asserts that the guest has what its function is to have.
#[track_caller]
fn assert_leased(guest: &Guest, client: &Client, name: &str) {
    let found = &client.lease;
    let get = |key: &str| found.get(key).map(String::as_str);
    assert_eq!(get("ip"), Some(&*guest.nic.address.to_string()), "{found:?}");
    assert_eq!(get("mask"), Some("30"), "{found:?}");
    assert_eq!(get("router"), Some(&*guest.nic.gateway.to_string()), "{found:?}");
    assert_eq!(get("serverid"), get("router"), "{found:?}");
    assert_eq!(get("mtu"), Some(&*guest.nic.mtu.to_string()), "{found:?}");
    assert_eq!(get("hostname"), Some(name), "{found:?}");
    let resolvers = RESOLVERS.map(|address| address.to_string()).join(" ");
    assert_eq!(get("dns"), Some(&*resolvers), "{found:?}");
    let addresses = guest.namespace.tool(&["ip", "-4", "address", "show", "dev", "eth0"]);
    assert!(addresses.contains(&format!("inet {}/30 ", guest.nic.address)), "{addresses}");
}

on_every_firewall!(a_guest_that_knows_nothing_gets_its_configuration, |world| {
    let daemon = world.daemon(&["--mtu", "1400"]);
    let guest = bare(world, asking("web"));
    let mut client = Client::start(&guest.namespace, world);
    assert_leased(&guest, &client, "web");
    assert_eq!(client.lease.get("mtu").map(String::as_str), Some("1400"));
    assert_traffic(world, &guest);
    // The guest asks its server alone.
    client.renew();
    assert_leased(&guest, &client, "web");

    // The next daemon knows the lease as well.
    daemon.end(Signal::TERM);
    assert_traffic(world, &guest);
    let daemon = world.daemon(&[]);
    client.renew();
    assert_leased(&guest, &client, "web");
    assert_traffic(world, &guest);
    client.end();

    // Another function in the same slot has the same address, and a name of its own.
    drop(guest);
    world.down(&["web"]);
    let guest = bare(world, asking("next"));
    let client = Client::start(&guest.namespace, world);
    assert_leased(&guest, &client, "next");
    assert_traffic(world, &guest);
    world.riklet(&["check"], "").success();
    drop(daemon);
});

on_every_firewall!(a_guest_with_anothers_address_is_refused_and_gets_its_own, |world| {
    let _daemon = world.daemon(&[]);
    let first = bare(world, asking("first"));
    let second = bare(world, function("second", &[]));
    let mut asker = Asker::new(&second);
    let anothers = first.nic.address;
    // After a start with the disk of another, and in the midst of a lease.
    for (known, requested) in [(None, Some(anothers)), (Some(anothers), None)] {
        let answer = asker.ask(&second, REQUEST, known, requested).expect("an answer");
        assert_eq!((answer.kind, answer.given), (NAK, Ipv4Addr::UNSPECIFIED));
    }
    let offer = asker.ask(&second, DISCOVER, None, Some(anothers)).expect("an offer");
    assert_eq!((offer.kind, offer.given), (OFFER, second.nic.address));
    let given = asker.ask(&second, REQUEST, None, Some(second.nic.address)).expect("an answer");
    assert_eq!((given.kind, given.given), (ACK, second.nic.address));
});

on_every_firewall!(nobody_but_guests_of_ours_is_answered, |world| {
    let daemon = world.daemon(&[]);
    let guest = bare(world, asking("web"));
    let mut asker = Asker::new(&guest);
    assert!(asker.ask(&guest, DISCOVER, None, None).is_some());
    // A frame with the MAC address of another guest.
    let mac = MacAddress::new([6, b'R', b'I', b'K', 0, 9]);
    assert!(asker.ask_as(&guest, mac, DISCOVER).is_none());
    // A client at another interface of the node.
    Client::ask_once(&world.client, world).assert_no_lease();
    // A reserved slot has a TAP, and no function.
    let taps = world.node.tool(&["ip", "-oneline", "link", "show"]);
    assert!(taps.contains("rik1"), "{taps}");
    let mut nic = guest.nic.clone();
    "rik1".clone_into(&mut nic.interface);
    nic.mac = MacAddress::new([6, b'R', b'I', b'K', 0, 1]);
    let reserved = Guest::attach_bare(world, nic);
    assert!(Asker::new(&reserved).ask(&reserved, DISCOVER, None, None).is_none());
    // Nothing listens at a port of DHCP, nor at all addresses.
    let listening = world.node.tool(&["ss", "--no-header", "--listening", "--numeric", "--udp"]);
    let open: Vec<_> =
        listening.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
    assert_eq!(open, ["127.82.73.75:353"], "the resolver of names alone:\n{listening}");
    drop(daemon);
    assert!(asker.ask(&guest, DISCOVER, None, None).is_none(), "without a daemon");
});

on_every_firewall!(the_dhcp_server_of_another_is_not_disturbed, |world| {
    // A bridge of containers, whose server is the only one that listens at the port.
    let commands = "link add br0 type bridge\nlink set br0 addrgenmode none\nlink set br0 up\n\
         address add 10.66.0.1/24 dev br0\n";
    world.node.feed(&["ip", "-batch", "-"], commands).success();
    let container = Namespace::new();
    let peer = format!(
        "link add vc0 type veth peer name eth0 netns {}\nlink set vc0 master br0\nlink set vc0 up\n",
        container.path()
    );
    world.node.feed(&["ip", "-batch", "-"], &peer).success();
    container.tool(&["ip", "link", "set", "eth0", "up"]);
    let path = world.directory.path().join("udhcpd.conf");
    let path = path.to_str().expect("UTF-8");
    let configuration = "interface br0\nstart 10.66.0.7\nend 10.66.0.7\noption subnet 255.255.255.0\n\
         lease_file /dev/null\npidfile /dev/null\n";
    world.client.feed(&["tee", path], configuration).success();
    let serve = ["-c", "exec busybox udhcpd -f \"$0\" 2>&1", path];
    let mut server = world.program_in_background("sh", &serve, "");
    server.wait_for_line("started");

    let _daemon = world.daemon(&[]);
    let guest = bare(world, asking("web"));
    let client = Client::start(&guest.namespace, world);
    assert_leased(&guest, &client, "web");
    let neighbour = Client::start(&container, world);
    assert_eq!(neighbour.lease.get("ip").map(String::as_str), Some("10.66.0.7"));
    // A guest that floods the host with questions reaches nobody else's server either.
    assert!(server.is_running());
    assert_traffic(world, &guest);
});

on_every_firewall!(a_flood_of_one_guest_keeps_no_other_waiting, |world| {
    const QUESTIONS: usize = 60;
    let daemon = world.daemon(&[]);
    let flooding = bare(world, function("flooding", &[]));
    let patient = bare(world, asking("patient"));
    let question = question::frame(flooding.nic.mac, DISCOVER, None, None);
    let garbage = question::garbage(flooding.nic.mac);
    let mut asker = Asker::new(&patient);
    let before = daemon.processor_time();
    #[expect(clippy::disallowed_methods, reason = "the test measures a time")]
    let begin = Instant::now();
    let (going, sent) = (AtomicBool::new(true), AtomicU64::new(0));
    let answered = thread::scope(|scope| {
        scope.spawn(|| {
            while going.load(Relaxed) {
                flooding.send(&question);
                flooding.send(&garbage);
                sent.fetch_add(2, Relaxed);
            }
        });
        let ask = |_| {
            // The patient guest stays within its own allowance.
            #[expect(clippy::disallowed_methods, reason = "a rate, and no wait for anything")]
            thread::sleep(Duration::from_millis(50));
            asker.ask(&patient, DISCOVER, None, None)
        };
        let answered = (0..QUESTIONS).filter_map(ask).count();
        going.store(false, Relaxed);
        answered
    });
    let (took, sent) = (begin.elapsed(), sent.into_inner());
    assert_eq!(
        answered, QUESTIONS,
        "of the questions of the patient guest beside {sent} in {took:?}"
    );
    // The daemon reads 32 questions a second, and those that come until the guest is muted.
    let cost = daemon.processor_time() - before;
    #[expect(clippy::print_stdout, reason = "a measurement")]
    {
        println!("{sent} questions cost the daemon {cost} s in {took:?}");
    }
    assert!(cost < 0.2 * took.as_secs_f64(), "{cost} s for {sent} questions in {took:?}");
    // The guest itself is answered again after a second.
    let mut asker = Asker::new(&flooding);
    let again = wait_for("an answer", PATIENCE, || asker.ask(&flooding, DISCOVER, None, None));
    assert_eq!(again.given, flooding.nic.address);
});

on_every_firewall!(an_answer_comes_at_once, |world| {
    let _daemon = world.daemon(&[]);
    let guest = bare(world, asking("web"));
    let mut asker = Asker::new(&guest);
    let mut times: Vec<_> = (0..25)
        .map(|_| {
            #[expect(clippy::disallowed_methods, reason = "the test measures a time")]
            let begin = Instant::now();
            asker.ask(&guest, DISCOVER, None, None).expect("an offer");
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    let median = times[times.len() / 2];
    #[expect(clippy::print_stdout, reason = "a measurement")]
    {
        println!("a question is answered in {median:?}, at most {:?}", times[times.len() - 1]);
    }
    assert!(median < Duration::from_millis(50), "{times:?}");
});

/// An operation that takes long, of the daemon or of another process, keeps no guest waiting.
#[test]
fn an_operation_in_progress_delays_no_answer() {
    let world = &World::new(Firewall::IptablesNft);
    let _daemon = world.daemon(&[]);
    let guest = bare(world, asking("web"));
    let mut asker = Asker::new(&guest);
    assert!(asker.ask(&guest, DISCOVER, None, None).is_some());
    let held = Held::restore(world, "8081", HoldPoint::Before);
    let other = function("other", &[exposure(Tcp, 8081, TARGET)]);
    let up = world.riklet_in_background(&["up", "-"], &other.to_string());
    held.wait();
    for _ in 0..10 {
        let answer = asker.ask(&guest, DISCOVER, None, None).expect("an offer");
        assert_eq!(answer.given, guest.nic.address);
    }
    drop(held);
    up.wait().success();
}

/// Without the capability for its socket, the daemon answers nobody, says so, and does everything else.
#[test]
fn the_capabilities_that_answers_need_are_in_the_unit() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon_with(&["CAP_NET_ADMIN"]);
    let guest = bare(world, asking("web"));
    let mut asker = Asker::new(&guest);
    assert!(asker.ask(&guest, DISCOVER, None, None).is_none());
    let words = "cannot answer guests that ask for their configuration";
    assert_eq!(daemon.events().matches(words).count(), 1, "{}", daemon.events());
    daemon.end(Signal::TERM);
    let _daemon = world.daemon_with(&["CAP_NET_ADMIN", "CAP_NET_RAW"]);
    assert!(asker.ask(&guest, DISCOVER, None, None).is_some());
}

/// A guest cannot reach the daemon by the port, which is nobody's.
#[test]
fn the_port_of_servers_stays_free() {
    let world = &World::new(Firewall::Nftables);
    let _daemon = world.daemon(&[]);
    let guest = bare(world, asking("web"));
    let theirs = world.node.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)));
    let theirs = theirs.expect("the port is free");
    theirs.set_read_timeout(Some(SILENCE)).expect("a time");
    let mut asker = Asker::new(&guest);
    assert!(asker.ask(&guest, DISCOVER, None, None).is_some());
    let heard = theirs.recv(&mut [0; 2048]);
    assert!(heard.is_err(), "another's server hears no guest: {heard:?}");
}

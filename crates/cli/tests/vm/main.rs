//! Guests that really boot: QEMU without KVM, Debian's kernel, and the network that the program creates. The tests
//! need what those in `netns` need, `qemu-system-x86_64` and `curl`, and the guest that `scripts/guest` makes;
//! anything missing fails the test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the harness is test code too, outside of functions marked as tests"
)]

mod http;
mod vm;
#[expect(dead_code, reason = "the harness of the tests in netns, of which these need a part")]
#[path = "../netns/world/mod.rs"]
mod world;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use riklet_vmm::{
    qemu::Board,
    qmp::{Event, Qmp, QmpError},
};

use http::{get, udp_echo, who_server};
use vm::{Vm, image_file};
use world::{
    CLIENT, Firewall, INTERNET, NODE_LAN, NODE_UPLINK, World, on_every_firewall,
    state::{SystemState, assert_same},
    wait_for,
};

/// Limits the time that a command of QEMU may take on a busy host.
const PATIENCE: Duration = Duration::from_secs(30);

const HELLO: &str = r"
apiVersion: v1
kind: Function
name: hello
spec:
  function:
    execution: {dns: [192.0.2.53, 198.51.100.53]}
    exposure:
    - {port: 8080, targetPort: 3000}
    - {port: 5353, targetPort: 53, protocol: UDP}
---
apiVersion: v1
kind: Function
name: world
spec:
  function:
    execution: {dns: []}
    exposure: {port: 8081, targetPort: 3000}
";

on_every_firewall!(guests_boot_and_are_reached, |world| {
    let before = SystemState::take(&world.node);
    world.riklet(&["up", "-"], HELLO).success();
    let hello = Vm::start(world, "hello", &[], |arguments| {
        arguments.command_line.push_str(" riklet.udp=53");
    });
    let other = Vm::start(world, "world", &[], |_| {});
    let (published, others) = (at(NODE_LAN, 8080), at(NODE_LAN, 8081));

    // From outside: the guest sees the client's own address.
    let answer = hello.wait_for_answer(&world.client, published);
    assert_eq!(answer["function"], "hello");
    assert_eq!(answer["address"], hello.guest().to_string());
    assert_eq!(answer["port"], 3000);
    assert_eq!(answer["mtu"], 1500);
    assert_eq!(answer["dns"], serde_json::json!(["192.0.2.53", "198.51.100.53"]));
    assert_eq!(client(&answer), CLIENT);
    let answer = get(&world.internet, at(NODE_UPLINK, 8080), "/");
    assert_eq!(client(&answer), INTERNET);
    let answer = other.wait_for_answer(&world.client, others);
    assert_eq!((&answer["function"], &answer["dns"]), (&"world".into(), &serde_json::json!([])));

    // From the node itself, to which 127.0.0.1 belongs.
    let answer = get(&world.node, at(Ipv4Addr::LOCALHOST, 8080), "/");
    assert_eq!(client(&answer), hello.host());

    let words = "all of this, and no more";
    assert_eq!(udp_echo(&world.client, at(NODE_LAN, 5353), words).as_deref(), Some(words));

    // From the guest: the Internet sees the uplink's address, the other guest sees this guest's address.
    let server = who_server(&world.internet, at(INTERNET, 80));
    let fetch = |url: String| get(&world.client, published, &format!("/cgi-bin/fetch?{url}"));
    assert_eq!(client(&fetch(format!("http://{}/", server.address))), NODE_UPLINK);
    let answer = fetch(format!("http://{others}/"));
    assert_eq!(answer["function"], "world");
    assert_eq!(client(&answer), hello.guest());
    // From the guest to its own published port.
    let answer = fetch(format!("http://{published}/"));
    assert_eq!((&answer["function"], client(&answer)), (&"hello".into(), hello.host()));

    hello.power_down();
    other.power_down();
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
});

on_every_firewall!(a_guest_that_knows_nothing_boots, |world| {
    let _daemon = world.daemon(&["--mtu", "1400"]);
    world.riklet(&["up", "-"], HELLO).success();
    let hello = Vm::start(world, "hello", &[], |arguments| {
        "console=ttyS0 reboot=k panic=1 quiet riklet.http=3000"
            .clone_into(&mut arguments.command_line);
    });
    let answer = hello.wait_for_answer(&world.client, at(NODE_LAN, 8080));
    assert_eq!(answer["function"], "hello");
    assert_eq!(answer["address"], hello.guest().to_string());
    assert_eq!(answer["mtu"], 1400);
    assert_eq!(answer["dns"], serde_json::json!(["192.0.2.53", "198.51.100.53"]));
    assert_eq!(client(&answer), CLIENT);
    let server = who_server(&world.internet, at(INTERNET, 80));
    let fetch = format!("/cgi-bin/fetch?http://{}/", server.address);
    let answer = get(&world.client, at(NODE_LAN, 8080), &fetch);
    assert_eq!(client(&answer), NODE_UPLINK);
    hello.power_down();
});

/// A Debian with systemd-networkd gets both families by DHCP, whatever its NIC is called.
#[test]
fn a_debian_that_was_made_elsewhere_comes_up() {
    let mut world = World::new(Firewall::Nftables);
    world.environment.insert("RIKLET_SDN_IPV6".to_owned(), "on".to_owned());
    let world = &world;
    let _daemon = world.daemon(&["--mtu", "1400"]);
    world.riklet(&["up", "-"], HELLO).success();
    // What it writes is gone with QEMU.
    let hello = Vm::start(world, "hello", &["-snapshot"], |arguments| {
        arguments.kernel = image_file("vmlinuz");
        arguments.initrd = Some(image_file("initrd"));
        arguments.rootfs = Some(image_file("root.ext4"));
        arguments.memory_mib = 512;
        "console=ttyS0 root=/dev/vda rw quiet".clone_into(&mut arguments.command_line);
    });
    let path = "/cgi-bin/network";
    let shown = wait_for("both families", Duration::from_mins(2), || {
        let shown = hello.wait_for_answer_at(&world.client, at(NODE_LAN, 8080), path);
        let v6 = hello.arguments.attachment.addresses.v6.expect("IPv6 is on").guest;
        shown.to_string().contains(&format!("\"local\":\"{v6}\"")).then_some(shown)
    });
    let nics = shown["addresses"].as_array().expect("NICs");
    let nic = nics.iter().find(|nic| nic["ifname"] != "lo").expect("a NIC");
    assert_ne!(nic["ifname"], "eth0", "it has the name that udev gives it");
    assert_eq!(nic["mtu"], 1400);
    assert!(shown.to_string().contains(&format!("\"local\":\"{}\"", hello.guest())), "{shown}");
    let routes = shown["routes"].as_array().expect("routes");
    let default = routes.iter().find(|route| route["dst"] == "default").expect("a default route");
    assert_eq!(default["gateway"], hello.host().to_string());
    assert_eq!(shown["dns"], "192.0.2.53 198.51.100.53");
    hello.power_down();
    world.riklet(&["check"], "").success();
}

const MANY: &str = r"
apiVersion: v1
kind: Function
name: many
spec:
  function:
    execution: {queues: 2, user: nobody}
    exposure: {port: 8080, targetPort: 3000}
";

#[test]
fn a_guest_has_what_its_arguments_say() {
    let mut world = World::new(Firewall::Nftables);
    world.environment.insert("RIKLET_SDN_MTU".to_owned(), "1400".to_owned());
    let before = SystemState::take(&world.node);
    world.riklet(&["up", "-"], MANY).success();
    let tap = world.node.tool(&["ip", "-details", "link", "show", "dev", "rik0"]);
    assert!(tap.contains("multi_queue") && tap.contains("user nobody"), "{tap}");

    // These characters are special in other options of QEMU, but not in paths.
    let disk = world.directory.path().join("nbd:a,b=c.img");
    vm::write_disk(&disk, b"the first bytes");
    let vm = Vm::start(&world, "many", &[], |arguments| {
        arguments.vcpus = 2;
        arguments.rootfs = Some(disk.clone());
        arguments.read_only = true;
    });
    let published = at(NODE_LAN, 8080);
    let answer = vm.wait_for_answer(&world.client, published);
    for (what, wanted) in [("mtu", 1400), ("queues", 2), ("cpus", 2)] {
        assert_eq!(answer[what], wanted, "{what} of {answer}");
    }
    let answer = get(&world.client, published, "/cgi-bin/disk");
    let wanted = r#"{"bytes":1048576,"text":"the first bytes","written":false}"#;
    assert_eq!(answer.to_string(), wanted);

    vm.power_down();
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
}

/// The board for KVM, tested as far as possible without KVM.
#[test]
fn a_microvm_boots_and_powers_down() {
    let world = World::new(Firewall::Nftables);
    world.riklet(&["up", "-"], HELLO).success();
    let disk = world.directory.path().join("disk.img");
    vm::write_disk(&disk, b"writable");
    // The guest's clock follows its instructions. On a busy host the guest's kernel would otherwise find none of the
    // few clocks of this board usable.
    let clock = ["-icount", "shift=auto,sleep=off"];
    let vm = Vm::start(&world, "hello", &clock, |arguments| {
        arguments.board = Board::Microvm;
        arguments.rootfs = Some(disk.clone());
    });
    let published = at(NODE_LAN, 8080);
    assert_eq!(client(&vm.wait_for_answer(&world.client, published)), CLIENT);
    let answer = get(&world.client, published, "/cgi-bin/disk");
    let wanted = r#"{"bytes":1048576,"text":"writable","written":true}"#;
    assert_eq!(answer.to_string(), wanted);
    vm.power_down();
}

#[test]
fn a_running_qemu_speaks_qmp() {
    let world = World::new(Firewall::Nftables);
    world.riklet(&["up", "-"], HELLO).success();
    let vm = Vm::start(&world, "hello", &[], |_| {});
    let mut qmp = vm.qmp();
    assert!(qmp.version().major >= 5, "{:?}", qmp.version());
    let status = qmp.query_status().unwrap();
    assert!(status.running && status.status == "running", "{status:?}");
    assert_eq!(qmp.next_event(Duration::ZERO).unwrap(), None);

    // QEMU serves one client at a time: it greets the second one when the first has gone.
    let busy = Qmp::connect(&vm.arguments.qmp, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(busy, QmpError::Timeout { .. }), "{busy}");

    qmp.quit().unwrap();
    let event = qmp.next_event(PATIENCE).unwrap();
    let reason = "host-qmp-quit".to_owned();
    assert_eq!(event, Some(Event::Shutdown { guest: false, reason }));
    let end = qmp.next_event(PATIENCE).unwrap_err();
    assert!(matches!(end, QmpError::Closed { .. }), "{end}");
    vm.wait_for_end();
    let gone = Qmp::connect(&vm.arguments.qmp, PATIENCE).unwrap_err();
    assert!(matches!(gone, QmpError::Connect { .. }), "{gone}");
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// Returns the client's address, as a server saw it.
#[track_caller]
fn client(answer: &serde_json::Value) -> Ipv4Addr {
    let seen = answer["client"].as_str().unwrap_or_else(|| panic!("no client in {answer}"));
    *seen.parse::<SocketAddrV4>().expect("an address and a port").ip()
}

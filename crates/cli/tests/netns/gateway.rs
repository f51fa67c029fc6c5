//! The gateway has the same MAC address on every slot. Functions that are up since an earlier version keep their own.

use rustix::process::Signal;

use crate::{
    internet::assert_internet,
    world::{
        NODE_LAN, World,
        function::{Function, exposure, function},
        guest::Nic,
        on_every_firewall,
        traffic::{Connection, PATIENCE, ping},
        transport::Transport::Tcp,
    },
};

const COMMON: &str = "0a:52:49:4b:00:01";
/// The MAC address that version 0.1 gave the TAP of slot 0.
const FORMER: &str = "02:52:49:4b:00:00";

/// Returns the gateway's MAC address as the guest sees it.
#[track_caller]
fn gateway_mac(function: &Function) -> String {
    let (guest, gateway) = (&function.guest.namespace, function.gateway());
    assert!(ping(guest, gateway, PATIENCE), "ping {gateway}");
    let entry = guest.tool(&["ip", "neighbour", "show", &gateway.to_string(), "dev", "eth0"]);
    let mac = entry.split(' ').skip_while(|word| *word != "lladdr").nth(1);
    mac.unwrap_or_else(|| panic!("no address: {entry}")).to_owned()
}

/// Makes the guest use this MAC address for its gateway, without asking for it.
#[track_caller]
fn trust(function: &Function, mac: &str) {
    let gateway = function.gateway().to_string();
    let entry = ["ip", "neighbour", "replace", &gateway, "lladdr", mac];
    function.guest.namespace.tool(&[&entry[..], &["nud", "permanent", "dev", "eth0"]].concat());
}

#[track_caller]
fn mac_of(world: &World, tap: &str) -> String {
    let link = world.node.tool(&["ip", "-oneline", "link", "show", "dev", tap]);
    let mac = link.split(' ').skip_while(|word| *word != "link/ether").nth(1);
    mac.unwrap_or_else(|| panic!("no address: {link}")).to_owned()
}

/// Gives a TAP the form that version 0.1 gave it. A new MAC address flushes the neighbours.
#[track_caller]
fn as_version_0_1(world: &World, nic: &Nic, alias: &str) {
    let tap = &nic.interface;
    world.node.tool(&["ip", "link", "set", tap, "address", FORMER, "alias", alias]);
    let guest = [&nic.address.to_string(), "lladdr", &nic.mac.to_string()];
    let entry = [&["ip", "neighbour", "replace"][..], &guest, &["nud", "permanent", "dev", tap]];
    world.node.tool(&entry.concat());
}

on_every_firewall!(a_guest_keeps_its_gateways_mac_address_on_another_slot, |world| {
    let [first, second] =
        world.start([(function("first", &[]), &[]), (function("second", &[]), &[])]);
    let mac = gateway_mac(&first);
    let nic = second.guest.nic.clone();
    assert_ne!(nic.interface, first.guest.nic.interface);
    drop((first, second));
    // A guest that a VMM restores has the neighbour table of its snapshot.
    let restored = Function::start(world, nic, &[]);
    trust(&restored, &mac);
    assert_internet(world, &restored);
    assert_eq!(mac, COMMON);
});

on_every_firewall!(upgrade_does_not_disturb_running_functions, |world| {
    let web = |changes: u16| {
        let changing = exposure(Tcp, 8080 + changes, 3000);
        function("web", &[changing, exposure(Tcp, 9090, 4000)])
    };
    let [nic] = &world.up(&[web(0)])[..] else { panic!("one instance") };
    as_version_0_1(world, nic, "riklet-sdn:web tcp:8080:3000 tcp:9090:4000");
    let old = Function::start(world, nic.clone(), &[(Tcp, 3000)]);
    trust(&old, FORMER);
    let at = (old.address(), 4000);
    let connection = Connection::new(&world.client, (NODE_LAN, 9090), &old.guest.namespace, at);
    let assert_undisturbed = |after: &str| {
        connection.assert_alive();
        assert_internet(world, &old);
        assert_eq!(mac_of(world, "rik0"), FORMER, "{after}");
        assert_eq!(world.riklet(&["check"], "").code, Some(0), "{after}");
    };
    world.riklet(&["repair"], "").success();
    assert_undisturbed("repair");
    world.up(&[function("other", &[])]);
    assert_undisturbed("another function");
    world.up(&[web(1)]);
    assert_undisturbed("another definition");
    world.node.tool(&["ip", "link", "set", "rik0", "mtu", "1400"]);
    world.riklet(&["repair"], "").success();
    assert_undisturbed("another repair");
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    assert_undisturbed("the daemon");
    daemon.end(Signal::TERM);

    // Once it is gone, the next function gets the common address.
    drop(old);
    world.riklet(&["down", "--all", "--purge"], "").success();
    let [new] = world.start([(web(0), &[(Tcp, 3000)])]);
    assert_eq!(new.guest.nic.interface, "rik0");
    assert_eq!(gateway_mac(&new), COMMON);
    assert_internet(world, &new);
});

on_every_firewall!(
    a_tap_made_in_advance_by_an_earlier_version_gets_the_common_mac_address,
    |world| {
        let daemon = world.daemon(&[]);
        daemon.wait_until_idle();
        daemon.end(Signal::KILL);
        // Once by the command line, which uses the TAP as it is, and once by the daemon, which checks it first.
        for by_daemon in [false, true] {
            let warm = world.node.tool(&["ip", "-oneline", "link", "show", "type", "tun"]);
            assert!(warm.contains(" rik0: "), "{warm}");
            world.node.tool(&[
                "ip",
                "link",
                "set",
                "rik0",
                "address",
                FORMER,
                "alias",
                "riklet-sdn:",
            ]);
            let daemon = by_daemon.then(|| world.daemon(&[]));
            if let Some(daemon) = &daemon {
                daemon.wait_until_idle();
                assert_eq!(mac_of(world, "rik0"), COMMON);
            }
            let [new] = world.start([(function("new", &[]), &[])]);
            assert_eq!(new.guest.nic.interface, "rik0");
            assert_eq!(gateway_mac(&new), COMMON);
            assert_internet(world, &new);
            drop(new);
            if by_daemon {
                return;
            }
            world.down(&["new"]);
            let daemon = world.daemon(&[]);
            daemon.wait_until_idle();
            daemon.end(Signal::KILL);
        }
    }
);

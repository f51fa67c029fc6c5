//! The daemon repairs damage by others, while a client connects every millisecond.

use std::time::Duration;

use crate::world::{
    Firewall, NODE_LAN, World,
    daemon::Daemon,
    foreign::docker_like,
    function::{Function, exposure, function},
    on_every_firewall,
    probe::Probe,
    traffic::Connection,
    transport::Transport,
    wait::duration_of,
    wait_for,
};

/// Longer than any repair takes after a notification, even on a machine that is busy with ten other things, and shorter
/// than the pause between two looks at what the kernel does not report.
const SOON: Duration = Duration::from_secs(8);
/// Long enough for the legacy tables, which are read every ten seconds.
const SLOWLY: Duration = Duration::from_secs(25);

/// A node with a published function, and a daemon that keeps it working.
struct Scene<'a> {
    world: &'a World,
    daemon: Daemon,
    function: Function,
    probe: Probe,
    /// Established before anything was broken.
    connection: Connection,
    /// The function at the other end of the connection.
    _long: Function,
}

impl<'a> Scene<'a> {
    #[track_caller]
    fn new(world: &'a World) -> Self {
        let daemon = world.daemon(&[]);
        let definition = function("web", &[exposure(Transport::Tcp, 8080, 3000)]);
        let other = function("long", &[exposure(Transport::Tcp, 9000, 4000)]);
        let [function] = world.start([(definition, &[(Transport::Tcp, 3000)])]);
        let [long] = world.start([(other, &[])]);
        let at = (long.address(), 4000);
        let connection =
            Connection::new(&world.client, (NODE_LAN, 9000), &long.guest.namespace, at);
        daemon.wait_until_idle();
        let probe = Probe::start(&world.client, (NODE_LAN, 8080));
        probe.wait_for(5, SOON);
        Self { world, daemon, function, probe, connection, _long: long }
    }

    /// Breaks something, and asserts that everything is repaired within this time and that a repair is reported.
    #[track_caller]
    #[expect(clippy::print_stderr, reason = "how long it took is worth knowing")]
    fn heals(&self, what: &str, within: Duration, broken: impl FnOnce(&World)) {
        self.probe.forget_gaps();
        let before = self.probe.look();
        let repairs = || self.daemon.events().matches("event: repaired").count();
        let repaired = repairs();
        broken(self.world);
        let whole = || {
            let check = self.daemon.get("/v1/check");
            let empty = |field: &str| check[field].as_array().is_some_and(Vec::is_empty);
            (repairs() > repaired && empty("steps") && empty("blocked")).then_some(())
        };
        let took = duration_of(|| wait_for(what, within, whole));
        self.probe.wait_for(3, within);
        let after = self.probe.look();
        eprintln!(
            "{:?}, {what}: whole after {took:.1?}; {} of {} connections refused, longest gap {:.1?}",
            self.world.firewall,
            after.refused - before.refused,
            after.connected + after.refused - before.connected - before.refused,
            after.gap
        );
        self.connection.assert_alive();
    }
}

/// Runs the program that changes the rules of this backend.
fn iptables(world: &World, arguments: &str) {
    let arguments: Vec<_> = arguments.split(' ').collect();
    world.program("iptables", &arguments, "").success();
}

on_every_firewall!(flushed_firewall_is_restored, |world| {
    let scene = Scene::new(world);
    match world.firewall {
        Firewall::Nftables => {
            let nft = |rule: &str| {
                world.node.tool(&[&["nft"], &*rule.split(' ').collect::<Vec<_>>()].concat());
            };
            scene.heals("nft flush ruleset", SOON, |_| nft("flush ruleset"));
            scene.heals("our table deleted", SOON, |_| nft("delete table inet riklet"));
            scene.heals("an exposure deleted", SOON, |_| {
                nft("delete element inet riklet exposures { tcp . 8080 }");
            });
            scene.heals("our rules flushed", SOON, |_| nft("flush chain inet riklet RIKLET"));
            scene.heals("a rule of somebody else's in our chain", SOON, |_| {
                nft("insert rule inet riklet forward drop");
            });
            scene.heals("Docker's policy", SOON, |world| docker_like(world, Firewall::IptablesNft));
        }
        Firewall::IptablesNft | Firewall::IptablesLegacy => {
            let within = if world.firewall == Firewall::IptablesLegacy { SLOWLY } else { SOON };
            scene.heals("iptables -t nat -F", within, |world| iptables(world, "-t nat -F"));
            scene.heals("iptables -F", within, |world| {
                iptables(world, "-P FORWARD DROP");
                iptables(world, "-F");
            });
        }
    }
});

on_every_firewall!(changed_interfaces_are_repaired, |world| {
    let scene = Scene::new(world);
    let tap = scene.function.guest.nic.interface.clone();
    let ip = |command: &str| {
        let command = command.replace("TAP", &tap);
        scene.world.node.tool(&[&["ip"], &*command.split(' ').collect::<Vec<_>>()].concat());
    };
    scene.heals("TAP down", SOON, |_| ip("link set TAP down"));
    scene.heals("address flushed", SOON, |_| ip("address flush dev TAP"));
    scene.heals("neighbours flushed", SOON, |_| ip("neighbour flush all nud permanent dev TAP"));
    scene.heals("MTU and group", SOON, |_| ip("link set TAP group 7 mtu 1300"));
    let set = |name: &str, value: &str| {
        scene.world.node.set_sysctl(&format!("net/ipv4/conf/{tap}/{name}"), value);
    };
    // The kernel does not notify of redirects.
    scene.heals("rp_filter", SOON, |_| set("rp_filter", "0"));
    scene.heals("accept_redirects and src_valid_mark", SLOWLY, |_| {
        set("accept_redirects", "1");
        set("src_valid_mark", "0");
    });
    for (name, value) in [
        ("ip_forward", "1"),
        ("ip_forward", "0"),
        ("conf/up0/forwarding", "0"),
        ("conf/lan0/forwarding", "0"),
    ] {
        let broken = |world: &World| world.node.set_sysctl(&format!("net/ipv4/{name}"), value);
        scene.heals(&format!("{name} {value}"), SOON, broken);
        let wanted = if name == "ip_forward" { value } else { "0" };
        assert_eq!(scene.world.node.sysctl("net/ipv4/ip_forward"), wanted, "it is not ours");
    }
});

on_every_firewall!(deleted_tap_is_recreated, |world| {
    let scene = Scene::new(world);
    let Scene { function, daemon, probe, connection, _long, .. } = scene;
    let nic = function.guest.nic.clone();
    world.node.tool(&["ip", "link", "delete", &nic.interface]);
    // The VMM must be restarted, and its connections are gone.
    drop(function);
    wait_for("the TAP to be there", SOON, || {
        let check = daemon.get("/v1/check");
        check["steps"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    let _again = Function::start(world, nic, &[(Transport::Tcp, 3000)]);
    probe.wait_for(3, SOON);
    connection.assert_alive();
});

on_every_firewall!(masquerading_follows_the_default_route, |world| {
    let scene = Scene::new(world);
    let from = |world: &World| {
        // A name server: the other network is private.
        let server = crate::world::traffic::tcp_server(&world.other, (crate::world::OTHER, 53));
        let seen = crate::world::traffic::tcp_ask(
            &scene.function.guest.namespace,
            (crate::world::OTHER, 53),
        );
        drop(server);
        seen.map(|answer| answer.client.ip().to_string())
    };
    assert!(from(world).is_err(), "only the uplink is the Internet");
    scene.heals("another default route", SOON, |world| {
        let via = crate::world::OTHER.to_string();
        world.node.tool(&["ip", "route", "replace", "default", "via", &via]);
    });
    let seen = wait_for("the guest to get out by the new uplink", SOON, || from(world).ok());
    assert_eq!(seen, crate::world::NODE_OTHER.to_string());
});

#[test]
#[expect(clippy::disallowed_methods, reason = "the fight takes its time")]
fn repeated_repairs_back_off() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    let before = scene.daemon.processor_time();
    let fight = duration_of(|| {
        for _ in 0..100 {
            // The table may not exist at that moment.
            let _refused = world.node.feed(&["nft", "delete", "table", "inet", "riklet"], "");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let spent = scene.daemon.processor_time() - before;
    assert!(scene.daemon.events().contains("backing-off"));
    assert!(spent < fight.as_secs_f64() / 2.0, "{spent} s of {fight:?}");
    scene.probe.wait_for(3, Duration::from_secs(90));
}

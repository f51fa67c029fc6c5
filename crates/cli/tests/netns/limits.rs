//! The limits of a function's traffic.

use std::{
    io::{Read, Write},
    net::Shutdown,
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::{
    Firewall, INTERNET, NODE_LAN, World,
    function::{Function, exposure, function},
    on_every_firewall,
    random::Random,
    state::{SystemState, assert_same},
    traffic::{Connection, PATIENCE, UdpClient, tcp_ask, udp_server},
    transport::Transport::Tcp,
    wait::duration_of,
    wait_for,
};

/// The port of the function, inside and at the node.
const INSIDE: u16 = 3000;
const PORT: u16 = 8080;
/// Longer than the pause between two looks of the daemon at what the kernel does not report, on a busy machine.
const SLOWLY: Duration = Duration::from_secs(25);

/// Returns a function that is published, with these limits.
fn limited(name: &str, port: u16, limits: &Value) -> Value {
    let mut definition = function(name, &[exposure(Tcp, port, INSIDE)]);
    if !limits.is_null() {
        definition["spec"]["function"]["network"] = json!({ "limits": limits });
    }
    definition
}

/// Starts a function with these limits.
fn start(world: &World, name: &str, port: u16, limits: &Value) -> Function {
    let [function] = world.start([(limited(name, port, limits), &[])]);
    function
}

/// Connects the client to the function: what the client sends is limited by `ingress`, what the guest sends by `egress`.
fn connect(world: &World, function: &Function) -> Connection {
    let at = (function.address(), INSIDE);
    Connection::new(&world.client, (NODE_LAN, PORT), &function.guest.namespace, at)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToGuest,
    FromGuest,
}

impl Way {
    const BOTH: [Self; 2] = [Self::ToGuest, Self::FromGuest];

    /// Returns the interface whose bucket limits this way.
    fn interface(self, function: &Function) -> String {
        let tap = &function.guest.nic.interface;
        match self {
            Self::ToGuest => tap.clone(),
            Self::FromGuest => format!("{tap}-egress"),
        }
    }
}

/// Returns our bucket at an interface as `tc` shows it, if there is one.
fn bucket(world: &World, interface: &str) -> Option<Value> {
    let shown = world.node.feed(&["tc", "-s", "-j", "qdisc", "show", "dev", interface], "");
    let shown: Vec<Value> = serde_json::from_str(&shown.stdout).unwrap_or_default();
    shown.into_iter().find(|one| one["kind"] == "tbf")
}

/// Returns the bits a second of the bucket at an interface; `None` if there is none.
fn rate(world: &World, interface: &str) -> Option<u64> {
    bucket(world, interface)?["options"]["rate"].as_u64().map(|bytes| bytes * 8)
}

/// Asserts that these are the rates of a function, in bits a second.
#[track_caller]
fn assert_rates(world: &World, tap: &str, egress: Option<u64>, ingress: Option<u64>) {
    assert_eq!(rate(world, tap), ingress, "{tap}");
    assert_eq!(rate(world, &format!("{tap}-egress")), egress, "{tap}");
    let links = world.node.tool(&["ip", "link"]);
    assert_eq!(links.contains(&format!("{tap}-egress")), egress.is_some(), "{links}");
}

/// Sends this many bytes one way, and returns the time until the last has arrived.
#[track_caller]
fn transfer(connection: &Connection, way: Way, bytes: usize) -> Duration {
    let Connection { client, server } = connection;
    let (mut from, mut to) = match way {
        Way::ToGuest => (client, server),
        Way::FromGuest => (server, client),
    };
    to.set_read_timeout(Some(PATIENCE * 4)).expect("a timeout above zero");
    duration_of(|| {
        thread::scope(|scope| {
            scope.spawn(move || from.write_all(&vec![7; bytes]).expect("it is sent"));
            to.read_exact(&mut vec![0; bytes]).expect("it arrives");
        });
    })
}

/// Asserts that no more passes than the rate allows, and that what holds it back is the bucket. However busy the machine is, it
/// only makes the transfer longer.
#[track_caller]
fn assert_limited(
    world: &World,
    function: &Function,
    connection: &Connection,
    way: Way,
    bits: u64,
) {
    let interface = way.interface(function);
    let counted =
        |what: &str| bucket(world, &interface).expect("a bucket")[what].as_u64().unwrap_or(0);
    let (held, passed) = (counted("overlimits"), counted("bytes"));
    // More than a second and a half, and what may pass at once is a fiftieth of that.
    let bytes = usize::try_from(bits / 8 * 3 / 2).expect("few");
    let took = transfer(connection, way, bytes).as_secs_f64();
    let least = 1.5 / 1.05 - 0.02;
    assert!(took >= least, "{way:?}: {bytes} bytes passed in {took:.2} s, less than {least:.2} s");
    assert!(counted("overlimits") > held, "{way:?}: the bucket held nothing back");
    assert!(counted("bytes") - passed >= bits / 8 * 3 / 2, "{way:?}: they took another way");
}

on_every_firewall!(a_guest_is_sent_and_sends_no_more_than_its_rates, |world| {
    let limits = json!({ "egress": "16Mbit", "ingress": "24Mbit" });
    let web = start(world, "web", PORT, &limits);
    assert_rates(world, &web.guest.nic.interface, Some(16_000_000), Some(24_000_000));
    let connection = connect(world, &web);
    assert_limited(world, &web, &connection, Way::ToGuest, 24_000_000);
    assert_limited(world, &web, &connection, Way::FromGuest, 16_000_000);
    // What the guest begins is limited as well.
    let at = (INTERNET, 7000);
    let out = Connection::new(&web.guest.namespace, at, &world.internet, at);
    let out = Connection { client: out.server, server: out.client };
    assert_limited(world, &web, &out, Way::FromGuest, 16_000_000);
    world.riklet(&["check"], "").success();
});

on_every_firewall!(a_guest_at_its_limit_holds_nobody_else_back, |world| {
    let attacker =
        start(world, "attacker", PORT, &json!({ "egress": "8Mbit", "ingress": "8Mbit" }));
    let [other] =
        world.start([(function("other", &[exposure(Tcp, 8090, INSIDE)]), &[(Tcp, INSIDE)])]);
    let echo = udp_server(&world.internet, (INTERNET, 7000));
    let connection = connect(world, &attacker);
    let Connection { client, server } = &connection;
    thread::scope(|scope| {
        // It sends and is sent as much as it can, until the other guest has had its turn.
        let floods = [(client, server), (server, client)].map(|(mut from, mut to)| {
            scope.spawn(move || while from.write_all(&[7; 4096]).is_ok() {});
            scope.spawn(move || while to.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {})
        });
        for way in Way::BOTH {
            let interface = way.interface(&attacker);
            wait_for(&format!("a queue at {interface}"), PATIENCE, || {
                let waiting = bucket(world, &interface)?["backlog"].as_u64()?;
                (waiting > 0).then_some(())
            });
        }
        let guest = &other.guest.namespace;
        for _ in 0..20 {
            tcp_ask(&world.client, (NODE_LAN, 8090)).expect("another guest answers");
            UdpClient::new(guest, echo.address).try_ask(PATIENCE).expect("and is answered");
        }
        // Much more than the limit of the attacker allows in the meantime.
        let at = (INTERNET, 7001);
        let through = Connection::new(guest, at, &world.internet, at);
        let took = transfer(&through, Way::ToGuest, 16 << 20);
        let allowed = 1_000_000.0 * took.as_secs_f64();
        assert!(allowed < f64::from(16 << 20), "{took:?}, with a limit that it does not have");
        for stream in [client, server] {
            stream.shutdown(Shutdown::Both).expect("a connection");
        }
        for flood in floods {
            flood.join().expect("no panic");
        }
    });
});

on_every_firewall!(rates_are_changed_live_and_removed, |world| {
    let up = |limits: &Value| drop(world.up(&[limited("web", PORT, limits)]));
    let web = start(world, "web", PORT, &Value::Null);
    let tap = &web.guest.nic.interface;
    let number = || {
        let link = world.node.tool(&["ip", "-o", "link", "show", "dev", tap]);
        link.split(':').next().map(str::to_owned)
    };
    let before = number();
    assert_rates(world, tap, None, None);
    let connection = connect(world, &web);
    connection.assert_alive();
    let mbit = |rate: u64| json!(format!("{rate}Mbit"));
    for (egress, ingress) in [
        (Some(16), None),
        (Some(32), Some(16)),
        (Some(8), Some(32)),
        (None, Some(16)),
        (None, None),
    ] {
        let mut limits = json!({});
        for (name, rate) in [("egress", egress), ("ingress", ingress)] {
            if let Some(rate) = rate {
                limits[name] = mbit(rate);
            }
        }
        up(&limits);
        let [bits_out, bits_in] = [egress, ingress].map(|rate| rate.map(|rate| rate * 1_000_000));
        assert_rates(world, tap, bits_out, bits_in);
        connection.assert_alive();
        for (way, bits) in [(Way::FromGuest, bits_out), (Way::ToGuest, bits_in)] {
            match bits {
                Some(bits) => assert_limited(world, &web, &connection, way, bits),
                None => drop(transfer(&connection, way, 1 << 20)),
            }
        }
        assert_eq!(world.riklet(&["check"], "").success(), "");
        assert_eq!(number(), before, "the TAP is the same");
    }
});

on_every_firewall!(limits_go_with_their_function, |world| {
    let before = SystemState::take(&world.node);
    let limits = json!({ "egress": "50Mbit", "ingress": "1Gbit" });
    for purge in [false, true] {
        world.up(&[limited("web", PORT, &limits), limited("plain", 8090, &Value::Null)]);
        assert_rates(world, "rik0", Some(50_000_000), Some(1_000_000_000));
        assert_rates(world, "rik1", None, None);
        // The slot's next function has no limits.
        world.down(&["web"]);
        let web = start(world, "next", PORT, &Value::Null);
        assert_eq!(web.guest.nic.interface, "rik0");
        assert_rates(world, "rik0", None, None);
        connect(world, &web).assert_alive();
        drop(web);
        // An interface that somebody else deletes leaves its twin.
        world.up(&[limited("next", PORT, &limits)]);
        world.node.tool(&["ip", "link", "delete", "rik0"]);
        let seen = world.riklet(&["check"], "");
        assert_eq!(seen.code, Some(1), "{seen}");
        if purge {
            world.riklet(&["repair"], "").success();
            assert_rates(world, "rik0", Some(50_000_000), Some(1_000_000_000));
            world.node.tool(&["ip", "link", "delete", "rik0"]);
        }
        world.riklet(&["down", "--all", "--purge"], "").success();
        assert_same(&before, &SystemState::take(&world.node));
    }
});

on_every_firewall!(damaged_limits_are_drift_and_are_repaired, |world| {
    let limits = json!({ "egress": "50Mbit", "ingress": "1Gbit" });
    world.up(&[limited("web", PORT, &limits)]);
    for (damage, drift) in [
        ("tc qdisc del dev rik0 root", "~ TAP rik0: ingress 1Gbit\n"),
        ("tc qdisc del dev rik0-egress root", "~ TAP rik0: egress 50Mbit\n"),
        ("ip link del rik0-egress", "~ TAP rik0: egress 50Mbit\n"),
        ("tc qdisc del dev rik0 clsact", "~ TAP rik0: egress 50Mbit\n~ TAP rik0: guard\n"),
    ] {
        world.node.tool(&damage.split(' ').collect::<Vec<_>>());
        let seen = world.riklet(&["check"], "");
        assert_eq!((seen.code, seen.stdout.as_str()), (Some(1), drift), "{damage}: {seen}");
        world.riklet(&["repair"], "").success();
        assert_eq!(world.riklet(&["check"], "").success(), "", "{damage}");
        assert_rates(world, "rik0", Some(50_000_000), Some(1_000_000_000));
    }
    // Records that are lost are rebuilt with the limits.
    world.node.tool(&["rm", "-r", &world.environment["RIKLET_SDN_STATE_DIR"]]);
    world.riklet(&["repair", "--rebuild"], "").success();
    assert_rates(world, "rik0", Some(50_000_000), Some(1_000_000_000));
    assert_eq!(world.riklet(&["check"], "").success(), "");
});

on_every_firewall!(the_daemon_restores_limits, |world| {
    let daemon = world.daemon(&[]);
    let limits = json!({ "egress": "50Mbit", "ingress": "1Gbit" });
    let web = start(world, "web", PORT, &limits);
    let tap = web.guest.nic.interface.clone();
    daemon.wait_until_idle();
    let connection = connect(world, &web);
    for damage in
        ["ip link del TAP-egress", "tc qdisc del dev TAP root", "ip link set TAP-egress down"]
    {
        let damage = damage.replace("TAP", &tap);
        world.node.tool(&damage.split(' ').collect::<Vec<_>>());
        wait_for(&format!("the end of {damage:?}"), SLOWLY, || {
            let check = daemon.get("/v1/check");
            let rates = (rate(world, &tap), rate(world, &format!("{tap}-egress")));
            let whole = rates == (Some(1_000_000_000), Some(50_000_000));
            (whole && check["steps"].as_array().is_some_and(Vec::is_empty)).then_some(())
        });
        connection.assert_alive();
    }
    // Slots that the daemon has ready have no limits, and a draining one takes its twin along.
    world.up(&[limited("web", PORT, &json!({}))]);
    assert_rates(world, &tap, None, None);
    world.up(&[limited("web", PORT, &json!({ "egress": "50Mbit" }))]);
    drop((web, connection));
    world.down(&["web"]);
    wait_for("the twin to be gone", SLOWLY, || {
        (!world.node.tool(&["ip", "link"]).contains("-egress")).then_some(())
    });
    daemon.wait_until_idle();
    world.riklet(&["check"], "").success();
});

on_every_firewall!(a_killed_command_leaves_no_half_of_a_limit, |world| {
    let mut random = Random::new();
    let before = SystemState::take(&world.node);
    let limits = [
        json!({}),
        json!({ "egress": "50Mbit" }),
        json!({ "egress": "8Mbit", "ingress": "9Mbit" }),
    ];
    let usual = duration_of(|| drop(world.up(&[limited("web", PORT, &limits[2])])));
    for _ in 0..20 {
        let arguments = if random.below(3) == 0 { ["down", "web"] } else { ["up", "-"] };
        let definition = limited("web", PORT, random.pick(&limits)).to_string();
        let running = world.riklet_in_background(&arguments, &definition);
        if !running.ends_within(random.part_of(usual)) {
            running.signal(Signal::KILL);
        }
        let _ended = running.wait();
        world.riklet(&["repair"], "").success();
        assert_eq!(world.riklet(&["check"], "").success(), "");
        // The alias names the limits that the record has.
        let links = world.node.tool(&["ip", "link"]);
        let twins = usize::from(links.contains("limits:"));
        assert_eq!(links.matches("-egress:").count(), twins, "{links}");
    }
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
});

#[test]
fn wrong_limits_are_refused_whole() {
    let world = &World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let good = limited("good", 8090, &json!({ "egress": "8kbit" }));
    for (limits, reason) in [
        (
            json!({ "egress": "100Mb" }),
            "spec.function.network.limits.egress: \"100Mb\" is not a rate",
        ),
        (
            json!({ "ingress": "11Gbit" }),
            "limits.ingress: 11Gbit is out of range; rates are 8kbit to 10Gbit",
        ),
        (json!({ "egres": "1Gbit" }), "limits.egres: unknown field; did you mean \"egress\"?"),
    ] {
        let both = Value::from(vec![good.clone(), limited("web", PORT, &limits)]).to_string();
        let refused = world.riklet(&["up", "-"], &both).failure(2);
        assert!(refused.contains(reason), "{refused}");
    }
    assert_same(&before, &SystemState::take(&world.node));
}

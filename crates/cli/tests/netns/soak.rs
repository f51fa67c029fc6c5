//! Many clients, a hostile firewall and a daemon that is killed again and again: nothing leaks, nothing is lost, and
//! memory does not grow. `scripts/soak` runs this for longer.

use std::{
    collections::BTreeMap,
    env, thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::world::{
    Firewall, World,
    daemon::{Api, Daemon},
    function::{exposure, function},
    random::Random,
    state::{SystemState, assert_same},
    transport::Transport,
    wait_for,
};

/// The default duration, in seconds.
const SECONDS: u64 = 20;
const CLIENTS: u16 = 16;
/// The number of names that each client uses, and of its ports.
const NAMES: u16 = 6;
const PORTS: u16 = 10;
/// The time for which the daemon may be away.
const AWAY: Duration = Duration::from_secs(30);

/// The functions that a client has brought up: the port of each name.
type Model = BTreeMap<String, u16>;

#[test]
#[expect(clippy::disallowed_methods, reason = "it goes on for as long as it was told")]
fn nothing_leaks_and_nothing_is_lost() {
    let seconds = env::var("RIKLET_SDN_SOAK").ok().and_then(|text| text.parse().ok());
    let limit = Duration::from_secs(seconds.unwrap_or(SECONDS));
    let world = &World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let first = world.daemon(&[]);
    let api: &Api = &first.clone_api();
    let end = Instant::now() + limit;
    let mut random = Random::new();
    let (mut flushes, mut kills, mut memory) = (0, 0, Vec::new());
    let (daemon, models): (Daemon, Vec<(usize, Model)>) = thread::scope(|scope| {
        let mut daemon = first;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let random = random.split();
                scope.spawn(move || client(api, number, random, end))
            })
            .collect();
        while Instant::now() < end {
            thread::sleep(random.part_of(Duration::from_secs(2)));
            match random.below(6) {
                0 => {
                    daemon = restarted(world, daemon, &mut memory);
                    kills += 1;
                }
                1 => drop(world.node.feed(&["nft", "delete", "table", "inet", "riklet"], "")),
                2 => drop(world.node.feed(&["ip", "link", "set", "rik1", "down"], "")),
                _ => {
                    world.node.tool(&["nft", "flush", "ruleset"]);
                    flushes += 1;
                }
            }
        }
        let models = clients.into_iter().map(|client| client.join().expect("no panic"));
        (daemon, models.collect())
    });
    let operations: usize = models.iter().map(|(operations, _)| operations).sum();
    let model: Model = models.into_iter().flat_map(|(_, model)| model).collect();
    daemon.wait_until_idle();
    assert_model(world, &daemon, &model);
    report(operations, flushes, kills, &model, &memory);
    let reply = daemon.ask("DELETE", "/v1/functions?all=true&purge=true", "");
    assert_eq!(reply.status, 200, "{reply:?}");
    daemon.end(Signal::TERM);
    assert_same(&before, &SystemState::take(&world.node));
}

/// Kills the daemon, and starts another.
fn restarted(world: &World, daemon: Daemon, memory: &mut Vec<u64>) -> Daemon {
    memory.push(daemon.resident_kib());
    daemon.end(Signal::KILL);
    world.daemon(&[])
}

/// Brings functions up, changes them and takes them down at random. Returns the number of operations, and the
/// functions that are up at the end.
#[expect(clippy::disallowed_methods, reason = "it goes on until then")]
fn client(api: &Api, number: u16, mut random: Random, end: Instant) -> (usize, Model) {
    let (mut operations, mut model) = (0, Model::new());
    while Instant::now() < end {
        let name = format!("f{number}-{}", random.below(usize::from(NAMES)));
        let path = format!("/v1/functions/{name}");
        let offset = u16::try_from(random.below(usize::from(PORTS))).expect("a small number");
        let port = 20_000 + number * PORTS + offset;
        let taken = model.iter().any(|(other, held)| *other != name && *held == port);
        if random.below(3) > 0 {
            let definition = function(&name, &[exposure(Transport::Tcp, port, 3000)]).to_string();
            let status = asked(api, "PUT", &path, &definition);
            assert_eq!(status, if taken { 409 } else { 200 }, "PUT {path} port {port}");
            if !taken {
                model.insert(name, port);
            }
        } else {
            let status = asked(api, "DELETE", &path, "");
            // A repeated request gets 404 if the answer to the first one was lost with the daemon.
            assert!(matches!(status, 200 | 404), "DELETE {path}: {status}");
            model.remove(&name);
        }
        operations += 1;
    }
    (operations, model)
}

/// Repeats a request until it is answered: the daemon may be away, or may be killed meanwhile. Every request may be
/// repeated.
fn asked(api: &Api, method: &str, path: &str, body: &str) -> u16 {
    wait_for("the daemon to answer", AWAY, || {
        let reply = api.try_ask(method, path, body).ok()?;
        // A daemon that is stopping answers 503.
        (reply.status != 0 && reply.status != 503).then_some(reply.status)
    })
}

/// Asserts that the records, the kernel and the model agree.
#[track_caller]
fn assert_model(world: &World, daemon: &Daemon, model: &Model) {
    let listed = daemon.get("/v1/functions");
    let listed = listed.as_array().expect("a list").iter().map(|listed| {
        let name = listed["name"].as_str().expect("a name").to_owned();
        assert_eq!(listed["link"], "ready", "{listed}");
        let port = listed["exposures"][0]["port"].as_u64().expect("a port");
        (name, u16::try_from(port).expect("a port"))
    });
    assert_eq!(&listed.collect::<Model>(), model);
    let taps = world.node.tool(&["ip", "-oneline", "link", "show"]).matches(": rik").count();
    assert_eq!(taps, model.len() + 4, "each function's TAP and the warm ones");
    let elements = world.node.tool(&["nft", "list", "map", "inet", "riklet", "exposures"]);
    assert_eq!(elements.matches("tcp . ").count(), model.len(), "{elements}");
    for port in model.values() {
        assert!(elements.contains(&format!("tcp . {port} : ")), "{port}: {elements}");
    }
    let count = daemon.get("/v1/health");
    assert_eq!(count["functions"], model.len(), "{count}");
}

#[expect(clippy::print_stderr, reason = "what it came through is worth knowing")]
fn report(operations: usize, flushes: usize, kills: usize, model: &Model, memory: &[u64]) {
    eprintln!(
        "{operations} operations, {flushes} flushes, {kills} kills; {} functions at the end; resident before each kill: \
         {memory:?} KiB",
        model.len()
    );
    let least = memory.iter().min().copied().unwrap_or_default();
    let most = memory.iter().max().copied().unwrap_or_default();
    assert!(most <= least + 16 * 1024, "memory grows: {memory:?} KiB");
}

//! Concurrent histories over every path to the records: the API, the program through the daemon, the program without
//! it, supervised runs, and a second daemon. The daemon and the programs are killed and paused meanwhile. The history of
//! each name must be linearizable: an acknowledged operation is never lost, and nobody reads what is no longer so.

mod checker;
mod paths;

use std::{
    collections::BTreeMap,
    env, mem,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::world::{
    Firewall, World,
    daemon::{Api, Daemon},
    random::Random,
    state::{SystemState, assert_same},
    wait_for,
};
use checker::{Call, Effect, Value, check};
use paths::{Answer, Path};

const NAMES: [&str; 4] = ["f0", "f1", "f2", "f3"];
const CLIENTS: usize = 5;
/// The number of calls of each client between two moments of rest.
const CALLS: usize = 10;
/// The ports of each name: no two writes of one name write the same, so that a read tells which of them it saw.
const PORTS: u64 = 10_000;
/// The longest time for which a process is paused.
const PAUSE: Duration = Duration::from_millis(300);
/// The longest time that a run takes to become ready, or to fail, and to end.
const REST: Duration = Duration::from_secs(20);

/// The calls so far, and what each name's register held at the last moment of rest.
#[derive(Debug, Default)]
struct History {
    /// Numbers the events.
    clock: AtomicU64,
    /// Numbers the values.
    values: AtomicU64,
    calls: Mutex<BTreeMap<&'static str, Vec<Call>>>,
    answers: Mutex<BTreeMap<String, usize>>,
}

impl History {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Returns a port for this name that no call has used since the last 10,000.
    fn new_port(&self, name: &str) -> u16 {
        let place = NAMES.iter().position(|known| *known == name).expect("a known name");
        let number = self.values.fetch_add(1, Ordering::SeqCst) % PORTS;
        let port = 10_000 + u64::try_from(place).expect("few names") * PORTS + number;
        u16::try_from(port).expect("fewer than 65,536")
    }

    /// Makes a call, and records it with its answer.
    fn call(&self, name: &'static str, words: &str, make: impl FnOnce() -> Answer) {
        let invoked = self.now();
        let answer = make();
        let now = self.now();
        *self
            .answers
            .lock()
            .expect("no panic")
            .entry(format!("{words}: {}", answer.kind()))
            .or_default() += 1;
        let words = format!("{words}: {answer:?}");
        let call = |effect, returned| Call { words: words.clone(), effect, invoked, returned };
        let calls = match answer {
            Answer::Written(value) => vec![call(Effect::Write(value), Some(now))],
            Answer::Read(value) => vec![call(Effect::Read(value), Some(now))],
            Answer::Unknown(values) => {
                values.into_iter().map(|value| call(Effect::Write(value), None)).collect()
            }
            Answer::Refused => vec![],
        };
        self.calls.lock().expect("no panic").entry(name).or_default().extend(calls);
    }
}

/// Returns the time for which the histories go on: that of the soak, if it was asked for.
#[expect(clippy::disallowed_methods, reason = "it goes on for as long as it was told")]
fn duration(default: u64) -> Duration {
    let asked = env::var("RIKLET_SDN_SOAK").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(default))
}

#[test]
fn histories_are_linearizable_on_nftables() {
    histories_are_linearizable(Firewall::Nftables, duration(15));
}

#[test]
fn histories_are_linearizable_on_iptables_nft() {
    histories_are_linearizable(Firewall::IptablesNft, duration(8));
}

#[test]
fn histories_are_linearizable_on_iptables_legacy() {
    histories_are_linearizable(Firewall::IptablesLegacy, duration(8));
}

#[expect(clippy::disallowed_methods, reason = "it goes on for as long as it was told")]
fn histories_are_linearizable(firewall: Firewall, limit: Duration) {
    let world = &World::new(firewall);
    let before = SystemState::take(&world.node);
    let mut random = Random::new();
    let mut daemon = world.daemon(&[]);
    let history = History::default();
    let mut held: BTreeMap<&str, Value> = NAMES.map(|name| (name, None)).into();
    let end = Instant::now() + limit;
    let mut checked = 0;
    while Instant::now() < end {
        daemon = play(world, daemon, &history, &mut random);
        rest(world, &daemon);
        for (name, mut calls) in mem::take(&mut *history.calls.lock().expect("no panic")) {
            let last = paths::read_alone(world, name);
            let (invoked, returned) = (history.now(), Some(history.now()));
            let words = "list at rest".to_owned();
            calls.push(Call { words, effect: Effect::Read(last), invoked, returned });
            check(held[name], &calls).unwrap_or_else(|complaint| panic!("{name}: {complaint}"));
            checked += calls.len();
            held.insert(name, last);
        }
        world.assert_in_step_beside_ready_slots();
    }
    report(&history, checked);
    daemon.end(Signal::TERM);
    world.riklet(&["stop", "--all"], "").success();
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
}

/// Has each client make its calls, while the daemon is killed and paused.
fn play(world: &World, daemon: Daemon, history: &History, random: &mut Random) -> Daemon {
    let api = &daemon.clone_api();
    let at_work = &AtomicBool::new(true);
    thread::scope(|scope| {
        let mut own = random.split();
        let disturbed = scope.spawn(move || {
            let mut daemon = daemon;
            while at_work.load(Ordering::Relaxed) {
                pause(&mut own);
                daemon = disturb(world, daemon, history, &mut own);
            }
            daemon
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let random = random.split();
                scope.spawn(move || client(world, api, history, random))
            })
            .collect();
        let ends: Vec<_> = clients.into_iter().map(thread::ScopedJoinHandle::join).collect();
        at_work.store(false, Ordering::Relaxed);
        let daemon = disturbed.join().expect("no panic");
        for end in ends {
            end.expect("no panic");
        }
        daemon
    })
}

fn client(world: &World, api: &Api, history: &History, mut random: Random) {
    let mut name = *random.pick(&NAMES);
    let mut again = false;
    for _ in 0..CALLS {
        // A function that was just taken down comes back at once, mostly by another path: the daemon commits later.
        if !again {
            name = *random.pick(&NAMES);
        }
        // Half of the names are not supervised, since little can be done to a function that runs.
        let paths = if NAMES[..2].contains(&name) { &Path::ALL[..3] } else { &Path::ALL };
        let path = *random.pick(paths);
        let (number, port) = (random.below(6), history.new_port(name));
        let brings_up = again || number < 2;
        again = !again && number >= 4;
        if brings_up {
            let words = format!("up by {path:?}");
            history.call(name, &words, || path.up(world, api, name, port, &mut random));
        } else if again {
            let words = format!("down by {path:?}");
            history.call(name, &words, || path.down(world, api, name, &mut random));
        } else {
            let words = format!("read by {path:?}");
            history.call(name, &words, || path.read(world, api, name));
        }
    }
}

/// Kills or pauses the daemon, overtakes it, or tries to start a second one beside it.
fn disturb(world: &World, daemon: Daemon, history: &History, random: &mut Random) -> Daemon {
    match random.below(5) {
        0 => {
            daemon.end(Signal::KILL);
            // The programs work without a daemon meanwhile.
            pause(random);
            return world.daemon(&[]);
        }
        1 => {
            daemon.signal(Signal::STOP);
            pause(random);
            daemon.signal(Signal::CONT);
        }
        2 => {
            let socket = world.directory.path().join("second.sock");
            let socket = socket.to_str().expect("UTF-8");
            let refused = world.riklet(&["--api", socket, "serve"], "").failure(1);
            assert!(refused.contains("a daemon is already running for "), "{refused}");
        }
        _ => overtake(world, &daemon, history, random),
    }
    daemon
}

/// Lets a random time go by.
#[expect(
    clippy::disallowed_methods,
    reason = "moments are random, so that every order of events comes"
)]
fn pause(random: &mut Random) {
    thread::sleep(random.part_of(PAUSE));
}

/// Takes a function down by the API, and has a program bring it up again while the daemon, which has answered, is
/// paused: what it has not written yet must not concern the new record.
fn overtake(world: &World, daemon: &Daemon, history: &History, random: &mut Random) {
    let name = NAMES[random.below(2)];
    history.call(name, "down by the API, and a pause", || {
        let answer = Path::Api.down(world, daemon, name, random);
        daemon.signal(Signal::STOP);
        answer
    });
    let port = history.new_port(name);
    history.call(name, "up by Alone, during the pause", || {
        let running = Path::Alone.start_up(world, name, port);
        // The daemon may have the lock that the program needs.
        let _ = running.ends_within(PAUSE);
        daemon.signal(Signal::CONT);
        paths::printed(&running.wait(), vec![Some(port)])
    });
}

/// Waits until every process has done what it began.
#[track_caller]
fn rest(world: &World, daemon: &Daemon) {
    wait_for("every run to be up or to have ended", REST, || {
        let runs = world.riklet(&["--output", "json", "ps"], "").success();
        let runs: Vec<Json> = serde_json::from_str(&runs).expect("JSON");
        let at_rest = |run: &Json| run["state"] == "running" || run["state"] == "ended";
        runs.iter().all(at_rest).then_some(())
    });
    daemon.wait_until_idle();
}

#[expect(clippy::print_stderr, reason = "what it came through is worth knowing")]
fn report(history: &History, checked: usize) {
    let answers = history.answers.lock().expect("no panic");
    let lines: Vec<_> =
        answers.iter().map(|(words, count)| format!("{count:>6}  {words}")).collect();
    eprintln!(
        "{checked} calls of a certain or possible effect; by path and answer:\n{}",
        lines.join("\n")
    );
}

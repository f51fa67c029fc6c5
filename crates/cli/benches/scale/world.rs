//! A node with a daemon, and a client connected to it by a cable.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use riklet_kernel::process::ProcessId;
use riklet_sdn::store::Store;

use super::guest::{Guest, Nic, Processor};
use crate::common::{
    daemon::{Daemon, PATIENCE},
    definition, enclosure,
    http::Client,
    namespace::Namespace,
    samples::{Cycles, Samples},
    wait_for,
};

/// The node's address on the cable to the client.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
/// The number of ready slots, unless noted otherwise: the program's own default.
pub(super) const READY_SLOTS: usize = 64;
/// The number of definitions in one request.
pub(super) const BATCH: usize = 100;
/// The processor that everything on the path of a new connection runs on.
pub(super) const LATENCY: Processor = Processor::Only(0);
const FIRST_PORT: usize = 10_000;

/// The namespaces of the node and the client, with a cable between them.
pub(super) struct Cable {
    pub(super) node: Namespace,
    pub(super) client: Namespace,
}

impl Cable {
    pub(super) fn new() -> Self {
        let (node, client) = (Namespace::new(), Namespace::new());
        let far = client.path();
        node.sh(&format!(
            "sysctl -q net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 && \
             ip link add lan0 type veth peer name eth0 netns {far} && \
             ip address add {NODE}/24 dev lan0 && ip link set lan0 up"
        ));
        client.sh(&format!(
            "ip address add 192.168.7.2/24 dev eth0 && ip link set eth0 up && \
             ip route add default via {NODE}"
        ));
        node.sh("ip route add default via 192.168.7.2");
        Self { node, client }
    }
}

/// The daemon's memory, in MiB (proc(5)).
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// The value of `VmRSS`.
    pub(super) resident: f64,
    /// The value of `RssAnon`.
    pub(super) anonymous: f64,
}

pub(super) struct World {
    pub(super) cable: Cable,
    state: PathBuf,
    backend: &'static str,
    ready_slots: usize,
    /// `None` only during a restart.
    daemon: Option<Daemon>,
    api: Client,
    /// The number of functions that are up.
    pub(super) present: usize,
}

impl World {
    pub(super) fn new(name: &str, backend: &'static str, ready_slots: usize) -> Self {
        let (cable, state) = (Cable::new(), enclosure::directory(name));
        let daemon = Daemon::start(&cable.node, &state, backend, ready_slots);
        let api = daemon.client();
        let mut world =
            Self { cable, state, backend, ready_slots, daemon: Some(daemon), api, present: 0 };
        world.wait_until_idle();
        world
    }

    /// Waits until nothing is under way: all ready slots exist, and everything that was taken down has gone.
    pub(super) fn wait_until_idle(&mut self) {
        let (ready_slots, wanted) = (self.ready_slots, self.present + self.ready_slots);
        wait_for("the daemon to be at rest", PATIENCE, || {
            let health = self.api.json("GET", "/v1/health", "");
            (health["readySlots"] == ready_slots && self.taps() == wanted).then_some(())
        });
    }

    /// Returns the number of TAPs of all kinds.
    pub(super) fn taps(&self) -> usize {
        let list = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        self.cable
            .node
            .run(list)
            .lines()
            .filter(|line| line.trim_start().starts_with("rik"))
            .count()
    }

    /// Records this many runs that this process supervises and that have not ended.
    pub(super) fn record_runs(&self, count: usize) {
        let supervisor = ProcessId::current().unwrap();
        let mut store = Store::open(&self.state).unwrap();
        let records = store.transaction().unwrap();
        for number in 0..count {
            let name = format!("run{number}").parse().unwrap();
            records.begin_run(&name, "builtin", supervisor, 0).unwrap();
        }
        records.commit().unwrap();
    }

    /// Brings functions up until there are this many, in requests of [`BATCH`]. Returns the time that each request
    /// took.
    pub(super) fn fill(&mut self, until: usize) -> Vec<Duration> {
        let mut times = Vec::new();
        while self.present < until {
            let count = BATCH.min(until - self.present);
            let numbers = self.present..self.present + count;
            let definitions: Vec<_> = numbers.map(|n| definition(&name(n), port(n))).collect();
            let body = format!("[{}]", definitions.join(","));
            times.push(self.api.timed("POST", "/v1/functions", &body));
            self.present += count;
        }
        times
    }

    /// Brings functions up until there are this many, with one request each, from this many clients at once. Returns
    /// the times at which the functions were up, measured from the start and in ascending order.
    pub(super) fn fill_in_parallel(&mut self, until: usize, clients: usize) -> Vec<Duration> {
        let daemon = self.daemon.as_ref().unwrap();
        let next = AtomicUsize::new(self.present);
        let connections: Vec<_> = (0..clients).map(|_| daemon.client()).collect();
        let started = Instant::now();
        let work = |mut connection: Client| {
            let mut ends = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= until {
                    return ends;
                }
                up(&mut connection, number);
                ends.push(started.elapsed());
            }
        };
        let mut ends: Vec<Duration> = thread::scope(|scope| {
            let threads: Vec<_> = connections
                .into_iter()
                .map(|connection| scope.spawn(move || work(connection)))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        ends.sort();
        self.present = until;
        ends
    }

    /// Brings this many more functions up one after the other, then down again. Waits beforehand until nothing is
    /// under way.
    pub(super) fn cycles(&mut self, count: usize, cycles: &mut Cycles) {
        self.wait_until_idle();
        let numbers = self.present..self.present + count;
        let ups: Vec<_> = numbers.clone().map(|number| up(&mut self.api, number)).collect();
        self.present += count;
        self.wait_until_idle();
        for (number, up) in numbers.zip(ups) {
            let target = format!("/v1/functions/{}", name(number));
            cycles.push(up, self.api.timed("DELETE", &target, ""));
        }
        self.present -= count;
    }

    /// Takes everything down. Returns the time to the answer, and the time until the kernel has only the TAPs of the
    /// ready slots.
    pub(super) fn down_all(&mut self) -> (Duration, Duration) {
        let started = Instant::now();
        let answered = self.api.timed("DELETE", "/v1/functions?all=true", "");
        self.present = 0;
        wait_for("nothing to be left", PATIENCE, || {
            // Pauses between looks, since listing thousands of interfaces keeps a processor busy.
            thread::sleep(Duration::from_millis(20));
            (self.taps() <= self.ready_slots).then_some(())
        });
        (answered, started.elapsed())
    }

    /// Stops the daemon as systemd does, and starts it again. Returns the time from exec to READY, and its memory
    /// then.
    pub(super) fn restart(&mut self) -> (Duration, Memory) {
        self.daemon.take().unwrap().stop();
        let daemon = Daemon::start(&self.cable.node, &self.state, self.backend, self.ready_slots);
        let took = daemon.start_took;
        self.api = daemon.client();
        self.daemon = Some(daemon);
        let memory = self.memory();
        let listed = self.api.json("GET", "/v1/functions", "");
        assert_eq!(listed.as_array().unwrap().len(), self.present);
        (took, memory)
    }

    /// Brings this many more functions up one after the other, and down again, whatever else is under way. Lists all after
    /// each `up`. Returns the times of the lists.
    pub(super) fn cycles_beside_others(&mut self, count: usize, cycles: &mut Cycles) -> Samples {
        let mut lists = Samples::default();
        for number in self.present..self.present + count {
            let up = up(&mut self.api, number);
            lists.push(self.api.timed("GET", "/v1/functions", ""));
            let target = format!("/v1/functions/{}", name(number));
            cycles.push(up, self.api.timed("DELETE", &target, ""));
        }
        lists
    }

    /// Returns a client of its own.
    pub(super) fn client(&self) -> Client {
        self.daemon.as_ref().unwrap().client()
    }

    pub(super) fn memory(&self) -> Memory {
        let id = self.daemon.as_ref().unwrap().id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
            kib / 1024.0
        };
        Memory { resident: field("VmRSS:"), anonymous: field("RssAnon:") }
    }

    /// Starts a guest for the function that was brought up last.
    pub(super) fn play_last(&mut self, processor: Processor) -> Guest {
        let target = format!("/v1/functions/{}", name(self.present - 1));
        Guest::attach(&self.cable.node, &Nic::of(&self.api.json("GET", &target, "")), processor)
    }

    /// Returns the address at which the function that was brought up last is published.
    pub(super) fn last_published(&self) -> SocketAddr {
        (NODE, u16::try_from(port(self.present - 1)).unwrap()).into()
    }

    /// Measures the time that the client waits for each connection to the function that was brought up last. Its guest
    /// must run on [`LATENCY`].
    pub(super) fn connect(&self, count: usize, samples: &mut Samples) {
        let target = self.last_published();
        self.cable.client.run(|| {
            LATENCY.take();
            for _ in 0..count {
                let started = Instant::now();
                let connection = TcpStream::connect(target).unwrap();
                samples.push(started.elapsed());
                drop(connection);
            }
        });
    }
}

fn up(api: &mut Client, number: usize) -> Duration {
    let name = name(number);
    api.timed("PUT", &format!("/v1/functions/{name}"), &definition(&name, port(number)))
}

fn name(number: usize) -> String {
    format!("f{number}")
}

fn port(number: usize) -> usize {
    FIRST_PORT + number
}

//! Measures the cost of one more function and of one more connection as the number of functions grows.

use std::time::Duration;

use super::{
    guest::Guest,
    world::{LATENCY, READY_SLOTS, World},
};
use crate::common::{
    plot::{Line, Plot},
    report::{Bound, Markdown},
    samples::{Cycles, Samples, millis, milliseconds, ratio},
};

const STEPS: [(usize, f64); 5] =
    [(1, 1.0), (10, 10.0), (100, 100.0), (1000, 1000.0), (10_000, 10_000.0)];
/// The number of steps on iptables, which ends at 1,000 functions: it checks its rules one by one.
const STEPS_OF_IPTABLES: usize = 4;
/// The number of turns of ups and downs. Each turn has fewer functions than there are ready slots.
const TURNS: usize = 5;
const TURN: usize = 20;
/// The number of turns of connections, then the number of connections in a turn.
const CONNECTION_TURNS: usize = 20;
const CONNECTIONS: usize = 50;

/// A node with a growing number of functions, and the results of each step.
struct Growing {
    world: World,
    steps: Vec<Step>,
}

struct Step {
    present: f64,
    cycles: Cycles,
    connections: Samples,
    /// Measurements on the node whose number of functions stays the same, taken in turn.
    few: Cycles,
    one: Samples,
}

/// Nodes whose number of functions stays the same. Each measurement is repeated on them in turn, so that other load on
/// the machine affects both alike.
struct Fixed {
    /// A node with ten functions.
    ten: World,
    /// A node with one function and its guest.
    one: World,
    _guest: Guest,
}

pub(crate) fn measure(report: &mut Markdown) {
    let mut ten = World::new("ten", "nftables", READY_SLOTS);
    ten.fill(10);
    let mut one = World::new("one", "nftables", READY_SLOTS);
    one.fill(1);
    let guest = one.play_last(LATENCY);
    let mut fixed = Fixed { ten, one, _guest: guest };
    let mut nftables = Growing::new("growing");
    for (step, present) in STEPS {
        nftables.grow(step, present, &mut fixed);
    }
    let nftables = nftables.end();
    let mut iptables =
        Growing { world: World::new("growing-iptables", "iptables", 0), steps: Vec::new() };
    for (step, present) in &STEPS[..STEPS_OF_IPTABLES] {
        iptables.grow_published(*step, *present, &fixed);
    }
    describe_operations(report, &nftables);
    describe_connections(report, &nftables, &iptables.end());
}

impl Growing {
    fn new(name: &str) -> Self {
        Self { world: World::new(name, "nftables", READY_SLOTS), steps: Vec::new() }
    }

    /// Brings up the missing functions, and measures.
    fn grow(&mut self, until: usize, present: f64, fixed: &mut Fixed) {
        self.grow_published(until, present, fixed);
        let step = self.steps.last_mut().unwrap();
        for _ in 0..TURNS {
            self.world.cycles(TURN, &mut step.cycles);
            self.world.wait_until_idle();
            fixed.ten.cycles(TURN, &mut step.few);
            fixed.ten.wait_until_idle();
        }
    }

    /// Brings up the missing functions, and measures connections only.
    fn grow_published(&mut self, until: usize, present: f64, fixed: &Fixed) {
        eprintln!("  {until} functions");
        self.world.fill(until);
        self.world.wait_until_idle();
        let guest = self.world.play_last(LATENCY);
        let mut connections = Samples::default();
        let mut one = Samples::default();
        for _ in 0..CONNECTION_TURNS {
            self.world.connect(CONNECTIONS, &mut connections);
            fixed.one.connect(CONNECTIONS, &mut one);
        }
        drop(guest);
        let (cycles, few) = (Cycles::default(), Cycles::default());
        self.steps.push(Step { present, cycles, connections, few, one });
    }

    /// Takes everything down, and returns the measurements.
    fn end(mut self) -> Vec<Step> {
        self.world.down_all();
        self.steps
    }
}

fn describe_operations(report: &mut Markdown, steps: &[Step]) {
    report.heading("One more, where many are");
    report.paragraph(&format!(
        "`PUT` and `DELETE` of one function through the API, with ready slots, with so many others present: {TURNS} turns of \
         {TURN} at each step, in turns with another node that has ten. A ratio is the median to that of the node with \
         ten in the same turns. This node has tracked the connections of the next section by then, and that one has not: the \
         kernel's masquerading looks through all that are tracked for each interface that goes down, and for each address \
         (`nf_nat_masquerade_inet_register_notifiers`), which is what a `down` waits for here."
    ));
    let row = |step: &Step| {
        let [up, up99, down, down99] = step.cycles.cells();
        let (cycles, few) = (&step.cycles, &step.few);
        let times = |of: &Samples, to: &Samples| format!("{:.2}", ratio(of.p50(), to.p50()));
        [
            step.present.to_string(),
            up,
            up99,
            times(&cycles.up, &few.up),
            down,
            down99,
            times(&cycles.down, &few.down),
        ]
    };
    let rows: Vec<_> = steps.iter().map(row).collect();
    let header = ["present", "up p50", "up p99", "ratio", "down p50", "down p99", "ratio"];
    report.table(header, &rows);
    Plot {
        title: "One more function",
        x: "functions present",
        y: "p50 (ms)",
        logarithmic: true,
        lines: vec![
            line("up", steps, |step| step.cycles.up.p50()),
            line("down", steps, |step| step.cycles.down.p50()),
        ],
    }
    .draw("operations.svg");
    report.picture("operations.svg", "Up and down with more and more functions present");
    let last = steps.last().unwrap();
    // No bound is stated for `down` yet: the kernel's masquerading slows it down as the number of tracked connections
    // grows.
    report.bound(
        "`up` p50 with 10,000 present to that with 10",
        Bound::AtMost(1.3),
        ratio(last.cycles.up.p50(), last.few.up.p50()),
        " times",
    );
}

fn describe_connections(report: &mut Markdown, nftables: &[Step], iptables: &[Step]) {
    report.heading("A new connection, where many are published");
    report.paragraph(&format!(
        "How long connect(2) takes a client in another namespace, over a cable (veth), to the port that was published \
         last, with so many published: {CONNECTION_TURNS} turns of {CONNECTIONS}, in turns with another node that \
         publishes one by nftables. The guest is another namespace, to which a thread carries frames from the TAP, as a \
         VMM does; it and the client run on one processor, since where a thread is woken matters more than what is \
         measured. iptables looks through its rules one by one, nftables looks up an element."
    ));
    let row = |backend: &str, step: &Step| {
        let (here, one) = (&step.connections, &step.one);
        [
            backend.to_owned(),
            step.present.to_string(),
            milliseconds(here.p50()),
            milliseconds(here.p99()),
            format!("{:.2}", ratio(here.p50(), one.p50())),
        ]
    };
    let rows: Vec<_> = nftables
        .iter()
        .map(|step| row("nftables", step))
        .chain(iptables.iter().map(|step| row("iptables", step)))
        .collect();
    report.table(["backend", "published", "p50", "p99", "ratio"], &rows);
    Plot {
        title: "A new connection through a published port",
        x: "ports published",
        y: "p50 (ms)",
        logarithmic: true,
        lines: vec![
            line("nftables", nftables, |step| step.connections.p50()),
            line("iptables", iptables, |step| step.connections.p50()),
        ],
    }
    .draw("connections.svg");
    report.picture("connections.svg", "A new connection with more and more published");
    let last = nftables.last().unwrap();
    report.bound(
        "new TCP connection with 10,000 published to that with 1, p50 (nftables)",
        Bound::AtMost(1.1),
        ratio(last.connections.p50(), last.one.p50()),
        " times",
    );
}

fn line(name: &'static str, steps: &[Step], of: impl Fn(&Step) -> Duration) -> Line {
    let points = steps.iter().map(|step| (step.present, millis(of(step)))).collect();
    Line { name, points }
}

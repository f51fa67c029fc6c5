//! Ten thousand functions: brings them all up, measures memory and a restart, and takes them all down.

use std::{iter, time::Duration};

use super::{
    kernel::Bare,
    world::{BATCH, Memory, READY_SLOTS, World},
};
use crate::common::{
    namespace::Namespace,
    plot::{Line, Plot},
    report::{Bound, Markdown},
    samples::{Samples, millis},
};

pub(super) const MANY: usize = 10_000;
const CLIENTS: usize = 16;
const RESTARTS: usize = 3;
const A_THOUSAND: usize = 1000;

/// One way to bring all functions up and down.
struct Way {
    name: &'static str,
    /// The time that each thousand took.
    thousands: Vec<Duration>,
    down: Duration,
    /// The time until nothing was left.
    gone: Duration,
}

impl Way {
    fn total(&self) -> Duration {
        self.thousands.iter().sum()
    }

    /// Returns the time of the last thousand divided by that of the first.
    fn growth(&self) -> f64 {
        let [first, .., last] = &self.thousands[..] else { unreachable!() };
        last.as_secs_f64() / first.as_secs_f64()
    }

    fn row(&self) -> [String; 7] {
        let seconds = |duration: Duration| format!("{:.2} s", duration.as_secs_f64());
        [
            self.name.to_owned(),
            seconds(self.total()),
            seconds(self.thousands[0]),
            seconds(self.thousands[self.thousands.len() - 1]),
            format!("{:.2}", self.growth()),
            seconds(self.down),
            seconds(self.gone),
        ]
    }

    fn line(&self) -> Line {
        let thousands = iter::successors(Some(1000.0), |x| Some(x + 1000.0));
        Line {
            name: self.name,
            points: thousands.zip(self.thousands.iter().map(|t| millis(*t))).collect(),
        }
    }
}

pub(crate) fn measure(report: &mut Markdown) {
    let mut world = World::new("batches", "nftables", READY_SLOTS);
    let thousands = of_batches(&world.fill(MANY));
    world.wait_until_idle();
    let mut memory = [world.memory(); 2];
    let mut restarts = Samples::default();
    for _ in 0..RESTARTS {
        let (took, after) = world.restart();
        restarts.push(took);
        memory[1] = after;
        world.wait_until_idle();
    }
    let (down, gone) = world.down_all();
    let batches = Way { name: "API, batches of 100", thousands, down, gone };
    drop(world);
    let kernel = alone();
    let parallel = parallel();
    describe(report, &[batches, parallel, kernel]);
    describe_rest(report, memory, &restarts);
}

fn of_batches(times: &[Duration]) -> Vec<Duration> {
    times.chunks(A_THOUSAND / BATCH).map(|thousand| thousand.iter().sum()).collect()
}

fn parallel() -> Way {
    let mut world = World::new("parallel", "nftables", READY_SLOTS);
    let ends = world.fill_in_parallel(MANY, CLIENTS);
    let mut thousands = Vec::new();
    let mut before = Duration::ZERO;
    for thousand in ends.chunks(A_THOUSAND) {
        let end = thousand[thousand.len() - 1];
        thousands.push(end.saturating_sub(before));
        before = end;
    }
    world.wait_until_idle();
    let (down, gone) = world.down_all();
    Way { name: "API, 16 clients, one each", thousands, down, gone }
}

fn alone() -> Way {
    Namespace::new().run(|| {
        let mut bare = Bare::new();
        bare.install_base_ruleset();
        let fragments = bare.fragments(0..u16::try_from(MANY).unwrap());
        let times: Vec<_> = fragments.chunks(BATCH).map(|batch| bare.up(batch)).collect();
        let gone = bare.down(&fragments);
        Way { name: "kernel alone", thousands: of_batches(&times), down: gone, gone }
    })
}

fn describe(report: &mut Markdown, ways: &[Way; 3]) {
    report.heading("Ten thousand functions");
    report.paragraph(&format!(
        "From nothing to {MANY} functions with one TCP port each: by `POST` of {BATCH} definitions at a time, by `PUT` of \
         one at a time from {CLIENTS} clients at once, and *kernel alone*: the same system calls in a loop without us (a \
         TAP created, one `send` of rtnetlink each, one nf_tables transaction for {BATCH}). Then all down by one `DELETE`: \
         until the answer, and until no TAP is left but the {READY_SLOTS} ready ones."
    ));
    let header = [
        "",
        "up in all",
        "first thousand",
        "last thousand",
        "ratio",
        "down to the answer",
        "to nothing left",
    ];
    report.table(header, &ways.each_ref().map(Way::row));
    Plot {
        title: "Bringing up 10,000 functions",
        x: "functions up",
        y: "time for the last thousand (ms)",
        logarithmic: false,
        lines: ways.iter().map(Way::line).collect(),
    }
    .draw("thousands.svg");
    report.picture("thousands.svg", "Time for each thousand");
    let [batches, _, kernel] = ways;
    let share = |total: Duration, kernel: Duration| {
        total.saturating_sub(kernel).as_secs_f64() / total.as_secs_f64()
    };
    let ours = share(batches.total(), kernel.total());
    report.paragraph(&format!(
        "In batches, ours is {ours:.2} of the total; the rest is the kernel's. Of taking all down, ours is {:.2}.",
        share(batches.gone, kernel.gone)
    ));
    report.limit("10,000 functions up in batches, from nothing", 12_000.0, batches.total());
    report.bound("the last thousand to the first", Bound::AtMost(2.0), batches.growth(), " times");
    report.bound("10,000 up in batches, our share of the total", Bound::AtMost(0.3), ours, "");
    report.limit("10,000 down to nothing left in the kernel", 6000.0, batches.gone);
}

fn describe_rest(report: &mut Markdown, memory: [Memory; 2], restarts: &Samples) {
    report.paragraph(&format!(
        "Stopped and started again {RESTARTS} times with these {MANY} up and no drift, the daemon is ready after {:.0} ms \
         (the median; from exec to `READY=1`). Its memory, of which the anonymous part is its own, and the rest the program \
         and mapped files:",
        millis(restarts.p50())
    ));
    let row = |when: &str, memory: Memory| {
        let mebibytes = |value: f64| format!("{value:.1} MiB");
        [when.to_owned(), mebibytes(memory.resident), mebibytes(memory.anonymous)]
    };
    let [grown, started] = memory;
    report.table(
        ["", "resident", "anonymous"],
        &[row("it brought them up", grown), row("it was started with them up", started)],
    );
    report.limit("start-up with 10,000 up, no drift", 1000.0, restarts.p50());
    report.bound(
        "the daemon's memory with 10,000 functions, whichever is more",
        Bound::AtMost(64.0),
        grown.resident.max(started.resident),
        " MiB",
    );
}

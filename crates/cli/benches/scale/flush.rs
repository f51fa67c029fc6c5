//! Measures the outage that a client sees after the firewall is flushed.

use std::{
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    guest::Processor,
    world::{READY_SLOTS, World},
};
use crate::common::{
    report::Markdown,
    samples::{Samples, milliseconds},
    wait_for,
};

const PRESENT: usize = 1000;
const ROUNDS: usize = 5;
/// The pause between two attempts of the client.
const PAUSE: Duration = Duration::from_millis(1);
/// The time after which an attempt counts as failed.
const PATIENCE: Duration = Duration::from_millis(20);
/// The minimum time for which the client runs before the flush, and after it.
const AROUND: Duration = Duration::from_millis(500);
/// Limits the wait for a repair.
const REPAIR: Duration = Duration::from_secs(30);

/// One connection attempt of the client.
#[derive(Clone, Copy)]
struct Attempt {
    started: Instant,
    ended: Instant,
    connected: bool,
}

pub(crate) fn measure(report: &mut Markdown) {
    let mut world = World::new("flush", "nftables", READY_SLOTS);
    world.fill(PRESENT);
    world.wait_until_idle();
    let guest = world.play_last(Processor::Any);
    let mut gaps = Samples::default();
    let mut from_flush = Samples::default();
    let mut failures = 0;
    for _ in 0..ROUNDS {
        let (flushed, attempts) = around_flush(&world);
        let (gap, back) = outage(flushed, &attempts);
        gaps.push(gap);
        from_flush.push(back);
        failures += attempts.iter().filter(|attempt| !attempt.connected).count();
    }
    drop(guest);
    world.down_all();
    report.heading("A flushed firewall");
    report.paragraph(&format!(
        "With {PRESENT} functions up, `nft flush ruleset`, {ROUNDS} times, while a client in another namespace connects to \
         a published port every millisecond. *From the flush* is from the start of the program `nft` to the end of the \
         first attempt that succeeded after one had failed; *between connections* is what the client saw: the longest time between two \
         successful attempts. {failures} attempts failed in all."
    ));
    report.table(
        ["", "p50", "longest"],
        &[
            [
                "from the flush".to_owned(),
                milliseconds(from_flush.p50()),
                milliseconds(from_flush.p99()),
            ],
            ["between connections".to_owned(), milliseconds(gaps.p50()), milliseconds(gaps.p99())],
        ],
    );
    report.limit(
        "from `nft flush ruleset` with 1,000 up to the first connection that works again, longest",
        50.0,
        gaps.p99(),
    );
}

/// Flushes the firewall while a client connects. Returns the time of the flush, and the client's attempts.
fn around_flush(world: &World) -> (Instant, Vec<Attempt>) {
    let (ended, works) = (AtomicBool::new(false), AtomicBool::new(false));
    let target = world.last_published();
    thread::scope(|scope| {
        let client = scope.spawn(|| world.cable.client.run(|| connect(target, &ended, &works)));
        thread::sleep(AROUND);
        let flushed = Instant::now();
        world.cable.node.sh("exec nft flush ruleset");
        thread::sleep(AROUND);
        let works = || works.load(Ordering::Relaxed).then_some(());
        wait_for("a connection that works again", REPAIR, works);
        ended.store(true, Ordering::Relaxed);
        (flushed, client.join().unwrap())
    })
}

fn connect(target: SocketAddr, ended: &AtomicBool, works: &AtomicBool) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        let started = Instant::now();
        let connected = TcpStream::connect_timeout(&target, PATIENCE).is_ok();
        attempts.push(Attempt { started, ended: Instant::now(), connected });
        works.store(connected, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    attempts
}

/// Returns the longest time between two successful attempts, and the time from the flush until connections worked
/// again.
fn outage(flushed: Instant, attempts: &[Attempt]) -> (Duration, Duration) {
    let successful: Vec<_> = attempts.iter().filter(|attempt| attempt.connected).collect();
    let gaps = successful.windows(2).map(|pair| pair[1].ended - pair[0].ended);
    let failed = attempts.iter().rfind(|attempt| !attempt.connected && attempt.ended > flushed);
    let back = failed.map_or(Duration::ZERO, |failed| {
        let again = successful.iter().find(|attempt| attempt.started > failed.started);
        again.unwrap().ended - flushed
    });
    (gaps.max().unwrap(), back)
}

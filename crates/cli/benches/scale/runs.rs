//! Measures the cost of one more function while many functions are supervised.

use super::world::{READY_SLOTS, World};
use crate::common::{
    report::{Bound, Markdown},
    samples::{Cycles, ratio},
};

const RUNS: usize = 10_000;
/// The number of turns of ups and downs. Each turn has fewer functions than there are ready slots.
const TURNS: usize = 5;
const TURN: usize = 20;

pub(crate) fn measure(report: &mut Markdown) {
    let mut none = World::new("no-runs", "nftables", READY_SLOTS);
    let mut many = World::new("runs", "nftables", READY_SLOTS);
    many.record_runs(RUNS);
    let (mut beside_none, mut beside_many) = (Cycles::default(), Cycles::default());
    for _ in 0..TURNS {
        none.cycles(TURN, &mut beside_none);
        none.wait_until_idle();
        many.cycles(TURN, &mut beside_many);
        many.wait_until_idle();
    }
    report.heading("One more, where many are run");
    report.paragraph(&format!(
        "`PUT` and `DELETE` of one function through the API, with ready slots, where {RUNS} runs are recorded that have not \
         ended, in turns with another node that has none: {TURNS} turns of {TURN}."
    ));
    let row = |name: &str, cycles: &Cycles| {
        let [up, up99, down, down99] = cycles.cells();
        [name.to_owned(), up, up99, down, down99]
    };
    let many = RUNS.to_string();
    let rows = [row("0", &beside_none), row(&many, &beside_many)];
    report.table(["runs", "up p50", "up p99", "down p50", "down p99"], &rows);
    report.bound(
        "`down` p50 with 10,000 runs to that with none",
        Bound::AtMost(1.3),
        ratio(beside_many.down.p50(), beside_none.down.p50()),
        " times",
    );
}

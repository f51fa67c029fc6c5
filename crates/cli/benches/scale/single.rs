//! Brings functions up and down one at a time, with ready slots and without.

use super::{
    kernel::Bare,
    world::{READY_SLOTS, World},
};
use crate::common::{
    namespace::Namespace,
    report::Markdown,
    samples::{Cycles, milliseconds},
};

/// The number of rounds. Each has fewer functions than there are ready slots.
const ROUNDS: usize = 10;
const ROUND: u16 = 30;

pub(crate) fn measure(report: &mut Markdown) {
    let mut warm = World::new("warm", "nftables", READY_SLOTS);
    let mut cold = World::new("cold", "nftables", 0);
    let mut warm_cycles = Cycles::default();
    let mut cold_cycles = Cycles::default();
    let mut kernel_cycles = Cycles::default();
    let mut elements = Cycles::default();
    let alone = Namespace::new();
    alone.run(|| {
        let mut bare = Bare::new();
        bare.install_base_ruleset();
        for _ in 0..ROUNDS {
            warm.cycles(ROUND.into(), &mut warm_cycles);
            warm.wait_until_idle();
            cold.cycles(ROUND.into(), &mut cold_cycles);
            cold.wait_until_idle();
            let fragments = bare.fragments(0..ROUND);
            for one in fragments.chunks(1) {
                elements.push(bare.publish(one), bare.withdraw(one));
            }
            let ups: Vec<_> = fragments.chunks(1).map(|one| bare.up(one)).collect();
            for (one, up) in fragments.chunks(1).zip(ups) {
                kernel_cycles.push(up, bare.down(one));
            }
        }
    });
    describe(report, [&warm_cycles, &cold_cycles, &elements, &kernel_cycles]);
}

fn describe(report: &mut Markdown, [warm, cold, elements, kernel]: [&Cycles; 4]) {
    report.heading("One function at a time");
    report.paragraph(&format!(
        "A function with one TCP port: `PUT` and `DELETE`, one after the other, on one kept connection; {ROUNDS} rounds \
         of {ROUND}, between which the daemon fills up its ready slots. *Kernel alone* is the same system calls in a loop \
         without us: the nf_tables transaction, which is what remains with a ready slot; and all of it, which is the TAP's \
         creation, one `send` of rtnetlink for its address and all else, and the transaction. To delete all is the \
         transaction, then the TAP down and deleted, which the daemon does after its answer."
    ));
    let row = |name: &str, cycles: &Cycles| {
        let [up, up99, down, down99] = cycles.cells();
        [name.to_owned(), up, up99, down, down99]
    };
    report.table(
        ["", "up p50", "up p99", "down p50", "down p99"],
        &[
            row(&format!("API, {READY_SLOTS} ready slots"), warm),
            row("API, no ready slot", cold),
            row("kernel alone, the transaction", elements),
            row("kernel alone, all", kernel),
        ],
    );
    let (total, kernel) = (cold.up.p50(), kernel.up.p50());
    let ours = total.saturating_sub(kernel).as_secs_f64() / total.as_secs_f64();
    report.paragraph(&format!(
        "Of an `up` without a ready slot, {} of {} are the kernel's: ours is {ours:.2} of the total.",
        milliseconds(kernel),
        milliseconds(total),
    ));
    report.limit("`up` through the API, ready slot, one at a time, p50", 0.4, warm.up.p50());
    report.limit("`up` cold (no ready slot), p50", 1.5, total);
    report.limit("`down` through the API to the answer, p50", 0.5, warm.down.p50());
}

//! Law 6: concurrent processes are safe.

use std::thread;

use riklet_core::model::Workload;

use crate::{
    operation::Operation,
    world::{
        World, on_every_firewall,
        random::Random,
        records::assert_all_answer,
        state::{SystemState, assert_same},
    },
};

/// The number of concurrent processes, then the number of operations that each runs in sequence.
const AT_ONCE: usize = 8;
const IN_TURN: usize = 8;
/// The names that all of them work on.
const SHARED: [&str; 3] = ["f0", "f1", "f2"];

on_every_firewall!(concurrent_processes_fail_for_documented_reasons_only, |world| {
    let before = SystemState::take(&world.node);
    let last = at_once(|number, mut random| {
        let own = format!("own{number}");
        let mut last: Option<Workload> = None;
        for _ in 0..IN_TURN {
            let name = if random.below(3) == 0 { &own } else { *random.pick(&SHARED) };
            let operation = Operation::on(&mut random, name);
            let done = run_and_check(world, &operation);
            if name == own && done {
                last = if let Operation::Up(function) = operation { Some(*function) } else { None };
            }
        }
        (own, last)
    });
    world.riklet(&["repair"], "").success();
    let recorded = world.assert_in_step();
    for (own, last) in last {
        assert_eq!(recorded.get(&own).map(|recorded| recorded.workload.clone()), last, "{own}");
    }
    assert_all_answer(world, &recorded);
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
});

// Some of them purge: everything shared is removed and created again.
on_every_firewall!(concurrent_processes_agree_on_shared_functions, |world| {
    let before = SystemState::take(&world.node);
    at_once(|_, mut random| {
        for _ in 0..IN_TURN {
            run_and_check(world, &Operation::random(&mut random, &SHARED));
        }
    });
    assert_all_answer(world, &world.assert_in_step());
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
});

/// Runs `work` on [`AT_ONCE`] threads, each with a number and random choices of its own. Returns their results.
fn at_once<T: Send>(work: impl Fn(usize, Random) -> T + Sync) -> Vec<T> {
    let mut random = Random::new();
    thread::scope(|scope| {
        let start = |number| {
            let (random, work) = (random.split(), &work);
            scope.spawn(move || work(number, random))
        };
        let workers: Vec<_> = (0..AT_ONCE).map(start).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).collect()
    })
}

/// Runs the operation, and tells whether it was done or refused. Other processes never see it half done.
#[track_caller]
fn run_and_check(world: &World, operation: &Operation) -> bool {
    let done = operation.is_done(&operation.start(world).wait());
    assert_eq!(world.riklet(&["check"], "").success(), "");
    done
}

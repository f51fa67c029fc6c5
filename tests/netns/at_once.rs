//! Law 6: many processes at once are safe.

use std::thread;

use riklet_sdn::model::Workload;

use crate::{
    operation::Operation,
    world::{
        World, on_every_firewall,
        random::Random,
        state::{SystemState, assert_same},
    },
};

/// How many processes there are at a time, and how many come one after the other.
const AT_ONCE: usize = 8;
const IN_TURN: usize = 8;

on_every_firewall!(eight_at_once_are_refused_for_documented_reasons_only, |world| {
    let mut random = Random::new();
    let before = SystemState::take(&world.node);
    let own: [String; AT_ONCE] = std::array::from_fn(|number| format!("own{number}"));
    let mut last: Vec<Option<Workload>> = Vec::new();
    thread::scope(|scope| {
        let workers = own.iter().map(|name| {
            let random = random.split();
            scope.spawn(move || work(world, random, name))
        });
        let workers: Vec<_> = workers.collect();
        last.extend(workers.into_iter().map(|worker| worker.join().expect("no panic")));
    });
    world.riklet(&["repair"], "").success();
    let recorded = world.assert_in_step();
    for (name, last) in own.iter().zip(last) {
        assert_eq!(recorded.get(name).map(|recorded| recorded.workload.clone()), last, "{name}");
    }
    let played: Vec<_> = recorded.values().map(|recorded| world.play(recorded)).collect();
    for played in &played {
        played.assert_answers(world);
    }
    drop(played);
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
});

/// Operations one after the other, on a name that nobody else uses and on some that all use. Answers what
/// the own name was brought to last.
fn work(world: &World, mut random: Random, own: &str) -> Option<Workload> {
    let mut last = None;
    for _ in 0..IN_TURN {
        let name = if random.below(3) == 0 { own } else { *random.pick(&["all1", "all2", "all3"]) };
        let operation = Operation::on(&mut random, name);
        let done = operation.is_done(&operation.start(world).wait());
        if name == own && done {
            last = match operation {
                Operation::Up(function) => Some(function),
                _ => None,
            };
        }
        // Whoever looks on sees no work half done.
        let checked = world.riklet(&["check"], "").success();
        assert_eq!(checked, "");
    }
    last
}

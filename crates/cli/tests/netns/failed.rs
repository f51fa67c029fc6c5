//! Law 5: the failure of one instance stops no other, and is reported.

use crate::world::{
    NODE_LAN, World,
    foreign::ALIAS,
    on_every_firewall,
    records::{assert_all_answer, definitions, workload},
    traffic::assert_tcp_refused,
};

/// Creates a foreign interface with the name of the second slot's TAP.
fn take_rik1(world: &World) -> String {
    let batch = format!(
        "tuntap add dev rik1 mode tap\nlink set rik1 alias {ALIAS} addrgenmode none up\n\
         address add 192.0.2.1/24 dev rik1\n"
    );
    world.node.feed(&["ip", "-batch", "-"], &batch).success();
    look_at_rik1(world)
}

fn look_at_rik1(world: &World) -> String {
    world.node.tool(&["ip", "-d", "address", "show", "dev", "rik1"])
}

on_every_firewall!(one_functions_failure_stops_no_other, |world| {
    let foreign = take_rik1(world);
    // They need all four slots, including the one whose name is taken.
    let functions: Vec<_> = (0..4)
        .map(|number| workload(&format!("f{number}"), &[&*format!("tcp 800{number} 3000")]))
        .collect();
    let output = world.riklet(&["--pool", "10.231.0.0/28", "up", "-"], &definitions(&functions));
    let complaint = output.clone().failure(1);
    assert!(
        complaint.contains("error: f1 is not up: the interface rik1 exists and is not ours")
            && complaint.contains("hint: rename or delete rik1"),
        "{complaint}"
    );
    for (tap, is_up) in [("rik0", true), ("rik1", false), ("rik2", true)] {
        assert_eq!(output.stdout.contains(tap), is_up, "what is not up is not reported: {output}");
    }
    let recorded = world.recorded();
    for name in ["f0", "f2", "f3"] {
        world.play(&recorded[name]).assert_answers(world);
    }
    assert_tcp_refused(&world.client, (NODE_LAN, 8001));
    assert_eq!(look_at_rik1(world), foreign);
    let check = world.riklet(&["check"], "");
    assert_eq!(check.code, Some(1), "{check}");
    assert!(check.stdout.contains("! the interface rik1 exists and is not ours"), "{check}");
    assert!(check.stdout.contains("! record f1: still pending"), "{check}");

    // Meanwhile, other functions go down and come up.
    for output in
        [world.riklet(&["down", "f0"], ""), world.try_up(&[workload("f4", &["udp 8004 3000"])])]
    {
        assert_eq!(output.code, Some(0), "what was asked for is done: {output}");
        assert!(output.stderr.contains("warning: f1 is not up"), "{output}");
    }
    world.play(&world.recorded()["f4"]).assert_answers(world);
    assert_tcp_refused(&world.client, (NODE_LAN, 8000));

    world.node.tool(&["ip", "link", "delete", "rik1"]);
    world.riklet(&["repair"], "").success();
    let recorded = world.assert_in_step();
    assert_eq!(recorded.keys().collect::<Vec<_>>(), ["f1", "f2", "f3", "f4"]);
    assert_all_answer(world, &recorded);
});

on_every_firewall!(function_that_never_came_up_can_be_taken_down, |world| {
    let first = definitions(&[workload("f0", &["tcp 8000 3000"])]);
    // This pool has two slots.
    world.riklet(&["--pool", "10.231.0.0/29", "up", "-"], &first).success();
    let foreign = take_rik1(world);
    world.try_up(&[workload("f1", &["tcp 8001 3000"])]).failure(1);
    world.riklet(&["down", "f1"], "").success();
    assert_eq!(look_at_rik1(world), foreign);
    assert_eq!(world.assert_in_step().keys().collect::<Vec<_>>(), ["f0"]);
});

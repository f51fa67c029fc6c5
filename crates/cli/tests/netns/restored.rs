//! Law 3: the host is as it was before, and foreign state stays unchanged.

use riklet_core::model::Workload;
use rustix::process::Signal;

use crate::world::{
    Firewall, World,
    foreign::{self, docker_like, nft_foreign},
    held::{Held, HoldPoint},
    on_every_firewall,
    random::Random,
    records::{assert_all_answer, definitions, workload},
    state::{SystemState, assert_kept, assert_same},
    traffic::PATIENCE,
    wait::{duration_of, wait_for},
};

/// Returns three functions: by TCP, by UDP, with a range, and bound to one address.
fn three() -> [Workload; 3] {
    [
        workload("web", &["tcp 8080 3000"]),
        workload("dns.v2", &["udp 53 5353", "tcp 9000-9010 7000-7010"]),
        workload("bound", &["tcp 192.168.7.10 8081 80", "udp 192.168.7.10 8081 80"]),
    ]
}

/// Brings up three functions, which answer, then takes them down: once by name, and once with a purge.
fn up_and_down(world: &World) {
    let before = SystemState::take(&world.node);
    world.try_up(&three()).success();
    let recorded = world.assert_in_step();
    assert_all_answer(world, &recorded);
    assert_kept(&before, &SystemState::take(&world.node));

    world.riklet(&["down", "web", "bound"], "").success();
    world.assert_in_step();
    assert_kept(&before, &SystemState::take(&world.node));
    world.try_up(&three()).success();
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
    assert!(world.assert_in_step().is_empty());
}

on_every_firewall!(nothing_is_left_on_a_bare_node, |world| {
    up_and_down(world);
});

on_every_firewall!(nothing_is_left_on_a_node_that_forwards, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    up_and_down(world);
    assert_eq!(world.node.sysctl("net/ipv4/ip_forward"), "1");
});

on_every_firewall!(foreign_state_stays_with_docker, |world| {
    docker_like(world, world.firewall);
    foreign::interfaces(&world.node);
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    up_and_down(world);
});

on_every_firewall!(foreign_state_stays_with_an_nft_firewall, |world| {
    nft_foreign(&world.node);
    foreign::interfaces(&world.node);
    up_and_down(world);
});

#[test]
fn foreign_state_stays_with_a_foreign_legacy_firewall() {
    let world = World::new(Firewall::Nftables);
    docker_like(&world, Firewall::IptablesLegacy);
    nft_foreign(&world.node);
    up_and_down(&world);
}

on_every_firewall!(foreign_state_created_after_ours_stays, |world| {
    let bare = SystemState::take(&world.node);
    docker_like(world, world.firewall);
    let (docker, _) = SystemState::take(&world.node).firewall_and_rest();

    let world = &World::new(world.firewall);
    let (nothing, before) = SystemState::take(&world.node).firewall_and_rest();
    assert_same(&bare.firewall_and_rest().0, &nothing);
    world.try_up(&three()).success();
    docker_like(world, world.firewall);
    world.riklet(&["repair"], "").success();
    assert_all_answer(world, &world.assert_in_step());
    world.riklet(&["down", "--all", "--purge"], "").success();
    let (firewall, rest) = SystemState::take(&world.node).firewall_and_rest();
    assert_same(&docker, &firewall);
    assert_same(&before, &rest);
});

on_every_firewall!(later_purge_removes_what_down_leaves, |world| {
    let before = SystemState::take(&world.node);
    world.try_up(&three()).success();
    world.riklet(&["down", "--all"], "").success();
    assert!(world.assert_in_step().is_empty());
    // Another `down` has nothing to do, and prints nothing.
    world.riklet(&["down", "--all"], "").success();
    world.riklet(&["repair"], "").success();
    assert!(world.assert_in_step().is_empty());
    for _ in 0..2 {
        world.riklet(&["down", "--all", "--purge"], "").success();
        assert_same(&before, &SystemState::take(&world.node));
    }
});

on_every_firewall!(purge_after_a_rebuild_of_records_restores_the_host, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    docker_like(world, world.firewall);
    let before = SystemState::take(&world.node);
    world.try_up(&three()).success();
    let state = world.directory.path().join("state");
    std::fs::remove_dir_all(&state).unwrap();
    let drift = world.riklet(&["check"], "");
    assert_eq!((drift.code, drift.stdout.lines().count() > 1), (Some(1), true), "{drift}");
    wait_for("the TAPs to have lost the carrier of their creation", PATIENCE, || {
        let links = world.node.tool(&["ip", "link"]);
        (links.matches("NO-CARRIER").count() == three().len()).then_some(())
    });
    let up = SystemState::take(&world.node);
    for command in [&["down", "--all", "--purge"][..], &["repair"], &["up", "-"]] {
        let refused = world.riklet(command, &definitions(&three())).failure(1);
        assert!(refused.contains("hint: `riklet-sdn repair --rebuild` "), "{refused}");
        assert_same(&up, &SystemState::take(&world.node));
    }
    world.riklet(&["repair", "--rebuild"], "").success();
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
    assert_eq!(world.riklet(&["check"], "").success(), "");
});

// iptables-nft creates the chains that we jump from.
on_every_firewall!(purge_after_a_rebuild_of_records_leaves_no_empty_chains, |world| {
    let others = "*nat\n-A POSTROUTING -o lan0 -j ACCEPT\nCOMMIT\n*raw\n:OUTPUT ACCEPT\nCOMMIT\n";
    for others in ["", others] {
        world
            .program(world.firewall.xtables(), &["iptables-restore", "--noflush"], others)
            .success();
        let before = SystemState::take(&world.node);
        world.try_up(&three()).success();
        std::fs::remove_dir_all(world.directory.path().join("state")).unwrap();
        world.riklet(&["repair", "--rebuild"], "").success();
        world.riklet(&["down", "--all", "--purge"], "").success();
        assert_same(&before, &SystemState::take(&world.node));
    }
});

on_every_firewall!(run_leaves_nothing_whenever_a_signal_ends_it, |world| {
    docker_like(world, world.firewall);
    let before = SystemState::take(&world.node);
    let mut random = Random::new();
    let start = || world.riklet_in_background(&["run", "-"], &definitions(&three()));
    let usual = duration_of(|| {
        let mut run = start();
        run.wait_for_line("ready in ");
        run.signal(Signal::INT);
        run.wait().success()
    });
    assert_same(&before, &SystemState::take(&world.node));
    for signal in [Signal::TERM, Signal::INT].into_iter().cycle().take(6) {
        let run = start();
        assert!(!run.ends_within(random.part_of(usual)), "{}", run.wait());
        run.signal(signal);
        // A signal before the program has done anything just ends it.
        let output = run.wait();
        assert!(matches!(output.code, Some(0) | None), "{output}");
        assert_same(&before, &SystemState::take(&world.node));
    }
});

/// A terminal sends its signals to all processes of the group, including those that change the firewall.
#[test]
fn interrupt_from_a_terminal_leaves_nothing() {
    let world = &World::new(Firewall::IptablesNft);
    let before = SystemState::take(&world.node);
    let held = Held::restore(world, "-A RIKLET -p tcp", HoldPoint::Before);
    let (arrived, gate) = (held.arrived.display(), held.gate.display());
    let file = world.directory.path().join("functions.json");
    let (file, program) = (file.display(), env!("CARGO_BIN_EXE_riklet-sdn"));
    // With `-m`, a background job is a process group of its own, as in a terminal.
    let script = format!(
        "set -m; cat >'{file}'; {program} run '{file}' & while [ ! -e '{arrived}' ]; do sleep 0.01; done; \
         kill -INT -- -$!; rm '{gate}'; wait $!"
    );
    world.program("bash", &["-c", &script], &definitions(&three())).success();
    assert_same(&before, &SystemState::take(&world.node));
}

#[test]
fn run_leaves_nothing_if_the_firewall_refuses() {
    let world = &World::new(Firewall::IptablesNft);
    let before = SystemState::take(&world.node);
    let _refusing = Held::refuse(world, "-A RIKLET -p tcp");
    let complaint = world.riklet(&["run", "-"], &definitions(&three())).failure(1);
    assert!(complaint.contains("refused the change: out of order"), "{complaint}");
    assert_same(&before, &SystemState::take(&world.node));
}

//! Records that are lost, damaged, or of another version.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use riklet_core::model::Workload;

use crate::{
    supervised::{HELLO, assert_answers, hello},
    world::{
        Firewall, NODE_LAN, World,
        foreign::docker_like,
        on_every_firewall,
        records::{Recorded, definitions, workload},
        state::{SystemState, assert_same},
        traffic::{PATIENCE, assert_tcp_refused, tcp_ask},
        transport::{Transport, assert_refused},
        wait_for,
    },
};

fn functions() -> [Workload; 4] {
    [
        workload("web", &["tcp 8080 3000"]),
        workload("dns.v2", &["udp 53 5353", "tcp 9000-9010 7000-7010"]),
        workload("bound", &["tcp 192.168.7.10 8081 80"]),
        workload("worker", &[]),
    ]
}

fn database(world: &World) -> PathBuf {
    world.directory.path().join("state/riklet-sdn.db")
}

#[expect(clippy::disallowed_methods, reason = "the damage is the test's own")]
fn overwrite(world: &World) {
    fs::write(database(world), "no database at all").unwrap();
}

#[expect(clippy::disallowed_methods, reason = "the damage is the test's own")]
fn delete(world: &World) {
    fs::remove_file(database(world)).unwrap();
}

/// Returns what identifies each instance in the records.
fn names(recorded: &BTreeMap<String, Recorded>) -> Vec<(Workload, String, String)> {
    let one = |one: &Recorded| (one.workload.clone(), one.tap(), one.host.clone());
    recorded.values().map(one).collect()
}

on_every_firewall!(lost_records_are_rebuilt_while_traffic_goes_on, |world| {
    docker_like(world, world.firewall);
    let before = SystemState::take(&world.node);
    world.try_up(&functions()).success();
    let recorded = world.assert_in_step();
    let played: Vec<_> = recorded.values().map(|recorded| world.play(recorded)).collect();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                tcp_ask(&world.client, (NODE_LAN, 8080)).expect("the function answers all along");
            }
        });
        overwrite(world);
        for command in [&["list"][..], &["check"], &["repair"], &["down", "web"]] {
            let complaint = world.riklet(command, "").failure(1);
            assert!(complaint.contains("hint: run `riklet-sdn repair --rebuild`"), "{complaint}");
        }
        assert_rebuilt(world, &recorded);
        let set_aside = database(world).with_extension("db.corrupt-1");
        assert!(set_aside.exists(), "what was there is kept");
        delete(world);
        assert_rebuilt(world, &recorded);
        ended.store(true, Ordering::Relaxed);
        traffic.join().unwrap();
    });
    for played in &played {
        played.assert_answers(world);
    }
    drop(played);
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
});

#[track_caller]
fn assert_rebuilt(world: &World, recorded: &BTreeMap<String, Recorded>) {
    let said = world.riklet(&["repair", "--rebuild"], "").success();
    for name in recorded.keys() {
        assert!(said.contains(&format!("recorded {name}\n")), "{said}");
    }
    assert_eq!(names(&world.assert_in_step()), names(recorded));
}

/// The alias of an interface holds at most 255 bytes.
#[test]
fn exposures_that_do_not_fit_an_alias_are_reported_as_lost() {
    let world = &World::new(Firewall::Nftables);
    let exposures: Vec<_> = (0..30).map(|n| format!("tcp {} 3000", 8000 + n)).collect();
    let exposures: Vec<_> = exposures.iter().map(String::as_str).collect();
    let large = [workload("large", &exposures)];
    world.try_up(&large).success();
    delete(world);
    let output = world.riklet(&["repair", "--rebuild"], "");
    assert!(output.stderr.contains("warning: large lost exposures"), "{output}");
    let left = world.assert_in_step()["large"].workload.exposures().len();
    assert!((1..30).contains(&left), "{left}");
    assert_tcp_refused(&world.client, (NODE_LAN, 8029));
    world.try_up(&large).success();
    world.play(&world.assert_in_step()["large"]).assert_answers(world);
}

#[test]
fn the_records_of_a_newer_version_are_refused_and_left_alone() {
    let world = &World::new(Firewall::Nftables);
    world.try_up(&functions()).success();
    let connection = rusqlite::Connection::open(database(world)).unwrap();
    connection.pragma_update(None, "user_version", 1000).unwrap();
    drop(connection);
    wait_for("the TAPs to have lost the carrier of their creation", PATIENCE, || {
        let links = world.node.tool(&["ip", "link"]);
        (links.matches("NO-CARRIER").count() == functions().len()).then_some(())
    });
    let (files, system) = (files(world), SystemState::take(&world.node));
    for command in [
        &["up", "-"][..],
        &["plan", "-"],
        &["run", "-"],
        &["down", "web"],
        &["down", "--all"],
        &["down", "--all", "--purge"],
        &["list"],
        &["inspect", "web"],
        &["check"],
        &["repair"],
        &["repair", "--rebuild"],
    ] {
        let definition = definitions(&[workload("new", &["tcp 80 80"])]);
        let complaint = world.riklet(command, &definition).failure(1);
        assert!(complaint.contains("has format 1000"), "{command:?}: {complaint}");
        assert!(complaint.contains("hint: use the version of riklet-sdn"), "{complaint}");
        assert!(self::files(world) == files, "{command:?} changed a file");
    }
    assert_same(&system, &SystemState::take(&world.node));
}

/// Returns all files of the state directory.
#[expect(clippy::disallowed_methods, reason = "to see that they are untouched")]
fn files(world: &World) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(world.directory.path().join("state")).unwrap();
    let read = |path: PathBuf| (path.clone(), fs::read(path).unwrap());
    entries.map(|entry| read(entry.unwrap().path())).collect()
}

on_every_firewall!(a_run_outlives_its_lost_record, |world| {
    world.detach(&[hello()]);
    assert_answers(world, HELLO, "hello");
    let run = world.ps("hello");
    delete(world);
    world.riklet(&["repair", "--rebuild"], "").success();
    let found = world.ps("hello");
    for field in ["vmm", "pid", "supervisorPid", "state"] {
        assert_eq!(found[field], run[field], "{found}");
    }
    let refused = world.riklet(&["down", "hello"], "").failure(1);
    assert!(refused.contains("`riklet-sdn stop hello` ends it"), "{refused}");
    assert_answers(world, HELLO, "hello");
    world.riklet(&["stop", "hello"], "").success();
    assert_eq!(world.state_of("hello"), ("ended".to_owned(), "stopped".to_owned()));
    assert_refused(Transport::Tcp, &world.client, HELLO);
    world.riklet(&["check"], "").success();
});

//! Two state directories on one node: every operation of the second refuses, and the first's functions keep working.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    time::Duration,
};

use riklet_core::link::DRAINING_GROUP;
use rustix::process::Signal;
use serde_json::Value;

use crate::world::{
    CLIENT, Firewall, NODE_LAN, World,
    command::Output,
    function::{Function, exposure, function},
    on_every_firewall,
    state::{SystemState, assert_same},
    traffic::{Connection, tcp_ask},
    transport::Transport::Tcp,
    wait_for,
};

/// Returns another state directory besides the world's own, which does not exist yet.
fn other(world: &World) -> PathBuf {
    world.directory.path().join("other")
}

/// Runs the program with the other state directory.
#[track_caller]
fn with_other(world: &World, arguments: &[&str], stdin: &str) -> Output {
    let directory = other(world).display().to_string();
    world.riklet(&[&["--state-dir", &directory], arguments].concat(), stdin)
}

fn definition(name: &str, port: u16) -> String {
    function(name, &[exposure(Tcp, port, 3000)]).to_string()
}

/// Starts a function that answers on port 8080, and a client that is connected to it by port 8081.
#[track_caller]
fn start(world: &World) -> (Function, Connection) {
    let [web] = world.start([(web(), &[(Tcp, 3000)])]);
    let guest = &web.guest.namespace;
    let connection = Connection::new(&world.client, (NODE_LAN, 8081), guest, (web.address(), 4000));
    connection.assert_alive();
    (web, connection)
}

fn web() -> Value {
    function("web", &[exposure(Tcp, 8080, 3000), exposure(Tcp, 8081, 4000)])
}

/// Asserts that the operation refuses, and that the error names the first state directory and what to do.
#[track_caller]
fn assert_refused(world: &World, arguments: &[&str], stdin: &str) {
    let complaint = with_other(world, arguments, stdin).failure(1);
    let directory = world.directory.path().join("state");
    let belongs = format!("belongs to the records in {}", directory.display());
    let hint = format!(
        "hint: use `--state-dir {}`, or take it over with `riklet-sdn repair --adopt`",
        directory.display()
    );
    assert!(complaint.contains(&belongs), "{arguments:?}: {complaint}");
    assert!(complaint.contains(&hint), "{arguments:?}: {complaint}");
}

on_every_firewall!(another_state_directory_changes_nothing, |world| {
    let (_web, connection) = start(world);
    let before = SystemState::take(&world.node);
    let new = definition("new", 9090);
    for (arguments, stdin) in [
        (&["up", "-"][..], &*new),
        (&["plan", "-"], &new),
        (&["down", "web"], ""),
        (&["down", "--all"], ""),
        (&["down", "--all", "--purge"], ""),
        (&["repair"], ""),
        (&["repair", "--rebuild"], ""),
        (&["run", "-"], &new),
        (&["serve"], ""),
        (&["serve", "--ready-slots", "0"], ""),
    ] {
        assert_refused(world, arguments, stdin);
        assert_same(&before, &SystemState::take(&world.node));
        assert!(!other(world).exists(), "{arguments:?} creates nothing");
    }
    let checked = with_other(world, &["check"], "");
    assert_eq!(checked.code, Some(1), "{checked}");
    let lines: Vec<_> = checked.stdout.lines().collect();
    assert!(lines.len() >= 2 && lines.iter().all(|l| l.starts_with("! ")), "no steps: {checked}");
    assert!(
        checked.stdout.contains("! the interface rik0 belongs to the records in "),
        "{checked}"
    );
    let doctor = with_other(world, &["doctor"], "");
    let owner = format!(
        "the interface rik0 belongs to the records in {}",
        world.directory.path().join("state").display()
    );
    assert!(doctor.code == Some(3) && doctor.stdout.contains(&owner), "{doctor}");
    assert_refused(world, &["list"], "");
    let listed = with_other(world, &["--output", "json", "list"], "");
    assert_eq!((listed.code, &*listed.stdout), (Some(1), "[]\n"), "{listed}");
    assert_refused(world, &["inspect", "web"], "");
    assert_same(&before, &SystemState::take(&world.node));
    connection.assert_alive();
    tcp_ask(&world.client, (NODE_LAN, 8080)).expect("the function answers");

    world.riklet(&["down", "--all", "--purge"], "").success();
    with_other(world, &["up", "-"], &new).success();
});

on_every_firewall!(adopted_functions_keep_working_and_leave_their_former_owner, |world| {
    let (_web, connection) = start(world);
    let said = with_other(world, &["repair", "--adopt"], "").success();
    assert!(said.contains("recorded web\n"), "{said}");
    connection.assert_alive();
    let answer = tcp_ask(&world.client, (NODE_LAN, 8080)).expect("the function answers");
    assert_eq!(answer.client.ip(), CLIENT);
    with_other(world, &["check"], "").success();

    // The first directory still has records, but the host's state belongs to the other one now.
    let before = SystemState::take(&world.node);
    let directory = other(world).display().to_string();
    for (arguments, stdin) in [
        (&["up", "-"][..], &*definition("new", 9090)),
        (&["up", "-"], &definition("web", 9090)),
        (&["down", "web"], ""),
        (&["down", "--all", "--purge"], ""),
        (&["repair"], ""),
        (&["repair", "--rebuild"], ""),
        (&["list"], ""),
        (&["serve"], ""),
    ] {
        let complaint = world.riklet(arguments, stdin).failure(1);
        assert!(
            complaint.contains(&format!("belongs to the records in {directory}")),
            "{complaint}"
        );
        assert_same(&before, &SystemState::take(&world.node));
    }
    connection.assert_alive();
    with_other(world, &["down", "web"], "").success();
    connection.assert_reset();

    // Once the other directory has left the host, the first has nothing to bring up, and is usable.
    with_other(world, &["down", "--all", "--purge"], "").success();
    let bare = SystemState::take(&world.node);
    world.riklet(&["repair"], "").success();
    assert_same(&bare, &SystemState::take(&world.node));
    world.riklet(&["up", "-"], &definition("new", 9090)).success();
    let listed = world.riklet(&["list"], "").success();
    assert!(listed.contains("new") && !listed.contains("web"), "{listed}");
});

/// Returns a rule without the comment that names its owner.
fn unsign(rule: &str) -> String {
    let comment = rule.split_once(" -m comment --comment \"riklet-sdn ");
    let rest = comment.and_then(|(head, rest)| Some((head, rest.split_once('"')?.1)));
    rest.map_or_else(|| rule.to_owned(), |(head, rest)| format!("{head}{rest}"))
}

/// Gives the firewall the form of an earlier version, whose table or jumps name no owner.
#[track_caller]
fn unsign_firewall(world: &World) {
    match world.firewall {
        Firewall::Nftables => {
            let table = world.node.tool(&["nft", "list", "table", "inet", "riklet"]);
            let (head, rest) = table.split_once("comment \"riklet-sdn 1 ").expect("a comment");
            let (comment, rest) = rest.split_once('"').expect("its end");
            let digest = comment.split(' ').next().expect("a digest");
            let unsigned = format!("{head}comment \"riklet-sdn 1 {digest}\"{rest}");
            let input = format!("delete table inet riklet\n{unsigned}");
            world.node.feed(&["nft", "-f", "-"], &input).success();
        }
        Firewall::IptablesNft | Firewall::IptablesLegacy => {
            let saved = world.program("iptables-save", &[], "").success();
            let unsigned: String = saved.lines().map(|line| unsign(line) + "\n").collect();
            assert_ne!(saved, unsigned, "there are marks");
            world.program("iptables-restore", &[], &unsigned).success();
            // An earlier version had no such table.
            world.node.tool(&["nft", "delete", "table", "inet", "riklet-policies"]);
        }
    }
}

on_every_firewall!(daemon_leaves_functions_adopted_by_others_alone, |world| {
    let daemon = world.daemon(&[]);
    let (_web, connection) = start(world);
    daemon.wait_until_idle();
    let said = with_other(world, &["repair", "--adopt"], "").success();
    assert!(said.contains("recorded web\n"), "{said}");
    let directory = other(world).display().to_string();
    wait_for("the daemon to notice", Duration::from_secs(20), || {
        daemon.events().contains(&format!("belongs to the records in {directory}")).then_some(())
    });
    // The daemon has been notified of every change by now, and keeps checking.
    for _ in 0..3 {
        with_other(world, &["repair"], "").success();
        with_other(world, &["check"], "").success();
        connection.assert_alive();
        let refused = daemon.ask("PUT", "/v1/functions/new", &definition("new", 9090));
        assert_eq!(refused.status, 409, "{refused:?}");
    }
    let said = daemon.events().matches("belongs to the records in").count();
    assert_eq!(said, 1, "{}", daemon.events());
    daemon.end(Signal::KILL);
    let taker = world.riklet_in_background(&["--state-dir", &directory, "serve", "--adopt"], "");
    wait_for("the other daemon to answer", Duration::from_secs(20), || {
        other(world).join("api.sock").exists().then_some(())
    });
    with_other(world, &["up", "-"], &definition("new", 9090)).success();
    connection.assert_alive();
    drop(taker);
});

on_every_firewall!(state_of_an_earlier_version_is_marked_without_an_outage, |world| {
    let (_web, connection) = start(world);
    // An earlier version left no identifier, neither in the records nor on the interface.
    let path = world.directory.path().join("state/riklet-sdn.db");
    let records = rusqlite::Connection::open(path).unwrap();
    records.execute("DELETE FROM settings WHERE name = 'owner'", []).unwrap();
    drop(records);
    let alias = "riklet-sdn:web tcp:8080:3000 tcp:8081:4000";
    world.node.tool(&["ip", "link", "set", "rik0", "alias", alias]);
    unsign_firewall(world);
    connection.assert_alive();
    world.riklet(&["up", "-"], &web().to_string()).success();
    let found = world.node.tool(&["ip", "link", "show", "rik0"]);
    assert!(found.contains("alias riklet-sdn@") && found.contains(":web tcp:8080"), "{found}");
    world.riklet(&["check"], "").success();
    connection.assert_alive();
    assert_refused(world, &["repair"], "");
});

on_every_firewall!(tap_that_a_vmm_has_open_is_deleted_only_by_down, |world| {
    let (web, connection) = start(world);
    // The records lose the function, while the host stays unchanged.
    let path = world.directory.path().join("state/riklet-sdn.db");
    let records = rusqlite::Connection::open(path).unwrap();
    records.execute_batch("DELETE FROM slots; DELETE FROM ports").unwrap();
    drop(records);
    let words = "! a VMM has the TAP rik0 open, and it is no instance's by the records";
    for _ in 0..2 {
        world.riklet(&["repair"], "").success();
        let checked = world.riklet(&["check"], "");
        assert!(checked.code == Some(1) && checked.stdout.starts_with(words), "{checked}");
        connection.assert_alive();
    }
    let said = world.riklet(&["repair", "--rebuild"], "").success();
    assert!(said.contains("recorded web\n"), "{said}");
    connection.assert_alive();
    world.riklet(&["check"], "").success();
    world.riklet(&["down", "web"], "").success();
    connection.assert_reset();
    drop(web);
    let links = world.node.tool(&["ip", "link"]);
    assert!(!links.contains("rik0"), "{links}");
});

on_every_firewall!(foreign_interface_in_the_draining_group_is_kept, |world| {
    let group = format!("{DRAINING_GROUP:#x}");
    world.node.tool(&["ip", "link", "add", "theirs", "group", &group, "type", "bridge"]);
    let before = world.node.tool(&["ip", "-d", "link", "show", "theirs"]);
    let daemon = world.daemon(&[]);
    let (web, connection) = start(world);
    world.down(&["web"]);
    daemon.wait_until_idle();
    drop((web, connection));
    daemon.end(Signal::TERM);
    let (_web, _) = start(world);
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_eq!(world.node.tool(&["ip", "-d", "link", "show", "theirs"]), before);
});

#[expect(clippy::disallowed_methods, reason = "the damage is the test's own")]
fn remove(file: &Path) {
    fs::remove_file(file).unwrap();
}

on_every_firewall!(daemon_keeps_the_records_of_a_removed_database, |world| {
    let daemon = world.daemon(&[]);
    let (_web, connection) = start(world);
    let state = world.directory.path().join("state");
    for file in ["riklet-sdn.db", "riklet-sdn.db-wal", "riklet-sdn.db-shm"] {
        remove(&state.join(file));
    }
    // No request is made: the daemon finds out by its periodic check.
    wait_for("the daemon to notice", Duration::from_secs(20), || {
        daemon.events().contains("was removed while functions are up").then_some(())
    });
    connection.assert_alive();
    world.up(&[function("next", &[exposure(Tcp, 9090, 3000)])]);
    daemon.wait_until_idle();
    daemon.end(Signal::KILL);
    let listed = world.riklet(&["list"], "").success();
    assert!(listed.contains("web") && listed.contains("next"), "{listed}");
    world.riklet(&["repair"], "").success();
    world.riklet(&["check"], "").success();
    connection.assert_alive();
});

on_every_firewall!(daemon_with_an_emptied_database_deletes_nothing, |world| {
    let daemon = world.daemon(&[]);
    let (_web, connection) = start(world);
    daemon.wait_until_idle();
    let database = world.directory.path().join("state/riklet-sdn.db");
    OpenOptions::new().write(true).truncate(true).open(&database).unwrap();
    for (arguments, stdin) in [(&["repair"][..], ""), (&["up", "-"], &*definition("next", 9090))] {
        // The result may be anything, since the records are damaged.
        let _refused = world.riklet(arguments, stdin);
        connection.assert_alive();
        tcp_ask(&world.client, (NODE_LAN, 8080)).expect("the function answers");
    }
    daemon.end(Signal::KILL);
    let said = world.riklet(&["repair", "--rebuild"], "");
    assert_eq!(said.code, Some(0), "{said}");
    world.riklet(&["check"], "").success();
    connection.assert_alive();
});

on_every_firewall!(foreign_interface_blocks_only_the_slot_of_its_name, |world| {
    world.node.tool(&["ip", "link", "add", "rik0", "type", "bridge"]);
    let before = world.node.tool(&["ip", "-d", "link", "show", "rik0"]);
    let (web, _connection) = start(world);
    assert_eq!(web.guest.nic.interface, "rik1");
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    let nics = world.up(&[function("next", &[exposure(Tcp, 9090, 3000)])]);
    assert_eq!(nics[0].interface, "rik2");
    assert!(!daemon.events().contains("rik0"), "{}", daemon.events());
    daemon.wait_until_idle();
    daemon.end(Signal::TERM);
    world.riklet(&["check"], "").success();
    assert_eq!(world.node.tool(&["ip", "-d", "link", "show", "rik0"]), before);
    tcp_ask(&world.client, (NODE_LAN, 8080)).expect("the function answers");
});

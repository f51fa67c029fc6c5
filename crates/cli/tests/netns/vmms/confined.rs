//! A daemon with the capabilities of its systemd unit and no others, or with fewer.

use super::{
    escaped::{let_leave, of_slots},
    *,
};
use crate::{
    supervised::{SECOND, assert_answers, second},
    world::daemon::Daemon,
};

/// Returns the words of a setting of the unit in `contrib/systemd`.
#[expect(clippy::disallowed_methods, reason = "a file of the project")]
fn of_unit(setting: &str) -> Vec<String> {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contrib/systemd/riklet-sdn.service");
    let text = fs::read_to_string(unit).expect("the unit");
    let value = text.lines().find_map(|line| line.strip_prefix(setting)?.strip_prefix('='));
    value.expect("the setting").split_whitespace().map(ToOwned::to_owned).collect()
}

/// Returns the capabilities of the unit, without these.
pub(crate) fn capabilities(without: &[&str]) -> Vec<String> {
    let all = of_unit("CapabilityBoundingSet");
    all.into_iter().filter(|has| !without.contains(&&**has)).collect()
}

fn daemon_with(world: &World, capabilities: &[String]) -> Daemon {
    let capabilities: Vec<_> = capabilities.iter().map(String::as_str).collect();
    world.daemon_with(&capabilities)
}

/// Stops `hello` by the daemon, and returns how it ended.
#[track_caller]
fn stop(daemon: &Daemon) -> Value {
    let stopped = daemon.ask("DELETE", "/v1/runs/hello?timeout=1", "");
    assert_eq!(stopped.status, 200, "{stopped:?}");
    stopped.json()["how"].clone()
}

/// Starts `hello` again, whose VMM leaves a process behind, and kills its supervisor.
fn lose(world: &World) -> Hello {
    fs::remove_dir_all(world.directory.path().join("played-firecracker")).expect("a directory");
    let hello = Hello::start(world);
    hello.program.order("env -i setsid -f sleep 600");
    let_leave(world, 1);
    kill(pid(&world.ps("hello")["supervisorPid"]));
    hello
}

#[test]
fn the_capabilities_of_the_unit_suffice() {
    let world = &World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let capabilities = capabilities(&[]);
    for forbidden in ["CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"] {
        assert!(!capabilities.iter().any(|has| has == forbidden), "{forbidden}");
    }
    let daemon = daemon_with(world, &capabilities);
    let started = daemon.ask("POST", "/v1/runs", &second().to_string());
    assert_eq!(started.json()["failed"], json!([]), "{started:?}");
    assert_answers(world, SECOND, "second");
    assert_eq!(daemon.ask("DELETE", "/v1/runs/second?timeout=1", "").status, 200);
    assert_refused(Tcp, &world.client, SECOND);
    // A VMM as a user of its own, by a supervisor that is not the daemon's.
    let hello = Hello::start(world);
    let vmm = hello.program.pid();
    assert_eq!(stop(&daemon), "the guest powered off");
    assert!(!is_alive(vmm));
    drop((hello.server, hello.guest));
    let hello = lose(world);
    wait_for("the end of the lost run", START_TIMEOUT, || {
        (world.ps("hello")["state"] == "ended").then_some(())
    });
    assert_eq!(of_slots(world), [0; 0]);
    drop((hello.server, hello.guest));
    daemon.end(Signal::TERM);
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
}

#[test]
fn without_the_capabilities_to_end_vmms_supervisors_do() {
    let world = &World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let daemon = daemon_with(world, &capabilities(&["CAP_KILL", "CAP_DAC_OVERRIDE"]));
    let hello = Hello::start(world);
    hello.program.ignore_power_button();
    hello.program.order("echo obeyed");
    let logs = || world.riklet(&["logs", "hello"], "").success();
    wait_for("the order", START_TIMEOUT, || logs().contains("obeyed").then_some(()));
    let vmm = hello.program.pid();
    assert_eq!(stop(&daemon), "its supervisor ended it");
    assert!(!is_alive(vmm));
    assert_eq!(world.state_of("hello"), ("ended".to_owned(), "stopped".to_owned()));
    // A lost run, which only root with these capabilities can end. The slot stays taken until then.
    drop((hello.server, hello.guest));
    let hello = lose(world);
    wait_for("the event", START_TIMEOUT, || {
        daemon.events().contains("cannot end the process of hello").then_some(())
    });
    assert_eq!(world.ps("hello")["state"], "lost");
    assert!(!of_slots(world).is_empty());
    world.riklet(&["--no-daemon", "repair"], "").success();
    assert_eq!(of_slots(world), [0; 0]);
    assert_eq!(world.ps("hello")["state"], "ended");
    drop((hello.server, hello.guest));
    daemon.end(Signal::TERM);
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
}

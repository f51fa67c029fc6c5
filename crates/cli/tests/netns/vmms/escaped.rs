//! VMMs that were taken over, and leave behind what no mark, group or session finds: only their user is left.

use super::*;
use crate::supervised;

/// Starts processes with an empty environment, in sessions of their own, whose parent is gone.
const ESCAPE: &str = "for n in 1 2 3; do env -i setsid -f sleep 600; done";

/// Returns the processes of the users of a world's first slots that have not ended.
pub(super) fn of_slots(world: &World) -> Vec<u32> {
    let first = world.directory.users() + 1;
    let users = first..first + 64;
    let entries = fs::read_dir("/proc").expect("proc(5)").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let theirs = numbers.filter(|number| {
        fs::metadata(format!("/proc/{number}")).is_ok_and(|found| users.contains(&found.uid()))
    });
    let alive =
        |number: &u32| riklet_kernel::process::ProcessId::of(*number).is_ok_and(|id| id.is_some());
    theirs.filter(alive).collect()
}

/// Waits until so many processes have left a VMM, and takes them out of their cgroup, as on a host that has none: it
/// would end them.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "files of procfs")]
pub(super) fn let_leave(world: &World, count: usize) {
    let name = |id: &u32| fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    let left = wait_for("the processes that leave", START_TIMEOUT, || {
        let left: Vec<_> = of_slots(world).into_iter().filter(|id| name(id) == "sleep\n").collect();
        (left.len() == count).then_some(left)
    });
    let Some(root) = supervised::cgroups() else { return };
    for process in left {
        let procs = OpenOptions::new().write(true).open(root.join("cgroup.procs"));
        procs.and_then(|mut file| write!(file, "{process}")).expect("root");
    }
}

/// Starts `hello`, whose VMM leaves processes behind.
fn escaped(world: &World) -> Hello {
    let hello = Hello::start(world);
    hello.program.order(ESCAPE);
    let_leave(world, 3);
    hello
}

#[test]
fn nothing_of_a_stopped_vmm_is_left() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let hello = escaped(&world);
    let stopped = world.riklet(&["stop", "--timeout", "1", "hello"], "");
    assert_eq!(stopped.code, Some(0), "{stopped}");
    assert_eq!(of_slots(&world), [0; 0]);
    assert_eq!(world.state_of("hello"), ("ended".to_owned(), "stopped".to_owned()));
    drop(hello.guest);
    assert_nothing_left(&world, &before, Some(&hello.program));
}

#[test]
fn nothing_of_a_vmm_whose_supervisor_died_is_left() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let hello = escaped(&world);
    kill(pid(&world.ps("hello")["supervisorPid"]));
    assert!(!of_slots(&world).is_empty(), "they outlive the VMM");
    world.riklet(&["repair"], "").success();
    assert_eq!(of_slots(&world), [0; 0]);
    drop((hello.server, hello.guest));
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_nothing_left(&world, &before, Some(&hello.program));
}

/// The record of the slot is gone, so nobody knew of the processes until the slot is used again.
#[test]
fn the_next_vmm_of_a_slot_finds_nobody() {
    let world = World::new(Firewall::Nftables);
    let hello = escaped(&world);
    kill(pid(&world.ps("hello")["supervisorPid"]));
    let earlier = of_slots(&world);
    assert!(!earlier.is_empty(), "they outlive the VMM");
    world.riklet(&["down", "hello"], "").success();
    drop((hello.server, hello.guest));
    fs::remove_dir_all(world.directory.path().join("played-firecracker")).expect("a directory");
    let hello = Hello::start(&world);
    let now = of_slots(&world);
    assert!(!now.is_empty() && !earlier.iter().any(|id| now.contains(id)), "{earlier:?} {now:?}");
    world.riklet(&["stop", "hello"], "").success();
    assert_eq!(of_slots(&world), [0; 0]);
    drop(hello);
}

/// A second node of the host with the same users, in another network namespace.
#[test]
fn users_of_slots_are_one_nodes() {
    let (first, mut second) = (World::new(Firewall::Nftables), World::new(Firewall::Nftables));
    let base = first.directory.users().to_string();
    second.environment.insert("RIKLET_SDN_VMM_UID_BASE".to_owned(), base);
    let hello = Hello::start(&first);
    Program::install(&second, "firecracker", "");
    let refused = detach(&second, &super::hello(&second, "firecracker")).wait().failure(1);
    let uid = first.directory.users() + 1;
    let expected =
        format!("user {uid} of its slot is not free: another process runs a VMM as this user");
    assert!(refused.contains(&expected) && refused.contains("set vmm_uid_base"), "{refused}");
    assert!(is_alive(hello.program.pid()));
    first.riklet(&["stop", "hello"], "").success();
}

//! VMMs that another program starts.

use super::*;

/// The VMM is a program that another one starts and waits for, or starts in a session of its own (setsid(2)).
const WRAPPERS: [&str; 2] = [
    "if [ -z \"$INNER\" ]; then INNER=1 \"$0\" \"$@\"; exit; fi",
    "if [ -z \"$INNER\" ]; then INNER=1 setsid -f \"$0\" \"$@\"; exec sleep 600; fi",
];

#[test]
fn a_vmm_in_a_wrapper_ends_with_its_run() {
    for wrapper in WRAPPERS {
        let world = World::new(Firewall::Nftables);
        let before = SystemState::take(&world.node);
        let hello = Hello::with(&world, &hello(&world, "firecracker"), wrapper);
        let (vmm, first) = (hello.program.pid(), pid(&world.ps("hello")["pid"]));
        assert!(vmm != first && is_alive(vmm) && is_alive(first));
        hello.program.ignore_power_button();
        let began = now();
        let stopped = world.riklet(&["stop", "--timeout", "1", "hello"], "");
        assert_eq!(stopped.code, Some(0), "{stopped}");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}: {stopped}", began.elapsed());
        assert!(!is_alive(first));
        drop(hello.guest);
        assert_nothing_left(&world, &before, Some(&hello.program));
    }
}

#[test]
fn a_vmm_in_a_wrapper_ends_after_its_supervisor_died() {
    for wrapper in WRAPPERS {
        let world = World::new(Firewall::Nftables);
        let before = SystemState::take(&world.node);
        let hello = Hello::with(&world, &hello(&world, "firecracker"), wrapper);
        kill(pid(&world.ps("hello")["supervisorPid"]));
        assert!(is_alive(hello.program.pid()), "the kernel ends the wrapper alone");
        world.riklet(&["repair"], "").success();
        assert!(!is_alive(hello.program.pid()));
        drop((hello.server, hello.guest));
        world.riklet(&["down", "--all", "--purge"], "").success();
        assert_nothing_left(&world, &before, Some(&hello.program));
    }
}

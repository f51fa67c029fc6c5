//! Words without which a user would not know: of what a daemon serves, of an interruption, of a guest that lost its
//! network, and of a definition that no run could use.

use std::process;

use rustix::process::Signal;
use serde_json::json;

use crate::world::{
    Firewall, World,
    function::{Function, exposure, function},
    held::{Held, HoldPoint},
    on_every_firewall,
    traffic::PATIENCE,
    transport::Transport::Tcp,
    wait_for,
};

on_every_firewall!(down_names_the_process_that_has_the_tap_open, |world| {
    let web = || function("web", &[exposure(Tcp, 8080, 3000)]);
    let [guest]: [Function; 1] = world.start([(web(), &[(Tcp, 3000)])]);
    let down = world.riklet(&["down", "web"], "");
    let ours =
        format!("(pid {}) had rik0 open, and its guest has lost the network\n", process::id());
    assert!(down.code == Some(0) && down.stderr.starts_with("warning: web: "), "{down}");
    assert!(down.stderr.ends_with(&ours), "{down}");
    drop(guest);
    world.up(&[web()]);
    let down = world.riklet(&["down", "web"], "");
    assert_eq!((down.code, &*down.stderr), (Some(0), ""), "nobody had it open");
});

#[test]
fn daemon_warns_of_a_tap_that_is_open() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let web = function("web", &[exposure(Tcp, 8080, 3000)]);
    let [_guest]: [Function; 1] = world.start([(web, &[])]);
    wait_for("the daemon to see who has the TAP open", PATIENCE, || {
        (daemon.get("/v1/functions")[0]["link"] == "attached").then_some(())
    });
    let down = world.riklet(&["down", "web"], "");
    let words = " open, and its guest has lost the network\n";
    assert!(down.code == Some(0) && down.stderr.ends_with(words), "{down}");
}

#[test]
fn daemon_says_what_it_serves() {
    let world = &World::new(Firewall::Nftables);
    world.riklet(&["up", "-"], &function("web", &[]).to_string()).success();
    let daemon = world.daemon(&["--metrics", "127.0.0.1:9464"]).into_running();
    daemon.signal(Signal::TERM);
    let said = daemon.wait().stderr;
    let line = format!(
        "serving 1 function on {}; firewall nftables, guests 10.231.0.0/16, uplinks of the default route; \
         metrics at http://127.0.0.1:9464/metrics\n",
        world.socket().display()
    );
    assert!(said.contains(&line), "{said}");
}

#[test]
fn interrupted_command_says_what_is_not_complete() {
    let world = &World::new(Firewall::IptablesLegacy);
    world.riklet(&["up", "-"], &function("web", &[]).to_string()).success();
    let held = Held::restore(world, "-A RIKLET -p tcp", HoldPoint::Before);
    let definition = function("api", &[exposure(Tcp, 8080, 3000)]).to_string();
    let running = world.riklet_in_background(&["up", "-"], &definition);
    held.wait();
    running.signal(Signal::INT);
    let interrupted = running.wait_within(PATIENCE);
    assert_eq!(interrupted.code, None, "{interrupted}");
    let words = "interrupted: not complete: api\n\
                 hint: the same command again completes it, or `riklet-sdn repair`\n";
    assert_eq!(interrupted.stderr, words);
    drop(held);
    world.riklet(&["up", "-"], &definition).success();
    world.riklet(&["check"], "").success();
}

#[test]
fn plan_refuses_images_that_no_run_could_obtain() {
    let world = &World::new(Firewall::Nftables);
    let mut definition = function("web", &[]);
    definition["spec"]["function"]["execution"] =
        json!({ "kernel": "ftp://images/vmlinux", "rootfs": "/srv/web.ext4", "user": "root" });
    for command in ["plan", "run"] {
        let refused = world.riklet(&[command, "-"], &definition.to_string()).failure(2);
        assert!(
            refused.starts_with(
                "error: web cannot be run: cannot use the kernel: ftp:// is not supported"
            ),
            "{command}: {refused}"
        );
    }
}

#[test]
fn doctor_says_that_the_kernel_lacks_what_iptables_refuses_with() {
    let world = &World::new(Firewall::IptablesLegacy);
    let program = env!("CARGO_BIN_EXE_riklet-sdn");
    let doctor = |egress| {
        let traced =
            ["-f", "-qq", "-e", "trace=getsockopt", "-e", "inject=getsockopt:error=ENOENT"];
        let asked = [program, "--egress", egress, "doctor"];
        world.program("strace", &[&traced[..], &asked].concat(), "").stdout
    };
    let words = "the kernel lacks the match `socket`";
    let told = doctor("internet");
    assert!(told.contains(words), "{told}");
    let told = doctor("all");
    assert!(!told.contains(words), "{told}");
    let told = world.riklet(&["doctor"], "").stdout;
    assert!(!told.contains(words), "{told}");
}

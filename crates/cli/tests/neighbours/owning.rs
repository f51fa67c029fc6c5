//! A stand-in for a newer firewalld, which owns its table: nobody else can change it. Its rules are those that firewalld
//! 2.5.999 writes for the configuration of [`crate::firewalld`], without our zone and policies and with them, as far as
//! packets of these tests get there.

use crate::{
    router::Routed,
    stage::{Stage, Us, on_machines},
    world::{World, function::function, owned::Owned, wait_for},
};

use std::time::Duration;

const WITHOUT_US: &str = include_str!("dumps/firewalld-2.5.999");
const WITH_OUR_FILES: &str = include_str!("dumps/firewalld-2.5.999-riklet");
const FILES: [&str; 3] = [
    "/etc/firewalld/zones/riklet.xml",
    "/etc/firewalld/policies/riklet-from.xml",
    "/etc/firewalld/policies/riklet-to.xml",
];
const PATIENCE: Duration = Duration::from_secs(10);

struct Firewalld<'a> {
    world: &'a World,
    table: Owned<'a>,
}

impl<'a> Firewalld<'a> {
    #[track_caller]
    fn start(world: &'a World) -> Self {
        world.node.set_sysctl("net/ipv4/ip_forward", "1");
        Self { world, table: Owned::load(world, "firewalld", rules(world)) }
    }

    /// Reads the configuration again.
    #[track_caller]
    fn reload(&mut self) {
        self.table.reload(rules(self.world));
    }

    #[track_caller]
    fn stop(self) {
        self.table.end();
    }
}

/// Returns the rules for the files that are there.
#[track_caller]
fn rules(world: &World) -> &'static str {
    if has_our_files(world) { WITH_OUR_FILES } else { WITHOUT_US }
}

/// Reports whether firewalld has all our files, or none.
#[track_caller]
fn has_our_files(world: &World) -> bool {
    let has = |file: &&str| world.program("test", &["-e", file], "").code == Some(0);
    match FILES.iter().filter(|file| has(file)).count() {
        0 => false,
        3 => true,
        some => panic!("{some} of our files"),
    }
}

/// Asserts that `check` says what happens and what helps, and that the real firewalld understands our files.
#[track_caller]
fn assert_told(stage: &Stage) {
    if !stage.takes_part() {
        return;
    }
    let world = &stage.world;
    let check = wait_for(
        "check to say that functions are cut off, and that nothing is left to do",
        PATIENCE,
        || {
            let check = world.riklet(&["check"], "");
            let told =
                check.stdout.contains("functions are cut off") && !check.stdout.contains('+');
            (check.code == Some(1) && told).then_some(check)
        },
    );
    assert!(check.stdout.contains("`firewall-cmd --reload`"), "{check}");
    assert!(has_our_files(world));
    let offline = |argument: &str| {
        let arguments = ["--zone=riklet", argument];
        world.program("firewall-offline-cmd", &arguments, "").success()
    };
    assert_eq!(offline("--list-interfaces").trim(), "rik+");
    world.program("firewall-offline-cmd", &["--check-config"], "").success();
}

fn before_us(stage: &Stage) {
    let world = &stage.world;
    let mut firewalld = Firewalld::start(world);
    let routed = Routed::start(stage);
    routed.assert_works(stage, "before us");
    if stage.takes_part() {
        stage.start_daemon();
        let up = world.riklet(&["up", "-"], &function("first", &[]).to_string());
        assert_eq!(up.code, Some(0), "{up}");
        assert!(up.stderr.contains("run `firewall-cmd --reload`"), "{up}");
    }
    assert_told(stage);
    firewalld.reload();
    stage.we_come();
    stage.we_recover();
    routed.assert_works(stage, "beside us");
    firewalld.reload();
    stage.we_recover();
    routed.assert_works(stage, "after a reload");
    firewalld.stop();
    stage.we_recover();
    stage.assert_functions_work("when firewalld has stopped");
    let mut firewalld = Firewalld::start(world);
    stage.we_recover();
    routed.assert_works(stage, "when firewalld has started again");
    let said = stage.we_go_and_say();
    assert_eq!(said.matches("`firewall-cmd --reload`").count() == 1, stage.takes_part(), "{said}");
    assert!(!has_our_files(world));
    firewalld.reload();
    routed.assert_works(stage, "when we are gone");
    stage.snapshot("while firewalld runs");
    firewalld.stop();
    stage.snapshot("when firewalld has stopped");
}

fn after_us(stage: &Stage) {
    let world = &stage.world;
    stage.we_come();
    let mut firewalld = Firewalld::start(world);
    let routed = Routed::start(stage);
    if stage.takes_part() && !stage.has_daemon() {
        let repair = world.riklet(&["repair"], "");
        assert!(repair.stderr.contains("run `firewall-cmd --reload`"), "{repair}");
    }
    assert_told(stage);
    firewalld.reload();
    stage.we_recover();
    routed.assert_works(stage, "after us");
    firewalld.stop();
    stage.assert_functions_work("when firewalld has stopped");
    stage.we_go();
    stage.snapshot("when firewalld has stopped");
}

on_machines!(comes_before_us, Us::Commands, before_us);
on_machines!(comes_after_us, Us::Commands, after_us, [nftables: Nftables]);
on_machines!(comes_before_the_daemon, Us::Daemon, before_us, [nftables: Nftables]);
on_machines!(comes_after_the_daemon, Us::Daemon, after_us);

/// The rules of this firewalld where it does not own its table: our passage is enough, and it gets no files.
fn without_ownership(stage: &Stage) {
    let world = &stage.world;
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let load = || {
        let anew = "add table inet firewalld\ndelete table inet firewalld\n";
        let rules = format!("{anew}add table inet firewalld\n{WITHOUT_US}");
        world.node.feed(&["nft", "-f", "-"], &rules).success();
    };
    load();
    let routed = Routed::start(stage);
    routed.assert_works(stage, "before us");
    stage.we_come();
    routed.assert_works(stage, "beside us");
    load();
    stage.we_recover();
    routed.assert_works(stage, "after a reload");
    assert!(!has_our_files(world));
    stage.we_go();
    stage.snapshot("while firewalld runs");
}

on_machines!(owns_nothing, Us::Commands, without_ownership);

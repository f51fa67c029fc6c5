//! Programs that are made to wait or to fail at a certain place, so that something happens to who called them.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use super::{Firewall, World, wait_for};

/// The point at which a program waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldPoint {
    /// It has its input, and has done nothing.
    Before,
    /// It has done everything, and not ended.
    After,
}

/// An `iptables-restore` that does something else too. One that waits goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    /// While it exists, programs wait.
    pub(crate) gate: PathBuf,
    /// Exists once a program waits.
    pub(crate) arrived: PathBuf,
}

impl Held {
    /// From now on, the node's `iptables-restore` waits where its input has this text.
    pub(crate) fn restore(world: &World, text: &str, place: HoldPoint) -> Self {
        let held = Self::new(world);
        let (gate, arrived) = (held.gate.display(), held.arrived.display());
        let wait = format!(": >'{arrived}'; while [ -e '{gate}' ]; do sleep 0.01; done");
        replace_restore(world, text, &wait, place);
        held
    }

    /// From now on, the node's `iptables-restore` fails where its input has this text.
    pub(crate) fn refuse(world: &World, text: &str) -> Self {
        let held = Self::new(world);
        replace_restore(world, text, "echo out of order >&2; exit 4", HoldPoint::Before);
        held
    }

    fn new(world: &World) -> Self {
        let path = |name: &str| world.directory.path().join(name);
        let (gate, arrived) = (path("gate"), path("arrived"));
        File::create(&gate).expect("a file");
        Self { gate, arrived }
    }

    /// Waits until a program waits.
    #[track_caller]
    pub(crate) fn wait(&self) {
        wait_for("a program to wait", Duration::from_secs(20), || {
            self.arrived.exists().then_some(())
        });
    }
}

impl Drop for Held {
    #[expect(clippy::disallowed_methods, reason = "a file of the test's own")]
    fn drop(&mut self) {
        fs::remove_file(&self.gate).ok();
    }
}

/// The program does this as well, before or after what it does for real.
fn replace_restore(world: &World, text: &str, more: &str, place: HoldPoint) {
    let more = format!("case $input in *'{text}'*) {more};; esac");
    let program = world.firewall.xtables();
    let real = format!("printf %s \"${{input%x}}\" | {program} iptables-restore \"$@\"; code=$?");
    let [first, second] = match place {
        HoldPoint::Before => [more, real],
        HoldPoint::After => [real, more],
    };
    let variant = match world.firewall {
        Firewall::Nftables | Firewall::IptablesNft => "nft",
        Firewall::IptablesLegacy => "legacy",
    };
    let path = world.directory.path().join(format!("bin/iptables-{variant}-restore"));
    let text = format!("#!/bin/sh\ninput=$(cat; echo x)\n{first}\n{second}\nexit $code\n");
    // Written by a process that starts no other: who has it open for writing keeps it from being run
    // (`ETXTBSY` of execve(2)).
    let write = format!("cat >'{0}' && chmod 755 '{0}'", path.display());
    world.program("sh", &["-c", &write], &text).success();
}

//! Programs that wait or fail at a certain point, so that tests can act on the process that called them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Firewall, World, wait_for};

/// The point at which a program waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldPoint {
    /// After the program has read its input, before it does anything.
    Before,
    /// After the program has done everything, before it ends.
    After,
}

/// An `iptables-restore` that also waits or fails. Dropping this lets a waiting one continue.
#[derive(Debug)]
pub(crate) struct Held {
    /// Programs wait while this file exists.
    pub(crate) gate: PathBuf,
    /// This file exists once a program waits.
    pub(crate) arrived: PathBuf,
}

impl Held {
    /// Makes the node's `iptables-restore` wait from now on, if its input contains this text.
    pub(crate) fn restore(world: &World, text: &str, place: HoldPoint) -> Self {
        let held = Self::new(world);
        let (gate, arrived) = (held.gate.display(), held.arrived.display());
        let wait = format!(": >'{arrived}'; while [ -e '{gate}' ]; do sleep 0.01; done");
        replace_restore(world, text, &wait, place);
        held
    }

    /// Makes the node's `iptables-restore` fail from now on, if its input contains this text.
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

/// Makes the node's `iptables-restore` run these commands as well, before or after its real work.
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
    world.install(&path, &text);
}

impl World {
    /// Writes a program. A process that starts no other writes the file: while a process has it open for writing, as one has
    /// that another test has just forked off, it cannot be run (`ETXTBSY` of execve(2)).
    #[track_caller]
    pub(crate) fn install(&self, path: &Path, text: &str) {
        let write = "cat >\"$0\" && chmod 755 \"$0\"";
        self.program("sh", &["-c", write, path.to_str().expect("UTF-8")], text).success();
    }
}

//! Simulated VMMs on the node's PATH: a program that obeys the test, and a server of its API in the test.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Pid;
use serde_json::Value;

use crate::{
    server::{HttpRequest, Play, Reply, Server},
    world::{
        World,
        command::{Output, Running},
        wait_for,
    },
};

/// The time that a program may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The state of `/dev/kvm` on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kvm {
    /// A device that can be opened, and does nothing else.
    Opens,
    Missing,
    /// A device that cannot be opened.
    Denied,
    /// A device that only root can open.
    Private,
    /// A device that can be opened, while only root can open `/dev/net/tun`.
    PrivateTun,
}

impl Kvm {
    /// Returns the shell commands that create the device.
    fn script(self) -> &'static str {
        match self {
            Self::Opens => "mknod -m 666 $DEV/kvm c 1 3",
            Self::Private => "mknod -m 600 $DEV/kvm c 1 3",
            Self::PrivateTun => "mknod -m 666 $DEV/kvm c 1 3; chmod 600 $DEV/net/tun",
            Self::Missing => ":",
            // A device on a file system mounted `nodev` cannot be opened (mount(8)).
            Self::Denied => {
                "mkdir $DEV/none && mount -t tmpfs -o nodev none $DEV/none && \
                 mknod $DEV/none/kvm c 10 232 && touch $DEV/kvm && mount --bind $DEV/none/kvm $DEV/kvm"
            }
        }
    }
}

impl World {
    /// Returns the arguments of `unshare` that run `riklet-sdn` where `/dev` has everything that TAPs need, and such a
    /// `/dev/kvm`. The umask of root makes its files private (umask(2)).
    fn with_kvm(&self, kvm: Kvm, arguments: &[&str]) -> Vec<String> {
        let dev = self.directory.path().join("dev");
        let script = format!(
            "set -e; DEV={}; mkdir -p $DEV; mount -t tmpfs none $DEV; mkdir $DEV/net; \
             mknod -m 666 $DEV/net/tun c 10 200; mknod -m 666 $DEV/null c 1 3; \
             mknod -m 666 $DEV/urandom c 1 9; {}; mount --rbind $DEV /dev; umask 077; \
             exec \"$@\"",
            dev.display(),
            kvm.script()
        );
        let program = env!("CARGO_BIN_EXE_riklet-sdn");
        let words = ["--mount", "sh", "-c", &*script, "sh", program];
        words.iter().chain(arguments).map(|&word| word.to_owned()).collect()
    }

    /// Runs `riklet-sdn` on a node that has such a `/dev/kvm`.
    #[track_caller]
    pub(crate) fn riklet_with(&self, kvm: Kvm, arguments: &[&str], stdin: &str) -> Output {
        let arguments = self.with_kvm(kvm, arguments);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.program("unshare", &arguments, stdin)
    }

    /// Starts `riklet-sdn` in the background, on a node whose `/dev/kvm` can be opened.
    #[track_caller]
    pub(crate) fn riklet_with_kvm(&self, arguments: &[&str], stdin: &str) -> Running {
        let arguments = self.with_kvm(Kvm::Opens, arguments);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.program_in_background("unshare", &arguments, stdin)
    }
}

/// A program on the node's PATH. It records how it was started, prints a line when it has, then carries out the test's
/// orders.
#[derive(Debug)]
pub(crate) struct Program {
    directory: PathBuf,
}

impl Program {
    /// Puts a program of this name on the PATH. It runs `first` before anything else.
    #[track_caller]
    pub(crate) fn install(world: &World, name: &str, first: &str) -> Self {
        let directory = world.directory.path().join(format!("played-{name}"));
        let path = directory.display();
        let script = format!(
            "#!/bin/sh\n{first}\nexec 3<>{path}/orders\nid -u >{path}/uid\nid -g >{path}/gid\npwd >{path}/pwd\n\
             touch mine && rm mine && touch {path}/at-home\necho $$ >{path}/pid\n\
             for word; do echo \"$word\"; done >{path}/arguments.part\n\
             mv {path}/arguments.part {path}/arguments\necho \"{name} begins\"\n\
             while read -r order <&3; do eval \"$order\"; done\n"
        );
        let program = world.directory.path().join("bin").join(name);
        world.install(&program, &script);
        std::fs::create_dir(&directory).expect("a directory");
        let everybodys = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&directory, everybodys).expect("a directory of the test's own");
        let orders = directory.join("orders");
        world.node.tool(&["mkfifo", "-m", "666", orders.to_str().expect("UTF-8")]);
        Self { directory }
    }

    /// Tells whether the program was ever started.
    pub(crate) fn has_started(&self) -> bool {
        self.directory.join("arguments").exists()
    }

    /// Waits until the program has started, and returns this part of its record.
    #[track_caller]
    pub(crate) fn recorded(&self, what: &str) -> String {
        wait_for("a VMM to begin", START_TIMEOUT, || read(&self.directory.join("arguments")));
        read(&self.directory.join(what)).unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn arguments(&self) -> Vec<String> {
        self.recorded("arguments").lines().map(ToOwned::to_owned).collect()
    }

    #[track_caller]
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.recorded("pid").parse().expect("a number")).expect("not 0")
    }

    /// Tells whether it could create a file in its working directory.
    pub(crate) fn can_write_home(&self) -> bool {
        self.recorded("at-home");
        self.directory.join("at-home").exists()
    }

    /// Makes the program run this line of shell.
    pub(crate) fn order(&self, line: &str) {
        order(&self.directory.join("orders"), line);
    }

    /// Serves the program's API with this player, on the socket in its arguments. The program ends at the power
    /// button.
    #[track_caller]
    pub(crate) fn serve(&self, player: impl Play) -> Server {
        let arguments = self.arguments();
        let names = |word: &&String| word.ends_with("/api.sock");
        let socket = arguments.iter().find(names);
        let socket = socket.unwrap_or_else(|| panic!("no socket in {arguments:?}"));
        let socket = PathBuf::from(socket.trim_start_matches("path="));
        let orders = self.directory.join("orders");
        let user = self.recorded("uid").parse().expect("a number");
        Server::at_as(user, socket, EndsAtPowerButton { player, orders })
    }

    /// Forgets that the program was started, so that it can be started again.
    pub(crate) fn forget_start(&self) {
        std::fs::rename(self.directory.join("arguments"), self.directory.join("before"))
            .expect("a program that has begun");
    }
}

/// A guest that ends when its power button is pressed.
struct EndsAtPowerButton<P> {
    player: P,
    orders: PathBuf,
}

impl<P: Play> Play for EndsAtPowerButton<P> {
    fn answer(&mut self, request: &HttpRequest) -> Reply {
        let reply = self.player.answer(request);
        let body = request.body.as_ref().unwrap_or(&Value::Null);
        let asked =
            body["action_type"] == "SendCtrlAltDel" || request.path.ends_with("power-button");
        if asked && !self.orders.with_file_name("deaf").exists() {
            order(&self.orders, "exit 0");
        }
        reply
    }
}

impl Program {
    /// Makes the guest ignore its power button from now on.
    pub(crate) fn ignore_power_button(&self) {
        write(&self.directory.join("deaf"), "");
    }
}

fn order(orders: &Path, line: &str) {
    // Opened for reading too, so that this does not wait for a reader (fifo(7)).
    let file = OpenOptions::new().read(true).write(true).open(orders);
    writeln!(file.expect("a pipe"), "{line}").expect("a short line");
}

#[expect(clippy::disallowed_methods, reason = "the harness' own files")]
fn write(path: &Path, content: &str) {
    std::fs::write(path, content).expect("a file of the test's own");
}

#[expect(clippy::disallowed_methods, reason = "the harness' own files")]
fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

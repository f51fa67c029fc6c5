//! A simulated machine for the node: daemons that expect to be alone get files and process ids of their own.

use std::{
    fs::File,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    Namespace, World,
    command::{self, Running},
    system, wait_for,
};

/// Empties `/run` and `/dev/shm`, makes changes to `/etc` and `/var` private, and `/sys` read-only. Then reaps all
/// orphaned processes until its standard input ends. `$1` is the program that acts as `iptables`.
const INIT: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir -p /run/lock /run/netns /run/dbus
for directory in etc var; do
    mkdir -p /run/private/$directory/upper /run/private/$directory/work
    mount -t overlay overlay /$directory -o \
        lowerdir=/$directory,upperdir=/run/private/$directory/upper,workdir=/run/private/$directory/work
done
for family in iptables ip6tables; do
    for suffix in '' -save -restore; do
        ln -sfn "$1" /run/private/$family$suffix
        ln -sfn /run/private/$family$suffix /etc/alternatives/$family$suffix
    done
done
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec tini -s -- sh -c 'echo ready; exec cat >/dev/null'
"#;

/// Mount, process, IPC and host name namespaces. Their first process ends when this is dropped or when the tests end,
/// and all other processes in them end with it (`pid_namespaces(7)`).
#[derive(Debug)]
pub(crate) struct Machine {
    /// The `unshare` process, whose only child is the first process.
    unshare: Mutex<Option<Running>>,
    mounts: File,
    processes: File,
    /// The path under `/proc` that leads to the root directory of its first process.
    root: PathBuf,
    /// The cgroup for containers, which ends with no namespace.
    cgroup: String,
}

impl World {
    /// Gives the programs on the node a machine of their own. The neighbours stay the same.
    #[track_caller]
    pub(crate) fn on_a_machine(mut self) -> Self {
        self.node.machine = Some(Arc::new(Machine::new(&self)));
        self
    }

    /// Returns the machine that [`World::on_a_machine`] made.
    #[track_caller]
    pub(crate) fn machine(&self) -> &Machine {
        self.node.machine.as_deref().expect("a machine")
    }
}

impl Machine {
    #[track_caller]
    fn new(world: &World) -> Self {
        let options = ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"];
        let more = ["--propagation", "private", "--mount-proc", "sh", "-c", INIT, "init"];
        let arguments = [&options[..], &more, &[world.firewall.xtables()]].concat();
        let environment = command::environment();
        let mut unshare = command::start_held(&world.node, "unshare", &arguments, &environment);
        unshare.wait_for_line("ready");
        let &[init] = &unshare.children()[..] else { panic!("one child of `unshare`") };
        let process = PathBuf::from(format!("/proc/{}", init.as_raw_nonzero()));
        let open = |name: &str| File::open(process.join("ns").join(name)).expect("a namespace");
        let name = world.directory.path().file_name().and_then(|name| name.to_str());
        Self {
            unshare: Mutex::new(Some(unshare)),
            mounts: open("mnt"),
            processes: open("pid"),
            root: process.join("root"),
            cgroup: name.expect("a name").to_owned(),
        }
    }

    /// Moves the calling thread to the machine's files. Programs that the thread starts from then on run on the
    /// machine.
    pub(super) fn enter(&self) {
        system::unshare_directories().expect("unshare");
        for (file, kind) in [
            (&self.processes, LinkNameSpaceType::ProcessID),
            (&self.mounts, LinkNameSpaceType::Mount),
        ] {
            move_into_link_name_space(file.as_fd(), Some(kind)).expect("setns");
        }
    }

    /// Returns the cgroup that container engines must put their containers' cgroups into.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Returns the network namespace of one of the machine's processes, by its process id there.
    #[track_caller]
    pub(crate) fn network_of(&self, process: &str) -> Namespace {
        let path = self.root.join(format!("proc/{process}/ns/net"));
        let file = wait_for(&format!("the process {process}"), Duration::from_secs(20), || {
            File::open(&path).ok()
        });
        Namespace { file: Arc::new(file), machine: None }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Waits for `unshare`: the machine's processes are gone when it has ended.
        drop(self.unshare.get_mut().map(Option::take));
        let remove = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && cd /sys/fs/cgroup && \
             [ ! -d \"$1\" ] || find \"$1\" -depth -type d -exec rmdir {} +";
        let arguments = ["--mount", "sh", "-c", remove, "sh", &self.cgroup];
        let nowhere = Namespace::new();
        drop(command::run(&nowhere, "unshare", &arguments, &command::environment(), ""));
    }
}

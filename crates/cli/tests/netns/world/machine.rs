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

/// Empties `/run` and `/dev/shm`, makes changes to `/etc` and `/var` private, and `/sys` read-only. Then runs the script `$2`
/// as process 1. `$1` is the program that acts as `iptables`; `$3` and `$4` are arguments of the script.
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
eval "$2"
"#;

/// Reaps all orphaned processes until its standard input ends.
const REAPER: &str = "exec tini -s -- sh -c 'echo ready; exec cat >/dev/null'";

/// Installs our program `$4`, and becomes systemd with a cgroup `$3` of its own and devices of its own. It starts nothing by
/// itself but its journal: the services that a host starts at boot change modes of devices and settings of the kernel.
const SYSTEMD: &str = r#"
mkdir -p /run/private/bin/upper /run/private/bin/work /run/private/dev
mount -t overlay overlay /usr/bin -o lowerdir=/usr/bin,upperdir=/run/private/bin/upper,workdir=/run/private/bin/work
touch /usr/bin/riklet-sdn
mount --bind "$4" /usr/bin/riklet-sdn
mount -t tmpfs tmpfs /run/private/dev
mkdir /run/private/dev/net /run/private/dev/shm /run/private/dev/pts
while read -r name major minor; do
    mknod -m 666 "/run/private/dev/$name" c "$major" "$minor"
done <<END
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
net/tun 10 200
END
mount --move /run/private/dev /dev
for unit in /lib/systemd/system/*.wants/*; do
    case $unit in
        *journald*) ;;
        *) ln -sf /dev/null "/etc/systemd/system/${unit##*/}" ;;
    esac
done
rm -rf /etc/systemd/system/*.wants
printf '[Unit]\nDefaultDependencies=no\n' >/etc/systemd/system/nothing.target
mkdir "/sys/fs/cgroup/$3"
echo 0 >"/sys/fs/cgroup/$3/cgroup.procs"
umount /sys/fs/cgroup
exec unshare --cgroup sh -ec '
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    echo ready
    container=other exec /lib/systemd/systemd --system --unit=nothing.target --show-status=no --log-target=null'
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
        self.node.machine = Some(Arc::new(Machine::new(&self, REAPER)));
        self
    }

    /// Gives the programs on the node a machine of their own, with systemd as its first process.
    #[track_caller]
    pub(crate) fn on_a_machine_with_systemd(mut self) -> Self {
        self.node.machine = Some(Arc::new(Machine::new(&self, SYSTEMD)));
        wait_for("systemd to be up", Duration::from_secs(30), || {
            let state = self.program("systemctl", &["is-system-running"], "");
            (state.stdout.trim() == "running").then_some(())
        });
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
    fn new(world: &World, first: &str) -> Self {
        let options = ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"];
        let more = ["--propagation", "private", "--mount-proc", "sh", "-c", INIT, "init"];
        let name = world.directory.path().file_name().and_then(|name| name.to_str());
        let name = name.expect("a name");
        let last = [world.firewall.xtables(), first, name, env!("CARGO_BIN_EXE_riklet-sdn")];
        let arguments = [&options[..], &more, &last].concat();
        let environment = command::environment();
        let mut unshare = command::start_held(&world.node, "unshare", &arguments, &environment);
        unshare.wait_for_line("ready");
        let &[init] = &unshare.children()[..] else { panic!("one child of `unshare`") };
        let process = PathBuf::from(format!("/proc/{}", init.as_raw_nonzero()));
        let open = |name: &str| File::open(process.join("ns").join(name)).expect("a namespace");
        Self {
            unshare: Mutex::new(Some(unshare)),
            mounts: open("mnt"),
            processes: open("pid"),
            root: process.join("root"),
            cgroup: name.to_owned(),
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
        // Waits for `unshare`. The kernel ends the machine's processes then, which keep their cgroups for a moment.
        drop(self.unshare.get_mut().map(Option::take));
        let remove = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && cd /sys/fs/cgroup && \
             for _ in $(seq 200); do \
                 [ ! -d \"$1\" ] || find \"$1\" -depth -type d -exec rmdir {} + 2>/dev/null && break; sleep 0.05; \
             done";
        let arguments = ["--mount", "sh", "-c", remove, "sh", &self.cgroup];
        let nowhere = Namespace::new();
        drop(command::run(&nowhere, "unshare", &arguments, &command::environment(), ""));
    }
}

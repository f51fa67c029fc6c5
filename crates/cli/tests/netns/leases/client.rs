//! A client of DHCP: udhcpc of busybox.

use std::collections::BTreeMap;

use rustix::process::Signal;

use crate::world::{Namespace, World, command::Running, traffic::PATIENCE, wait_for};

/// Does with a lease what the script of a distribution does, and prints the lease and the event.
const SCRIPT: &str = r#"#!/bin/sh
case $1 in
deconfig) ip address flush dev "$interface" ;;
bound | renew)
    ip link set "$interface" mtu "${mtu:-1500}"
    ip address replace "$ip/$mask" dev "$interface"
    [ -z "$router" ] || ip route replace default via "$router"
    ;;
esac
env
echo "event=$1"
"#;

/// A client that has a lease. Dropping this kills it.
#[derive(Debug)]
pub(super) struct Client {
    running: Running,
    /// The lease, by the names of udhcpc.
    pub(super) lease: BTreeMap<String, String>,
}

impl Client {
    /// Starts a client in the namespace, and waits until it has a lease.
    #[track_caller]
    pub(super) fn start(namespace: &Namespace, world: &World) -> Self {
        let mut client = Self::ask(namespace, world, "");
        client.wait("bound");
        client
    }

    /// Starts a client that gives up after two questions.
    #[track_caller]
    pub(super) fn ask_once(namespace: &Namespace, world: &World) -> Self {
        Self::ask(namespace, world, "-n -t 2 -T 1")
    }

    fn ask(namespace: &Namespace, world: &World, options: &str) -> Self {
        let script = world.directory.path().join("udhcpc.sh");
        world.install(&script, SCRIPT);
        let script = script.to_str().expect("UTF-8");
        let ask = format!("exec busybox udhcpc -f -i eth0 {options} -O mtu -s \"$0\" 2>&1");
        let running = namespace.start(&["sh", "-c", &ask, script]);
        Self { running, lease: BTreeMap::new() }
    }

    #[track_caller]
    fn wait(&mut self, event: &str) {
        let line = format!("event={event}");
        let output = self.running.wait_for_line(&line).to_owned();
        let last = output.trim_end().trim_end_matches(&line);
        let last = last.rsplit("event=").next().unwrap_or_default();
        let pair = |line: &str| {
            line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
        };
        self.lease = last.lines().filter_map(pair).collect();
    }

    /// Has the client renew its lease, and waits until it has.
    #[track_caller]
    pub(super) fn renew(&mut self) {
        self.running.signal(Signal::USR1);
        self.wait("renew");
    }

    /// Asserts that the client gives up without a lease.
    #[track_caller]
    pub(super) fn assert_no_lease(&mut self) {
        wait_for("the client to end", PATIENCE, || (!self.running.is_running()).then_some(()));
        let output = self.running.wait_for_line("event=leasefail");
        assert!(!output.contains("event=bound"), "{output}");
    }

    /// Has the client return its lease.
    #[track_caller]
    pub(super) fn end(self) {
        self.running.signal(Signal::TERM);
        drop(self.running.wait());
    }
}

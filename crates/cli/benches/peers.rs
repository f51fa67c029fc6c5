//! Adds and removes the network of one function, with riklet-sdn and with other programs in turn.

mod cni;
mod fcnet;
mod netavark;
mod plugin;
mod recipe;

use std::time::Duration;

use crate::{
    common::{
        daemon::Daemon,
        definition, enclosure,
        http::Client,
        namespace::Namespace,
        report::Markdown,
        samples::{Cycles, milliseconds, ratio},
    },
    one_shot::CommandLineNode,
};

const ROUNDS: usize = 50;
/// The number of functions per turn.
const TURN: usize = 10;
/// The daemon's ready slots: more than a turn uses.
const READY_SLOTS: usize = 64;

/// A program that adds and removes the network of one function while another one is present.
trait Peer {
    fn name(&self) -> &'static str;

    /// Adds and removes the network of the function of this number. No number is used twice.
    fn cycle(&mut self, number: usize) -> (Duration, Duration);

    /// Waits until no work of the last turn is under way. Called before each turn.
    fn wait_until_idle(&mut self) {}
}

pub(crate) fn measure(report: &mut Markdown) {
    let mut peers: Vec<(Box<dyn Peer>, Cycles)> = vec![
        (Box::new(Api::new()), Cycles::default()),
        (Box::new(OneShot::new()), Cycles::default()),
        (Box::new(recipe::Recipe::new()), Cycles::default()),
        (Box::new(fcnet::Fcnet::new()), Cycles::default()),
        (Box::new(netavark::Netavark::new()), Cycles::default()),
        (Box::new(cni::Cni::new()), Cycles::default()),
        (Box::new(plugin::Plugin::alone()), Cycles::default()),
        (Box::new(plugin::Plugin::beside_daemon()), Cycles::default()),
    ];
    let mut number = 1;
    for _ in 0..ROUNDS / TURN {
        for (peer, cycles) in &mut peers {
            peer.wait_until_idle();
            // In the first round of a turn, the kernel is still busy with the interfaces that the other programs
            // deleted.
            for round in 0..=TURN {
                let (add, delete) = peer.cycle(number);
                number += 1;
                if round > 0 {
                    cycles.push(add, delete);
                }
            }
        }
    }
    let measured: Vec<_> = peers.iter().map(|(peer, cycles)| (peer.name(), cycles)).collect();
    describe(report, &measured);
}

fn describe(report: &mut Markdown, measured: &[(&str, &Cycles)]) {
    let (_, ours) = measured[0];
    report.heading("Beside others");
    report.paragraph(&format!(
        "The network of one function with one TCP port, added and removed {ROUNDS} times by each, in turns of {TURN} \
         so that what else the machine does falls on all alike. Each has a network namespace of its own, in which one \
         other function is there already. A ratio is the median to that of the daemon's API in the same run."
    ));
    let mut rows = Vec::new();
    for (name, cycles) in measured {
        let [up, up99, down, down99] = cycles.cells();
        let times = |of: Duration, to: Duration| format!("{:.1}", ratio(of, to));
        rows.push([
            (*name).to_owned(),
            up,
            up99,
            times(cycles.up.p50(), ours.up.p50()),
            down,
            down99,
            times(cycles.down.p50(), ours.down.p50()),
        ]);
    }
    let header = ["", "add p50", "add p99", "ratio", "delete p50", "delete p99", "ratio"];
    report.table(header, &rows);
    report.paragraph(NOTES);
    let rest: Vec<_> = measured[1..]
        .iter()
        .map(|(name, cycles)| format!("{name} {}", milliseconds(cycles.up.p50())))
        .collect();
    eprintln!("up: API {}; {}", milliseconds(ours.up.p50()), rest.join("; "));
}

/// Notes on what each program does and does not do.
const NOTES: &str = "\
What is compared is not the same everywhere:

* *Riklet SDN, API*: `PUT` and `DELETE` on one kept connection to `riklet-sdn serve`, which has ready slots. An answer means \
that the port is published (or refused) and recorded; a deleted TAP is down, and the daemon removes it afterwards.
* *Riklet SDN, one shot*: `riklet-sdn up` and `down`, a process each, without a daemon. The TAP is gone at the end of `down`.
* *shell recipe*: `ip tuntap add`, `ip addr add`, `ip link set up` and three calls of `iptables`, and the same backwards: a \
TAP, a published port and masquerading. It has no records, checks nothing, and does not answer at 127.0.0.1.
* *fcnet-cli*: `--add simple` and `--del simple`: a TAP and masquerading by `nft`. It publishes no port.
* *netavark*: `setup` and `teardown` of a bridge network with one port mapping, without DNS, as Podman calls it. It makes a \
pair of veth in the namespace of a container, not a TAP, and a microVM would need one more step.
* *CNI*: the plugins `ptp` (with `ipMasq` and `host-local`) and `portmap`, a process each as a container runtime calls them, \
and in the other order to delete. They make a pair of veth in the namespace of a container too, not a TAP.
* *Riklet SDN, CNI*: the program as a plugin, one process that does what those two do, without a daemon and with one. It is gone \
at the end of `DEL`.

Making the namespace of a container is not counted; a container runtime must do it as well.";

/// riklet-sdn through its daemon.
struct Api {
    daemon: Daemon,
    client: Client,
}

impl Api {
    fn new() -> Self {
        let node = Namespace::new();
        let state = enclosure::directory("peer-api");
        let daemon = Daemon::start(&node, &state, "nftables", READY_SLOTS);
        let mut client = daemon.client();
        client.json("PUT", "/v1/functions/f0", &definition("f0", 10_000));
        Self { daemon, client }
    }
}

impl Peer for Api {
    fn name(&self) -> &'static str {
        "Riklet SDN, API"
    }

    fn cycle(&mut self, number: usize) -> (Duration, Duration) {
        let name = format!("f{number}");
        let (target, body) = (format!("/v1/functions/{name}"), definition(&name, 10_000 + number));
        (self.client.timed("PUT", &target, &body), self.client.timed("DELETE", &target, ""))
    }

    fn wait_until_idle(&mut self) {
        self.daemon.wait_for_ready_slots(&mut self.client);
    }
}

/// riklet-sdn without a daemon: one process per command.
struct OneShot(CommandLineNode);

impl OneShot {
    fn new() -> Self {
        let node = CommandLineNode::new("peer-one-shot", "nftables");
        node.up(0..1);
        Self(node)
    }
}

impl Peer for OneShot {
    fn name(&self) -> &'static str {
        "Riklet SDN, one shot"
    }

    fn cycle(&mut self, number: usize) -> (Duration, Duration) {
        self.0.cycle(number)
    }
}

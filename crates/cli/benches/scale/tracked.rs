//! Measures the cost of one more function while many connections are tracked.

use std::{
    fs,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::world::{READY_SLOTS, World};
use crate::common::{
    namespace::Namespace,
    report::{Bound, Markdown},
    samples::{Cycles, Samples, milliseconds, ratio},
};

const TRACKED: usize = 100_000;
/// The number of ports that each of the sending sockets sends to. It is more than its part: a datagram to the socket itself
/// may make no entry.
const PORTS: u16 = 50_010;
/// The number of turns of ups and downs. Each turn has fewer functions than there are ready slots.
const TURNS: usize = 5;
const TURN: usize = 20;

pub(crate) fn measure(report: &mut Markdown) {
    let mut none = World::new("untracked", "nftables", READY_SLOTS);
    let mut many = World::new("tracked", "nftables", READY_SLOTS);
    // The firewall tracks connections once there is a function.
    none.fill(1);
    many.fill(1);
    let (mut beside_none, mut beside_many) = (Cycles::default(), Cycles::default());
    for _ in 0..TURNS {
        none.cycles(TURN, &mut beside_none);
        none.wait_until_idle();
        track(&many.cable.node);
        many.cycles(TURN, &mut beside_many);
        many.wait_until_idle();
    }
    report.heading("One more, where many connections are tracked");
    report.paragraph(&format!(
        "`PUT` and `DELETE` of one function through the API, with ready slots, where {TRACKED} connections are tracked, in \
         turns with another node that tracks none: {TURNS} turns of {TURN}. For each interface that goes down, the kernel's \
         masquerading looks through all of them (`masq_device_event`), which is left to the task that deletes the TAP."
    ));
    let row = |name: &str, cycles: &Cycles| {
        let [up, up99, down, down99] = cycles.cells();
        [name.to_owned(), up, up99, down, down99]
    };
    let rows = [row("0", &beside_none), row(&TRACKED.to_string(), &beside_many)];
    report.table(["connections", "up p50", "up p99", "down p50", "down p99"], &rows);
    report.bound(
        "`down` p50 with 100,000 tracked connections to that with none",
        Bound::AtMost(1.3),
        ratio(beside_many.down.p50(), beside_none.down.p50()),
        " times",
    );
    measure_forgetting(&mut many, report);
}

/// Measures the requests for other functions while flows are forgotten all the time.
fn measure_forgetting(node: &mut World, report: &mut Markdown) {
    let (mut quiet, mut beside) = (Cycles::default(), Cycles::default());
    let (mut quiet_lists, mut lists) = (Samples::default(), Samples::default());
    let mut forgotten = Samples::default();
    for _ in 0..TURNS {
        track(&node.cable.node);
        quiet_lists.append(node.cycles_beside_others(TURN, &mut quiet));
        node.wait_until_idle();
        forgotten.append(while_forgetting(node, |node| {
            lists.append(node.cycles_beside_others(TURN, &mut beside));
        }));
        node.wait_until_idle();
    }
    report.heading("Others, while flows are forgotten");
    report.paragraph(&format!(
        "`PUT`, `DELETE` and list of functions by TCP where {TRACKED} connections are tracked, alone and beside another client \
         that publishes a UDP port again and again: for each, the kernel looks through all of them, in {} (p50). That is left \
         to a thread that only the answer to this client waits for.",
        milliseconds(forgotten.p50())
    ));
    let row = |name: &str, cycles: &Cycles, lists: &Samples| {
        let [up, up99, down, down99] = cycles.cells();
        [name.to_owned(), up, up99, down, down99, milliseconds(lists.p50())]
    };
    let rows = [row("alone", &quiet, &quiet_lists), row("beside it", &beside, &lists)];
    report.table(["", "up p50", "up p99", "down p50", "down p99", "list p50"], &rows);
    for (what, of, to) in [
        ("up", beside.up.p50(), quiet.up.p50()),
        ("down", beside.down.p50(), quiet.down.p50()),
        ("list", lists.p50(), quiet_lists.p50()),
    ] {
        let what = format!("`{what}` p50 beside another client's forgotten flows to that alone");
        report.bound(&what, Bound::AtMost(3.0), ratio(of, to), " times");
    }
}

/// Has another client publish a port by UDP, and withdraw it, until the work is done. Returns the times of its `up`.
fn while_forgetting(node: &mut World, work: impl FnOnce(&mut World)) -> Samples {
    const TARGET: &str = "/v1/functions/datagrams";
    let definition = r#"{"apiVersion":"v1","kind":"Function","name":"datagrams","spec":{"function":
        {"exposure":[{"port":9999,"targetPort":3000,"protocol":"udp"}]}}}"#;
    let mut client = node.client();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut ups = Samples::default();
            while !done.load(Ordering::Relaxed) {
                ups.push(client.timed("PUT", TARGET, definition));
                client.timed("DELETE", TARGET, "");
            }
            ups
        });
        work(node);
        done.store(true, Ordering::Relaxed);
        other.join().unwrap()
    })
}

/// Has the node track this many connections, by datagrams to itself that nobody answers.
fn track(node: &Namespace) {
    node.sh("sysctl -q net.netfilter.nf_conntrack_udp_timeout=600");
    node.run(|| {
        for _ in 0..TRACKED.div_ceil(usize::from(PORTS)) {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            for port in 1..=PORTS {
                // A refusal of an earlier one is told by the next, which is not sent then.
                for _ in 0..2 {
                    if socket.send_to(b"x", ("127.0.0.1", port)).is_ok() {
                        break;
                    }
                }
            }
        }
        let count = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
        assert!(count.trim().parse::<usize>().unwrap() >= TRACKED, "only {count} are tracked");
    });
}

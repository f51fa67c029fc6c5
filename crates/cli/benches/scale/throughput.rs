//! Measures the throughput to a guest, by its published port and by its own address.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{
    guest::{Guest, Processor},
    kernel::{Bare, nic},
    world::{Cable, READY_SLOTS, World},
};
use crate::common::{
    namespace::Namespace,
    report::{Bound, Markdown},
};

const TURNS: usize = 11;
const TURN: Duration = Duration::from_millis(400);
/// The processor of the sender. The guest has another one.
const CLIENT: Processor = Processor::Only(0);
const GUEST: Processor = Processor::Only(1);

/// The namespace of a client, and the address that it connects to.
struct Path<'a> {
    name: &'static str,
    client: &'a Namespace,
    target: SocketAddr,
    /// The throughput in MiB per second, in each turn.
    rates: Vec<f64>,
}

impl Path<'_> {
    fn median(&self) -> f64 {
        let mut sorted = self.rates.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

pub(crate) fn measure(report: &mut Markdown) {
    let mut world = World::new("throughput", "nftables", READY_SLOTS);
    world.fill(1);
    let guest = world.play_last(GUEST);
    let plain = Cable::new();
    let plain_guest = plain.node.run(|| {
        let mut bare = Bare::new();
        bare.install_base_ruleset();
        let fragments = bare.fragments(0..1);
        bare.up(&fragments);
        nic(&fragments[0].link)
    });
    plain.node.sh("nft flush ruleset && sysctl -q net.ipv4.ip_forward=1");
    let plain_guest = Guest::attach(&plain.node, &plain_guest, GUEST);
    let published = world.last_published();
    let path = |name, client, target| Path { name, client, target, rates: Vec::new() };
    let mut paths = [
        path("a process of the node, by the guest's address", &world.cable.node, guest.address),
        path("a process of the node, by the published port", &world.cable.node, published),
        path(
            "another machine, plainly routed, no firewall at all",
            &plain.client,
            plain_guest.address,
        ),
        path("another machine, by the published port", &world.cable.client, published),
    ];
    for _ in 0..TURNS {
        for path in &mut paths {
            path.rates.push(path.client.run(|| send(path.target)));
        }
    }
    describe(report, &paths);
}

/// Sends for a while to a guest that counts, and returns the MiB per second that arrived.
fn send(target: SocketAddr) -> f64 {
    CLIENT.take();
    let mut connection = TcpStream::connect(target).unwrap();
    let block = vec![0; 1 << 18];
    let started = Instant::now();
    while started.elapsed() < TURN {
        connection.write_all(&block).unwrap();
    }
    connection.shutdown(Shutdown::Write).unwrap();
    let mut count = [0; 8];
    connection.read_exact(&mut count).unwrap();
    let mebibytes = u64::from_be_bytes(count) >> 20;
    f64::from(u32::try_from(mebibytes).unwrap()) / started.elapsed().as_secs_f64()
}

fn describe(report: &mut Markdown, paths: &[Path<'_>; 4]) {
    let medians = paths.each_ref().map(Path::median);
    let [direct, by_port, plain, far] = medians;
    report.heading("Throughput");
    report.paragraph(&format!(
        "One TCP connection that sends for {} ms to a guest that counts, {TURNS} times each, in turns; the medians. The \
         guest is a namespace to which a thread carries frames of up to 64 KiB from the TAP, as a VMM does; it has a \
         processor of its own. The first two clients are processes of the node, which may reach the guest both ways. From \
         another machine the guest's own address is closed, so what is compared there is a node that routes and has no \
         firewall.",
        TURN.as_millis()
    ));
    let row = |name: &str, rate: f64, to: f64| {
        [name.to_owned(), format!("{rate:.0} MiB/s"), format!("{:.2}", rate / to)]
    };
    let references = [direct, direct, plain, plain];
    let rows: Vec<_> = paths
        .iter()
        .zip(medians.iter().zip(references))
        .map(|(path, (rate, to))| row(path.name, *rate, to))
        .collect();
    report.table(["client", "throughput", "ratio"], &rows);
    let bound = Bound::AtLeast(0.95);
    let figure = "throughput by the published port to that by the guest's address";
    report.bound(&format!("{figure}, on the node"), bound, by_port / direct, "");
    let figure = "throughput by the published port to that of plain routing";
    report.bound(&format!("{figure}, from another machine"), bound, far / plain, "");
}

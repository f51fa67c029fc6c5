//! A guest with the whole network stack of Linux, in place of a microVM.
//!
//! The VMM of a microVM reads frames from the TAP and passes them to another kernel. Here a thread reads them, and
//! passes them to another TAP in another namespace. Both TAPs accept segments of up to 64 KiB and unfinished
//! checksums, as with a VMM.

use std::{
    fs::File,
    io::{self, PipeReader, PipeWriter, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use riklet_core::model::InterfaceName;
use riklet_kernel::linux::tap;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, fcntl_setfl},
    net::Shutdown,
    thread::{CpuSet, sched_setaffinity},
};
use serde_json::Value;

use super::offload;
use crate::common::{namespace::Namespace, wait_for};

/// The port that the guest listens on.
pub(super) const PORT: u16 = 3000;
/// The size of `struct virtio_net_hdr` and the largest frame.
const FRAME: usize = tap::VNET_HEADER + 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// The configuration of a guest's NIC.
#[derive(Debug, Clone)]
pub(super) struct Nic {
    /// The TAP on the node.
    pub(super) tap: String,
    pub(super) address: String,
    pub(super) gateway: String,
    pub(super) mac: String,
    pub(super) mtu: u64,
}

impl Nic {
    /// Returns the configuration that `inspect` prints.
    pub(super) fn of(instance: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            tap: text(&instance["tap"]),
            address: text(&instance["guest"]["address"]),
            gateway: text(&instance["host"]["address"]),
            mac: text(&instance["guest"]["mac"]),
            mtu: instance["mtu"].as_u64().unwrap(),
        }
    }
}

/// The processor that threads run on. Whether a thread happens to be woken on another thread's processor makes more
/// difference than anything measured here.
#[derive(Debug, Clone, Copy)]
pub(super) enum Processor {
    /// Any processor, as the kernel chooses.
    Any,
    /// The processor of this number.
    Only(usize),
}

impl Processor {
    /// Makes the calling thread run there.
    pub(super) fn take(self) {
        if let Self::Only(number) = self {
            let mut set = CpuSet::new();
            set.set(number);
            sched_setaffinity(None, &set).unwrap();
        }
    }
}

/// A guest that accepts connections. Once a client has sent everything, the guest answers with the number of bytes it
/// received.
pub(super) struct Guest {
    pub(super) address: SocketAddr,
    listener: Arc<TcpListener>,
    stops: Vec<PipeWriter>,
    threads: Vec<JoinHandle<()>>,
}

impl Guest {
    /// Attaches to a TAP of the node, which must exist and be free.
    pub(super) fn attach(node: &Namespace, nic: &Nic, processor: Processor) -> Self {
        let open = |name: &str| {
            let tap = File::from(tap::attach(&InterfaceName::try_from(name).unwrap()).unwrap());
            fcntl_setfl(&tap, OFlags::NONBLOCK).unwrap();
            offload::take_all(&tap).unwrap();
            tap
        };
        let outer = node.run(|| open(&nic.tap));
        let namespace = Namespace::new();
        let Nic { address, gateway, mac, mtu, .. } = nic;
        namespace.sh(&format!(
            "ip tuntap add eth0 mode tap vnet_hdr && ip link set eth0 address {mac} mtu {mtu} up && \
             ip address add {address}/30 dev eth0 && ip route add default via {gateway}"
        ));
        let inner = namespace.run(|| open("eth0"));
        let listener = Arc::new(namespace.run(|| TcpListener::bind(("0.0.0.0", PORT)).unwrap()));
        let address = (address.parse::<Ipv4Addr>().unwrap(), PORT).into();
        let mut guest = Self { address, listener, stops: Vec::new(), threads: Vec::new() };
        let (outer_too, inner_too) = (outer.try_clone().unwrap(), inner.try_clone().unwrap());
        guest.start(processor, move |stop| carry(stop, outer, inner));
        guest.start(processor, move |stop| carry(stop, inner_too, outer_too));
        let listener = Arc::clone(&guest.listener);
        guest.start(processor, move |_| serve(&listener));
        // The kernel takes a while to notice the carrier, and drops what is sent before that.
        node.run(|| {
            wait_for("the guest to answer", PATIENCE, || {
                TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok()
            })
        });
        guest
    }

    fn start(&mut self, processor: Processor, work: impl FnOnce(&PipeReader) + Send + 'static) {
        let (stop, stopper) = io::pipe().unwrap();
        self.stops.push(stopper);
        self.threads.push(thread::spawn(move || {
            processor.take();
            work(&stop);
        }));
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stops.clear();
        // Wakes the thread that waits in accept(2), which fails with EINVAL.
        rustix::net::shutdown(&self.listener, Shutdown::Both).ok();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// Copies frames in one direction until the owner or the TAP is gone.
fn carry(stop: &PipeReader, mut from: File, mut to: File) {
    let mut frame = vec![0; FRAME];
    loop {
        match from.read(&mut frame) {
            // A TAP that is down refuses the frame (EIO). The frame is lost, as on an unplugged cable.
            Ok(length) => drop(to.write(&frame[..length])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut files = [from.as_fd(), stop.as_fd()]
                    .map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
                poll(&mut files, None).unwrap();
                if !files[1].revents().is_empty() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

fn serve(listener: &TcpListener) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok((mut connection, _)) = listener.accept() {
        // A client that only connects has gone by now. If the firewall was flushed meanwhile, its FIN was lost: the
        // read must time out.
        connection.set_read_timeout(Some(Duration::from_millis(50))).ok();
        let mut count = 0_u64;
        while let Ok(length @ 1..) = connection.read(&mut buffer) {
            connection.set_read_timeout(Some(PATIENCE)).ok();
            count += u64::try_from(length).unwrap();
        }
        // The client may have gone already.
        connection.write_all(&count.to_be_bytes()).ok();
    }
}

//! Guests with the whole network stack of Linux, in place of microVMs.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
};

use riklet_core::model::{Addresses, Ends, MacAddress, Pool, Slot};

use super::{
    Namespace, World,
    background::{Background, Stop},
    system,
    traffic::PATIENCE,
    wait_for,
};

/// The size of `struct virtio_net_hdr`.
const HEADER: usize = 10;
/// The size of the header and the largest frame.
const FRAME: usize = HEADER + 64 * 1024;

/// The configuration of a guest's NIC.
#[derive(Debug, Clone)]
pub(crate) struct Nic {
    /// The TAP on the node that the guest attaches to.
    pub(crate) interface: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) mac: MacAddress,
    pub(crate) mtu: u32,
}

impl Nic {
    /// Returns the configuration for the guest of this slot.
    pub(crate) fn of_slot(pool: Pool, slot: Slot) -> Self {
        let Ends { host, guest } = pool.addresses(slot).expect("a slot of the pool").v4;
        Self {
            interface: slot.interface().to_string(),
            address: guest,
            gateway: host,
            mac: slot.guest_mac(),
            mtu: 1500,
        }
    }
}

/// A namespace whose `eth0` is wired to a TAP of the node, or is the end of a pod. Dropping it detaches from the TAP, as
/// the end of a VMM does.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) namespace: Namespace,
    pub(crate) nic: Nic,
    end: End,
}

/// The end by which the guest sends frames.
#[derive(Debug)]
enum End {
    /// The node's TAP, once more, and the wire from it to the namespace.
    Tap { tap: File, _wire: Background },
    /// A socket for the interface of a pod.
    Pod(OwnedFd),
}

impl Guest {
    /// Attaches to the TAP, which must exist and be free.
    #[track_caller]
    pub(crate) fn attach(world: &World, nic: Nic) -> Self {
        let Nic { address, gateway, mtu, .. } = nic;
        let guest = Self::attach_bare(world, nic);
        let configuration = format!(
            "link set eth0 mtu {mtu}\naddress add {address}/{} dev eth0\nroute add default via {gateway}\n",
            Addresses::PREFIX_LENGTH
        );
        guest.namespace.feed(&["ip", "-batch", "-"], &configuration).success();
        guest
    }

    /// Attaches to the TAP a guest that knows nothing but its MAC address.
    #[track_caller]
    pub(crate) fn attach_bare(world: &World, nic: Nic) -> Self {
        // Attaching would create a TAP that does not exist.
        world.node.tool(&["ip", "link", "show", "dev", &nic.interface]);
        // A program that another test is starting has the descriptor of a former guest until its execve(2).
        let tap = wait_for(&format!("{} to be free", nic.interface), PATIENCE, || {
            match world.node.run(|| system::attach_tap(&nic.interface)) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy => None,
                tap => Some(tap.unwrap_or_else(|error| panic!("cannot attach: {error}"))),
            }
        });
        let namespace = Namespace::new();
        let eth0 = namespace.run(|| system::attach_tap("eth0")).expect("a TAP for the guest");
        let configuration =
            format!("link set eth0 addrgenmode none\nlink set eth0 address {} up\n", nic.mac);
        namespace.feed(&["ip", "-batch", "-"], &configuration).success();
        // The kernel takes a while to notice the carrier, and drops what is sent before that.
        wait_for("the TAP to be ready", PATIENCE, || {
            let link = world.node.tool(&["ip", "link", "show", "dev", &nic.interface]);
            link.contains(" state UP ").then_some(())
        });
        let second = tap.try_clone().expect("a descriptor");
        let wire = Background::start(move |stop| carry(stop, tap, eth0));
        Self { namespace, nic, end: End::Tap { tap: second, _wire: wire } }
    }

    /// Returns the guest that a pod is, whose interface `eth0` is in this namespace.
    #[track_caller]
    pub(crate) fn of_pod(namespace: Namespace, nic: Nic) -> Self {
        let socket = namespace.run(|| system::packet_socket("eth0")).expect("a packet socket");
        Self { namespace, nic, end: End::Pod(socket) }
    }

    /// Sends a frame to the node, whatever is in it.
    #[track_caller]
    pub(crate) fn send(&self, frame: &[u8]) {
        let sent = match &self.end {
            End::Tap { tap, .. } => {
                { tap }.write_all(&[&[0; HEADER], frame].concat()).map_err(|e| e.to_string())
            }
            End::Pod(socket) => {
                rustix::io::write(socket, frame).map(drop).map_err(|e| e.to_string())
            }
        };
        sent.unwrap_or_else(|error| panic!("{}: {error}", self.nic.interface));
    }
}

/// Copies frames both ways until the owner or one of the TAPs is gone. Each frame keeps its header, which says where a
/// checksum is still unfinished.
fn carry(stop: &Stop, mut tap: File, mut eth0: File) {
    let mut frame = vec![0; FRAME];
    while let Some([from_node, from_guest]) = stop.readable([tap.as_fd(), eth0.as_fd()]) {
        let alive = (!from_node || copy(&mut tap, &mut eth0, &mut frame))
            && (!from_guest || copy(&mut eth0, &mut tap, &mut frame));
        if !alive {
            return;
        }
    }
}

/// Copies one frame, and tells whether its source still exists.
fn copy(from: &mut File, to: &mut File, frame: &mut [u8]) -> bool {
    let Ok(length) = from.read(frame) else { return false };
    // A TAP that is down refuses the frame (EIO). The frame is lost, as on an unplugged cable.
    to.write_all(&frame[..length]).ok();
    true
}

//! A guest that serves DHCP, on a node whose `NetworkManager` takes interfaces over from others, and has profiles with DHCP
//! for each of them. The node must take neither an address nor a route from the guest.
//!
//! To `NetworkManager`, a TAP is a device of the type `tun` that another program configured. It takes such a device over only
//! if it is told so (`keep-configuration=no`), and if a profile names the device and has all its properties.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    bus,
    leases::{
        assert_nothing_taken, assert_removed_by_a_purge, assert_restored, guest, wait_until_taken,
    },
    world::{Firewall, World, command::Running, wait_for},
};

const PATIENCE: Duration = Duration::from_secs(30);
const FILE: &str = "/run/NetworkManager/conf.d/zz-riklet-sdn.conf";

/// The profile that names the TAP. It must be as the TAP is, and must not be there before: `NetworkManager` would create one.
const PROFILE: &str = "guest:tun:interface-name=rik0";

/// Writes the configuration, with this profile, if there is one. The interfaces that the node's traffic needs are left out of it.
const PREPARE: &str = "set -e
mkdir -p /run/NetworkManager /etc/NetworkManager/conf.d /etc/NetworkManager/system-connections
cat >/etc/NetworkManager/conf.d/all.conf <<end
[keyfile]
unmanaged-devices=interface-name:lan0;interface-name:up0;interface-name:oth0
[device-all]
match-device=interface-name:*
keep-configuration=0
end
cd /etc/NetworkManager/system-connections
for profile in all:ethernet: $1; do
    IFS=: read -r id type name <<end
$profile
end
    cat >$id.nmconnection <<end
[connection]
id=$id
type=$type
multi-connect=3
$name
[tun]
mode=2
vnet-hdr=true
owner=0
[ipv4]
method=auto
[ipv6]
method=auto
end
done
chmod 600 *.nmconnection
";

#[track_caller]
fn network_manager(world: &World, profile: &str) -> Running {
    world.program("sh", &["-c", PREPARE, "sh", profile], "").success();
    let program = ["-c", "exec NetworkManager --no-daemon 2>&1"];
    let manager = world.program_in_background("sh", &program, "");
    wait_for("NetworkManager to run", PATIENCE, || {
        let running =
            world.program("nmcli", &["--terse", "--get-values", "RUNNING", "general"], "");
        (running.code == Some(0) && running.stdout == "running\n").then_some(())
    });
    manager
}

/// Waits until `NetworkManager` asks for an address on a new interface, which it sees after all earlier ones.
#[track_caller]
fn wait_until_it_has_seen_all(world: &World, interface: &str) {
    let peer = format!("peer-{interface}");
    let add = ["ip", "link", "add", interface, "type", "veth", "peer", "name", &peer];
    world.node.tool(&add);
    for name in [interface, &peer] {
        world.node.tool(&["ip", "link", "set", name, "up"]);
    }
    wait_for("NetworkManager to ask for an address on the new interface", PATIENCE, || {
        state(world, interface).starts_with("connecting").then_some(())
    });
}

#[track_caller]
fn state(world: &World, interface: &str) -> String {
    let list = ["--terse", "--get-values", "DEVICE,STATE", "device"];
    let list = world.program("nmcli", &list, "").success();
    let states = list.lines().filter_map(|line| line.split_once(':'));
    let state = states.filter(|(name, _)| *name == interface).map(|(_, state)| state).next();
    state.unwrap_or_default().to_owned()
}

/// The file is written before the TAP exists, has the same effect after a restart, and is removed with the last TAP.
fn is_told(firewall: Firewall) {
    let world = &World::new(firewall).on_a_machine();
    let _bus = bus::start(world);
    let mut manager = network_manager(world, "");
    let attached = guest(world);
    // The guard on the TAP has no part in this.
    world.node.tool(&["tc", "qdisc", "delete", "dev", "rik0", "clsact"]);
    wait_until_it_has_seen_all(world, "first");
    assert_eq!(state(world, "rik0"), "unmanaged");
    assert_nothing_taken(world);
    assert_eq!(world.node.sysctl("net/ipv6/conf/rik0/disable_ipv6"), "1");

    assert_restored(world, FILE);

    manager.signal(Signal::TERM);
    assert!(manager.ends_within(PATIENCE));
    // It reads the file when it starts, so nobody is told that it cannot be asked now.
    world.program("rm", &[FILE], "").success();
    let repaired = world.riklet(&["repair"], "");
    assert!(repaired.code == Some(0) && repaired.stderr.is_empty(), "{repaired}");
    manager = network_manager(world, PROFILE);
    wait_until_it_has_seen_all(world, "second");
    assert_eq!(state(world, "rik0"), "unmanaged");
    assert_nothing_taken(world);
    drop(attached);
    assert_removed_by_a_purge(world, FILE);
    manager.signal(Signal::TERM);
}

/// Without the file and the guard, the node takes the guest's lease.
#[test]
fn without_our_file_the_node_takes_the_guests_lease() {
    let world = &World::new(Firewall::Nftables).on_a_machine();
    let _bus = bus::start(world);
    let _attached = guest(world);
    world.node.tool(&["tc", "qdisc", "delete", "dev", "rik0", "clsact"]);
    let _manager = network_manager(world, PROFILE);
    wait_until_taken(world);
    assert_eq!(world.node.sysctl("net/ipv6/conf/rik0/disable_ipv6"), "0");
}

mod it_leaves_functions_alone {
    use super::{Firewall, is_told};

    #[test]
    fn nftables() {
        is_told(Firewall::Nftables);
    }

    #[test]
    fn iptables_nft() {
        is_told(Firewall::IptablesNft);
    }

    #[test]
    fn iptables_legacy() {
        is_told(Firewall::IptablesLegacy);
    }
}

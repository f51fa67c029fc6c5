//! systemd-networkd in a guest, with the configuration that images have: both families by DHCP.

use std::{fs, net::Ipv6Addr, path::PathBuf, time::Duration};

use super::{RESOLVERS, asking, assert_traffic, bare};
use crate::{
    ipv6::{FAR, address_of, with},
    world::{
        World,
        command::Running,
        guest::Guest,
        on_every_firewall,
        traffic::{tcp_ask, tcp_server},
        wait_for,
    },
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Starts networkd among files of its own, without udev, and without a bus.
const START: &str = r"
mount -t tmpfs tmpfs /run
mount -t sysfs -o ro sysfs /sys
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network /run/systemd/netif
printf '[Match]\nName=eth0\n[Network]\nDHCP=yes\n' >/run/systemd/network/80-image.network
exec env SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=debug /lib/systemd/systemd-networkd 2>&1
";

#[track_caller]
fn networkd(guest: &Guest) -> Running {
    guest.namespace.tool(&["ip", "link", "set", "eth0", "down", "addrgenmode", "eui64"]);
    guest.namespace.start(&["unshare", "--mount", "--propagation", "private", "sh", "-ec", START])
}

/// Waits until the guest has this address and this default route.
#[track_caller]
fn wait_until_configured(guest: &Guest, family: &str, address: &str, route: &str) {
    let shown = |what: &[&str]| guest.namespace.tool(&[&["ip", family], what].concat());
    wait_for(&format!("{address} and {route}"), PATIENCE, || {
        // The kernel uses no address before it knows that nobody else has it.
        let addresses = shown(&["address", "show", "dev", "eth0", "-tentative"]);
        let routes = shown(&["route", "show", "default"]);
        (addresses.contains(address) && routes.contains(route)).then_some(())
    });
}

/// Returns networkd's own account of the link.
#[expect(clippy::disallowed_methods, reason = "a file of the program under test")]
fn account(networkd: &Running) -> String {
    let root = PathBuf::from(format!("/proc/{}/root/run/systemd/netif/links", networkd.id()));
    let files = fs::read_dir(root).expect("the links");
    let read = |file: Result<fs::DirEntry, _>| fs::read_to_string(file.expect("a file").path());
    files.map(|file| read(file).expect("an account")).collect()
}

on_every_firewall!(an_image_with_networkd_comes_up, |world| {
    let _daemon = world.daemon(&["--mtu", "1400"]);
    assert_comes_up(world);
});

#[track_caller]
fn assert_comes_up(world: &World) -> (Guest, Running) {
    let guest = bare(world, asking("web"));
    let networkd = networkd(&guest);
    let address = format!("inet {}/30 ", guest.nic.address);
    let route = format!("default via {} dev eth0 proto dhcp", guest.nic.gateway);
    wait_until_configured(&guest, "-4", &address, &route);
    assert_traffic(world, &guest);
    let account = account(&networkd);
    for resolver in RESOLVERS {
        assert!(account.contains(&resolver.to_string()), "{account}");
    }
    (guest, networkd)
}

#[test]
fn an_image_with_networkd_comes_up_with_both_families() {
    let world = &with();
    let _daemon = world.daemon(&[]);
    let (guest, networkd) = assert_comes_up(world);
    let own: Ipv6Addr = address_of(world, "web").expect("an address");
    let route = "default via fe80::1 dev eth0 proto ra";
    wait_until_configured(&guest, "-6", &format!("inet6 {own}/128 "), route);
    let _server = tcp_server(&world.internet, (FAR, 80));
    tcp_ask(&guest.namespace, (FAR, 80)).expect("the guest reaches the Internet");
    world.riklet(&["check"], "").success();
    drop(networkd);
}

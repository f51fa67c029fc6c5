//! A guest that serves DHCP, on a node whose systemd-networkd has a file that matches every interface, as container
//! hosts ship it. The node must take neither an address nor a route from the guest.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    bus,
    world::{
        Firewall, World,
        command::Running,
        function::{Function, function},
        wait_for,
    },
};

const PATIENCE: Duration = Duration::from_secs(30);
const FILE: &str = "/run/systemd/network/0-riklet-sdn.network";
/// The address that the guest leases to the node.
const LEASED: &str = "10.66.0.9";

/// Starts systemd-networkd next to interfaces that have files of their own.
#[track_caller]
fn networkd(world: &World) -> Running {
    let prepare = "mkdir -p /run/systemd && cd /run/systemd && \
         mkdir -p network netif/links netif/leases netif/lldp && chown -R systemd-network: netif && \
         for name in lan0 up0 oth0; do \
         printf '[Match]\\nName=%s\\n[Link]\\nUnmanaged=yes\\n' $name >network/10-$name.network; done && \
         printf '[Match]\\nName=*\\n[Network]\\nDHCP=ipv4\\n' >network/99-all.network";
    world.program("sh", &["-c", prepare], "").success();
    let environment = "SYSTEMD_LOG_TARGET=console";
    let program = [environment, "sh", "-c", "exec /lib/systemd/systemd-networkd 2>&1"];
    let mut networkd = world.program_in_background("env", &program, "");
    networkd.wait_for_line("Enumeration completed");
    networkd
}

/// Attaches a guest that serves DHCP.
#[track_caller]
pub(crate) fn guest(world: &World) -> (Function, Running) {
    let [function] = world.start([(function("web", &[]), &[])]);
    let configuration = format!(
        "interface eth0\nstart {LEASED}\nend {LEASED}\noption subnet 255.255.255.0\n\
         option router 10.66.0.1\nlease_file /dev/null\npidfile /dev/null\n"
    );
    let path = world.directory.path().join("udhcpd.conf");
    let path = path.to_str().expect("UTF-8");
    world.client.feed(&["tee", path], &configuration).success();
    let serve = ["sh", "-c", "exec busybox udhcpd -f \"$0\" 2>&1", path];
    let mut server = function.guest.namespace.start(&serve);
    server.wait_for_line("started");
    (function, server)
}

/// Returns the block of the filters that see what the node sends to its guests (tc(8)).
#[track_caller]
fn block_to_guests(world: &World) -> String {
    let shown = world.node.tool(&["tc", "qdisc", "show", "dev", "rik0"]);
    let (_, block) = shown.split_once("egress_block ").expect("the TAP has its guard");
    block.split_whitespace().next().expect("a number").to_owned()
}

/// Waits until the guard has dropped more than this number of frames, and returns the new number.
#[track_caller]
fn dropped(world: &World, more_than: u32) -> u32 {
    wait_for(&format!("the guard to drop more than {more_than} frames"), PATIENCE, || {
        let shown = world.node.tool(&["tc", "-s", "qdisc", "show", "dev", "rik0"]);
        let (_, clsact) = shown.split_once("qdisc clsact")?;
        let (_, count) = clsact.split_once("dropped ")?;
        count.split(',').next()?.parse().ok().filter(|count| *count > more_than)
    })
}

#[track_caller]
pub(crate) fn assert_nothing_taken(world: &World) {
    let addresses = world.node.tool(&["ip", "address", "show", "dev", "rik0"]);
    assert!(!addresses.contains(LEASED), "{addresses}");
    let routes = world.node.tool(&["ip", "route", "show", "default"]);
    assert!(!routes.contains("rik0"), "{routes}");
}

#[track_caller]
pub(crate) fn wait_until_taken(world: &World) {
    wait_for("the node to take the guest's lease", PATIENCE, || {
        let addresses = world.node.tool(&["ip", "address", "show", "dev", "rik0"]);
        addresses.contains(LEASED).then_some(())
    });
}

/// Asserts that `check` reports that our file for a manager was removed, and that `repair` writes it again.
#[track_caller]
pub(crate) fn assert_restored(world: &World, file: &str) {
    world.program("rm", &[file], "").success();
    let drift = world.riklet(&["check"], "");
    assert!(drift.code == Some(1) && drift.stdout.contains(file), "{drift}");
    world.riklet(&["repair"], "").success();
    world.riklet(&["check"], "").success();
}

/// Asserts that our file for a manager is removed with the last TAP.
#[track_caller]
pub(crate) fn assert_removed_by_a_purge(world: &World, file: &str) {
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_eq!(world.program("test", &["-e", file], "").code, Some(1));
}

/// A networkd that cannot be configured has no effect either: each of the guard's two programs is enough.
fn cannot_be_told(firewall: Firewall) {
    let world = &World::new(firewall).on_a_machine();
    let networkd = networkd(world);
    let attached = guest(world);
    let asked = dropped(world, 0);
    assert_nothing_taken(world);
    drop(attached);

    // Now the node's requests reach the guest, and the answers do not come back.
    let attached = guest(world);
    world.node.tool(&["tc", "filter", "delete", "block", &block_to_guests(world)]);
    dropped(world, asked);
    assert_nothing_taken(world);
    drop(attached);

    // Without the guard, the node takes the guest's lease.
    let attached = guest(world);
    world.node.tool(&["tc", "qdisc", "delete", "dev", "rik0", "clsact"]);
    wait_until_taken(world);
    drop(attached);
    networkd.signal(Signal::TERM);
}

/// The file is written before the TAP exists, and removed with the last of our TAPs.
fn is_told(firewall: Firewall) {
    let world = &World::new(firewall).on_a_machine();
    let _bus = bus::start(world);
    let mut networkd = networkd(world);
    let attached = guest(world);
    let setup = |interface: &str| {
        let list = world.program("networkctl", &["--no-legend", "list"], "").success();
        let line = list.lines().find(|line| line.contains(interface)).map(str::trim_end);
        line.and_then(|line| line.split(' ').next_back()).map(str::to_owned)
    };
    assert_eq!(setup("rik0").as_deref(), Some("unmanaged"));
    world.riklet(&["check"], "").success();
    let file = world.program("cat", &[FILE], "").success();
    assert!(file.contains("Name=rik*") && file.contains("Unmanaged=yes"), "{file}");
    let mode = world.program("stat", &["--format", "%a %U", FILE], "").success();
    assert_eq!(mode, "644 root\n", "networkd is another user");

    assert_restored(world, FILE);

    // The file has the same effect after a restart.
    networkd.signal(Signal::TERM);
    assert!(networkd.ends_within(PATIENCE));
    networkd = self::networkd(world);
    assert_eq!(setup("rik0").as_deref(), Some("unmanaged"));
    assert_nothing_taken(world);
    world.riklet(&["check"], "").success();

    drop(attached);
    assert_removed_by_a_purge(world, FILE);
    networkd.signal(Signal::TERM);
}

/// A directory that was there before stays, empty as it was; one that we have made goes, unless others use it by now.
#[test]
fn directories_that_we_made_are_removed() {
    let world = &World::new(Firewall::Nftables).on_a_machine();
    let list = || world.program("find", &["/run/systemd", "-mindepth", "1"], "").success();
    for (prepare, left) in
        [("mkdir /run/systemd", ""), ("mkdir /run/systemd/network", "/run/systemd/network\n")]
    {
        world.program("sh", &["-c", prepare], "").success();
        world.up(&[function("web", &[])]);
        assert!(list().contains(FILE));
        world.riklet(&["down", "--all", "--purge"], "").success();
        assert_eq!(list(), left);
    }
    world.program("rmdir", &["/run/systemd/network"], "").success();
    world.up(&[function("web", &[])]);
    world.program("touch", &["/run/systemd/network/theirs.network"], "").success();
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert!(list().ends_with("/theirs.network\n"), "{}", list());
}

/// A foreign file of the same name is kept, and so is the file of another state directory.
#[test]
fn the_files_of_others_stay() {
    let world = &World::new(Firewall::Nftables).on_a_machine();
    let write = format!("mkdir -p /run/systemd/network && cat >{FILE}");
    let read = || world.program("cat", &[FILE], "").success();
    let theirs = "# riklet-sdn 0123456789abcdef /run/other\n[Match]\nName=rik*\n";
    for (text, stays) in [("[Match]\nName=rik0\n", true), (theirs, false)] {
        world.program("sh", &["-c", &write], text).success();
        world.up(&[function("web", &[])]);
        world.riklet(&["check"], "").success();
        assert_eq!(read() == text, stays);
        world.program("sh", &["-c", &write], text).success();
        world.riklet(&["down", "--all", "--purge"], "").success();
        assert_eq!(read(), text);
    }
    // A host without systemd-networkd, and a host on which its files cannot be written.
    world.program("rm", &["-r", "/run/systemd"], "").success();
    world.up(&[function("web", &[])]);
    world.riklet(&["check"], "").success();
    world.riklet(&["down", "--all", "--purge"], "").success();
    let seal = "mkdir -p /run/systemd && mount -t tmpfs -o ro tmpfs /run/systemd";
    world.program("sh", &["-c", seal], "").success();
    world.up(&[function("web", &[])]);
    world.riklet(&["check"], "").success();
    world.riklet(&["down", "--all", "--purge"], "").success();
}

mod a_guest_gives_the_node_nothing_if_networkd_cannot_be_told {
    use super::{Firewall, cannot_be_told};

    #[test]
    fn nftables() {
        cannot_be_told(Firewall::Nftables);
    }

    #[test]
    fn iptables_nft() {
        cannot_be_told(Firewall::IptablesNft);
    }

    #[test]
    fn iptables_legacy() {
        cannot_be_told(Firewall::IptablesLegacy);
    }
}

mod networkd_leaves_functions_alone {
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

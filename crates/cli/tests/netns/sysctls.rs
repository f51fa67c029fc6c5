//! Sysctls that cannot be written, as in a container: correct ones are accepted, and wrong ones are named.

use serde_json::Value;

use crate::{
    internet::assert_internet,
    reach::{FIRST, SECOND, TARGET, assert_published, pair},
    world::{
        World,
        command::Output,
        function::{every_transport, function},
        on_every_firewall,
        transport::Transport,
    },
};

/// Runs `riklet-sdn` on the node with a read-only `/proc/sys`.
#[track_caller]
fn read_only(world: &World, arguments: &[&str], stdin: &str) -> Output {
    let script = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && \
         exec \"$0\" \"$@\"";
    let program = ["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_riklet-sdn")];
    world.program("unshare", &[&program, arguments].concat(), stdin)
}

/// Returns the definitions of [`pair`].
fn definitions() -> String {
    let pair = [("first", FIRST), ("second", SECOND)];
    let pair = pair.map(|(name, port)| function(name, &every_transport(port, TARGET)));
    Value::from(pair.to_vec()).to_string()
}

fn interfaces(world: &World) -> String {
    world.node.tool(&["ip", "-brief", "link"])
}

on_every_firewall!(correct_read_only_sysctls_are_accepted, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    world.node.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    let doctor = read_only(world, &["doctor"], "").success();
    assert!(doctor.contains("read-only, and as functions need them"), "{doctor}");
    read_only(world, &["up", "-"], &definitions()).success();
    read_only(world, &["check"], "").success();
    let pair = pair(world);
    assert_published(world, &pair, &Transport::ALL);
    assert_internet(world, &pair[0]);
    drop(pair);
    read_only(world, &["down", "first"], "").success();
    read_only(world, &["down", "--all", "--purge"], "").success();
    assert!(!interfaces(world).contains("rik"), "{}", interfaces(world));
});

on_every_firewall!(wrong_read_only_sysctls_are_named, |world| {
    // A TAP with IPv6 enabled would accept the guest as its router.
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    world.node.set_sysctl("net/ipv6/conf/default/disable_ipv6", "0");
    let default = "net.ipv6.conf.default.disable_ipv6";
    let error = read_only(world, &["up", "-"], &definitions()).failure(3);
    for words in [
        "cannot set sysctl net.ipv6.conf.rik0.disable_ipv6 to 1 (it is 0): Read-only file system",
        &format!("`sysctl -w {default}=1` where /proc/sys can be written"),
    ] {
        assert!(error.contains(words), "{error}");
    }
    let doctor = read_only(world, &["doctor"], "");
    let said = format!("{default} is 0, must be 1, and cannot be written");
    assert!(doctor.code == Some(3) && doctor.stdout.contains(&said), "{doctor}");
    read_only(world, &["down", "--all"], "").success();
    assert!(!interfaces(world).contains("rik"), "{}", interfaces(world));

    // This node does not forward.
    world.node.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    world.node.set_sysctl("net/ipv4/ip_forward", "0");
    let error = read_only(world, &["up", "-"], &definitions()).failure(3);
    let switch = "net.ipv4.conf.up0.forwarding";
    let doctor = read_only(world, &["doctor"], "");
    assert!(doctor.stdout.contains(&format!("{switch} is 0, must be 1")), "{doctor}");
    assert!(error.contains(".forwarding to 1 (it is 0): Read-only file system"), "{error}");
    assert!(error.contains("`sysctl -w net.ipv4.conf."), "{error}");
    read_only(world, &["down", "first"], "").success();
    read_only(world, &["down", "--all", "--purge"], "").success();
    assert!(!interfaces(world).contains("rik"), "{}", interfaces(world));
});

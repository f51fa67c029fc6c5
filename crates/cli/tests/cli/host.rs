//! Hosts that lack something: the error names it, with exit code 3. Also the output of `doctor`.

use crate::environment::{Environment, Output};

/// Runs the program as another user, who has no capabilities.
fn as_nobody(environment: &Environment, arguments: &str) -> Output {
    environment.shell(&nobody(arguments))
}

/// Returns the commands of [`as_nobody`].
fn nobody(arguments: &str) -> String {
    // The program may be in a directory that only root can access.
    format!(
        "{{ [ -x riklet-sdn ] || cp $PROGRAM riklet-sdn; }} && \
         exec setpriv --bounding-set -all --inh-caps -all --reuid 65534 --regid 65534 \
         --clear-groups env PATH=/nonexistent ./riklet-sdn {arguments}"
    )
}

/// Runs the program after `hide` has hidden a part of the host.
fn without(environment: &Environment, hide: &str, arguments: &str) -> Output {
    environment.shell_that_mounts(&format!("{hide} && exec $RIKLET {arguments}"))
}

const NO_TUN: &str = "mount -t tmpfs none /dev/net";
/// Hides the traces of other firewalls on a host.
const NO_OTHERS: &str =
    "mount -t tmpfs none /run && { [ ! -d /etc/ufw ] || mount -t tmpfs none /etc/ufw; }";

#[test]
fn without_privilege_nothing_changes() {
    let environment = Environment::with_hello();
    let before = environment.snapshot();
    for command in [
        "up hello.json",
        "plan hello.json",
        "run hello.json",
        "down hello",
        "down --all --purge",
        "check",
        "repair",
        "repair --rebuild",
    ] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(as_nobody(&environment, command).failure(3), @r"
            error: the capability CAP_NET_ADMIN is needed
            hint: run it as root
            ");
        }
    }
    for command in ["list", "inspect hello"] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(as_nobody(&environment, command).failure(3), @r"
            error: cannot lock $DIR/state/lock: Permission denied (os error 13)
            hint: run it as root
            ");
        }
    }
    environment.assert_unchanged(&before, "a program without privilege");
    // Invalid input is reported first: it is invalid for root as well.
    as_nobody(&environment, "up missing.json").failure(2);
    insta::assert_snapshot!(as_nobody(&environment, "--output json check").failure(3), @r#"
    {
      "error": "the capability CAP_NET_ADMIN is needed",
      "hint": "run it as root"
    }
    "#);
}

#[test]
fn without_dev_net_tun_nothing_changes() {
    let environment = Environment::new();
    let before = environment.snapshot();
    for command in ["up hello.json", "run hello.json"] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(without(&environment, NO_TUN, command).failure(3), @r"
            error: cannot open /dev/net/tun, which TAPs are made with: No such file or directory (os error 2)
            hint: `modprobe tun`; in a container, pass the device through
            ");
        }
    }
    environment.assert_unchanged(&before, "a program without /dev/net/tun");
    without(&environment, NO_TUN, "plan hello.json").success();
    // A function that is up no longer needs the device, until its TAP is lost.
    environment.run(&["up", "hello.json"]).success();
    without(&environment, NO_TUN, "check").done();
    environment.tool("ip", &["link", "delete", "rik0"]);
    insta::assert_snapshot!(without(&environment, NO_TUN, "repair").failure(3), @r"
    error: hello is not up: cannot create TAP rik0: TUNSETIFF: /dev/net/tun: No such file or directory (os error 2)
    hint: the host lacks /dev/net/tun (kernel module tun); `riklet-sdn doctor` says more
    ");
    without(&environment, NO_TUN, "down --all --purge").success();
}

#[test]
fn error_without_proc_names_the_missing_sysctl() {
    let environment = Environment::new();
    let output = without(&environment, "umount --lazy /proc", "up hello.json");
    insta::assert_snapshot!(output.failure(3), @r"
    error: cannot read sysctl net.ipv4.conf: No such file or directory (os error 2)
    hint: the host lacks /proc (proc(5), mounted); `riklet-sdn doctor` says more
    ");
}

#[test]
fn doctor_reports_what_the_host_has() {
    let environment = Environment::new();
    insta::assert_snapshot!(without(&environment, NO_OTHERS, "doctor"), @r"
          WHAT        FOUND
    ok    privilege   CAP_NET_ADMIN
    ok    TAPs        /dev/net/tun can be opened
    ok    nf_tables   the kernel has it
    ok    iptables    not there; nf_tables needs no program
    ok    firewall    nftables will be used
    note  forwarding  off for the host as a whole
                      -> nothing to do: `up` turns it on for the interfaces that guests are reached by, and `down --all --purge` off again
    note  uplink      no default route
                      -> guests do not reach the Internet; published ports work. Add a route, or set uplink
    ok    loopback    up
    ok    pool        10.231.0.0/16 overlaps no route
    ok    records     none yet in $DIR/state
    note  microVMs    no VMM on the PATH
                      -> `run` has the builtin guest; install firecracker, qemu or cloud-hypervisor
    ");
    environment.tool("ip", &["link", "add", "eth0", "type", "veth", "peer", "eth1"]);
    environment.tool("ip", &["link", "set", "eth0", "up"]);
    environment.tool("ip", &["route", "add", "default", "dev", "eth0"]);
    environment.tool("ip", &["route", "add", "10.231.7.0/24", "dev", "eth0"]);
    environment.tool("ip", &["link", "add", "docker0", "type", "veth", "peer", "eth2"]);
    environment.tool("ip", &["link", "set", "lo", "down"]);
    environment.shell(
        "nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'",
    )
    .success();
    Environment::forward(true);
    insta::assert_snapshot!(without(&environment, NO_OTHERS, "doctor"), @r"
          WHAT        FOUND
    ok    privilege   CAP_NET_ADMIN
    ok    TAPs        /dev/net/tun can be opened
    ok    nf_tables   the kernel has it
    ok    iptables    not there; nf_tables needs no program
    ok    firewall    nftables will be used
    note  FORWARD     ip filter FORWARD: somebody else's chain, drops guests' packets
                      -> nothing to do: `up` lets guests' packets pass it, and no others
    ok    forwarding  on
    note  firewall    Docker seen
                      -> after it reloads its rules: `riklet-sdn repair`
    ok    uplink      eth0
    note  loopback    lo is down
                      -> published ports do not answer at 127.0.0.1: `ip link set lo up`
    note  pool        10.231.0.0/16 overlaps the route to 10.231.7.0/24 by eth0
                      -> nothing to do: the next candidate is taken
    ok    pool        10.232.0.0/16 overlaps no route
    ok    records     none yet in $DIR/state
    note  microVMs    no VMM on the PATH
                      -> `run` has the builtin guest; install firecracker, qemu or cloud-hypervisor
    ");
    environment.run(&["up", "hello.json"]).success();
    insta::assert_snapshot!(without(&environment, NO_OTHERS, "doctor"), @r"
          WHAT        FOUND
    ok    privilege   CAP_NET_ADMIN
    ok    TAPs        /dev/net/tun can be opened
    ok    nf_tables   the kernel has it
    ok    iptables    not there; nf_tables needs no program
    ok    firewall    nftables is used
    ok    FORWARD     ip filter FORWARD: guests' packets pass
    ok    forwarding  on
    note  firewall    Docker seen
                      -> after it reloads its rules: `riklet-sdn repair`
    ok    uplink      eth0
    note  loopback    lo is down
                      -> published ports do not answer at 127.0.0.1: `ip link set lo up`
    ok    pool        10.232.0.0/16 is used
    ok    records     1 in $DIR/state
    note  microVMs    no VMM on the PATH
                      -> `run` has the builtin guest; install firecracker, qemu or cloud-hypervisor
    ");
}

#[test]
fn doctor_fails_if_something_is_missing() {
    let environment = Environment::new();
    let hide = format!("{NO_OTHERS} && {NO_TUN}");
    let output = without(&environment, &hide, "doctor --firewall iptables --uplink eth7");
    insta::assert_snapshot!(output, @r"
          WHAT        FOUND
    ok    privilege   CAP_NET_ADMIN
    FAIL  TAPs        /dev/net/tun: No such file or directory (os error 2)
                      -> `modprobe tun`; in a container, pass the device through
    ok    nf_tables   the kernel has it
    FAIL  iptables    configured, and not there
                      -> install it, or set firewall to nftables
    note  forwarding  off for the host as a whole
                      -> nothing to do: `up` turns it on for the interfaces that guests are reached by, and `down --all --purge` off again
    note  uplink      there is no interface eth7
                      -> guests do not reach the Internet by it; published ports work. Correct uplink
    ok    loopback    up
    ok    pool        10.231.0.0/16 overlaps no route
    ok    records     none yet in $DIR/state
    note  microVMs    no VMM on the PATH
                      -> `run` has the builtin guest; install firecracker, qemu or cloud-hypervisor
    ---- exit code 3 ----
    ");
    environment.tool("ip", &["route", "add", "10.9.0.0/24", "dev", "lo"]);
    let output = without(&environment, NO_OTHERS, "--output json doctor --pool 10.9.0.0/16");
    assert_eq!((output.code, &*output.stderr), (Some(0), ""));
    let findings: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let pool = findings.as_array().unwrap().iter().find(|finding| finding["subject"] == "pool");
    insta::assert_snapshot!(format!("{:#}", pool.unwrap()), @r#"
    {
      "advice": "addresses there that guests get are theirs; set pool to a range that no route covers",
      "found": "10.9.0.0/16 overlaps the route to 10.9.0.0/24 by lo",
      "level": "note",
      "subject": "pool"
    }
    "#);
}

#[test]
fn doctor_tells_other_users_what_needs_root() {
    // Only root may enter the directory of the records.
    let environment = Environment::with_hello();
    // Everybody may open the device where udev has set its mode.
    let tun = "mount -t tmpfs none /dev/net && mknod -m 600 /dev/net/tun c 10 200";
    let output = environment.shell_that_mounts(&format!("{tun} && {}", nobody("doctor")));
    assert_eq!((output.code, &*output.stderr), (Some(0), ""));
    let unseen = output.stdout.lines().filter(|line| line.starts_with('?'));
    insta::assert_snapshot!(unseen.collect::<Vec<_>>().join("\n"), @r"
    ?     privilege   no CAP_NET_ADMIN: not everything can be looked at
    ?     TAPs        /dev/net/tun: Permission denied (os error 13)
    ?     nf_tables   cannot list the chains on the hook forward: Operation not permitted (os error 1)
    ?     sysctls     whether they can be written
    ?     records     cannot look for $DIR/state/riklet-sdn.db: Permission denied (os error 13)
    ?     ports       which ports of functions somebody else has, and whose the functions on this host are
    ");
}

#[test]
fn guest_without_a_name_server_is_warned_of() {
    let environment = Environment::with_hello();
    environment.write("resolv.conf", "nameserver 127.0.0.1\n");
    let with_loopback_only = |command: &str| {
        let mount = "mount --bind resolv.conf /etc/resolv.conf; mount -t tmpfs none /run/systemd";
        environment.shell_that_mounts(&format!("{mount}; $RIKLET {command}"))
    };
    let told = with_loopback_only("inspect hello --format boot-args");
    assert!(told.stderr.starts_with("warning: hello is told no name server"), "{told}");
    let told = with_loopback_only("doctor");
    assert!(told.stdout.contains("the host names no server that a guest can reach"), "{told}");
}

//! TCP through an uplink with a smaller MTU than Ethernet, behind which "fragmentation needed" is lost.

use std::net::Ipv4Addr;

use crate::{
    reach::{FIRST, TARGET},
    world::{
        NODE_UPLINK, Namespace, World,
        function::{Function, exposure, function},
        guest::Nic,
        on_every_firewall,
        traffic::{assert_tcp_refused, tcp_ask, tcp_echo, tcp_server},
        transport::Transport::Tcp,
    },
};

/// The address of a host beyond a router, on a link with Ethernet's MTU.
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const FAR_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: u16 = 80;
/// Ethernet's MTU, which a guest assumes for its NIC unless it is told another.
const ETHERNET: u32 = 1500;

/// Creates a host beyond the Internet's router. No sender learns that a packet was too large for the uplink.
fn far_behind(world: &World, uplink_mtu: u32) -> Namespace {
    let far = Namespace::new();
    let cable = format!(
        "link add far0 type veth peer name eth0 netns {}\nlink set far0 up\n\
         address add {FAR_ROUTER}/24 dev far0\nlink set eth0 mtu {uplink_mtu}\n",
        far.path()
    );
    world.internet.feed(&["ip", "-batch", "-"], &cable).success();
    world.internet.set_sysctl("net/ipv4/ip_forward", "1");
    world.node.tool(&["ip", "link", "set", "up0", "mtu", &uplink_mtu.to_string()]);
    let end = format!(
        "link set eth0 up\naddress add {FAR}/24 dev eth0\nroute add default via {FAR_ROUTER}\n"
    );
    far.feed(&["ip", "-batch", "-"], &end).success();
    lose_fragmentation_needed(&far);
    far
}

fn lose_fragmentation_needed(namespace: &Namespace) {
    let rule = "-A INPUT -p icmp --icmp-type fragmentation-needed -j DROP";
    namespace.tool(&[&["iptables"], &rule.split(' ').collect::<Vec<_>>()[..]].concat());
}

/// Starts a function whose guest has a NIC with Ethernet's MTU.
fn start(world: &World) -> Function {
    let [nic] = &world.up(&[function("web", &[exposure(Tcp, FIRST, TARGET)])])[..] else {
        panic!("one instance")
    };
    let function = Function::start(world, Nic { mtu: ETHERNET, ..nic.clone() }, &[(Tcp, TARGET)]);
    lose_fragmentation_needed(&function.guest.namespace);
    function
}

on_every_firewall!(large_answers_and_requests_pass_a_small_uplink, |world| {
    let bytes: Vec<u8> = (0..=250).cycle().take(300_001).collect();
    for mtu in [1280, 1400] {
        let far = far_behind(world, mtu);
        let web = start(world);
        let guest = &web.guest.namespace;
        let server = tcp_server(&far, (FAR, PORT));
        // This tests both directions, since the server returns what is sent.
        for (who, from, to) in [
            ("node → far", &world.node, server.address),
            ("guest → far", guest, server.address),
            ("far → guest", &far, (NODE_UPLINK, FIRST).into()),
            ("node → guest", &world.node, (NODE_UPLINK, FIRST).into()),
        ] {
            let echo = tcp_echo(from, to, &bytes);
            assert!(
                echo.as_ref().is_ok_and(|echo| *echo == bytes),
                "{mtu}: {who}: {:?}",
                echo.err()
            );
        }
        drop((server, web));
        world.down(&["web"]);
        world.internet.tool(&["ip", "link", "delete", "far0"]);
    }
});

on_every_firewall!(only_segments_of_guests_are_made_to_fit, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let far = far_behind(world, 1400);
    let web = start(world);
    // The far host refuses segments of Ethernet's size.
    let rule = "-A INPUT -p tcp --syn -m tcpmss --mss 1460 -j REJECT --reject-with tcp-reset";
    far.tool(&[&["iptables"], &rule.split(' ').collect::<Vec<_>>()[..]].concat());
    let server = tcp_server(&far, (FAR, PORT));
    tcp_ask(&web.guest.namespace, server.address).expect("the guest's fit");
    assert_tcp_refused(&world.client, server.address);
    // The route already limits the host's own segments.
    tcp_ask(&world.node, server.address).expect("the node's fit");
});

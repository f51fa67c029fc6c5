//! Other software that enables forwarding for its own interfaces after we have started, as Docker, libvirt and others
//! do.

use std::{net::Ipv4Addr, time::Duration};

use crate::{
    internet::assert_internet,
    reach::{assert_published, pair},
    world::{
        CLIENT, INTERNET_FAR, NODE_LAN, Namespace, World,
        command::Output,
        on_every_firewall,
        traffic::{tcp_ask, tcp_server},
        transport::Transport,
        wait_for,
    },
};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
/// The port that the router publishes, and the port that its container serves.
const PUBLISHED: u16 = 5432;
const SERVED: u16 = 80;

/// A container behind a bridge of its own, on a node that its software has made a router.
struct Router<'a> {
    world: &'a World,
    container: Namespace,
    _serves: crate::world::traffic::Server,
}

impl<'a> Router<'a> {
    /// Starts as Docker does on a node that does not forward.
    fn start(world: &'a World) -> Self {
        let container = Namespace::new();
        let cable = format!(
            "link add docker0 type bridge\nlink set docker0 addrgenmode none up\n\
             address add {GATEWAY}/16 dev docker0\n\
             link add vct type veth peer name eth0 netns {}\n\
             link set vct master docker0 addrgenmode none up\n",
            container.path()
        );
        world.node.feed(&["ip", "-batch", "-"], &cable).success();
        let far = format!(
            "link set eth0 up\naddress add {CONTAINER}/16 dev eth0\nroute add default via {GATEWAY}\n"
        );
        container.feed(&["ip", "-batch", "-"], &far).success();
        assert_eq!(world.node.sysctl("net/ipv4/ip_forward"), "0");
        world.node.set_sysctl("net/ipv4/ip_forward", "1");
        rules(world).success();
        let serves = tcp_server(&container, (CONTAINER, SERVED));
        Self { world, container, _serves: serves }
    }

    /// Asserts that its container reaches the Internet, and can be reached.
    #[track_caller]
    fn assert_works(&self, when: &str) {
        let internet = tcp_server(&self.world.internet, (INTERNET_FAR, 443));
        let reached = tcp_ask(&self.container, internet.address);
        assert!(reached.is_ok(), "{when}: the container does not reach the Internet: {reached:?}");
        let answer = tcp_ask(&self.world.client, (NODE_LAN, PUBLISHED));
        let client = answer.as_ref().map(|answer| answer.client.ip());
        assert_eq!(client.ok(), Some(CLIENT.into()), "{when}: {answer:?}");
        assert_eq!(self.world.node.sysctl("net/ipv4/ip_forward"), "1", "{when}");
    }
}

/// Loads rules that forward for its bridge only, and masquerade it.
fn rules(world: &World) -> Output {
    let rules = format!(
        "*filter\n:FORWARD DROP [0:0]\n\
         -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n\
         -A FORWARD -d {CONTAINER} -o docker0 -p tcp --dport {SERVED} -j ACCEPT\nCOMMIT\n\
         *nat\n\
         -A PREROUTING -p tcp --dport {PUBLISHED} -m addrtype --dst-type LOCAL \
         -j DNAT --to-destination {CONTAINER}:{SERVED}\n\
         -A POSTROUTING -s {GATEWAY}/16 ! -o docker0 -j MASQUERADE\nCOMMIT\n"
    );
    world.program("iptables-restore", &["--noflush", "--wait"], &rules)
}

on_every_firewall!(router_started_after_us_forwards, |world| {
    let pair = pair(world);
    let router = Router::start(world);
    router.assert_works("at once");
    // Its policy drops our packets until our next operation, which must not drop its own.
    world.riklet(&["repair"], "").success();
    router.assert_works("after a repair");
    assert_published(world, &pair, &[Transport::Tcp]);
    assert_internet(world, &pair[0]);
    world.riklet(&["check"], "").success();
    world.down(&["--all"]);
    router.assert_works("when no function is up");
    world.down(&["--all", "--purge"]);
    router.assert_works("when nothing of ours is left");
});

on_every_firewall!(router_started_next_to_a_daemon_forwards, |world| {
    let daemon = world.daemon(&[]);
    let pair = pair(world);
    daemon.wait_until_idle();
    let router = Router::start(world);
    router.assert_works("at once");
    wait_for("functions to be reached behind his policy", Duration::from_secs(25), || {
        world.riklet(&["check"], "").code.filter(|code| *code == 0)
    });
    router.assert_works("with the daemon");
    assert_published(world, &pair, &[Transport::Tcp]);
    assert_internet(world, &pair[0]);
    world.riklet(&["repair"], "").success();
    router.assert_works("after a repair");
    world.down(&["--all", "--purge"]);
    router.assert_works("when nothing of ours is left");
});

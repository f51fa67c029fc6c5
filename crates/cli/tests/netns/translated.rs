//! Translations of others that come later: they take no published port.

use std::net::Ipv4Addr;

use crate::world::{
    Firewall, NODE_LAN, World,
    function::{exposure, function},
    on_every_firewall,
    traffic::tcp_ask,
    transport::Transport::Tcp,
};

const PORT: u16 = 8080;
/// The port on the node that the other program leads everything to, as a transparent proxy does.
const PROXY: u16 = 3128;

/// Leads all TCP connections to the node to a port of the node, as the backend's other programs would.
fn redirect(world: &World) {
    let chain = |hook: &str| {
        format!(
            "chain {hook} {{ type nat hook {hook} priority -100; \
             fib daddr type local tcp dport != {PROXY} redirect to :{PROXY}; }}\n"
        )
    };
    if world.firewall == Firewall::Nftables {
        let table = format!("table ip proxy {{ {}{} }}", chain("prerouting"), chain("output"));
        world.node.feed(&["nft", "-f", "-"], &table).success();
        return;
    }
    for chain in ["PREROUTING", "OUTPUT"] {
        let rule = format!(
            "-w -t nat -I {chain} -p tcp -m addrtype --dst-type LOCAL ! --dport {PROXY} -j REDIRECT --to-ports {PROXY}"
        );
        let words: Vec<_> = rule.split(' ').collect();
        world.program("iptables", &words, "").success();
    }
    // The kernel asks rules in their order: `repair`, or the daemon, puts our jump first again.
    world.riklet(&["repair"], "").success();
}

on_every_firewall!(a_redirect_that_comes_later_takes_no_published_port, |world| {
    let [served] =
        world.start([(function("served", &[exposure(Tcp, PORT, 3000)]), &[(Tcp, 3000)])]);
    let proxy = Tcp.serve(&world.node, Ipv4Addr::UNSPECIFIED, PROXY);
    redirect(world);
    let function = Some((served.address(), 3000).into());
    for from in [&world.client, &world.node] {
        let answering = |port| tcp_ask(from, (NODE_LAN, port)).map(|answer| answer.server).ok();
        assert_eq!(answering(PORT), function);
        // This shows that the redirect works.
        assert_eq!(answering(PORT + 1).map(|server| server.port()), Some(PROXY));
    }
    drop(proxy);
    assert_eq!(world.riklet(&["check"], "").success(), "");
});

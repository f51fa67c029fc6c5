//! Foreign firewalls and interfaces, which the program must tolerate and leave alone.

use std::net::Ipv4Addr;

use riklet_core::link::LIVE_GROUP;

use super::{Firewall, Namespace, World};

/// The alias of a foreign interface that has one of our names.
pub(crate) const ALIAS: &str = "somebody's";

/// Creates foreign interfaces: one with one of our names, one in a group next to ours.
pub(crate) fn interfaces(namespace: &Namespace) {
    let group = LIVE_GROUP - 1;
    let batch = format!(
        "\
tuntap add dev rik77 mode tap
link set rik77 alias {ALIAS} addrgenmode none up
address add 192.0.2.77/24 dev rik77
neighbour add 192.0.2.78 lladdr 2:0:0:0:0:78 dev rik77
tuntap add dev theirs mode tap
link set theirs group {group} addrgenmode none up
route add 198.18.0.0/15 dev theirs
"
    );
    namespace.feed(&["ip", "-batch", "-"], &batch).success();
}

/// Installs what Docker leaves on a host: chains of its own, and forwarding that is dropped unless it is a
/// container's.
pub(crate) fn docker_like(world: &World, variant: Firewall) {
    let rules = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 32768 -j DNAT --to-destination 172.17.0.2:80
COMMIT
";
    world.program(variant.xtables(), &["iptables-restore", "--wait"], rules).success();
}

/// Bans this many addresses in the chain FORWARD.
pub(crate) fn bans(world: &World, variant: Firewall, count: u32) {
    let address = |number| Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 0, 0, 0)) + number);
    let rules = (0..count).map(|number| format!("-A FORWARD -s {} -j DROP", address(number)));
    let input = format!("*filter\n{}\nCOMMIT\n", rules.collect::<Vec<_>>().join("\n"));
    world
        .program(variant.xtables(), &["iptables-restore", "--noflush", "--wait"], &input)
        .success();
}

/// Translates this many ports of the node, from 20,000 on, as Docker does.
pub(crate) fn published(world: &World, variant: Firewall, count: u32) {
    let rules = (20_000..20_000 + count).map(|port| {
        format!("-A DOCKER ! -i docker0 -p tcp -m tcp --dport {port} -j DNAT --to 172.17.0.2:80")
    });
    let rules = rules.collect::<Vec<_>>().join("\n");
    let jump = "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER";
    let input = format!("*nat\n:DOCKER - [0:0]\n{jump}\n{rules}\nCOMMIT\n");
    world
        .program(variant.xtables(), &["iptables-restore", "--noflush", "--wait"], &input)
        .success();
}

/// Loads a ruleset written for `nft` that drops forwarded packets twice, once in a chain with the name, but not the
/// shape, of the one that `iptables` creates.
pub(crate) fn nft_foreign(namespace: &Namespace) {
    let rules = "\
table ip filter {
    chain FORWARD {
        type filter hook forward priority 0; policy drop;
        iifname \"br-lan\" counter accept
    }
}
table inet mine {
    set friends {
        type ipv4_addr
        elements = { 192.0.2.1, 192.0.2.2 }
    }
    chain forward {
        type filter hook forward priority 10; policy drop;
        ip saddr @friends accept
    }
}
";
    namespace.feed(&["nft", "-f", "-"], rules).success();
}

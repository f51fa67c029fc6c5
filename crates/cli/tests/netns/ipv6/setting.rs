//! The setting, and hosts on which it changes nothing.

use std::fs;

use serde_json::json;

use super::{FIRST, GATEWAY, NODE_LAN, address_of, dual, of, pair, with, without};
use crate::world::{
    Firewall, World,
    function::{Function, exposure, function},
    state::SystemState,
    traffic::{assert_tcp_closed, tcp_ask},
    transport::Transport,
};

fn disabled(world: &World, tap: &str) -> String {
    world.node.sysctl(&format!("net/ipv6/conf/{tap}/disable_ipv6"))
}

#[test]
fn off_is_the_default() {
    let world = without();
    world.up(&[function("hello", &[])]);
    assert_eq!(disabled(&world, "rik0"), "1");
    assert_eq!(address_of(&world, "hello"), None);
    let before = SystemState::take(&world.node);
    let rules = world.node.tool(&["nft", "list", "table", "inet", "riklet"]);
    assert!(!rules.contains("exposures6") && !rules.contains("ip6"), "{rules}");
    world.riklet(&["repair", "--ipv6", "off"], "").success();
    assert_eq!(before.differences(&SystemState::take(&world.node)), "");
    assert_eq!(world.node.sysctl("net/ipv6/conf/up0/force_forwarding"), "0");
}

#[test]
fn iptables_has_no_rules_for_it() {
    for firewall in [Firewall::IptablesNft, Firewall::IptablesLegacy] {
        let mut world = of(firewall);
        world.environment.insert("RIKLET_SDN_IPV6".to_owned(), "on".to_owned());
        let refused = world.riklet(&["up", "-"], &function("hello", &[]).to_string());
        assert_eq!(refused.code, Some(1), "{refused}");
        let words = "ipv6 needs the firewall nftables, and this node has iptables";
        assert!(refused.stderr.contains(words), "{refused}");
        assert!(refused.stderr.contains("whose rules are for IPv4 only"), "{refused}");
        let links = world.node.tool(&["ip", "link"]);
        assert!(!links.contains("rik0"), "nothing was changed");
    }
}

#[test]
fn a_host_without_ipv6_works_as_before() {
    let world = with();
    world.node.set_sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    let definition = function("hello", &[exposure(Transport::Tcp, FIRST, 3000)]);
    let up = world.riklet(&["up", "-"], &definition.to_string());
    assert_eq!(up.code, Some(0), "{up}");
    let words = "functions have IPv4 only: this host has turned IPv6 off";
    assert!(up.stderr.contains(words), "{up}");
    assert_eq!((disabled(&world, "rik0"), address_of(&world, "hello")), ("1".to_owned(), None));
    let nic = world.up(&[definition]).remove(0);
    let _function = Function::start(&world, nic, &[(Transport::Tcp, 3000)]);
    tcp_ask(&world.client, (crate::world::NODE_LAN, FIRST)).unwrap();
    // Once the host has IPv6, so do functions.
    world.node.set_sysctl("net/ipv6/conf/all/disable_ipv6", "0");
    world.riklet(&["repair"], "").success();
    assert!(address_of(&world, "hello").is_some());
    world.riklet(&["check"], "").success();
}

#[test]
fn it_is_switched_for_functions_that_run() {
    let world = without();
    let mut definition = function("hello", &[exposure(Transport::Tcp, FIRST, 3000)]);
    // Its guard is in a block of its own.
    definition["spec"]["function"]["network"] = json!({ "limits": { "egress": "100Mbit" } });
    let [function] = world.start([(definition, &[])]);
    world.riklet(&["repair", "--ipv6", "on"], "").success();
    let dual = dual(&world, function, "hello");
    tcp_ask(&world.client, (NODE_LAN, FIRST)).unwrap();
    world.riklet(&["check"], "").success();
    let refused = world.riklet(&["--ipv6", "off", "list"], "");
    let words = "ipv6 is configured as off, and this node has used on";
    assert!(refused.stderr.contains(words), "{refused}");
    world.riklet(&["repair", "--ipv6", "off"], "").success();
    assert_eq!(disabled(&world, dual.tap()), "1");
    assert_tcp_closed(&world.client, (NODE_LAN, FIRST));
    assert_eq!(world.node.sysctl("net/ipv6/conf/lan0/force_forwarding"), "0");
    let rules = world.node.tool(&["ip", "-6", "rule", "show"]);
    assert!(!rules.contains("prohibit"), "{rules}");
    world.riklet(&["check"], "").success();
    // The range stays the node's.
    world.riklet(&["repair", "--ipv6", "on"], "").success();
    assert_eq!(address_of(&world, "hello"), Some(dual.address));
    tcp_ask(&world.client, (NODE_LAN, FIRST)).unwrap();
}

#[test]
fn what_others_change_is_found_and_mended() {
    let world = with();
    let [first, _second] = pair(&world);
    let tap = first.tap().to_owned();
    let drifts = |command: &str, expected: &str| {
        let words: Vec<_> = command.split(' ').collect();
        world.node.tool(&words);
        let check = world.riklet(&["check"], "");
        assert_eq!(check.code, Some(1), "{command}: {check}");
        assert!(check.stdout.contains(expected), "{command}: {check}");
        world.riklet(&["repair"], "").success();
        world.riklet(&["check"], "").success();
    };
    let (address, conf) = (first.address, format!("sysctl -qw net.ipv6.conf.{tap}"));
    drifts(&format!("{conf}.accept_ra=1"), "no routes learned by IPv6");
    drifts(&format!("{conf}.accept_redirects=1"), "no routes learned by IPv6");
    drifts(&format!("{conf}.force_forwarding=0"), "force_forwarding 1");
    drifts(&format!("{conf}.disable_ipv6=1"), "IPv6");
    drifts(&format!("ip -6 address delete {GATEWAY}/64 dev {tap}"), "address fe80::1/64");
    drifts(&format!("ip -6 neighbour delete {address} dev {tap}"), &format!("neighbour {address}"));
    drifts(
        "sysctl -qw net.ipv6.conf.lan0.force_forwarding=0",
        "net.ipv6.conf.lan0.force_forwarding",
    );
    drifts("sysctl -qw net.ipv6.conf.all.forwarding=0", "force_forwarding");
    drifts("ip -6 rule delete pref 32763", "rule");
    drifts("nft flush set inet riklet hairpin6", "hairpin");
    drifts("nft delete table inet riklet", "firewall");
    drifts(&format!("ip link set {tap} down"), "up");
    tcp_ask(&world.client, (NODE_LAN, FIRST)).unwrap();
}

#[test]
fn lost_records_are_found_by_the_interfaces() {
    let world = with();
    let [first, _second] = pair(&world);
    fs::remove_dir_all(world.directory.path().join("state")).expect("the records");
    world.riklet(&["repair", "--rebuild"], "").success();
    assert_eq!(address_of(&world, "first"), Some(first.address));
    tcp_ask(&world.client, (NODE_LAN, FIRST)).unwrap();
    world.riklet(&["check"], "").success();
}

#[test]
fn cloud_init_carries_the_address() {
    let world = with();
    world.up(&[function("hello", &[])]);
    let address = address_of(&world, "hello").expect("an address");
    let shown = world.riklet(&["inspect", "hello", "--format", "cloud-init"], "").success();
    assert!(shown.contains(&format!("\"{address}/127\"")), "{shown}");
    assert!(shown.contains("\"fe80::1\""), "{shown}");
}

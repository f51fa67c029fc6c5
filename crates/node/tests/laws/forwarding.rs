//! The host's own forwarding stays as other programs set it, whenever they turn it on or off.

use std::error::Error;

use proptest::prelude::*;
use riklet_core::{
    firewall::Backend,
    model::InterfaceName,
    switch::{self, IP_FORWARD},
};
use riklet_kernel::fake::System;
use riklet_sdn::{
    Selector, UpOptions,
    store::{Setting, Store},
};

use crate::{
    name,
    node::{Operation, TestNode, function, operation},
};

fn interface(name: &str) -> InterfaceName {
    name.parse().unwrap()
}

fn sysctl(node: &TestNode, name: &str) -> String {
    node.kernel.system().sysctls[name].clone()
}

fn forwards(node: &TestNode, name: &str) -> String {
    sysctl(node, &switch::forwarding(&interface(name)))
}

/// Returns the pairs of interfaces between which the firewall drops new connections.
fn confined(node: &TestNode) -> Vec<String> {
    let system = node.kernel.system();
    let pairs = system.firewall[&Backend::Nftables].base_ruleset.confined.pairs();
    pairs.map(|(from, to)| format!("{from} → {to}")).collect()
}

/// Returns the pairs between which packets pass only because of us, and that no daemon confines.
fn open(node: &TestNode) -> Vec<String> {
    let open = node.node().left_open().unwrap();
    open.pairs().map(|(from, to)| format!("{from} → {to}")).collect()
}

/// Returns a node with the uplink `eth0`, and other networks at `lan0` and `oth0`.
fn among_networks() -> TestNode {
    let node = TestNode::new();
    node.kernel.system().add_interface(&interface("lan0"));
    node.kernel.system().add_interface(&interface("oth0"));
    node
}

fn up(node: &TestNode, number: u16) {
    node.node().up(&[function(number, &[8000 + number * 2])], UpOptions::default()).unwrap();
}

/// An operation of ours, or a change by another program that does not know of us.
#[derive(Debug, Clone)]
enum Turn {
    Ours(Operation),
    Forward(bool),
    Come(u8),
    Go(u8),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => operation().prop_map(Turn::Ours),
        2 => any::<bool>().prop_map(Turn::Forward),
        1 => (0..3u8).prop_map(Turn::Come),
        1 => (0..3u8).prop_map(Turn::Go),
    ]
}

fn others_take(turn: &Turn, system: &mut System) {
    match turn {
        Turn::Ours(_) => {}
        Turn::Forward(on) => drop(system.write_sysctl(IP_FORWARD, if *on { "1" } else { "0" })),
        Turn::Come(number) => {
            let name = interface(&format!("br{number}"));
            if !system.interfaces.contains_key(&name) {
                system.add_interface(&name);
            }
        }
        Turn::Go(number) => system.remove_interface(&interface(&format!("br{number}"))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Laws 1 and 3: in whatever order others and we change the host, it ends as the others alone would have left it,
    /// and its own switch always has the value that they set.
    #[test]
    fn purge_leaves_the_sysctls_that_others_set(turns in prop::collection::vec(turn(), 1..14)) {
        let mut node = among_networks();
        let mut alone = node.kernel.system().clone();
        for turn in &turns {
            if let Turn::Ours(operation) = turn {
                let done = node.run(operation);
                prop_assert_eq!(node.kernel.system().sysctls[IP_FORWARD].clone(), alone.sysctls[IP_FORWARD].clone());
                if done.is_ok() && matches!(operation, Operation::Repair) {
                    prop_assert!(node.node().check().unwrap().is_empty());
                }
            }
            others_take(turn, &mut node.kernel.system());
            others_take(turn, &mut alone);
        }
        node.node().down(&Selector::All, true).unwrap();
        prop_assert_eq!(node.kernel.system().sysctls.clone(), alone.sysctls);
    }
}

#[test]
fn only_interfaces_that_clients_reach_the_host_by_forward() {
    let node = among_networks();
    let quiet = interface("quiet0");
    node.kernel.system().add_interface(&quiet);
    node.kernel.system().interfaces.get_mut(&quiet).unwrap().addressed = false;
    let before = node.state();
    up(&node, 0);
    assert_eq!(sysctl(&node, IP_FORWARD), "0");
    let switches = ["eth0", "lan0", "oth0", "quiet0"].map(|name| forwards(&node, name));
    assert_eq!(switches, ["1", "1", "1", "0"]);
    let of = |from: &str| ["eth0", "lan0", "oth0", "quiet0"].map(|to| format!("{from} → {to}"));
    assert_eq!(confined(&node), [""; 0], "nobody would hear that it is wanted");
    assert_eq!(open(&node), [of("eth0"), of("lan0"), of("oth0")].concat());
    node.node().down(&Selector::All, true).unwrap();
    assert_eq!(node.state(), before);
}

#[test]
fn only_a_watching_process_confines() {
    let node = among_networks();
    up(&node, 0);
    let alone = open(&node);
    let mut daemon = node.warm();
    daemon.repair().unwrap();
    let heard = confined(&node);
    assert_eq!(heard, alone);
    assert_eq!(open(&node), [""; 0]);
    // Another process on the same records leaves the confinement as it is.
    assert!(node.node().check().unwrap().is_empty());
    up(&node, 1);
    node.node().repair().unwrap();
    assert_eq!(confined(&node), heard);

    daemon.close().unwrap();
    assert_eq!(confined(&node), [""; 0]);
    assert_eq!(open(&node), alone);
    assert!(node.node().check().unwrap().is_empty());
}

#[test]
fn forwarding_that_others_turned_on_is_not_confined() {
    let node = among_networks();
    up(&node, 0);
    node.kernel.system().add_interface(&interface("docker0"));
    node.kernel.system().interfaces.get_mut(&interface("docker0")).unwrap().bridge = true;
    node.kernel.system().add_interface(&interface("vpn0"));
    node.kernel.system().write_sysctl(IP_FORWARD, "1");
    up(&node, 1);
    assert_eq!(confined(&node), [""; 0]);
    assert!(node.node().check().unwrap().is_empty());
    node.kernel.system().write_sysctl(IP_FORWARD, "0");
    let drift = node.node().check().unwrap().plan.to_string();
    for line in ["~ sysctl net.ipv4.conf.eth0.forwarding = 1", "~ TAP rik0: forwarding 1"] {
        assert!(drift.contains(line), "{drift}");
    }
    // An operation on one instance repairs all TAPs: the uplink shows that the switches were reset.
    node.node().down(&Selector::Named([name("f1")].into()), false).unwrap();
    assert!(node.kernel.system().links.values().all(|link| link.forwarding));
    assert!(node.node().check().unwrap().is_empty());
    let pairs = open(&node);
    assert!(pairs.contains(&"vpn0 → lan0".to_owned()), "clients ask there: {pairs:?}");
    assert!(pairs.iter().all(|pair| !pair.contains("docker0")), "it is another's: {pairs:?}");
    assert_eq!(["vpn0", "docker0"].map(|name| forwards(&node, name)), ["1", "0"]);
}

#[test]
fn an_interface_recreated_under_the_same_name_is_a_new_one() {
    let node = among_networks();
    up(&node, 0);
    let to_lan = |node: &TestNode| open(node).contains(&"oth0 → lan0".to_owned());
    assert!(to_lan(&node));
    node.kernel.system().remove_interface(&interface("lan0"));
    assert!(node.node().check().unwrap().is_empty(), "that it went is no drift");
    node.kernel.system().add_interface(&interface("bridge0"));
    node.kernel.system().add_interface(&interface("lan0"));
    node.kernel.system().interfaces.get_mut(&interface("lan0")).unwrap().addressed = false;
    node.node().repair().unwrap();
    assert!(!to_lan(&node), "{:?}", open(&node));
    assert!(node.node().check().unwrap().is_empty());
}

/// Writes records as the versions did that turned on forwarding for the whole host.
fn inherit(node: &TestNode, value: &str) {
    let mut store = Store::open(node.node().config().state_dir.as_path()).unwrap();
    let tx = store.transaction().unwrap();
    tx.set_setting(Setting::Backend, "nftables").unwrap();
    tx.set_setting(Setting::Pool, "10.231.0.0/16").unwrap();
    tx.set_setting(Setting::Tables, "").unwrap();
    let whole = ["net.ipv4.conf.all.accept_redirects", "net.ipv4.conf.all.forwarding"];
    let rest = ["default", "lo", "eth0", "lan0", "oth0"]
        .map(|of| format!("net.ipv4.conf.{of}.forwarding"));
    for name in [IP_FORWARD].into_iter().chain(whole).chain(rest.iter().map(|name| &**name)) {
        tx.record_sysctl(name, "0").unwrap();
    }
    tx.commit().unwrap();
    node.kernel.system().write_sysctl(IP_FORWARD, value);
}

#[test]
fn sysctls_of_an_earlier_version_are_restored_only_where_nobody_relies_on_them() {
    let node = among_networks();
    inherit(&node, "1");
    node.kernel.system().add_interface(&interface("docker0"));
    let before = node.kernel.system().sysctls.clone();
    up(&node, 0);
    assert_eq!(confined(&node), [""; 0]);
    node.node().down(&Selector::All, true).unwrap();
    assert_eq!(node.kernel.system().sysctls, before, "who came later may rely on it");

    let node = among_networks();
    let before = node.kernel.system().sysctls.clone();
    inherit(&node, "1");
    up(&node, 0);
    node.kernel.system().write_sysctl(IP_FORWARD, "0");
    up(&node, 1);
    assert_eq!(["eth0", "lan0"].map(|name| forwards(&node, name)), ["1", "1"]);
    node.node().down(&Selector::All, true).unwrap();
    assert_eq!(node.kernel.system().sysctls, before, "the administrator turned it off");
}

#[test]
fn a_correct_sysctl_may_be_read_only() {
    let node = among_networks();
    node.kernel.system().write_sysctl(IP_FORWARD, "1");
    node.kernel.system().sysctls_are_read_only = true;
    let before = node.state();
    up(&node, 0);
    assert!(node.node().check().unwrap().is_empty());
    node.node().down(&Selector::All, true).unwrap();
    assert_eq!(node.state(), before);
}

#[test]
fn a_wrong_read_only_sysctl_fails_up_but_not_down() {
    let node = among_networks();
    node.kernel.system().sysctls_are_read_only = true;
    let before = node.state();
    for purge in [false, true] {
        let refused = node.node().up(&[function(0, &[8000])], UpOptions::default()).unwrap_err();
        let switch = switch::forwarding(&interface("eth0"));
        let wanted = format!("cannot set sysctl {switch} to 1 (it is 0)");
        assert_eq!(refused.source().unwrap().to_string(), wanted);
        let hint = refused.hint().unwrap();
        assert!(hint.contains(&format!("`sysctl -w {switch}=1`")), "{hint}");
        node.node().down(&Selector::Named([name("f0")].into()), purge).unwrap();
        assert!(node.kernel.system().links.is_empty());
    }
    assert_eq!(node.state(), before);
}

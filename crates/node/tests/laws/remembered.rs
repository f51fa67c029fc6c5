//! A long-lived process remembers what it decided about the host, until the host or the settings change. Commands remember
//! the firewall, and the ports that others translate, until somebody changes a rule.

use riklet_core::{
    firewall::{Backend, ForeignChain, ForeignFamily, IptablesVariant, Translation},
    model::{InterfaceName, Protocol},
    plan::Step,
    switch::IP_FORWARD,
};
use riklet_kernel::fake::{FakeKernel, System};
use riklet_sdn::{
    NodeError, Occupant, Selector, UpOptions, WarmNode,
    store::{Setting, Store},
};

use crate::node::{TestNode, function};

type ForeignChange = fn(&mut System, &InterfaceName);

fn up(daemon: &mut WarmNode<FakeKernel>, number: u16) {
    daemon.up(&[function(number, &[8000 + number])], UpOptions::default()).unwrap();
}

fn uplinks(node: &TestNode) -> Vec<String> {
    let system = node.kernel.system();
    let uplinks = system.firewall[&Backend::Nftables].base_ruleset.uplinks.iter();
    uplinks.map(ToString::to_string).collect()
}

/// Takes the next function up after each change by another program, and checks that the change was noticed.
#[test]
fn an_operation_sees_a_host_that_changed() {
    let (node, other) = (TestNode::new(), "eth1".parse::<InterfaceName>().unwrap());
    let mut daemon = node.warm();
    up(&mut daemon, 0);
    up(&mut daemon, 1);
    assert_eq!(uplinks(&node), ["eth0"]);
    let changes: [(ForeignChange, &[&str], bool); 3] = [
        (|system, other| system.add_interface(other), &["eth0"], true),
        (|system, other| assert!(system.uplinks.insert(other.clone())), &["eth0", "eth1"], true),
        (|system, _| assert!(system.write_sysctl(IP_FORWARD, "1")), &["eth0", "eth1"], false),
    ];
    for (number, (change, expected, confines)) in (2..).zip(changes) {
        change(&mut node.kernel.system(), &other);
        up(&mut daemon, number);
        assert_eq!(uplinks(&node), expected);
        let system = node.kernel.system();
        let confined = &system.firewall[&Backend::Nftables].base_ruleset.confined;
        assert_eq!(!confined.is_empty(), confines, "{number}: {confined:?}");
    }
}

#[test]
fn an_operation_sees_a_setting_that_another_process_changed() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    up(&mut daemon, 0);
    up(&mut daemon, 1);
    let mut store = Store::open(node.state_dir()).unwrap();
    let records = store.transaction().unwrap();
    records.set_setting(Setting::Mtu, "1400").unwrap();
    records.commit().unwrap();
    up(&mut daemon, 2);
    let links = node.kernel.system().links.clone();
    assert!(links.values().any(|link| link.mtu == 1400), "{links:?}");
}

/// The second of two commands does not read the firewall: it misses a change that no transaction made.
#[test]
fn a_command_reads_the_firewall_only_if_a_rule_was_changed() {
    let node = TestNode::new();
    let up = |number| {
        drop(node.node().up(&[function(number, &[8000 + number])], UpOptions::default()).unwrap());
    };
    up(0);
    up(1);
    let probes = || node.kernel.system().probes;
    let before = probes();
    up(2);
    up(3);
    node.node().down(&Selector::Named([function(2, &[]).name().clone()].into()), false).unwrap();
    assert_eq!(probes(), before, "nobody else changed a rule");
    node.kernel.system().firewall.clear();
    up(4);
    assert_eq!(node.exposed(), 4, "what was flushed is back");
    assert!(probes() > before);
}

/// The first command writes all rules. If nobody else changed any meanwhile, it knows how they are.
#[test]
fn the_command_that_writes_all_rules_looks_at_foreign_chains_once() {
    let listings =
        [None, Some(IptablesVariant::Nft), Some(IptablesVariant::Legacy)].map(|variant| {
            let node = TestNode::new();
            node.kernel.system().iptables = variant;
            drop(node.node().up(&[function(0, &[8000])], UpOptions::default()).unwrap());
            let first = node.kernel.system().listings;
            let known = Store::open(node.state_dir()).unwrap().setting(Setting::Ruleset).unwrap();
            let known = known.expect("it is known how the rules are");
            let all = variant != Some(IptablesVariant::Legacy);
            assert_eq!(known.contains(" all"), all, "{variant:?}: {known}");
            drop(node.node().up(&[function(1, &[8001])], UpOptions::default()).unwrap());
            assert_eq!(node.kernel.system().listings, first, "{variant:?}");
            node.kernel.system().firewall.clear();
            node.node().repair().unwrap();
            let repaired = node.kernel.system().listings;
            drop(node.node().up(&[function(2, &[8002])], UpOptions::default()).unwrap());
            assert_eq!(node.kernel.system().listings, repaired, "{variant:?}");
            assert_eq!(node.exposed(), 3);
            (first, repaired)
        });
    assert_eq!(listings[1], listings[2]);
}

#[test]
fn an_up_again_asks_the_kernel_as_often_for_thousands_of_single_ports_as_for_one() {
    let asked = [1, 8_000].map(|count| {
        let node = TestNode::new();
        let ports: Vec<u16> = (0..count).map(|number| 1_000 + 2 * number).collect();
        let up = || node.node().up(&[function(0, &ports)], UpOptions::default()).unwrap();
        let first = up();
        assert!(!first.done.is_empty());
        let counts = || {
            let System { effects, listings, probes, searches, .. } = *node.kernel.system();
            [effects, listings, probes, searches]
        };
        let before = counts();
        assert!(up().done.is_empty());
        let after = counts();
        [0, 1, 2, 3].map(|of| after[of] - before[of])
    });
    assert_eq!(asked[0], asked[1]);
}

/// Somebody loads a foreign chain after the first functions, and another program changes rules again and again.
#[test]
fn a_command_looks_at_foreign_chains_only_if_a_rule_was_changed() {
    let node = TestNode::new();
    let up = |number| {
        drop(node.node().up(&[function(number, &[8000 + number])], UpOptions::default()).unwrap());
    };
    let listings = || node.kernel.system().listings;
    up(0);
    for number in [1, 4, 7] {
        let before = listings();
        up(number);
        assert_eq!(listings(), before, "nobody else changed a rule");
        let (table, chain) = (format!("theirs{number}"), "forward".to_owned());
        let theirs = ForeignChain::Nftables { family: ForeignFamily::Inet, table, chain };
        node.kernel.system().foreign_chains.insert(theirs.clone(), false);
        let down = Selector::Named([function(number, &[]).name().clone()].into());
        node.node().down(&down, false).unwrap();
        assert_eq!(listings(), before, "a function that leaves needs no passage");
        let (plan, _) = node.node().plan(&[function(number + 1, &[])]).unwrap();
        let opens = |step: &Step| matches!(step, Step::OpenPassage(chain, _) if *chain == theirs);
        assert_eq!(plan.steps.iter().filter(|step| opens(step)).count(), 1, "{plan}");
        up(number + 1);
        assert!(node.kernel.system().foreign_chains[&theirs], "it has a passage");
        assert!(node.node().check().unwrap().is_empty());
        let before = listings();
        up(number + 2);
        assert_eq!(listings(), before, "nobody else changed a rule since");
    }
}

#[test]
fn a_flushed_entry_is_restored_although_a_later_command_found_nothing() {
    let node = TestNode::new();
    let up = |number| {
        let up = node.node().up(&[function(number, &[8000 + number])], UpOptions::default());
        drop(up.unwrap());
    };
    up(0);
    up(1);
    let flush = |system: &mut System| {
        let ruleset = system.firewall.get_mut(&Backend::Nftables).unwrap();
        ruleset.entries.clear();
    };
    flush(&mut node.kernel.system());
    up(2);
    up(3);
    up(0);
    assert_eq!(node.exposed(), 4);
}

/// Translates a port, as Docker does for a container.
fn translate(node: &TestNode, port: &str) -> Translation {
    let port = port.parse().unwrap();
    let translation = Translation::new(Protocol::Tcp, None, port, "ip nat DOCKER");
    node.kernel.system().translations.insert(translation.clone());
    translation
}

#[test]
fn a_command_searches_rules_of_others_only_if_a_rule_was_changed() {
    let node = TestNode::new();
    let try_up = |port: u16| node.node().up(&[function(port, &[port])], UpOptions::default());
    let up = |port| drop(try_up(port).unwrap());
    let searches = || node.kernel.system().searches;
    (0..3).for_each(|number| up(8000 + 2 * number));
    let before = searches();
    up(8010);
    node.node().down(&Selector::Named([function(8010, &[]).name().clone()].into()), false).unwrap();
    up(8012);
    assert_eq!(searches(), before, "nobody else changed a rule");

    let translation = translate(&node, "9000-9010");
    let refused = |port| match try_up(port).unwrap_err() {
        NodeError::Shadows(shadow) => {
            assert_eq!(shadow.occupant, Occupant::Translation(translation.clone()));
        }
        error => panic!("{error}"),
    };
    refused(9002);
    up(8014);
    let before = searches();
    up(8016);
    assert_eq!(searches(), before, "the translated ports are known");
    refused(9004);
    node.kernel.system().translations.clear();
    up(9004);
}

#[test]
fn what_an_earlier_version_recorded_of_the_rules_is_searched_again() {
    let node = TestNode::new();
    let up = |port: u16| node.node().up(&[function(port, &[port])], UpOptions::default());
    translate(&node, "9000");
    (0..3).for_each(|number| drop(up(8000 + 2 * number).unwrap()));
    let mut store = Store::open(node.state_dir()).unwrap();
    let known = store.setting(Setting::Ruleset).unwrap().unwrap();
    let earlier = known.strip_suffix(" tcp:9000").unwrap();
    let records = store.transaction().unwrap();
    records.set_setting(Setting::Ruleset, earlier).unwrap();
    records.commit().unwrap();
    let System { searches, probes, .. } = node.kernel.system().clone();
    assert!(matches!(up(9000), Err(NodeError::Shadows(_))));
    up(8010).unwrap();
    assert!(node.kernel.system().searches > searches);
    assert_eq!(node.kernel.system().probes, probes, "the rules are known to stand");
    assert!(store.setting(Setting::Ruleset).unwrap().unwrap().ends_with(" all tcp:9000"));
}

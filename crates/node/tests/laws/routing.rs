//! Our routing rules follow those of others, survive an interruption, and are removed by the last purge.

use proptest::prelude::*;
use riklet_core::{
    model::{Family, InterfaceName},
    routing::{AnswerPath, NextHop, RoutingRule},
};
use riklet_kernel::fake::{Fault, System};
use riklet_sdn::{Selector, UpOptions};

use crate::node::{Operation, TestNode, function, operation};

/// Returns a foreign rule for one source, or for every packet, that looks up table 100.
fn rule(priority: u32, by_source: bool) -> RoutingRule {
    RoutingRule {
        family: Family::V4,
        priority,
        protocol: 3,
        from: by_source.then(|| "10.19.0.1/32".parse().unwrap()),
        to: None,
        mark: None,
        from_host: false,
        narrowed: false,
        prohibits: false,
        table: Some(100),
        suppressed: None,
    }
}

/// An operation of ours, or a change by another program that does not know of us.
#[derive(Debug, Clone)]
enum Turn {
    Ours(Operation),
    Killed(Operation, usize),
    Come(u32, bool),
    Go,
    /// The default route of another uplink comes, with another router each time.
    Uplink(u8),
    NoUplink,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => operation().prop_map(Turn::Ours),
        3 => (operation(), 0..12_usize).prop_map(|(operation, at)| Turn::Killed(operation, at)),
        2 => (0..4_u32, any::<bool>()).prop_map(|(priority, by)| Turn::Come(priority, by)),
        1 => Just(Turn::Go),
        2 => (1..3_u8).prop_map(Turn::Uplink),
        1 => Just(Turn::NoUplink),
    ]
}

fn others_take(turn: &Turn, system: &mut System) {
    match *turn {
        Turn::Ours(_) | Turn::Killed(..) => {}
        Turn::Come(priority, by_source) => {
            system.rules.push(rule(priority, by_source));
            system.rules.sort();
        }
        Turn::Go => system.rules.retain(RoutingRule::is_ours),
        Turn::Uplink(router) => {
            let gateway = Some([198, 51, 100, router].into());
            system.next_hops.insert("eth2".parse().unwrap(), NextHop { gateway, mtu: None });
        }
        Turn::NoUplink => drop(system.next_hops.remove(&"eth2".parse().unwrap())),
    }
}

fn with_second_uplink() -> TestNode {
    let node = TestNode::new();
    let uplink: InterfaceName = "eth1".parse().unwrap();
    node.kernel.system().add_interface(&uplink);
    let path = AnswerPath { uplink, table: 100 };
    node.kernel.system().answer_paths.insert("10.19.0.1/32".parse().unwrap(), path);
    node.kernel.system().add_interface(&"eth2".parse().unwrap());
    node
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Laws 1 to 3: whatever rules others add and remove, and wherever we are killed, the next repair leaves nothing to
    /// do, and the last purge leaves the rules of others.
    #[test]
    fn purge_leaves_the_routing_rules_of_others(turns in prop::collection::vec(turn(), 1..12)) {
        let mut node = with_second_uplink();
        let mut alone = node.kernel.system().clone();
        for turn in &turns {
            match turn {
                Turn::Ours(operation) => drop(node.run(operation)),
                Turn::Killed(operation, at) => {
                    let effects = node.kernel.system().effects;
                    node.kernel.system().fault = Some((effects + at, Fault::Stop));
                    node.run_to_the_fault(operation);
                    node.kernel.system().fault = None;
                }
                _ => {}
            }
            others_take(turn, &mut node.kernel.system());
            others_take(turn, &mut alone);
        }
        node.node().repair().ok();
        prop_assert!(node.node().check().unwrap().is_empty());
        node.node().down(&Selector::All, true).unwrap();
        prop_assert_eq!(node.kernel.system().rules.clone(), alone.rules);
        prop_assert_eq!(node.kernel.system().uplink_routes.len(), 0);
    }
}

#[test]
fn the_route_of_an_uplink_follows_its_router() {
    let node = with_second_uplink();
    let router = |last: u8| NextHop { gateway: Some([192, 0, 2, last].into()), mtu: None };
    node.kernel.system().next_hops.insert("eth0".parse().unwrap(), router(1));
    node.kernel.system().next_hops.insert("eth2".parse().unwrap(), router(2));
    node.node().up(&[function(0, &[8000])], UpOptions::default()).unwrap();
    let copies = |node: &TestNode| -> Vec<String> {
        node.kernel.system().uplink_routes.iter().map(ToString::to_string).collect()
    };
    let [of_eth0, of_eth2] =
        ["via 192.0.2.1 dev eth0 table 1380535041", "dev eth2 table 1380535042"];
    let at =
        |last: u8| [format!("default {of_eth0}"), format!("default via 192.0.2.{last} {of_eth2}")];
    assert_eq!(copies(&node), at(2));
    node.kernel.system().next_hops.insert("eth2".parse().unwrap(), router(3));
    let drift = node.node().check().unwrap().plan.to_string();
    assert_eq!(drift, format!("+ route {}\n", at(3)[1]));
    node.node().up(&[function(1, &[8002])], UpOptions::default()).unwrap();
    assert_eq!(copies(&node), at(3));
    // With one uplink left, only the rules that keep guests apart are needed.
    node.kernel.system().next_hops.remove(&"eth2".parse().unwrap());
    node.node().up(&[function(2, &[8004])], UpOptions::default()).unwrap();
    assert_eq!(node.node().check().unwrap().plan.to_string(), "");
    assert_eq!((copies(&node), node.kernel.system().rules.len()), (vec![], 3));
    // The one that comes back has its number, and is found without a listing.
    node.kernel.system().next_hops.insert("eth2".parse().unwrap(), router(3));
    let listings = node.kernel.system().listings;
    node.node().up(&[function(3, &[8006])], UpOptions::default()).unwrap();
    assert_eq!(copies(&node), at(3));
    assert_eq!(node.kernel.system().listings, listings + 3, "the firewall is replaced as a whole");
}

#[test]
fn a_rule_that_ours_cannot_precede_does_not_stop_up() {
    let node = with_second_uplink();
    let shown = |node: &TestNode| -> Vec<String> {
        node.kernel.system().rules.iter().map(ToString::to_string).collect()
    };
    node.kernel.system().rules = vec![rule(3, true)];
    node.node().up(&[function(0, &[8000])], UpOptions::default()).unwrap();
    let ours = [
        "2: from all to 10.231.0.0/16 lookup main",
        "2: from 10.231.0.0/16 fwmark 0x1/0x7 lookup 100",
    ];
    let mut found = shown(&node);
    assert_eq!(found.pop().as_deref(), Some("3: from 10.19.0.1/32 lookup 100"));
    assert_eq!(found, ours);
    node.kernel.system().rules.insert(0, rule(1, false));
    let drift = node.node().check().unwrap().plan.to_string();
    assert_eq!(
        drift.lines().collect::<Vec<_>>(),
        ours.map(|rule| format!("- routing rule {rule}"))
    );
    node.node().up(&[function(1, &[8002])], UpOptions::default()).unwrap();
    assert_eq!(shown(&node), ["1: from all lookup 100", "3: from 10.19.0.1/32 lookup 100"]);
}

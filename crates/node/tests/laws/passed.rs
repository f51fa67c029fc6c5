//! Slots whose interface a new instance may not have are passed over, and no other slot is affected.

use std::collections::BTreeSet;

use riklet_core::{
    link::LinkState,
    model::{InterfaceName, Kind, Limits, Selector, Slot},
    plan::Step,
    routing::{HostRoute, NextHop},
    workload::alias,
};
use riklet_kernel::fake::FakeKernel;
use riklet_sdn::{Node, Request, UpOptions, WarmNode, store::ReservedSlot};

use crate::{
    foreign_link, name,
    node::{TestNode, function},
};

fn interface(slot: u16) -> InterfaceName {
    Slot::new(slot).interface()
}

/// Returns a node on which foreign interfaces have the names of these slots.
fn with_strangers(slots: &[u16]) -> TestNode {
    let node = TestNode::new();
    add_strangers(&node, slots);
    node
}

fn add_strangers(node: &TestNode, slots: &[u16]) {
    for name in slots.iter().map(|&slot| interface(slot)) {
        node.kernel.system().links.insert(name.clone(), foreign_link(&name));
    }
}

/// Brings one function up, and returns its slot.
#[track_caller]
fn up(node: &TestNode, number: u16) -> u16 {
    let workload = function(number, &[8000 + number]);
    let report = node.node().up(&[workload], UpOptions::default()).unwrap();
    assert!(report.failures.is_empty() && report.others.is_empty(), "{report:?}");
    report.instances[0].slot.number()
}

#[test]
fn a_foreign_interface_blocks_only_its_own_slot() {
    let node = with_strangers(&[0, 1, 3]);
    let before = node.kernel.system().links.clone();
    let workloads: Vec<_> = (0..3).map(|number| function(number, &[8000 + number])).collect();
    let (plan, _) = node.node().plan(&workloads).unwrap();
    let report = node.node().up(&workloads, UpOptions::default()).unwrap();
    let slots: BTreeSet<_> = report.instances.iter().map(|i| i.slot.number()).collect();
    assert_eq!((slots, report.failures.len()), ([2, 4, 5].into(), 0));
    let text = |steps: &[Step]| steps.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&plan.steps), text(&report.done));
    assert!(node.node().check().unwrap().is_empty());
    for (name, link) in before {
        assert_eq!(node.kernel.system().links[&name], link);
    }
}

/// Adds a route of the host's to these addresses.
fn add_route(node: &TestNode, destination: &str) {
    let interface = "wg0".parse().ok();
    let route = HostRoute { destination: destination.parse().unwrap(), interface };
    node.kernel.system().routes.push(route);
}

#[test]
fn a_route_to_a_part_of_the_pool_blocks_only_its_own_slots() {
    let node = TestNode::new();
    assert_eq!(up(&node, 0), 0);
    add_route(&node, "0.0.0.0/0");
    add_route(&node, "10.0.0.0/8");
    assert_eq!(up(&node, 1), 1, "a route to all of the pool is no reason to prefer another slot");
    add_route(&node, "10.231.0.8/29");
    add_route(&node, "10.231.0.18/32");
    assert_eq!(up(&node, 2), 5);
    let listings = node.kernel.system().listings;
    assert_eq!(up(&node, 3), 6);
    assert_eq!(node.kernel.system().listings, listings);
    // A slot that an instance has stays its own.
    assert_eq!(up(&node, 1), 1);
    // The slots are free again once the route is gone.
    node.kernel.system().routes.clear();
    node.node().repair().unwrap();
    assert_eq!(up(&node, 4), 2);
}

#[test]
fn a_configured_pool_yields_only_to_routes_that_are_preferred_to_those_of_its_guests() {
    let node = TestNode::new();
    add_route(&node, "10.231.0.0/29");
    add_route(&node, "10.231.0.8/30");
    let mut config = node.config();
    config.pool = "10.231.0.0/16".parse().ok();
    let mut configured = Node::with_kernel(config, node.kernel.clone());
    let workloads: Vec<_> = (0..3).map(|number| function(number, &[8000 + number])).collect();
    let report = configured.up(&workloads, UpOptions::default()).unwrap();
    let slots: BTreeSet<_> = report.instances.iter().map(|i| i.slot.number()).collect();
    assert_eq!(slots, [0, 1, 3].into());
}

#[test]
fn a_configured_pool_yields_to_routers_and_addresses_of_the_host() {
    let node = TestNode::new();
    add_route(&node, "10.231.0.0/16");
    let gateway = "10.231.0.1".parse().ok();
    let hop = NextHop { gateway, mtu: None };
    node.kernel.system().next_hops.insert("eth2".parse().unwrap(), hop);
    add_route(&node, "10.231.0.5/32");
    add_route(&node, "10.231.0.11/32");
    let mut config = node.config();
    config.pool = "10.231.0.0/16".parse().ok();
    let mut configured = Node::with_kernel(config, node.kernel.clone());
    let report = configured.up(&[function(0, &[8000])], UpOptions::default()).unwrap();
    assert_eq!(report.instances[0].slot.number(), 3);
}

#[test]
fn no_slot_is_made_ready_whose_addresses_a_route_has() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    daemon.initialize().unwrap();
    daemon.repair().unwrap();
    assert_eq!(up(&node, 0), 0);
    add_route(&node, "10.231.0.4/30");
    let done = daemon.reserve(2).unwrap().unwrap().run(&mut node.kernel.clone());
    daemon.finish(&done).unwrap();
    let links: Vec<_> = node.kernel.system().links.keys().cloned().collect();
    assert_eq!(links, [0, 2, 3].map(interface));
}

#[test]
fn a_slot_that_is_passed_over_is_looked_at_only_once() {
    let node = with_strangers(&[0]);
    assert_eq!(up(&node, 1), 1);
    // The foreign interface is gone, but an operation on one slot does not look for it.
    node.kernel.system().links.remove(&interface(0));
    assert_eq!(up(&node, 2), 2);
    node.node().down(&Selector::Named([name("f2")].into()), false).unwrap();
    assert_eq!(up(&node, 3), 2, "the lowest of the others");
    // A repair looks at everything, and finds that it is gone.
    node.node().repair().unwrap();
    assert_eq!(up(&node, 4), 0);
}

#[test]
fn a_slot_that_was_passed_over_is_retried_if_no_other_is_free() {
    let node = with_strangers(&[0]);
    let config = || {
        let mut config = node.config();
        config.pool = Some("10.231.0.0/29".parse().unwrap());
        config
    };
    let up = |number: u16| {
        let workload = function(number, &[8000 + number]);
        let mut node = Node::with_kernel(config(), node.kernel.clone());
        node.up(&[workload], UpOptions::default()).unwrap()
    };
    assert_eq!(up(0).instances[0].slot.number(), 1);
    let failed = up(1);
    assert_eq!(failed.failures.len(), 1, "{failed:?}");
    assert!(failed.failures[0].hint().unwrap().contains("rename or delete rik0"), "{failed:?}");
    node.kernel.system().links.remove(&interface(0));
    assert_eq!(up(1).instances[0].slot.number(), 0);
}

#[test]
fn an_open_tap_is_not_given_to_another_instance() {
    let node = TestNode::new();
    assert_eq!(up(&node, 0), 0);
    node.node().down(&Selector::All, false).unwrap();
    // A process has opened a leaked TAP of ours, of the function `f0`.
    let leaked = |node: &TestNode| {
        let owner = node.owner().unwrap();
        let (kind, policy) = (Kind::Function, (false, Limits::default()));
        let alias = alias::render(&owner, (kind, &name("f0")), policy, None, &[]);
        let open = LinkState { alias: Some(alias), open: true, ..foreign_link(&interface(0)) };
        node.kernel.system().links.insert(interface(0), open);
    };
    leaked(&node);
    let before = node.kernel.system().links[&interface(0)].clone();
    assert_eq!(up(&node, 1), 1);
    assert_eq!(node.kernel.system().links[&interface(0)], before);
}

#[test]
fn a_daemon_tries_a_slot_with_a_foreign_interface_once() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    daemon.initialize().unwrap();
    daemon.repair().unwrap();
    add_strangers(&node, &[0, 2]);
    let task = daemon.reserve(3).unwrap().unwrap();
    let done = task.run(&mut node.kernel.clone());
    assert_eq!(done.failed.len(), 2);
    daemon.finish(&done).unwrap();
    let up = |number| Request::Up(vec![function(number, &[])], UpOptions::default());
    for answer in daemon.apply(&[up(0), up(1), up(2)]) {
        assert!(answer.unwrap().failures.is_empty());
    }
    let slots = |daemon: &mut WarmNode<FakeKernel>| -> Vec<_> {
        daemon.list().unwrap().iter().map(|l| l.instance.slot.number()).collect()
    };
    assert_eq!(slots(&mut daemon), [1, 3, 4]);
    let task = daemon.reserve(3).unwrap().unwrap();
    let done = task.run(&mut node.kernel.clone());
    assert!(done.failed.is_empty(), "{done:?}");
    daemon.finish(&done).unwrap();
    assert_eq!(daemon.counts().unwrap().1[&ReservedSlot::Ready], 3);
    // The foreign interface goes, and the daemon is notified.
    node.kernel.system().links.remove(&interface(0));
    daemon.heal(&[Slot::new(0)].into()).unwrap();
    let task = daemon.reserve(1).unwrap().unwrap();
    let done = task.run(&mut node.kernel.clone());
    assert_eq!(done.ready, [Slot::new(0)].into());
    daemon.finish(&done).unwrap();
}

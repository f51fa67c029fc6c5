//! The laws of ARCHITECTURE.md, as properties on the kernel in memory: random operations, and a fault at every
//! effect of each.

#![expect(clippy::unwrap_used, reason = "a test fails where it panics")]

mod beside;
mod corrupt;
mod cut_off;
mod forwarding;
mod journal;
#[cfg(feature = "toy-kind")]
mod kinds;
mod node;
mod owners;
mod passed;
mod pods;
mod remembered;
mod removed;
mod routing;
mod running;
mod unreadable;
mod warm;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use node::{Operation, TestNode, function, iptables, operation, run_as, run_with};
use proptest::prelude::*;
use riklet_core::{
    firewall::{
        Backend, Entry, ForeignChain, ForeignFamily, IptablesVariant, Ruleset, Translation,
    },
    link::LinkState,
    model::{
        Account, Egress, EgressPolicy, Execution, Exposure, Function, InstanceName, Limits,
        Protocol, Queues, Slot, Workload,
    },
    plan::Step,
    shaping::ShapingState,
    small::{SmallMap, SmallSet},
    switch::IP_FORWARD,
};
use riklet_kernel::{AccountKind, Listener, fake::Fault};
use riklet_sdn::{
    ErrorKind, NodeError, Occupant, RebuildOptions, Report, Selector, UpOptions, Warning,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Law 1, and law 3 for recorded instances: after every operation the kernel has exactly what the model has, and
    /// planning again finds nothing to do.
    #[test]
    fn after_a_successful_operation_there_is_no_drift(
        operations in prop::collection::vec(operation(), 1..12),
        iptables in iptables(),
    ) {
        let mut node = TestNode::with_iptables(iptables);
        let mut model = BTreeMap::new();
        for operation in operations {
            let done = node.run(&operation);
            if let Operation::Up(workloads) = &operation {
                match done {
                    Ok(_) => model.extend(workloads.iter().map(|w| (w.name().clone(), w.clone()))),
                    Err(error) => prop_assert!(error.to_string().contains("cannot expose"), "{error}"),
                }
            } else {
                done.unwrap();
                operation.remove_from(&mut model);
            }
            prop_assert!(node.node().check().unwrap().is_empty());
            let recorded = node.node().list().unwrap().into_iter();
            let recorded: BTreeMap<_, _> =
                recorded.map(|l| (l.instance.name().clone(), l.instance.workload)).collect();
            prop_assert_eq!(&recorded, &model);
            let links: BTreeSet<_> = node.kernel.system().links.keys().cloned().collect();
            let expected: BTreeSet<_> =
                node.node().list().unwrap().iter().map(|l| l.instance.interface()).collect();
            prop_assert_eq!(links, expected);
            let twins = node.kernel.system().twins.len();
            prop_assert_eq!(twins, model.values().filter(|w| w.limits().egress.is_some()).count());
            prop_assert_eq!(node.exposed(), model.values().map(|w| w.exposures().len()).sum::<usize>());
        }
    }

    /// Law 2: an operation that is killed before any of its effects, followed by a repair, ends where the complete
    /// operation ends. The same holds if the kernel refuses any of its effects.
    #[test]
    fn a_fault_anywhere_is_repaired(
        before in prop::collection::vec(operation(), 0..4),
        faulty in operation(),
        fault in prop_oneof![Just(Fault::Stop), Just(Fault::Refuse)],
        iptables in iptables(),
    ) {
        let prepared = || {
            let mut node = TestNode::with_iptables(iptables);
            for operation in &before {
                // A port that is taken is refused in the same way on every node.
                let _refused = node.run(operation);
            }
            node
        };
        let mut sound = prepared();
        let start = sound.kernel.system().effects;
        if sound.run(&faulty).is_err() {
            return Ok(());
        }
        let effects = sound.kernel.system().effects - start;
        for at in 0..effects {
            let mut node = prepared();
            node.kernel.system().fault = Some((start + at, fault));
            let outcome = node.run_to_the_fault(&faulty);
            node.kernel.system().fault = None;
            // Law 5: if no failure is reported, nothing is missing.
            let silent = |report: Report| report.failures.is_empty() && report.others.is_empty();
            if outcome.is_some_and(|done| done.is_ok_and(silent)) {
                prop_assert_eq!(node.state(), sound.state(), "effect {} failed in silence", at);
            }
            node.node().repair().unwrap();
            node.finish(&faulty);
            prop_assert!(node.node().check().unwrap().is_empty());
            prop_assert_eq!(node.state(), sound.state(), "stopped at effect {} of {}", at, effects);
        }
    }
}

#[test]
fn a_failed_instance_does_not_stop_the_others() {
    let node = TestNode::new();
    let foreign = Slot::new(1).interface();
    let workloads: Vec<_> = (0..3).map(|n| function(n, &[9000 + n])).collect();
    node.node().up(&workloads, UpOptions::default()).unwrap();
    node.kernel.system().links.insert(foreign.clone(), foreign_link(&foreign));
    let workloads: Vec<_> = (0..3).map(|n| function(n, &[8000 + n])).collect();
    let report = node.node().up(&workloads, UpOptions::default()).unwrap();
    let up: Vec<_> = report.instances.iter().map(|i| i.interface().to_string()).collect();
    assert_eq!(up, ["rik0", "rik2"]);
    let failures: Vec<_> = report.failures.iter().map(|f| f.name.to_string()).collect();
    assert_eq!(failures, ["f1"]);
    assert_eq!(node.exposed(), 2, "no port leads to an interface that is not ours");
    assert_eq!(node.kernel.system().links.get(&foreign), Some(&foreign_link(&foreign)));

    node.kernel.system().links.remove(&foreign);
    node.node().repair().unwrap();
    assert!(node.node().check().unwrap().is_empty());
    assert_eq!(node.exposed(), 3);
}

#[test]
fn purge_restores_the_host_and_keeps_foreign_objects() {
    let node = TestNode::new();
    let foreign = Slot::new(7).interface();
    {
        let mut system = node.kernel.system();
        system.links.insert(foreign.clone(), foreign_link(&foreign));
        let foreign_chain = ForeignChain::Nftables {
            family: ForeignFamily::Ip,
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
        };
        system.foreign_chains.insert(foreign_chain, false);
    }
    let before = node.state();
    let workloads: Vec<_> = (0..3).map(|n| function(n, &[8000 + n])).collect();
    node.node().up(&workloads, UpOptions::default()).unwrap();
    assert!(node.kernel.system().foreign_chains.values().all(|open| *open));
    let named = Selector::Named(workloads.iter().take(2).map(|w| w.name().clone()).collect());
    let refused = node.node().down(&named, true).unwrap_err();
    assert!(matches!(refused, NodeError::Remaining { .. }), "{refused}");
    assert_eq!(node.node().list().unwrap().len(), 3, "a refused purge changes nothing");
    node.node().down(&Selector::All, true).unwrap();
    assert_eq!(node.state(), before);
}

#[test]
fn an_operation_never_lists_all_interfaces() {
    let node = TestNode::new();
    let workloads: Vec<_> = (0..50).map(|n| function(n, &[8000 + n])).collect();
    node.node().up(&workloads, UpOptions::default()).unwrap();
    let listings = |node: &TestNode| node.kernel.system().listings;
    let before = listings(&node);
    node.node().up(&[function(50, &[9000])], UpOptions::default()).unwrap();
    node.node().up(&[function(50, &[9001])], UpOptions::default()).unwrap();
    node.node().down(&Selector::Named([name("f50")].into()), false).unwrap();
    assert_eq!(listings(&node), before);
}

#[test]
fn drift_is_found_and_repaired() {
    let mut node = TestNode::new();
    node.node().up(&[function(0, &[8000]), function(1, &[8001])], UpOptions::default()).unwrap();
    let sound = node.state();
    let drifts: [fn(&mut TestNode); 7] = [
        |node| node.kernel.system().firewall.clear(),
        |node| {
            let mut system = node.kernel.system();
            let ruleset = system.firewall.get_mut(&Backend::Nftables).unwrap();
            ruleset.entries.pop_first();
        },
        |node| node.kernel.system().links.clear(),
        |node| node.kernel.system().links.values_mut().for_each(|link| link.up = false),
        |node| {
            node.kernel.system().write_sysctl(IP_FORWARD, "1");
            node.kernel.system().write_sysctl(IP_FORWARD, "0");
        },
        |node| taps(node, |tap| tap.owner = Some(1)),
        |node| taps(node, |tap| tap.multi_queue = true),
    ];
    for (index, drift) in drifts.into_iter().enumerate() {
        drift(&mut node);
        assert!(!node.node().check().unwrap().is_empty(), "drift {index} is not seen");
        assert_ne!(node.state(), sound, "a check changes nothing");
        node.node().repair().unwrap();
        assert_eq!(node.state(), sound, "drift {index} is not repaired");
    }
}

#[test]
fn the_next_operation_heals_a_lost_firewall() {
    let node = TestNode::new();
    node.node().up(&[function(0, &[8000])], UpOptions::default()).unwrap();
    node.kernel.system().firewall.clear();
    node.node().up(&[function(1, &[8001])], UpOptions::default()).unwrap();
    assert_eq!(node.exposed(), 2);
    assert!(node.node().check().unwrap().is_empty());
}

#[test]
fn a_lost_store_is_rebuilt_from_the_interfaces() {
    let node = TestNode::new();
    node.node()
        .up(&[function(0, &[8000]), function(3, &[8003, 8004])], UpOptions::default())
        .unwrap();
    let before = node.state();
    let recorded = node.node().list().unwrap();
    node.corrupt_the_store();
    let refused = node.node().list().unwrap_err();
    assert!(refused.hint().unwrap().contains("repair --rebuild"), "{refused}");
    let rebuilt = node.node().rebuild(RebuildOptions::default()).unwrap();
    assert!(rebuilt.set_aside.is_some());
    assert_eq!(rebuilt.recovered, [name("f0"), name("f3")]);
    assert_eq!(node.node().list().unwrap(), recorded);
    assert_eq!(node.state(), before);
}

#[test]
fn a_plan_changes_nothing_and_lists_the_steps_of_up() {
    let node = TestNode::new();
    let before = node.state();
    let (plan, _) = node.node().plan(&[function(0, &[8000])]).unwrap();
    assert_eq!(node.state(), before);
    assert!(node.node().list().unwrap().is_empty());
    let report = node.node().up(&[function(0, &[8000])], UpOptions::default()).unwrap();
    // The `up` chooses the identifier of the state directory, and no step shows it.
    let text = |steps: &[Step]| steps.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&report.done), text(&plan.steps));
    assert!(node.node().plan(&[function(0, &[8000])]).unwrap().0.is_empty());
}

#[test]
fn ports_move_between_instances_of_one_call() {
    let node = TestNode::new();
    node.node().up(&[function(0, &[8000]), function(1, &[8001])], UpOptions::default()).unwrap();
    node.node().up(&[function(0, &[8001]), function(1, &[8000])], UpOptions::default()).unwrap();
    assert!(node.node().check().unwrap().is_empty());
    assert_eq!(node.exposed(), 2);
}

#[test]
fn a_warning_names_the_exposure_that_shadows_the_listener() {
    let node = TestNode::new();
    let [first, second] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
    let port = "8080".parse().unwrap();
    let bound = |number, address| {
        let exposure = Exposure::new(Protocol::Tcp, Some(address), port, port).unwrap();
        let exposure = exposure.with_shadow(true);
        let (name, execution) = (function(number, &[]).name().clone(), Execution::default());
        Workload::Function(Function {
            name,
            execution,
            exposures: vec![exposure],
            egress: None,
            limits: Limits::default(),
        })
    };
    let listener =
        Listener { protocol: Protocol::Tcp, address: Some(second), port: 8080, process: None };
    node.kernel.system().listeners.push(listener.clone());
    let workloads = [bound(0, first), bound(1, second)];
    let report = node.node().up(&workloads, UpOptions::default()).unwrap();
    let [Warning::Shadows(shadow)] = &report.warnings[..] else { panic!("{report:?}") };
    assert_eq!((&shadow.name, &shadow.occupant), (&name("f1"), &Occupant::Process(listener)));
}

#[test]
fn ports_of_others_are_refused_before_anything_is_recorded() {
    let node = TestNode::new();
    let up = |ports: &[u16]| node.node().up(&[function(0, ports)], UpOptions::default());
    up(&[8000]).unwrap();
    let before = node.state();
    let listener = Listener { protocol: Protocol::Tcp, address: None, port: 8080, process: None };
    node.kernel.system().listeners.push(listener.clone());
    let ports = "9000-9010".parse().unwrap();
    let translation = Translation::new(Protocol::Tcp, None, ports, "ip nat DOCKER");
    node.kernel.system().translations.insert(translation.clone());
    for (port, expected) in
        [(8080, Occupant::Process(listener)), (9004, Occupant::Translation(translation))]
    {
        let refused = up(&[8000, port]).unwrap_err();
        let NodeError::Shadows(shadow) = &refused else { panic!("{refused}") };
        assert_eq!((shadow.exposure.host_ports().first(), &shadow.occupant), (port, &expected));
        assert_eq!(refused.kind(), ErrorKind::Failed);
    }
    node.kernel.system().listeners.clear();
    node.kernel.system().translations.clear();
    assert_eq!(node.state(), before);

    // What is up stays up when somebody else comes, and check names him.
    let late = Listener { protocol: Protocol::Tcp, address: None, port: 8000, process: None };
    node.kernel.system().listeners.push(late.clone());
    up(&[8000]).unwrap();
    let drift = node.node().check().unwrap();
    assert!(drift.is_empty());
    let [Warning::Shadows(shadow)] = &drift.warnings[..] else { panic!("{drift:?}") };
    assert_eq!(shadow.occupant, Occupant::Process(late));
}

fn taps(node: &TestNode, mut change: impl FnMut(&mut riklet_core::link::Tap)) {
    let mut system = node.kernel.system();
    system.links.values_mut().filter_map(|link| link.tap.as_mut()).for_each(&mut change);
}

fn run_by(user: &str, group: &str) -> Execution {
    Execution {
        user: Some(user.parse().unwrap()),
        group: Some(group.parse().unwrap()),
        ..Execution::default()
    }
}

#[test]
fn up_records_users_and_groups_by_number() {
    let node = TestNode::new();
    let accounts = [((AccountKind::User, "vmm".to_owned()), 1000)];
    node.kernel.system().accounts.extend(accounts);
    let before = node.state();

    let workload = run_as(run_by("vmm", "kvm"), 0, &[8000]);
    let refused =
        node.node().up(std::slice::from_ref(&workload), UpOptions::default()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "f0: spec.function.execution.group: this host knows no group kvm"
    );
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(node.node().plan(std::slice::from_ref(&workload)).is_err());
    assert_eq!(node.state(), before);
    assert!(node.node().list().unwrap().is_empty());

    node.kernel.system().accounts.insert((AccountKind::Group, "kvm".to_owned()), 36);
    node.node().up(&[workload], UpOptions::default()).unwrap();
    let listed = node.node().list().unwrap();
    assert_eq!(listed[0].instance.workload, run_as(run_by("1000", "36"), 0, &[8000]));
    let tap = node.kernel.system().links[&Slot::new(0).interface()].tap.unwrap();
    assert_eq!((tap.owner, tap.group), (Some(1000), Some(36)));
    // The record has the number: the name may belong to another account by now.
    node.kernel.system().accounts.clear();
    node.node().repair().unwrap();
    assert!(node.node().check().unwrap().is_empty());
}

#[test]
fn a_running_guest_keeps_its_tap() {
    let node = TestNode::new();
    let before = run_as(run_by("1000", "36"), 0, &[8000]);
    node.node().up(std::slice::from_ref(&before), UpOptions::default()).unwrap();
    let open = |open| {
        node.kernel.system().links.values_mut().for_each(|link| {
            link.carrier = open;
            link.open = open;
        });
    };
    open(true);
    let running = node.state();
    let queues = Execution { queues: Queues::new(2).ok(), ..run_by("1000", "36") };
    let owner = Execution { user: Some(Account::Id(1001)), ..run_by("1000", "36") };
    for changed in [queues, owner, Execution::default()] {
        let wanted = run_as(changed, 0, &[9000]);
        let report = node.node().up(std::slice::from_ref(&wanted), UpOptions::default()).unwrap();
        assert_eq!(report.failures.len(), 1, "{report:?}");
        assert!(report.failures[0].hint().unwrap().starts_with("stop the VMM"), "{report:?}");
        assert_eq!(node.state(), running, "not half of it either");
        assert!(!node.node().check().unwrap().is_empty());

        open(false);
        node.node().repair().unwrap();
        assert!(node.node().check().unwrap().is_empty());
        node.node().up(std::slice::from_ref(&before), UpOptions::default()).unwrap();
        open(true);
        assert_eq!(node.state(), running);
    }
    // A change that does not concern the TAP does not need it to be closed.
    let wanted = run_as(run_by("1000", "36"), 0, &[9000]);
    assert!(node.node().up(&[wanted], UpOptions::default()).unwrap().failures.is_empty());
    assert!(node.node().check().unwrap().is_empty());
}

#[test]
fn a_rebuilt_record_keeps_the_tap() {
    let node = TestNode::new();
    let execution = Execution { queues: Queues::new(4).ok(), ..run_by("1000", "36") };
    node.node().up(&[run_as(execution, 0, &[8000])], UpOptions::default()).unwrap();
    node.kernel.system().links.values_mut().for_each(|link| {
        link.carrier = true;
        link.open = true;
    });
    let before = node.state();
    node.corrupt_the_store();
    assert!(node.node().rebuild(RebuildOptions::default()).unwrap().report.failures.is_empty());
    assert_eq!(node.state(), before);
}

pub(crate) fn name(text: &str) -> InstanceName {
    text.parse().unwrap()
}

pub(crate) fn foreign_link(name: &riklet_core::model::InterfaceName) -> LinkState {
    LinkState {
        name: name.clone(),
        alias: Some("somebody's".to_owned()),
        mac: None,
        mtu: 1500,
        up: true,
        carrier: true,
        open: true,
        group: 0,
        addresses: SmallSet::default(),
        neighbours: SmallMap::default(),
        forwarding: false,
        route_localnet: false,
        accept_redirects: true,
        send_redirects: true,
        rp_filter: false,
        arp_ignore: false,
        src_valid_mark: true,
        guarded: true,
        ipv6: true,
        learns_routes: true,
        forwarding_v6: false,
        tap: None,
        veth: false,
        shaping: ShapingState::default(),
    }
}

fn with_policy(number: u16, egress: &str) -> Workload {
    let allowed = egress.split(' ').map(|text| text.parse().unwrap()).collect();
    let egress = EgressPolicy::new(Some(Egress::None), allowed, vec![]);
    run_with(Execution::default(), Some(egress), number, &[8000 + number])
}

/// Law 7: wherever an operation is stopped, no policy is open: what a guest reaches stands before the rest of its entries.
#[test]
fn a_function_is_never_up_without_its_policy_beside_iptables() {
    for variant in [IptablesVariant::Nft, IptablesVariant::Legacy] {
        for at in 0.. {
            let mut node = TestNode::with_iptables(Some(variant));
            node.node().up(&[function(0, &[8000])], UpOptions::default()).unwrap();
            let start = node.kernel.system().effects;
            node.kernel.system().fault = Some((start + at, Fault::Stop));
            let up = Operation::Up(vec![with_policy(1, "10.9.5.0/24:443/tcp host:53")]);
            let stopped = node.run_to_the_fault(&up).is_none();
            let system = node.kernel.system().clone();
            let entries = |ruleset: &Ruleset| ruleset.entries.clone();
            let beside: BTreeSet<Entry> = system.policies.iter().flat_map(entries).collect();
            let guest = IpAddr::from([10, 231, 0, 6]);
            for entry in system.firewall.values().flat_map(entries) {
                let policy = Entry::Policy { guest, reach: Egress::None };
                assert!(entry.guest() != guest || beside.contains(&policy), "stopped at {at}");
            }
            if !stopped {
                assert!(beside.len() > 2, "{beside:?}");
                break;
            }
        }
    }
}

#[test]
fn a_policy_is_refused_by_name_where_the_kernel_has_no_nf_tables() {
    let node = TestNode::with_iptables(Some(IptablesVariant::Legacy));
    node.kernel.system().nf_tables = false;
    node.node().up(&[function(0, &[8000])], UpOptions::default()).unwrap();
    assert!(node.node().check().unwrap().is_empty());
    let refused = node.node().up(&[with_policy(1, "host:53")], UpOptions::default()).unwrap_err();
    let said = "f1: network.egress needs nf_tables, which the kernel of this node lacks";
    assert_eq!(refused.to_string(), said);
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.hint().unwrap().contains("modprobe nf_tables"));
    assert_eq!(node.node().list().unwrap().len(), 1, "nothing is recorded");
    assert_eq!(node.kernel.system().policies, None);
}

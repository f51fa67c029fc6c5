//! The laws with pods, whose interfaces are veths.

use riklet_core::model::{
    Exposure, Namespace, NamespaceId, NamespacePath, Pod, Protocol, Selector, Slot, Workload,
};
use riklet_kernel::fake::Fault;
use riklet_sdn::{ErrorKind, NodeError, RebuildOptions, UpOptions};

use crate::{
    name,
    node::{Operation, TestNode, function},
    warm::{Turn, assert_sound, take},
};

const PATH: &str = "/run/netns/web";

fn path() -> NamespacePath {
    PATH.parse().unwrap()
}

/// Returns the pod `web`, in the namespace that the file leads to.
fn pod(port: u16) -> Pod {
    let port = port.to_string().parse().unwrap();
    let exposure = Exposure::new(Protocol::Tcp, None, port, port).unwrap();
    Pod {
        namespace: Namespace { path: Some(path()), id: None },
        exposures: vec![exposure],
        limits: "100Mbit,1Gbit".parse().unwrap(),
        ..Pod::new(name("web"))
    }
}

fn web(port: u16) -> Workload {
    Workload::Pod(pod(port))
}

/// Returns a node with a namespace of this number behind the file.
fn node(number: u32) -> TestNode {
    let node = TestNode::new();
    node.kernel.system().namespaces.insert(path(), NamespaceId::new(number));
    node
}

fn up(node: &TestNode, workload: &Workload) {
    let report = node.node().up(std::slice::from_ref(workload), UpOptions::default()).unwrap();
    assert!(report.failures.is_empty(), "{report:?}");
    assert!(node.node().check().unwrap().is_empty());
}

#[test]
fn a_pod_comes_is_recovered_and_goes() {
    let node = node(7);
    let before = node.state();
    up(&node, &web(8000));
    let link = node.kernel.system().links[&Slot::new(0).interface()].clone();
    assert_eq!((link.veth, link.tap), (true, None));
    let (recorded, state) = (node.node().list().unwrap(), node.state());
    let [listed] = &recorded[..] else { panic!("{recorded:?}") };
    assert_eq!(listed.instance.workload.namespace().unwrap().id, Some(NamespaceId::new(7)));

    node.corrupt_the_store();
    let rebuilt = node.node().rebuild(RebuildOptions::default()).unwrap();
    assert_eq!(rebuilt.recovered, [name("web")]);
    assert_eq!((node.node().list().unwrap(), node.state()), (recorded, state));

    // A name belongs to one kind, and the interface follows it.
    up(
        &node,
        &Workload::Function(riklet_core::model::Function {
            name: name("web"),
            execution: riklet_core::model::Execution::default(),
            exposures: vec![],
            egress: None,
            limits: riklet_core::model::Limits::default(),
        }),
    );
    assert!(node.kernel.system().links[&Slot::new(0).interface()].tap.is_some());
    up(&node, &web(8000));
    node.node().down(&Selector::All, true).unwrap();
    assert_eq!(node.state(), before);
}

#[test]
fn a_fault_anywhere_is_repaired() {
    let prepared = || {
        let node = node(7);
        up(&node, &function(0, &[9000]));
        node
    };
    let operations = [
        Operation::Up(vec![web(8000)]),
        Operation::Down(name("web")),
        Operation::Up(vec![web(8000)]),
    ];
    for done in 0..operations.len() {
        let faulty = &operations[done];
        let begun = || {
            let mut node = prepared();
            for operation in &operations[..done] {
                node.run(operation).unwrap();
            }
            node
        };
        let mut sound = begun();
        let start = sound.kernel.system().effects;
        sound.run(faulty).unwrap();
        let effects = sound.kernel.system().effects - start;
        for at in 0..effects {
            for fault in [Fault::Stop, Fault::Refuse] {
                let mut node = begun();
                node.kernel.system().fault = Some((start + at, fault));
                let _outcome = node.run_to_the_fault(faulty);
                node.kernel.system().fault = None;
                node.node().repair().unwrap();
                node.finish(faulty);
                assert!(node.node().check().unwrap().is_empty());
                assert_eq!(node.state(), sound.state(), "{fault:?} at {at} of {faulty:?}");
            }
        }
    }
}

/// The file of a namespace leads to another one once the container was started anew.
#[test]
fn a_pod_follows_its_file_only_if_it_is_brought_up_again() {
    let node = node(7);
    up(&node, &web(8000));
    // The container has ended, and its interface with it.
    node.kernel.system().links.clear();
    node.kernel.system().namespaces.clear();
    let report = node.node().repair().unwrap();
    assert_eq!(report.failures.len(), 1, "{report:?}");
    assert!(!node.node().check().unwrap().is_empty());
    // It may be another container's by now.
    node.kernel.system().namespaces.insert(path(), NamespaceId::new(8));
    assert_eq!(node.node().repair().unwrap().failures.len(), 1);
    up(&node, &web(8000));
    // One in a living namespace moves as well.
    node.kernel.system().namespaces.insert(path(), NamespaceId::new(9));
    up(&node, &web(8000));
    let alias = node.kernel.system().links[&Slot::new(0).interface()].alias.clone().unwrap();
    assert!(alias.contains(" veth:9:eth0:/run/netns/web "), "{alias}");
}

#[test]
fn a_namespace_that_is_none_is_refused_before_anything_is_recorded() {
    let node = TestNode::new();
    let before = node.state();
    let refused = |workload: Workload| {
        let refused = node.node().up(&[workload], UpOptions::default()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
        assert!(refused.hint().is_some(), "{refused}");
        assert_eq!(node.state(), before);
        assert!(node.node().list().unwrap().is_empty());
        refused
    };
    let missing = refused(web(8000));
    assert_eq!(missing.to_string(), format!("cannot use the network namespace {PATH}"));
    let nowhere = Pod { namespace: Namespace::default(), ..pod(8000) };
    assert_eq!(refused(Workload::Pod(nowhere)).to_string(), "web: a Pod needs a network namespace");
    node.kernel.system().namespaces.insert(path(), NamespaceId::new(7));
    let mut other = pod(8000);
    other.namespace.id = Some(NamespaceId::new(8));
    let before = node.state();
    let refused = node.node().up(&[Workload::Pod(other)], UpOptions::default()).unwrap_err();
    assert!(matches!(refused, NodeError::OtherNamespace { .. }), "{refused}");
    assert_eq!(node.state(), before);
}

/// The other end is in somebody else's namespace, where its name may be needed next.
#[test]
fn a_daemon_deletes_the_interface_of_a_pod_at_once() {
    let node = node(7);
    let mut daemon = node.warm();
    daemon.up(&[web(8000), function(0, &[9000])], UpOptions::default()).unwrap();
    daemon.down(&Selector::All, false).unwrap();
    let left: Vec<_> = node.kernel.system().links.keys().cloned().collect();
    assert_eq!(left, [Slot::new(1).interface()], "the TAP is deleted later");
    assert!(node.kernel.system().twins.is_empty());
    take(&Turn::Drain, &mut daemon);
    assert!(node.kernel.system().links.is_empty());
    daemon.up(&[web(8000)], UpOptions::default()).unwrap();
    assert_sound(&node, &mut daemon);
}

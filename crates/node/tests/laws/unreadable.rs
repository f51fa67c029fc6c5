//! An unreadable record affects only its own instance.

use riklet_core::model::{InstanceName, Slot};
use riklet_sdn::{
    ListedInstance, NodeError, RebuildOptions, Request, Selector, UpOptions,
    store::{Store, StoreError},
};

use crate::node::{TestNode, function};

fn name(text: &str) -> InstanceName {
    text.parse().unwrap()
}

fn only(text: &str) -> Selector {
    Selector::Named([name(text)].into())
}

/// Returns a node with three functions, the second of which has an unreadable record.
fn node() -> TestNode {
    let node = TestNode::new();
    let functions: Vec<_> = (0..3).map(|n| function(n, &[8000 + n])).collect();
    let owned = [(name("f1"), Some("file.json".to_owned()))];
    assert!(node.warm().set_manifests(&owned.into()).unwrap().is_empty());
    node.node().up(&functions, UpOptions::default()).unwrap();
    let database = rusqlite::Connection::open(node.state_dir().join("riklet-sdn.db")).unwrap();
    let damage = "UPDATE slots SET definition = '{\"kind\":\"Unheard\"}' WHERE workload = 'f1'";
    assert_eq!(database.execute(damage, []).unwrap(), 1);
    node
}

fn names(listed: Result<Vec<ListedInstance>, NodeError>) -> Vec<String> {
    listed.unwrap().iter().map(|listed| listed.instance.name().to_string()).collect()
}

/// Asserts that the instance is unchanged, and that checks and repairs report only this one.
fn assert_left_alone(node: &TestNode) {
    let f1 = Slot::new(1);
    assert!(node.kernel.system().links.contains_key(&f1.interface()));
    let drift = node.node().check().unwrap();
    assert!(drift.plan.steps.is_empty() && drift.unsettled.is_empty(), "{drift:?}");
    assert_eq!(drift.plan.blocked.keys().copied().collect::<Vec<_>>(), [f1]);
    let before = node.state();
    let report = node.node().repair().unwrap();
    assert_eq!(report.failures.len(), 1, "{report:?}");
    assert_eq!(report.failures[0].name, name("f1"));
    let hint = report.failures[0].hint().unwrap();
    assert!(hint.contains("repair --rebuild") && hint.contains("down f1"), "{hint}");
    assert_eq!(node.state(), before);
}

#[test]
fn an_unreadable_record_does_not_affect_the_others() {
    let node = node();
    let exposed = node.exposed();
    assert_eq!(names(node.node().list()), ["f0", "f2"]);
    let report = node.node().up(&[function(3, &[9000])], UpOptions::default()).unwrap();
    assert_eq!((report.instances.len(), report.failures.len()), (1, 0));
    assert_eq!(node.exposed(), exposed + 1);
    assert_left_alone(&node);
    // Its port stays taken.
    let taken = node.node().up(&[function(4, &[8001])], UpOptions::default()).unwrap_err();
    assert!(taken.to_string().starts_with("the record of f1 cannot be read"), "{taken}");
    node.node().down(&only("f0"), false).unwrap();
    assert_eq!(names(node.node().list()), ["f2", "f3"]);
    // A repair, which looks at everything, leaves it as it is too.
    let guest = guest(&node, 2);
    node.kernel.system().firewall.values_mut().for_each(|ruleset| {
        ruleset.entries.retain(|entry| entry.guest() != guest);
    });
    node.node().repair().unwrap();
    assert_eq!(node.exposed(), exposed);
    assert_left_alone(&node);
}

fn guest(node: &TestNode, slot: u16) -> std::net::Ipv4Addr {
    let listed = node.node().list().unwrap();
    let found = listed.iter().find(|listed| listed.instance.slot == Slot::new(slot)).unwrap();
    found.instance.addresses.v4.guest
}

#[test]
fn an_address_that_an_earlier_version_published_stays_until_it_is_taken_down() {
    let node = TestNode::new();
    node.node().up(&[function(0, &[53]), function(1, &[8001])], UpOptions::default()).unwrap();
    let database = rusqlite::Connection::open(node.state_dir().join("riklet-sdn.db")).unwrap();
    let bound = r#"UPDATE slots SET definition =
        replace(definition, '{"port":53,', '{"hostAddress":"127.0.0.53","port":53,') WHERE workload = 'f0'"#;
    let port = "UPDATE ports SET family = 4, address = '127.0.0.53' WHERE slot = 0";
    assert_eq!([bound, port].map(|sql| database.execute(sql, []).unwrap()), [1, 1]);
    node.node().repair().unwrap();
    assert!(node.node().check().unwrap().is_empty());
    assert_eq!(names(node.node().list()), ["f0", "f1"]);
    let found = node.node().inspect(&name("f0")).unwrap();
    let address = found.instance.workload.exposures()[0].host_address();
    assert_eq!(address, Some("127.0.0.53".parse().unwrap()));
    assert!(node.node().down(&only("f0"), false).unwrap().failures.is_empty());
    assert_eq!(names(node.node().list()), ["f1"]);
    assert!(node.node().check().unwrap().is_empty());
    node.node().up(&[function(2, &[53])], UpOptions::default()).unwrap();
}

#[test]
fn an_unreadable_record_is_refused_by_name() {
    let node = node();
    let unreadable = |error: &NodeError| {
        assert!(matches!(error, NodeError::Store(StoreError::Unreadable(_))), "{error:?}");
        assert!(error.hint().unwrap().contains("repair --rebuild"));
    };
    unreadable(&node.node().inspect(&name("f1")).unwrap_err());
    unreadable(&node.node().up(&[function(1, &[8001])], UpOptions::default()).unwrap_err());
    unreadable(&node.node().plan(&[function(1, &[8001])]).unwrap_err());
    // The other requests of a daemon's batch are done.
    let mut daemon = node.warm();
    let up = |number| Request::Up(vec![function(number, &[])], UpOptions::default());
    let answers = daemon.apply(&[up(5), up(1), up(6)]);
    assert!(answers[0].is_ok() && answers[2].is_ok());
    unreadable(answers[1].as_ref().unwrap_err());
    daemon.heal(&[Slot::new(0), Slot::new(1)].into()).unwrap();
    assert_eq!(names(daemon.list()), ["f0", "f2", "f5", "f6"]);
    drop(daemon);
    assert_left_alone(&node);
}

#[test]
fn an_unreadable_record_can_be_taken_down() {
    for warm in [false, true] {
        let node = node();
        let f1 = only("f1");
        let report = if warm { node.warm().down(&f1, false) } else { node.node().down(&f1, false) };
        assert!(report.as_ref().unwrap().failures.is_empty(), "{report:?}");
        assert!(!node.kernel.system().links.contains_key(&Slot::new(1).interface()));
        assert_eq!(node.exposed(), 2);
        assert!(node.node().check().unwrap().is_empty());
        node.node().up(&[function(1, &[8001])], UpOptions::default()).unwrap();
        let store = Store::open(node.state_dir()).unwrap();
        store.verify().unwrap();
        assert!(store.manifests().unwrap().is_empty());
        assert_eq!(node.exposed(), 3);
        node.node().down(&Selector::All, true).unwrap();
    }
    for purge in [false, true] {
        let node = node();
        let refused = node.node().down(&Selector::Named([name("f0"), name("f2")].into()), true);
        assert!(refused.unwrap_err().to_string().ends_with("these remain: f1"));
        node.node().down(&Selector::All, purge).unwrap();
        assert!(node.kernel.system().links.is_empty());
        assert_eq!(node.exposed(), 0);
        assert_eq!(Store::open(node.state_dir()).unwrap().count().unwrap(), 0);
    }
}

#[test]
fn a_rebuild_restores_an_unreadable_record_from_its_tap() {
    let node = node();
    let before = node.state();
    let rebuilt = node.node().rebuild(RebuildOptions::default()).unwrap();
    assert_eq!((&rebuilt.set_aside, &rebuilt.recovered[..]), (&None, &[name("f1")][..]));
    assert_eq!(names(node.node().list()), ["f0", "f1", "f2"]);
    assert_eq!(node.state(), before, "nothing is interrupted");
    assert!(node.node().check().unwrap().is_empty());
    let store = Store::open(node.state_dir()).unwrap();
    assert_eq!(store.manifests().unwrap()[&name("f1")], "file.json");
    store.verify().unwrap();
}

#[test]
fn a_rebuild_reports_unreadable_records_without_a_tap() {
    let node = node();
    node.kernel.system().links.remove(&Slot::new(1).interface());
    let rebuilt = node.node().rebuild(RebuildOptions::default()).unwrap();
    assert_eq!((&rebuilt.recovered[..], &rebuilt.lost[..]), (&[][..], &[name("f1")][..]));
    assert!(node.node().check().unwrap().is_empty());
    node.node().up(&[function(1, &[8001])], UpOptions::default()).unwrap();
    assert_eq!(node.exposed(), 3);
}

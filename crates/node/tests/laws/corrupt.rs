//! Law of a damaged database: each operation succeeds, or it succeeds after a rebuild.

use proptest::{prelude::*, sample::Index};
use riklet_core::model::InstanceName;
use riklet_kernel::{fake::FakeKernel, process::ProcessId};
use riklet_sdn::{Node, NodeError, RebuildOptions, Selector, UpOptions, store::Store};

use crate::node::{TestNode, function};

/// Damage to the database's file.
#[derive(Debug, Clone)]
enum Damage {
    /// Overwrites bytes from an offset on.
    Bytes(Index, Vec<u8>),
    /// Inverts one bit.
    Bit(Index, u8),
    /// Fills a page with one byte.
    Page(Index, u8),
    /// Copies one page over another.
    Copied(Index, Index),
    /// Truncates the file, but not to nothing.
    Truncated(Index),
}

const PAGE: usize = 4096;

impl Damage {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Page(..) | Self::Copied(..) if file.len() < PAGE => {}
            Self::Bytes(at, bytes) => {
                let at = at.index(file.len());
                file.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
            }
            Self::Bit(at, bit) => {
                let at = at.index(file.len());
                file[at] ^= 1 << bit;
            }
            Self::Page(number, byte) => {
                let at = number.index(file.len() / PAGE) * PAGE;
                file[at..at + PAGE].fill(*byte);
            }
            Self::Copied(from, to) => {
                let pages = file.len() / PAGE;
                let (from, to) = (from.index(pages) * PAGE, to.index(pages) * PAGE);
                file.copy_within(from..from + PAGE, to);
            }
            Self::Truncated(at) => file.truncate(1 + at.index(file.len())),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<Index>;
    prop_oneof![
        3 => (index(), prop::collection::vec(any::<u8>(), 1..64)).prop_map(|(at, b)| Damage::Bytes(at, b)),
        3 => (index(), 0..8_u8).prop_map(|(at, bit)| Damage::Bit(at, bit)),
        2 => (index(), any::<u8>()).prop_map(|(page, byte)| Damage::Page(page, byte)),
        1 => (index(), index()).prop_map(|(from, to)| Damage::Copied(from, to)),
        1 => index().prop_map(Damage::Truncated),
    ]
}

/// Returns a node whose database holds every kind of record.
fn used_node() -> TestNode {
    let node = TestNode::new();
    let functions: Vec<_> = (0..6).map(|n| function(n, &[8000 + n, 8010 + n])).collect();
    node.node().up(&functions, UpOptions::default()).unwrap();
    node.node().down(&Selector::Named([functions[2].name().clone()].into()), false).unwrap();
    let mut store = Store::open(node.state_dir()).unwrap();
    let records = store.transaction().unwrap();
    records.set_manifest(functions[3].name(), Some("file.json")).unwrap();
    // The supervisor has ended: a live one would keep its function from being taken down.
    let supervisor: ProcessId = "700@2".parse().unwrap();
    records.begin_run(functions[4].name(), "builtin", supervisor, 1).unwrap();
    records.commit().unwrap();
    node
}

/// Runs an operation, and if it fails, rebuilds and runs it again. Returns the first failure.
fn succeed<T>(
    node: &TestNode,
    operation: impl Fn(&mut Node<FakeKernel>) -> Result<T, NodeError>,
) -> Option<NodeError> {
    let failed = operation(&mut node.node()).err()?;
    let rebuilt = node.node().rebuild(RebuildOptions::default());
    match rebuilt {
        Ok(_) if operation(&mut node.node()).is_ok() => return Some(failed),
        Ok(_) => {}
        Err(refused) => assert!(refused.hint().unwrap().contains("--force"), "{refused:?}"),
    }
    let rebuilt = node.node().rebuild(RebuildOptions::default().force(true)).unwrap();
    assert!(rebuilt.set_aside.is_some());
    operation(&mut node.node()).unwrap();
    Some(failed)
}

/// Takes an instance down. Succeeds if a rebuild has already lost it.
fn take_down(node: &mut Node<FakeKernel>, name: &InstanceName) -> Result<(), NodeError> {
    match node.down(&Selector::Named([name.clone()].into()), false) {
        Err(NodeError::Unknown { .. }) => Ok(()),
        done => done.map(drop),
    }
}

/// Returns a node with functions that are up and nothing else: the index of whatever else a slot may be is empty.
fn settled_node() -> TestNode {
    let node = TestNode::new();
    let functions: Vec<_> = (0..3).map(|n| function(n, &[8000 + n])).collect();
    node.node().up(&functions, UpOptions::default()).unwrap();
    node
}

#[test]
fn a_rebuild_leads_out_whichever_page_lies_over_another() {
    let mut pages = 0;
    settled_node().damage_the_store(|file| pages = file.len() / PAGE);
    assert!(pages > 8, "{pages}");
    for (from, to) in (0..pages).flat_map(|from| (1..pages).map(move |to| (from, to))) {
        let node = settled_node();
        node.damage_the_store(|file| file.copy_within(from * PAGE..(from + 1) * PAGE, to * PAGE));
        let rebuilt = node.node().rebuild(RebuildOptions::default());
        assert!(rebuilt.is_ok(), "page {from} over {to}: {rebuilt:?}");
        let drift = node.node().check();
        assert!(
            drift.as_ref().is_ok_and(riklet_sdn::Drift::is_empty),
            "page {from} over {to}: {drift:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn operations_succeed_after_a_rebuild_of_any_damage(damages in prop::collection::vec(damage(), 1..4)) {
        let node = used_node();
        node.damage_the_store(|file| damages.iter().for_each(|damage| damage.apply(file)));
        let failures = [
            succeed(&node, |node| node.list().map(drop)),
            succeed(&node, |node| Ok(Store::open(&node.config().state_dir)?.runs()?)),
            succeed(&node, |node| node.check().map(drop)),
            succeed(&node, |node| node.repair().map(drop)),
            // No damaged digit turns another function's port into this one.
            succeed(&node, |node| node.up(&[function(9, &[60_000])], UpOptions::default()).map(drop)),
            succeed(&node, |node| take_down(node, function(9, &[]).name())),
            succeed(&node, |node| node.down(&Selector::All, true).map(drop)),
        ];
        for failure in failures.into_iter().flatten() {
            let hint = failure.hint().unwrap_or_default();
            prop_assert!(hint.contains("repair --rebuild"), "{failure:?}: {hint}");
        }
        prop_assert!(node.kernel.system().links.is_empty());
        prop_assert!(node.kernel.system().firewall.is_empty());
    }
}

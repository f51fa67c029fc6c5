//! Properties of every kind, tested with a kind that only tests have.

use std::collections::BTreeSet;

use super::*;
use crate::{
    definition,
    model::{Execution, OwnerId},
};

const DEFINITION: &str = r#"{ "apiVersion": "v1", "kind": "Toy", "name": "top",
    "spec": { "exposure": { "port": 8080, "targetPort": 80 } } }"#;

fn parse(text: &str) -> Vec<Workload> {
    let source = definition::Source { name: "toy.json".to_owned(), text: text.to_owned() };
    definition::parse(&[source]).unwrap()
}

fn node() -> NodeFacts {
    let owner = Owner::new(OwnerId::new(1), "/run/riklet-sdn");
    NodeFacts {
        pool: "10.231.0.0/16".parse().unwrap(),
        mtu: 1500,
        owner,
        backend: Backend::Nftables,
        policies: true,
    }
}

#[test]
fn a_definition_of_each_kind_reads_back() {
    let [toy] = &parse(DEFINITION)[..] else { panic!("one workload") };
    assert_eq!((toy.kind(), toy.name().as_str()), (Kind::Toy, "top"));
    assert_eq!(definition::from_json(&definition::to_json(toy)).as_ref(), Ok(toy));
    assert_eq!(definition::to_value(toy)["kind"], "Toy");
}

#[test]
fn a_kind_decides_what_its_instances_need() {
    let [toy] = &parse(DEFINITION)[..] else { panic!("one workload") };
    let fragment = fragment(toy, Slot::new(1), &node()).unwrap();
    assert_eq!(fragment.link.tap(), Some(Tap { group: Some(4242), ..Tap::default() }));
    assert_eq!(
        fragment.link.alias,
        "riklet-sdn@0000000000000001:Toy/top tcp:8080:80 /run/riklet-sdn"
    );
    assert_eq!(fragment.entries.len(), 2);
}

#[test]
fn an_instance_is_recovered_as_the_kind_that_it_was() {
    let [toy] = &parse(DEFINITION)[..] else { panic!("one workload") };
    let function = Workload::Function(Function {
        name: "top".parse().unwrap(),
        execution: Execution::default(),
        exposures: toy.exposures().to_vec(),
        egress: None,
        limits: "100Mbit,1Gbit".parse().unwrap(),
    });
    for workload in [toy, &function] {
        let link = fragment(workload, Slot::new(1), &node()).unwrap().link;
        let marked = alias::parse(&link.alias).unwrap();
        assert_eq!(marked.kind, workload.kind());
        assert_eq!(recover(&marked, link.tap()), *workload);
    }
    assert_eq!(alias::parse("riklet-sdn:Top/top"), None, "of no kind");
}

#[test]
fn kinds_differ_in_name_and_collection() {
    let names: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    let collections: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.collection()).collect();
    assert_eq!((names.len(), collections.len()), (Kind::ALL.len(), Kind::ALL.len()));
    for kind in Kind::ALL {
        assert_eq!(Kind::from_name(kind.as_str()), Some(*kind));
    }
    assert_eq!(Kind::from_name("function"), None, "as definitions spell it");
}

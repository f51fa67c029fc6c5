//! Checks the drivers' calls against the descriptions, and the descriptions against the published ones if these are
//! available.

use std::{env, path::Path};

use riklet_http::ApiCall;
use riklet_vmm::{cloud_hypervisor, firecracker, version::Version};
use serde_json::{Value, json};

use super::{Description, Refusal, method_name, published};
use crate::{directory::Directory, machine::machines};

/// Returns the description to check calls against. If `RIKLET_VMM_API_DIR` names a directory with the published
/// description, asserts that the tests' own description equals it.
#[expect(clippy::print_stdout, reason = "a test says what it compared")]
fn description(own: Description, name: &str) -> Description {
    let Some(directory) = env::var_os("RIKLET_VMM_API_DIR") else { return own };
    let file = published::file(Path::new(&directory), name);
    let published = published::read(&file, own.operations.keys());
    assert_eq!(own.root, published.root);
    assert_eq!(own.operations, published.operations);
    for (name, kind) in &published.types {
        assert_eq!(own.types.get(name), Some(kind), "own and published {name}");
    }
    let more = own.types.keys().find(|name| !published.types.contains_key(*name));
    assert_eq!(more, None, "a type that is not published");
    println!("{}: {} types are the same", file.display(), published.types.len());
    published
}

fn hold(description: &Description, calls: &[ApiCall]) {
    for call in calls {
        let checked = description.check(method_name(call.method), &call.path, call.body.as_ref());
        assert!(checked.is_ok(), "{call} {:?}: {checked:?}", call.body);
    }
}

#[test]
fn firecracker_calls_match_the_api_description() {
    let description = description(Description::firecracker(), "firecracker");
    let directory = Directory::new();
    for machine in machines(&directory) {
        for version in [firecracker::LEAST, Version::new(1, 16, 0)] {
            hold(&description, &firecracker::calls(&machine, version).unwrap());
        }
    }
}

#[test]
fn cloud_hypervisor_calls_match_the_api_description() {
    let description = description(Description::cloud_hypervisor(), "cloud-hypervisor");
    let directory = Directory::new();
    for machine in machines(&directory) {
        hold(&description, &cloud_hypervisor::calls(&machine).unwrap());
    }
}

#[test]
fn calls_outside_the_description_are_refused() {
    let description = Description::firecracker();
    let refused = |method: &str, path: &str, body: Option<Value>| {
        description.check(method, path, body.as_ref()).unwrap_err()
    };
    assert_eq!(refused("GET", "/vm", None), Refusal::Operation);
    assert_eq!(refused("GET", "/actions", None), Refusal::Operation);
    assert_eq!(refused("PUT", "/drives/", Some(json!({}))), Refusal::Operation);
    assert_eq!(refused("PUT", "/drives/a/b", Some(json!({}))), Refusal::Operation);
    assert_eq!(refused("PUT", "/actions", None), Refusal::Body);
    assert_eq!(refused("GET", "/", Some(json!({}))), Refusal::Body);
    for (path, body, reason) in [
        ("/actions", json!([]), "invalid type: [], expected a map"),
        ("/actions", json!({}), "missing field `action_type`"),
        ("/actions", json!({ "action_type": "Start" }), "unknown variant `Start`"),
        ("/actions", json!({ "action_type": 1 }), "invalid type: 1, expected a string"),
        ("/boot-source", json!({ "kernel": "x" }), "unknown field `kernel`"),
        ("/boot-source", json!({ "kernel_image_path": null }), "expected a string"),
        ("/machine-config", json!({ "vcpu_count": "2" }), "expected an integer"),
        ("/machine-config", json!({ "vcpu_count": 1.5 }), "expected an integer"),
        ("/machine-config", json!({ "vcpu_count": 0 }), "0 is less than"),
        ("/machine-config", json!({ "vcpu_count": 33 }), "33 is more than 32"),
        ("/machine-config", json!({ "smt": 1 }), "expected a boolean"),
        ("/machine-config", json!({ "cpu_template": "T3" }), "unknown variant `T3`"),
        ("/drives/x", json!({ "rate_limiter": { "ops": { "size": 1 } } }), "`refill_time`"),
    ] {
        match refused("PUT", path, Some(body.clone())) {
            Refusal::Type(words) => assert!(words.contains(reason), "{path} {body}: {words}"),
            other => panic!("{path} {body}: {other:?}"),
        }
    }
    let description = Description::cloud_hypervisor();
    let nets = json!({ "payload": {}, "net": [{}, { "tap": "rik1" }, { "queues": 2 }] });
    let refused = description.check("PUT", "/api/v1/vm.create", Some(&nets)).unwrap_err();
    assert!(matches!(&refused, Refusal::Type(words) if words.contains("`queues`")), "{refused:?}");
    assert_eq!(description.check("PUT", "/vm.boot", None), Err(Refusal::Operation));
}

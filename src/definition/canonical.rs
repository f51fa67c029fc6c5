use serde_json::{Value, json};

use super::{
    API_VERSION, EXPOSURE_TYPE, Error, Errors, Place, Reason, Source, parse, tree::Position,
};
use crate::model::{Exposure, Function, PortRange, Workload};

/// The definition of a workload, with every default spelt out.
#[must_use]
pub fn to_value(workload: &Workload) -> Value {
    let Workload::Function(function) = workload;
    json!({
        "apiVersion": API_VERSION,
        "kind": workload.kind().as_str(),
        "name": workload.name().as_str(),
        "replicas": 1,
        "spec": { "function": function_value(function) },
    })
}

/// As [`to_value`], on one line. Equal workloads have equal texts.
#[must_use]
pub fn to_json(workload: &Workload) -> String {
    to_value(workload).to_string()
}

/// The workload of a text that [`to_json`] wrote.
///
/// # Errors
/// Where the text is not one definition.
pub fn from_json(text: &str) -> Result<Workload, Errors> {
    let source = Source { name: "record".to_owned(), text: text.to_owned() };
    let workloads = parse(std::slice::from_ref(&source))?;
    <[Workload; 1]>::try_from(workloads).map(|[workload]| workload).map_err(|workloads| {
        let place = Place::new(&source.name, Position::START);
        let reason = Reason::NotOne { found: workloads.len() };
        Errors(vec![Error { place, field: String::new(), reason }])
    })
}

fn function_value(function: &Function) -> Value {
    let mut value = json!({ "execution": {} });
    if let Some(rootfs) = &function.execution.rootfs {
        value["execution"]["rootfs"] = json!(rootfs);
    }
    if !function.exposures.is_empty() {
        value["exposure"] = function.exposures.iter().map(exposure_to_value).collect();
    }
    value
}

/// An exposure with the fields of a definition.
#[must_use]
pub fn exposure_to_value(exposure: &Exposure) -> Value {
    let mut value = json!({
        "port": ports(exposure.host_ports()),
        "targetPort": ports(exposure.guest_ports()),
        "protocol": exposure.protocol().as_str().to_uppercase(),
        "type": EXPOSURE_TYPE,
    });
    if let Some(address) = exposure.host_address() {
        value["hostAddress"] = json!(address.to_string());
    }
    value
}

fn ports(range: PortRange) -> Value {
    if range.count() == 1 { json!(range.first()) } else { json!(range.to_string()) }
}

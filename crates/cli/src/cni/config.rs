//! The configuration of a network, which comes by standard input. Pure.

mod dns;

use std::{net::IpAddr, path::Path};

use riklet_core::{
    definition::{self, Source},
    model::Workload,
    nearest::nearest,
};
use serde_json::{Map, Value, json};

use super::{
    answer,
    attachment::Attachment,
    call::{self, Command},
    error::{Code, Error},
};

/// The keys of a configuration. Those from `policy` on are ours.
const KEYS: &[&str] = &[
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "args",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "dns",
    "disableCheck",
    "disableGC",
    VALID,
    FORMERLY_VALID,
    "policy",
    "limits",
    "stateDir",
];
const ARGS: &[&str] = &["policy", "limits"];
/// The capabilities that are honoured.
const CAPABILITIES: &[&str] = &["portMappings", "bandwidth", "dns"];
const PORT_MAPPING: &[&str] = &["hostPort", "containerPort", "protocol", "hostIP"];
const BANDWIDTH: &[&str] = &["ingressRate", "ingressBurst", "egressRate", "egressBurst"];
/// The name of the definition of an attachment in errors.
const DEFINITION: &str = "network";
const VALID: &str = "cni.dev/valid-attachments";
const FORMERLY_VALID: &str = "cni.dev/attachments";

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(crate) const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => answer::LATEST,
        }
    }

    /// Returns the first version that has this command.
    const fn first_of(command: Command) -> Self {
        match command {
            Command::Add | Command::Del | Command::Version => Self::V0_3_1,
            Command::Check => Self::V0_4_0,
            Command::Gc | Command::Status => Self::V1_1_0,
        }
    }
}

/// The names of fields in a definition, and in a configuration.
const FIELDS: [(&str, &str); 5] = [
    ("network.egress", "policy"),
    ("network.", ""),
    ("hostAddress", "hostIP"),
    ("targetPort", "containerPort"),
    ("exposure", "runtimeConfig.portMappings"),
];

/// The configuration of a network, as far as it is used.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) version: Version,
    /// The name of the network.
    pub(crate) name: String,
    /// The state directory, if it is not the node's usual one.
    pub(crate) state_dir: Option<String>,
    /// The result of the plugins before.
    pub(crate) previous: Option<Map<String, Value>>,
    /// The name servers of containers, as results have them.
    pub(crate) dns: Option<Value>,
    /// The attachments that still exist; `None` if the runtime names none.
    pub(crate) valid: Option<Vec<Attachment>>,
    /// The part `spec.pod` of the definition, without the namespace.
    pod: Map<String, Value>,
}

impl Config {
    /// Reads a configuration. An error comes with its version, if that is known.
    pub(crate) fn read(text: &str, command: Command) -> Result<Self, (Option<String>, Error)> {
        let decoding = |error: serde_json::Error| {
            (None, Error::new(Code::Decoding, "the configuration is not JSON", error))
        };
        let document: Value = serde_json::from_str(text).map_err(decoding)?;
        let given = document["cniVersion"].as_str();
        let version = version(given, command).map_err(|error| (None, error))?;
        let read = read(&document, version, command);
        read.map_err(|error| (Some(version.as_str().to_owned()), error))
    }

    /// Returns the pod of an attachment, in its namespace.
    pub(crate) fn pod(&self, attachment: &Attachment) -> Result<Workload, Error> {
        let mut pod = self.pod.clone();
        pod.insert("interface".to_owned(), json!(attachment.interface.as_str()));
        let path = attachment.namespace.as_ref().map(ToString::to_string);
        pod.insert("namespace".to_owned(), json!(path));
        let definition = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "name": attachment.name(&self.name).as_str(),
            "spec": { "pod": pod },
        });
        let source = Source { name: DEFINITION.to_owned(), text: definition.to_string() };
        let parsed = definition::parse(std::slice::from_ref(&source));
        let wrong = |errors: &definition::Errors| {
            let texts = errors.iter().map(|error| {
                let hint = error.reason.hint().map(|hint| format!("; {hint}"));
                let reason = format!("{}{}", error.reason, hint.unwrap_or_default());
                // The definition is one line of ours, which a user never sees.
                let reason = reason.split(&format!(" at {DEFINITION}:")).next().unwrap_or_default();
                format!("{}: {reason}", field(&error.field))
            });
            invalid(texts.collect::<Vec<_>>().join(", "))
        };
        let mut workloads = parsed.map_err(|errors| wrong(&errors))?;
        workloads.pop().ok_or_else(|| invalid("it defines nothing"))
    }
}

/// Returns the place in the configuration of a field of the definition.
fn field(of_definition: &str) -> String {
    let field = of_definition.trim_start_matches("spec.pod.");
    let mut field =
        FIELDS.iter().fold(field.to_owned(), |text, (ours, theirs)| text.replace(ours, theirs));
    if let Some(mapping) = field.strip_suffix(".port") {
        field = format!("{mapping}.hostPort");
    }
    field
}

fn invalid(details: impl std::fmt::Display) -> Error {
    Error::new(Code::Config, "the network configuration is wrong", details)
}

fn version(given: Option<&str>, command: Command) -> Result<Version, Error> {
    let all = Version::ALL.map(Version::as_str).join(", ");
    let found = Version::ALL.into_iter().find(|version| Some(version.as_str()) == given);
    let unsupported = || {
        let message = format!("cniVersion {} is not supported", given.unwrap_or("(none)"));
        Error::new(Code::Version, message, format!("supported are {all}"))
    };
    let version = found.ok_or_else(unsupported)?;
    let first = Version::first_of(command);
    if version < first {
        let message = format!("version {} has no {}", version.as_str(), command.as_str());
        return Err(Error::new(Code::Version, message, format!("it came with {}", first.as_str())));
    }
    Ok(version)
}

fn read(document: &Value, version: Version, command: Command) -> Result<Config, Error> {
    // What was attached is detached by any configuration that names it: that of another version may have other keys.
    let removes = matches!(command, Command::Del | Command::Gc);
    let config = if removes { fields(document, "")? } else { object(document, "", KEYS)? };
    let name = text(config, "name", "")?.ok_or_else(|| invalid("name: missing"))?;
    call::container(name).map_err(|words| invalid(format!("name: {words}")))?;
    let state_dir = match config.get("stateDir") {
        None => None,
        Some(Value::String(path)) if Path::new(path).is_absolute() => Some(path.clone()),
        Some(_) => return Err(invalid("stateDir: expected an absolute path")),
    };
    let previous = match config.get("prevResult") {
        None | Some(Value::Null) if command == Command::Check => {
            return Err(invalid("prevResult: missing, and CHECK needs it"));
        }
        None | Some(Value::Null) => None,
        Some(Value::Object(result)) => Some(result.clone()),
        Some(_) => return Err(invalid("prevResult: expected an object")),
    };
    let valid = config.get(VALID).or_else(|| config.get(FORMERLY_VALID));
    let read = Config {
        version,
        name: name.to_owned(),
        state_dir,
        previous,
        dns: None,
        valid: valid.filter(|list| !list.is_null()).map(attachments).transpose()?,
        pod: Map::new(),
    };
    if removes {
        return Ok(read);
    }
    let runtime = match config.get("runtimeConfig") {
        None | Some(Value::Null) => &Map::new(),
        Some(value) => capabilities(value)?,
    };
    Ok(Config { dns: dns::of(config, runtime)?, pod: pod(config, runtime)?, ..read })
}

/// Returns the part `spec.pod` of a definition. The arguments of the runtime count more than the configuration.
fn pod(
    config: &Map<String, Value>,
    runtime: &Map<String, Value>,
) -> Result<Map<String, Value>, Error> {
    let mut network = Map::new();
    let args = match config.get("args").and_then(|args| args.get("cni")) {
        None | Some(Value::Null) => &Map::new(),
        Some(value) => object(value, "args.cni", ARGS)?,
    };
    for fields in [config, args] {
        if let Some(policy) = fields.get("policy") {
            let policy =
                if policy.is_string() { json!({ "default": policy }) } else { policy.clone() };
            network.insert("egress".to_owned(), policy);
        }
        if let Some(limits) = fields.get("limits") {
            network.insert("limits".to_owned(), limits.clone());
        }
    }
    if let Some(bandwidth) = runtime.get("bandwidth").filter(|value| !value.is_null()) {
        let limits = network.entry("limits").or_insert_with(|| json!({}));
        let Value::Object(limits) = limits else {
            return Err(invalid("limits: expected an object"));
        };
        limits.extend(rates(bandwidth)?.map(|(name, rate)| (name.to_owned(), json!(rate))));
    }
    let mut pod = Map::new();
    if !network.is_empty() {
        pod.insert("network".to_owned(), network.into());
    }
    if let Some(mappings) = runtime.get("portMappings").filter(|value| !value.is_null()) {
        let path = "runtimeConfig.portMappings";
        let Value::Array(mappings) = mappings else {
            return Err(invalid(format!("{path}: expected a list")));
        };
        let exposures = mappings.iter().enumerate();
        let exposures =
            exposures.map(|(index, mapping)| exposure(mapping, &format!("{path}[{index}]")));
        let exposures: Vec<_> =
            exposures.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        pod.insert("exposure".to_owned(), exposures.into());
    }
    Ok(pod)
}

/// Returns the capabilities that the runtime uses. One that is not honoured is refused: a container would be started
/// without what was asked for it.
fn capabilities(runtime: &Value) -> Result<&Map<String, Value>, Error> {
    let Value::Object(fields) = runtime else {
        return Err(invalid("runtimeConfig: expected an object"));
    };
    for (name, value) in fields {
        let is_nothing = match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::String(text) => text.is_empty(),
            other => other.is_null(),
        };
        if !CAPABILITIES.contains(&name.as_str()) && !is_nothing {
            let message = format!("runtimeConfig.{name} is not supported");
            let details = format!(
                "capabilities are {}; addresses follow from the slot",
                CAPABILITIES.join(", ")
            );
            return Err(Error::new(Code::Field, message, details));
        }
    }
    Ok(fields)
}

/// Returns the exposure of a port mapping; `None` if it names no port of the host.
fn exposure(mapping: &Value, path: &str) -> Result<Option<Value>, Error> {
    let fields = object(mapping, path, PORT_MAPPING)?;
    let port = fields.get("hostPort").cloned().unwrap_or_default();
    if port == json!(0) {
        return Ok(None);
    }
    let target = fields.get("containerPort").cloned().unwrap_or_default();
    let protocol = text(fields, "protocol", path)?;
    let mut exposure = json!({
        "port": port, "targetPort": target, "protocol": protocol.unwrap_or("tcp").to_uppercase(),
    });
    if let Some(address) = text(fields, "hostIP", path)? {
        let parsed: IpAddr = address
            .parse()
            .map_err(|_syntax| invalid(format!("{path}.hostIP: {address:?} is no address")))?;
        if !parsed.is_unspecified() {
            exposure["hostAddress"] = json!(address);
        }
    }
    Ok(Some(exposure))
}

/// Returns the limits of a bandwidth, each with its name in a definition. A rate of zero is no limit. Bursts are checked and not
/// used: a limit has the burst that follows from its rate.
fn rates(bandwidth: &Value) -> Result<impl Iterator<Item = (&'static str, String)> + use<>, Error> {
    let path = "runtimeConfig.bandwidth";
    let fields = object(bandwidth, path, BANDWIDTH)?;
    let mut rates = Vec::new();
    for (name, limit) in [
        ("ingressRate", Some("ingress")),
        ("egressRate", Some("egress")),
        ("ingressBurst", None),
        ("egressBurst", None),
    ] {
        let Some(value) = fields.get(name).filter(|value| !value.is_null()) else { continue };
        let Some(rate) = value.as_u64() else {
            return Err(invalid(format!("{path}.{name}: expected bits a second")));
        };
        rates.extend(limit.filter(|_| rate > 0).map(|limit| (limit, format!("{rate}bit"))));
    }
    Ok(rates.into_iter())
}

/// Returns the attachments of a list of the runtime.
fn attachments(list: &Value) -> Result<Vec<Attachment>, Error> {
    let wrong = |words: &str| invalid(format!("{VALID}: {words}"));
    let Value::Array(list) = list else { return Err(wrong("expected a list")) };
    list.iter()
        .map(|entry| {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
            let container = call::container(text("containerID")).map_err(|w| wrong(&w))?;
            let interface = text("ifname").parse();
            let interface = interface.map_err(|_syntax| wrong("an entry has no ifname"))?;
            Ok(Attachment { container, interface, namespace: None })
        })
        .collect()
}

/// Returns a field that is text; `None` if it is missing or empty.
fn text<'a>(
    object: &'a Map<String, Value>,
    name: &str,
    path: &str,
) -> Result<Option<&'a str>, Error> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => {
            let point = if path.is_empty() { "" } else { "." };
            Err(invalid(format!("{path}{point}{name}: expected text")))
        }
    }
}

/// Returns the fields of an object.
fn fields<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, Error> {
    value.as_object().ok_or_else(|| invalid(format!("{place}expected an object")))
}

/// Returns the fields of an object, all of which must be known.
fn object<'a>(
    value: &'a Value,
    path: &str,
    known: &[&str],
) -> Result<&'a Map<String, Value>, Error> {
    let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
    let fields = fields(value, &place)?;
    if let Some(name) = fields.keys().find(|name| !known.contains(&name.as_str())) {
        let meant = nearest(name, known.iter().copied());
        let hint = meant.map_or_else(
            || format!("known are {}", known.join(", ")),
            |meant| format!("did you mean {meant:?}?"),
        );
        return Err(invalid(format!("{place}unknown key {name:?}; {hint}")));
    }
    Ok(fields)
}

#[cfg(test)]
mod tests;

//! The JSON Schema of definitions (<https://json-schema.org/draft/2020-12>), which editors complete and check by.

use serde_json::{Value, json};

use super::{API_VERSION, EXPOSURE_TYPE};
use crate::model::{
    Accelerator, Dns, Egress, EgressPolicy, InstanceName, InterfaceName, Kind, Memory, NameRule,
    NamespacePath, Protocol, Proxy, Queues, Ready, Vcpus, Vmm,
};

/// Returns the schema of a definition, or of a list of definitions. Each field has a description, and its default where there is
/// one.
///
/// [`super::parse`] checks more, such as clashes of ports; of names such as `qemu`, it takes those in upper case as well.
#[must_use]
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Definitions of Riklet SDN",
        "oneOf": [
            { "$ref": "#/$defs/definition" },
            { "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/definition" } },
        ],
        "$defs": {
            "definition": { "oneOf": [reference("function"), reference("pod")] },
            "function": function(),
            "pod": pod(),
            "execution": execution(),
            "image": image(),
            "account": account(),
            "exposure": exposure(),
            "ports": ports(),
            "network": network(),
            "destination": destination(),
            "name": name_rule(),
        },
    })
}

fn function() -> Value {
    let function = object(
        "A function: one microVM.",
        &[],
        [
            ("execution", reference("execution")),
            ("exposure", exposures()),
            ("network", reference("network")),
        ],
    );
    let containers = json!({
        "description": "Nothing: RIK's other kind has containers.",
        "type": "array",
        "maxItems": 0,
    });
    let spec = [("function", function), ("containers", containers)];
    let replicas = json!({ "description": "The number of instances.", "const": 1, "default": 1 });
    workload(Kind::Function, replicas, object("The workload.", &["function"], spec))
}

fn pod() -> Value {
    let text = |text: &str| json!({ "description": text, "type": "string" });
    let namespace = json!({
        "description": "The file that leads to its network namespace. `up --netns` names it in its place.",
        "type": "string",
        "maxLength": NamespacePath::MAX_LENGTH,
        "pattern": "^/[^ ]+$",
        "examples": ["/run/netns/web", "/proc/4711/ns/net"],
    });
    let number = json!({
        "description": "The number of the namespace, as `readlink` shows it: the file must lead to this one.",
        "type": "integer",
        "minimum": 0,
        "maximum": u32::MAX,
    });
    let interface = json!({
        "description": "The name of its interface in the namespace.",
        "type": "string",
        "minLength": 1,
        "maxLength": InterfaceName::MAX_LENGTH,
        "default": InterfaceName::eth0().as_str(),
    });
    let pod = object(
        "A pod: a network namespace, and what runs in it.",
        &[],
        [
            ("namespace", namespace),
            ("namespaceId", number),
            ("interface", interface),
            ("exposure", exposures()),
            ("network", reference("network")),
        ],
    );
    let container = object(
        "A container, which is of no concern to the network.",
        &[],
        [("name", text("Its name.")), ("image", text("Its image."))],
    );
    let containers = json!({
        "description": "The containers of the pod. Somebody else starts them.",
        "type": "array",
        "items": container,
    });
    let replicas = json!({
        "description": "The number of instances in the cluster. The definition is that of each of them.",
        "type": "integer",
        "minimum": 1,
        "default": 1,
    });
    let spec = object("The workload.", &[], [("pod", pod), ("containers", containers)]);
    workload(Kind::Pod, replicas, spec)
}

fn exposures() -> Value {
    json!({
        "description": "Ports of the node that lead to the guest: one exposure, or a list of them.",
        "oneOf": [
            reference("exposure"),
            { "type": "array", "items": reference("exposure") },
        ],
    })
}

fn workload(kind: Kind, replicas: Value, spec: Value) -> Value {
    let name = json!({
        "description": "The name, unique on the node: letters, digits, '.' and '-', the first and the last a letter or a digit.",
        "type": "string",
        "minLength": 1,
        "maxLength": InstanceName::MAX_LENGTH,
        "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
    });
    let fields = [
        ("apiVersion", one_of("The version of the format.", &[API_VERSION])),
        ("kind", one_of("The kind of workload.", &[kind.as_str()])),
        ("name", name),
        ("replicas", replicas),
        ("spec", spec),
    ];
    object("A workload.", &["apiVersion", "kind", "name", "spec"], fields)
}

fn execution() -> Value {
    let image = |text: &str| described(text, reference("image"));
    let account = |text: &str| described(text, reference("account"));
    let amount = json!({
        "description": "The memory: MiB as a number, or an amount with a binary unit. By default 128 MiB.",
        "oneOf": [
            { "type": "integer", "minimum": 1, "maximum": Memory::MAX_MIB },
            { "type": "string", "pattern": "^[0-9]+[KMG]$" },
        ],
        "examples": ["512M", "2G", 512],
    });
    let dns = json!({
        "description": "The name servers that the guest asks; none if the list is empty. By default those of the host.",
        "type": "array",
        "maxItems": Dns::MAX,
        "items": { "type": "string" },
        "examples": [["192.0.2.53"]],
    });
    let boot_args = json!({
        "description": "Additions to the kernel command line.",
        "type": "string",
    });
    let vmm = "The VMM that runs it. By default one that the host has; without a kernel, the guest that is built in.";
    let accelerator = "The accelerator of QEMU. By default kvm where it works.";
    let read_only = "True if the guest may not write to its root file system.";
    let shared_user = "True if other functions may run as the same user.";
    let fields = [
        ("vmm", one_of(vmm, &Vmm::ALL.map(Vmm::as_str))),
        ("kernel", image("The guest's kernel.")),
        ("initrd", image("The guest's first file system, in memory.")),
        ("rootfs", image("The guest's root file system.")),
        ("readOnly", switch(read_only)),
        ("vcpus", count("The number of processors.", Vcpus::MAX, 1)),
        ("memory", amount),
        ("bootArgs", boot_args),
        ("accelerator", one_of(accelerator, &Accelerator::ALL.map(Accelerator::as_str))),
        (
            "user",
            account(
                "The user that the VMM runs as, and that owns the TAP. By default a user of its own.",
            ),
        ),
        ("group", account("The group that the VMM runs as, and that owns the TAP.")),
        ("sharedUser", switch(shared_user)),
        (
            "queues",
            count(
                "The number of queue pairs of the TAP, for QEMU and Cloud Hypervisor.",
                Queues::MAX,
                1,
            ),
        ),
        ("dns", dns),
    ];
    object("The microVM, used by `run`.", &[], fields)
}

fn image() -> Value {
    let source = json!({
        "description": "A path, or a URL: file://, http:// or https://.",
        "type": "string",
        "minLength": 1,
    });
    let sha256 = json!({
        "description": "The SHA-256 of the file, in hexadecimal digits.",
        "type": "string",
        "pattern": "^[0-9a-fA-F]{64}$",
    });
    let fields = [("source", source.clone()), ("sha256", sha256)];
    json!({ "oneOf": [source, object("A file, with its checksum.", &["source"], fields)] })
}

fn account() -> Value {
    let name = json!({ "description": "A name, or a number.", "type": "string" });
    let number = json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX - 1 });
    json!({ "oneOf": [name, number] })
}

fn exposure() -> Value {
    let protocols: Vec<_> = Protocol::ALL
        .into_iter()
        .flat_map(|protocol| [protocol.as_str().to_owned(), protocol.as_str().to_uppercase()])
        .collect();
    let protocols: Vec<_> = protocols.iter().map(String::as_str).collect();
    let port = |text: &str| described(text, reference("ports"));
    let address = json!({
        "description": "The address of the node that the ports are published at. By default all of them.",
        "type": "string",
        "examples": ["127.0.0.1"],
    });
    let ready = "The sign by which `run` takes it for ready. By default tcp for TCP, else carrier.";
    let shadow = "True to publish it also where a local process or another program has the port.";
    let fields = [
        ("port", port("The port of the node, or a range of ports.")),
        (
            "targetPort",
            port("The port of the guest, or a range as long. By default the same as port."),
        ),
        (
            "type",
            with_default(one_of("The type of RIK's schema.", &[EXPOSURE_TYPE]), EXPOSURE_TYPE),
        ),
        ("protocol", with_default(one_of("The transport protocol.", &protocols), "TCP")),
        ("hostAddress", address),
        ("ready", one_of(ready, &Ready::ALL.map(Ready::as_str))),
        ("shadow", switch(shadow)),
    ];
    object("Ports of the node that lead to ports of the guest.", &["port"], fields)
}

fn port_number() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": u16::MAX })
}

fn ports() -> Value {
    json!({ "oneOf": [port_number(), { "type": "string", "pattern": "^ *[0-9]+ *(- *[0-9]+ *)?$" }] })
}

fn network() -> Value {
    let list = |text: &str, most: usize, items: Value| json!({ "description": text, "type": "array", "maxItems": most, "items": items });
    let allow = json!({ "anyOf": [reference("destination"), reference("name")] });
    let most = EgressPolicy::MAX + EgressPolicy::MAX_NAMES;
    let allow = list("Destinations that it may reach as well, by address or by name.", most, allow);
    let deny = "Destinations that it may not reach, also if they are allowed.";
    let deny = list(deny, EgressPolicy::MAX, reference("destination"));
    let via = json!({
        "description": "A proxy that gets the TCP connections which the function begins to the ports of `viaPorts` beyond the node, whomever they are for: its IPv4 address and port. Nothing else is reached at these ports.",
        "type": "string",
        "examples": ["10.0.5.2:3128", "127.0.0.1:3128"],
    });
    let via_ports = "The ports whose connections the proxy gets. By default 80 and 443.";
    let default = "The reach beyond what is allowed and denied. By default that of the node (`egress`); `none` where names are allowed.";
    let egress = [
        ("default", one_of(default, &Egress::ALL.map(Egress::as_str))),
        ("allow", allow),
        ("deny", deny),
        ("via", via),
        ("viaPorts", list(via_ports, Proxy::MAX_PORTS, port_number())),
    ];
    let egress = object("The destinations that it may begin connections to.", &[], egress);
    let rate = |text: &str| {
        json!({
            "description": text,
            "type": "string",
            "pattern": "^[0-9]+(bit|kbit|Mbit|Gbit)$",
            "examples": ["64kbit", "100Mbit", "1Gbit"],
        })
    };
    let limits = [
        ("egress", rate("The rate of what it sends, in bits a second: 8kbit to 10Gbit.")),
        ("ingress", rate("The rate of what it is sent, in bits a second: 8kbit to 10Gbit.")),
    ];
    let limits = object("The limits of what it may use up.", &[], limits);
    object("The function's network.", &[], [("egress", egress), ("limits", limits)])
}

fn destination() -> Value {
    json!({
        "description": "A network or an address, or `host`; with ports, and with /tcp or /udp. One of IPv6 that has ports stands in brackets.",
        "type": "string",
        "examples": ["10.0.5.0/24", "10.0.5.0/24:5000-5010/tcp", "192.0.2.7:443", "2001:db8::/32", "[2001:db8::1]:443", "host:9000"],
    })
}

fn name_rule() -> Value {
    json!({
        "description": format!("A name, or `*.` and a name for all names below it; with at most {} ports, and with /tcp or /udp.", NameRule::MAX_PORTS),
        "type": "string",
        "pattern": "^(\\*\\.)?[A-Za-z0-9._-]+:[0-9]+( *- *[0-9]+)?(/[A-Za-z]+)?$",
        "examples": ["api.example.com:443", "*.example.org:443/tcp"],
    })
}

fn object<const COUNT: usize>(
    text: &str,
    required: &[&str],
    fields: [(&str, Value); COUNT],
) -> Value {
    let fields: serde_json::Map<_, _> =
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut object = json!({
        "description": text,
        "type": "object",
        "properties": fields,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn described(text: &str, mut value: Value) -> Value {
    value["description"] = json!(text);
    value
}

fn with_default(mut value: Value, default: &str) -> Value {
    value["default"] = json!(default);
    value
}

fn one_of(text: &str, values: &[&str]) -> Value {
    json!({ "description": text, "enum": values })
}

fn switch(text: &str) -> Value {
    json!({ "description": text, "type": "boolean", "default": false })
}

fn count(text: &str, most: u8, default: u8) -> Value {
    json!({ "description": text, "type": "integer", "minimum": 1, "maximum": most, "default": default })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::definition::{Reason, Source, parse};

    /// Returns the fields that the parser knows where this definition has the field `what`.
    fn known(definition: &Value) -> BTreeSet<String> {
        let source = Source { name: "a.json".to_owned(), text: definition.to_string() };
        let errors = parse(&[source]).unwrap_err();
        let known = errors.iter().find_map(|error| match &error.reason {
            Reason::UnknownField { known, .. } => Some(*known),
            _ => None,
        });
        known.unwrap().iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_schema_has_the_fields_that_are_read() {
        let schema = schema();
        let of = |path: &str| -> BTreeSet<String> {
            let fields = schema.pointer(path).unwrap().as_object().unwrap();
            fields.keys().cloned().collect()
        };
        let what = || json!({ "what": 1 });
        let with = |function: Value| {
            json!({
                "apiVersion": "v1", "kind": "Function", "name": "a", "spec": { "function": function },
            })
        };
        let mut wrong = with(json!({}));
        wrong["what"] = json!(1);
        assert_eq!(of("/$defs/function/properties"), known(&wrong));
        let pod =
            |spec: Value| json!({ "apiVersion": "v1", "kind": "Pod", "name": "a", "spec": spec });
        let fields = "/$defs/pod/properties/spec/properties";
        assert_eq!(of(fields), known(&pod(what())));
        assert_eq!(of(&format!("{fields}/pod/properties")), known(&pod(json!({ "pod": what() }))));
        let container = pod(json!({ "containers": [what()] }));
        assert_eq!(of(&format!("{fields}/containers/items/properties")), known(&container));
        let mut wrong = with(json!({}));
        wrong["spec"]["what"] = json!(1);
        assert_eq!(of("/$defs/function/properties/spec/properties"), known(&wrong));
        for (path, function) in [
            ("/$defs/function/properties/spec/properties/function/properties", what()),
            ("/$defs/execution/properties", json!({ "execution": what() })),
            ("/$defs/image/oneOf/1/properties", json!({ "execution": { "kernel": what() } })),
            ("/$defs/exposure/properties", json!({ "exposure": what() })),
            ("/$defs/network/properties", json!({ "network": what() })),
            (
                "/$defs/network/properties/egress/properties",
                json!({ "network": { "egress": what() } }),
            ),
            (
                "/$defs/network/properties/limits/properties",
                json!({ "network": { "limits": what() } }),
            ),
        ] {
            assert_eq!(of(path), known(&with(function)), "{path}");
        }
    }

    #[test]
    fn each_field_is_described() {
        fn undescribed(path: &str, value: &Value, found: &mut Vec<String>) {
            let fields = value.get("properties").and_then(Value::as_object);
            for (name, field) in fields.into_iter().flatten() {
                let path = format!("{path}.{name}");
                if field.get("description").is_none() && field.get("$ref").is_none() {
                    found.push(path.clone());
                }
                undescribed(&path, field, found);
            }
        }
        let schema = schema();
        let mut found = vec![];
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            undescribed(name, definition, &mut found);
        }
        assert_eq!(found, [""; 0]);
    }
}

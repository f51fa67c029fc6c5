//! Functions: definitions for the program, and guests for the instances that it creates.

use std::net::Ipv4Addr;

use riklet_core::model::MacAddress;
use serde_json::{Value, json};

use super::{
    World,
    guest::{Guest, Nic},
    traffic::Server,
    transport::Transport,
};

/// The ports that a guest serves.
pub(crate) type Serves = [(Transport, u16)];

/// Returns a definition with these exposures.
pub(crate) fn function(name: &str, exposures: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Function", "name": name, "replicas": 1,
        "spec": { "function": { "execution": { "rootfs": "file:///srv/f.ext4" }, "exposure": exposures } }
    })
}

/// Returns an exposure; `port` and `target` are numbers, or ranges as text.
pub(crate) fn exposure(
    transport: Transport,
    port: impl Into<Value>,
    target: impl Into<Value>,
) -> Value {
    let (port, target) = (port.into(), target.into());
    json!({ "port": port, "targetPort": target, "type": "NodePort", "protocol": transport.as_str() })
}

/// Binds the exposure to one address of the node.
pub(crate) fn bound(address: Ipv4Addr, mut exposure: Value) -> Value {
    exposure["hostAddress"] = json!(address);
    exposure
}

/// Has the exposure take the packets of others.
pub(crate) fn shadowing(mut exposure: Value) -> Value {
    exposure["shadow"] = json!(true);
    exposure
}

/// Returns exposures of one port by every protocol.
pub(crate) fn every_transport(port: u16, target: u16) -> [Value; 3] {
    Transport::ALL.map(|transport| exposure(transport, port, target))
}

impl World {
    /// Brings up these definitions, all in one file. Returns the configuration of each guest's NIC.
    #[track_caller]
    pub(crate) fn up(&self, definitions: &[Value]) -> Vec<Nic> {
        let file = Value::from(definitions).to_string();
        let output = self.riklet(&["--output", "json", "up", "-"], &file).success();
        let report: Value = serde_json::from_str(&output).expect("JSON");
        let instances = report["instances"].as_array().expect("instances");
        let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
        let nic = |definition: &Value| {
            let found = instances.iter().find(|instance| name(instance) == name(definition));
            nic(found.unwrap_or_else(|| panic!("{definition} is not up: {output}")))
        };
        definitions.iter().map(nic).collect()
    }

    /// Brings up these definitions, all in one file, and starts a guest for each, which serves these ports.
    #[track_caller]
    pub(crate) fn start<const N: usize>(&self, functions: [(Value, &Serves); N]) -> [Function; N] {
        let nics = self.up(&functions.each_ref().map(|(definition, _)| definition.clone()));
        let mut nics = nics.into_iter();
        functions.map(|(_, ports)| Function::start(self, nics.next().expect("a NIC"), ports))
    }

    /// Takes the functions of these names down.
    #[track_caller]
    pub(crate) fn down(&self, names: &[&str]) {
        self.riklet(&[&["down"], names].concat(), "").success();
    }
}

/// Reads the configuration of the guest's NIC from the program's description of an instance.
pub(crate) fn nic(instance: &Value) -> Nic {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let address = |end: &str| instance[end]["address"].as_str().and_then(|a| a.parse().ok());
    let octets = text(&instance["guest"]["mac"]);
    let octets = octets.split(':').map(|octet| u8::from_str_radix(octet, 16).expect("a MAC"));
    let octets: Vec<u8> = octets.collect();
    Nic {
        interface: text(&instance["interface"]),
        address: address("guest").expect("the guest's address"),
        gateway: address("host").expect("the host's address"),
        mac: MacAddress::new(octets.try_into().expect("six octets")),
        mtu: instance["mtu"].as_u64().and_then(|mtu| mtu.try_into().ok()).expect("an MTU"),
    }
}

/// A guest that serves: the visible part of a running function.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) guest: Guest,
    _servers: Vec<Server>,
}

impl Function {
    /// Attaches to the TAP, and serves these ports.
    #[track_caller]
    pub(crate) fn start(world: &World, nic: Nic, ports: &Serves) -> Self {
        Self::serve(Guest::attach(world, nic), ports)
    }

    /// Has a guest serve these ports.
    #[track_caller]
    pub(crate) fn serve(guest: Guest, ports: &Serves) -> Self {
        let address = guest.nic.address;
        let serve = |(transport, port): &(Transport, u16)| {
            transport.serve(&guest.namespace, address, *port)
        };
        let servers = ports.iter().map(serve).collect();
        Self { guest, _servers: servers }
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.guest.nic.address
    }

    /// Returns the node's address on the function's TAP.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.guest.nic.gateway
    }
}

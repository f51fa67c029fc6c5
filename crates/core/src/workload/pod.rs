//! The kind `Pod`: containers in a network namespace of their own, behind a veth.

use serde_json::{Value, json};

use super::{Fragment, FragmentError, Implementation, Kind, NodeFacts, alias, parts};
use crate::{
    definition::{Object, Validator},
    link::{Device, PeerName, Tap},
    model::{
        EgressPolicy, Execution, Exposure, InstanceName, InterfaceName, Limits, Namespace, Slot,
    },
};

/// The fields of `spec`, and those of `spec.pod`.
const SPEC: &[&str] = &["containers", "pod"];
const POD: &[&str] = &["namespace", "namespaceId", "interface", "exposure", "network"];

/// A pod: containers that share a network namespace. Somebody else starts them, and makes the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The name, unique on the node.
    pub name: InstanceName,
    /// Its containers, which are of no concern to the network.
    pub containers: Vec<Container>,
    /// The namespace that it lives in.
    pub namespace: Namespace,
    /// The name of its interface there.
    pub interface: InterfaceName,
    /// The execution, which a pod leaves open.
    pub execution: Execution,
    /// Ports of the host that lead to it; no two of them clash.
    pub exposures: Vec<Exposure>,
    /// The destinations that it may begin connections to; `None` is the reach of the node's guests.
    pub egress: Option<EgressPolicy>,
    /// The limits of what it may use.
    pub limits: Limits,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its image, if it has one.
    pub image: Option<String>,
}

impl Pod {
    /// Returns a pod of this name that has no namespace yet, and nothing else that a definition may give it. Its interface
    /// is `eth0`.
    #[must_use]
    pub fn new(name: InstanceName) -> Self {
        Self {
            name,
            containers: vec![],
            namespace: Namespace::default(),
            interface: InterfaceName::eth0(),
            execution: Execution::default(),
            exposures: vec![],
            egress: None,
            limits: Limits::default(),
        }
    }
}

impl Implementation for Pod {
    const NAME: &'static str = "Pod";
    const COLLECTION: &'static str = "pods";
    const TAKES_RESERVED: bool = false;
    const RUNS: bool = false;
    const DOCUMENTED: bool = true;

    fn validate(
        validator: &mut Validator,
        definition: &Object<'_>,
        name: Option<InstanceName>,
    ) -> Option<Self> {
        validator.any_replicas(definition);
        let spec = validator.required_object(definition, "spec", SPEC)?;
        let containers = validator.containers(&spec);
        let pod = validator.optional_object(&spec, "pod", POD);
        let mut found = Self { containers, ..Self::new(name?) };
        let Some(pod) = pod else { return Some(found) };
        found.namespace = validator.namespace(&pod);
        found.interface = validator.interface(&pod).unwrap_or(found.interface);
        found.exposures = validator.exposures(&pod);
        (found.egress, found.limits) = validator.network_without_names(&pod);
        Some(found)
    }

    fn spec(&self) -> Value {
        let mut pod = json!({ "interface": self.interface.as_str() });
        if let Some(path) = &self.namespace.path {
            pod["namespace"] = json!(path.as_str());
        }
        if let Some(id) = self.namespace.id {
            pod["namespaceId"] = json!(id.number());
        }
        parts::add_network(&mut pod, self);
        let mut spec = json!({ "pod": pod });
        if !self.containers.is_empty() {
            spec["containers"] = self.containers.iter().map(container_value).collect();
        }
        spec
    }

    fn recover(marked: &alias::Marked, _tap: Option<Tap>) -> Self {
        let mut pod = Self {
            exposures: marked.exposures.clone(),
            egress: parts::lost_policy(marked),
            limits: marked.limits,
            ..Self::new(marked.name.clone())
        };
        if let Some(PeerName { path, namespace, interface }) = &marked.peer {
            pod.namespace = Namespace { path: path.clone(), id: Some(*namespace) };
            pod.interface = interface.clone();
        }
        pod
    }

    /// Returns the needs of a pod: a veth whose other end is in its namespace, and otherwise those of a function.
    fn fragment(&self, slot: Slot, node: &NodeFacts) -> Result<Fragment, FragmentError> {
        let missing = || FragmentError::NoNamespace { name: self.name.clone() };
        let namespace = self.namespace.id.ok_or_else(missing)?;
        let (path, interface) = (self.namespace.path.clone(), self.interface.clone());
        let peer = parts::peer(slot, PeerName { path, namespace, interface }, node)?;
        parts::fragment(self, Kind::Pod, Device::Veth(peer), slot, node)
    }

    fn name(&self) -> &InstanceName {
        &self.name
    }

    fn execution(&self) -> &Execution {
        &self.execution
    }

    fn execution_mut(&mut self) -> &mut Execution {
        &mut self.execution
    }

    fn namespace(&self) -> Option<&Namespace> {
        Some(&self.namespace)
    }

    fn namespace_mut(&mut self) -> Option<(&mut Namespace, &mut InterfaceName)> {
        Some((&mut self.namespace, &mut self.interface))
    }

    fn exposures(&self) -> &[Exposure] {
        &self.exposures
    }

    fn egress(&self) -> Option<&EgressPolicy> {
        self.egress.as_ref()
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

fn container_value(container: &Container) -> Value {
    let Container { name, image } = container;
    let said = [("name", name), ("image", image)];
    let said = said
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), Value::from(value.clone()?))));
    Value::Object(said.collect())
}

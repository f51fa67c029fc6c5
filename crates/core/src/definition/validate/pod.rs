//! Validates what only a pod has: its containers, and its place in a network namespace.

use super::{Object, Reason, Validator, Value};
use crate::model::{Container, InterfaceName, Namespace, NamespaceId};

const CONTAINER: &[&str] = &["name", "image"];

impl Validator {
    /// Checks `replicas`, which RIK's scheduler reads: a pod's definition is that of each replica, and a node brings up the
    /// one whose namespace it is given.
    pub(crate) fn any_replicas(&mut self, definition: &Object<'_>) {
        let Some(node) = definition.get("replicas") else { return };
        let reason = match node.value {
            Value::Integer(1..) => return,
            Value::Integer(found) => Reason::Replicas { found },
            _ => Reason::Sort { expected: "a number from 1 on", found: node.value.sort() },
        };
        self.refuse(node.at, definition.path("replicas"), reason);
    }

    /// Returns the containers. They are not the network's, so that only their form is checked.
    pub(crate) fn containers(&mut self, spec: &Object<'_>) -> Vec<Container> {
        let list = self.list(spec, "containers", "a list of containers");
        let Some((_, items)) = list else { return vec![] };
        let path = spec.path("containers");
        let mut containers = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let object = self.object(item, &format!("{path}[{index}]"), CONTAINER);
            let Some(object) = object else { continue };
            let mut text = |name| self.string(&object, name, false).map(|(_, t)| t.to_owned());
            containers.push(Container { name: text("name"), image: text("image") });
        }
        containers
    }

    /// Returns the namespace, as far as the pod names it.
    pub(crate) fn namespace(&mut self, pod: &Object<'_>) -> Namespace {
        let path = self.string(pod, "namespace", false).and_then(|(at, text)| {
            let path = text.parse().map_err(Reason::Namespace);
            self.accept(path, at, || pod.path("namespace"))
        });
        let id = pod.get("namespaceId").and_then(|node| {
            let number = match &node.value {
                Value::Integer(number) => u32::try_from(*number).ok(),
                _ => None,
            };
            let expected = "the number of a namespace, such as 4026532567";
            let reason = || Reason::Sort { expected, found: node.value.sort() };
            let id = number.map(NamespaceId::new).ok_or_else(reason);
            self.accept(id, node.at, || pod.path("namespaceId"))
        });
        Namespace { path, id }
    }

    /// Returns the name of the interface in the namespace, if the pod names it.
    pub(crate) fn interface(&mut self, pod: &Object<'_>) -> Option<InterfaceName> {
        let (at, text) = self.string(pod, "interface", false)?;
        let name = InterfaceName::try_from(text).map_err(Reason::Interface);
        self.accept(name, at, || pod.path("interface"))
    }
}

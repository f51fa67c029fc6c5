//! An attachment: one interface of one container. Pure.

use std::fmt;

use riklet_api::InspectionDocument;
use riklet_core::{
    digest,
    model::{InstanceName, InterfaceName, NamespacePath},
};

/// The begin of the names of all attachments.
const PREFIX: &str = "cni";
/// The most letters of a container's ID that a name shows.
const SHOWN: usize = 24;

/// An interface of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// The ID of the container.
    pub(crate) container: String,
    /// The name of the interface in it.
    pub(crate) interface: InterfaceName,
    /// The namespace, which may be gone already.
    pub(crate) namespace: Option<NamespacePath>,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.interface, self.container)
    }
}

impl Attachment {
    /// Returns the name that the attachment has in the records of the node. It depends on nothing else, so that a deletion
    /// needs no records of its own; it shows the begin of the container's ID.
    pub(crate) fn name(&self, network: &str) -> InstanceName {
        let shown = self.container.chars().map(|c| c.to_ascii_lowercase());
        let shown: String = shown.filter(char::is_ascii_alphanumeric).take(SHOWN).collect();
        let Self { container, interface, .. } = self;
        let whole = digest::of_words([network, container, interface.as_str()]);
        let name = format!("{}-{shown}-{whole:016x}", network_prefix(network));
        name.parse().unwrap_or_else(|_never| unreachable!("{name:?} has letters, digits and '-'"))
    }

    /// Reports whether this is the attachment's own record, in the same namespace.
    pub(crate) fn is_of(&self, found: &InspectionDocument) -> bool {
        let path = found.definition.pointer("/spec/pod/namespace").and_then(|path| path.as_str());
        path == self.namespace.as_ref().map(NamespacePath::as_str)
    }
}

/// Reports whether a name is that of an attachment to this network.
pub(crate) fn is_of_network(name: &InstanceName, network: &str) -> bool {
    name.as_str().strip_prefix(&network_prefix(network)).is_some_and(|rest| rest.starts_with('-'))
}

fn network_prefix(network: &str) -> String {
    format!("{PREFIX}-{:08x}", digest::of_words([network]) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container: &str, interface: &str) -> Attachment {
        let interface = interface.parse().unwrap();
        Attachment { container: container.to_owned(), interface, namespace: None }
    }

    #[test]
    fn each_attachment_has_a_name_of_its_own_network() {
        let web = attachment("web.1", "eth0");
        assert_eq!(web.name("net").as_str(), "cni-529e7708-web1-a4d04f7ac5417725");
        let others = [attachment("web.1", "eth1"), attachment("web1", "eth0")];
        assert!(others.iter().all(|other| other.name("net") != web.name("net")));
        assert_ne!(web.name("net"), web.name("other"));
        assert!(is_of_network(&web.name("net"), "net"));
        assert!(!is_of_network(&web.name("net"), "other"));
        let longest = attachment(&"F".repeat(300), "abcdefghijklmno").name("n");
        assert!(longest.as_str().len() <= InstanceName::MAX_LENGTH);
        assert!(!is_of_network(&"cni-web".parse().unwrap(), "net"));
    }
}

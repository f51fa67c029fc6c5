//! Turns values with positions into workloads, or errors.

mod claimed;
mod execution;
mod network;
mod pod;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use super::{
    API_VERSION, EXPOSURE_TYPE, Error, Errors, Reason, SourceLocation, kinds,
    tree::{Field, Position, TreeNode, Value},
};
use crate::{
    excerpt::excerpt,
    model::{Exposure, InstanceName, Ipv6Unsupported, Kind, PortRange, Protocol, Ready, Workload},
    nearest::nearest,
};

const DEFINITION: &[&str] = &["apiVersion", "kind", "name", "replicas", "spec"];
const EXPOSURE: &[&str] =
    &["port", "targetPort", "type", "protocol", "hostAddress", "ready", "shadow"];

/// The workloads and errors of one call, and the names and ports that its definitions share.
#[derive(Default)]
pub(crate) struct Validator {
    file: String,
    /// True if the definitions are those of records, which earlier versions may have accepted.
    recorded: bool,
    workloads: Vec<Workload>,
    errors: Vec<Error>,
    /// The errors of earlier sources.
    earlier: usize,
    /// True if there were more errors than are listed.
    truncated: bool,
    names: BTreeMap<InstanceName, SourceLocation>,
    exposures: Vec<(Exposure, SourceLocation)>,
    /// The ports of each address, or of every one.
    ports: BTreeMap<(Protocol, Option<IpAddr>), claimed::Ports>,
}

/// An object whose fields are known, and its position.
pub(crate) struct Object<'a> {
    at: Position,
    path: String,
    fields: BTreeMap<&'a str, &'a Field>,
}

impl<'a> Object<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&'a TreeNode> {
        self.fields.get(name).map(|field| &field.node)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        join(&self.path, name)
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Reads an IP address. One of IPv6 is refused: nothing here has one yet.
fn address(text: &str) -> Result<IpAddr, Reason> {
    let address = text.parse().map_err(|_syntax| Reason::Address { found: excerpt(text) })?;
    Ok(Ipv6Unsupported::refuse(address)?.into())
}

impl Validator {
    /// Creates the validator of records.
    pub(super) fn of_records() -> Self {
        Self { recorded: true, ..Self::default() }
    }

    /// Begins a file: later errors are in it.
    pub(super) fn begin(&mut self, file: &str) {
        self.sort();
        file.clone_into(&mut self.file);
    }

    /// Notes an error. Once [`Errors::MAX`] are noted, it is only noted that there are more.
    pub(crate) fn refuse(&mut self, at: Position, field: impl Into<String>, reason: Reason) {
        if self.errors.len() == Errors::MAX {
            self.truncated = true;
            return;
        }
        let location = SourceLocation::new(&self.file, at);
        self.errors.push(Error { location, field: field.into(), reason });
    }

    pub(super) fn finish(mut self) -> Result<Vec<Workload>, Errors> {
        self.sort();
        if self.errors.is_empty() {
            Ok(self.workloads)
        } else {
            Err(Errors::new(self.errors, self.truncated))
        }
    }

    /// Puts the errors of the present source in the order of its text.
    fn sort(&mut self) {
        if let Some(errors) = self.errors.get_mut(self.earlier..) {
            errors.sort_by(|a, b| a.location.cmp(&b.location));
        }
        self.earlier = self.errors.len();
    }

    /// Reads a definition, or a list of definitions.
    pub(super) fn document(&mut self, node: &TreeNode) {
        if let Value::List(items) = &node.value {
            for (index, item) in items.iter().enumerate() {
                self.definition(item, &format!("[{index}]"));
            }
        } else {
            self.definition(node, "");
        }
    }

    fn definition(&mut self, node: &TreeNode, path: &str) {
        if self.truncated {
            return;
        }
        let Some(definition) = self.object(node, path, DEFINITION) else { return };
        self.version(&definition);
        let name = self.name(&definition);
        let kind = self.kind(&definition);
        let workload = kind.and_then(|kind| kind.validate(self, &definition, name));
        self.workloads.extend(workload);
    }

    fn version(&mut self, definition: &Object<'_>) {
        if let Some((at, found)) = self.string(definition, "apiVersion", true)
            && found != API_VERSION
        {
            let reason = Reason::UnknownVersion { found: excerpt(found) };
            self.refuse(at, definition.path("apiVersion"), reason);
        }
    }

    fn name(&mut self, definition: &Object<'_>) -> Option<InstanceName> {
        let (at, text) = self.string(definition, "name", true)?;
        let name = self.accept(InstanceName::try_from(text).map_err(Reason::Name), at, || {
            definition.path("name")
        })?;
        if let Some(first) = self.names.get(&name) {
            let first = first.clone();
            self.refuse(at, definition.path("name"), Reason::DuplicateName { name, first });
            return None;
        }
        self.names.insert(name.clone(), SourceLocation::new(&self.file, at));
        Some(name)
    }

    fn kind(&mut self, definition: &Object<'_>) -> Option<Kind> {
        let (at, found) = self.string(definition, "kind", true)?;
        if let Some(kind) = Kind::from_name(found) {
            return Some(kind);
        }
        let reason =
            Reason::UnknownKind { found: excerpt(found), nearest: nearest(found, kinds()) };
        self.refuse(at, definition.path("kind"), reason);
        None
    }

    pub(crate) fn replicas(&mut self, definition: &Object<'_>) {
        let Some(node) = definition.get("replicas") else { return };
        let reason = match node.value {
            Value::Integer(1) => return,
            Value::Integer(found) => Reason::Replicas { found },
            _ => Reason::Sort { expected: "the number 1", found: node.value.sort() },
        };
        self.refuse(node.at, definition.path("replicas"), reason);
    }

    pub(crate) fn exposures(&mut self, parent: &Object<'_>) -> Vec<Exposure> {
        let path = parent.path("exposure");
        match parent.get("exposure") {
            None => vec![],
            Some(TreeNode { value: Value::List(items), .. }) => items
                .iter()
                .enumerate()
                .filter_map(|(index, item)| self.exposure(item, &format!("{path}[{index}]")))
                .collect(),
            Some(node @ TreeNode { value: Value::Map(_), .. }) => {
                self.exposure(node, &path).into_iter().collect()
            }
            Some(node) => {
                let found = node.value.sort();
                let expected = "an object or a list of them";
                self.refuse(node.at, path, Reason::Sort { expected, found });
                vec![]
            }
        }
    }

    fn exposure(&mut self, node: &TreeNode, path: &str) -> Option<Exposure> {
        if self.truncated {
            return None;
        }
        let object = self.object(node, path, EXPOSURE)?;
        // Each field is checked, whether or not the earlier ones are right.
        let protocol = self.protocol(&object);
        let address = self.host_address(&object);
        self.exposure_type(&object);
        let ready =
            self.choice(&object, "ready", "sign of being ready", &Ready::ALL, Ready::as_str);
        let shadow = self.boolean(&object, "shadow").unwrap_or_default();
        let host = self.ports(&object, "port");
        let guest = match object.get("targetPort") {
            Some(_) => self.ports(&object, "targetPort"),
            None => host,
        };
        if !object.fields.contains_key("port") {
            self.refuse(object.at, object.path("port"), Reason::Missing);
        }
        let new = if self.recorded { Exposure::recorded } else { Exposure::new };
        let exposure = new(protocol?, address?, host?, guest?);
        match exposure.and_then(|exposure| exposure.with_ready(ready)) {
            Ok(exposure) => {
                let exposure = exposure.with_shadow(shadow);
                self.claim(exposure, node.at, path);
                Some(exposure)
            }
            Err(error) => {
                self.refuse(node.at, path, error.into());
                None
            }
        }
    }

    /// Refuses an exposure that clashes with an earlier one.
    fn claim(&mut self, exposure: Exposure, at: Position, path: &str) {
        let earlier = self.holder(&exposure);
        if let Some((other, first)) = earlier.and_then(|index| self.exposures.get(index)) {
            let reason = Reason::Clash { exposure, other: *other, first: first.clone() };
            self.refuse(at, path, reason);
        }
        let key = (exposure.protocol(), exposure.host_address());
        let ports = self.ports.entry(key).or_default();
        ports.claim(exposure.host_ports(), self.exposures.len());
        self.exposures.push((exposure, SourceLocation::new(&self.file, at)));
    }

    /// Returns the earlier exposure that has a port of this one, the lowest such port.
    fn holder(&self, exposure: &Exposure) -> Option<usize> {
        let key = |address| (exposure.protocol(), address);
        let first = |ports: &claimed::Ports| ports.first_of(exposure.host_ports());
        let (_port, index) = match exposure.host_address() {
            None => {
                let everywhere = key(None)..=key(Some(Ipv6Addr::from(u128::MAX).into()));
                self.ports.range(everywhere).filter_map(|(_, ports)| first(ports)).min()
            }
            address => {
                let both = [None, address].into_iter();
                both.filter_map(|address| first(self.ports.get(&key(address))?)).min()
            }
        }?;
        Some(index)
    }

    fn ports(&mut self, object: &Object<'_>, name: &str) -> Option<PortRange> {
        let node = object.get(name)?;
        let parsed = match &node.value {
            Value::Integer(port) => PortRange::new(*port, *port).map_err(Reason::from),
            Value::Number(text) | Value::String(text) => text.parse().map_err(Reason::Port),
            other => Err(Reason::Sort { expected: "a port or a range", found: other.sort() }),
        };
        self.accept(parsed, node.at, || object.path(name))
    }

    /// Returns the protocol, which is TCP by default; `None` if it is wrong.
    fn protocol(&mut self, object: &Object<'_>) -> Option<Protocol> {
        if object.get("protocol").is_none() {
            return Some(Protocol::Tcp);
        }
        let (at, text) = self.string(object, "protocol", false)?;
        let protocol = Protocol::from_name(text);
        let protocol = protocol.ok_or_else(|| Reason::UnknownProtocol { found: excerpt(text) });
        self.accept(protocol, at, || object.path("protocol"))
    }

    /// Returns the address of the host: `Some(None)` if none is given; `None` if it is wrong.
    #[expect(clippy::option_option, reason = "the inner one is the exposure's own")]
    fn host_address(&mut self, object: &Object<'_>) -> Option<Option<IpAddr>> {
        if object.get("hostAddress").is_none() {
            return Some(None);
        }
        let (at, text) = self.string(object, "hostAddress", false)?;
        self.accept(address(text).map(Some), at, || object.path("hostAddress"))
    }

    fn exposure_type(&mut self, object: &Object<'_>) {
        if let Some((at, found)) = self.string(object, "type", false)
            && found != EXPOSURE_TYPE
        {
            let reason = Reason::UnknownType { found: excerpt(found) };
            self.refuse(at, object.path("type"), reason);
        }
    }

    fn accept<T>(
        &mut self,
        result: Result<T, Reason>,
        at: Position,
        path: impl FnOnce() -> String,
    ) -> Option<T> {
        result.map_err(|reason| self.refuse(at, path(), reason)).ok()
    }

    fn string<'a>(
        &mut self,
        object: &Object<'a>,
        name: &str,
        required: bool,
    ) -> Option<(Position, &'a str)> {
        let Some(node) = object.get(name) else {
            if required {
                self.refuse(object.at, object.path(name), Reason::Missing);
            }
            return None;
        };
        if let Value::String(text) = &node.value {
            return Some((node.at, text));
        }
        let reason = Reason::Sort { expected: "a string", found: node.value.sort() };
        self.refuse(node.at, object.path(name), reason);
        None
    }

    /// Returns the items of a list, if the object has one.
    fn list<'a>(
        &mut self,
        object: &Object<'a>,
        name: &str,
        expected: &'static str,
    ) -> Option<(Position, &'a [TreeNode])> {
        let node = object.get(name)?;
        if let Value::List(items) = &node.value {
            return Some((node.at, items));
        }
        let found = node.value.sort();
        self.refuse(node.at, object.path(name), Reason::Sort { expected, found });
        None
    }

    /// Reads a text that stands by itself, such as an item of a list.
    fn parsed<T>(
        &mut self,
        node: &TreeNode,
        path: String,
        read: impl FnOnce(&str) -> Result<T, Reason>,
    ) -> Option<T> {
        let value = match &node.value {
            Value::String(text) => read(text),
            other => Err(Reason::Sort { expected: "a string", found: other.sort() }),
        };
        self.accept(value, node.at, || path)
    }

    fn boolean(&mut self, object: &Object<'_>, name: &str) -> Option<bool> {
        let node = object.get(name)?;
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        let reason = Reason::Sort { expected: "true or false", found: node.value.sort() };
        self.refuse(node.at, object.path(name), reason);
        None
    }

    pub(crate) fn required_object<'a>(
        &mut self,
        parent: &Object<'a>,
        name: &str,
        known: &'static [&'static str],
    ) -> Option<Object<'a>> {
        if parent.get(name).is_none() {
            self.refuse(parent.at, parent.path(name), Reason::Missing);
        }
        self.optional_object(parent, name, known)
    }

    /// Returns the object of this name with these fields; `None` if it is missing, or no object.
    pub(crate) fn optional_object<'a>(
        &mut self,
        parent: &Object<'a>,
        name: &str,
        known: &'static [&'static str],
    ) -> Option<Object<'a>> {
        let node = parent.get(name)?;
        self.object(node, &parent.path(name), known)
    }

    /// Reads an object with only the known fields, each at most once. Other fields are refused, and left out.
    fn object<'a>(
        &mut self,
        node: &'a TreeNode,
        path: &str,
        known: &'static [&'static str],
    ) -> Option<Object<'a>> {
        let Value::Map(all) = &node.value else {
            let reason = Reason::Sort { expected: "an object", found: node.value.sort() };
            self.refuse(node.at, path, reason);
            return None;
        };
        let mut fields = BTreeMap::<&str, &Field>::new();
        for field in all {
            if self.truncated {
                break;
            }
            let name = field.name.as_str();
            let path = || join(path, &excerpt(name));
            if !known.contains(&name) {
                let nearest = nearest(name, known.iter().copied());
                self.refuse(field.at, path(), Reason::UnknownField { known, nearest });
            } else if let Some(first) = fields.get(name) {
                let reason = Reason::DuplicateField { first: first.at.line };
                self.refuse(field.at, path(), reason);
            } else {
                fields.insert(name, field);
            }
        }
        Some(Object { at: node.at, path: path.to_owned(), fields })
    }
}

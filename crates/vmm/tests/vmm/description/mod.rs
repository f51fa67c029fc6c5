//! Descriptions of an API: its operations, and the types of their bodies. The tests' own descriptions cover everything
//! that a client may send to the used operations, not only what the drivers send.

mod published;
mod table;
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use riklet_http::Method;
use serde_json::Value;

/// The part of an API that is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    /// The prefix of every path.
    pub(crate) root: String,
    pub(crate) operations: BTreeMap<Key, Operation>,
    /// All types that the operations name, and the types that these name.
    pub(crate) types: BTreeMap<String, Kind>,
}

/// Method and path. One segment of the path may be a parameter, such as `{drive_id}`.
pub(crate) type Key = (&'static str, String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    /// The type of the body that must be sent.
    pub(crate) body: Option<String>,
    /// The statuses that are described by number, each with the type of its body.
    pub(crate) answers: BTreeMap<u16, Option<String>>,
}

/// The type of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Boolean,
    Integer { min: Option<i64>, max: Option<i64> },
    Choice(BTreeSet<String>),
    List(Box<Kind>),
    Object(BTreeMap<String, Field>),
    Named(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) required: bool,
    pub(crate) kind: Kind,
}

/// The reason why a request does not match the description.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such operation.
    Operation,
    /// There is a body where none is described, or none where one is described.
    Body,
    /// The body has another type. The text is serde's message.
    Type(String),
}

pub(crate) const fn method_name(method: Method) -> &'static str {
    match method {
        Method::Post => "POST",
        Method::Delete => "DELETE",
        Method::Get => "GET",
        Method::Put => "PUT",
    }
}

impl Description {
    pub(crate) fn firecracker() -> Self {
        table::parse(include_str!("firecracker.txt"))
    }

    pub(crate) fn cloud_hypervisor() -> Self {
        table::parse(include_str!("cloud-hypervisor.txt"))
    }

    /// Returns the description without this field, as an older version has it.
    pub(crate) fn without(mut self, object: &str, field: &str) -> Self {
        let Some(Kind::Object(fields)) = self.types.get_mut(object) else { panic!("no {object}") };
        fields.remove(field).expect("a field");
        self
    }

    /// Checks a request against the description. Returns the path's parameter, if it has one.
    pub(crate) fn check<'a>(
        &self,
        method: &str,
        path: &'a str,
        body: Option<&Value>,
    ) -> Result<&'a str, Refusal> {
        let path = path.strip_prefix(&*self.root).ok_or(Refusal::Operation)?;
        let matching = |((name, template), operation): (&Key, _)| {
            (*name == method).then_some(())?;
            Some((operation, parameter(template, path)?))
        };
        let found = self.operations.iter().find_map(matching);
        let (operation, parameter): (&Operation, _) = found.ok_or(Refusal::Operation)?;
        match (&operation.body, body) {
            (None, None) => {}
            (Some(kind), Some(value)) => {
                self.check_value(&Kind::Named(kind.clone()), value).map_err(Refusal::Type)?;
            }
            _ => return Err(Refusal::Body),
        }
        Ok(parameter)
    }

    fn check_value(&self, kind: &Kind, value: &Value) -> Result<(), String> {
        let wrong = |expected: &str| Err(format!("invalid type: {value}, expected {expected}"));
        match kind {
            Kind::Named(name) => self.check_value(&self.types[name], value),
            Kind::Text if value.is_string() => Ok(()),
            Kind::Text => wrong("a string"),
            Kind::Boolean if value.is_boolean() => Ok(()),
            Kind::Boolean => wrong("a boolean"),
            Kind::Integer { min, max } => match value.as_i64() {
                Some(number) if min.is_none_or(|min| number >= min) => match max {
                    Some(max) if number > *max => Err(format!("{number} is more than {max}")),
                    _ => Ok(()),
                },
                Some(number) => Err(format!("{number} is less than {min:?}")),
                None => wrong("an integer"),
            },
            Kind::Choice(words) => match value.as_str() {
                Some(word) if words.contains(word) => Ok(()),
                Some(word) => Err(format!("unknown variant `{word}`, expected one of {words:?}")),
                None => wrong("a string"),
            },
            Kind::List(kind) => match value.as_array() {
                Some(values) => values.iter().try_for_each(|value| self.check_value(kind, value)),
                None => wrong("a sequence"),
            },
            Kind::Object(fields) => match value.as_object() {
                Some(values) => self.check_fields(fields, values),
                None => wrong("a map"),
            },
        }
    }

    fn check_fields(
        &self,
        fields: &BTreeMap<String, Field>,
        values: &serde_json::Map<String, Value>,
    ) -> Result<(), String> {
        for (name, value) in values {
            let Some(field) = fields.get(name) else {
                return Err(format!("unknown field `{name}`, expected one of {:?}", fields.keys()));
            };
            self.check_value(&field.kind, value)?;
        }
        let missing =
            |(name, field): &(&String, &Field)| field.required && !values.contains_key(*name);
        match fields.iter().find(missing) {
            Some((name, _)) => Err(format!("missing field `{name}`")),
            None => Ok(()),
        }
    }
}

/// Returns the parameter of a path that matches this template; the parameter is empty if the template has none.
fn parameter<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, rest)) = template.split_once('{') else {
        return (template == path).then_some("");
    };
    let (_, after) = rest.split_once('}').expect("a whole template");
    let parameter = path.strip_prefix(before)?.strip_suffix(after)?;
    (!parameter.is_empty() && !parameter.contains('/')).then_some(parameter)
}

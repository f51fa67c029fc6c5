//! The name servers of containers. Pure.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{Error, invalid, object};

/// The keys of `dns` in a configuration, which are those of a result.
const CONFIGURED: [(&str, &str); 4] = [
    ("nameservers", "nameservers"),
    ("domain", "domain"),
    ("search", "search"),
    ("options", "options"),
];
/// The keys of the capability `dns`, each with that of a result.
const OF_RUNTIME: [(&str, &str); 3] =
    [("servers", "nameservers"), ("searches", "search"), ("options", "options")];

/// Returns the part `dns` of a result: that which the runtime asks for, else that of the configuration; `None` if neither
/// has any.
pub(super) fn of(
    config: &Map<String, Value>,
    runtime: &Map<String, Value>,
) -> Result<Option<Value>, Error> {
    let asked = part(runtime, "runtimeConfig.dns", &OF_RUNTIME)?;
    let configured = part(config, "dns", &CONFIGURED)?;
    Ok(asked.or(configured))
}

fn part(
    document: &Map<String, Value>,
    path: &str,
    keys: &[(&str, &str)],
) -> Result<Option<Value>, Error> {
    let Some(value) = document.get("dns").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let known: Vec<_> = keys.iter().map(|(theirs, _)| *theirs).collect();
    let fields = object(value, path, &known)?;
    let mut part = Map::new();
    for (theirs, ours) in keys {
        let Some(value) = fields.get(*theirs).filter(|value| !value.is_null()) else { continue };
        let wrong = |expected: &str| invalid(format!("{path}.{theirs}: expected {expected}"));
        let is_empty = match value {
            Value::String(text) if *ours == "domain" => text.is_empty(),
            _ if *ours == "domain" => return Err(wrong("text")),
            Value::Array(list) if list.iter().all(Value::is_string) => list.is_empty(),
            _ => return Err(wrong("a list of texts")),
        };
        if *ours == "nameservers"
            && !value.as_array().is_some_and(|list| list.iter().all(is_address))
        {
            return Err(wrong("a list of addresses"));
        }
        if !is_empty {
            part.insert((*ours).to_owned(), value.clone());
        }
    }
    Ok((!part.is_empty()).then(|| part.into()))
}

fn is_address(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<IpAddr>().is_ok())
}

//! Reads descriptions as the VMMs' projects publish them, in YAML: `OpenAPI` 2 (Firecracker) and 3 (Cloud Hypervisor).

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Description, Field, Key, Kind, Operation};

/// Returns the description of these operations in this file.
pub(super) fn read<'a>(file: &Path, operations: impl Iterator<Item = &'a Key>) -> Description {
    let mut text = String::new();
    File::open(file)
        .and_then(|mut file| file.read_to_string(&mut text))
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let document: Value =
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let operation = |key: &Key| (key.clone(), operation(&document, key));
    let mut description = Description {
        root: root(&document),
        operations: operations.map(operation).collect(),
        types: BTreeMap::new(),
    };
    let mut wanted: Vec<String> = description
        .operations
        .values()
        .flat_map(|operation| operation.answers.values().chain([&operation.body]))
        .flatten()
        .cloned()
        .collect();
    while let Some(name) = wanted.pop() {
        if let Entry::Vacant(entry) = description.types.entry(name) {
            let kind = kind(schema(&document, entry.key()));
            named(&kind, &mut wanted);
            entry.insert(kind);
        }
    }
    description
}

/// Returns the path of the file with this name in this directory.
pub(super) fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}-api.yaml"))
}

/// Returns the path of the server's URL, without a slash at its end.
fn root(document: &Value) -> String {
    let url = document["servers"][0]["url"].as_str();
    let path = url.map_or_else(
        || document["basePath"].as_str().expect("a basePath"),
        |url| url.strip_prefix("http://localhost").expect("a URL of localhost"),
    );
    path.trim_end_matches('/').to_owned()
}

fn operation(document: &Value, (method, path): &Key) -> Operation {
    let operation = &document["paths"][path][method.to_lowercase()];
    assert!(operation.is_object(), "{method} {path} is not described");
    let in_body = |parameter: &&Value| parameter["in"] == "body";
    let parameters = operation["parameters"].as_array();
    let body = parameters.and_then(|all| all.iter().find(in_body));
    let body = body.unwrap_or(&operation["requestBody"]);
    let answer =
        |(status, answer): (&String, &Value)| Some((status.parse().ok()?, content(answer)));
    let answers = operation["responses"].as_object().expect("responses");
    Operation { body: content(body), answers: answers.iter().filter_map(answer).collect() }
}

/// Returns the type of a body or an answer, which has a name in both descriptions.
fn content(value: &Value) -> Option<String> {
    let within = &value["content"]["application/json"]["schema"];
    let schema = if value["schema"].is_object() { &value["schema"] } else { within };
    schema.is_object().then(|| reference(schema).expect("a type with a name"))
}

fn reference(schema: &Value) -> Option<String> {
    let target = schema["$ref"].as_str()?;
    Some(target.rsplit('/').next().unwrap_or(target).to_owned())
}

fn schema<'a>(document: &'a Value, name: &str) -> &'a Value {
    let schemas = [&document["definitions"], &document["components"]["schemas"]];
    let schema = schemas.iter().find_map(|schemas| schemas.get(name));
    schema.unwrap_or_else(|| panic!("the type {name} is not described"))
}

fn kind(schema: &Value) -> Kind {
    if let Some(name) = reference(schema) {
        return Kind::Named(name);
    }
    match schema["type"].as_str() {
        Some("string") => schema["enum"].as_array().map_or(Kind::Text, |words| {
            let word = |word: &Value| word.as_str().expect("a word").to_owned();
            Kind::Choice(words.iter().map(word).collect())
        }),
        Some("boolean") => Kind::Boolean,
        Some("integer") => {
            Kind::Integer { min: schema["minimum"].as_i64(), max: schema["maximum"].as_i64() }
        }
        Some("array") => Kind::List(Box::new(kind(&schema["items"]))),
        Some("object") => {
            let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
            let field = |(name, schema): (&String, &Value)| {
                let required = required.iter().any(|required| required == name);
                (name.clone(), Field { required, kind: kind(schema) })
            };
            let fields = schema["properties"].as_object().expect("properties");
            Kind::Object(fields.iter().map(field).collect())
        }
        _ => panic!("a type that is not understood: {schema}"),
    }
}

/// Adds the names of the types that this type consists of.
fn named(kind: &Kind, names: &mut Vec<String>) {
    match kind {
        Kind::Named(name) => names.push(name.clone()),
        Kind::List(kind) => named(kind, names),
        Kind::Object(fields) => fields.values().for_each(|field| named(&field.kind, names)),
        Kind::Text | Kind::Boolean | Kind::Integer { .. } | Kind::Choice(_) => {}
    }
}

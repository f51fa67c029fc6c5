//! Descriptions as text, in a form of their own.
//!
//! ```text
//! root /api/v1
//! PUT /drives/{drive_id} Drive -> 204, 400 Error      an operation: its body, and its answers
//! Drive                                               an object
//!     drive_id! text, is_read_only boolean            its fields; `!` says that one is required
//! Mode On|Off                                         a named choice
//! ```
//! Kinds: `text`, `boolean`, `integer`, an integer's bounds as `1..32`, `3..`, a choice, `[kind]` for a list, and
//! the name of a type.

use std::collections::BTreeMap;

use super::{Description, Field, Kind, Operation};

pub(super) fn parse(text: &str) -> Description {
    let (mut root, mut operations, mut types) = (String::new(), BTreeMap::new(), BTreeMap::new());
    let mut object = String::new();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let words: Vec<_> = line.split_whitespace().collect();
        match *words {
            _ if line.starts_with(' ') => {
                let Some(Kind::Object(fields)) = types.get_mut(&object) else { panic!("{line}") };
                fields.extend(line.split(',').map(field));
            }
            ["root", path] => path.clone_into(&mut root),
            ["GET", ..] => drop(operations.insert(("GET", words[1].to_owned()), operation(line))),
            ["PUT", ..] => drop(operations.insert(("PUT", words[1].to_owned()), operation(line))),
            [name] => {
                name.clone_into(&mut object);
                types.insert(object.clone(), Kind::Object(BTreeMap::new()));
            }
            [name, choice] => drop(types.insert(name.to_owned(), kind(choice))),
            _ => panic!("{line}"),
        }
    }
    Description { root, operations, types }
}

fn operation(line: &str) -> Operation {
    let (request, answers) = line.split_once(" -> ").expect("answers");
    let answer = |answer: &str| {
        let mut words = answer.split_whitespace();
        let status = words.next().expect("a status").parse().expect("a status");
        (status, words.next().map(ToOwned::to_owned))
    };
    Operation {
        body: request.split_whitespace().nth(2).map(ToOwned::to_owned),
        answers: answers.split(',').map(answer).collect(),
    }
}

fn field(text: &str) -> (String, Field) {
    let (name, text) = text.trim().split_once(' ').unwrap_or_else(|| panic!("no kind: {text}"));
    let bare = name.trim_end_matches('!');
    (bare.to_owned(), Field { required: bare != name, kind: kind(text) })
}

fn kind(text: &str) -> Kind {
    if let Some(inner) = text.strip_prefix('[') {
        return Kind::List(Box::new(kind(inner.strip_suffix(']').expect("a whole list"))));
    }
    if text.contains('|') {
        return Kind::Choice(text.split('|').map(ToOwned::to_owned).collect());
    }
    if let Some((min, max)) = text.split_once("..") {
        let bound = |text: &str| (!text.is_empty()).then(|| text.parse().expect("a bound"));
        return Kind::Integer { min: bound(min), max: bound(max) };
    }
    match text {
        "text" => Kind::Text,
        "boolean" => Kind::Boolean,
        "integer" => Kind::Integer { min: None, max: None },
        name => {
            assert!(name.starts_with(char::is_uppercase), "no kind: {name}");
            Kind::Named(name.to_owned())
        }
    }
}

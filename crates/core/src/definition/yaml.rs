//! Reads YAML with positions.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

use super::{
    MAX_DEPTH, Reason,
    tree::{Field, Position, TreeNode, Value},
};

/// The limit of documents, which is above the number that a text of the largest size can have.
const MAX_DOCUMENTS: usize = 1 << 18;
/// The most nodes that aliases may repeat in all: enough for a definition's defaults, not for a bomb.
const MAX_REPEATED: usize = 100_000;

/// Reads all documents of a text, without empty ones.
pub(super) fn read(text: &str) -> Result<Vec<TreeNode>, (Position, Reason)> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_documents: MAX_DOCUMENTS },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPEATED },
        // The validator reports duplicate keys, as it does for JSON.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let documents =
        serde_saphyr::from_str_multiple_with_options::<Spanned<Value>, Vec<_>>(text, options);
    documents.map(|documents| documents.into_iter().map(TreeNode::from).collect()).map_err(
        |error| {
            let error = error.without_snippet();
            let words = error.to_string();
            let Some(location) = error.location() else {
                return (Position::START, Reason::Syntax { format: "YAML", words });
            };
            let at = position(location);
            let place = format!(" at line {}, column {}", at.line, at.column);
            let words = words.strip_suffix(&place).unwrap_or(&words).to_owned();
            (at, Reason::Syntax { format: "YAML", words })
        },
    )
}

fn position(location: Location) -> Position {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
    Position { line: number(location.line()), column: number(location.column()) }
}

impl From<Spanned<Value>> for TreeNode {
    fn from(spanned: Spanned<Value>) -> Self {
        Self { at: position(spanned.referenced), value: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value)
            .map_or_else(|_big| Value::Number(value.to_string()), Value::Integer))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            items.push(item.into());
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = map.next_entry::<Spanned<String>, Spanned<Value>>()? {
            let at = position(name.referenced);
            fields.push(Field { name: name.value, at, node: value.into() });
        }
        Ok(Value::Map(fields))
    }
}

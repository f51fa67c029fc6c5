//! Reads JSON with positions.

mod quick;

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    MAX_DEPTH, Reason,
    tree::{Field, Position, TreeNode, Value},
};

/// Reads a text that holds one value.
pub(super) fn read(text: &str) -> Result<TreeNode, (Position, Reason)> {
    quick::read(text).map_or_else(|| read_again(text), Ok)
}

/// Reads a text by way of `serde_json`, which gives the reason for a refusal. It hands out each value as a slice of the
/// text, whose address gives the position.
fn read_again(text: &str) -> Result<TreeNode, (Position, Reason)> {
    let root: &RawValue =
        serde_json::from_str(text).map_err(|error| (position(text, &error), reason(&error)))?;
    Reader { text, offset: 0, at: Position::START }.node(root, 0)
}

/// A reader that counts lines forwards through the text, once, however many values it has.
struct Reader<'a> {
    text: &'a str,
    offset: usize,
    at: Position,
}

impl<'a> Reader<'a> {
    /// Returns the position of a piece of the text; the pieces come in the order of the text.
    fn position(&mut self, piece: &RawValue) -> Position {
        let offset = piece.get().as_ptr().addr() - self.text.as_ptr().addr();
        for c in self.text.get(self.offset..offset).unwrap_or_default().chars() {
            if c == '\n' {
                self.at = Position { line: self.at.line + 1, column: 1 };
            } else {
                self.at.column += 1;
            }
        }
        self.offset = offset;
        self.at
    }

    fn node(&mut self, raw: &'a RawValue, depth: usize) -> Result<TreeNode, (Position, Reason)> {
        let at = self.position(raw);
        if depth > MAX_DEPTH {
            return Err((at, Reason::TooDeep));
        }
        let failed = |error: serde_json::Error| (at, reason(&error));
        let text = raw.get();
        let value = match text.as_bytes().first() {
            Some(b'{') => {
                let Fields(fields) = serde_json::from_str(text).map_err(failed)?;
                let fields = fields.into_iter().map(|(name, value)| self.field(name, value, depth));
                Value::Map(fields.collect::<Result<_, _>>()?)
            }
            Some(b'[') => {
                let Items(items) = serde_json::from_str(text).map_err(failed)?;
                let items = items.into_iter().map(|item| self.node(item, depth + 1));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            Some(b'"') => Value::String(serde_json::from_str(text).map_err(failed)?),
            Some(b't' | b'f') => Value::Bool(text == "true"),
            Some(b'n') => Value::Null,
            _ => text.parse().map_or_else(|_big| Value::Number(text.to_owned()), Value::Integer),
        };
        Ok(TreeNode { at, value })
    }

    fn field(
        &mut self,
        name: &'a RawValue,
        value: &'a RawValue,
        depth: usize,
    ) -> Result<Field, (Position, Reason)> {
        let at = self.position(name);
        let name = serde_json::from_str(name.get()).map_err(|error| (at, reason(&error)))?;
        Ok(Field { name, at, node: self.node(value, depth + 1)? })
    }
}

/// The fields of an object, in order, duplicates included.
struct Fields<'a>(Vec<(&'a RawValue, &'a RawValue)>);

/// The items of a list.
struct Items<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<'de>(std::marker::PhantomData<&'de ()>);
        impl<'de> Visitor<'de> for Fields<'de> {
            type Value = super::json::Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(super::json::Fields(fields))
            }
        }
        deserializer.deserialize_map(Fields(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self)
    }
}

fn reason(error: &serde_json::Error) -> Reason {
    let words = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let words = words.strip_suffix(&place).unwrap_or(&words).to_owned();
    Reason::Syntax { format: "JSON", words }
}

/// Returns the position of an error. `serde_json` counts columns in bytes.
fn position(text: &str, error: &serde_json::Error) -> Position {
    let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let before = line.char_indices().take_while(|(offset, _)| offset + 1 < error.column());
    Position { line: error.line().max(1), column: before.count() + 1 }
}

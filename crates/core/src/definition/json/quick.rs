//! Reads JSON (RFC 8259) with positions, in one pass.
//!
//! `serde_json` gives no positions, except those of slices, and each slice has to be read again for what is in it. A text
//! that is refused here is left to it, for the reason; so are numbers that are not whole.

use super::super::{
    MAX_DEPTH,
    tree::{Field, Position, TreeNode, Value},
};

/// Returns the value that a text holds; `None` if it is not read here.
pub(super) fn read(text: &str) -> Option<TreeNode> {
    let mut reader = Reader { text, offset: 0, counted: 0, at: Position::START };
    let node = reader.node(0)?;
    reader.skip_space();
    (reader.offset == text.len()).then_some(node)
}

struct Reader<'a> {
    text: &'a str,
    /// The place of the next byte.
    offset: usize,
    /// The place whose position is `at`.
    counted: usize,
    at: Position,
}

impl Reader<'_> {
    fn node(&mut self, depth: usize) -> Option<TreeNode> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_space();
        let at = self.position();
        let value = match self.peek()? {
            b'{' => Value::Map(self.fields(depth)?),
            b'[' => Value::List(self.items(depth)?),
            b'"' => Value::String(self.string()?),
            b't' => self.word("true", Value::Bool(true))?,
            b'f' => self.word("false", Value::Bool(false))?,
            b'n' => self.word("null", Value::Null)?,
            _ => self.integer()?,
        };
        Some(TreeNode { at, value })
    }

    fn fields(&mut self, depth: usize) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        self.expect(b'{')?;
        self.skip_space();
        if self.take(b'}') {
            return Some(fields);
        }
        loop {
            self.skip_space();
            let at = self.position();
            let name = self.string()?;
            self.skip_space();
            self.expect(b':')?;
            fields.push(Field { name, at, node: self.node(depth + 1)? });
            self.skip_space();
            if !self.take(b',') {
                return self.expect(b'}').map(|()| fields);
            }
        }
    }

    fn items(&mut self, depth: usize) -> Option<Vec<TreeNode>> {
        let mut items = Vec::new();
        self.expect(b'[')?;
        self.skip_space();
        if self.take(b']') {
            return Some(items);
        }
        loop {
            items.push(self.node(depth + 1)?);
            self.skip_space();
            if !self.take(b',') {
                return self.expect(b']').map(|()| items);
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        let begin = self.offset;
        self.expect(b'"')?;
        let mut escaped = false;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.offset += 1;
                }
                0..b' ' => return None,
                _ => {}
            }
            self.offset += 1;
        }
        self.offset += 1;
        let quoted = self.text.get(begin..self.offset)?;
        if escaped {
            return serde_json::from_str(quoted).ok();
        }
        Some(quoted.strip_prefix('"')?.strip_suffix('"')?.to_owned())
    }

    fn integer(&mut self) -> Option<Value> {
        let begin = self.offset;
        self.take(b'-');
        let first = self.offset;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.offset += 1;
        }
        let digits = self.text.get(first..self.offset)?;
        let has_more = self.peek().is_some_and(|byte| matches!(byte, b'.' | b'e' | b'E'));
        if digits.is_empty() || digits.len() > 1 && digits.starts_with('0') || has_more {
            return None;
        }
        let text = self.text.get(begin..self.offset)?;
        Some(text.parse().map_or_else(|_big| Value::Number(text.to_owned()), Value::Integer))
    }

    fn word(&mut self, word: &str, value: Value) -> Option<Value> {
        let found = self.text.get(self.offset..)?.starts_with(word);
        self.offset += word.len();
        found.then_some(value)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.offset).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            self.offset += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.offset += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }

    /// Returns the position of the next byte, which begins a character. Columns count characters.
    fn position(&mut self) -> Position {
        const CONTINUATION: u8 = 0b1000_0000;
        let passed = self.text.as_bytes().get(self.counted..self.offset).unwrap_or_default();
        for &byte in passed {
            if byte == b'\n' {
                self.at = Position { line: self.at.line + 1, column: 1 };
            } else if byte & 0b1100_0000 != CONTINUATION {
                self.at.column += 1;
            }
        }
        self.counted = self.offset;
        self.at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::super::read_again;
    use super::*;

    /// Compares with what `serde_json` reads.
    fn check(text: &str) {
        match (read(text), read_again(text)) {
            (Some(node), again) => assert_eq!(again.as_ref(), Ok(&node), "{text}"),
            (None, Ok(node)) => assert!(has_fraction(&node), "{text} is not read"),
            (None, Err(_)) => {}
        }
    }

    fn has_fraction(node: &TreeNode) -> bool {
        match &node.value {
            Value::Number(_) => true,
            Value::List(items) => items.iter().any(has_fraction),
            Value::Map(fields) => fields.iter().any(|field| has_fraction(&field.node)),
            _ => false,
        }
    }

    #[test]
    fn texts_at_the_edges_are_read_as_by_serde() {
        let deep = |depth| "[".repeat(depth) + &"]".repeat(depth);
        let deep = [deep(MAX_DEPTH), deep(MAX_DEPTH + 1), deep(MAX_DEPTH + 2), deep(200)];
        for text in [
            "",
            " ",
            "{",
            "}",
            "{}",
            "[]",
            "[ ]",
            "{ }",
            "[1,]",
            "[,]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1 \"b\":2}",
            "[1 2]",
            "tru",
            "trues",
            "true false",
            "nul",
            "null ",
            "-",
            "-0",
            "00",
            "01",
            "-01",
            "1.5",
            "1e3",
            "1.",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775809",
            "\"",
            "\"\\\"",
            "\"\\u00e9\"",
            "\"\\ud800\"",
            "\"\\q\"",
            "\"a\tb\"",
            "\"\u{7f}\"",
            "\u{a0}1",
            "{\"ü\u{1f600}\":\n [ \"é\", {\"a\": 1, \"a\":2}]\r\n}",
            "{1:2}",
            "{\"a\":{\"b\":[true,false,null]}}",
            "1 ",
        ]
        .into_iter()
        .chain(deep.iter().map(String::as_str))
        {
            check(text);
        }
    }

    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            any::<f32>().prop_map(Json::from),
            ".{0,6}".prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                proptest::collection::vec((".{0,3}", inner), 0..4)
                    .prop_map(|fields| Json::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_are_read_as_by_serde(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            check(&text.unwrap());
        }

        #[test]
        fn damaged_texts_are_read_as_by_serde(
            value in json(), at in any::<prop::sample::Index>(), put in r#"[{}\[\]",:0-9\\ tnu\n-]{0,2}"#
        ) {
            let mut text: Vec<char> = value.to_string().chars().collect();
            let at = at.index(text.len());
            text.splice(at..=at, put.chars());
            check(&text.into_iter().collect::<String>());
        }
    }
}

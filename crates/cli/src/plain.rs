//! Makes text of guests and other programs harmless for a terminal: control characters could move the cursor, recolour or
//! retitle it, or make it type a command.

/// Returns the text with its control characters escaped, except for newlines and tabs.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaper = Escaper::default();
    let mut shown = escaper.pass(text.as_bytes());
    shown.push_str(&escaper.finish());
    shown
}

/// Returns JSON with those control characters escaped that JSON may have in strings: DEL and the second control set.
pub(crate) fn escaped_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character >= '\u{7f}' {
            shown.extend([format!("\\u{:04x}", u32::from(character))]);
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Escapes a stream of bytes, piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Escaper {
    /// The end of the last piece: a character that is not whole yet, or carriage returns.
    kept: Vec<u8>,
}

impl Escaper {
    /// Returns the next piece, escaped. Its end may come with the piece after it.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> String {
        self.kept.extend_from_slice(bytes);
        let whole = self.kept.len() - unfinished(&self.kept);
        let rest = self.kept.split_off(whole);
        let whole = std::mem::replace(&mut self.kept, rest);
        shown(&whole)
    }

    /// Returns what was kept, at the end of the stream.
    pub(crate) fn finish(&mut self) -> String {
        shown(&std::mem::take(&mut self.kept))
    }
}

/// Returns the number of bytes at the end that the next piece may complete.
fn unfinished(bytes: &[u8]) -> usize {
    let returns = bytes.iter().rev().take_while(|byte| **byte == b'\r').count();
    if returns > 0 {
        return returns;
    }
    let last = bytes.utf8_chunks().last();
    let invalid = last.map_or(&[][..], |chunk| chunk.invalid());
    // The beginning of a character, which lacks nothing but its end.
    let begins = invalid.first().is_some_and(|first| *first >= 0xc2);
    let needs = invalid.first().map_or(0, |first| first.leading_ones());
    let has = u32::try_from(invalid.len()).unwrap_or(u32::MAX);
    if begins && has < needs { invalid.len() } else { 0 }
}

fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        let mut returns = 0;
        while let Some(character) = characters.next() {
            if character == '\r' {
                returns += 1;
                if characters.peek().is_some_and(|next| matches!(next, '\r' | '\n')) {
                    continue;
                }
            }
            // A terminal line ends in carriage return and newline, also more than once.
            if character != '\n' {
                (0..returns).for_each(|_| text.push_str(r"\r"));
            }
            returns = 0;
            if character != '\r' {
                push(&mut text, character);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.extend([format!("\\x{byte:02x}")]));
    }
    text
}

fn push(text: &mut String, character: char) {
    let code = u32::from(character);
    match character {
        '\n' | '\t' => text.push(character),
        c if c.is_ascii_control() => text.extend([format!("\\x{code:02x}")]),
        // The second control set, and what reverses the direction of writing.
        c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
            text.extend([format!("\\u{{{code:x}}}")]);
        }
        c => text.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_lines_stay() {
        for (text, expected) in [
            ("plain\ttext\n\u{e4}\u{1f600}\n", "plain\ttext\n\u{e4}\u{1f600}\n"),
            ("[  OK  ] up\r\r\nnext\r\n", "[  OK  ] up\nnext\n"),
            ("over\rwritten", "over\\rwritten"),
            ("\r", "\\r"),
            ("\u{1b}]0;title\u{7}\u{1b}[2J", "\\x1b]0;title\\x07\\x1b[2J"),
            ("\u{9b}31m \u{7f} \u{202e}", "\\u{9b}31m \\x7f \\u{202e}"),
        ] {
            assert_eq!(escaped(text), expected);
        }
    }

    #[test]
    fn json_stays_json() {
        let text = serde_json::to_string("\u{1b}[2J \u{9b}2J \u{7f}\n").unwrap();
        let shown = escaped_json(&text);
        assert_eq!(shown, r#""\u001b[2J \u009b2J \u007f\n""#);
        let (shown, text): (String, String) =
            (serde_json::from_str(&shown).unwrap(), serde_json::from_str(&text).unwrap());
        assert_eq!(shown, text);
    }

    #[test]
    fn pieces_are_escaped_like_the_whole() {
        let whole = b"a\r\n\xc3\xa4\xf0\x9f\x98\x80\x9b\xff\xc3\x1b[0m\r\r\nend\r";
        let expected = shown(whole);
        assert_eq!(expected, "a\n\u{e4}\u{1f600}\\x9b\\xff\\xc3\\x1b[0m\nend\\r");
        for size in 1..whole.len() {
            let mut escaper = Escaper::default();
            let mut text: String = whole.chunks(size).map(|piece| escaper.pass(piece)).collect();
            text += &escaper.finish();
            assert_eq!(text, expected, "in pieces of {size}");
        }
    }
}

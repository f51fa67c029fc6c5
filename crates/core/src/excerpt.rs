//! Excerpts: the part of a foreign text that an error repeats.

/// The largest number of characters that are repeated.
const MAX_LENGTH: usize = 100;

/// Returns the text as errors repeat it: the end of a long one is left out.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(MAX_LENGTH) {
        Some((end, _)) => text.get(..end).unwrap_or_default().to_owned() + "…",
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    #[test]
    fn only_the_beginning_of_a_long_text_is_repeated() {
        let hundred = "é".repeat(100);
        assert_eq!(excerpt(&hundred), hundred);
        assert_eq!(excerpt(&(hundred.clone() + "x")), hundred + "…");
    }
}

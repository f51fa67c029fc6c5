/// Returns the messages of an error and of its sources, joined by colons.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        // SQLite's error has its code behind it, and that has the same words again.
        let repeated = words.strip_prefix("Error code ").and_then(|code| code.split_once(": "));
        let repeated = repeated.is_some_and(|(_, words)| text.contains(words));
        if !repeated {
            text = format!("{text}: {words}");
        }
        next = source.source();
    }
    text
}

/// Returns the lines that these items print as.
pub fn lines<T: ToString>(items: &[T]) -> Vec<String> {
    let text = |item: &T| item.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
    items.iter().flat_map(text).collect()
}

//! The public API of the library is what `docs/public-api.txt` says, so that a change of it is seen.
//!
//! The description is derived from the syntax of the sources: the items that `lib.rs` exports by `pub`, with
//! signatures, fields, derives and implementations. Items of other crates that are re-exported are listed by name. It
//! does not know what a macro expands to (derives and calls of own macros are listed as they stand), nor automatic
//! traits.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it panics")]

mod describe;
mod source;

use std::path::Path;

/// The environment variable that has the description written instead of compared.
const UPDATE: &str = "UPDATE_PUBLIC_API";

#[test]
#[expect(clippy::disallowed_methods, reason = "the files and the variable are the test's own")]
fn the_public_api_is_as_described() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let described = describe::lines(&source::Module::root(&package.join("src")));
    let path = package.join("../../docs/public-api.txt");
    if std::env::var(UPDATE).is_ok() {
        std::fs::write(&path, described.join("\n") + "\n").unwrap();
        return;
    }
    let stored = std::fs::read_to_string(&path).unwrap();
    let stored: Vec<_> = stored.lines().collect();
    let missing = stored.iter().filter(|line| !described.iter().any(|d| d == *line));
    let new = described.iter().filter(|line| !stored.contains(&line.as_str()));
    let differences: Vec<_> = missing
        .map(|line| format!("- {line}"))
        .chain(new.map(|line| format!("+ {line}")))
        .collect();
    assert!(
        differences.is_empty() && stored == described,
        "the public API is not as docs/public-api.txt says:\n{}\n\
         where that is meant, `{UPDATE}=1 cargo test -p riklet-sdn --test public_api` writes it",
        differences.join("\n")
    );
}

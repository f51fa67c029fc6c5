//! No rule, and no name of a table or a chain, exists outside of the two folders `firewall/`.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Words that only a rule, or a command about our table or chains, has.
const WORDS: [&str; 9] = [
    "\"RIKLET\"",
    "RIKLET-",
    "inet riklet",
    "iifname",
    "oifname",
    "dnat",
    "masquerade",
    "--dport",
    "-j ",
];

/// Returns the source files of all crates, without those of tests.
#[expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "the test reads the sources")]
fn sources() -> Vec<(PathBuf, String)> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut folders: Vec<PathBuf> =
        fs::read_dir(crates).unwrap().map(|entry| entry.unwrap().path().join("src")).collect();
    // A package of tests has no `src`.
    folders.retain(|folder| folder.is_dir());
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "tests" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !name.contains("tests")
            {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
                found.push((path.strip_prefix(crates).unwrap().to_owned(), lines.collect()));
            }
        }
    }
    found
}

#[test]
fn rules_are_written_only_in_the_firewall_folders() {
    let sources = sources();
    let is_firewall = |path: &Path| path.components().any(|part| part.as_os_str() == "firewall");
    let (inside, outside): (Vec<_>, Vec<_>) =
        sources.iter().partition(|(path, _)| is_firewall(path));
    let hits = |sources: &[&(PathBuf, String)], word: &str| {
        sources
            .iter()
            .filter(|(_, code)| code.contains(word))
            .map(|(path, _)| path.clone())
            .collect::<Vec<_>>()
    };
    for word in WORDS {
        assert_eq!(hits(&outside, word), <[PathBuf; 0]>::default(), "{word}");
    }
    // The same words do occur inside, so the test looks for words that rules are made of.
    for word in ["\"RIKLET\"", "RIKLET-", "-j ", "--dport"] {
        assert_ne!(hits(&inside, word), <[PathBuf; 0]>::default(), "{word}");
    }
    assert!(outside.len() > 100, "{} files", outside.len());
}

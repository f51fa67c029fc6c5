//! The documents name files, functions and tests that exist.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const DOCUMENTS: [&str; 7] = [
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "docs/design.md",
    "docs/release.md",
    "docs/security.md",
];

/// Folders that have no part of the sources.
const OTHERS: [&str; 3] = [".git", "target", "corpus"];

/// The checkout: the paths of its files, with the text of those in Rust.
struct Checkout {
    root: PathBuf,
    files: BTreeMap<String, String>,
}

#[expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "the test reads the sources")]
impl Checkout {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned();
        let (mut folders, mut files) = (vec![root.clone()], BTreeMap::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                if path.is_dir() && !OTHERS.contains(&name) {
                    folders.push(path.clone());
                }
                let is_rust = path.extension().is_some_and(|extension| extension == "rs");
                let code = is_rust.then(|| fs::read_to_string(&path).unwrap());
                let within = path.strip_prefix(&root).unwrap();
                files.insert(format!("/{}", within.display()), code.unwrap_or_default());
            }
        }
        Self { root, files }
    }

    /// Returns what stands between backticks in a document, outside of blocks of code.
    fn quoted(&self, document: &str) -> Vec<String> {
        let text = fs::read_to_string(self.root.join(document)).unwrap();
        let lines = text.split("```").step_by(2).flat_map(str::lines);
        lines.flat_map(|line| line.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
    }

    /// Reports whether a file or folder has this path, or one that ends so. `src` may be left out.
    fn has(&self, path: &str) -> bool {
        let end = format!("/{}", path.trim_end_matches('/'));
        let is_it = |file: &str| file.ends_with(&end);
        self.files.keys().any(|file| is_it(file) || is_it(&file.replace("/src", "")))
    }

    /// Reports whether a module of this name has an item of that name; without a module, whether any file has it.
    fn has_item(&self, module: Option<&str>, name: &str) -> bool {
        let is_module = |file: &str| {
            let ends = |module| [format!("/{module}.rs"), format!("/{module}/mod.rs")];
            module.is_none_or(|module| ends(module).iter().any(|end| file.ends_with(end)))
        };
        // Macros define the tests that run with every firewall.
        let ways = ["fn {}(", "fn {}<", "mod {};", "!({},"].map(|way| way.replace("{}", name));
        let is_defined = |code: &str| ways.iter().any(|way| code.contains(way));
        self.files.iter().any(|(file, code)| is_module(file) && is_defined(code))
    }
}

/// Returns the paths that a word stands for: `a/{b,c}.rs` for two.
fn paths(word: &str) -> Vec<String> {
    match (word.split_once('{'), word.split_once('}')) {
        (Some((before, rest)), Some((_, after))) => {
            let names = rest.split('}').next().unwrap_or_default();
            names.split(',').map(|name| format!("{before}{name}{after}")).collect()
        }
        _ => vec![word.to_owned()],
    }
}

/// Reports whether a word of a document is the path of a source file. One with `<` stands for any name, and the kind
/// `Pod` is an example.
fn is_path(word: &str) -> bool {
    let is_source = [".rs", ".sql", ".md", ".txt"].iter().any(|end| word.ends_with(end));
    is_source && !word.contains([' ', '<', '*']) && !word.contains("pod.rs")
}

#[test]
fn documents_name_files_that_exist() {
    let checkout = Checkout::read();
    let mut named = 0;
    for document in DOCUMENTS {
        for word in checkout.quoted(document).iter().filter(|word| is_path(word)) {
            for path in paths(word) {
                named += 1;
                assert!(checkout.has(&path), "{document} names {path}, which does not exist");
            }
        }
    }
    assert!(named > 100, "only {named} paths were found");
}

#[test]
fn documents_name_functions_and_tests_that_exist() {
    let checkout = Checkout::read();
    let is_name = |name: &str| {
        let is_snake = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        name.starts_with(char::is_lowercase) && name.bytes().all(is_snake)
    };
    let mut named = 0;
    for document in ["ARCHITECTURE.md", "docs/security.md"] {
        for word in checkout.quoted(document) {
            let is_command = word.starts_with("cargo test ");
            // Of `cargo test`, every name; else the end of `Type::function` or `module::test`.
            let is_meant =
                |path: &&str| path.contains("::") || is_command && path.matches('_').count() > 1;
            for path in word.split(' ').filter(is_meant) {
                let mut parts = path.rsplit("::");
                let name = parts.next().filter(|name| is_name(name));
                let module = parts.next().filter(|module| {
                    module.starts_with(char::is_lowercase) && !module.starts_with("riklet_")
                });
                let Some(name) = name else { continue };
                named += 1;
                let exists = checkout.has_item(module, name);
                assert!(exists, "{document} names {path}, which does not exist");
            }
        }
    }
    assert!(named > 80, "only {named} names were found");
}

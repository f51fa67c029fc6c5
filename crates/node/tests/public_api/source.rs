//! The modules of the library, as syntax.

use std::{collections::BTreeMap, path::Path};

use syn::{Attribute, Item, UseTree, parse::Parser};

/// A module: its items, and the modules in it by their names.
pub(crate) struct Module {
    pub(crate) items: Vec<Item>,
    pub(crate) modules: BTreeMap<String, Self>,
}

impl Module {
    /// Reads `lib.rs` in this directory, and all that it declares.
    pub(crate) fn root(directory: &Path) -> Self {
        Self::read(&directory.join("lib.rs"), directory)
    }

    /// Reads this file; the files of its modules are in `directory`.
    #[expect(clippy::disallowed_methods, reason = "the files are the test's own")]
    fn read(file: &Path, directory: &Path) -> Self {
        let text = std::fs::read_to_string(file);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let parsed = syn::parse_file(&text).unwrap();
        Self::of(parsed.items, directory)
    }

    fn of(items: Vec<Item>, directory: &Path) -> Self {
        let mut modules = BTreeMap::new();
        for item in &items {
            let Item::Mod(module) = item else { continue };
            if is_for_tests(&module.attrs) {
                continue;
            }
            let name = module.ident.to_string();
            let inside = directory.join(&name);
            let file = directory.join(format!("{name}.rs"));
            let read = match &module.content {
                Some((_, items)) => Self::of(items.clone(), &inside),
                None if file.exists() => Self::read(&file, &inside),
                None => Self::read(&inside.join("mod.rs"), &inside),
            };
            modules.insert(name, read);
        }
        Self { items, modules }
    }

    /// Returns the item that this path leads to from here, through the `use` items of the modules on the way; `None` if
    /// it leads out of the library.
    pub(crate) fn find(&self, path: &[String], name: &str) -> Option<&Item> {
        let module = path.iter().try_fold(self, |at, name| at.modules.get(name))?;
        let here = module.items.iter().find(|item| name_of(item).is_some_and(|here| here == name));
        here.or_else(|| {
            let used = module.items.iter().filter_map(|item| match item {
                Item::Use(used) => used_path(&used.tree, name),
                _ => None,
            });
            used.into_iter().find_map(|path| module.find(&path, name))
        })
    }

    /// Returns all items of this module and of those in it.
    pub(crate) fn all_items(&self) -> Vec<&Item> {
        let inner = self.modules.values().flat_map(Self::all_items);
        self.items.iter().chain(inner).collect()
    }
}

/// Returns the path before a name that is used.
fn used_path(tree: &UseTree, name: &str) -> Option<Vec<String>> {
    match tree {
        UseTree::Path(tree) => {
            let path = used_path(&tree.tree, name)?;
            Some([vec![tree.ident.to_string()], path].concat())
        }
        UseTree::Group(group) => group.items.iter().find_map(|tree| used_path(tree, name)),
        UseTree::Name(used) => (used.ident == name).then(Vec::new),
        _ => None,
    }
}

/// Returns the name of an item that has one and is no module.
pub(crate) fn name_of(item: &Item) -> Option<String> {
    Some(match item {
        Item::Struct(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Const(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        _ => return None,
    })
}

/// Returns whether an item is compiled for tests only, or for fuzzing.
pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    let for_tests = |condition: &String| condition == "test" || condition.contains("fuzzing");
    conditions(attributes).iter().any(for_tests)
}

/// Returns the conditions under which an item is compiled.
pub(crate) fn conditions(attributes: &[Attribute]) -> Vec<String> {
    let cfg = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    cfg.map(|cfg| cfg.meta.require_list().unwrap().tokens.to_string()).collect()
}

/// Returns the traits that are derived for an item.
pub(crate) fn derives(attributes: &[Attribute]) -> Vec<String> {
    let paths = syn::punctuated::Punctuated::<syn::Path, syn::Token![,]>::parse_terminated;
    let attributes = attributes.iter().filter(|attribute| attribute.path().is_ident("derive"));
    let derived = attributes.flat_map(|derive| {
        paths.parse2(derive.meta.require_list().unwrap().tokens.clone()).unwrap()
    });
    derived.map(|path| quote::quote!(#path).to_string().replace(' ', "")).collect()
}

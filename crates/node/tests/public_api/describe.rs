//! Describes the public API in lines of text.

use std::collections::{BTreeMap, BTreeSet};

use quote::{ToTokens, quote};
use syn::{
    Attribute, Fields, Generics, ImplItem, Item, ItemImpl, TraitItem, Type, UseTree, Visibility,
};

use crate::source::{Module, conditions, derives, is_for_tests, name_of};

/// Returns the description, sorted, so that the parts of an item follow it.
pub(crate) fn lines(root: &Module) -> Vec<String> {
    let mut description = Description { lines: BTreeSet::new(), exported: BTreeMap::new() };
    description.module(root, "riklet_sdn");
    description.implementations(root);
    description.lines.into_iter().collect()
}

struct Description {
    lines: BTreeSet<String>,
    /// The path of each exported type and trait, by its name.
    exported: BTreeMap<String, String>,
}

impl Description {
    fn say(&mut self, path: &str, what: &str) {
        self.lines.insert(format!("{path} {what}").trim_end().to_owned());
    }

    /// Describes the exports of a module.
    fn module(&mut self, module: &Module, path: &str) {
        for item in module.items.iter().filter(|item| is_public(item)) {
            match item {
                Item::Mod(inner) => {
                    let name = inner.ident.to_string();
                    let path = format!("{path}::{name}");
                    self.say(&path, "mod");
                    if let Some(inner) = module.modules.get(&name) {
                        self.module(inner, &path);
                    }
                }
                Item::Use(used) => self.reexports(module, &used.tree, &[], path),
                item => self.item(item, path),
            }
        }
    }

    /// Describes the exports of a `pub use`: items of a sibling module, or of another crate.
    fn reexports(&mut self, module: &Module, tree: &UseTree, before: &[String], path: &str) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(tree) => {
                self.reexports(module, &tree.tree, &with(tree.ident.to_string()), path);
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.reexports(module, tree, before, path));
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                if let Some(item) = module.find(before, &name) {
                    self.item(item, path);
                } else {
                    let source = with(name.clone()).join("::");
                    self.say(&format!("{path}::{name}"), &format!("use {source}"));
                }
            }
            other => panic!("name what is exported: {}", quote!(#other)),
        }
    }

    fn item(&mut self, item: &Item, path: &str) {
        let Some(name) = name_of(item) else {
            panic!("not described: {}", item.to_token_stream());
        };
        let path = format!("{path}::{name}");
        match item {
            Item::Struct(item) => {
                self.type_of(&path, "struct", &item.generics, &item.attrs);
                let hidden = self.fields(&item.fields, &path, true);
                if hidden {
                    self.say(&path, "has private fields");
                }
            }
            Item::Enum(item) => {
                self.type_of(&path, "enum", &item.generics, &item.attrs);
                for variant in &item.variants {
                    let path = format!("{path}::{}", variant.ident);
                    self.say(&path, "variant");
                    self.fields(&variant.fields, &path, false);
                }
            }
            Item::Trait(item) => {
                self.type_of(&path, "trait", &item.generics, &item.attrs);
                self.say(&path, &format!("requires {}", text(&item.supertraits)));
                for inner in &item.items {
                    match inner {
                        TraitItem::Fn(inner) => self.say(&path, &text(&inner.sig)),
                        TraitItem::Type(inner) => self.say(&path, &text(inner)),
                        other => panic!("not described: {}", other.to_token_stream()),
                    }
                }
            }
            Item::Fn(item) => self.say(&path, &text(&item.sig)),
            Item::Const(item) => self.say(&path, &format!("const {}", text(&item.ty))),
            Item::Type(item) => {
                self.exported.insert(name, path.clone());
                self.say(&path, &format!("type{} = {}", text(&item.generics), text(&item.ty)));
            }
            other => panic!("not described: {}", other.to_token_stream()),
        }
    }

    fn type_of(&mut self, path: &str, kind: &str, generics: &Generics, attributes: &[Attribute]) {
        let name = path.rsplit("::").next().unwrap_or_default().to_owned();
        self.exported.insert(name, path.to_owned());
        let open = attributes.iter().any(|a| a.path().is_ident("non_exhaustive"));
        let open = if open { " non_exhaustive" } else { "" };
        self.say(path, &format!("{kind}{}{open}", text(generics)));
        let derived = derives(attributes);
        if !derived.is_empty() {
            self.say(path, &format!("derives {}", derived.join(", ")));
        }
    }

    /// Describes the fields that can be reached; those of a variant all can. Returns whether there are others.
    fn fields(&mut self, fields: &Fields, path: &str, of_struct: bool) -> bool {
        let mut hidden = false;
        for (number, field) in fields.iter().enumerate() {
            if of_struct && !matches!(field.vis, Visibility::Public(_)) {
                hidden = true;
                continue;
            }
            let number = number.to_string();
            let name = field.ident.as_ref().map_or(number, ToString::to_string);
            self.say(path, &format!(".{name}: {}", text(&field.ty)));
        }
        hidden
    }

    /// Describes the implementations for the exported types, wherever they are.
    fn implementations(&mut self, root: &Module) {
        for item in root.all_items() {
            match item {
                Item::Impl(item) if !is_for_tests(&item.attrs) => self.implementation(item),
                // The expansion of a macro is not known; if it implements something, the call names the type.
                Item::Macro(item) if item.ident.is_none() => self.say("!", &text(&item.mac)),
                _ => {}
            }
        }
    }

    fn implementation(&mut self, item: &ItemImpl) {
        let Type::Path(of) = &*item.self_ty else { return };
        let last = of.path.segments.last().unwrap();
        let Some(path) = self.exported.get(&last.ident.to_string()).cloned() else { return };
        let (generics, arguments) = (text(&item.generics), text(&last.arguments));
        let condition = item.generics.where_clause.as_ref().map_or_else(String::new, text);
        let of = format!("impl{generics}{arguments}{condition}");
        if let Some((implemented, _)) = &item.trait_ {
            self.say(&path, &format!("{of}: {}", text(implemented)));
            return;
        }
        for inner in &item.items {
            let (public, attributes, line) = match inner {
                ImplItem::Fn(inner) => (&inner.vis, &inner.attrs, text(&inner.sig)),
                ImplItem::Const(inner) => {
                    let line = format!("const {}: {}", inner.ident, text(&inner.ty));
                    (&inner.vis, &inner.attrs, line)
                }
                other => panic!("not described: {}", other.to_token_stream()),
            };
            if matches!(public, Visibility::Public(_)) && !is_for_tests(attributes) {
                let cfg = conditions(attributes);
                let cfg: Vec<_> = cfg.iter().map(|cfg| format!(" if cfg({cfg})")).collect();
                let cfg = cfg.concat();
                let of = if of == "impl" { String::new() } else { format!("{of}: ") };
                self.say(&path, &format!("{of}{line}{cfg}"));
            }
        }
    }
}

fn is_public(item: &Item) -> bool {
    let (visibility, attributes) = match item {
        Item::Struct(item) => (&item.vis, &item.attrs),
        Item::Enum(item) => (&item.vis, &item.attrs),
        Item::Trait(item) => (&item.vis, &item.attrs),
        Item::Fn(item) => (&item.vis, &item.attrs),
        Item::Const(item) => (&item.vis, &item.attrs),
        Item::Type(item) => (&item.vis, &item.attrs),
        Item::Mod(item) => (&item.vis, &item.attrs),
        Item::Use(item) => (&item.vis, &item.attrs),
        Item::Static(item) => (&item.vis, &item.attrs),
        Item::Union(item) => (&item.vis, &item.attrs),
        _ => return false,
    };
    matches!(visibility, Visibility::Public(_)) && !is_for_tests(attributes)
}

/// Returns tokens as text, spaced as people write them.
fn text(tokens: &impl ToTokens) -> String {
    let mut text = tokens.to_token_stream().to_string();
    let tight = [
        (" :: ", "::"),
        (":: ", "::"),
        (" < ", "<"),
        ("< ", "<"),
        (" > ", "> "),
        (" >", ">"),
        (" ,", ","),
        (" ;", ";"),
        (" (", "("),
        ("( ", "("),
        (" )", ")"),
        ("& ", "&"),
        ("' ", "'"),
        (" :", ":"),
        (" ?", "?"),
        (" !", "!"),
        ("-> ", "-> "),
        (",>", ">"),
        (", )", ")"),
        ("[ ", "["),
        (" ]", "]"),
        ("->(", "-> ("),
        (", >", ">"),
        ("mut(", "mut ("),
        (",)", ")"),
    ];
    for (from, to) in tight {
        text = text.replace(from, to);
    }
    text.replace("->", " -> ")
        .replace("  ", " ")
        .replace("  ", " ")
        .replace("=(", "= (")
        .trim()
        .to_owned()
}

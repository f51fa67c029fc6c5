//! The format of definitions: the JSON or YAML of a user becomes [`Workload`]s, or errors with their locations. Pure.

mod canonical;
mod error;
mod json;
mod schema;
#[cfg(test)]
mod tests;
mod tree;
mod validate;
mod yaml;

pub(crate) use canonical::{egress_value, execution_value, exposure_value, limits_value};
pub use canonical::{from_json, to_json, to_value};
pub use error::{Error, Errors, Reason, SourceLocation};
pub use schema::schema;
pub use tree::Sort;
pub(crate) use tree::Value as TreeValue;
pub(crate) use validate::{Object, Validator};

use crate::model::{Kind, Workload};
use tree::{Position, TreeNode, Value};

/// The one version of the format.
const API_VERSION: &str = "v1";
/// The one type of an exposure: a port of the node.
pub const EXPOSURE_TYPE: &str = "NodePort";
/// The longest text that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The extensions of the files with definitions in a directory.
pub const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];
/// The deepest nesting of values.
const MAX_DEPTH: usize = 32;

/// A text with definitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The name that errors give the source: that of the file, or `-`.
    pub name: String,
    /// Its contents.
    pub text: String,
}

/// Reports whether a file of this name, in a directory of definitions, is one of them: it has one of [`EXTENSIONS`] and is not
/// hidden.
#[must_use]
pub fn is_file_name(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    !name.starts_with('.') && extension.is_some_and(|known| EXTENSIONS.contains(&known))
}

/// Returns the names of the kinds that errors suggest.
fn kinds() -> impl Iterator<Item = &'static str> {
    Kind::ALL.iter().filter(|kind| kind.is_documented()).map(|kind| kind.as_str())
}

/// Returns the workloads that the sources define, in their order.
///
/// A text is JSON, an object or a list of them, or YAML: one document or several, each an object or a list of them. A
/// text that begins with `{` or `[` may be either, unless its source is named as a `.json` file.
///
/// # Errors
/// Fails with all errors, not only the first; also if two definitions, of whatever sources, have one name or clash in a
/// port.
pub fn parse(sources: &[Source]) -> Result<Vec<Workload>, Errors> {
    parse_within(MAX_BYTES, sources, Validator::default())
}

/// Returns the workloads that the sources define, if no text is longer than `longest` bytes.
fn parse_within(
    longest: usize,
    sources: &[Source],
    mut validator: Validator,
) -> Result<Vec<Workload>, Errors> {
    for source in sources {
        validator.begin(&source.name);
        match read(longest, source) {
            Ok(documents) => documents.iter().for_each(|document| validator.document(document)),
            Err((at, reason)) => validator.refuse(at, "", reason),
        }
    }
    validator.finish()
}

fn read(longest: usize, source: &Source) -> Result<Vec<TreeNode>, (Position, Reason)> {
    let text = source.text.as_str();
    if text.len() > longest {
        return Err((Position::START, Reason::TooLarge { bytes: text.len() }));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = if text.trim_start().starts_with(['{', '[']) {
        let document = json::read(text).map(|document| vec![document]);
        document.or_else(|refused| flow_style(source, text, refused))?
    } else {
        yaml::read(text)?
    };
    let empty = |node: &TreeNode| matches!(&node.value, Value::List(items) if items.is_empty());
    if documents.iter().all(empty) {
        return Err((Position::START, Reason::Empty));
    }
    Ok(documents)
}

/// Returns the documents of a text that looks like JSON and is refused as such: YAML has objects and lists of the same form.
/// If it is not YAML either, the error is that of the format that the source is named for.
fn flow_style(
    source: &Source,
    text: &str,
    (at, reason): (Position, Reason),
) -> Result<Vec<TreeNode>, (Position, Reason)> {
    let is_named = |endings: &[&str]| endings.iter().any(|ending| source.name.ends_with(ending));
    if !matches!(reason, Reason::Syntax { .. }) || is_named(&[".json"]) {
        return Err((at, reason));
    }
    let other = |of_yaml| if is_named(&[".yaml", ".yml"]) { of_yaml } else { (at, reason) };
    yaml::read(text).map_err(other)
}

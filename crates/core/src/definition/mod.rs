//! The format of definitions: the JSON or YAML of a user becomes [`Workload`]s, or errors with their locations. Pure.

mod canonical;
mod error;
mod json;
#[cfg(test)]
mod tests;
mod tree;
mod validate;
mod yaml;

pub(crate) use canonical::{execution_value, exposure_value};
pub use canonical::{from_json, to_json, to_value};
pub use error::{Error, Errors, Reason, SourceLocation};
pub use tree::Sort;
pub(crate) use tree::Value as TreeValue;
pub(crate) use validate::{Object, Validator};

use crate::model::{Kind, Workload};
use tree::{Position, TreeNode, Value};

/// The one version of the format.
const API_VERSION: &str = "v1";
/// RIK's other kind.
const POD: &str = "Pod";
/// The one type of an exposure: a port of the node.
pub const EXPOSURE_TYPE: &str = "NodePort";
/// The longest text that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
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

/// Returns the names of the kinds that errors suggest.
fn kinds() -> impl Iterator<Item = &'static str> {
    Kind::ALL.iter().filter(|kind| kind.is_documented()).map(|kind| kind.as_str())
}

/// Returns the workloads that the sources define, in their order.
///
/// A text that begins with `{` or `[` is JSON: an object or a list of them. Any other is YAML: one document
/// or several, each an object or a list of them.
///
/// # Errors
/// Fails with all errors, not only the first; also if two definitions, of whatever sources, have one name or clash in a
/// port.
pub fn parse(sources: &[Source]) -> Result<Vec<Workload>, Errors> {
    parse_within(MAX_BYTES, sources)
}

/// Returns the workloads that the sources define, if no text is longer than `longest` bytes.
fn parse_within(longest: usize, sources: &[Source]) -> Result<Vec<Workload>, Errors> {
    let mut validator = Validator::default();
    for source in sources {
        validator.begin(&source.name);
        match read(longest, &source.text) {
            Ok(documents) => documents.iter().for_each(|document| validator.document(document)),
            Err((at, reason)) => validator.refuse(at, "", reason),
        }
    }
    validator.finish()
}

fn read(longest: usize, text: &str) -> Result<Vec<TreeNode>, (Position, Reason)> {
    if text.len() > longest {
        return Err((Position::START, Reason::TooLarge { bytes: text.len() }));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = if text.trim_start().starts_with(['{', '[']) {
        vec![json::read(text)?]
    } else {
        yaml::read(text)?
    };
    let empty = |node: &TreeNode| matches!(&node.value, Value::List(items) if items.is_empty());
    if documents.iter().all(empty) {
        return Err((Position::START, Reason::Empty));
    }
    Ok(documents)
}

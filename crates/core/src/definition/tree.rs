//! Trees of values with their positions, common to JSON and YAML.

use std::fmt;

/// A position in a text: line and column, counted from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Position {
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TreeNode {
    pub(crate) at: Position,
    pub(crate) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// Any other number, as text.
    Number(String),
    String(String),
    List(Vec<TreeNode>),
    /// The fields of a map, in the order of the text, duplicates included.
    Map(Vec<Field>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) at: Position,
    pub(crate) node: TreeNode,
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is its name")]
pub enum Sort {
    Nothing,
    Boolean,
    Number,
    String,
    List,
    Object,
}

impl Value {
    pub(crate) const fn sort(&self) -> Sort {
        match self {
            Self::Null => Sort::Nothing,
            Self::Bool(_) => Sort::Boolean,
            Self::Integer(_) | Self::Number(_) => Sort::Number,
            Self::String(_) => Sort::String,
            Self::List(_) => Sort::List,
            Self::Map(_) => Sort::Object,
        }
    }
}

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nothing => "nothing",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::List => "a list",
            Self::Object => "an object",
        })
    }
}

//! The ruleset as messages of nf_tables: the table `inet riklet`, and the passage through foreign tables.

#![expect(missing_docs, reason = "the words of the backend, for the crate that speaks them")]

pub mod base_ruleset;
mod change;
pub mod element;
mod expression;
pub mod foreign_chain;
mod object;
mod state;
pub mod tables;

pub use change::operations;
pub use element::Element;
pub use object::{Chain, Operation, Rule, Set, Table, TableName};
pub use state::Found;

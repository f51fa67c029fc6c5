//! The ruleset as messages of nf_tables: the table `inet riklet`, and the passage through foreign tables.

mod change;
pub(crate) mod element;
mod expression;
pub(crate) mod gate;
mod object;
pub(crate) mod skeleton;
mod state;
pub(crate) mod tables;

pub(crate) use change::operations;
pub(crate) use object::{Chain, Operation, Rule, Set, Table, TableName};
pub(crate) use state::Found;

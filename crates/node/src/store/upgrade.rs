//! Upgrades a database of an older format when it is opened.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{
    StoreError,
    file::{FORMAT, Header, header},
};

/// The statements that upgrade a database to the next format, for each format from 1 on.
const UPGRADES: [&str; 3] = [
    include_str!("upgrade/from-1.sql"),
    include_str!("upgrade/from-2.sql"),
    include_str!("upgrade/from-3.sql"),
];

/// Upgrades a database of an older format, unless another process was quicker. All of it happens in one transaction: if
/// the process is killed meanwhile, the database is unchanged. A program of the older format that is at work holds the
/// lock of the database, and refuses the database afterwards.
pub(super) fn upgrade(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::sqlite("upgrade the database", path.to_owned(), source);
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate);
    let transaction = transaction.map_err(failed)?;
    let Header::Older(found) = header(connection).map_err(failed)? else { return Ok(()) };
    let done = usize::try_from(found).unwrap_or(usize::MAX);
    for upgrade in UPGRADES.iter().skip(done.saturating_sub(1)) {
        transaction.execute_batch(upgrade).map_err(failed)?;
    }
    transaction.execute_batch(&format!("PRAGMA user_version = {FORMAT};")).map_err(failed)?;
    transaction.commit().map_err(failed)
}

#[cfg(test)]
mod tests;

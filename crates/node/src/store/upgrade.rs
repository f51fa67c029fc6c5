//! A database of an older format becomes one of this when it is opened.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{
    StoreError,
    file::{FORMAT, Header, header},
};

/// Makes a database of the format after it, for each format from 1 on.
const UPGRADES: [&str; 2] =
    [include_str!("upgrade/from-1.sql"), include_str!("upgrade/from-2.sql")];

/// Makes a database of an older format one of this, unless another process was quicker. All of it happens in one
/// transaction: whoever is killed meanwhile leaves the database as it was. A program of the older format that is at
/// work has its lock, and refuses it afterwards.
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

//! Which instances definition files ask for: where such a file goes, so do they.

use std::collections::BTreeMap;

use super::{Store, StoreError, Tx};
use crate::model::InstanceName;

impl Store {
    /// The names that definition files ask for, each with its file. Not all of them need to be recorded.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn manifests(&self) -> Result<BTreeMap<InstanceName, String>, StoreError> {
        let operation = "list the manifests' instances";
        let rows: Vec<(String, String)> =
            self.rows(operation, "SELECT name, file FROM manifests", |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let named = |(name, file): (String, String)| Ok((self.name(operation, &name)?, file));
        rows.into_iter().map(named).collect()
    }
}

impl Tx<'_> {
    /// Says which names definition files ask for, each with its file, in place of what was said before.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn set_manifests(&self, owners: &BTreeMap<InstanceName, String>) -> Result<(), StoreError> {
        let operation = "write the manifests' instances";
        self.execute(operation, "DELETE FROM manifests", [])?;
        let sql = "INSERT INTO manifests (name, file) VALUES (?, ?)";
        for (name, file) in owners {
            self.execute(operation, sql, (name.as_str(), file))?;
        }
        Ok(())
    }
}

//! The instances that definition files ask for: they are taken down when their file is removed.

use std::collections::BTreeMap;

use super::{Store, StoreError, Tx, sql};
use riklet_core::model::InstanceName;

impl Store {
    /// Returns the names that definition files ask for, each with its file. Not all of them need to be recorded.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn manifests(&self) -> Result<BTreeMap<InstanceName, String>, StoreError> {
        let operation = "list the manifests' instances";
        let rows: Vec<(String, String)> =
            self.rows(operation, "SELECT workload, file FROM manifests", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let named = |(name, file): (String, String)| Ok((self.name(operation, &name)?, file));
        rows.into_iter().map(named).collect()
    }

    /// Returns the definition file that owns this name; `None` if none does.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn manifest(&self, name: &InstanceName) -> Result<Option<String>, StoreError> {
        self.row("look up a manifest", sql::MANIFEST, [name.as_str()], |row| row.get(0))
    }
}

impl Tx<'_> {
    /// Records which file owns a name from now on, or that none does. An instance that is taken down loses its file
    /// without this.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn set_manifest(&self, name: &InstanceName, file: Option<&str>) -> Result<(), StoreError> {
        let operation = "write the manifests' instances";
        let Some(file) = file else {
            return self.execute(operation, sql::FORGET_MANIFEST, [name.as_str()]).map(drop);
        };
        let sql = "INSERT OR REPLACE INTO manifests (workload, file) VALUES (?, ?)";
        self.execute(operation, sql, (name.as_str(), file)).map(drop)
    }
}

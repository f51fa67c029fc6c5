//! Verifies, as far as possible, that a database holds what was once written to it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Record, Records, Store, StoreError, ports::Bound};

/// A row of `ports`: protocol, port, family, address and slot.
type Port = (u8, u16, u8, String, u16);

const OPERATION: &str = "verify the database";

/// The indexes that have some of their table's rows: table, index, and the rows' condition.
const PARTIAL_INDEXES: [(&str, &str, &str); 3] = [
    ("slots", "slots_instance", "workload IS NOT NULL"),
    ("slots", "slots_state", "state <> 5"),
    ("runs", "runs_under_way", "ended IS NULL"),
];

impl Store {
    /// Reads the whole database, except for unreadable records, and checks that its contents are consistent: tables,
    /// pages and indexes, every row, each slot up to the highest, and the ports that the records expose. Costs as much
    /// as there is.
    ///
    /// # Errors
    /// Fails if its contents are not consistent ([`StoreError::is_corrupt`]), or it cannot be read.
    pub fn verify(&self) -> Result<(), StoreError> {
        let sql = "PRAGMA integrity_check(1)";
        let found: Vec<String> = self.rows(OPERATION, sql, [], |row| row.get(0))?;
        if let Some(complaint) = found.into_iter().find(|line| line != "ok") {
            return Err(self.corrupt(OPERATION, complaint.into()));
        }
        if self.schema()? != Self::in_memory()?.schema()? {
            return Err(self.corrupt(OPERATION, "its tables are others".into()));
        }
        // A database that cannot be written is refused here, not by the next operation.
        self.connection
            .execute_batch("BEGIN IMMEDIATE; ROLLBACK")
            .map_err(self.failed(OPERATION))?;
        let records = self.all()?;
        self.runs()?;
        self.manifests()?;
        self.recorded_sysctls()?;
        let sql = "SELECT name, value FROM settings";
        let _settings: Vec<(String, String)> =
            self.rows(OPERATION, sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        self.verify_indexes()?;
        self.verify_slots()?;
        self.verify_ports(&records)
    }

    /// Returns the tables and indexes, each with its statement, without comments and spaces.
    pub(super) fn schema(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL";
        let rows: Vec<(String, String)> =
            self.rows(OPERATION, sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let plain = |sql: String| -> String {
            let lines = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
            lines.flat_map(str::split_whitespace).collect()
        };
        Ok(rows.into_iter().map(|(name, sql)| (name, plain(sql))).collect())
    }

    /// Counts the rows of each partial index: `PRAGMA integrity_check` looks for every row of the table in it, and not
    /// for what else it has.
    fn verify_indexes(&self) -> Result<(), StoreError> {
        for (table, index, condition) in PARTIAL_INDEXES {
            let count = |from: &str| {
                let sql = format!("SELECT count(*) FROM {table} {from} WHERE {condition}");
                self.row(OPERATION, &sql, [], |row| row.get::<_, u32>(0))
            };
            if count(&format!("INDEXED BY {index}"))? != count("NOT INDEXED")? {
                let text = format!("the index {index} has rows that {table} has not");
                return Err(self.corrupt(OPERATION, text.into()));
            }
        }
        Ok(())
    }

    fn verify_slots(&self) -> Result<(), StoreError> {
        let sql = "SELECT count(*), coalesce(max(slot) + 1, 0) FROM slots";
        let counts = self.row(OPERATION, sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        match counts {
            Some((count, end)) if count == end => Ok(()),
            Some::<(u32, u32)>((count, end)) => {
                let text = format!("{count} slots are recorded of {end}");
                Err(self.corrupt(OPERATION, text.into()))
            }
            None => Ok(()),
        }
    }

    fn verify_ports(&self, records: &Records) -> Result<(), StoreError> {
        let sql = "SELECT protocol, port, family, address, slot FROM ports";
        let held: Vec<Port> = self.rows(OPERATION, sql, [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })?;
        // The ports that an unreadable record should have are not known.
        let unknown: BTreeSet<_> = records.unreadable.iter().map(|u| u.slot.number()).collect();
        let held: BTreeSet<Port> =
            held.into_iter().filter(|(.., slot)| !unknown.contains(slot)).collect();
        let exposed: BTreeSet<Port> = records.readable.iter().flat_map(exposed).collect();
        match held.symmetric_difference(&exposed).next() {
            None => Ok(()),
            Some((_, port, .., slot)) => {
                let text = format!("port {port} is not as slot {slot} exposes it");
                Err(self.corrupt(OPERATION, text.into()))
            }
        }
    }
}

/// Returns the ports that a record must have.
fn exposed(record: &Record) -> Vec<Port> {
    let of = |exposure| {
        let Bound { family, address } = Bound::of(exposure);
        let protocol = exposure.protocol().number();
        let ports = exposure.host_ports();
        let row = move |port| (protocol, port, family, address.clone(), record.slot.number());
        ports.iter().map(row).collect::<Vec<_>>()
    };
    record.workload.exposures().iter().flat_map(of).collect()
}

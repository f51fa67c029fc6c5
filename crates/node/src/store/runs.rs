//! Runs: the VMMs of instances, and how they ended. A run outlives its instance's record: how it
//! ended is known until the next run of the same name.

use rusqlite::Row;

use super::{JournalKind, Store, StoreError, Tx, key};
use riklet_core::model::InstanceName;
use riklet_kernel::process::ProcessId;

/// A run of an instance: the last one of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// The instance.
    pub name: InstanceName,
    /// The name of the VMM.
    pub vmm: String,
    /// The process that takes the instance down when the VMM ends.
    pub supervisor: ProcessId,
    /// The VMM's process; `None` while it was not started yet.
    pub process: Option<ProcessId>,
    /// The time of its beginning, in milliseconds since 1970.
    pub started: u64,
    /// The time until the published ports answered, in milliseconds; `None` while they have not, and 0 if nobody knows it,
    /// for example because nobody waited.
    pub ready: Option<u64>,
    /// True while its images are obtained: it has no network and no VMM yet.
    pub preparing: bool,
    /// True if the run was asked to stop: then its end is no failure.
    pub stopping: bool,
    /// Its end; `None` while it has not ended.
    pub end: Option<End>,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct End {
    /// The time, in milliseconds since 1970.
    pub at: u64,
    /// The reason, in words.
    pub reason: String,
    /// True if the run was not asked to stop.
    pub failed: bool,
}

impl End {
    /// Creates the end of a run at this time, in milliseconds since 1970.
    #[must_use]
    pub const fn new(at: u64, reason: String, failed: bool) -> Self {
        Self { at, reason, failed }
    }
}

impl Store {
    /// Returns the last run of this name; `None` if it never ran.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn run(&self, name: &InstanceName) -> Result<Option<Run>, StoreError> {
        let row = self.row("read a run", &one(), key(name), raw_run)?;
        row.map(|raw| self.parse_run(raw)).transpose()
    }

    /// Returns the last run of every name, ordered by name.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn runs(&self) -> Result<Vec<Run>, StoreError> {
        self.many_runs(&format!("{RUNS} ORDER BY workload, ordinal"))
    }

    /// Returns the runs that have not ended by the records, ordered by name. Costs as much as there are of them.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn runs_under_way(&self) -> Result<Vec<Run>, StoreError> {
        self.many_runs(&format!("{RUNS} WHERE ended IS NULL ORDER BY workload, ordinal"))
    }

    /// Returns `true` if a run that has not ended has this supervisor.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn supervises(&self, supervisor: ProcessId) -> Result<bool, StoreError> {
        let supervisor = [supervisor.to_string()];
        Ok(self.row("look for runs", SUPERVISED, supervisor, |_row| Ok(()))?.is_some())
    }

    fn many_runs(&self, sql: &str) -> Result<Vec<Run>, StoreError> {
        let rows = self.rows("list the runs", sql, [], raw_run)?;
        rows.into_iter().map(|raw| self.parse_run(raw)).collect()
    }

    fn parse_run(&self, raw: RawRun) -> Result<Run, StoreError> {
        let operation = "read a run";
        let process =
            |text: &str| text.parse().map_err(|error| self.corrupt(operation, Box::new(error)));
        let failed = raw.failed;
        let end = raw.ended.zip(raw.reason).map(|(at, reason)| End { at, reason, failed });
        Ok(Run {
            name: self.name(operation, &raw.name)?,
            vmm: raw.vmm,
            supervisor: process(&raw.supervisor)?,
            process: raw.process.as_deref().map(process).transpose()?,
            started: raw.started,
            ready: raw.ready,
            preparing: raw.preparing,
            stopping: raw.stopping,
            end,
        })
    }
}

impl Tx<'_> {
    /// Records that the images of a run are obtained, in place of an earlier run of this name. [`Self::begin_run`] follows,
    /// or [`Self::end_run`].
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn prepare_run(
        &self,
        name: &InstanceName,
        vmm: &str,
        supervisor: ProcessId,
        started: u64,
    ) -> Result<(), StoreError> {
        let values = (vmm, supervisor, started);
        self.record_run(name, values, Some("{\"preparing\":true}"), "obtains its images")
    }

    /// Records that a run begins, in place of an earlier one of this name.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn begin_run(
        &self,
        name: &InstanceName,
        vmm: &str,
        supervisor: ProcessId,
        started: u64,
    ) -> Result<(), StoreError> {
        self.record_run(name, (vmm, supervisor, started), None, &format!("run by {vmm}"))
    }

    fn record_run(
        &self,
        name: &InstanceName,
        (vmm, supervisor, started): (&str, ProcessId, u64),
        details: Option<&str>,
        announced: &str,
    ) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO runs (workload, ordinal, vmm, supervisor, started, details) \
             VALUES (?, ?, ?, ?, ?, ?)";
        let (workload, ordinal) = key(name);
        let params = (workload, ordinal, vmm, supervisor.to_string(), started, details);
        self.execute("record a run", sql, params)?;
        let text = format!("{announced}, supervisor process {}", supervisor.pid());
        self.announce(JournalKind::Started, Some(name), &text)
    }

    /// Records the VMM's process of a run. One that has ended, or has another supervisor by now, is left as it is.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn set_run_process(
        &self,
        name: &InstanceName,
        supervisor: ProcessId,
        process: ProcessId,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE runs SET process = ? WHERE workload = ? AND ordinal = ? AND supervisor = ? AND ended IS NULL";
        let (workload, ordinal) = key(name);
        let params = (process.to_string(), workload, ordinal, supervisor.to_string());
        self.execute("record a process", sql, params).map(drop)
    }

    /// Records that the published ports of a run answer, and after how many milliseconds; `None` if nobody knows that.
    /// One that has ended, or has another supervisor by now, is left as it is.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn set_run_ready(
        &self,
        name: &InstanceName,
        supervisor: ProcessId,
        after: Option<u64>,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE runs SET ready = ? WHERE workload = ? AND ordinal = ? AND supervisor = ? AND ended IS NULL";
        let (workload, ordinal) = key(name);
        // A start takes more than a millisecond.
        let recorded = after.map_or(0, |after| after.max(1));
        let params = (recorded, workload, ordinal, supervisor.to_string());
        let recorded = self.execute("record that a run is ready", sql, params)?;
        let Some(after) = after.filter(|_| recorded > 0) else { return Ok(()) };
        self.announce(JournalKind::Ready, Some(name), &format!("ready after {after} ms"))
    }

    /// Records that a run was asked to stop. Changes nothing if that is recorded, or if the run has ended or has another
    /// supervisor by now.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn set_run_stopping(
        &self,
        name: &InstanceName,
        supervisor: ProcessId,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE runs SET stopping = 1 \
             WHERE workload = ? AND ordinal = ? AND supervisor = ? AND ended IS NULL AND stopping = 0";
        let (workload, ordinal) = key(name);
        let params = (workload, ordinal, supervisor.to_string());
        match self.execute("record that a run stops", sql, params)? {
            0 => Ok(()),
            _ => self.announce(JournalKind::Stopping, Some(name), "asked to stop"),
        }
    }

    /// Makes a process the supervisor of a run that has not ended, provided that it still has this one. Returns whether
    /// it had. The new one obtains no images.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn hand_over_run(
        &self,
        name: &InstanceName,
        from: ProcessId,
        to: ProcessId,
    ) -> Result<bool, StoreError> {
        let sql = "UPDATE runs SET supervisor = ?, details = json_remove(details, '$.preparing') \
             WHERE workload = ? AND ordinal = ? AND supervisor = ? AND ended IS NULL";
        let (workload, ordinal) = key(name);
        let params = (to.to_string(), workload, ordinal, from.to_string());
        self.execute("hand over a run", sql, params).map(|changed| changed > 0)
    }

    /// Forgets a run that has ended. One that has not is kept.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn forget_run(&self, name: &InstanceName) -> Result<(), StoreError> {
        let sql = "DELETE FROM runs WHERE workload = ? AND ordinal = ? AND ended IS NOT NULL";
        self.execute("forget a run", sql, key(name)).map(drop)
    }

    /// Records how a run ended. The first writer wins; a run that has another supervisor by now is left as it is.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn end_run(
        &self,
        name: &InstanceName,
        supervisor: ProcessId,
        end: &End,
    ) -> Result<(), StoreError> {
        self.end_run_as(JournalKind::Ended, name, supervisor, end)
    }

    /// Records the end of a run whose supervisor died, as [`Self::end_run`] does.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn end_lost_run(
        &self,
        name: &InstanceName,
        supervisor: ProcessId,
        end: &End,
    ) -> Result<(), StoreError> {
        self.end_run_as(JournalKind::Lost, name, supervisor, end)
    }

    fn end_run_as(
        &self,
        kind: JournalKind,
        name: &InstanceName,
        supervisor: ProcessId,
        end: &End,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE runs SET ended = ?, reason = ?, failed = ? \
             WHERE workload = ? AND ordinal = ? AND supervisor = ? AND ended IS NULL";
        let (workload, ordinal) = key(name);
        let supervisor = supervisor.to_string();
        let params = (end.at, &end.reason, end.failed, workload, ordinal, supervisor);
        match self.execute("record the end of a run", sql, params)? {
            0 => Ok(()),
            _ => self.announce(kind, Some(name), &end.reason),
        }
    }
}

/// Returns the statement that a `down` runs for each instance. A test checks that it scans no table.
pub(super) fn one() -> String {
    format!("{RUNS} WHERE workload = ? AND ordinal = ?")
}

/// The statement that a `wait` runs. A test checks that it scans no table.
pub(super) const SUPERVISED: &str =
    "SELECT 1 FROM runs WHERE ended IS NULL AND supervisor = ? LIMIT 1";

const RUNS: &str = "SELECT workload, vmm, supervisor, process, started, ready, stopping, ended, reason, failed, \
     coalesce(json_extract(details, '$.preparing'), 0) FROM runs";

/// The columns of a run.
struct RawRun {
    name: String,
    vmm: String,
    supervisor: String,
    process: Option<String>,
    started: u64,
    ready: Option<u64>,
    stopping: bool,
    ended: Option<u64>,
    reason: Option<String>,
    failed: bool,
    preparing: bool,
}

fn raw_run(row: &Row<'_>) -> rusqlite::Result<RawRun> {
    Ok(RawRun {
        name: row.get(0)?,
        vmm: row.get(1)?,
        supervisor: row.get(2)?,
        process: row.get(3)?,
        started: row.get(4)?,
        ready: row.get(5)?,
        stopping: row.get(6)?,
        ended: row.get(7)?,
        reason: row.get(8)?,
        failed: row.get(9)?,
        preparing: row.get(10)?,
    })
}

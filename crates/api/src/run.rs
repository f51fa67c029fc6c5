use serde::{Deserialize, Serialize};

use super::{InstanceDocument, Problem};

/// A run of a function by a VMM, in progress or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RunDocument {
    /// The function's name.
    pub name: String,
    /// The VMM.
    pub vmm: String,
    /// `preparing` while its images are obtained, `starting`, `running`, `stopping`, `ended` or `lost`.
    pub state: String,
    /// The number of the VMM's process; null before its start.
    pub pid: Option<u32>,
    /// The number of the supervisor's process.
    pub supervisor_pid: u32,
    /// The time at which it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// The time until the published ports answered, in milliseconds; null before that, or if nobody waited for it.
    pub ready_after_ms: Option<u64>,
    /// The time at which it ended, in milliseconds since 1970; null before that.
    pub ended_ms: Option<u64>,
    /// The reason why it ended; null before that.
    pub reason: Option<String>,
    /// True if it ended with a failure; null before it ended.
    pub failed: Option<bool>,
}

/// A run that was asked to stop, and has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct StoppedRun {
    /// The function's name.
    pub name: String,
    /// The way in which its VMM was ended.
    pub how: String,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedRun {
    /// The function's name.
    pub name: String,
    /// The reason why it ended.
    pub reason: String,
    /// True if it ended with a failure.
    pub failed: bool,
}

/// Runs whose functions are ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ReadyRuns {
    /// The functions.
    pub instances: Vec<RunningInstance>,
    /// The addresses at which they answer HTTP.
    pub urls: Vec<String>,
    /// The time that it took, by part.
    pub ready_ms: ReadyTimes,
    /// False if nothing was waited for, so that nobody knows whether the guests answer.
    #[serde(default = "yes")]
    pub awaited: bool,
    /// Things that succeeded, but possibly not as expected.
    pub warnings: Vec<String>,
}

/// A daemon of an earlier version says nothing.
const fn yes() -> bool {
    true
}

impl ReadyRuns {
    /// Returns how long it took until they were ready, or, if nobody waited for that, until they were started.
    #[must_use]
    pub fn took(&self) -> String {
        let word = if self.awaited { "ready" } else { "started" };
        format!("{word} in {:.1} ms", self.ready_ms.total)
    }
}

/// Runs that were to be started through a daemon.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct StartedRuns {
    /// Those whose functions are ready.
    pub ready: Vec<ReadyRuns>,
    /// The reasons why the others are not.
    pub failed: Vec<Problem>,
}

/// An instance, and the VMM that runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RunningInstance {
    /// The instance.
    #[serde(flatten)]
    pub instance: InstanceDocument,
    /// The VMM.
    pub vmm: String,
}

/// The parts of the time until functions are ready, in milliseconds, each after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ReadyTimes {
    /// The sum of all parts.
    pub total: f64,
    /// Bringing up the network.
    pub network: f64,
    /// Starting the VMMs.
    pub vmm: f64,
    /// Booting the guests, until they have opened their NICs.
    pub boot: f64,
    /// Waiting for the first answers.
    pub answer: f64,
}

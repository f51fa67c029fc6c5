use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use riklet_core::ErrorKind;

use super::InstanceDocument;

/// The outcome of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = Report))]
pub struct ReportDocument {
    /// The instances that were asked for and are as asked.
    pub instances: Vec<InstanceDocument>,
    /// The changes, in order.
    pub steps: Vec<String>,
    /// Things that succeeded, but possibly not as expected.
    pub warnings: Vec<String>,
    /// The instances that were asked for and are not as asked, each with the reason.
    pub failures: Vec<FailureDocument>,
    /// Instances that were not asked for, and that an earlier operation left unfinished.
    pub others: Vec<FailureDocument>,
}

/// An instance that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = Failure))]
pub struct FailureDocument {
    /// The instance's name.
    pub name: String,
    /// The reason.
    pub error: String,
    /// A remedy, if one is known.
    pub hint: Option<String>,
    /// The kind of error, which determines the exit status.
    pub kind: ErrorKind,
}

/// The outcome of recording anew what the interfaces' aliases say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuiltDocument {
    /// The path of the former database now; null where it was kept, or there was none.
    pub set_aside: Option<PathBuf>,
    /// The names of the instances that were recorded anew.
    pub recovered: Vec<String>,
    /// Those of them that lost exposures, for which their alias had no room, or a policy.
    pub incomplete: Vec<String>,
    /// The names of the instances whose record could not be read, and that have no interface: they are recorded no longer.
    pub lost: Vec<String>,
    /// The repair that followed.
    pub repair: ReportDocument,
}

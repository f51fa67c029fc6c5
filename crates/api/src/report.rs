use serde::{Deserialize, Serialize};

use riklet_core::ErrorKind;

use super::Instance;

/// What an operation did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Report {
    /// The instances that were asked for and are as asked.
    pub instances: Vec<Instance>,
    /// What was changed, in order.
    pub steps: Vec<String>,
    /// What works, and will surprise.
    pub warnings: Vec<String>,
    /// What failed of that which was asked for.
    pub failures: Vec<Failure>,
    /// What failed of the rest.
    pub others: Vec<Failure>,
}

/// An instance that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Failure {
    /// Its name.
    pub name: String,
    /// Why.
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What kind of answer it needs.
    pub kind: ErrorKind,
}

/// What `up` would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Plan {
    /// The steps, in order.
    pub steps: Vec<String>,
    /// What nothing can be done for, and why.
    pub blocked: Vec<String>,
    /// What will work, and surprise.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Whether nothing is to be done, and nothing stands in the way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.blocked.is_empty()
    }

    /// The steps, and what is blocked, a line each.
    #[must_use]
    pub fn text(&self) -> String {
        text(&self.steps, &self.blocked)
    }
}

fn text(steps: &[String], blocked: &[String]) -> String {
    let steps = steps.iter().map(|step| format!("{step}\n"));
    steps.chain(blocked.iter().map(|why| format!("! {why}\n"))).collect()
}

/// How the kernel differs from the records. All empty where it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Check {
    /// Why the firewall must be made anew.
    pub firewall: Vec<String>,
    /// What `repair` would do.
    pub steps: Vec<String>,
    /// What nothing can be done for, and why.
    pub blocked: Vec<String>,
    /// Instances whose last operation did not come to its end.
    pub unsettled: Vec<Unsettled>,
    /// The names of runs whose supervisor died.
    pub lost: Vec<String>,
}

/// An instance whose last operation did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Unsettled {
    /// Its name.
    pub name: String,
    /// How far it came.
    pub phase: String,
}

impl Check {
    /// Whether there is no drift.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
            && self.blocked.is_empty()
            && self.unsettled.is_empty()
            && self.lost.is_empty()
    }

    /// Why the firewall must be made anew, what `repair` would do, and what it would finish, a line each.
    #[must_use]
    pub fn text(&self) -> String {
        let firewall = self.firewall.iter().map(|line| format!("! firewall: {line}\n"));
        let unsettled = self.unsettled.iter();
        let unsettled =
            unsettled.map(|Unsettled { name, phase }| format!("! record {name}: still {phase}\n"));
        let lost = self.lost.iter().map(|name| format!("! run {name}: its supervisor died\n"));
        let steps = text(&self.steps, &self.blocked);
        firewall.chain([steps]).chain(unsettled).chain(lost).collect()
    }
}

/// Whether the daemon works, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The program's version.
    pub version: String,
    /// How many functions are recorded.
    pub functions: u32,
    /// How many TAPs are there in advance.
    pub warm_slots: usize,
    /// How many of them are being made.
    pub preparing_slots: usize,
    /// How many TAPs are to be deleted.
    pub condemned_slots: usize,
}

/// Which program it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Version {
    /// The version of the program.
    pub version: String,
    /// The version of the API: that of the paths.
    pub api: String,
}

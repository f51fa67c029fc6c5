use serde::{Deserialize, Serialize};

/// The changes that `up` would make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = Plan))]
pub struct PlanDocument {
    /// The steps, in order.
    pub steps: Vec<String>,
    /// The obstacles in the way of the rest.
    pub blocked: Vec<String>,
    /// Things that would succeed, but possibly not as expected.
    pub warnings: Vec<String>,
}

impl PlanDocument {
    /// Returns whether nothing is to be done, and nothing stands in the way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.blocked.is_empty()
    }
}

/// The differences between the kernel and the records. All fields but `warnings` are empty if there are none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Check {
    /// The reasons to replace the firewall's rules.
    pub firewall: Vec<String>,
    /// The changes that `repair` would make.
    pub steps: Vec<String>,
    /// The obstacles in the way of the rest.
    pub blocked: Vec<String>,
    /// The instances whose last operation was interrupted.
    pub unsettled: Vec<Unsettled>,
    /// The names of the runs whose supervisor has died.
    pub lost: Vec<String>,
    /// Surprises for users that are no difference: exposures that take packets of others, and those on addresses that the
    /// host does not have.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// An instance whose last operation was interrupted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Unsettled {
    /// The instance's name.
    pub name: String,
    /// `pending` or `removing`.
    pub phase: String,
}

impl Check {
    /// Returns whether there is no drift. Warnings do not count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
            && self.blocked.is_empty()
            && self.unsettled.is_empty()
            && self.lost.is_empty()
    }
}

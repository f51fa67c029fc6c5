use std::collections::BTreeSet;

use super::InstanceName;

/// The instances that an operation is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The instances of these names.
    Named(BTreeSet<InstanceName>),
    /// Every recorded instance.
    All,
}

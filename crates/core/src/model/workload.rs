use std::fmt;

use super::{Execution, Exposure, InstanceName};

/// A kind of workload. It selects the network implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One microVM behind a TAP.
    Function,
}

impl Kind {
    /// The kind as definitions spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Function => "Function",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A validated definition of a kind that has a network implementation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workload {
    /// One microVM behind a TAP.
    Function(Function),
}

impl Workload {
    /// The name, unique on the node.
    #[must_use]
    pub const fn name(&self) -> &InstanceName {
        match self {
            Self::Function(function) => &function.name,
        }
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Function(_) => Kind::Function,
        }
    }

    /// What runs, and how.
    #[must_use]
    pub const fn execution(&self) -> &Execution {
        match self {
            Self::Function(function) => &function.execution,
        }
    }

    /// What it exposes; no two of them clash.
    #[must_use]
    pub fn exposures(&self) -> &[Exposure] {
        match self {
            Self::Function(function) => &function.exposures,
        }
    }
}

/// A function: one microVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// The name, unique on the node.
    pub name: InstanceName,
    /// What runs in the microVM.
    pub execution: Execution,
    /// Ports of the host that lead to it; no two of them clash.
    pub exposures: Vec<Exposure>,
}

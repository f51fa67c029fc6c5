//! A kind for tests, which shows everything that the compiler requires of a new kind.

use serde_json::{Value, json};

use super::{Fragment, FragmentError, Implementation, Kind, NodeFacts, alias, parts};
use crate::{
    definition::{Object, Validator, exposure_value},
    link::{Device, Tap},
    model::{Execution, Exposure, InstanceName, Slot},
};

/// A toy: exposed ports, on a TAP that every member of a group may open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toy {
    /// The name, unique on the node.
    pub name: InstanceName,
    /// The execution, which a toy leaves open.
    pub execution: Execution,
    /// Ports of the host that lead to it.
    pub exposures: Vec<Exposure>,
}

/// The group that may open a toy's TAP.
const GROUP: u32 = 4242;

impl Implementation for Toy {
    const NAME: &'static str = "Toy";
    const COLLECTION: &'static str = "toys";
    const TAKES_RESERVED: bool = false;
    const RUNS: bool = true;
    const DOCUMENTED: bool = false;

    fn validate(
        validator: &mut Validator,
        definition: &Object<'_>,
        name: Option<InstanceName>,
    ) -> Option<Self> {
        let spec = validator.required_object(definition, "spec", &["exposure"])?;
        let exposures = validator.exposures(&spec);
        Some(Self { name: name?, execution: Execution::default(), exposures })
    }

    fn spec(&self) -> Value {
        json!({ "exposure": self.exposures.iter().map(exposure_value).collect::<Vec<_>>() })
    }

    fn recover(marked: &alias::Marked, _tap: Option<Tap>) -> Self {
        Self {
            name: marked.name.clone(),
            execution: Execution::default(),
            exposures: marked.exposures.clone(),
        }
    }

    fn fragment(&self, slot: Slot, node: &NodeFacts) -> Result<Fragment, FragmentError> {
        let tap = Tap { group: Some(GROUP), ..Tap::default() };
        parts::fragment(self, Kind::Toy, Device::Tap(tap), slot, node)
    }

    fn name(&self) -> &InstanceName {
        &self.name
    }

    fn execution(&self) -> &Execution {
        &self.execution
    }

    fn execution_mut(&mut self) -> &mut Execution {
        &mut self.execution
    }

    fn exposures(&self) -> &[Exposure] {
        &self.exposures
    }
}

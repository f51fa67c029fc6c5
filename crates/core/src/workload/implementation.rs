use serde_json::Value;

use super::{Fragment, FragmentError, NodeFacts, alias::Marked};
use crate::{
    definition::{Object, Validator},
    link::Tap,
    model::{Execution, Exposure, InstanceName, Slot},
};

/// Everything that the rest of the program asks of a kind. Each is implemented in a file of its own.
pub(crate) trait Implementation: Sized {
    /// The kind as definitions spell it.
    const NAME: &'static str;
    /// The collection of its workloads, as paths of the API have it: `/v1/<collection>`.
    const COLLECTION: &'static str;
    /// True if an instance begins with the interface of a reserved slot ([`super::reserved`]). Where it needs another,
    /// that one would only have to be replaced.
    const TAKES_RESERVED: bool;
    /// True if the documentation has it, so that errors may suggest it.
    const DOCUMENTED: bool;

    /// Reads the fields that are the kind's own, and refuses what is wrong in them; the others are read already.
    /// `None` where something is missing or wrong, which the validator has then been told.
    fn validate(
        validator: &mut Validator,
        definition: &Object<'_>,
        name: Option<InstanceName>,
    ) -> Option<Self>;

    /// Returns the `spec` of its definition, with every default of its network spelt out. [`Self::validate`] reads it.
    fn spec(&self) -> Value;

    /// Returns what an instance must have been whose TAP is like this and bears this mark. What neither shows is lost.
    fn recover(marked: &Marked, tap: Tap) -> Self;

    /// Returns what an instance in this slot needs from the node.
    ///
    /// # Errors
    /// Where the pool has no such slot or no address of a family that an exposure needs, or a user or group is a name.
    fn fragment(&self, slot: Slot, node: &NodeFacts) -> Result<Fragment, FragmentError>;

    /// Returns the name, unique on the node.
    fn name(&self) -> &InstanceName;

    /// Returns what runs, and how.
    fn execution(&self) -> &Execution;

    /// Returns the same, to be changed.
    fn execution_mut(&mut self) -> &mut Execution;

    /// Returns what it exposes.
    fn exposures(&self) -> &[Exposure];
}

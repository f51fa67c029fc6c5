use serde_json::Value;

use super::{Fragment, FragmentError, NodeFacts, alias::Marked};
use crate::{
    definition::{Object, Validator},
    link::Tap,
    model::{
        EgressPolicy, Execution, Exposure, InstanceName, InterfaceName, Limits, Namespace, Slot,
    },
};

/// The interface of a kind to the rest of the program. Each kind is implemented in a file of its own.
pub(crate) trait Implementation: Sized {
    /// The name of the kind in definitions.
    const NAME: &'static str;
    /// The collection of its workloads in paths of the API: `/v1/<collection>`.
    const COLLECTION: &'static str;
    /// True if an instance begins with the interface of a reserved slot ([`super::reserved`]). If it needs a different
    /// one, the reserved one would only have to be replaced.
    const TAKES_RESERVED: bool;
    /// True if `run` starts its instances; those of other kinds are started by somebody else.
    const RUNS: bool;
    /// True if the documentation describes the kind, so that errors may suggest it.
    const DOCUMENTED: bool;

    /// Reads the kind's own fields, and refuses wrong ones; the common fields are read already. Returns `None` if a
    /// field is missing or wrong, after an error is noted.
    fn validate(
        validator: &mut Validator,
        definition: &Object<'_>,
        name: Option<InstanceName>,
    ) -> Option<Self>;

    /// Returns the `spec` of its definition, with every default of its network spelt out. [`Self::validate`] reads it.
    fn spec(&self) -> Value;

    /// Returns the workload of an instance from its TAP, if it has one, and the mark on its interface. Fields that neither shows are lost.
    fn recover(marked: &Marked, tap: Option<Tap>) -> Self;

    /// Returns the needs of an instance in this slot.
    ///
    /// # Errors
    /// Fails if the pool has no such slot or no address of a family that an exposure needs, or a user or group is a
    /// name.
    fn fragment(&self, slot: Slot, node: &NodeFacts) -> Result<Fragment, FragmentError>;

    /// Returns the name, unique on the node.
    fn name(&self) -> &InstanceName;

    /// Returns the execution.
    fn execution(&self) -> &Execution;

    /// Returns the same, to be changed.
    fn execution_mut(&mut self) -> &mut Execution;

    /// Returns the network namespace that it lives in; `None` if its kind has none.
    fn namespace(&self) -> Option<&Namespace> {
        None
    }

    /// Returns the same, to be changed, and the name of its interface there.
    fn namespace_mut(&mut self) -> Option<(&mut Namespace, &mut InterfaceName)> {
        None
    }

    /// Returns the exposures.
    fn exposures(&self) -> &[Exposure];

    /// Returns what it may begin connections to; `None` is the reach of the node's guests.
    fn egress(&self) -> Option<&EgressPolicy> {
        None
    }

    /// Returns the limits of what it may use.
    fn limits(&self) -> Limits {
        Limits::default()
    }
}

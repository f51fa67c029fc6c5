//! The kinds, each named once: the list defines the types, and dispatches every call to the file of the kind.

use std::fmt;

use serde_json::Value;

#[cfg(any(test, feature = "toy-kind"))]
use super::Toy;
use super::{Fragment, FragmentError, Function, Implementation, NodeFacts, Pod, alias::Marked};
use crate::{
    definition::{Object, Validator},
    link::Tap,
    model::{
        EgressPolicy, Execution, Exposure, InstanceName, InterfaceName, Limits, Namespace, Slot,
    },
};

/// Defines [`Kind`] and [`Workload`] from the list, and dispatches to the [`Implementation`] of each.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $(#[cfg($gate:meta)])? $kind:ident,)+) => {
        /// A kind of workload. It selects the network implementation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[doc = $doc])+ $(#[cfg($gate)])? $kind,)+
        }

        /// A validated definition of a kind that has a network implementation.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Workload {
            $($(#[doc = $doc])+ $(#[cfg($gate)])? $kind($kind),)+
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$($(#[cfg($gate)])? Self::$kind,)+];

            /// Returns the name of the kind in definitions.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($(#[cfg($gate)])? Self::$kind => $kind::NAME,)+
                }
            }

            /// Returns the collection of the kind's workloads in paths of the API.
            #[must_use]
            pub const fn collection(self) -> &'static str {
                match self {
                    $($(#[cfg($gate)])? Self::$kind => $kind::COLLECTION,)+
                }
            }

            /// Reports whether its instances begin with the interface of a reserved slot if there is one.
            #[must_use]
            pub const fn takes_reserved(self) -> bool {
                match self {
                    $($(#[cfg($gate)])? Self::$kind => $kind::TAKES_RESERVED,)+
                }
            }

            /// Reports whether `run` starts its instances; those of other kinds are started by somebody else.
            #[must_use]
            pub const fn runs(self) -> bool {
                match self {
                    $($(#[cfg($gate)])? Self::$kind => $kind::RUNS,)+
                }
            }

            /// Reports whether the documentation describes the kind, so that errors may suggest it.
            #[must_use]
            pub const fn is_documented(self) -> bool {
                match self {
                    $($(#[cfg($gate)])? Self::$kind => $kind::DOCUMENTED,)+
                }
            }

            /// Reads the kind's own fields of a definition; `None` if a field is wrong.
            pub(crate) fn validate(
                self,
                validator: &mut Validator,
                definition: &Object<'_>,
                name: Option<InstanceName>,
            ) -> Option<Workload> {
                match self {
                    $($(#[cfg($gate)])? Self::$kind => {
                        $kind::validate(validator, definition, name).map(Workload::$kind)
                    })+
                }
            }

            /// Returns the workload of the instance that left this mark on this TAP.
            pub(super) fn recover(self, marked: &Marked, tap: Option<Tap>) -> Workload {
                match self {
                    $($(#[cfg($gate)])? Self::$kind => {
                        Workload::$kind($kind::recover(marked, tap))
                    })+
                }
            }
        }

        impl Workload {
            /// Returns the kind.
            #[must_use]
            pub const fn kind(&self) -> Kind {
                match self {
                    $($(#[cfg($gate)])? Self::$kind(_) => Kind::$kind,)+
                }
            }

            /// Returns the name, unique on the node.
            #[must_use]
            pub fn name(&self) -> &InstanceName {
                match self {
                    $($(#[cfg($gate)])? Self::$kind(workload) => workload.name(),)+
                }
            }

            /// Returns the execution.
            #[must_use]
            pub fn execution(&self) -> &Execution {
                match self {
                    $($(#[cfg($gate)])? Self::$kind(workload) => workload.execution(),)+
                }
            }

            /// Returns the execution, to be changed.
            pub fn execution_mut(&mut self) -> &mut Execution {
                match self {
                    $($(#[cfg($gate)])? Self::$kind(workload) => workload.execution_mut(),)+
                }
            }

            /// Returns the network namespace that it lives in; `None` if its kind has none.
            #[must_use]
            pub fn namespace(&self) -> Option<&Namespace> {
                match self {
                    $($(#[cfg($gate)])? Self::$kind(workload) => workload.namespace(),)+
                }
            }

            /// Returns the same, to be changed, and the name of its interface there.
            pub fn namespace_mut(&mut self) -> Option<(&mut Namespace, &mut InterfaceName)> {
                match self {
                    $($(#[cfg($gate)])? Self::$kind(workload) => workload.namespace_mut(),)+
                }
            }

            /// Returns the exposures; no two of them clash.
            #[must_use]
            pub fn exposures(&self) -> &[Exposure] {
                match self {
                    $($(#[cfg($gate)])? Self::$kind(workload) => workload.exposures(),)+
                }
            }

            /// Returns what it may begin connections to; `None` is the reach of the node's guests.
            #[must_use]
            pub fn egress(&self) -> Option<&EgressPolicy> {
                match self {
                    $($(#[cfg($gate)])? Self::$kind(workload) => workload.egress(),)+
                }
            }

            /// Returns the limits of what it may use.
            #[must_use]
            pub fn limits(&self) -> Limits {
                match self {
                    $($(#[cfg($gate)])? Self::$kind(workload) => workload.limits(),)+
                }
            }

            /// Returns the `spec` of its definition.
            pub(crate) fn spec(&self) -> Value {
                match self {
                    $($(#[cfg($gate)])? Self::$kind(workload) => workload.spec(),)+
                }
            }

            pub(super) fn fragment(
                &self,
                slot: Slot,
                node: &NodeFacts,
            ) -> Result<Fragment, FragmentError> {
                match self {
                    $($(#[cfg($gate)])? Self::$kind(workload) => workload.fragment(slot, node),)+
                }
            }
        }
    };
}

kinds! {
    /// One microVM behind a TAP.
    Function,
    /// Containers in a network namespace, behind a veth.
    Pod,
    /// A kind of the tests.
    #[cfg(any(test, feature = "toy-kind"))]
    Toy,
}

impl Kind {
    /// Returns the kind of this name, spelt as in definitions.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

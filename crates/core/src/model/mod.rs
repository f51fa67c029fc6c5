//! The vocabulary: types that cannot hold an invalid value.
//!
//! Everything here is pure. A value that exists is valid, so nothing downstream checks it again.

mod account;
mod boot_args;
mod destination;
mod egress;
mod egress_policy;
mod execution;
mod exposure;
mod flow_limit;
mod image;
mod ipv6;
mod limits;
mod mark_mask;
mod memory;
mod name;
mod name_rule;
mod namespace;
mod owner;
mod proxy;
mod selector;

pub use crate::address::{
    Addresses, Bracketed, Ends, Family, InterfaceName, InterfaceNameError, Ipv6Unsupported,
    MacAddress, Mtu, MtuError, Pool, PoolError, Slot,
};
pub use crate::workload::{Container, Function, Kind, Pod, Workload};
pub use account::{Account, AccountError, AccountName, SlotAccounts, SlotAccountsError};
pub use boot_args::{BootArgs, BootArgsError};
pub use destination::{Destination, DestinationError, Place};
pub use egress::{Egress, EgressError};
pub use egress_policy::EgressPolicy;
pub use execution::{
    Accelerator, Dns, Execution, ExecutionConflict, OutOfRange, Queues, TooManyServers, Vcpus, Vmm,
};
pub use exposure::{Exposure, ExposureError, PortRange, PortRangeError, Protocol, Ready};
pub use flow_limit::{FlowLimit, FlowLimitError};
pub use image::{EmptySource, Image, Sha256, Sha256Error};
pub use ipv6::{Ipv6, Ipv6Error};
pub use limits::{BitRate, BitRateError, Limits};
pub use mark_mask::{MarkMask, MarkMaskError};
pub use memory::{Memory, MemoryError};
pub use name::{InstanceName, NameError};
pub use name_rule::{NamePattern, NameRule, NameRuleError};
pub use namespace::{Namespace, NamespaceId, NamespacePath, NamespacePathError};
pub use owner::{Mark, Owner, OwnerError, OwnerId, OwnerIdError};
pub use proxy::{Proxy, ProxyAddress, ProxyError};
pub use selector::Selector;

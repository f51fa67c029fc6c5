//! The vocabulary: types that cannot hold an invalid value.
//!
//! Everything here is pure. A value that exists is valid, so nothing downstream checks it again.

mod account;
mod boot_args;
mod execution;
mod exposure;
mod image;
mod interface;
mod mac;
mod memory;
mod mtu;
mod name;
mod owner;
mod pool;
mod selector;
mod workload;

pub use account::{Account, AccountError, AccountName};
pub use boot_args::{BootArgs, BootArgsError};
pub use execution::{
    Accelerator, Dns, Execution, ExecutionConflict, OutOfRange, Queues, TooManyServers, Vcpus, Vmm,
};
pub use exposure::{Exposure, ExposureError, MAX_RANGE, PortRange, PortRangeError, Protocol};
pub use image::{EmptySource, Image, Sha256, Sha256Error};
pub use interface::{InterfaceName, InterfaceNameError};
pub use mac::MacAddress;
pub use memory::{Memory, MemoryError};
pub use mtu::{Mtu, MtuError};
pub use name::{InstanceName, NameError};
pub use owner::{Mark, Owner, OwnerError, OwnerId, OwnerIdError};
pub use pool::{Addresses, Pool, PoolError, Slot};
pub use selector::Selector;
pub use workload::{Function, Kind, Workload};

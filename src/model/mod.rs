//! The vocabulary: types that cannot hold an invalid value.
//!
//! Everything here is pure. A value that exists is valid, so nothing downstream checks it again.

mod exposure;
mod interface;
mod mac;
mod mtu;
mod name;
mod pool;
mod workload;

pub use exposure::{Exposure, ExposureError, MAX_RANGE, PortRange, PortRangeError, Protocol};
pub use interface::{InterfaceName, InterfaceNameError};
pub use mac::MacAddress;
pub use mtu::{Mtu, MtuError};
pub use name::{InstanceName, NameError};
pub use pool::{Addresses, Pool, PoolError, Slot};
pub use workload::{Execution, Function, Kind, Workload};

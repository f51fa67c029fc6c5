//! stub
use crate::{
    kernel::Refusal,
    model::{InstanceName, InterfaceName, MacAddress, Protocol},
};
use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    os::fd::{BorrowedFd, OwnedFd},
};
#[derive(Debug)]
pub struct Guest {
    pub name: InstanceName,
    pub interface: InterfaceName,
    pub address: ipnet::Ipv4Net,
    pub gateway: Ipv4Addr,
    pub mac: MacAddress,
    pub mtu: u32,
    pub ports: BTreeSet<(Protocol, u16)>,
}
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct GuestError(#[from] Refusal);
impl Guest {
    pub fn from_json(_: &str) -> Result<Self, serde_json::Error> {
        unimplemented!()
    }
    #[must_use]
    pub fn to_json(&self) -> String {
        unimplemented!()
    }
}
pub fn die_with_parent() -> Result<(), GuestError> {
    Ok(())
}
pub fn serve(_: &Guest, _: OwnedFd, _: Option<BorrowedFd<'_>>) -> Result<(), GuestError> {
    Ok(())
}

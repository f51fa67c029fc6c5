//! The ports of the host and the instances that hold them.

use std::net::IpAddr;

use super::{Record, Store, StoreError, Tx, sql};
use riklet_core::model::{Exposure, InstanceName, Protocol, Slot};

/// The columns `family` and `address`: 0 stands for both families, and an empty address for every address of the
/// family.
pub(super) struct Bound {
    pub(super) family: u8,
    pub(super) address: String,
}

impl Bound {
    pub(super) fn of(exposure: &Exposure) -> Self {
        exposure.host_address().map_or(Self { family: 0, address: String::new() }, Self::to)
    }

    fn to(address: impl Into<IpAddr>) -> Self {
        let address = address.into().to_canonical();
        let family = if address.is_ipv4() { 4 } else { 6 };
        let every = address.is_unspecified();
        Self { family, address: if every { String::new() } else { address.to_string() } }
    }
}

impl Store {
    /// Returns the instances that hold a port on this address, or on any if there is none. Unreadable records are left out.
    pub(crate) fn holders(
        &self,
        protocol: Protocol,
        address: Option<IpAddr>,
        port: u16,
    ) -> Result<Vec<Record>, StoreError> {
        let bound = address.map_or(Bound { family: 0, address: String::new() }, Bound::to);
        let mut found = Vec::new();
        let params = (protocol.number(), port, bound.family, bound.address);
        let slots: Vec<u16> =
            self.rows("look up a port", sql::HOLDERS, params, |row| row.get(0))?;
        for slot in slots {
            match self.holder(Slot::new(slot)) {
                Ok(holder) => found.extend(holder),
                Err(StoreError::Unreadable(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

impl Tx<'_> {
    /// Fails if an exposure clashes with one of another slot.
    pub(super) fn refuse_clash(
        &self,
        name: &InstanceName,
        slot: Slot,
        exposure: &Exposure,
    ) -> Result<(), StoreError> {
        let operation = "look up a port";
        let (ports, bound) = (exposure.host_ports(), Bound::of(exposure));
        let params = (
            exposure.protocol().number(),
            ports.first(),
            ports.last(),
            bound.family,
            bound.address,
            slot.number(),
        );
        let holder: Option<u16> = self.row(operation, sql::CLASH, params, |row| row.get(0))?;
        let Some(holder) = holder else { return Ok(()) };
        let holder = self.holder(Slot::new(holder))?;
        let held = holder.and_then(|holder| {
            let mut exposures = holder.workload.exposures().iter();
            let held = exposures.find(|held| held.clashes_with(exposure)).copied()?;
            Some((holder.workload.name().clone(), held))
        });
        let (holder, held) = held
            .ok_or_else(|| self.corrupt(operation, "a port's holder does not expose it".into()))?;
        Err(StoreError::PortTaken { name: name.clone(), exposure: *exposure, holder, held })
    }

    /// Gives these ports to a slot. No other slot may have them.
    pub(super) fn take_ports(&self, slot: Slot, exposures: &[Exposure]) -> Result<(), StoreError> {
        for exposure in exposures {
            let (protocol, bound) = (exposure.protocol().number(), Bound::of(exposure));
            for port in exposure.host_ports().iter() {
                let params = (protocol, port, bound.family, &bound.address, slot.number());
                self.execute("take a port", sql::TAKE_PORT, params)?;
            }
        }
        Ok(())
    }

    /// Frees the ports of a record, which are those of its exposures, so that no index from slots to ports is needed.
    pub(super) fn release_ports(&self, record: &Record) -> Result<(), StoreError> {
        for exposure in record.workload.exposures() {
            let (ports, bound) = (exposure.host_ports(), Bound::of(exposure));
            let params = (
                exposure.protocol().number(),
                ports.first(),
                ports.last(),
                bound.family,
                bound.address,
                record.slot.number(),
            );
            self.execute("release ports", sql::RELEASE_PORTS, params)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_its_family() {
        let columns = |text: &str| {
            let bound = Bound::to(text.parse::<IpAddr>().unwrap());
            (bound.family, bound.address)
        };
        for (text, family, address) in [
            ("192.0.2.1", 4, "192.0.2.1"),
            ("0.0.0.0", 4, ""),
            ("2001:db8::0:1", 6, "2001:db8::1"),
            ("::", 6, ""),
            ("::ffff:192.0.2.1", 4, "192.0.2.1"),
        ] {
            assert_eq!(columns(text), (family, address.to_owned()), "{text}");
        }
    }
}

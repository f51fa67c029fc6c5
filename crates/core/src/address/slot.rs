use std::fmt;

use super::{InterfaceName, MacAddress};

/// A small integer that determines everything an instance needs from the node.
///
/// Its interface is `rik<slot>`, its addresses come from [`Pool::addresses`](super::Pool::addresses), its guest's MAC
/// address from [`Slot::guest_mac`]. Allocating a network is allocating the lowest free slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The prefix of the names of our interfaces.
    pub const PREFIX: &'static str = "rik";

    /// Returns the slot with this number. [`Pool::addresses`](super::Pool::addresses) tells whether a pool has it.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Returns the name of the slot's interface on the host, `rik<slot>`.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        clippy::expect_used,
        reason = "`rik` and at most five digits are a valid interface name"
    )]
    pub fn interface(self) -> InterfaceName {
        InterfaceName::try_from(&*format!("{}{}", Self::PREFIX, self.0)).expect("a valid name")
    }

    /// Returns the slot whose interface has this name; `None` if no slot's has (`rik01`, `rikx`, `eth0`).
    #[must_use]
    pub fn of_interface(name: &str) -> Option<Self> {
        let digits = name.strip_prefix(Self::PREFIX)?;
        let canonical = digits == "0" || !digits.starts_with(['0', '+']);
        digits.parse().ok().filter(|_| canonical).map(Self)
    }

    /// Returns the MAC address that version 0.1 gave the TAP on the host; later versions use [`super::GATEWAY_MAC`]. An
    /// instance that has been up since then keeps it.
    #[must_use]
    pub const fn former_host_mac(self) -> MacAddress {
        let [high, low] = self.0.to_be_bytes();
        MacAddress::new([0x02, b'R', b'I', b'K', high, low])
    }

    /// Returns the MAC address that the guest's NIC must have: the host keeps a permanent neighbour entry for it.
    #[must_use]
    pub const fn guest_mac(self) -> MacAddress {
        let [high, low] = self.0.to_be_bytes();
        MacAddress::new([0x06, b'R', b'I', b'K', high, low])
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_name_is_a_slots_interface() {
        assert_eq!(Slot::of_interface("rik0"), Some(Slot::new(0)));
        assert_eq!(Slot::of_interface("rik65535"), Some(Slot::new(65_535)));
        for other in ["rik", "rik01", "rik+1", "rikx", "rik65536", "eth0", "rik-1"] {
            assert_eq!(Slot::of_interface(other), None, "{other}");
        }
    }
}

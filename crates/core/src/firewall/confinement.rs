use std::collections::BTreeSet;

use crate::model::InterfaceName;

/// The packets that the host forwards only because we turned forwarding on, and that no program asked for.
///
/// A packet that comes in by an interface of [`Self::from`] and leaves by one of [`Self::to`] is dropped, as the host
/// would have done without us. The rule does not decide about any other packet that is neither from nor to one of our
/// interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confinement {
    from: BTreeSet<InterfaceName>,
    to: BTreeSet<InterfaceName>,
    bridges: BTreeSet<InterfaceName>,
    /// The packets of IPv6, if there are any; the rest is of IPv4.
    v6: Option<Box<Self>>,
}

impl Confinement {
    /// Confines packets that come in by `from` and leave by `to`. It is empty if no packet can do both.
    ///
    /// `bridges` are those of the interfaces that are bridges. With `br_netfilter`, packets from one port of a bridge
    /// to another look as if they came in and left by the bridge; they are bridged, not forwarded, and are exempt.
    #[must_use]
    pub fn new(
        from: BTreeSet<InterfaceName>,
        to: BTreeSet<InterfaceName>,
        bridges: BTreeSet<InterfaceName>,
    ) -> Self {
        let confined = Self { from, to, bridges, v6: None };
        if confined.pairs().next().is_some() { confined } else { Self::default() }
    }

    /// Confines these packets of IPv6 as well. What it was created with are packets of IPv4.
    #[must_use]
    pub fn with_v6(self, v6: Self) -> Self {
        Self { v6: (!v6.from.is_empty()).then(|| Box::new(v6)), ..self }
    }

    /// Returns the confined packets of IPv6; `None` if there are none.
    #[must_use]
    pub fn v6(&self) -> Option<&Self> {
        self.v6.as_deref()
    }

    /// Reports whether nothing is confined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.from.is_empty() && self.v6.is_none()
    }

    /// Returns the interfaces whose forwarding was off before us.
    #[must_use]
    pub const fn from(&self) -> &BTreeSet<InterfaceName> {
        &self.from
    }

    /// Returns the interfaces that existed when forwarding was switched on.
    #[must_use]
    pub const fn to(&self) -> &BTreeSet<InterfaceName> {
        &self.to
    }

    /// Reports whether packets that come in by this interface may leave by it again.
    #[must_use]
    pub fn exempts(&self, interface: &InterfaceName) -> bool {
        self.bridges.contains(interface)
    }

    /// Returns the interfaces of IPv6 in pairs, as [`Self::pairs`] does those of IPv4.
    pub fn pairs_v6(&self) -> impl Iterator<Item = (&InterfaceName, &InterfaceName)> {
        self.v6.iter().flat_map(|v6| v6.pairs())
    }

    /// Returns the interfaces in pairs: a packet that comes in by the first and leaves by the second is dropped.
    pub fn pairs(&self) -> impl Iterator<Item = (&InterfaceName, &InterfaceName)> {
        let pairs = self.from.iter().flat_map(|from| self.to.iter().map(move |to| (from, to)));
        pairs.filter(|(from, to)| from != to || !self.exempts(from))
    }
}

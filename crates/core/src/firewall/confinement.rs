use std::collections::BTreeSet;

use crate::model::InterfaceName;

/// The traffic of others that only our forwarding makes possible, and that is dropped.
///
/// A packet that comes in by one of [`Self::from`] and leaves by another interface that is one of [`Self::to`] is
/// dropped, as the host would have done without us. Every other packet that is neither from nor to one of our
/// interfaces is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confinement {
    /// The interfaces whose forwarding was off before us.
    from: BTreeSet<InterfaceName>,
    /// The interfaces that existed when it was turned on.
    to: BTreeSet<InterfaceName>,
}

impl Confinement {
    /// Confines packets that come in by one of `from` and leave by another of `to`. If there are no such two,
    /// nothing is confined.
    #[must_use]
    pub fn new(from: BTreeSet<InterfaceName>, to: BTreeSet<InterfaceName>) -> Self {
        let confined = Self { from, to };
        if confined.pairs().next().is_some() { confined } else { Self::default() }
    }

    /// Reports whether nothing is confined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.from.is_empty()
    }

    /// Returns the interfaces that packets come in by.
    #[must_use]
    pub const fn from(&self) -> &BTreeSet<InterfaceName> {
        &self.from
    }

    /// Returns the interfaces that packets would leave by.
    #[must_use]
    pub const fn to(&self) -> &BTreeSet<InterfaceName> {
        &self.to
    }

    /// Returns pairs of interfaces: in by the first, out by the second.
    ///
    /// No interface is paired with itself: with `br_netfilter`, that is the traffic between the ports of a
    /// bridge.
    pub fn pairs(&self) -> impl Iterator<Item = (&InterfaceName, &InterfaceName)> {
        let pair = |from| self.to.iter().filter(move |to| *to != from).map(move |to| (from, to));
        self.from.iter().flat_map(pair)
    }
}

use std::collections::BTreeSet;

use crate::model::InterfaceName;

/// What our own forwarding makes possible besides, and nobody asked for.
///
/// A packet that comes in by one of [`Self::from`] and leaves by another interface that is one of [`Self::to`] is
/// dropped, as the host would have done without us. Every other packet that is neither from nor to one of our
/// interfaces is let alone: who sends it on is not our business.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confinement {
    /// The interfaces whose forwarding was off before us.
    from: BTreeSet<InterfaceName>,
    /// The interfaces that were there when it was turned on.
    to: BTreeSet<InterfaceName>,
}

impl Confinement {
    /// Confines what comes in by `from` and leaves by another of `to`. Where there are no such two, nothing.
    #[must_use]
    pub fn new(from: BTreeSet<InterfaceName>, to: BTreeSet<InterfaceName>) -> Self {
        let confined = Self { from, to };
        if confined.pairs().next().is_some() { confined } else { Self::default() }
    }

    /// Whether nothing is confined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.from.is_empty()
    }

    /// The interfaces that packets come in by.
    #[must_use]
    pub const fn from(&self) -> &BTreeSet<InterfaceName> {
        &self.from
    }

    /// The interfaces that packets would leave by.
    #[must_use]
    pub const fn to(&self) -> &BTreeSet<InterfaceName> {
        &self.to
    }

    /// Lists the interfaces by twos: in by the first, out by the second.
    ///
    /// What leaves by the interface that it came in by is left out: with `br_netfilter`, that is what the guests of a
    /// bridge say to each other.
    pub fn pairs(&self) -> impl Iterator<Item = (&InterfaceName, &InterfaceName)> {
        let pair = |from| self.to.iter().filter(move |to| *to != from).map(move |to| (from, to));
        self.from.iter().flat_map(pair)
    }
}

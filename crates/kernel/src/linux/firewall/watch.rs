//! Distinguishes our changes of the firewall from those of others, by the notifications of nf_tables. Pure.
//!
//! A backend defines which objects are its own, and how its own changes are recognized ([`Watch`]); the rules for
//! foreign forward chains are the same for all backends.

use super::nftables::{self, Generation, Notification, Object, ObjectChange};
use crate::linux::watched::Message;
use riklet_core::firewall::{ForeignChain, ForeignChainState, ForeignFamily, names};

/// The way in which changes of a backend's ruleset are noticed.
#[derive(Debug, Clone, Copy)]
pub(in crate::linux) struct Watch {
    /// Reports whether a change of this object affects our ruleset.
    pub(super) concerns: fn(&Object<'_>) -> bool,
    /// The beginning of the names of the processes that apply our changes; `None` if our own socket does.
    pub(super) program: Option<&'static str>,
    /// True if the kernel notifies of changes at all.
    pub(super) announced: bool,
}

impl Default for Watch {
    /// Returns the watch of nftables, which is used until the backend is known.
    fn default() -> Self {
        Self { concerns: nftables::concerns, program: None, announced: true }
    }
}

impl Watch {
    /// Reports whether programs make our changes, of which only their names tell that they are ours.
    pub(in crate::linux) const fn is_by_program(self) -> bool {
        self.program.is_some()
    }

    /// Reports whether the kernel notifies of changes at all. If not, the ruleset has to be read again now and
    /// then.
    pub(in crate::linux) const fn is_announced(self) -> bool {
        self.announced
    }
}

/// The effect of a transaction of another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::linux) struct Touched {
    /// Our ruleset.
    pub(in crate::linux) firewall: bool,
    /// A chain that is, or may become, a foreign forward chain.
    pub(in crate::linux) foreign_chains: bool,
    /// Anything that may decide which packets others translate.
    pub(in crate::linux) translations: bool,
}

impl Touched {
    const fn add(&mut self, other: Self) {
        self.firewall |= other.firewall;
        self.foreign_chains |= other.foreign_chains;
        self.translations |= other.translations;
    }
}

/// The transactions as they are notified: each object that they touched, and at the end the process that made them.
#[derive(Debug, Default)]
pub(in crate::linux) struct Transactions {
    in_progress: Touched,
    /// Touched by others since the last [`Self::take_fresh`].
    fresh: Touched,
    /// Touched by others since the last [`Self::take`].
    touched: Touched,
    causes: Vec<String>,
}

/// The facts that tell our changes from those of others.
#[derive(Debug, Clone, Copy)]
pub(in crate::linux) struct Ours<'a> {
    pub(in crate::linux) watch: Watch,
    /// The port of our own socket.
    pub(in crate::linux) port: Option<u32>,
    /// True if a change of ours is being applied.
    pub(in crate::linux) applying: bool,
    /// The foreign forward chains that were found.
    pub(in crate::linux) foreign_chains: &'a [ForeignChainState],
}

impl Transactions {
    /// Processes a notification.
    pub(in crate::linux) fn hear(&mut self, message: Message<'_>, ours: Ours<'_>) {
        let by_our_socket = ours.port == Some(message.port);
        match Notification::read(message) {
            Some(Notification::Object(object)) if !by_our_socket => {
                self.in_progress.add(ours.touched(&object));
            }
            Some(Notification::Committed(generation)) => {
                self.commit(generation, by_our_socket || ours.is_by_our_program(generation));
            }
            _ => {}
        }
    }

    fn commit(&mut self, Generation { name, process }: Generation<'_>, by_us: bool) {
        let touched = std::mem::take(&mut self.in_progress);
        if by_us {
            return;
        }
        self.fresh.add(touched);
        self.touched.add(touched);
        if touched.firewall {
            self.causes.push(format!("{name} (pid {process}) changed our part of the firewall"));
        }
    }

    /// Returns what others touched since the last call, and who it was.
    pub(in crate::linux) fn take(&mut self) -> (Touched, Vec<String>) {
        (std::mem::take(&mut self.touched), std::mem::take(&mut self.causes))
    }

    /// Returns what others touched since the last call, so that it is forgotten.
    pub(in crate::linux) fn take_fresh(&mut self) -> Touched {
        std::mem::take(&mut self.fresh)
    }
}

impl Ours<'_> {
    fn is_by_our_program(&self, generation: Generation<'_>) -> bool {
        self.applying && self.watch.program.is_some_and(|name| generation.name.starts_with(name))
    }

    fn touched(&self, object: &Object<'_>) -> Touched {
        Touched {
            firewall: (self.watch.concerns)(object),
            foreign_chains: self.touches_foreign_chain(object),
            translations: [Object::INET, Object::IPV4].contains(&object.family)
                && !nftables::is_ours(object),
        }
    }

    fn touches_foreign_chain(&self, object: &Object<'_>) -> bool {
        let family = match object.family {
            Object::INET => ForeignFamily::Inet,
            Object::IPV4 => ForeignFamily::Ip,
            _ => return false,
        };
        // Our own table has no foreign chains, whichever backend is in use.
        if nftables::is_ours(object) {
            return false;
        }
        let is_ours = object.chain.is_some_and(names::is_our_chain);
        let is_part = || self.has_part(family, object.table, object.chain);
        match object.change {
            // The flags of a table, such as its owner, decide whether its chains can be changed.
            ObjectChange::NewTable | ObjectChange::DeletedTable => is_part(),
            ObjectChange::Chain => is_ours || object.hooked || is_part(),
            ObjectChange::Rule => is_ours || object.chain.is_some() && is_part(),
            ObjectChange::Element => object.chain.is_some() && is_part(),
            ObjectChange::Other => false,
        }
    }

    /// Reports whether this table has a foreign forward chain, and this chain or map of it decides about our traffic.
    fn has_part(&self, family: ForeignFamily, table: &str, part: Option<&str>) -> bool {
        self.foreign_chains.iter().any(|state| match &state.foreign_chain {
            ForeignChain::Nftables { family: of, table: within, .. } => {
                *of == family
                    && within == table
                    && part.is_none_or(|part| state.parts.contains(part))
            }
            ForeignChain::LegacyIptables(_) => false,
        })
    }
}

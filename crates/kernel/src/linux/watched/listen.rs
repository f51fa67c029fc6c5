//! Processes the notifications that have arrived, and asks for what they do not tell.

use super::{super::firewall::watch::Ours, Message, Watched};
use crate::{KernelError, Links};
use riklet_core::routing::LONGEST_DEFAULT;

/// `RTM_*`: routes, rules, nexthops.
const NEW_ROUTE: u16 = 24;
const DELETED_ROUTE: u16 = 25;
const RULES_AND_NEXTHOPS: [u16; 4] = [32, 33, 104, 105];

/// The number of interfaces that are created or drained before the notifications are read. Each causes about eight, and the
/// buffer would not hold those of thousands.
const UNREAD: usize = 64;

impl Watched {
    /// Processes the notifications that have arrived. An operation, which sees the host as it was at its start, does so
    /// only after its own changes.
    pub(super) fn catch_up(&mut self) -> Result<(), KernelError> {
        if self.in_operation && !self.changed { Ok(()) } else { self.listen() }
    }

    /// Notes that this many interfaces were created or drained, and processes the notifications if there are many. Few are
    /// left until the next answer from memory, or until after the operation.
    pub(super) fn listen_after(&mut self, count: usize) -> Result<(), KernelError> {
        self.unread += count;
        if self.unread >= UNREAD { self.listen() } else { Ok(()) }
    }

    /// Processes the notifications that have arrived.
    pub(super) fn listen(&mut self) -> Result<(), KernelError> {
        self.changed = false;
        self.unread = 0;
        let failed = |source| KernelError::Listen { source };
        let Self { route, mirror, .. } = self;
        let mut uplinks = false;
        let lost = route
            .drain(|message| {
                mirror.hear(message);
                uplinks |= may_move_uplinks(message);
            })
            .map_err(failed)?;
        mirror.catch_up();
        if self.mirror.take_strangers() {
            self.forget_strangers();
            uplinks = true;
        }
        if self.mirror.take_interfaces() {
            // A new interface has its own switches.
            self.forget_switches();
            self.forget_interfaces();
        }
        if uplinks {
            self.forget_uplinks();
            self.uplinks_suspected = true;
        }
        if self.mirror.take_switched() {
            self.forget_switches();
            self.forget_strangers();
            self.switched = true;
        }
        if lost {
            self.lost = true;
            self.forget();
        }
        self.listen_to_firewall()
    }

    /// Processes the notifications of nf_tables that have arrived.
    pub(super) fn listen_to_firewall(&mut self) -> Result<(), KernelError> {
        let Self { netfilter, transactions, .. } = self;
        let ours = Ours {
            watch: self.watch,
            port: self.kernel.nftables.port(),
            applying: self.applying,
            foreign_chains: self.foreign_chains.as_ref().map_or(&[], |(_, found)| found),
        };
        let lost = netfilter.drain(|message| transactions.hear(message, ours));
        let lost = lost.map_err(|source| KernelError::Listen { source })?;
        let fresh = self.transactions.take_fresh();
        if fresh.firewall {
            self.firewall = None;
        }
        if fresh.foreign_chains {
            self.foreign_chains = None;
        }
        if fresh.translations {
            self.translations = None;
        }
        if lost {
            self.lost = true;
            self.forget();
        }
        Ok(())
    }

    /// Asks for the interfaces that the notifications do not describe completely.
    pub(super) fn learn(&mut self) -> Result<(), KernelError> {
        for name in self.mirror.unknown() {
            let found = self.kernel.link(&name)?;
            self.mirror.learn(&name, found);
        }
        Ok(())
    }

    /// Completes the mirror, and brings it up to date.
    pub(super) fn look(&mut self) -> Result<(), KernelError> {
        self.catch_up()?;
        if !self.mirrored {
            let links = self.kernel.links_by_index()?;
            self.mirror.fill(links);
            self.mirrored = true;
            // The list includes changes that were notified before the listing, and not those that were notified since.
            self.listen()?;
        }
        self.learn()
    }
}

/// Reports whether a packet to the Internet may leave by another interface from now on.
fn may_move_uplinks(message: Message<'_>) -> bool {
    match message.kind {
        // `rtm_dst_len`
        NEW_ROUTE | DELETED_ROUTE => {
            message.body().get(1).is_some_and(|length| *length <= LONGEST_DEFAULT)
        }
        kind => RULES_AND_NEXTHOPS.contains(&kind),
    }
}

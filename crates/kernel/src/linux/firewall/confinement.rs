//! The confinement of others, in a table of nf_tables that ends with the process that keeps it, whatever the backend is.
//!
//! It is left to the backend where there is no such table: on a kernel without nf_tables, or before Linux 5.12, whose tables
//! have no owner.

use std::borrow::Cow;

use rustix::io::Errno;

use crate::{Refusal, linux::Linux};
use riklet_core::firewall::{BaseRuleset, Confinement, nftables::confinement};

/// The part of a process in the confinement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::linux) enum Keeper {
    /// Another process may have the table.
    #[default]
    Other,
    /// This process has the table, if something is confined.
    Own,
    /// This process would have it, and the kernel has no such tables.
    Refused,
}

impl Linux {
    /// Returns the part of a base ruleset that is the backend's, and whether the rest is as it should be.
    pub(super) fn without_confinement<'a>(
        &mut self,
        base_ruleset: &'a BaseRuleset,
    ) -> (Cow<'a, BaseRuleset>, bool) {
        let whole = (Cow::Borrowed(base_ruleset), true);
        if self.keeper == Keeper::Refused {
            return whole;
        }
        let asked = self.nftables.connection();
        let Ok(found) = asked.and_then(|connection| connection.table(&confinement::name())) else {
            return whole;
        };
        let owned = found.as_ref().filter(|table| table.is_owned());
        let stands = match self.keeper {
            Keeper::Own => confinement::stands(owned, &base_ruleset.confined),
            // Its owner sees to it.
            _ if owned.is_some() => true,
            _ => return whole,
        };
        let confined = Confinement::default();
        (Cow::Owned(BaseRuleset { confined, ..base_ruleset.clone() }), stands)
    }

    /// Replaces the table of this process; `false` if the kernel has no such tables. Does nothing for another process.
    pub(in crate::linux) fn confine(&mut self, confined: &Confinement) -> Result<bool, Refusal> {
        /// The errors of a kernel that does not know the flag, or has no nf_tables.
        const UNKNOWN: [Errno; 3] = [Errno::OPNOTSUPP, Errno::INVAL, Errno::NOENT];
        if self.keeper != Keeper::Own {
            return Ok(true);
        }
        let connection = self.nftables.connection()?;
        if confined.is_empty() && connection.table(&confinement::name())?.is_none() {
            return Ok(true);
        }
        match connection.commit(confinement::operations(confined)) {
            Err(refusal)
                if UNKNOWN.iter().any(|errno| refusal.errno == Some(errno.raw_os_error())) =>
            {
                self.keeper = Keeper::Refused;
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }
}

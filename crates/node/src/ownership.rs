//! Refuses objects of other records on a host that has no objects of our own records.

use super::{NodeError, host, session::Context};
use crate::store::Store;
use riklet_core::{
    model::{Mark, Owner, OwnerId},
    plan::{self, Adoption, Claim, Object},
    workload::alias,
};
use riklet_kernel::Kernel;

/// Keeps the error of a failed look for later, so that the records are still changed; fails at once if the look found
/// claims of others.
pub(crate) fn unless_claimed<T>(
    look: Result<T, NodeError>,
) -> Result<Result<T, NodeError>, NodeError> {
    match look {
        Err(claimed @ NodeError::Claimed { .. }) => Err(claimed),
        look => Ok(look),
    }
}

impl<K: Kernel> Context<'_, K> {
    /// Returns every interface that bears a mark, with any owner.
    fn marked_links(&mut self) -> Result<Vec<(Object, Mark)>, NodeError> {
        let links = self.kernel.links()?.into_iter();
        let found = links.filter_map(|link| Some((alias::mark(link.alias.as_deref())?, link.name)));
        Ok(found.map(|(mark, name)| (Object::Link(name), mark)).collect())
    }

    /// Returns every object on the host that bears a mark, with any owner.
    pub(crate) fn marked(&mut self) -> Result<Vec<(Object, Mark)>, NodeError> {
        let mut found = self.marked_links()?;
        let mut bare = true;
        for (backend, state) in host::firewalls(self.kernel, self.config)? {
            bare &= state.marks.is_empty();
            found.extend(state.marks.into_iter().map(|mark| (Object::Firewall(backend), mark)));
        }
        if bare {
            // A passage counts as an object of its own only if no firewall of ours leads to it.
            let passages = self.kernel.passages()?.into_iter();
            found.extend(passages.map(|chain| (Object::ForeignChain(chain), Mark::Unsigned)));
        }
        Ok(found)
    }

    /// Returns the claims on a host that this state directory has recorded nothing of: on all that bears a mark.
    pub(crate) fn claims_of_unrecorded(&mut self) -> Result<Vec<Claim>, NodeError> {
        let found = self.marked()?;
        Ok(self.claims_of_nobody(Adoption::Nothing, &found))
    }

    /// Returns the claims on these objects that this adoption does not settle, for a state directory that has recorded
    /// nothing.
    pub(crate) fn claims_of_nobody(
        &self,
        adoption: Adoption,
        found: &[(Object, Mark)],
    ) -> Vec<Claim> {
        let directory = Store::canonical(&self.config.state_dir);
        let nobody = Owner::new(OwnerId::new(0), &directory.to_string_lossy());
        plan::claims(&nobody, false, adoption, found)
    }

    /// Refuses to show a state directory that has recorded nothing, if objects on the host belong to other records. Looks
    /// at no more than this user may see: anybody may list interfaces, and only root the firewall.
    pub(crate) fn refuse_visible(&mut self) -> Result<(), NodeError> {
        let links = self.marked_links()?;
        let claims = self.claims_of_nobody(Adoption::Nothing, &links);
        self.refuse(claims)?;
        match self.claims_of_unrecorded() {
            Err(NodeError::Kernel(error)) if error.refusal().is_permission() => Ok(()),
            claims => self.refuse(claims?),
        }
    }

    /// Refuses the first use of this state directory if objects on the host belong to other records.
    pub(crate) fn refuse_unrecorded(&mut self) -> Result<(), NodeError> {
        let claims = self.claims_of_unrecorded()?;
        self.refuse(claims)
    }

    /// Fails if there are claims.
    pub(crate) fn refuse(&self, claims: Vec<Claim>) -> Result<(), NodeError> {
        if claims.is_empty() {
            return Ok(());
        }
        Err(NodeError::Claimed { claims, state_dir: self.config.state_dir.clone() })
    }
}

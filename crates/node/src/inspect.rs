//! Lists and inspects recorded instances, each with its state in the kernel.

use std::collections::BTreeMap;

use super::{
    Instance, LinkStatus, NodeError,
    host::Interfaces,
    outcome::chain,
    record::fragment,
    session::{Operations, Used},
};
use crate::store::{Record, Records, Unreadable};
use riklet_core::{
    link::{LinkSpec, LinkState},
    model::InstanceName,
};
use riklet_kernel::{Kernel, Links};

/// A line of [`Node::list`](crate::Node::list).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedInstance {
    /// The recorded instance.
    pub instance: Instance,
    /// The state of its interface.
    pub link: LinkStatus,
}

/// The answer of [`Node::inspect`](crate::Node::inspect).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// The recorded instance.
    pub instance: Instance,
    /// The state of the interface.
    pub status: LinkStatus,
    /// The interface of that name; `None` if there is none.
    pub link: Option<LinkState>,
    /// The differences between the interface and what it should be.
    pub drift: Vec<String>,
    /// The parts that the network namespace of a pod lacks. They are the guest's to change, and no drift. An error where it
    /// cannot be looked at.
    pub inside: Vec<String>,
    /// True if the firewall has its exposures.
    pub exposed: bool,
}

impl Inspection {
    /// Creates the inspection of an instance of which only the state of the interface is known.
    #[must_use]
    pub const fn new(instance: Instance, status: LinkStatus) -> Self {
        Self { instance, status, link: None, drift: vec![], inside: vec![], exposed: false }
    }
}

impl<K: Kernel> Operations<'_, K> {
    pub(crate) fn list(&mut self) -> Result<Vec<ListedInstance>, NodeError> {
        let mut reading = self.glance()?;
        let Some(Used { store, host, context }) = reading.used(Interfaces::Recorded)? else {
            return reading.context.refuse_visible().map(|()| vec![]);
        };
        let links = context.kernel.links()?.into_iter();
        let links: BTreeMap<_, _> = links.map(|link| (link.name.clone(), link)).collect();
        let listed = |record: &Record| {
            let link = links.get(&record.slot.interface());
            let instance = Instance::of(&host.node, record)?;
            Ok(ListedInstance { instance, link: LinkStatus::of(&host, link) })
        };
        let Records { readable, unreadable } = store.all()?;
        for Unreadable { record, .. } in &unreadable {
            tracing::warn!("{record}");
        }
        let present = readable.into_iter().filter_map(|record| context.cache.as_committed(record));
        let present: Vec<_> = present.collect();
        present.iter().map(listed).collect()
    }

    pub(crate) fn inspect(&mut self, name: &InstanceName) -> Result<Inspection, NodeError> {
        let mut reading = self.glance()?;
        let Some(Used { store, host, context }) = reading.used(Interfaces::Recorded)? else {
            reading.context.refuse_visible()?;
            return Err(reading.context.unknown(name, None));
        };
        let record = store.get(name)?.and_then(|record| context.cache.as_committed(record));
        let Some(record) = record else {
            return Err(context.unknown(name, store.nearest(name.as_str())?));
        };
        let link = context.kernel.link(&record.slot.interface())?;
        let fragment = fragment(&host, &record)?;
        let drift = link.as_ref().map(|link| fragment.link.differences(link)).unwrap_or_default();
        let inside = link.as_ref().map(|_| inside(context.kernel, &fragment.link));
        let exposed = match &host.base_ruleset {
            Some(base_ruleset) => {
                let entries = fragment.entries.iter().copied().collect();
                context.kernel.probe_firewall(host.backend, base_ruleset, &entries)?
            }
            None => false,
        };
        Ok(Inspection {
            instance: Instance::of(&host.node, &record)?,
            status: LinkStatus::of(&host, link.as_ref()),
            link,
            drift: drift.iter().map(ToString::to_string).collect(),
            inside: inside.unwrap_or_default(),
            exposed,
        })
    }
}

/// Returns what the namespace of a veth lacks; nothing if this process may not enter it.
pub(crate) fn inside(kernel: &mut impl Links, spec: &LinkSpec) -> Vec<String> {
    let Some(peer) = spec.peer() else { return vec![] };
    match kernel.peer(spec) {
        Ok(state) => peer.lacks(state.as_ref(), spec.mtu),
        // A daemon need not have the privilege.
        Err(error) if error.refusal().is_permission() => vec![],
        Err(error) => vec![chain(&error)],
    }
}

//! The order of steps: at no time does a packet pass that would not pass before or after.

use super::Step;

/// The steps of a plan, by what they change.
pub(super) struct Changes {
    /// Those that make interfaces, and change them.
    pub(super) links: Vec<Step>,
    /// Those that turn IPv6 on for interfaces.
    pub(super) ipv6: Vec<Step>,
    /// Those that take interfaces out of service.
    pub(super) drain: Vec<Step>,
    /// The one that deletes interfaces.
    pub(super) delete: Option<Step>,
    pub(super) firewall: Vec<Step>,
    /// The one that forgets flows.
    pub(super) flows: Option<Step>,
    pub(super) foreign_chains: Vec<Step>,
    pub(super) routing: Vec<Step>,
    pub(super) sysctls: Vec<Step>,
    /// Those that write files of network managers.
    pub(super) managers: Vec<Step>,
}

impl Changes {
    /// Returns the steps in order, given whether objects of ours shall remain.
    pub(super) fn in_order(self, remain: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        if remain {
            // A manager takes over a new interface at once, so its file is written first.
            steps.extend(self.managers);
            // The firewall is set before forwarding is enabled, and TAPs are created before ports lead to them.
            steps.extend(self.links);
            steps.extend(self.firewall);
            steps.extend(self.ipv6);
            steps.extend(self.foreign_chains);
            steps.extend(self.routing);
            steps.extend(self.sysctls);
            // TAPs are set down before their flows are forgotten: a guest that still sends would begin a flow anew.
            steps.extend(self.drain);
            steps.extend(self.flows);
            steps.extend(self.delete);
        } else {
            // Forwarding ends, and the TAPs are down, before the firewall that confined both is removed.
            steps.extend(self.drain);
            steps.extend(self.sysctls);
            steps.extend(self.routing);
            steps.extend(self.foreign_chains);
            steps.extend(self.firewall);
            steps.extend(self.flows);
            steps.extend(self.delete);
            steps.extend(self.managers);
        }
        steps
    }
}

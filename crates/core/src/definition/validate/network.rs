//! Validates `network`, which describes what a guest may reach.

use super::{Object, Reason, Validator};
use crate::{
    model::{Destination, Egress, EgressPolicy},
    reach,
};

const NETWORK: &[&str] = &["egress"];
const EGRESS: &[&str] = &["default", "allow", "deny"];

impl Validator {
    /// Returns the policy of `network.egress`; `None` if there is none, or after an error is noted.
    pub(crate) fn egress(&mut self, function: &Object<'_>) -> Option<EgressPolicy> {
        let node = function.get("network")?;
        let network = self.object(node, &function.path("network"), NETWORK)?;
        let node = network.get("egress")?;
        let egress = self.object(node, &network.path("egress"), EGRESS)?;
        let default = self.choice(&egress, "default", "reach", &Egress::ALL, Egress::as_str);
        let allow = self.destinations(&egress, "allow");
        let deny = self.destinations(&egress, "deny");
        let policy = EgressPolicy::new(default, allow, deny);
        // A record was counted when it was a definition.
        let blocks = if self.recorded { 0 } else { reach::count(&policy) };
        if blocks > EgressPolicy::MAX_BLOCKS {
            self.refuse(node.at, network.path("egress"), Reason::Blocks { found: blocks });
        }
        Some(policy)
    }

    fn destinations(&mut self, egress: &Object<'_>, name: &str) -> Vec<Destination> {
        let list = self.list(egress, name, "a list of destinations");
        let Some((at, items)) = list else { return vec![] };
        let path = egress.path(name);
        if items.len() > EgressPolicy::MAX {
            self.refuse(at, path, Reason::Destinations { found: items.len() });
            return vec![];
        }
        let read = |text: &str| text.parse().map_err(Reason::Destination);
        let read = |(index, item)| self.parsed(item, format!("{path}[{index}]"), read);
        items.iter().enumerate().filter_map(read).collect()
    }
}

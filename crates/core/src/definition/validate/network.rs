//! Validates `network`, which describes what a guest may reach.

use super::{Object, Reason, Validator};
use crate::{
    definition::tree::{TreeNode, Value},
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
        let blocks = reach::count(&policy);
        if blocks > EgressPolicy::MAX_BLOCKS {
            self.refuse(node.at, network.path("egress"), Reason::Blocks { found: blocks });
        }
        Some(policy)
    }

    fn destinations(&mut self, egress: &Object<'_>, name: &str) -> Vec<Destination> {
        let Some(node) = egress.get(name) else { return vec![] };
        let path = egress.path(name);
        let Value::List(items) = &node.value else {
            let expected = "a list of destinations";
            self.refuse(node.at, path, Reason::Sort { expected, found: node.value.sort() });
            return vec![];
        };
        if items.len() > EgressPolicy::MAX {
            self.refuse(node.at, path, Reason::Destinations { found: items.len() });
            return vec![];
        }
        let read = |(index, item)| self.destination(item, format!("{path}[{index}]"));
        items.iter().enumerate().filter_map(read).collect()
    }

    fn destination(&mut self, node: &TreeNode, path: String) -> Option<Destination> {
        let destination = match &node.value {
            Value::String(text) => text.parse().map_err(Reason::Destination),
            other => Err(Reason::Sort { expected: "a string", found: other.sort() }),
        };
        self.accept(destination, node.at, || path)
    }
}

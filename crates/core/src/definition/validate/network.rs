//! Validates `network`, which describes what a guest may reach, and what it may use up.

use super::{Object, Reason, Validator, Value};
use crate::{
    model::{
        BitRate, Destination, DestinationError, Egress, EgressPolicy, Limits, NameRule, PortRange,
        Proxy, ProxyAddress,
    },
    reach,
};

const NETWORK: &[&str] = &["egress", "limits"];
const EGRESS: &[&str] = &["default", "allow", "deny", "via", "viaPorts"];
const LIMITS: &[&str] = &["egress", "ingress"];

impl Validator {
    /// Returns the policy of `network.egress`, and the limits of `network.limits`; those that there are not, or that an error
    /// is noted for, are none.
    pub(crate) fn network(&mut self, function: &Object<'_>) -> (Option<EgressPolicy>, Limits) {
        let network = self.optional_object(function, "network", NETWORK);
        let Some(network) = network else { return (None, Limits::default()) };
        (self.egress(&network), self.limits(&network))
    }

    /// Does the same where a policy may have no names.
    pub(crate) fn network_without_names(
        &mut self,
        pod: &Object<'_>,
    ) -> (Option<EgressPolicy>, Limits) {
        let (policy, limits) = self.network(pod);
        let rule = policy.as_ref().and_then(|policy| policy.names().first());
        if let (Some(rule), Some(node)) = (rule, pod.get("network")) {
            let path = format!("{}.egress.allow", pod.path("network"));
            self.refuse(node.at, path, Reason::NamesOfPod { rule: rule.clone() });
        }
        (policy, limits)
    }

    fn limits(&mut self, network: &Object<'_>) -> Limits {
        let limits = self.optional_object(network, "limits", LIMITS);
        let Some(limits) = limits else { return Limits::default() };
        Limits { egress: self.rate(&limits, "egress"), ingress: self.rate(&limits, "ingress") }
    }

    fn rate(&mut self, limits: &Object<'_>, name: &str) -> Option<BitRate> {
        let node = limits.get(name)?;
        let rate = match &node.value {
            Value::String(text) => text.parse().map_err(Reason::Rate),
            other => {
                let expected = "a rate such as 100Mbit";
                Err(Reason::Sort { expected, found: other.sort() })
            }
        };
        self.accept(rate, node.at, || limits.path(name))
    }

    /// Returns the policy of `network.egress`; `None` if there is none, or after an error is noted.
    fn egress(&mut self, network: &Object<'_>) -> Option<EgressPolicy> {
        let node = network.get("egress")?;
        let egress = self.object(node, &network.path("egress"), EGRESS)?;
        let default = self.choice(&egress, "default", "reach", &Egress::ALL, Egress::as_str);
        let (allow, names) = self.allowed(&egress);
        let deny = self.destinations(&egress, "deny");
        if let Some(default) = default.filter(|reach| *reach != Egress::None && !names.is_empty()) {
            self.refuse(node.at, network.path("egress"), Reason::NamesWithDefault { default });
        }
        let via = self.proxy(&egress);
        let policy = EgressPolicy::new(default, allow, deny).with_names(names).with_proxy(via);
        if let Some(entry) = reach::denied_proxy(&policy) {
            self.refuse(node.at, network.path("egress"), Reason::DeniedProxy { entry });
        }
        // A record was counted when it was a definition.
        let blocks = if self.recorded { 0 } else { reach::count(&policy) };
        if blocks > EgressPolicy::MAX_BLOCKS {
            self.refuse(node.at, network.path("egress"), Reason::Blocks { found: blocks });
        }
        Some(policy)
    }

    /// Returns the proxy of `via` and `viaPorts`; `None` if there is none, or after an error is noted.
    fn proxy(&mut self, egress: &Object<'_>) -> Option<Proxy> {
        let ports = self.list(egress, "viaPorts", "a list of ports");
        let Some(node) = egress.get("via") else {
            if let Some((at, _)) = ports {
                self.refuse(at, egress.path("viaPorts"), Reason::PortsWithoutProxy);
            }
            return None;
        };
        let read = |text: &str| text.parse::<ProxyAddress>().map_err(Reason::Proxy);
        let address = self.parsed(node, egress.path("via"), read)?;
        let Some((at, items)) = ports else { return Some(address.into()) };
        let path = egress.path("viaPorts");
        let mut numbers = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let number = match &item.value {
                Value::Integer(port) => PortRange::new(*port, *port).map_err(Reason::from),
                other => Err(Reason::Sort { expected: "a port", found: other.sort() }),
            };
            let number = self.accept(number, item.at, || format!("{path}[{index}]"))?;
            numbers.push(number.first());
        }
        self.accept(Proxy::new(address, numbers).map_err(Reason::Proxy), at, || path)
    }

    /// Returns the destinations and the names of `allow`, in the order in which either are listed.
    fn allowed(&mut self, egress: &Object<'_>) -> (Vec<Destination>, Vec<NameRule>) {
        let (mut destinations, mut names) = (Vec::new(), Vec::new());
        let list = self.list(egress, "allow", "a list of destinations");
        let Some((at, items)) = list else { return (destinations, names) };
        let path = egress.path("allow");
        if items.len() > EgressPolicy::MAX + EgressPolicy::MAX_NAMES {
            self.refuse(at, path, Reason::ManyNames { found: items.len() });
            return (destinations, names);
        }
        for (index, item) in items.iter().enumerate() {
            match self.parsed(item, format!("{path}[{index}]"), read_allowed) {
                Some(Allowed::Destination(destination)) => destinations.push(destination),
                Some(Allowed::Name(name)) => names.push(name),
                None => {}
            }
        }
        if destinations.len() > EgressPolicy::MAX {
            self.refuse(at, path, Reason::Destinations { found: destinations.len() });
        } else if names.len() > EgressPolicy::MAX_NAMES {
            self.refuse(at, path, Reason::ManyNames { found: names.len() });
        }
        (destinations, names)
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

/// An entry of `allow`.
enum Allowed {
    Destination(Destination),
    Name(NameRule),
}

fn read_allowed(text: &str) -> Result<Allowed, Reason> {
    match text.parse() {
        Ok(destination) => Ok(Allowed::Destination(destination)),
        Err(DestinationError::Name { .. }) => Ok(Allowed::Name(text.parse()?)),
        Err(error) => Err(error.into()),
    }
}

//! The kind `Function`: one microVM behind a TAP.

use serde_json::{Value, json};

use super::{Fragment, FragmentError, Implementation, Kind, NodeFacts, alias, parts};
use crate::{
    definition::{Object, Reason, TreeValue, Validator, execution_value},
    link::{Device, Tap},
    model::{EgressPolicy, Execution, Exposure, InstanceName, Limits, Slot},
};

/// The fields of `spec`, and those of `spec.function`.
const SPEC: &[&str] = &["containers", "function"];
const FUNCTION: &[&str] = &["execution", "exposure", "network"];

/// A function: one microVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// The name, unique on the node.
    pub name: InstanceName,
    /// The execution in a microVM.
    pub execution: Execution,
    /// Ports of the host that lead to it; no two of them clash.
    pub exposures: Vec<Exposure>,
    /// The destinations that it may begin connections to; `None` is the reach of the node's guests.
    pub egress: Option<EgressPolicy>,
    /// The limits of what it may use.
    pub limits: Limits,
}

impl Implementation for Function {
    const NAME: &'static str = "Function";
    const COLLECTION: &'static str = "functions";
    const TAKES_RESERVED: bool = true;
    const RUNS: bool = true;
    const DOCUMENTED: bool = true;

    fn validate(
        validator: &mut Validator,
        definition: &Object<'_>,
        name: Option<InstanceName>,
    ) -> Option<Self> {
        validator.replicas(definition);
        let spec = validator.required_object(definition, "spec", SPEC)?;
        refuse_containers(validator, &spec);
        let function = validator.required_object(&spec, "function", FUNCTION)?;
        let execution = validator.execution(&function);
        let exposures = validator.exposures(&function);
        let (egress, limits) = validator.network(&function);
        Some(Self { name: name?, execution, exposures, egress, limits })
    }

    fn spec(&self) -> Value {
        let mut function = json!({ "execution": execution_value(&self.execution) });
        parts::add_network(&mut function, self);
        json!({ "function": function })
    }

    fn recover(marked: &alias::Marked, tap: Option<Tap>) -> Self {
        Self {
            name: marked.name.clone(),
            execution: parts::execution(tap.unwrap_or_default()),
            exposures: marked.exposures.clone(),
            egress: parts::lost_policy(marked),
            limits: marked.limits,
        }
    }

    /// Returns the needs of a function: a TAP with the host's end of the slot's /30 and its guest as a permanent
    /// neighbour, an entry for each exposed port, one that lets it reach itself through them, and those of its policy.
    fn fragment(&self, slot: Slot, node: &NodeFacts) -> Result<Fragment, FragmentError> {
        let tap = parts::tap(&self.name, &self.execution, slot)?;
        parts::fragment(self, Kind::Function, Device::Tap(tap), slot, node)
    }

    fn name(&self) -> &InstanceName {
        &self.name
    }

    fn execution(&self) -> &Execution {
        &self.execution
    }

    fn execution_mut(&mut self) -> &mut Execution {
        &mut self.execution
    }

    fn exposures(&self) -> &[Exposure] {
        &self.exposures
    }

    fn egress(&self) -> Option<&EgressPolicy> {
        self.egress.as_ref()
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

/// Refuses the field that RIK's schema has for its other kind.
fn refuse_containers(validator: &mut Validator, spec: &Object<'_>) {
    let Some(node) = spec.get("containers") else { return };
    let reason = match &node.value {
        TreeValue::List(items) if items.is_empty() => return,
        TreeValue::List(_) => Reason::Containers,
        other => Reason::Sort { expected: "an empty list", found: other.sort() },
    };
    validator.refuse(node.at, spec.path("containers"), reason);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::Backend;
    use crate::model::{Account, Owner, OwnerId, Protocol, Queues};

    fn node(pool: &str, mtu: u32) -> NodeFacts {
        let owner = Owner::new(OwnerId::new(1), "/run/riklet-sdn");
        NodeFacts {
            pool: pool.parse().unwrap(),
            mtu,
            owner,
            backend: Backend::Nftables,
            policies: true,
        }
    }

    #[test]
    fn a_function_gets_a_tap_and_an_entry_for_each_exposure() {
        let ports = |text: &str| text.parse().unwrap();
        let function = Function {
            name: "hello".parse().unwrap(),
            execution: Execution::default(),
            exposures: vec![
                Exposure::new(Protocol::Tcp, None, ports("8000-8001"), ports("80-81")).unwrap(),
            ],
            egress: None,
            limits: Limits::default(),
        };
        let node = node("10.231.0.0/16", 1400);
        let fragment = function.fragment(Slot::new(5), &node).unwrap();
        assert_eq!(fragment.link.name.as_str(), "rik5");
        let addresses: Vec<_> = fragment.link.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.231.0.21/30"]);
        assert_eq!(fragment.link.mtu, 1400);
        let guest = "10.231.0.22".parse().unwrap();
        assert_eq!(fragment.link.neighbours, [(guest, Slot::new(5).guest_mac())].into());
        let text: Vec<_> = fragment.entries.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["tcp 8000-8001 -> 10.231.0.22:80-81", "hairpin 10.231.0.22"]);
    }

    #[test]
    fn with_both_families_each_exposure_gets_an_entry_for_each_family_it_applies_to() {
        let exposure = |address: Option<&str>, port: &str| {
            let (address, port) = (address.map(|a| a.parse().unwrap()), port.parse().unwrap());
            Exposure::new(Protocol::Tcp, address, port, port).unwrap()
        };
        let function = |exposures| Function {
            name: "hello".parse().unwrap(),
            execution: Execution::default(),
            exposures,
            egress: None,
            limits: Limits::default(),
        };
        let only_v4 = node("10.231.0.0/16", 1500);
        let pool = only_v4.pool.with_v6("fd52:494b::/64".parse().unwrap()).unwrap();
        let both = NodeFacts { pool, ..only_v4.clone() };
        let all = vec![
            exposure(None, "80"),
            exposure(Some("192.0.2.1"), "81"),
            exposure(Some("2001:db8::1"), "82"),
        ];
        let found = function(all).fragment(Slot::new(5), &both).unwrap();
        let text: Vec<_> = found.entries.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "tcp 80 -> 10.231.0.22:80",
                "tcp 80 -> [fd52:494b::b]:80",
                "tcp 192.0.2.1:81 -> 10.231.0.22:81",
                "tcp [2001:db8::1]:82 -> [fd52:494b::b]:82",
                "hairpin 10.231.0.22",
                "hairpin fd52:494b::b",
            ]
        );
        let addresses: Vec<_> = found.link.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.231.0.21/30", "fd52:494b::a/127"]);
        assert!(found.link.neighbours.values().all(|&mac| mac == Slot::new(5).guest_mac()));
        assert_eq!(found.link.neighbours.len(), 2);

        let only_v6 = function(vec![exposure(Some("2001:db8::1"), "82")]);
        assert_eq!(
            only_v6.fragment(Slot::new(5), &only_v4).unwrap_err().to_string(),
            "hello: tcp [2001:db8::1]:82 -> 82 needs a guest with an address of the same family, and \
             10.231.0.0/16 has none"
        );
    }

    #[test]
    fn the_tap_belongs_to_the_user_of_the_vmm() {
        let function = |user: &str, queues| Function {
            name: "hello".parse().unwrap(),
            execution: Execution {
                user: Some(user.parse().unwrap()),
                group: Some(Account::Id(7)),
                queues: Some(Queues::new(queues).unwrap()),
                ..Execution::default()
            },
            exposures: vec![],
            egress: None,
            limits: Limits::default(),
        };
        let node = node("10.231.0.0/16", 1400);
        let tap = |function: Function| {
            function.fragment(Slot::new(0), &node).map(|f| f.link.tap().unwrap())
        };
        let wanted = Tap { owner: Some(1000), group: Some(7), multi_queue: false };
        assert_eq!(tap(function("1000", 1)), Ok(wanted));
        assert_eq!(tap(function("1000", 2)), Ok(Tap { multi_queue: true, ..wanted }));
        let execution = Execution::default();
        let nobody_s = Function { execution, ..function("1000", 1) };
        let administrator_s = Tap { owner: Some(Tap::ROOT), ..Tap::default() };
        assert_eq!(tap(nobody_s.clone()), Ok(administrator_s));
        let of_slot = "slot+1900000000".parse().ok();
        let of_slot = Execution { user: of_slot, ..Execution::default() };
        let slot_s = Tap { owner: Some(1_900_000_001), ..Tap::default() };
        assert_eq!(tap(Function { execution: of_slot, ..nobody_s.clone() }), Ok(slot_s));
        let execution = Execution { group: Some(Account::Id(7)), ..Execution::default() };
        let group_s = Tap { owner: None, group: Some(7), multi_queue: false };
        assert_eq!(tap(Function { execution, ..nobody_s }), Ok(group_s));
        assert_eq!(
            tap(function("riklet", 1)).unwrap_err().to_string(),
            "hello is for riklet, whose number was not looked up"
        );
    }

    #[test]
    fn a_function_without_exposures_has_no_entries() {
        let function = Function {
            name: "worker".parse().unwrap(),
            execution: Execution::default(),
            exposures: vec![],
            egress: None,
            limits: Limits::default(),
        };
        let node = node("10.231.0.0/30", 1500);
        assert!(function.fragment(Slot::new(0), &node).unwrap().entries.is_empty());
        assert!(function.fragment(Slot::new(1), &node).is_err());
    }
}

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use proptest::prelude::*;
use riklet_core::{
    firewall::{Entry, IptablesVariant},
    manager,
    model::{
        Account, Egress, EgressPolicy, Execution, Exposure, Function, InstanceName, Limits, Owner,
        OwnerId, Pod, PortRange, Protocol, Queues, Workload,
    },
};
use riklet_kernel::fake::{FakeKernel, Stopped, System};
use riklet_sdn::{
    Config, Node, NodeError, Report, Selector, UpOptions, WarmNode,
    store::{Setting, Store},
};

/// A node with a kernel in memory, and a state directory that is removed with it.
pub(crate) struct TestNode {
    pub(crate) kernel: FakeKernel,
    state_dir: PathBuf,
}

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Up(Vec<Workload>),
    Down(InstanceName),
    DownAll { purge: bool },
    Repair,
}

/// Generates operations on few names and few ports, so that they collide.
pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    let ports = prop::collection::btree_set(8000..8006u16, 0..3);
    let user = prop::option::of((1000..1002u32).prop_map(Account::Id));
    let execution = (user, 1..=2i64).prop_map(|(user, queues)| {
        let queues = Queues::new(queues).ok();
        Execution { user, queues, ..Execution::default() }
    });
    let limits = prop::sample::select(vec!["", "", "100Mbit", "50Mbit,1Gbit", ",1Gbit"]);
    let workload = (0..4u16, ports, execution, egress(), limits);
    let workload = workload.prop_map(|(number, ports, execution, egress, limits)| {
        let ports: Vec<_> = ports.into_iter().collect();
        limited(limits, run_with(execution, egress, number, &ports))
    });
    let distinct = prop::collection::vec(workload, 1..3).prop_map(|workloads| {
        let named = workloads.into_iter().map(|workload| (workload.name().clone(), workload));
        Operation::Up(named.collect::<BTreeMap<_, _>>().into_values().collect())
    });
    prop_oneof![
        6 => distinct,
        3 => (0..4u16).prop_map(|number| Operation::Down(function(number, &[]).name().clone())),
        1 => any::<bool>().prop_map(|purge| Operation::DownAll { purge }),
        1 => Just(Operation::Repair),
    ]
}

/// Generates few policies, and none.
fn egress() -> impl Strategy<Value = Option<EgressPolicy>> {
    let default = prop::option::of(prop::sample::select(Egress::ALL.to_vec()));
    let allowed = prop::sample::subsequence(vec!["10.9.5.0/24:443/tcp", "host:53"], 0..=2);
    let policy = (default, allowed).prop_map(|(default, allowed)| {
        let allowed = allowed.into_iter().map(|text| text.parse().unwrap()).collect();
        EgressPolicy::new(default, allowed, vec![])
    });
    prop::option::of(policy)
}

/// Generates a host without iptables, or with one of its variants.
pub(crate) fn iptables() -> impl Strategy<Value = Option<IptablesVariant>> {
    prop_oneof![Just(None), Just(Some(IptablesVariant::Nft)), Just(Some(IptablesVariant::Legacy))]
}

/// Returns the function `f<number>`, which exposes these ports of the host: even ones by TCP, odd ones by UDP.
pub(crate) fn function(number: u16, ports: &[u16]) -> Workload {
    run_as(Execution::default(), number, ports)
}

/// Returns the function `f<number>` with this execution and these ports, as [`function`] does.
pub(crate) fn run_as(execution: Execution, number: u16, ports: &[u16]) -> Workload {
    run_with(execution, None, number, ports)
}

/// Returns the function `f<number>` with this execution, this policy and these ports, as [`function`] does.
pub(crate) fn run_with(
    execution: Execution,
    egress: Option<EgressPolicy>,
    number: u16,
    ports: &[u16],
) -> Workload {
    let exposure = |&port: &u16| {
        let protocol = if port % 2 == 0 { Protocol::Tcp } else { Protocol::Udp };
        let host = PortRange::new(port.into(), port.into()).unwrap();
        Exposure::new(protocol, None, host, "80".parse().unwrap()).unwrap()
    };
    Workload::Function(Function {
        name: format!("f{number}").parse().unwrap(),
        execution,
        exposures: ports.iter().map(exposure).collect(),
        egress,
        limits: Limits::default(),
    })
}

/// Returns the function with these limits.
pub(crate) fn limited(limits: &str, workload: Workload) -> Workload {
    match workload {
        Workload::Function(function) => {
            Workload::Function(Function { limits: limits.parse().unwrap(), ..function })
        }
        Workload::Pod(pod) => Workload::Pod(Pod { limits: limits.parse().unwrap(), ..pod }),
        #[cfg(feature = "toy-kind")]
        Workload::Toy(toy) => Workload::Toy(toy),
    }
}

impl Operation {
    pub(crate) fn remove_from(&self, model: &mut BTreeMap<InstanceName, Workload>) {
        match self {
            Self::Down(name) => drop(model.remove(name)),
            Self::DownAll { .. } => model.clear(),
            Self::Up(_) | Self::Repair => {}
        }
    }
}

impl TestNode {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("riklet-sdn-laws-{}-{number}", std::process::id());
        Self { kernel: FakeKernel::new(), state_dir: std::env::temp_dir().join(name) }
    }

    /// Returns the node on a host with this variant of iptables.
    pub(crate) fn with_iptables(iptables: Option<IptablesVariant>) -> Self {
        let node = Self::new();
        node.kernel.system().iptables = iptables;
        node
    }

    /// Returns a node with another state directory on the same host.
    pub(crate) fn beside(&self) -> Self {
        let mut other = Self::new();
        other.kernel = self.kernel.clone();
        other
    }

    /// Returns a node as a new process would open it: only the kernel and the state directory last.
    pub(crate) fn node(&self) -> Node<FakeKernel> {
        Node::with_kernel(self.config(), self.kernel.clone())
    }

    pub(crate) fn config(&self) -> Config {
        Config::in_directory(&self.state_dir)
    }

    /// Returns a node as a long-lived process opens it.
    pub(crate) fn warm(&self) -> WarmNode<FakeKernel> {
        let config = Config::in_directory(&self.state_dir);
        WarmNode::new(config, self.kernel.clone())
    }

    /// Runs an operation. Taking down an instance that is not recorded does nothing.
    pub(crate) fn run(&mut self, operation: &Operation) -> Result<Report, NodeError> {
        let mut node = self.node();
        match operation {
            Operation::Up(workloads) => node.up(workloads, UpOptions::default()),
            Operation::Down(name) => {
                match node.down(&Selector::Named([name.clone()].into()), false) {
                    Err(NodeError::Unknown { .. }) => Ok(Report::default()),
                    done => done,
                }
            }
            Operation::DownAll { purge } => node.down(&Selector::All, *purge),
            Operation::Repair => node.repair(),
        }
    }

    /// Runs an operation up to the fault; returns `None` if the fault stopped it.
    pub(crate) fn run_to_the_fault(
        &mut self,
        operation: &Operation,
    ) -> Option<Result<Report, NodeError>> {
        match catch_unwind(AssertUnwindSafe(|| self.run(operation))) {
            Ok(done) => Some(done),
            Err(stop) if stop.is::<Stopped>() => None,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Repeats the part of a stopped operation that the records do not hold: a purge.
    pub(crate) fn finish(&mut self, operation: &Operation) {
        if let Operation::DownAll { purge: true } = operation {
            self.run(operation).unwrap();
        }
    }

    /// Returns the state of the kernel without counts and logs, and with one common owner for our objects, since every
    /// state directory has its own identifier.
    pub(crate) fn state(&self) -> System {
        let mut system = self.kernel.system().clone();
        let ours = self.owner();
        let same = Owner::new(OwnerId::new(1), "/");
        let links = system.links.values_mut().map(|link| &mut link.alias);
        for place in links.chain(system.twins.values_mut().map(|twin| &mut twin.alias)) {
            let alias = place.take();
            let of_all = |alias: String, ours: &Owner| {
                let alias = alias.replace(&ours.id().to_string(), &same.id().to_string());
                alias.replace(ours.directory(), same.directory())
            };
            *place = match (alias, &ours) {
                (Some(alias), Some(ours)) => Some(of_all(alias, ours)),
                (alias, _) => alias,
            };
        }
        for ruleset in system.firewall.values_mut().chain(&mut system.policies) {
            if ruleset.base_ruleset.owner == ours {
                ruleset.base_ruleset.owner = Some(same.clone());
            }
        }
        let id = ours.as_ref().map(Owner::id);
        for (file, text) in &mut system.manager_files {
            if text.as_deref().and_then(manager::owner) == id && id.is_some() {
                *text = Some(file.text(&same));
            }
        }
        let (effects, listings, probes, searches) = (0, 0, 0, 0);
        System { effects, listings, probes, searches, forgotten: vec![], fault: None, ..system }
    }

    /// Returns the owner that the records name.
    pub(crate) fn owner(&self) -> Option<Owner> {
        let store = Store::open_existing(&self.state_dir).ok()??;
        Some(store.setting(Setting::Owner).ok()??.parse().unwrap())
    }

    /// Returns the number of exposures in the firewall.
    pub(crate) fn exposed(&self) -> usize {
        let system = self.kernel.system();
        let entries = system.firewall.values().flat_map(|ruleset| &ruleset.entries);
        entries.filter(|entry| matches!(entry, Entry::Exposure { .. })).count()
    }

    #[expect(clippy::disallowed_methods, reason = "the damage is the test's own")]
    pub(crate) fn damage_the_store(&self, damage: impl FnOnce(&mut Vec<u8>)) {
        let path = self.state_dir.join("riklet-sdn.db");
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    }

    pub(crate) fn corrupt_the_store(&self) {
        self.damage_the_store(|bytes| *bytes = b"no database at all".to_vec());
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.state_dir
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        // The directory is missing if the test never created it.
        let _missing = std::fs::remove_dir_all(&self.state_dir);
    }
}

use std::panic::{AssertUnwindSafe, catch_unwind};

use riklet_core::definition::{self, Source};
use riklet_kernel::fake::{FakeKernel, Fault, Stopped};
use riklet_sdn::Config;

use super::*;

/// The network must be down first: after the end of the run, another run may take the name, and must not lose its
/// network.
#[test]
fn run_ends_only_after_its_network_is_down() {
    let state_dir = std::env::temp_dir().join(format!("riklet-leave-{}", std::process::id()));
    let (kernel, config) = (FakeKernel::new(), Config::in_directory(&state_dir));
    let mut node = Node::with_kernel(config, kernel.clone());
    let text =
        r#"{"apiVersion": "v1", "kind": "Function", "name": "hello", "spec": {"function": {}}}"#;
    let source = Source { name: String::new(), text: text.to_owned() };
    let workloads = definition::parse(&[source]).unwrap();
    let name = workloads[0].name().clone();
    let ours = ProcessId::current().unwrap();
    let names = [(name.clone(), Vmm::Builtin)];
    runs::begin(&mut Store::open(&state_dir).unwrap(), &names, ours, 0).unwrap();
    node.up(&workloads, UpOptions::default()).unwrap();
    let mut leave = || take_down(&mut node, &names, ours, None);
    let end = || Store::open(&state_dir).unwrap().run(&name).unwrap().unwrap().end;

    let at = kernel.system().effects;
    kernel.system().fault = Some((at, Fault::Stop));
    let stopped = catch_unwind(AssertUnwindSafe(&mut leave)).unwrap_err();
    assert!(stopped.is::<Stopped>());
    kernel.system().fault = None;
    assert_eq!(end(), None);

    leave().unwrap();
    assert_eq!(end().unwrap().reason, "stopped");
    assert!(kernel.system().links.is_empty());
    std::fs::remove_dir_all(&state_dir).unwrap();
}

/// Each may find the other one up when it asks whether it is the last.
#[test]
fn supervisors_that_leave_together_leave_nothing() {
    let state_dir = std::env::temp_dir().join(format!("riklet-together-{}", std::process::id()));
    let kernel = FakeKernel::new();
    let node = || Node::with_kernel(Config::in_directory(&state_dir), kernel.clone());
    let rules_stand = || !kernel.system().firewall.is_empty();
    let ours = ProcessId::current().unwrap();
    for round in 0..40 {
        let runs = ["one", "other"].map(|name| {
            let text = format!(
                r#"{{"apiVersion": "v1", "kind": "Function", "name": "{name}", "spec": {{"function": {{}}}}}}"#
            );
            let workloads = definition::parse(&[Source { name: String::new(), text }]).unwrap();
            let names = [(workloads[0].name().clone(), Vmm::Builtin)];
            runs::begin(&mut Store::open(&state_dir).unwrap(), &names, ours, 0).unwrap();
            node().up(&workloads, UpOptions::default()).unwrap();
            names
        });
        assert!(rules_stand());
        let leave = |names: [_; 1]| take_down(&mut node(), &names, ours, None);
        for left in riklet_kernel::threads::at_once(runs, 2, leave) {
            left.unwrap();
        }
        assert!(!rules_stand(), "round {round}");
    }
    std::fs::remove_dir_all(&state_dir).unwrap();
}

#[test]
fn error_about_a_guest_that_is_not_ready_shows_its_console() {
    let name = || "hello".parse().unwrap();
    let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect();
    let shown = |consoles| {
        let limit = Duration::from_secs(10);
        let error = SupervisorError::NotReady { waited: vec![], limit, consoles };
        assert!(error.hint().unwrap().starts_with("`riklet-sdn logs hello` "));
        error.consoles()
    };
    let ends = ConsoleEnd { name: name(), lines: lines(&["one", "two"]) };
    assert_eq!(shown(vec![ends]), ["the console of hello ends with:", "  one", "  two"]);
    let empty = ConsoleEnd { name: name(), lines: vec![] };
    assert_eq!(shown(vec![empty]), ["the console of hello is empty"]);
}

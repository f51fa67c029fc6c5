//! `run`: functions with their guests behind them, in the foreground.

mod announce;
mod console;
mod detach;
mod fleet;
mod prepare;
mod ready;
mod signals;

use std::{
    collections::BTreeSet,
    os::fd::AsFd,
    process::ExitCode,
    time::{Instant, SystemTime},
};

pub(super) use self::prepare::facts;
use self::{
    announce::{Ends, Ready, Times},
    console::Console,
    fleet::{Ended, Event, Fleet},
    prepare::Prepared,
    ready::Outcome,
    signals::Signals,
};
use super::{args::RunArgs, error::CliError, input, output::Output};
use riklet_api as wire;
use riklet_core::model::{InstanceName, Vmm, Workload};
use riklet_guest as builtin;
use riklet_guest::Guest;
use riklet_kernel::{Kernel, KernelError, linux::tap, process::ProcessId};
use riklet_sdn::{
    Instance, Node, NodeError, Report, Selector, UpOptions,
    store::{End, ReservedSlot, Store},
};
use riklet_vmm::{handle::Patience, runs};

pub(crate) fn run<K: Kernel>(
    node: &mut Node<K>,
    args: &RunArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let workloads = input::definitions(&args.files)?;
    input::require_taps()?;
    if args.console && workloads.len() != 1 {
        return Err(CliError::Console { count: workloads.len() });
    }
    if args.detach {
        return detach::run(node.config(), &workloads, args, output);
    }
    if args.supervise {
        detach::leave_terminal()?;
    }
    for (run, _) in runs::clear_lost(node, epoch_millis())? {
        output.remark(&format!("{}: its supervisor died; cleared away what it left", run.name));
    }
    refuse_recorded(node, &workloads)?;
    let prepared = prepare::prepare(node, &workloads, output)?;
    // A download takes its time: who was quicker keeps what they brought up.
    refuse_recorded(node, &workloads)?;
    let state_dir = node.config().state_dir.clone();
    let signals = Signals::watch().map_err(|source| CliError::Signals { source })?;
    let supervisor = ProcessId::current().map_err(|source| CliError::Supervisor { source })?;
    let names: Vec<_> = prepared.iter().map(|p| (p.name().clone(), p.choice.vmm)).collect();
    runs::begin(&mut Store::open(&state_dir)?, &names, supervisor, epoch_millis())?;
    let mut fleet = Fleet::new(signals, state_dir, supervisor);
    let mut supervision = Supervision { node, fleet: &mut fleet, args, output, console: None };
    let supervised = supervision.supervise(&prepared);
    let console = supervision.console.take();
    // Whatever happened, nothing stays.
    let failure = supervised.as_ref().err().map(|error| super::error::chain(error));
    let stopped = fleet.stop(node, Patience::default(), failure.as_deref());
    let shown = console.map_or(Ok(()), Console::end);
    let left = leave(node, &names, supervisor, failure, output);
    let code = supervised?;
    stopped?;
    left?;
    shown?;
    Ok(code)
}

/// What is up belongs to whoever brought it up: `run` would take it down.
fn refuse_recorded<K: Kernel>(node: &mut Node<K>, workloads: &[Workload]) -> Result<(), CliError> {
    let Some(store) = Store::open_existing(&node.config().state_dir)? else { return Ok(()) };
    for workload in workloads {
        let name = workload.name();
        let selector = Selector::Named([name.clone()].into());
        runs::refuse_running(&store, &selector)?;
        if store.get(name)?.is_some() {
            return Err(CliError::Recorded { name: name.to_string() });
        }
    }
    Ok(())
}

/// The functions of one `run`, from their network to their end.
struct Supervision<'a, K> {
    node: &'a mut Node<K>,
    fleet: &'a mut Fleet,
    args: &'a RunArgs,
    output: Output,
    console: Option<Console>,
}

impl<K: Kernel> Supervision<'_, K> {
    fn supervise(&mut self, prepared: &[Prepared]) -> Result<ExitCode, CliError> {
        let started = now();
        let workloads: Vec<_> = prepared.iter().map(|p| p.workload.clone()).collect();
        let report = self.node.up(&workloads, UpOptions::default())?;
        self.output.complaints(&mut wire::Report::from(&report))?;
        let networked = now();
        let instances: Vec<_> = prepared.iter().zip(ordered(&report, prepared)).collect();
        let resolvers = self.node.kernel().resolvers().map_err(NodeError::from)?;
        for (prepared, instance) in &instances {
            let launch = prepared.launch(instance, &resolvers)?;
            self.fleet.start(self.node, instance.name(), &launch)?;
            if self.args.console {
                let log = runs::log(&self.node.config().state_dir, instance.name());
                self.console = Some(Console::show(&log, self.output)?);
            }
        }
        let launched = now();
        let vmms: Vec<_> = instances.iter().map(|(p, i)| (*i, p.choice.vmm)).collect();
        let readiness = match ready::wait(self.node, self.fleet, &vmms, self.args.ready_timeout)? {
            Outcome::Ready(readiness) => readiness,
            Outcome::Stopped => return Ok(ExitCode::SUCCESS),
            Outcome::Ended(ended) => return Err(ended.into()),
        };
        let times = Times {
            network: networked - started,
            vmm: launched - networked,
            boot: readiness.booted.saturating_duration_since(launched),
            answer: readiness.accepted - readiness.booted,
        };
        let ready = u64::try_from((readiness.accepted - started).as_millis()).unwrap_or(u64::MAX);
        self.fleet.set_ready(ready)?;
        let ready =
            Ready { instances: &vmms, prepared, readiness: &readiness, times, report: &report };
        let ends = if self.args.supervise { Ends::Stop } else { Ends::Interrupt };
        ready.announce(self.output, ready::uplink_address(self.node)?, ends)?;
        if self.args.supervise {
            detach::close_output()?;
        }
        self.watch()
    }

    /// Until a signal comes, or no VMM is left. The end of one is none of the others'.
    fn watch(&mut self) -> Result<ExitCode, CliError> {
        let mut code = ExitCode::SUCCESS;
        while !self.fleet.is_empty() {
            match self.fleet.wait(self.node, None)? {
                Some(Event::Signal) => break,
                Some(Event::Ended(ended)) => {
                    self.output.remark(&format!("{}: {}", ended.name, ended.reason));
                    if ended.failed {
                        code = ExitCode::FAILURE;
                    }
                }
                None => {}
            }
        }
        Ok(code)
    }
}

/// The instances of the report in the order of what was prepared.
fn ordered<'a>(report: &'a Report, prepared: &[Prepared]) -> Vec<&'a Instance> {
    let find = |p: &Prepared| report.instances.iter().find(|i| i.name() == p.name());
    prepared.iter().filter_map(find).collect()
}

/// Leaves the host as it was, unless somebody else's instances remain. One whose run has ended may be another's
/// since, by `run` or `up`: so the network goes first, while nobody else may have it.
fn leave<K: Kernel>(
    node: &mut Node<K>,
    names: &[(InstanceName, Vmm)],
    supervisor: ProcessId,
    failure: Option<String>,
    output: Output,
) -> Result<(), CliError> {
    let store = Store::open(&node.config().state_dir)?;
    let mut remaining = BTreeSet::new();
    for (name, _) in names {
        let run = store.run(name)?;
        let ours = run.is_some_and(|run| run.supervisor == supervisor && run.end.is_none());
        if ours && store.get(name)?.is_some() {
            remaining.insert(name.clone());
        }
    }
    // A daemon's: it keeps the node ready.
    let kept_ready = !store.spares(ReservedSlot::Ready)?.is_empty();
    drop(store);
    let selector = Selector::Named(remaining);
    let report = match node.down(&selector, !kept_ready) {
        Err(NodeError::Remaining { .. }) => node.down(&selector, false),
        report => report,
    };
    let failed = failure.is_some();
    let reason = failure.unwrap_or_else(|| "stopped".to_owned());
    let mut store = Store::open(&node.config().state_dir)?;
    let tx = store.transaction()?;
    for (name, _) in names {
        let reason = reason.clone();
        tx.end_run(name, supervisor, &End { at: epoch_millis(), reason, failed })?;
    }
    tx.commit()?;
    output.complaints(&mut wire::Report::from(&report?))
}

impl From<Ended> for CliError {
    fn from(Ended { name, reason, .. }: Ended) -> Self {
        Self::GuestEnded { name: name.to_string(), reason }
    }
}

/// The child process: plays one guest until its parent ends it, or ends itself: the kernel ends it then.
pub(crate) fn guest(argument: &str) -> Result<ExitCode, CliError> {
    let guest = Guest::from_argument(argument)?;
    let attached = tap::attach(&guest.interface).map_err(|source| {
        let name = guest.interface.clone();
        NodeError::Kernel(KernelError::CreateLink { name, step: "attach", source })
    })?;
    let (never, _held) = std::io::pipe().map_err(|source| CliError::Signals { source })?;
    builtin::serve(&guest, attached, never.as_fd())?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::disallowed_methods, reason = "the program's edge")]
fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the program's edge")]
pub(super) fn epoch_millis() -> u64 {
    wire::epoch_millis(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use riklet_core::definition::{self, Source};
    use riklet_kernel::fake::{FakeKernel, Fault, Stopped};
    use riklet_sdn::Config;

    use super::*;
    use crate::args::OutputFormat;

    /// Whoever runs or brings up the same name next must not lose it to this supervisor.
    #[test]
    fn a_run_has_not_ended_before_its_network_is_down() {
        let state_dir = std::env::temp_dir().join(format!("riklet-leave-{}", std::process::id()));
        let (kernel, config) =
            (FakeKernel::new(), Config { state_dir: state_dir.clone(), ..Config::default() });
        let mut node = Node::with_kernel(config, kernel.clone());
        let text = r#"{"apiVersion": "v1", "kind": "Function", "name": "hello", "spec": {"function": {}}}"#;
        let source = Source { name: String::new(), text: text.to_owned() };
        let workloads = definition::parse(&[source]).unwrap();
        let name = workloads[0].name().clone();
        let ours = ProcessId::current().unwrap();
        let names = [(name.clone(), Vmm::Builtin)];
        runs::begin(&mut Store::open(&state_dir).unwrap(), &names, ours, 0).unwrap();
        node.up(&workloads, UpOptions::default()).unwrap();
        let mut leave = || leave(&mut node, &names, ours, None, Output::new(OutputFormat::Text));
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
}

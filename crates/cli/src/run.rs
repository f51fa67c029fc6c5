//! `run`: runs functions with their guests, in the foreground.

mod announce;
mod booting;
mod console;
pub(crate) mod described;
mod detach;
mod signals;

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use ipnet::Ipv4Net;
use riklet_api as wire;
use riklet_core::model::{Addresses, Exposure, InstanceName, Workload};
use riklet_daemon::documents;
use riklet_guest::Guest;
use riklet_kernel::{Kernel, KernelError, linux::tap};
use riklet_sdn::{Instance, Node, NodeError, Report};
use riklet_vmm::{
    cgroup,
    launch::{Launch, LaunchError},
    runs,
    supervisor::{self, Ended, Observer, Options, Ready, Sources},
};

use self::{announce::Ends, booting::Booting, console::Console, signals::Signals};
use super::{
    args::RunArgs,
    error::CliError,
    input,
    output::{GuestText, Output},
    progress,
};

pub(crate) fn run<K: Kernel>(
    node: &mut Node<K>,
    args: &RunArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let workloads = described::workloads(args)?;
    input::require_taps()?;
    if args.console && workloads.len() != 1 {
        return Err(CliError::Console { count: workloads.len() });
    }
    if args.detach {
        return detach::run(node.config(), &workloads, args, output);
    }
    if !args.supervise {
        return supervise(node, &workloads, args, output);
    }
    detach::leave_terminal()?;
    let supervised = supervise(node, &workloads, args, output);
    if let Some(name) = own_cgroup(&workloads, args) {
        cgroup::leave(&node.config().state_dir, name);
    }
    if let Err(error) = &supervised {
        detach::announce_failure(error, output)?;
    }
    supervised
}

/// Returns the name of the run whose cgroup this process has: that of a supervisor without a unit.
fn own_cgroup<'a>(workloads: &'a [Workload], args: &RunArgs) -> Option<&'a InstanceName> {
    workloads.first().filter(|_| args.supervise && !args.in_unit).map(Workload::name)
}

/// Runs the functions until they end, or a signal asks for that.
fn supervise<K: Kernel>(
    node: &mut Node<K>,
    workloads: &[Workload],
    args: &RunArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    for (run, _) in runs::clear_lost(node, epoch_millis())? {
        output.remark(&format!("{}: its supervisor died; cleared away what it left", run.name));
    }
    supervisor::refuse_recorded(node, workloads.iter().map(Workload::name))?;
    // Not before: whoever clears an earlier run away kills everything in its cgroup.
    if let Some(name) = own_cgroup(workloads, args) {
        cgroup::enter(&node.config().state_dir, name);
    }
    let beside = beside(args)?;
    let shown = |image: &str| progress::shown(image, output);
    let sources = Sources { beside: &beside, for_member: args.for_member };
    let prepared = supervisor::prepare(node, workloads, sources, shown)?;
    let signals = Signals::watch().map_err(|source| CliError::Signals { source })?;
    let options = Options {
        ready_timeout: Duration::from_secs(args.ready_timeout.into()),
        no_wait: args.no_wait,
        player: &builtin,
        stop: signals.as_fd(),
    };
    let mut screen = Screen { args, output, console: None, booting: None };
    let supervised = supervisor::supervise(node, &prepared, &options, &mut screen);
    screen.clear();
    let shown = screen.console.take().map_or(Ok(()), Console::end);
    let sound = supervised?;
    shown?;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the directories of the definitions, whose images they may name; that of standard input and of options is the
/// current one. A supervisor is told of them: the current directory of a daemon is `/`.
pub(super) fn beside(args: &RunArgs) -> Result<Vec<PathBuf>, CliError> {
    if args.supervise {
        return Ok(args.beside.clone());
    }
    let of = |file: &PathBuf| {
        let is_input = file == Path::new("-");
        let parent = file.parent().filter(|parent| !is_input && !parent.as_os_str().is_empty());
        let directory = if file.is_dir() { file } else { parent.unwrap_or(Path::new(".")) };
        let failed = |source| CliError::Read { path: directory.to_owned(), source };
        std::path::absolute(directory).map_err(failed)
    };
    let mut beside: Vec<_> = args.files.paths().map(of).collect::<Result<_, _>>()?;
    if beside.is_empty() {
        beside.push(of(&PathBuf::from("-"))?);
    }
    Ok(beside)
}

/// Prints the progress of a supervisor.
struct Screen<'a> {
    args: &'a RunArgs,
    output: Output,
    console: Option<Console>,
    /// The line that shows the progress of the boot.
    booting: Option<Booting>,
}

impl Screen<'_> {
    /// Removes the line of the progress, if there is one.
    fn clear(&mut self) {
        if let Some(booting) = self.booting.take() {
            booting.end();
        }
    }
}

impl<K: Kernel> Observer<K> for Screen<'_> {
    type Error = CliError;

    fn networked(&mut self, report: &Report) -> Result<(), CliError> {
        self.output.complaints(&mut documents::report(report))
    }

    fn started(&mut self, node: &Node<K>, instance: &Instance) -> Result<(), CliError> {
        if self.args.console {
            let log = runs::log(&node.config().state_dir, instance.name());
            let text = GuestText::new(self.output, self.args.raw);
            self.console = Some(Console::show(&log, text)?);
        } else if !self.args.supervise {
            self.booting = self.booting.take().or_else(|| Booting::begin(self.output));
            if let Some(booting) = &self.booting {
                booting.say(&format!("starting {}", instance.name()));
            }
        }
        Ok(())
    }

    fn waiting(&mut self, first: &str, others: usize) {
        let more = if others == 0 { String::new() } else { format!("; and {others} more") };
        if let Some(booting) = &self.booting {
            booting.say(&format!("waiting for {first}{more}"));
        }
    }

    fn ready(&mut self, node: &mut Node<K>, ready: &Ready<'_>) -> Result<(), CliError> {
        self.clear();
        let ends = if self.args.supervise { Ends::Stop } else { Ends::Interrupt };
        announce::announce(ready, self.output, announce::uplink_address(node)?, ends)?;
        if self.args.supervise { detach::close_output() } else { Ok(()) }
    }

    fn ended(&mut self, ended: &Ended) {
        self.output.remark(&format!("{}: {}", ended.name, ended.reason));
    }

    fn left(&mut self, report: &Report) -> Result<(), CliError> {
        self.output.complaints(&mut documents::report(report))
    }

    fn words(error: &CliError) -> String {
        super::error::chain(error)
    }
}

/// Returns the command that starts the built-in guest: this program, as a child process.
fn builtin(instance: &Instance) -> Result<Launch, LaunchError> {
    let program = std::env::current_exe();
    let program =
        program.map_err(|source| LaunchError::Start { program: "riklet-sdn".into(), source })?;
    let arguments = vec!["guest".into(), guest_of(instance).to_argument().into()];
    Ok(Launch::Builtin { program, arguments })
}

fn guest_of(instance: &Instance) -> Guest {
    let ports = |exposure: &Exposure| {
        let protocol = exposure.protocol();
        exposure.guest_ports().iter().map(move |port| (protocol, port))
    };
    Guest {
        name: instance.name().clone(),
        interface: instance.interface(),
        address: Ipv4Net::new_assert(instance.addresses.v4.guest, Addresses::PREFIX_LENGTH),
        gateway: instance.addresses.v4.host,
        mac: instance.guest_mac(),
        mtu: instance.mtu,
        ports: instance.exposures().iter().flat_map(ports).collect(),
    }
}

/// Runs one built-in guest, as a child process, until its parent stops it. If the parent dies, the kernel ends it.
pub(crate) fn guest(argument: &str) -> Result<ExitCode, CliError> {
    let guest = Guest::from_argument(argument)?;
    let attached = tap::attach(&guest.interface).map_err(|source| {
        let name = guest.interface.clone();
        NodeError::Kernel(KernelError::CreateLink { name, step: "attach", source })
    })?;
    let (never, _held) = std::io::pipe().map_err(|source| CliError::Signals { source })?;
    riklet_guest::serve(&guest, attached, never.as_fd())?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the current time in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the program's edge")]
pub(super) fn epoch_millis() -> u64 {
    wire::epoch_millis(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    #[test]
    fn supervisor_adds_no_directory_of_images() {
        let beside = |words: &[&str]| {
            let words = ["riklet-sdn", "run"].iter().chain(words);
            let Some(Command::Run(args)) = Args::try_parse_from(words).unwrap().command else {
                panic!("another command");
            };
            beside(&args).unwrap()
        };
        let current = std::env::current_dir().unwrap();
        assert_eq!(beside(&["-"]), [current]);
        assert_eq!(beside(&["/images/a.json"]), [Path::new("/images")]);
        assert_eq!(beside(&["--supervise", "-"]), Vec::<PathBuf>::new());
        assert_eq!(beside(&["--supervise", "--beside", "/images", "-"]), [Path::new("/images")]);
    }
}

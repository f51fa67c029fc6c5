//! `run`: functions with the builtin guest behind them, in the foreground.

mod guests;
mod ready;

use std::{collections::BTreeSet, os::fd::AsFd, process::ExitCode, time::Instant};

use riklet_sdn::{
    kernel::{Kernel, linux::tap},
    model::{InstanceName, Workload},
    sdn::{Report, Sdn, SdnError, UpOptions, Which},
    vmm::builtin::{self, Guest},
};
use serde_json::json;

use self::guests::{Event, Guests};
use super::{args::RunArgs, error::CliError, input, output, output::Output};

pub(crate) fn run<K: Kernel>(
    sdn: &mut Sdn<K>,
    args: &RunArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let workloads = input::definitions(&args.files)?;
    input::require_privilege()?;
    refuse_running(sdn, &workloads)?;
    let started = now();
    let mut guests = Guests::watching_signals()?;
    let served = match sdn.up(&workloads, UpOptions::default()) {
        Ok(mut report) => serve(sdn, &mut report, &mut guests, args, output, started),
        // What it came to before may stand, and is recorded.
        Err(error @ (SdnError::Halted { .. } | SdnError::Kernel(_))) => Err(error.into()),
        Err(error) => return Err(error.into()),
    };
    guests.end();
    let names = workloads.iter().map(|workload| workload.name().clone()).collect();
    let ended = take_down(sdn, names);
    served?;
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// The child process: plays one guest until its parent ends it, or ends itself, which ends its standard input.
pub(crate) fn guest(argument: &str) -> Result<ExitCode, CliError> {
    let guest = Guest::from_argument(argument)?;
    guests::ignore_interrupts()?;
    let tap = tap::attach(&guest.interface)
        .map_err(|source| SdnError::Kernel(attach_failed(&guest, source)))?;
    builtin::serve(&guest, tap, std::io::stdin().as_fd())?;
    Ok(ExitCode::SUCCESS)
}

fn attach_failed(
    guest: &Guest,
    source: riklet_sdn::kernel::Refusal,
) -> riklet_sdn::kernel::KernelError {
    let name = guest.interface.clone();
    riklet_sdn::kernel::KernelError::CreateLink { name, step: "attach", source }
}

/// What is up belongs to whoever brought it up: `run` would take it down.
fn refuse_running<K: Kernel>(sdn: &mut Sdn<K>, workloads: &[Workload]) -> Result<(), CliError> {
    let recorded: BTreeSet<_> =
        sdn.list()?.into_iter().map(|listed| listed.instance.name().clone()).collect();
    match workloads.iter().find(|workload| recorded.contains(workload.name())) {
        Some(workload) => Err(CliError::Running { name: workload.name().to_string() }),
        None => Ok(()),
    }
}

fn serve<K: Kernel>(
    sdn: &mut Sdn<K>,
    report: &mut Report,
    guests: &mut Guests,
    args: &RunArgs,
    output: Output,
    started: Instant,
) -> Result<(), CliError> {
    output::complaints(report)?;
    let network = started.elapsed();
    for instance in &report.instances {
        guests.start(instance)?;
    }
    let elsewhere = ready::uplink_address(sdn)?;
    let answers = match ready::wait(sdn, &report.instances, guests, args.ready_timeout)? {
        ready::Outcome::Ready(answers) => answers,
        ready::Outcome::Stopped => return Ok(()),
    };
    let total = started.elapsed();
    output.print(
        || {
            let mut text = output::instances(&[], report.instances.iter().map(|i| (i, vec![])));
            for url in ready::urls(&report.instances, &answers, elsewhere) {
                text.push_str(&url);
                text.push('\n');
            }
            text + &format!(
                "ready in {:.1} ms, of which the network took {:.1} ms; Ctrl-C takes it down\n",
                millis(total),
                millis(network)
            )
        },
        || {
            json!({
                "instances": report.instances.iter().map(output::instance).collect::<Vec<_>>(),
                "urls": ready::urls(&report.instances, &answers, elsewhere),
                "readyMs": millis(total),
                "networkMs": millis(network),
            })
        },
    )?;
    match guests.wait(None)? {
        Some(Event::Ended { name, status }) => Err(CliError::GuestEnded { name, status }),
        Some(Event::Signal) | None => Ok(()),
    }
}

/// Leaves the host as it was, unless somebody else's instances remain.
fn take_down<K: Kernel>(sdn: &mut Sdn<K>, names: BTreeSet<InstanceName>) -> Result<(), CliError> {
    let which = Which::Named(names);
    let mut report = match sdn.down(&which, true) {
        Err(SdnError::Remaining { .. }) => sdn.down(&which, false)?,
        report => report?,
    };
    output::complaints(&mut report)
}

fn millis(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(clippy::disallowed_methods, reason = "the program's edge")]
pub(super) fn now() -> Instant {
    Instant::now()
}

//! `run --detach`, `ps`, `logs`, `stop` and `wait` through the daemon, for users who may use its socket and not change the
//! node themselves. They cannot read the records or the logs of root.

use std::{fs, io, io::Read, process::ExitCode};

use riklet_api::{ApiError, Client, EndedRun, ErrorKind, ReadyRuns};
use riklet_core::model::InstanceName;

use super::{
    args::{LogsArgs, NodeArgs, RunArgs, StopArgs, WaitArgs},
    config,
    error::CliError,
    input,
    output::{GuestText, Output},
    render,
};

/// Returns a client of the daemon, if this user needs one and one listens.
pub(crate) fn client(args: &NodeArgs) -> Result<Option<Client>, CliError> {
    if args.no_daemon || input::require_privilege().is_ok() {
        return Ok(None);
    }
    let socket = config::load(args)?.socket();
    match Client::connect(&socket) {
        Ok(client) => Ok(Some(client)),
        Err(source)
            if source.kind() == io::ErrorKind::PermissionDenied
                && fs::symlink_metadata(&socket).is_ok() =>
        {
            Err(CliError::Daemon { path: socket, source })
        }
        Err(_nobody_listens) => Ok(None),
    }
}

pub(crate) fn run(client: &Client, args: &RunArgs, output: Output) -> Result<ExitCode, CliError> {
    let workloads = super::run::described::workloads(args)?;
    let started = client.start_runs(&workloads, args.ready_timeout, args.no_wait)?;
    for ready in &started.ready {
        ready.warnings.iter().for_each(|warning| output.remark(&format!("warning: {warning}")));
    }
    let text = || started.ready.iter().map(text).collect();
    output.print(text, || &started.ready)?;
    let mut failed = Ok(ExitCode::SUCCESS);
    for problem in started.failed {
        if let Err(earlier) = std::mem::replace(&mut failed, Err(ApiError::from(problem).into())) {
            output.remark(&super::error::chain(&earlier));
        }
    }
    failed
}

fn text(ready: &ReadyRuns) -> String {
    let rows = ready.instances.iter().map(|it| (&it.instance, vec![it.vmm.clone()]));
    let table = render::instances(&["VMM"], rows);
    let urls = ready.urls.join("\n");
    let names: Vec<_> = ready.instances.iter().map(|it| it.instance.name.as_str()).collect();
    format!(
        "{table}{urls}\n{}\n`riklet-sdn stop {}` takes it down\n",
        ready.took(),
        names.join(" ")
    )
}

pub(crate) fn ps(client: &Client, output: Output) -> Result<ExitCode, CliError> {
    let (all, now) = (client.runs()?, super::run::epoch_millis());
    output.print(|| render::runs(&all, now), || &all)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn logs(client: &Client, args: &LogsArgs, output: Output) -> Result<ExitCode, CliError> {
    if args.since.is_some() || args.previous || args.vmm {
        let detail = "the daemon gives the console of the last run, with --tail and --follow";
        let hint = "--since, --previous and --vmm need root".to_owned();
        let status = riklet_api::HttpStatus::UnprocessableEntity;
        return Err(ApiError::new(status, ErrorKind::Invalid, detail).with_hint(hint).into());
    }
    let mut log = client.logs(&args.name, args.follow, args.tail)?;
    let mut text = GuestText::new(output, args.raw);
    let mut bytes = [0; 8192];
    loop {
        match log.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => text.print(bytes.get(..length).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(CliError::Log { path: client.socket().to_owned(), source });
            }
        }
    }
    text.finish()?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn stop(client: &Client, args: &StopArgs, output: Output) -> Result<ExitCode, CliError> {
    let runs = client.runs()?;
    let under_way = runs.iter().filter(|run| args.all && run.ended_ms.is_none());
    let under_way = under_way.filter_map(|run| run.name.parse::<InstanceName>().ok());
    let names: Vec<_> = args.names.iter().cloned().chain(under_way).collect();
    if names.is_empty() {
        output.remark("nothing to do");
    }
    let mut stopped = Vec::new();
    for name in &names {
        let run = client.stop_run(name, args.timeout)?;
        output.remark(&format!("{name}: {}", run.how));
        stopped.push(run);
    }
    output.print(String::new, || &stopped)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn wait(client: &Client, args: &WaitArgs, output: Output) -> Result<ExitCode, CliError> {
    let run = loop {
        let run = client.awaited_run(&args.name)?;
        if run.ended_ms.is_some() {
            break run;
        }
    };
    let failed = run.failed.unwrap_or_default();
    let end = EndedRun { name: run.name, reason: run.reason.unwrap_or_default(), failed };
    output.print(|| format!("{}\n", end.reason), || &end)?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

use std::process::ExitCode;

use riklet_api::NodeApi;
use riklet_core::model::{Namespace, NamespacePathError, Workload};

use super::{
    args::{NamespaceArgs, UpArgs},
    error::CliError,
    input,
    output::Output,
    render,
};

pub(crate) fn run(
    node: &mut dyn NodeApi,
    args: &UpArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let mut workloads = input::definitions(args.files.paths())?;
    place(&mut workloads, &args.namespace)?;
    let mut report = node.up(&workloads, args.strict)?;
    output.print(
        || match &*report.instances {
            [] => String::new(),
            up => render::instances(&[], up.iter().map(|instance| (instance, vec![]))),
        },
        || &report,
    )?;
    output.complaints(&mut report).map(|()| ExitCode::SUCCESS)
}

/// Gives the one pod that is defined its namespace.
fn place(workloads: &mut [Workload], args: &NamespaceArgs) -> Result<(), CliError> {
    let Some(path) = &args.netns else { return Ok(()) };
    let wrong = |reason: String| CliError::Question { reason: format!("--netns: {reason}") };
    let workload = match workloads {
        [only] => only,
        many => return Err(wrong(format!("it is for one Pod, and {} are defined", many.len()))),
    };
    let (name, kind) = (workload.name().clone(), workload.kind());
    let Some((namespace, interface)) = workload.namespace_mut() else {
        return Err(wrong(format!("{name} is a {kind}, and only a Pod is in a namespace")));
    };
    let absolute = std::path::absolute(path);
    let absolute = absolute.map_err(|source| CliError::Read { path: path.clone(), source })?;
    let path =
        absolute.to_string_lossy().parse().map_err(|e: NamespacePathError| wrong(e.to_string()))?;
    *namespace = Namespace { path: Some(path), id: None };
    if let Some(name) = &args.ifname {
        interface.clone_from(name);
    }
    Ok(())
}

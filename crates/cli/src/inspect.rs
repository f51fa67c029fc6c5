use std::process::ExitCode;

use riklet_api::NodeApi;
use riklet_daemon::documents;
use riklet_kernel::{HostFacts, linux::Linux};
use riklet_sdn::NodeError;
use riklet_vmm::{
    attachment::{self, Attachment},
    qemu::{self, Board},
};
use serde_json::{Value, json};

use super::{
    args::{InspectArgs, InspectFormat},
    error::CliError,
    output::Output,
    render,
};

pub(crate) fn run(
    node: &mut dyn NodeApi,
    args: &InspectArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let found = node.inspect(&args.name)?;
    let Some(format) = args.format else {
        output.print(|| render::inspection(&found), || &found)?;
        return Ok(ExitCode::SUCCESS);
    };
    let instance = documents::inspected(&found)?;
    if instance.workload.namespace().is_some() {
        return Err(CliError::NoTap { name: args.name.clone(), kind: instance.kind() });
    }
    let resolvers = Linux::new().resolvers().map_err(NodeError::from)?;
    let attachment = Attachment::of(&instance, &resolvers);
    if matches!(format, InspectFormat::BootArgs | InspectFormat::CloudInit)
        && let Some(warning) = attachment::without_resolver(&attachment)
    {
        output.warnings(&[warning]);
    }
    match format {
        InspectFormat::Firecracker => {
            let interfaces = attachment::firecracker(&attachment);
            output.print(|| format!("{interfaces:#}\n"), || interfaces.clone())?;
        }
        InspectFormat::BootArgs => {
            let argument = attachment::boot_args(&attachment);
            output.print(|| format!("{argument}\n"), || json!(argument))?;
        }
        InspectFormat::CloudInit => {
            // JSON is YAML as well (YAML 1.2, section 1.3).
            let configuration = attachment::cloud_init(&attachment);
            output.print(|| format!("{configuration:#}\n"), || configuration.clone())?;
        }
        InspectFormat::Qemu => {
            let arguments = qemu::network(&attachment, Board::Q35);
            output.print(|| arguments.join(" ") + "\n", || json!(arguments))?;
        }
        InspectFormat::Env => {
            let variables = attachment::env(&attachment);
            output.print(
                || variables.clone(),
                || variables.lines().filter_map(variable).collect::<Value>(),
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn variable(line: &str) -> Option<(String, Value)> {
    line.split_once('=').map(|(name, value)| (name.to_owned(), value.into()))
}

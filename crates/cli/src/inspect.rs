use std::{net::IpAddr, process::ExitCode};

use riklet_api::{End, Inspection};
use riklet_core::model::Addresses;
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
    node::AnyNode,
    output::Output,
};

pub(crate) fn run(
    node: &mut AnyNode,
    args: &InspectArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let found = node.inspect(&args.name)?;
    let Some(format) = args.format else {
        output.print(|| text(&found), || &found)?;
        return Ok(ExitCode::SUCCESS);
    };
    let resolvers = Linux::new().resolvers().map_err(NodeError::from)?;
    let attachment = Attachment::of(&documents::inspected(&found)?, &resolvers);
    match format {
        InspectFormat::Firecracker => {
            let interfaces = attachment::firecracker(&attachment);
            output.print(|| format!("{interfaces:#}\n"), || interfaces.clone())?;
        }
        InspectFormat::BootArgs => {
            let argument = attachment::boot_args(&attachment);
            output.print(|| format!("{argument}\n"), || json!(argument))?;
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

fn text(found: &Inspection) -> String {
    let instance = &found.instance;
    let exposed = if found.exposed { "in the firewall" } else { "MISSING in the firewall" };
    let end = |end: &End| {
        let address6 = end.address6.map(IpAddr::V6);
        let addresses = [end.address].into_iter().chain(address6).map(Addresses::network);
        let words = addresses.map(|address| address.to_string()).chain([end.mac.clone()]);
        words.collect::<Vec<_>>().join(" ")
    };
    let mut lines = vec![
        ("name", instance.name.clone()),
        ("kind", instance.kind.clone()),
        ("phase", instance.phase.clone()),
        ("tap", format!("{} ({})", instance.tap, found.link)),
        ("guest", end(&instance.guest)),
        ("host", end(&instance.host)),
        ("mtu", instance.mtu.to_string()),
    ];
    for exposure in &instance.exposures {
        lines.push(("exposure", format!("{exposure} ({exposed})")));
    }
    lines.extend(found.drift.iter().map(|line| ("lacks", line.clone())));
    let lines: Vec<_> = lines.iter().map(|(field, value)| format!("{field:9} {value}")).collect();
    lines.join("\n") + "\n"
}

use std::process::ExitCode;

use riklet_sdn::{
    definition,
    kernel::Kernel,
    sdn::{Inspection, Sdn, SdnError},
    vmm::{
        attachment::{self, Attachment},
        qemu::{self, Board},
    },
};
use serde_json::{Value, json};

use super::{
    args::{InspectArgs, InspectFormat},
    error::CliError,
    output,
    output::Output,
};

pub(crate) fn run<K: Kernel>(
    sdn: &mut Sdn<K>,
    args: &InspectArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let found = sdn.inspect(&args.name)?;
    let Some(format) = args.format else {
        output.print(|| text(&found), || json(&found))?;
        return Ok(ExitCode::SUCCESS);
    };
    let resolvers = sdn.kernel().resolvers().map_err(SdnError::from)?;
    let attachment = Attachment::of(&found.instance, &resolvers);
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
            output
                .print(|| variables.clone(), || variables.lines().filter_map(variable).collect())?;
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
    let mut lines = vec![
        ("name", instance.name().to_string()),
        ("kind", instance.kind().to_string()),
        ("phase", instance.phase.to_string()),
        ("tap", format!("{} ({})", instance.interface(), found.status.as_str())),
        ("guest", format!("{}/30 {}", instance.addresses.guest, instance.guest_mac())),
        ("host", format!("{}/30 {}", instance.addresses.host, instance.slot.host_mac())),
        ("mtu", instance.mtu.to_string()),
    ];
    for exposure in instance.exposures() {
        lines.push(("exposure", format!("{exposure} ({exposed})")));
    }
    lines.extend(found.drift.iter().map(|line| ("lacks", line.clone())));
    let lines: Vec<_> = lines.iter().map(|(field, value)| format!("{field:9} {value}")).collect();
    lines.join("\n") + "\n"
}

fn json(found: &Inspection) -> Value {
    let mut value = output::instance(&found.instance);
    let more = json!({
        "link": found.status.as_str(),
        "exposed": found.exposed,
        "drift": found.drift,
        "definition": definition::to_value(&found.instance.workload),
    });
    if let (Some(fields), Value::Object(more)) = (value.as_object_mut(), more) {
        fields.extend(more);
    }
    value
}

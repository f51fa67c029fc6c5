//! The function that options of `run` describe, in place of a definition.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use riklet_core::{
    definition::{self, Source},
    model::{
        BootArgs, EgressPolicy, Execution, Exposure, Function, Image, Limits, PortRange, Proxy,
        Vcpus, Vmm, Workload,
    },
    reach,
};

use crate::{
    args::{DescribedArgs, RunArgs},
    error::CliError,
    input,
};

/// The name of a function that has no other, and the exposure of the one that nothing describes: the guest that is built in
/// answers there.
const NAME: &str = "hello";
const EXPOSURE: &str = "8080:3000";

/// Returns the workloads to run: those of the files, or the one that options describe.
pub(crate) fn workloads(args: &RunArgs) -> Result<Vec<Workload>, CliError> {
    if args.files.paths().next().is_some() {
        return input::definitions(args.files.paths());
    }
    let described = function(&args.described).map_err(|reason| refused(vec![reason]))?;
    // What a definition is refused for holds for options as well.
    let text = definition::to_json(&Workload::Function(described));
    let source = Source { name: "options.json".to_owned(), text };
    definition::parse(&[source]).map_err(|errors| {
        refused(errors.iter().map(|error| format!("{}: {}", error.field, error.reason)).collect())
    })
}

const fn refused(reasons: Vec<String>) -> CliError {
    CliError::Described { reasons }
}

fn function(args: &DescribedArgs) -> Result<Function, String> {
    let DescribedArgs { name, publish, vmm, kernel, initrd, rootfs, .. } = args;
    let DescribedArgs { memory, vcpus, boot_args, allow, deny, via, .. } = args;
    let execution = Execution {
        vmm: *vmm,
        kernel: kernel.clone(),
        initrd: initrd.clone(),
        rootfs: rootfs.clone(),
        memory: *memory,
        vcpus: *vcpus,
        boot_args: boot_args.clone(),
        ..Execution::default()
    };
    let mut exposures = publish.clone();
    if exposures.is_empty() && execution == Execution::default() {
        exposures.push(exposure(EXPOSURE)?);
    }
    let mut pairs = exposures
        .iter()
        .enumerate()
        .flat_map(|(index, one)| exposures.iter().take(index).map(move |earlier| (one, earlier)));
    if let Some((one, earlier)) = pairs.find(|(one, earlier)| one.clashes_with(earlier)) {
        return Err(format!("--publish: {one} clashes with {earlier}"));
    }
    let name = name.clone().map_or_else(|| NAME.parse(), Ok).map_err(|error| format!("{error}"))?;
    let via = via.map(Proxy::from);
    let named = !allow.is_empty() || !deny.is_empty() || via.is_some();
    let egress =
        named.then(|| EgressPolicy::new(None, allow.clone(), deny.clone()).with_proxy(via));
    if let Some(entry) = egress.as_ref().and_then(reach::denied_proxy) {
        return Err(format!("--via: the proxy is not reached: --deny has it by {entry}"));
    }
    Ok(Function { name, execution, exposures, egress, limits: Limits::default() })
}

/// Parses ports of the host and of the guest: `[ADDRESS:]PORT:TARGET[/PROTOCOL]`, where an IPv6 address is in brackets.
pub(crate) fn exposure(text: &str) -> Result<Exposure, String> {
    let (rest, protocol) = input::split_protocol(text)?;
    let Some((before, target)) = rest.rsplit_once(':') else {
        return Err(format!("it names one port: the host's comes first, as in {EXPOSURE}"));
    };
    let (address, port) = before.rsplit_once(':').map_or((None, before), |(a, b)| (Some(a), b));
    let address = address.map(|text| {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        bare.parse().map_err(|_error| format!("{text:?} is no IP address"))
    });
    let ports = |text: &str| text.parse::<PortRange>().map_err(|error| error.to_string());
    let (port, target) = (ports(port)?, ports(target)?);
    Exposure::new(protocol, address.transpose()?, port, target).map_err(|error| error.to_string())
}

/// Returns a parser of the names of VMMs.
pub(crate) fn vmms() -> impl TypedValueParser<Value = Vmm> {
    let known = PossibleValuesParser::new(Vmm::ALL.map(Vmm::as_str));
    known.try_map(|name| Vmm::from_name(&name).ok_or("no VMM has this name"))
}

pub(crate) fn image(text: &str) -> Result<Image, String> {
    Image::new(text, None).map_err(|error| error.to_string())
}

pub(crate) fn vcpus(text: &str) -> Result<Vcpus, String> {
    let count = text.parse::<i64>().map_err(|error| error.to_string())?;
    Vcpus::new(count).map_err(|error| error.to_string())
}

pub(crate) fn boot_args(text: &str) -> Result<BootArgs, String> {
    BootArgs::try_from(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_others_write_them() {
        for (text, shown) in [
            ("8080:3000", "tcp 8080 -> 3000"),
            ("127.0.0.1:8080:3000", "tcp 127.0.0.1:8080 -> 3000"),
            ("[::1]:8080:3000/tcp", "tcp [::1]:8080 -> 3000"),
            ("5353:53/udp", "udp 5353 -> 53"),
            ("8000-8010:9000-9010/SCTP", "sctp 8000-8010 -> 9000-9010"),
        ] {
            assert_eq!(exposure(text).map(|exposure| exposure.to_string()), Ok(shown.to_owned()));
        }
        for (text, reason) in [
            ("3000", "it names one port: the host's comes first, as in 8080:3000"),
            ("80:x", "\"x\" is neither a port such as 8080 nor a range such as 8000-8010"),
            ("0:80", "port 0 is out of range; ports are 1 to 65535"),
            ("eth0:80:80", "\"eth0\" is no IP address"),
            ("80:80/icmp", "unknown protocol \"icmp\"; tcp, udp and sctp are known"),
            (
                "80-81:80",
                "port 80-81 has 2 ports, targetPort 80 has 1: the lengths must be the same",
            ),
        ] {
            assert_eq!(exposure(text).unwrap_err(), reason, "{text}");
        }
    }
}

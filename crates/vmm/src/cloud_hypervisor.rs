//! Cloud Hypervisor: the API calls that create a machine, as data, and the driver that makes them.

use std::{ffi::OsString, path::Path};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    api::{Api, VmmApiError},
    machine::{Machine, MachineError},
    version::Version,
};
use riklet_http::{ApiCall, Client};

const VMM: &str = "cloud-hypervisor";
/// The oldest version that works: the first that tells its guest the TAP's MTU. `payload` came with version 26.
pub const LEAST: Version = Version::new(27, 0, 0);
/// The root of the API's paths (`servers` of its description).
const ROOT: &str = "/api/v1";

/// The file of its events, which is its standard error, as its log is.
const EVENTS: &str = "path=/proc/self/fd/2";

/// Returns the arguments of a `cloud-hypervisor` that serves its API on this socket. The file must not exist yet.
#[must_use]
pub fn arguments(socket: &Path) -> Vec<OsString> {
    let mut path = OsString::from("path=");
    path.push(socket);
    vec!["--api-socket".into(), path, "--event-monitor".into(), EVENTS.into()]
}

/// Tells whether a line of the events says that the guest resets. Cloud Hypervisor boots it again then; a guest that
/// panics with `panic=1` would boot forever.
#[must_use]
pub fn is_reset(line: &str) -> bool {
    // An event is printed over several lines; other versions may print it on one.
    let packed: String = line.chars().filter(|c| !c.is_whitespace()).collect();
    packed.starts_with(['"', '{']) && packed.contains(r#""event":"rebooting""#)
}

/// Returns the calls that create the machine and boot it, in order.
///
/// # Errors
/// Fails if no version of Cloud Hypervisor can run this machine.
pub fn calls(machine: &Machine) -> Result<Vec<ApiCall>, MachineError> {
    Ok(vec![ApiCall::put(&format!("{ROOT}/vm.create"), vm_config(machine)?), command("vm.boot")])
}

/// Returns the `VmConfig`. The serial port is the guest's console and goes to the process's standard output. The
/// virtio console is off: it would go there by default.
fn vm_config(machine: &Machine) -> Result<Value, MachineError> {
    let mut payload = json!({
        "kernel": machine.kernel(VMM)?,
        "cmdline": machine.command_line(&[]),
    });
    if let Some(path) = machine.initrd(VMM)? {
        payload["initramfs"] = path.into();
    }
    let mut config = json!({
        "payload": payload,
        "cpus": { "boot_vcpus": machine.vcpus, "max_vcpus": machine.vcpus },
        "memory": { "size": u64::from(machine.memory_mib.get()) << 20 },
        "net": [net_config(machine)],
        "serial": { "mode": "Tty" },
        "console": { "mode": "Off" },
    });
    if let Some(path) = machine.rootfs(VMM)? {
        // Without a type, version 51 refuses writes to sector 0, and later versions refuse the disk. Earlier versions
        // ignore the field.
        let disk = json!({ "path": path, "readonly": machine.read_only, "image_type": "Raw" });
        config["disks"] = json!([disk]);
    }
    Ok(config)
}

/// Returns the `NetConfig`, without `mtu`. The guest is told the TAP's MTU in any case. The field would change the MTU
/// of the TAP, for which a VMM that is not root lacks `CAP_NET_ADMIN`.
fn net_config(machine: &Machine) -> Value {
    json!({
        "tap": machine.attachment.interface.as_str(),
        "mac": machine.attachment.guest_mac.to_string(),
        // Each pair counts as two queues.
        "num_queues": u32::from(machine.attachment.queues) * 2,
    })
}

fn command(name: &str) -> ApiCall {
    ApiCall::command(&format!("{ROOT}/{name}"))
}

/// The part of the answer to `vmm.ping` (`VmmPingResponse`) that is used.
#[derive(Deserialize)]
struct Pong {
    version: String,
}

/// Creates the machine in the Cloud Hypervisor that listens on the client's socket, and boots it. Returns the version.
///
/// # Errors
/// Fails if it is too old, refuses a call, or does not answer. A machine that was created stays then; only ending the
/// VMM removes it.
pub fn start(client: &Client, machine: &Machine) -> Result<Version, VmmApiError> {
    let api = Api { vmm: VMM, client };
    let pong: Pong = api.ask(&ApiCall::get(&format!("{ROOT}/vmm.ping")))?;
    let version = api.at_least(LEAST, &pong.version)?;
    api.send_all(&calls(machine)?)?;
    Ok(version)
}

/// Presses the guest's power button (ACPI) and returns at once. If the guest then powers off, Cloud Hypervisor ends.
///
/// # Errors
/// Fails if there is no guest, or Cloud Hypervisor does not answer.
pub fn press_power_button(client: &Client) -> Result<(), VmmApiError> {
    Api { vmm: VMM, client }.send(&command("vm.power-button")).map(drop)
}

/// Ends Cloud Hypervisor, and the guest with it. The answer comes before the process has ended.
///
/// # Errors
/// Fails if it refuses or does not answer. Ending without an answer counts as success.
pub fn shut_down(client: &Client) -> Result<(), VmmApiError> {
    match (Api { vmm: VMM, client }).send(&command("vmm.shutdown")) {
        Err(VmmApiError::Exchange { source, .. }) if source.is_closed() => Ok(()),
        sent => sent.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::example;

    #[test]
    fn machine_is_created_and_then_booted() {
        let mut machine = example();
        machine.attachment.queues = 4;
        let calls = calls(&machine).unwrap();
        let paths: Vec<_> = calls.iter().map(ToString::to_string).collect();
        assert_eq!(paths, ["PUT /api/v1/vm.create", "PUT /api/v1/vm.boot"]);
        let expected = json!({
            "payload": {
                "kernel": "/srv/vmlinux",
                "initramfs": "/srv/initrd",
                "cmdline": "console=ttyS0 reboot=k panic=1 root=/dev/vda ro \
                    net.ifnames=0 ip=10.231.0.6::10.231.0.5:255.255.255.252:hello:eth0:off:9.9.9.9 quiet",
            },
            "cpus": { "boot_vcpus": 2, "max_vcpus": 2 },
            "memory": { "size": 268_435_456 },
            "disks": [{ "path": "/srv/rootfs.ext4", "readonly": true, "image_type": "Raw" }],
            "net": [{ "tap": "rik1", "mac": "06:52:49:4b:00:01", "num_queues": 8 }],
            "serial": { "mode": "Tty" },
            "console": { "mode": "Off" },
        });
        assert_eq!(calls[0].body, Some(expected));
        assert_eq!(calls[1].body, None);
    }

    #[test]
    fn absent_parts_of_a_machine_are_not_sent() {
        let machine = Machine { initrd: None, rootfs: None, ..example() };
        let config = calls(&machine).unwrap()[0].body.clone().unwrap();
        assert_eq!(config["payload"]["initramfs"], Value::Null);
        assert_eq!(config["disks"], Value::Null);
    }

    #[test]
    fn socket_path_is_an_argument() {
        assert_eq!(
            arguments(Path::new("/run/x.sock")),
            ["--api-socket", "path=/run/x.sock", "--event-monitor", "path=/proc/self/fd/2"]
        );
    }

    #[test]
    fn reset_is_told_from_other_events_and_the_log() {
        for line in [r#"  "event": "rebooting","#, r#"{"source":"vm","event":"rebooting"}"#] {
            assert!(is_reset(line), "{line}");
        }
        for line in [r#"  "event": "shutdown","#, r#"INFO: "event": "rebooting""#, "rebooting", ""]
        {
            assert!(!is_reset(line), "{line}");
        }
    }
}

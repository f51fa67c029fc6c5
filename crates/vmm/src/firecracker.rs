//! Firecracker: the API calls that create a machine, as data, and the driver that makes them.

use std::{ffi::OsString, path::Path};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    api::{Api, VmmApiError},
    attachment::{self, ETHERNET_MTU, GUEST_INTERFACE},
    machine::{Machine, MachineError},
    version::Version,
};
use riklet_core::model::InstanceName;
use riklet_http::{ApiCall, Client};

const VMM: &str = "firecracker";
/// The oldest version that works: before it, `machine-config` required the field `ht_enabled`.
pub const LEAST: Version = Version::new(1, 0, 0);
/// The first version in which a network interface has the field `mtu`. An unknown field is refused.
const HAS_MTU: Version = Version::new(1, 16, 0);
/// The state of a Firecracker whose guest was not started (`InstanceInfo` of its API).
const NOT_STARTED: &str = "Not started";

/// The file that Firecracker logs to: its standard error. By default its log goes to standard output, into the lines of
/// the guest's console.
const LOG: &str = "/proc/self/fd/2";

/// Returns the arguments of a `firecracker` that serves its API on this socket. The file must not exist yet. Its user
/// must be able to open its standard error by name.
#[must_use]
pub fn arguments(socket: &Path, name: &InstanceName) -> Vec<OsString> {
    let api = ["--api-sock".into(), socket.into(), "--id".into(), id(name).into()];
    api.into_iter().chain(["--log-path", LOG].map(OsString::from)).collect()
}

/// Returns the instance's name as Firecracker accepts it: 1 to 64 characters of `[a-zA-Z0-9-]`. It appears in
/// Firecracker's log and metrics only, so `a.b` and `a-b` may share one.
fn id(name: &InstanceName) -> String {
    name.as_str().replace('.', "-")
}

/// Returns the calls that configure a Firecracker of this version and start its guest, in order.
///
/// # Errors
/// Fails if no version of Firecracker can run this machine.
pub fn calls(machine: &Machine, version: Version) -> Result<Vec<ApiCall>, MachineError> {
    let queues = machine.attachment.queues;
    if queues > 1 {
        return Err(MachineError::Queues { vmm: VMM, queues });
    }
    let mut calls = vec![
        ApiCall::put(
            "/machine-config",
            json!({ "vcpu_count": machine.vcpus, "mem_size_mib": machine.memory_mib }),
        ),
        ApiCall::put("/boot-source", boot_source(machine)?),
    ];
    if let Some(path) = machine.rootfs(VMM)? {
        let drive = json!({
            "drive_id": "rootfs",
            "path_on_host": path,
            "is_root_device": true,
            "is_read_only": machine.read_only,
        });
        calls.push(ApiCall::put("/drives/rootfs", drive));
    }
    let interface = network_interface(machine, version);
    calls.push(ApiCall::put(&format!("/network-interfaces/{GUEST_INTERFACE}"), interface));
    calls.push(action("InstanceStart"));
    Ok(calls)
}

fn boot_source(machine: &Machine) -> Result<Value, MachineError> {
    let mut source = json!({
        "kernel_image_path": machine.kernel(VMM)?,
        // The guest has no PCI unless Firecracker is started with --enable-pci, so the kernel need not probe for it.
        "boot_args": machine.command_line(&["pci=off"]),
    });
    if let Some(path) = machine.initrd(VMM)? {
        source["initrd_path"] = path.into();
    }
    Ok(source)
}

fn network_interface(machine: &Machine, version: Version) -> Value {
    let mut interface = attachment::firecracker_interface(&machine.attachment);
    if version >= HAS_MTU {
        interface["mtu"] = machine.attachment.mtu.into();
    }
    interface
}

fn action(kind: &str) -> ApiCall {
    ApiCall::put("/actions", json!({ "action_type": kind }))
}

/// The part of the answer to `GET /` (`InstanceInfo`) that is used. Versions that are too old answer it as well,
/// unlike `GET /version`.
#[derive(Deserialize)]
struct InstanceInfo {
    vmm_version: String,
    state: String,
}

/// Configures the Firecracker that listens on the client's socket, and starts the guest. Returns the version.
///
/// # Errors
/// Fails if it is too old, has a guest already, refuses a call, or does not answer. The configuration stays then; only
/// ending the VMM removes it.
pub fn start(client: &Client, machine: &Machine) -> Result<Version, VmmApiError> {
    let api = Api { vmm: VMM, client };
    let info: InstanceInfo = api.ask(&ApiCall::get("/"))?;
    let version = api.at_least(LEAST, &info.vmm_version)?;
    if info.state != NOT_STARTED {
        return Err(VmmApiError::Started { vmm: VMM, state: info.state });
    }
    let mtu = machine.attachment.mtu;
    if version < HAS_MTU && mtu != ETHERNET_MTU {
        tracing::warn!(%version, mtu, "this Firecracker cannot tell its guest the MTU");
    }
    api.send_all(&calls(machine, version)?)?;
    Ok(version)
}

/// Presses Ctrl+Alt+Del in the guest and returns at once. A guest with a keyboard driver (i8042) and an init that
/// handles the keys reboots, which ends Firecracker. `x86_64` only.
///
/// # Errors
/// Fails if the guest is not started, or Firecracker does not answer.
pub fn press_ctrl_alt_del(client: &Client) -> Result<(), VmmApiError> {
    Api { vmm: VMM, client }.send(&action("SendCtrlAltDel")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::example;

    fn rendered(calls: &[ApiCall]) -> String {
        let line = |call: &ApiCall| format!("{call} {}\n", call.body.as_ref().unwrap());
        calls.iter().map(line).collect()
    }

    #[test]
    fn machine_is_configured_and_then_started() {
        insta::assert_snapshot!(rendered(&calls(&example(), HAS_MTU).unwrap()), @r#"
        PUT /machine-config {"mem_size_mib":256,"vcpu_count":2}
        PUT /boot-source {"boot_args":"console=ttyS0 reboot=k panic=1 pci=off root=/dev/vda ro net.ifnames=0 ip=10.231.0.6::10.231.0.5:255.255.255.252:hello:eth0:off:9.9.9.9 quiet","initrd_path":"/srv/initrd","kernel_image_path":"/srv/vmlinux"}
        PUT /drives/rootfs {"drive_id":"rootfs","is_read_only":true,"is_root_device":true,"path_on_host":"/srv/rootfs.ext4"}
        PUT /network-interfaces/eth0 {"guest_mac":"06:52:49:4b:00:01","host_dev_name":"rik1","iface_id":"eth0","mtu":1400}
        PUT /actions {"action_type":"InstanceStart"}
        "#);
    }

    #[test]
    fn older_version_gets_no_unknown_field() {
        let machine = Machine { initrd: None, rootfs: None, ..example() };
        insta::assert_snapshot!(rendered(&calls(&machine, LEAST).unwrap()), @r#"
        PUT /machine-config {"mem_size_mib":256,"vcpu_count":2}
        PUT /boot-source {"boot_args":"console=ttyS0 reboot=k panic=1 pci=off net.ifnames=0 ip=10.231.0.6::10.231.0.5:255.255.255.252:hello:eth0:off:9.9.9.9 quiet","kernel_image_path":"/srv/vmlinux"}
        PUT /network-interfaces/eth0 {"guest_mac":"06:52:49:4b:00:01","host_dev_name":"rik1","iface_id":"eth0"}
        PUT /actions {"action_type":"InstanceStart"}
        "#);
    }

    #[test]
    fn more_than_one_pair_of_queues_is_refused() {
        let mut machine = example();
        machine.attachment.queues = 2;
        assert_eq!(
            calls(&machine, LEAST).unwrap_err().to_string(),
            "firecracker has one pair of queues a NIC, and 2 are asked for"
        );
    }

    #[test]
    fn instance_name_becomes_a_valid_id() {
        let name = "hello.v2-x".parse().unwrap();
        assert_eq!(
            arguments(Path::new("/run/x.sock"), &name),
            ["--api-sock", "/run/x.sock", "--id", "hello-v2-x", "--log-path", "/proc/self/fd/2"]
        );
    }
}

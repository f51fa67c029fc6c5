//! The drivers of all VMMs behind one set of functions.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    api::VmmApiError,
    cloud_hypervisor, firecracker,
    machine::{Machine, MachineError},
    qemu::{self, Board, Console},
    qmp::{Qmp, QmpError},
};
use riklet_core::model::Vmm;
use riklet_http::{Client, HttpError};

/// The time limit of one exchange with a running VMM.
const EXCHANGE: Duration = Duration::from_secs(5);

/// The reason why a VMM does not boot its machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The VMM's process does not listen.
    #[error("{vmm} does not serve its API")]
    Listen {
        /// The VMM.
        vmm: Vmm,
        /// The cause.
        #[source]
        source: HttpError,
    },
    /// The VMM has no means to ask its guest to power off.
    #[error("{vmm} has no way to ask its guest to power off")]
    NoButton {
        /// The VMM.
        vmm: Vmm,
    },
    /// The VMM does not do what was requested.
    #[error(transparent)]
    Api(#[from] VmmApiError),
    /// QEMU does not do what was requested.
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

/// Returns the name of the VMM's program, as it is looked up on the `PATH`.
#[must_use]
pub const fn program(vmm: Vmm) -> &'static str {
    match vmm {
        Vmm::Firecracker => "firecracker",
        Vmm::CloudHypervisor => "cloud-hypervisor",
        // QEMU's boards are PCs; on other processors they are emulated (accelerator tcg).
        Vmm::Qemu => "qemu-system-x86_64",
        Vmm::Builtin => "riklet-sdn",
    }
}

/// Returns the arguments of a VMM that serves its API on this socket.
///
/// # Errors
/// Fails if the VMM cannot run the machine.
pub fn arguments(
    vmm: Vmm,
    machine: &Machine,
    socket: &Path,
) -> Result<Vec<OsString>, MachineError> {
    Ok(match vmm {
        Vmm::Firecracker => firecracker::arguments(socket, &machine.attachment.name),
        Vmm::CloudHypervisor => cloud_hypervisor::arguments(socket),
        Vmm::Qemu => qemu_arguments(machine, socket),
        Vmm::Builtin => vec![],
    })
}

fn qemu_arguments(machine: &Machine, socket: &Path) -> Vec<OsString> {
    let accelerator = machine.accelerator;
    qemu::Arguments {
        attachment: machine.attachment.clone(),
        board: Board::of(accelerator),
        accelerator,
        kernel: machine.kernel.clone(),
        initrd: machine.initrd.clone(),
        rootfs: machine.rootfs.clone(),
        read_only: machine.read_only,
        vcpus: machine.vcpus.get(),
        memory_mib: machine.memory_mib.get(),
        command_line: machine.command_line(&[]),
        console: Console::Stdio,
        qmp: socket.to_owned(),
        events: Some(events_socket(socket)),
        sandbox: true,
    }
    .render()
}

/// Returns the path of the socket on which QEMU reports how its guest ends, beside that of its commands. It is no longer
/// than the other: the path of a socket has a limit.
#[must_use]
pub fn events_socket(socket: &Path) -> PathBuf {
    socket.with_file_name("end.sock")
}

/// Makes a VMM of this user, which was just started, run the machine. All of that, from the start of its API on, may take
/// `limit`.
///
/// # Errors
/// Fails if the VMM does not listen in time, or refuses. Only ending it helps then.
pub fn boot(
    vmm: Vmm,
    machine: &Machine,
    socket: &Path,
    user: u32,
    limit: Duration,
    runs: impl FnMut() -> bool,
) -> Result<(), DriverError> {
    let client = Client::new(socket, limit).served_by(user).within_one_limit();
    if matches!(vmm, Vmm::Firecracker | Vmm::CloudHypervisor) {
        client.wait(runs).map_err(|source| DriverError::Listen { vmm, source })?;
    }
    match vmm {
        Vmm::Firecracker => firecracker::start(&client, machine).map(drop)?,
        Vmm::CloudHypervisor => cloud_hypervisor::start(&client, machine).map(drop)?,
        // These run the guest from the start of their process.
        Vmm::Qemu | Vmm::Builtin => {}
    }
    Ok(())
}

/// Asks the guest to power off, through the VMM of this user on this socket, and returns at once.
///
/// # Errors
/// Fails if the VMM cannot ask: it has no guest yet, or does not answer. The built-in guest has no API.
pub fn ask_to_power_off(vmm: Vmm, socket: &Path, user: u32) -> Result<(), DriverError> {
    let client = Client::new(socket, EXCHANGE).served_by(user);
    match vmm {
        Vmm::Firecracker => firecracker::press_ctrl_alt_del(&client)?,
        Vmm::CloudHypervisor => cloud_hypervisor::press_power_button(&client)?,
        Vmm::Qemu => Qmp::connect_to(socket, user, EXCHANGE)?.system_powerdown()?,
        Vmm::Builtin => return Err(DriverError::NoButton { vmm }),
    }
    Ok(())
}

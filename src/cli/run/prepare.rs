//! What must be known before anything is changed: which VMM runs a function, and with which files.

use std::{collections::BTreeMap, path::PathBuf};

use ipnet::Ipv4Net;
use riklet_sdn::{
    model::{Addresses, Exposure, InstanceName, Vmm, Workload},
    sdn::{Config, Instance},
    vmm::{
        builtin::Guest,
        choose::{self, Choice, Facts, Kvm},
        driver,
        launch::Launch,
    },
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::cli::error::CliError;

/// A function that can be run.
pub(super) struct Prepared {
    pub(super) workload: Workload,
    pub(super) choice: Choice,
}

/// Chooses the VMM of each.
pub(super) fn prepare(_config: &Config, workloads: &[Workload]) -> Result<Vec<Prepared>, CliError> {
    let facts = facts();
    let prepare = |workload: &Workload| {
        let Workload::Function(function) = workload;
        let choice = choose::choose(&function.execution, &facts);
        let choice =
            choice.map_err(|source| CliError::Vmm { name: function.name.to_string(), source })?;
        Ok(Prepared { workload: workload.clone(), choice })
    };
    workloads.iter().map(prepare).collect()
}

impl Prepared {
    pub(super) fn name(&self) -> &InstanceName {
        self.workload.name()
    }

    /// What plays the guest in this instance's slot.
    pub(super) fn launch(&self, instance: &Instance) -> Result<Launch, CliError> {
        Ok(Launch::Builtin(guest_of(instance)))
    }
}

/// What this host has to run microVMs with.
pub(crate) fn facts() -> Facts {
    let programs = Vmm::ALL.into_iter().filter(|vmm| *vmm != Vmm::Builtin);
    let programs = programs.filter_map(|vmm| Some((vmm, on_path(driver::program(vmm))?)));
    Facts { programs: programs.collect::<BTreeMap<_, _>>(), kvm: kvm() }
}

/// Where the `PATH` has a program of this name.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|candidate| {
        rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok() && candidate.is_file()
    })
}

fn kvm() -> Kvm {
    match rustix::fs::open("/dev/kvm", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Kvm::Opens,
        Err(Errno::ACCESS | Errno::PERM) => Kvm::Denied,
        Err(_) => Kvm::Missing,
    }
}

fn guest_of(instance: &Instance) -> Guest {
    let ports = |exposure: &Exposure| {
        let protocol = exposure.protocol();
        exposure.guest_ports().iter().map(move |port| (protocol, port))
    };
    Guest {
        name: instance.name().clone(),
        interface: instance.interface(),
        address: Ipv4Net::new_assert(instance.addresses.guest, Addresses::PREFIX_LENGTH),
        gateway: instance.addresses.host,
        mac: instance.guest_mac(),
        mtu: instance.mtu,
        ports: instance.exposures().iter().flat_map(ports).collect(),
    }
}

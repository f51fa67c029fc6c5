//! What must be known before anything is changed: which VMM runs a function, and with which files.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    num::{NonZeroU8, NonZeroU32},
    path::PathBuf,
};

use ipnet::Ipv4Net;
use riklet_core::model::{
    Accelerator, Account, Addresses, Execution, Exposure, Image, InstanceName, Sha256, Vmm,
    Workload,
};
use riklet_guest::Guest;
use riklet_kernel::{AccountKind, Kernel, process::Credentials};
use riklet_sdn::{Instance, Node, NodeError};
use riklet_vmm::{
    attachment::Attachment,
    choose::{self, Choice, Facts, Kvm, Need, Unusable},
    driver,
    image::{self, Access, ImageError, Images, Role, Settings, Wanted},
    launch::{Launch, LaunchError},
    machine::Machine,
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::geteuid,
};

use crate::{error::CliError, output::Output, progress};

/// A function that can be run.
pub(super) struct Prepared {
    pub(super) workload: Workload,
    pub(super) choice: Choice,
    files: Option<Files>,
    credentials: Option<Credentials>,
}

/// The files of a microVM, there and fit to be opened.
struct Files {
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    rootfs: Option<PathBuf>,
}

/// Chooses the VMM of each, and downloads what is not there.
pub(super) fn prepare<K: Kernel>(
    node: &mut Node<K>,
    workloads: &[Workload],
    output: Output,
) -> Result<Vec<Prepared>, CliError> {
    let facts = facts();
    let images = Images::new(&node.config().state_dir, Settings::default());
    let mut prepared = Vec::new();
    for workload in workloads {
        let name = || workload.name().to_string();
        let execution = workload.execution();
        let choice = choose::choose(execution, &facts);
        let choice = choice.map_err(|source| CliError::Vmm { name: name(), source })?;
        let (mut files, mut credentials) = (None, None);
        if choice.vmm != Vmm::Builtin {
            credentials = credentials_of(node, execution)?;
            let lacks = lacks_device(&choice, credentials);
            if let Some(source) = lacks {
                return Err(CliError::Vmm { name: name(), source });
            }
            let obtained = Files::obtain(&images, execution, credentials, output);
            files = obtained.map_err(|source| CliError::Image { name: name(), source })?;
        }
        prepared.push(Prepared { workload: workload.clone(), choice, files, credentials });
    }
    Ok(prepared)
}

impl Files {
    /// `None` where no kernel is named: no VMM is chosen then.
    fn obtain(
        images: &Images,
        execution: &Execution,
        user: Option<Credentials>,
        output: Output,
    ) -> Result<Option<Self>, ImageError> {
        let obtain = |role: Role, image: &Option<Image>, access: Access| {
            let Some(image) = image else { return Ok(None) };
            let sha256 = image.sha256().map(Sha256::bytes);
            let wanted = Wanted { role, source: image.source(), sha256, access, user };
            let mut progress = progress::shown(&format!("{role} {}", image.source()), output);
            images.obtain(&wanted, &mut progress).map(Some)
        };
        let disk = if execution.read_only == Some(true) { Access::Read } else { Access::Write };
        let kernel = obtain(Role::Kernel, &execution.kernel, Access::Read)?;
        let initrd = obtain(Role::Initrd, &execution.initrd, Access::Read)?;
        let rootfs = obtain(Role::Rootfs, &execution.rootfs, disk)?;
        Ok(kernel.map(|kernel| Self { kernel, initrd, rootfs }))
    }
}

/// What we can open, the VMM's user may not.
fn lacks_device(choice: &Choice, user: Option<Credentials>) -> Option<Unusable> {
    let user = user?;
    let need = if !image::opens_device("/dev/net/tun", user) {
        Need::TunAs(user)
    } else if choice.accelerator == Accelerator::Kvm && !image::opens_device("/dev/kvm", user) {
        Need::KvmAs(user)
    } else {
        return None;
    };
    Some(Unusable { vmm: choice.vmm, need })
}

/// Who the VMM runs as; `None` is whoever we are. A user whose group is not said has the one of passwd(5).
fn credentials_of<K: Kernel>(
    node: &mut Node<K>,
    execution: &Execution,
) -> Result<Option<Credentials>, CliError> {
    let mut number = |kind, account: &Option<Account>| match account {
        None => Ok(None),
        Some(Account::Id(id)) => Ok(Some(*id)),
        Some(Account::Name(name)) => {
            let found = node.kernel().account(kind, name).map_err(NodeError::from)?;
            let unknown = || CliError::Account { kind, name: name.to_string() };
            found.map(Some).ok_or_else(unknown)
        }
    };
    let uid = number(AccountKind::User, &execution.user)?;
    let gid = number(AccountKind::Group, &execution.group)?;
    let uid = match (uid, gid) {
        (None, None) => return Ok(None),
        (uid, _) => uid.unwrap_or_else(|| geteuid().as_raw()),
    };
    let own = || nix::unistd::User::from_uid(uid.into()).ok().flatten();
    let gid = gid.unwrap_or_else(|| own().map_or(uid, |user| user.gid.as_raw()));
    Ok(Some(Credentials { uid, gid }))
}

impl Prepared {
    pub(super) fn name(&self) -> &InstanceName {
        self.workload.name()
    }

    /// What plays the guest in this instance's slot. The host's resolvers are for a guest whose definition names
    /// none.
    pub(super) fn launch(
        &self,
        instance: &Instance,
        resolvers: &[Ipv4Addr],
    ) -> Result<Launch, CliError> {
        let (Some(files), Some(program)) = (&self.files, &self.choice.program) else {
            let program = std::env::current_exe().map_err(|source| CliError::Launch {
                name: instance.name().to_string(),
                source: LaunchError::Start { program: PathBuf::from("riklet-sdn"), source },
            })?;
            let arguments = vec!["guest".into(), guest_of(instance).to_argument().into()];
            return Ok(Launch::Builtin { program, arguments });
        };
        let execution = self.workload.execution();
        let mut machine = Machine::new(Attachment::of(instance, resolvers), files.kernel.clone());
        machine.initrd.clone_from(&files.initrd);
        machine.rootfs.clone_from(&files.rootfs);
        machine.read_only = execution.read_only == Some(true);
        machine.accelerator = self.choice.accelerator;
        let vcpus = execution.vcpus.and_then(|vcpus| NonZeroU8::new(vcpus.get()));
        machine.vcpus = vcpus.unwrap_or(Machine::VCPUS);
        let memory = execution.memory.and_then(|memory| NonZeroU32::new(memory.mib()));
        machine.memory_mib = memory.unwrap_or(Machine::MEMORY_MIB);
        machine.boot_args =
            execution.boot_args.as_ref().map(|args| args.as_str().to_owned()).unwrap_or_default();
        Ok(Launch::Vmm {
            vmm: self.choice.vmm,
            program: program.clone(),
            machine: Box::new(machine),
            credentials: self.credentials,
        })
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

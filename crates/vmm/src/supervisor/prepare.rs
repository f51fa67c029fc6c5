//! Decides, before anything is changed, which VMM runs each function, and obtains its files.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::{NonZeroU8, NonZeroU32},
    path::PathBuf,
};

use riklet_core::model::{
    Accelerator, Account, Execution, Image, InstanceName, Sha256, Vmm, Workload,
};
use riklet_kernel::{AccountKind, Kernel, process::Credentials};
use riklet_sdn::{Config, DEFAULT_IMAGE_ROOTS, Instance, Node, VmmConfig};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::geteuid,
};

use super::SupervisorError;
use crate::{
    attachment::Attachment,
    choose::{self, Choice, Facts, Kvm, Need, Unusable},
    driver,
    image::{self, Access, ImageError, Images, Progress, Role, Settings, Wanted},
    launch::{Launch, LaunchError},
    machine::Machine,
};

/// Starts the built-in guest of an instance: a program and its arguments ([`Launch::Builtin`]).
pub type Player<'a> = &'a dyn Fn(&Instance) -> Result<Launch, LaunchError>;

/// A function that can be run: its VMM is chosen, and its files exist.
#[derive(Debug)]
pub struct Prepared {
    /// The function.
    pub workload: Workload,
    /// The VMM that runs it, and why.
    pub choice: Choice,
    files: Option<Files>,
    credentials: Option<Credentials>,
}

/// The files of a microVM, which the VMM's user can open.
#[derive(Debug)]
struct Files {
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    rootfs: Option<PathBuf>,
}

/// Chooses the VMM of each function, and obtains its images. Definitions may name files in the directories `beside` as well
/// as in those of [`riklet_sdn::DEFAULT_IMAGE_ROOTS`], or else in those of the configuration. `show` gets the name of an image and returns
/// the function that receives the progress of its download. Changes nothing but the cache of images. Can be repeated.
///
/// # Errors
/// Fails if one of them cannot be run on this host, the host is in use by other records, or an image cannot be obtained. Earlier images may be downloaded
/// then.
pub fn prepare<K: Kernel, P: FnMut(Progress)>(
    node: &mut Node<K>,
    workloads: &[Workload],
    beside: &[PathBuf],
    show: impl Fn(&str) -> P,
) -> Result<Vec<Prepared>, SupervisorError> {
    node.refuse_first_use()?;
    let facts = facts();
    let images = Images::new(&node.config().state_dir, image_settings(node.config(), beside));
    let mut prepared = Vec::new();
    for workload in workloads {
        let name = || workload.name().clone();
        let execution = workload.execution();
        let choice = choose::choose(execution, &facts);
        let choice = choice.map_err(|source| SupervisorError::Vmm { name: name(), source })?;
        let (mut files, mut credentials) = (None, None);
        if choice.vmm != Vmm::Builtin {
            credentials = credentials_of(node, execution)?;
            if let Some(source) = lacks_device(&choice, credentials) {
                return Err(SupervisorError::Vmm { name: name(), source });
            }
            let obtained = Files::obtain(&images, execution, credentials, &show);
            files = obtained.map_err(|source| SupervisorError::Image { name: name(), source })?;
        }
        prepared.push(Prepared { workload: workload.clone(), choice, files, credentials });
    }
    Ok(prepared)
}

fn image_settings(config: &Config, beside: &[PathBuf]) -> Settings {
    let VmmConfig { image_dir, image_roots, private_redirects, .. } = &config.vmm;
    let default = DEFAULT_IMAGE_ROOTS.iter().map(PathBuf::from);
    let default = || beside.iter().cloned().chain(default).collect();
    Settings {
        directory: Some(image_dir.clone()),
        roots: Some(image_roots.clone().unwrap_or_else(default)),
        private_redirects: *private_redirects,
        ..Settings::default()
    }
}

impl Files {
    /// Obtains the files of a function. Returns `None` if its definition names no kernel: such a function has no VMM.
    fn obtain<P: FnMut(Progress)>(
        images: &Images,
        execution: &Execution,
        user: Option<Credentials>,
        show: impl Fn(&str) -> P,
    ) -> Result<Option<Self>, ImageError> {
        let obtain = |role: Role, image: &Option<Image>, access: Access| {
            let Some(image) = image else { return Ok(None) };
            let sha256 = image.sha256().map(Sha256::bytes);
            let wanted = Wanted { role, source: image.source(), sha256, access, user };
            let mut progress = show(&format!("{role} {}", image.source()));
            images.obtain(&wanted, &mut progress).map(Some)
        };
        let disk = if execution.read_only == Some(true) { Access::Read } else { Access::Write };
        let kernel = obtain(Role::Kernel, &execution.kernel, Access::Read)?;
        let initrd = obtain(Role::Initrd, &execution.initrd, Access::Read)?;
        let rootfs = obtain(Role::Rootfs, &execution.rootfs, disk)?;
        Ok(kernel.map(|kernel| Self { kernel, initrd, rootfs }))
    }
}

/// Returns the device that the VMM's user cannot open, although this process can.
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

/// Returns the user that the VMM runs as; `None` means the user of this process. Without a group in the definition,
/// the user's group of passwd(5) applies.
fn credentials_of<K: Kernel>(
    node: &mut Node<K>,
    execution: &Execution,
) -> Result<Option<Credentials>, SupervisorError> {
    let mut number = |kind, account: &Option<Account>| match account {
        None => Ok(None),
        Some(Account::Id(id)) => Ok(Some(*id)),
        Some(Account::Name(name)) => {
            let found = node.kernel().account(kind, name)?;
            let unknown = || SupervisorError::Account { kind, name: name.to_string() };
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
    /// Returns the name of the instance.
    #[must_use]
    pub fn name(&self) -> &InstanceName {
        self.workload.name()
    }

    /// Returns the way to start the guest in this instance's slot. A guest whose definition names no DNS servers gets
    /// the host's. `player` starts the built-in guest.
    pub(super) fn launch(
        &self,
        instance: &Instance,
        resolvers: &[IpAddr],
        player: Player<'_>,
    ) -> Result<Launch, LaunchError> {
        let (Some(files), Some(program)) = (&self.files, &self.choice.program) else {
            return player(instance);
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

/// Returns what this host offers to run microVMs.
#[must_use]
pub fn facts() -> Facts {
    let programs = Vmm::ALL.into_iter().filter(|vmm| *vmm != Vmm::Builtin);
    let programs = programs.filter_map(|vmm| Some((vmm, on_path(driver::program(vmm))?)));
    Facts { programs: programs.collect::<BTreeMap<_, _>>(), kvm: kvm() }
}

/// Returns the path of a program on the `PATH`.
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

//! Decides, before anything is changed, which VMM runs each function, and obtains its files.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::IpAddr,
    num::{NonZeroU8, NonZeroU32},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use riklet_core::model::{
    Accelerator, Execution, Image, InstanceName, Sha256, SlotAccounts, Vmm, Workload,
};
use riklet_kernel::Kernel;
use riklet_sdn::{Config, DEFAULT_IMAGE_ROOTS, Instance, Node, VmmConfig};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::geteuid,
};

use super::{
    SupervisorError, epoch_millis,
    user::{Uid, UserLock, VmmUser},
};
use crate::{
    attachment::Attachment,
    choose::{self, Choice, Facts, Kvm, Need, Unusable},
    driver, host_accounts,
    image::{self, Access, ImageError, Images, Progress, Role, Settings, Wanted},
    launch::{Launch, LaunchError},
    machine::Machine,
    runs,
};

/// The device of KVM.
pub(super) const KVM: &str = "/dev/kvm";

/// Starts the built-in guest of an instance: a program and its arguments ([`Launch::Builtin`]).
pub type Player<'a> = &'a dyn Fn(&Instance) -> Result<Launch, LaunchError>;

/// A function that can be run: its VMM is chosen, and its files exist.
#[derive(Debug)]
pub struct Prepared {
    /// The function. If its definition names no user, it has that of its slot.
    pub workload: Workload,
    /// The VMM that runs it, and why.
    pub choice: Choice,
    files: Option<Files>,
    user: VmmUser,
    /// The lock of its user, while the function is run.
    _held: Option<UserLock>,
}

/// The files of a microVM.
#[derive(Debug)]
struct Files {
    kernel: ImageFile,
    initrd: Option<ImageFile>,
    rootfs: Option<ImageFile>,
}

/// A file of a microVM.
#[derive(Debug)]
enum ImageFile {
    /// The VMM's user can open it.
    InPlace(PathBuf),
    /// The VMM gets a copy of its own, of this file, which was at the path.
    Copied(PathBuf, File),
}

/// The places that definitions may name images in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sources<'a> {
    /// The directories of the definitions: they may name files there and in [`riklet_sdn::DEFAULT_IMAGE_ROOTS`], or else in
    /// the directories of the configuration.
    pub beside: &'a [PathBuf],
    /// True if a member of the group of the daemon's socket wrote the definitions: URLs lead to public addresses only,
    /// unless the configuration allows others.
    pub for_member: bool,
}

/// Chooses the VMM of each function, and obtains its images. `show` gets the name of an
/// image and returns the function that receives the progress of its download. Changes nothing but the cache of images, and
/// holds the users that definitions name. A run whose images have to be downloaded is recorded meanwhile: whoever
/// stops it ends this process (SIGTERM). Can be repeated.
///
/// # Errors
/// Fails if one of them cannot be run on this host, the host is in use by other records, an image cannot be obtained, or
/// another function has the user. Earlier images may be downloaded then.
pub fn prepare<K: Kernel, P: FnMut(Progress)>(
    node: &mut Node<K>,
    workloads: &[Workload],
    sources: Sources<'_>,
    show: impl Fn(&str) -> P,
) -> Result<Vec<Prepared>, SupervisorError> {
    let prepared = prepare_all(node, workloads, sources, show);
    if let Err(error) = &prepared {
        give_up(node.config(), workloads.iter().map(Workload::name), error);
    }
    prepared
}

/// Records that these runs do not begin, those whose images this process has obtained.
pub(super) fn give_up<'a>(
    config: &Config,
    names: impl IntoIterator<Item = &'a InstanceName>,
    error: &SupervisorError,
) {
    let first: &dyn std::error::Error = error;
    let causes = std::iter::successors(Some(first), |error| error.source());
    let reason = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    if let Err(error) = runs::give_up(&config.state_dir, names, &reason, epoch_millis()) {
        tracing::warn!("cannot record the end of a run: {error}");
    }
}

fn prepare_all<K: Kernel, P: FnMut(Progress)>(
    node: &mut Node<K>,
    workloads: &[Workload],
    sources: Sources<'_>,
    show: impl Fn(&str) -> P,
) -> Result<Vec<Prepared>, SupervisorError> {
    node.refuse_first_use()?;
    let facts = facts();
    let users = Some(node.config().vmm.vmm_users).filter(|_| geteuid().is_root());
    if let Some(conflict) = users.and_then(host_accounts::conflict) {
        return Err(conflict.into());
    }
    let images =
        Images::new(&node.config().state_dir, image_settings(node.config(), sources, users));
    let mut prepared = Vec::new();
    for workload in workloads {
        let name = || workload.name().clone();
        if !workload.kind().runs() {
            return Err(SupervisorError::NotRun { name: name(), kind: workload.kind() });
        }
        let mut workload = workload.clone();
        let choice = choose::choose(workload.execution(), &facts);
        let choice = choice.map_err(|source| SupervisorError::Vmm { name: name(), source })?;
        let (mut files, mut user, mut held) = (None, VmmUser::default(), None);
        if choice.vmm != Vmm::Builtin {
            let named = workload.execution().user.is_some();
            user = VmmUser::of(node, workload.execution_mut(), users, choice.accelerator)?;
            if let Some(source) = lacks_device(&choice, &user) {
                return Err(SupervisorError::Vmm { name: name(), source });
            }
            if let Some(uid) = user.own().filter(|_| named) {
                if users.is_some_and(|users| users.contains(uid)) {
                    return Err(SupervisorError::UserOfSlots { name: name(), uid });
                }
                let shared = workload.execution().shared_user == Some(true);
                held = Some(UserLock::take(&node.config().state_dir, &name(), uid, shared)?);
            }
            refuse_commander(node.config(), &name(), &user)?;
            if lacks_image(&images, workload.execution()) {
                runs::prepare(&node.config().state_dir, &name(), choice.vmm, epoch_millis())?;
            }
            let obtained = Files::obtain(&images, workload.execution(), &user, &show);
            files = obtained.map_err(|source| SupervisorError::Image { name: name(), source })?;
        }
        prepared.push(Prepared { workload, choice, files, user, _held: held });
    }
    Ok(prepared)
}

/// Refuses a VMM with a group that may use the daemon's socket: what escapes from its guest could command the daemon.
fn refuse_commander(
    config: &Config,
    name: &InstanceName,
    user: &VmmUser,
) -> Result<(), SupervisorError> {
    const WRITE: u32 = 0o020;
    let Some(credentials) = user.tried().filter(|user| user.uid != 0) else { return Ok(()) };
    let socket = config.socket();
    let Ok(found) = fs::symlink_metadata(&socket) else { return Ok(()) };
    let gid = found.gid();
    let has = credentials.gid == gid || user.groups.contains(&gid);
    if !has || found.mode() & WRITE == 0 {
        return Ok(());
    }
    Err(SupervisorError::CommandsDaemon { name: name.clone(), gid, socket })
}

fn image_settings(config: &Config, sources: Sources<'_>, users: Option<SlotAccounts>) -> Settings {
    let VmmConfig { image_dir, image_roots, private_redirects, .. } = &config.vmm;
    let default = DEFAULT_IMAGE_ROOTS.iter().map(PathBuf::from);
    let default = || sources.beside.iter().cloned().chain(default).collect();
    Settings {
        directory: Some(image_dir.clone()),
        roots: Some(image_roots.clone().unwrap_or_else(default)),
        private_redirects: *private_redirects,
        public_only: sources.for_member && !*private_redirects,
        group: users.map(SlotAccounts::shared),
        ..Settings::default()
    }
}

/// Refuses a function whose images no run could obtain, from its definition alone: [`prepare`] would.
///
/// # Errors
/// Fails if the kernel, the initrd or the root file system is neither a path nor a URL that can be downloaded.
pub fn refuse_sources(workload: &Workload) -> Result<(), SupervisorError> {
    let execution = workload.execution();
    let images = [
        (Role::Kernel, &execution.kernel, Access::Read),
        (Role::Initrd, &execution.initrd, Access::Read),
        (Role::Rootfs, &execution.rootfs, disk_access(execution)),
    ];
    // A function without a kernel has no VMM, and its images are used by nobody.
    for (role, image, access) in images.into_iter().filter(|_| execution.kernel.is_some()) {
        let source = image.as_ref().map(|image| image::source_of(role, image.source(), access));
        let refused = |source| SupervisorError::Image { name: workload.name().clone(), source };
        source.transpose().map_err(refused)?;
    }
    Ok(())
}

/// Reports whether an image has to be downloaded.
fn lacks_image(images: &Images, execution: &Execution) -> bool {
    let all = [
        (Role::Kernel, &execution.kernel),
        (Role::Initrd, &execution.initrd),
        (Role::Rootfs, &execution.rootfs),
    ];
    let mut named = all.into_iter().filter_map(|(role, image)| Some((role, image.as_ref()?)));
    named.any(|(role, image)| images.lack(role, image.source()))
}

/// Returns the access that the VMM has to the root file system.
fn disk_access(execution: &Execution) -> Access {
    if execution.read_only == Some(true) { Access::Read } else { Access::Write }
}

impl Files {
    /// Obtains the files of a function. Returns `None` if its definition names no kernel: such a function has no VMM.
    fn obtain<P: FnMut(Progress)>(
        images: &Images,
        execution: &Execution,
        user: &VmmUser,
        show: impl Fn(&str) -> P,
    ) -> Result<Option<Self>, ImageError> {
        let obtain = |role: Role, image: &Option<Image>, access: Access| {
            let Some(image) = image else { return Ok(None) };
            let sha256 = image.sha256().map(Sha256::bytes);
            let wanted = Wanted {
                role,
                source: image.source(),
                sha256,
                access,
                user: user.tried(),
                groups: &user.groups,
            };
            let mut progress = show(&format!("{role} {}", image.source()));
            ImageFile::obtain(images, &wanted, user, &mut progress).map(Some)
        };
        let kernel = obtain(Role::Kernel, &execution.kernel, Access::Read)?;
        let initrd = obtain(Role::Initrd, &execution.initrd, Access::Read)?;
        let rootfs = obtain(Role::Rootfs, &execution.rootfs, disk_access(execution))?;
        Ok(kernel.map(|kernel| Self { kernel, initrd, rootfs }))
    }

    /// Returns those that are copied, with their roles.
    fn copied(&self) -> Vec<(Role, &Path, &File)> {
        let roles = [
            (Role::Kernel, Some(&self.kernel)),
            (Role::Initrd, self.initrd.as_ref()),
            (Role::Rootfs, self.rootfs.as_ref()),
        ];
        let copied = roles.into_iter().filter_map(|(role, file)| match file {
            Some(ImageFile::Copied(source, file)) => Some((role, source.as_path(), file)),
            _ => None,
        });
        copied.collect()
    }
}

impl ImageFile {
    /// Obtains a file. A user that the definition names must be able to open the file itself. The user of a slot, which
    /// nothing belongs to, gets a copy of what it may write to, and of what it cannot read.
    fn obtain(
        images: &Images,
        wanted: &Wanted<'_>,
        user: &VmmUser,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ImageError> {
        if !matches!(user.uid, Uid::OfSlot(_)) {
            return images.obtain(wanted, progress).map(Self::InPlace);
        }
        let readable = Wanted { access: Access::Read, user: None, groups: &[], ..*wanted };
        let (path, file) = images.open(&readable, progress)?;
        let is_file = file.metadata().is_ok_and(|found| found.is_file());
        if wanted.access == Access::Write && is_file {
            return Ok(Self::Copied(path, file));
        }
        match Images::check(wanted, &path, &file) {
            Ok(()) => Ok(Self::InPlace(path)),
            Err(ImageError::Open { .. }) if is_file => Ok(Self::Copied(path, file)),
            Err(error) => Err(error),
        }
    }

    /// Returns the path for the VMM, and takes that of the next copy if this is one.
    fn place(&self, copies: &mut impl Iterator<Item = PathBuf>) -> PathBuf {
        match self {
            Self::InPlace(path) => path.clone(),
            Self::Copied(source, _) => copies.next().unwrap_or_else(|| source.clone()),
        }
    }
}

/// Returns the device that the VMM's user cannot open, although this process can.
fn lacks_device(choice: &Choice, user: &VmmUser) -> Option<Unusable> {
    let tried = user.tried()?;
    let opens = |device| image::opens_device(device, tried, &user.groups);
    let need = if !opens("/dev/net/tun") {
        Need::TunAs(tried)
    } else if choice.accelerator == Accelerator::Kvm && !opens(KVM) {
        Need::KvmAs(tried)
    } else {
        return None;
    };
    Some(Unusable { vmm: choice.vmm, need })
}

impl Prepared {
    /// Returns the name of the instance.
    #[must_use]
    pub fn name(&self) -> &InstanceName {
        self.workload.name()
    }

    /// Returns the way to start the guest in this instance's slot. A guest whose definition names no DNS servers gets
    /// the host's. `player` starts the built-in guest. Makes the private copies of images in this directory.
    pub(super) fn launch(
        &self,
        image_dir: &Path,
        instance: &Instance,
        resolvers: &[IpAddr],
        player: Player<'_>,
    ) -> Result<Launch, LaunchError> {
        let (Some(files), Some(program)) = (&self.files, &self.choice.program) else {
            return player(instance);
        };
        let execution = self.workload.execution();
        let credentials = self.user.credentials(instance.slot);
        if let Some(user) = self.user.of_slot(instance.slot).filter(|_| !files.copied().is_empty())
        {
            // What is left of an earlier function would find the copies in a directory of its own.
            user.hold().map_err(|source| LaunchError::User { uid: user.uid(), source })?.release();
        }
        let copies = match credentials {
            Some(user) => {
                image::copied(image_dir, instance.name(), user, &self.user.groups, &files.copied())?
            }
            None => vec![],
        };
        let mut copies = copies.into_iter();
        let kernel = files.kernel.place(&mut copies);
        let mut machine = Machine::new(Attachment::of(instance, resolvers), kernel);
        machine.initrd = files.initrd.as_ref().map(|file| file.place(&mut copies));
        machine.rootfs = files.rootfs.as_ref().map(|file| file.place(&mut copies));
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
            credentials,
            groups: self.user.groups.clone(),
            slot_user: self.user.of_slot(instance.slot),
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
    match rustix::fs::open(KVM, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Kvm::Opens,
        Err(Errno::ACCESS | Errno::PERM) => Kvm::Denied,
        Err(_) => Kvm::Missing,
    }
}

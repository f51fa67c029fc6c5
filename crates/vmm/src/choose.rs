//! Chooses the VMM that runs a function, and gives the reason. Pure.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use super::driver;
use riklet_core::model::{Accelerator, Execution, Vmm};
use riklet_kernel::process::Credentials;

/// The host's means to run microVMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The programs of the installed VMMs.
    pub programs: BTreeMap<Vmm, PathBuf>,
    /// The state of `/dev/kvm`.
    pub kvm: Kvm,
}

/// The state of `/dev/kvm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kvm {
    /// It can be opened. If the host is itself a guest, a microVM may hang nevertheless.
    Opens,
    /// It is missing: the processor or the kernel lacks KVM, or the module is not loaded.
    Missing,
    /// It exists, and this process may not open it.
    Denied,
}

/// The VMM that runs a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The VMM.
    pub vmm: Vmm,
    /// The path of its program; `None` for the built-in guest.
    pub program: Option<PathBuf>,
    /// The accelerator that executes the guest's instructions.
    pub accelerator: Accelerator,
    /// The reason for this choice.
    pub why: String,
}

/// A need of a VMM that the host or the definition does not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A kernel to boot.
    Kernel,
    /// Its program.
    Program,
    /// `/dev/kvm`.
    Kvm(Kvm),
    /// `/dev/kvm`, as the user that the definition names.
    KvmAs(Credentials),
    /// `/dev/net/tun`, as the user that the definition names: the VMM opens its TAP through this device.
    TunAs(Credentials),
    /// More than one pair of queues for a NIC.
    Queues,
    /// A choice of accelerators.
    Accelerator,
}

/// The VMM that a definition names cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{vmm} cannot run it: {}", need.of(*vmm))]
pub struct Unusable {
    /// The VMM.
    pub vmm: Vmm,
    /// The unmet need.
    pub need: Need,
}

impl Unusable {
    /// Tells whether the definition itself is invalid, so that no host could run it.
    #[must_use]
    pub const fn is_of_the_definition(&self) -> bool {
        match self.need {
            Need::Kernel | Need::Queues | Need::Accelerator => true,
            Need::Program | Need::Kvm(_) | Need::KvmAs(_) | Need::TunAs(_) => false,
        }
    }

    /// Returns a hint.
    #[must_use]
    pub fn hint(&self) -> String {
        match self.need {
            Need::Kernel => "name one: spec.function.execution.kernel".to_owned(),
            Need::Program => format!(
                "install {}, put it on the PATH, or name another vmm",
                driver::program(self.vmm)
            ),
            Need::Kvm(Kvm::Denied) => {
                "run as root, or as a member of the group of /dev/kvm".to_owned()
            }
            Need::Kvm(_) if self.vmm == Vmm::Qemu => {
                "`modprobe kvm_intel` or kvm_amd; without KVM, set accelerator to tcg".to_owned()
            }
            Need::Kvm(_) => {
                "`modprobe kvm_intel` or kvm_amd; without KVM, qemu can run it with accelerator tcg"
                    .to_owned()
            }
            Need::KvmAs(_) => {
                "set group to a group that may open /dev/kvm (`chgrp kvm /dev/kvm; chmod 660 /dev/kvm`)"
                    .to_owned()
            }
            Need::TunAs(_) => {
                "`chmod 666 /dev/net/tun`, as udev does: a TAP is its owner's all the same; or run the \
                 VMM as root, by `user: root`"
                    .to_owned()
            }
            Need::Queues | Need::Accelerator => "name another vmm".to_owned(),
        }
    }
}

impl Need {
    /// Returns the need in words, as a need of this VMM.
    fn of(self, vmm: Vmm) -> String {
        match self {
            Self::Kernel => "no kernel is named".to_owned(),
            Self::Program => format!("{} is not on the PATH", driver::program(vmm)),
            Self::Kvm(Kvm::Denied) => "/dev/kvm may not be opened".to_owned(),
            Self::Kvm(_) => "there is no /dev/kvm".to_owned(),
            Self::KvmAs(credentials) => format!("{credentials} may not open /dev/kvm"),
            Self::TunAs(credentials) => format!("{credentials} may not open /dev/net/tun"),
            Self::Queues => "it has one pair of queues".to_owned(),
            Self::Accelerator => "it has no accelerator to choose".to_owned(),
        }
    }
}

/// Returns the VMM that the definition names. If it names none, returns the first that can run it, or else the
/// built-in guest.
///
/// # Errors
/// Fails if the named VMM cannot be used.
pub fn choose(execution: &Execution, facts: &Facts) -> Result<Choice, Unusable> {
    let choice = |vmm: Vmm, why: String| Choice {
        vmm,
        program: facts.programs.get(&vmm).cloned(),
        accelerator: execution.accelerator.unwrap_or(Accelerator::Kvm),
        why,
    };
    if let Some(vmm) = execution.vmm {
        return match lacks(vmm, execution, facts) {
            Some(need) => Err(Unusable { vmm, need }),
            None => Ok(choice(vmm, "the definition names it".to_owned())),
        };
    }
    let mut passed_over = Vec::new();
    for vmm in Vmm::ALL {
        match lacks(vmm, execution, facts) {
            // A need that all of them share is named once.
            Some(Need::Kernel) => {
                return Ok(choice(Vmm::Builtin, Need::Kernel.of(vmm)));
            }
            Some(need) => passed_over.push(format!("{vmm}: {}", need.of(vmm))),
            None => {
                let why = if passed_over.is_empty() {
                    "it is the first that can run it".to_owned()
                } else {
                    passed_over.join("; ")
                };
                return Ok(choice(vmm, why));
            }
        }
    }
    Ok(choice(Vmm::Builtin, passed_over.join("; ")))
}

/// Returns the first need that is not met, if there is one.
fn lacks(vmm: Vmm, execution: &Execution, facts: &Facts) -> Option<Need> {
    if vmm == Vmm::Builtin {
        return None;
    }
    let tcg = execution.accelerator == Some(Accelerator::Tcg);
    let several = execution.queues.is_some_and(|queues| queues.get() > 1);
    if execution.kernel.is_none() {
        Some(Need::Kernel)
    } else if vmm != Vmm::Qemu && execution.accelerator.is_some() {
        Some(Need::Accelerator)
    } else if vmm == Vmm::Firecracker && several {
        Some(Need::Queues)
    } else if !facts.programs.contains_key(&vmm) {
        Some(Need::Program)
    } else if !tcg && facts.kvm != Kvm::Opens {
        Some(Need::Kvm(facts.kvm))
    } else {
        None
    }
}

impl fmt::Display for Choice {
    /// Formats as `qemu (firecracker: firecracker is not on the PATH)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.vmm, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use riklet_core::model::{Image, Queues};

    fn facts(programs: &[Vmm], kvm: Kvm) -> Facts {
        let path = |vmm: &Vmm| (*vmm, PathBuf::from("/usr/bin").join(driver::program(*vmm)));
        Facts { programs: programs.iter().map(path).collect(), kvm }
    }

    fn bootable() -> Execution {
        let kernel = Some(Image::new("/srv/vmlinux", None).unwrap());
        Execution { kernel, ..Execution::default() }
    }

    fn chosen(execution: &Execution, facts: &Facts) -> String {
        choose(execution, facts).map_or_else(|e| format!("{e}; {}", e.hint()), |c| c.to_string())
    }

    #[test]
    fn first_usable_vmm_is_chosen() {
        let all = facts(&Vmm::ALL, Kvm::Opens);
        let execution = bootable();
        assert_eq!(chosen(&execution, &all), "firecracker (it is the first that can run it)");
        let qemu = facts(&[Vmm::Qemu], Kvm::Opens);
        assert_eq!(chosen(&execution, &qemu), "qemu (firecracker: firecracker is not on the PATH)");
        let tcg = Execution { accelerator: Some(Accelerator::Tcg), ..bootable() };
        assert_eq!(
            chosen(&tcg, &facts(&Vmm::ALL, Kvm::Missing)),
            "qemu (firecracker: it has no accelerator to choose)"
        );
        let queues = Execution { queues: Some(Queues::new(2).unwrap()), ..bootable() };
        assert_eq!(chosen(&queues, &all), "qemu (firecracker: it has one pair of queues)");
    }

    #[test]
    fn builtin_guest_reason_names_the_unmet_needs() {
        let all = facts(&Vmm::ALL, Kvm::Opens);
        assert_eq!(chosen(&Execution::default(), &all), "builtin (no kernel is named)");
        assert_eq!(
            chosen(&bootable(), &facts(&Vmm::ALL, Kvm::Denied)),
            "builtin (firecracker: /dev/kvm may not be opened; qemu: /dev/kvm may not be opened; \
             cloud-hypervisor: /dev/kvm may not be opened)"
        );
    }

    #[test]
    fn named_vmm_is_never_replaced_by_another() {
        let named = |vmm| Execution { vmm: Some(vmm), ..bootable() };
        let none = facts(&[], Kvm::Missing);
        assert_eq!(
            chosen(&named(Vmm::Firecracker), &none),
            "firecracker cannot run it: firecracker is not on the PATH; install firecracker, put it on \
             the PATH, or name another vmm"
        );
        assert_eq!(
            chosen(&named(Vmm::Qemu), &facts(&Vmm::ALL, Kvm::Missing)),
            "qemu cannot run it: there is no /dev/kvm; `modprobe kvm_intel` or kvm_amd; without KVM, \
             set accelerator to tcg"
        );
        let kernelless = Execution { kernel: None, ..named(Vmm::CloudHypervisor) };
        assert!(
            chosen(&kernelless, &none).starts_with("cloud-hypervisor cannot run it: no kernel")
        );
        assert_eq!(chosen(&named(Vmm::Builtin), &none), "builtin (the definition names it)");
    }
}

use crate::{KernelError, sealed::Sealed};

/// Kernel parameters below `/proc/sys`.
///
/// Names have dots, as in sysctl(8): `net.ipv4.ip_forward`. A dot within the name of an interface is written
/// as a slash.
pub trait Sysctls: Sealed {
    /// Returns a value without its final newline, or `None` if there is no parameter of this name.
    ///
    /// # Errors
    /// Fails if it cannot be read.
    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError>;

    /// Sets a value. Writes nothing if it is set already, so that this succeeds where `/proc/sys` is read-only and
    /// right.
    ///
    /// # Errors
    /// Fails if it differs and cannot be written; then it has not changed.
    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError>;

    /// Reports whether a value could be set. A parameter that does not exist counts as one that could.
    ///
    /// # Errors
    /// Fails if the kernel answers with anything but a refusal to write.
    fn sysctl_is_writable(&mut self, name: &str) -> Result<bool, KernelError>;
}

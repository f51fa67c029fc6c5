//! Functions that fuzzing calls. Each takes bytes that a VMM sends.

use std::{io::Write, net::Shutdown, os::unix::net::UnixStream};

use crate::{qmp, version::Version};

/// The number of bytes that a socket's buffer takes while nobody reads.
const LONGEST: usize = 64 * 1024;

/// Speaks QMP with a QEMU that sends these bytes.
///
/// # Panics
/// Panics if no socket can be created.
pub fn qmp(data: &[u8]) {
    let failed = "a socket of this process";
    let (near, mut far) = UnixStream::pair().expect(failed);
    far.write_all(data.get(..LONGEST).unwrap_or(data)).expect(failed);
    far.shutdown(Shutdown::Write).expect(failed);
    qmp::fuzz(near);
}

/// Reads the output of a VMM that was asked for its version.
pub fn version(data: &[u8]) {
    let _version = String::from_utf8_lossy(data).parse::<Version>();
}

#[cfg(test)]
mod tests {
    use riklet_testkit::fuzz::replay;

    #[test]
    fn qmp() {
        replay("qmp", super::qmp);
    }

    #[test]
    fn versions() {
        replay("version", super::version);
    }
}

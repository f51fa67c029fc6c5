//! Files of procfs (proc(5)). Only the kernel writes them. A process may end at any moment, and its files may be hidden from
//! us.
#![expect(clippy::disallowed_methods, reason = "files that only the kernel writes")]

use std::{
    fs::{self, DirEntry},
    io,
};

/// Returns the numbers of all processes, or as many as can be listed.
pub(crate) fn processes() -> Vec<u32> {
    numbers("/proc").unwrap_or_default()
}

/// Returns the entries of a directory that are numbers.
pub(crate) fn numbers(path: &str) -> io::Result<Vec<u32>> {
    let names = fs::read_dir(path)?.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// Returns the open files of a process: symbolic links, by the number of the descriptor.
pub(crate) fn descriptors(process: u32) -> impl Iterator<Item = DirEntry> {
    fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten()
}

/// Returns the contents of a file.
pub(crate) fn read(path: &str) -> io::Result<Vec<u8>> {
    fs::read(path)
}

/// Returns the text of a file. A process gives itself its name, which may have bytes that are no text: these are replaced.
pub(crate) fn text(path: &str) -> io::Result<String> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

//! Cgroups of version 2 for supervisors (cgroups(7)), on hosts without systemd: what ends the cgroup of a daemon does not end
//! them, and what a lost run left is ended in one stroke (`cgroup.kill`).

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
    time::Duration,
};

use riklet_core::model::InstanceName;

use crate::image::Digest;

/// The directory of all of ours, below the root that this process sees.
const OURS: &str = "riklet-sdn";
/// The number of attempts to remove a cgroup whose processes were killed.
const ATTEMPTS: u32 = 200;

/// Moves this process, with the programs that it starts from now on, to the cgroup of a run. Does nothing if the host has
/// no such cgroups, or this process may not use them.
pub fn enter(state_dir: &Path, name: &InstanceName) {
    let Some(root) = root() else { return };
    let cgroup = path(&root, state_dir, name);
    let entered = DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&cgroup)
        .and_then(|()| write(&cgroup.join("cgroup.procs"), "0"));
    if let Err(error) = entered {
        tracing::debug!(%error, "no cgroup of its own for {name}");
    }
}

/// Moves this process out of the cgroup of its run, and removes the cgroup.
pub fn leave(state_dir: &Path, name: &InstanceName) {
    let Some(root) = root() else { return };
    let cgroup = path(&root, state_dir, name);
    if cgroup.exists() && write(&root.join("cgroup.procs"), "0").is_ok() {
        remove(&cgroup);
    }
}

/// Kills what is in the cgroup of a run whose supervisor has died, and removes the cgroup. Does nothing if there is none.
pub fn end(state_dir: &Path, name: &InstanceName) {
    let Some(cgroup) = root().map(|root| path(&root, state_dir, name)) else { return };
    if !cgroup.exists() {
        return;
    }
    if let Err(error) = write(&cgroup.join("cgroup.kill"), "1") {
        // Before Linux 5.14; its processes are found by their mark.
        tracing::debug!(%error, "cannot kill all of {}", cgroup.display());
    }
    for _ in 0..ATTEMPTS {
        if remove(&cgroup) {
            return;
        }
        pause();
    }
}

/// Returns the root of the cgroups of version 2; `None` if they are not mounted.
fn root() -> Option<PathBuf> {
    root_in(&read("/proc/self/mountinfo").ok()?)
}

/// Finds the mount of type `cgroup2` (`proc_pid_mountinfo(5)`). A part of a hierarchy is not used.
fn root_in(mounts: &str) -> Option<PathBuf> {
    let mut found = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, path) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(path))
    });
    found.next()
}

fn path(root: &Path, state_dir: &Path, name: &InstanceName) -> PathBuf {
    let state_dir = fs::canonicalize(state_dir).unwrap_or_else(|_missing| state_dir.into());
    root.join(OURS).join(component(&state_dir)).join(name.as_str())
}

/// Returns a path as the name of one file, which no other path has: a slash is `-`, and what could be taken for another
/// character is written as a percent and two digits. A name that would be too long ends with a hash of the path.
fn component(path: &Path) -> String {
    /// A file's name has at most 255 bytes (`path_resolution(7)`).
    const LONGEST: usize = 200;
    let path = path.as_os_str().as_bytes();
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let mut text = String::new();
    for byte in path {
        match byte {
            b'/' => text.push('-'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => text.push(char::from(*byte)),
            // Not at the beginning: `..` is another directory.
            b'.' if !text.is_empty() => text.push('.'),
            other => {
                let digits =
                    [other >> 4, other & 15].map(|digit| char::from_digit(digit.into(), 16));
                text.extend(std::iter::once('%').chain(digits.into_iter().flatten()));
            }
        }
    }
    if text.is_empty() {
        text.push('%');
    }
    if text.len() > LONGEST {
        let digest = Digest::of(path).to_string();
        text.truncate(LONGEST - digest.len() - 1);
        text = format!("{text}%{digest}");
    }
    text
}

/// Removes a cgroup, and its parents if nothing else is in them. Returns `false` if a process is in it.
fn remove(cgroup: &Path) -> bool {
    let removed = match fs::remove_dir(cgroup) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(()) => true,
    };
    if removed && let Some(parent) = cgroup.parent() {
        let _others =
            fs::remove_dir(parent).and_then(|()| parent.parent().map_or(Ok(()), fs::remove_dir));
    }
    removed
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

#[expect(clippy::disallowed_methods, reason = "a file of procfs, which only the kernel writes")]
fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path)
}

#[expect(clippy::disallowed_methods, reason = "the kernel does not tell when a cgroup is empty")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_hierarchy_of_version_2_is_used() {
        let v1 = "31 24 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n";
        let v2 = "42 24 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        let part = "42 24 0:38 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(root_in(v1), None);
        assert_eq!(root_in(part), None);
        assert_eq!(root_in(&format!("{v1}{v2}")), Some("/sys/fs/cgroup/unified".into()));
        let name = "web".parse().unwrap();
        let of = |dir: &str| path(Path::new("/c"), Path::new(dir), &name);
        assert_eq!(of("/nowhere/a-b"), Path::new("/c/riklet-sdn/nowhere-a%2db/web"));
    }

    #[test]
    fn no_two_directories_have_the_same_name() {
        let long = |end: &str| format!("/{}{end}", "x".repeat(300));
        let paths = [
            "/",
            "/a",
            "/a/b",
            "/a-b",
            "/a-/b",
            "/a/-b",
            "/a--b",
            "/a%b",
            "/a%2db",
            "/a/./b",
            "/..",
            "/.a",
            "/é",
            &long("1"),
            &long("2"),
        ];
        let mut names: Vec<_> = paths.iter().map(|path| component(Path::new(path))).collect();
        for name in &names {
            assert!(!name.is_empty() && name.len() <= 255 && !name.contains('/'), "{name}");
            assert!(!name.starts_with('.'), "{name}");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), paths.len(), "{names:?}");
    }
}

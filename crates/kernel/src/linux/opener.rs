//! The process that is named where several have the same file open.

use std::iter;

use crate::procfs;

/// Returns the process, or the eldest of its ancestors up to which each `has` the file as well. A child has it from fork(2) to
/// execve(2) at least, and whoever opened it is the one to be told of.
pub(super) fn eldest(process: u32, has: impl Fn(u32) -> bool) -> u32 {
    let with_it = |id: &u32| parent(*id).filter(|parent| has(*parent));
    iter::successors(Some(process), with_it).last().unwrap_or(process)
}

/// Returns the process as `name (pid 123)`.
pub(super) fn shown(process: u32) -> String {
    let name = command(process).unwrap_or_else(|| "unknown".to_owned());
    format!("{name} (pid {process})")
}

/// Returns the name of a process; `None` if it has ended.
fn command(process: u32) -> Option<String> {
    let name = procfs::text(&format!("/proc/{process}/comm")).ok()?;
    Some(name.trim_end_matches('\n').to_owned())
}

/// Returns the parent of a process; `None` if it has ended.
fn parent(process: u32) -> Option<u32> {
    let status = procfs::text(&format!("/proc/{process}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::parent_id;

    use super::*;

    #[test]
    fn ancestors_come_first_as_far_as_they_have_it() {
        let (own, parent) = (std::process::id(), parent_id());
        assert_eq!(eldest(own, |_| false), own);
        assert_eq!(eldest(own, |id| id == parent), parent);
        assert_eq!(eldest(own, |id| id == 1 && id != parent), own, "there is a gap");
        assert!(shown(own).ends_with(&format!(" (pid {own})")), "{}", shown(own));
    }
}

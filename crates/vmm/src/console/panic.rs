//! Finds a kernel's panic at the end of its console. A guest that panics with `panic=1` resets, which ends Firecracker as an
//! orderly reboot does, with status 0 and without a word.

use std::path::Path;

use super::last_lines;

/// The panic of a guest's kernel, as its console has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelPanic {
    /// The line with its reason, such as `Kernel panic - not syncing: VFS: Unable to mount root fs`.
    pub line: String,
    /// True if nothing follows it but what a kernel prints after its panic.
    pub is_last: bool,
}

/// Returns the last panic near the end of a log; `None` if there is none.
#[must_use]
pub fn kernel_panic(log: &Path) -> Option<KernelPanic> {
    /// The part of the log that is searched: a panic prints registers and stacks of all processors.
    const TAIL: u64 = 64 << 10;
    find(&last_lines(log, usize::MAX, TAIL))
}

/// The words that begin a panic (`panic` of the kernel's kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing";
/// The words that begin the last lines of a panic, with each value of `panic=`.
const LAST: [&str; 4] = [PANIC, "Kernel Offset:", "Rebooting in ", "---[ end Kernel panic"];

fn find(lines: &[String]) -> Option<KernelPanic> {
    let lines = || lines.iter().map(|line| without_time(line));
    let line = lines().rev().find(|line| line.starts_with(PANIC))?.to_owned();
    let is_last = lines().next_back().is_some_and(|last| LAST.iter().any(|l| last.starts_with(l)));
    Some(KernelPanic { line, is_last })
}

/// Returns a line of a kernel without its time, `[    1.234567] `.
fn without_time(line: &str) -> &str {
    let line = line.trim();
    let rest = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    match rest {
        Some((time, rest)) if time.trim().parse::<f64>().is_ok() => rest.trim_start(),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<(String, bool)> {
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        find(&lines).map(|panic| (panic.line, panic.is_last))
    }

    #[test]
    fn panic_is_found_at_the_end_only() {
        let reason = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";
        let panic = |is_last| Some((reason.to_owned(), is_last));
        let text = format!("[    1.5] ok\n[    2.000001] {reason}\n[    2.1] CPU: 0 PID: 1\n");
        assert_eq!(found(&format!("{text}[    2.2] Rebooting in 1 seconds..\n")), panic(true));
        assert_eq!(found(&format!("{text}[    2.2] Kernel Offset: disabled\n")), panic(true));
        assert_eq!(
            found(&format!("{text}---[ end Kernel panic - not syncing: x ]---")),
            panic(true)
        );
        // A guest printed the log of another one, and went on.
        assert_eq!(found(&format!("{text}Rebooting in 1 seconds..\nlogin:")), panic(false));
        assert_eq!(found("a program says: Kernel panic - not syncing\n"), None);
        assert_eq!(found("[x] Kernel panic - not syncing\n"), None);
        assert_eq!(found(""), None);
    }
}

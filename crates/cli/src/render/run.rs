use riklet_sdn::store::Run;
use riklet_vmm::runs::RunState;

/// The columns of a table of runs.
pub(crate) const RUN_HEADER: [&str; 7] =
    ["NAME", "VMM", "STATE", "PID", "SINCE", "READY", "HOW IT ENDED"];

/// Returns the row of a run, as of `now` in milliseconds since 1970.
pub(crate) fn run(run: &Run, state: RunState, now: u64) -> Vec<String> {
    let none = || "-".to_owned();
    let since = run.end.as_ref().map_or(run.started, |end| end.at);
    let pid = run.process.filter(|_| run.end.is_none());
    vec![
        run.name.to_string(),
        run.vmm.clone(),
        state.as_str().to_owned(),
        pid.map_or_else(none, |process| process.pid().to_string()),
        ago(now.saturating_sub(since)),
        run.ready.map_or_else(none, |after| format!("{after} ms")),
        run.end.as_ref().map_or_else(none, |end| end.reason.clone()),
    ]
}

/// A time in its largest whole unit.
fn ago(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::ago;

    #[test]
    fn times_are_in_their_largest_whole_unit() {
        let times = [0, 119_999, 120_000, 7_199_999, 7_200_000, 172_800_000];
        assert_eq!(times.map(ago), ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}

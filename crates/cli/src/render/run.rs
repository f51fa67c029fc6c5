use riklet_api::RunDocument;

use super::table;

/// Returns a table of runs, as of `now` in milliseconds since 1970.
pub(crate) fn runs(runs: &[RunDocument], now: u64) -> String {
    let rows: Vec<_> = runs.iter().map(|run| row(run, now)).collect();
    table(&["NAME", "VMM", "STATE", "PID", "SINCE", "READY", "HOW IT ENDED"], &rows)
}

fn row(run: &RunDocument, now: u64) -> Vec<String> {
    let none = || "-".to_owned();
    let since = run.ended_ms.unwrap_or(run.started_ms);
    let pid = run.pid.filter(|_| run.ended_ms.is_none());
    vec![
        run.name.clone(),
        run.vmm.clone(),
        run.state.clone(),
        pid.map_or_else(none, |pid| pid.to_string()),
        ago(now.saturating_sub(since)),
        run.ready_after_ms.map_or_else(none, |after| format!("{after} ms")),
        run.reason.clone().unwrap_or_else(none),
    ]
}

/// Returns a time in its largest whole unit.
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
    fn durations_use_their_largest_whole_unit() {
        let times = [0, 119_999, 120_000, 7_199_999, 7_200_000, 172_800_000];
        assert_eq!(times.map(ago), ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}

//! Runs: functions that the program supervises.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{World, command::Output, traffic::PATIENCE, wait_for};

/// Reads the id of a process.
pub(crate) fn pid(value: &Value) -> Pid {
    let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
    number.and_then(Pid::from_raw).unwrap_or_else(|| panic!("{value} is no process"))
}

/// Tells whether a process has not ended. A zombie has ended.
pub(crate) fn is_alive(process: Pid) -> bool {
    riklet_kernel::process::ProcessId::of(process.as_raw_nonzero().get().unsigned_abs())
        .expect("/proc")
        .is_some()
}

/// Kills a process (SIGKILL), and waits until it has ended.
#[track_caller]
pub(crate) fn kill(process: Pid) {
    kill_process(process, Signal::KILL).expect("a process");
    wait_for("the end of a killed process", PATIENCE, || (!is_alive(process)).then_some(()));
}

impl World {
    /// Waits until the kernel shows that the TAP is open in some process, which takes up to a second.
    #[track_caller]
    pub(crate) fn wait_for_carrier(&self, tap: &str) {
        wait_for(&format!("the carrier of {tap}"), PATIENCE, || {
            let link = self.node.tool(&["ip", "link", "show", "dev", tap]);
            (!link.contains("NO-CARRIER")).then_some(())
        });
    }

    /// Runs these definitions with `run --detach`, which leaves a supervisor for each. Returns the output.
    #[track_caller]
    pub(crate) fn detach(&self, definitions: &[Value]) -> String {
        self.try_detach(definitions).success()
    }

    /// Runs these definitions with `run --detach`, which may fail.
    #[track_caller]
    pub(crate) fn try_detach(&self, definitions: &[Value]) -> Output {
        self.riklet(&["run", "--detach", "-"], &Value::from(definitions).to_string())
    }

    /// Returns the entry of this run in the output of `ps`.
    #[track_caller]
    pub(crate) fn ps(&self, name: &str) -> Value {
        let runs = self.runs().success();
        let runs: Vec<Value> = serde_json::from_str(&runs).expect("JSON");
        let run = runs.iter().find(|run| run["name"] == name);
        run.unwrap_or_else(|| panic!("{name} is not among {runs:?}")).clone()
    }

    fn runs(&self) -> Output {
        self.riklet(&["--output", "json", "ps"], "")
    }

    /// Returns the state of the run, and the reason why it ended.
    #[track_caller]
    pub(crate) fn state_of(&self, name: &str) -> (String, String) {
        let run = self.ps(name);
        let text = |field: &str| run[field].as_str().unwrap_or_default().to_owned();
        (text("state"), text("reason"))
    }

    /// Waits until the run has ended, and returns the reason.
    #[track_caller]
    pub(crate) fn reason_of(&self, name: &str) -> String {
        wait_for(&format!("the end of {name}"), PATIENCE, || {
            let (state, reason) = self.state_of(name);
            (state == "ended").then_some(reason)
        })
    }
}

/// Kills all supervisors, so that a test that fails leaves neither them nor their guests running.
impl Drop for World {
    fn drop(&mut self) {
        let state = std::path::Path::new(&self.environment["RIKLET_SDN_STATE_DIR"]);
        if !state.join("machines").exists() {
            return;
        }
        let runs: Vec<Value> = serde_json::from_str(&self.runs().stdout).unwrap_or_default();
        for run in runs.iter().filter(|run| run["endedMs"].is_null() && run["state"] != "lost") {
            // It may have ended meanwhile.
            kill_process(pid(&run["supervisorPid"]), Signal::KILL).ok();
        }
    }
}

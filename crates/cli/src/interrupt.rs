//! The last words of a command that is interrupted by SIGINT or SIGTERM.

use std::{os::unix::net::UnixStream, path::PathBuf, thread};

use riklet_sdn::{Config, store::Store};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

use super::output;

/// The most names that are listed.
const NAMES: usize = 5;

/// Says what a command has left to be done, if it is interrupted. The signal then ends the process as always.
pub(crate) fn watch(config: &Config, no_daemon: bool) {
    let socket = (!no_daemon).then(|| config.socket());
    let state_dir = config.state_dir.clone();
    // Without it, the command ends without a word.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else { return };
    let watching = thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            output::note(&words(&state_dir, socket.as_ref()));
            let _ends_the_process = emulate_default_handler(signal);
        }
    });
    drop(watching);
}

fn words(state_dir: &std::path::Path, socket: Option<&PathBuf>) -> String {
    if socket.is_some_and(|socket| UnixStream::connect(socket).is_ok()) {
        return "interrupted: the daemon goes on; `riklet-sdn list` shows how far it came"
            .to_owned();
    }
    let store = Store::open_existing(state_dir).ok().flatten();
    let unsettled = store.and_then(|store| store.unsettled().ok()).unwrap_or_default();
    let mut names: Vec<_> = unsettled.names().take(NAMES).map(ToString::to_string).collect();
    let count = unsettled.names().count();
    if count == 0 {
        return "interrupted: nothing is pending".to_owned();
    }
    if count > NAMES {
        names.push(format!("and {} more", count - NAMES));
    }
    let names = names.join(", ");
    format!(
        "interrupted: not complete: {names}\nhint: the same command again completes it, or `riklet-sdn repair`"
    )
}

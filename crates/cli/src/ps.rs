use std::process::ExitCode;

use riklet_daemon::documents;
use riklet_sdn::{Config, store::Store};
use riklet_vmm::runs;

use super::{error::CliError, output::Output, render};

pub(crate) fn run(config: &Config, output: Output) -> Result<ExitCode, CliError> {
    let store = Store::open_existing(&config.state_dir)?;
    let mut all = Vec::new();
    for run in store.map(|store| store.runs()).transpose()?.unwrap_or_default() {
        all.push(documents::run(&run, runs::state(&run)?));
    }
    let now = super::run::epoch_millis();
    output.print(|| render::runs(&all, now), || &all)?;
    Ok(ExitCode::SUCCESS)
}

use std::{path::PathBuf, process::ExitCode, time::Duration};

use riklet_daemon::{
    engine::Options,
    server::{self, Settings},
};
use riklet_sdn::Config;

use super::{args::ServeArgs, error::CliError, input};

/// The directory of definition files, which need not exist. A directory that `--manifests` names must.
const MANIFESTS: &str = "/etc/riklet-sdn/functions.d";

pub(crate) fn run(config: Config, args: ServeArgs) -> Result<ExitCode, CliError> {
    input::require_taps()?;
    let manifests = args.manifests.map(|path| match path.read_dir() {
        Ok(_readable) => Ok(path),
        Err(source) => Err(CliError::Read { path, source }),
    });
    let settings = Settings {
        socket: config.socket(),
        group: args.api_group,
        metrics: args.metrics,
        manifests: manifests
            .transpose()?
            .or_else(|| Some(PathBuf::from(MANIFESTS)).filter(|p| p.is_dir())),
        patience: Duration::from_millis(args.patience.into()),
    };
    server::serve(
        config,
        Options { ready_slots: args.ready_slots.into(), adopt: args.adopt },
        &settings,
    )?;
    Ok(ExitCode::SUCCESS)
}

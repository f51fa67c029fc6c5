use std::{process::ExitCode, time::Duration};

use riklet_sdn::{
    daemon::{
        engine::Options,
        server::{self, Settings},
    },
    sdn::Config,
};

use super::{args::ServeArgs, error::CliError, input};

pub(crate) fn run(config: Config, args: ServeArgs) -> Result<ExitCode, CliError> {
    input::require_taps()?;
    let settings = Settings {
        socket: config.socket(),
        group: args.api_group,
        metrics: args.metrics,
        patience: Duration::from_millis(args.patience.into()),
    };
    server::serve(config, Options { warm: args.warm.into() }, &settings)?;
    Ok(ExitCode::SUCCESS)
}

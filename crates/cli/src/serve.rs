use std::{path::PathBuf, process::ExitCode, time::Duration};

use riklet_api::SettingsDocument;
use riklet_daemon::{
    engine::Options,
    server::{self, Settings, Started},
};
use riklet_sdn::Config;

use super::{args::ServeArgs, error::CliError, input, log};

/// The directory of definition files, which need not exist. A directory that `--manifests` names must.
const MANIFESTS: &str = "/etc/riklet-sdn/functions.d";

pub(crate) fn run(mut config: Config, args: ServeArgs) -> Result<ExitCode, CliError> {
    input::require_taps()?;
    let manifests = args.manifests.map(|path| match path.read_dir() {
        Ok(_readable) => Ok(path),
        Err(source) => Err(CliError::Read { path, source }),
    });
    config.member_runs = args.member_runs.unwrap_or(config.member_runs);
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
        |started| log::say(&words(started, &settings)),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Returns what is served, in words.
fn words(started: &Started, settings: &Settings) -> String {
    let Settings { socket, group, metrics, manifests, .. } = settings;
    let SettingsDocument { firewall, pool, uplinks, .. } = &started.settings;
    let functions = match started.health.functions {
        1 => "1 function".to_owned(),
        count => format!("{count} functions"),
    };
    let group = group.as_ref().map(|group| format!(" for the group {group}"));
    let pool = pool.as_ref().map(|pool| format!(", guests {pool}"));
    let uplinks = match uplinks {
        Some(names) => format!(", uplinks {}", names.join(" ")),
        None => ", uplinks of the default route".to_owned(),
    };
    let manifests = manifests.as_ref().map(|path| format!("; follows {}", path.display()));
    let metrics = metrics.map(|address| format!("; metrics at http://{address}/metrics"));
    let parts = [
        format!("serving {functions} on {}", socket.display()),
        group.unwrap_or_default(),
        format!("; firewall {firewall}"),
        pool.unwrap_or_default(),
        uplinks,
        manifests.unwrap_or_default(),
        metrics.unwrap_or_default(),
    ];
    parts.concat()
}

use std::{collections::BTreeSet, io::ErrorKind, path::Path};

use riklet_sdn::Config;

use super::{args::NodeArgs, error::CliError, input};

/// Read where it exists; `--config` names another, which must exist.
const DEFAULT: &str = "/etc/riklet-sdn/config.toml";

/// Flags and environment, then the file, then the defaults.
pub(crate) fn load(args: &NodeArgs) -> Result<Config, CliError> {
    let path = args.config.as_deref().unwrap_or(Path::new(DEFAULT));
    let text = match input::read(path) {
        Err(CliError::Read { source, .. })
            if args.config.is_none() && source.kind() == ErrorKind::NotFound =>
        {
            String::new()
        }
        text => text?,
    };
    let file = Config::parse(&path.display().to_string(), &text)?;
    let uplinks: BTreeSet<_> = args.uplink.iter().cloned().collect();
    Ok(Config {
        state_dir: args.state_dir.clone().unwrap_or(file.state_dir),
        firewall: args.firewall.unwrap_or(file.firewall),
        pool: args.pool.or(file.pool),
        uplinks: if uplinks.is_empty() { file.uplinks } else { Some(uplinks) },
        mtu: args.mtu.or(file.mtu),
        api: args.api.clone().or(file.api),
    })
}

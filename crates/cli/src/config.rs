use std::{collections::BTreeSet, io::ErrorKind, path::Path};

use riklet_sdn::Config;

use super::{args::NodeArgs, error::CliError, input};

/// The configuration file, which need not exist. A file that `--config` names must exist.
const DEFAULT: &str = "/etc/riklet-sdn/config.toml";

/// Loads the configuration: from flags and the environment, then the file, then the defaults.
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
    let mut config = Config::parse(&path.display().to_string(), &text)?;
    let uplinks: BTreeSet<_> = args.uplink.iter().cloned().collect();
    config.state_dir = args.state_dir.clone().unwrap_or(config.state_dir);
    config.firewall = args.firewall.unwrap_or(config.firewall);
    config.pool = args.pool.or(config.pool);
    config.uplinks = if uplinks.is_empty() { config.uplinks } else { Some(uplinks) };
    config.mtu = args.mtu.or(config.mtu);
    config.mark_mask = args.mark_mask.or(config.mark_mask);
    config.api = args.api.clone().or(config.api);
    Ok(config)
}

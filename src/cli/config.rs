use std::{
    collections::BTreeSet,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use riklet_sdn::{
    model::{InterfaceName, Pool},
    sdn::{Config, FirewallChoice},
};
use serde::Deserialize;

use super::{args::NodeArgs, error::CliError, input};

/// Read where it exists; `--config` names another, which must exist.
const DEFAULT: &str = "/etc/riklet-sdn/config.toml";
/// The lengths that an IPv4 interface can have: RFC 791, and the most that a TAP takes.
const MTU: std::ops::RangeInclusive<u32> = 68..=65521;

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state_dir: Option<PathBuf>,
    firewall: Option<String>,
    pool: Option<String>,
    uplink: Option<Names>,
    mtu: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
}

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
    let wrong = |source| CliError::Config { path: path.to_owned(), source };
    let file = toml::from_str::<File>(&text).map_err(|error| wrong(error.into()))?;
    let defaults = merge(file, Config::default()).map_err(wrong)?;
    let uplinks: BTreeSet<_> = args.uplink.iter().cloned().collect();
    Ok(Config {
        state_dir: args.state_dir.clone().unwrap_or(defaults.state_dir),
        firewall: args.firewall.unwrap_or(defaults.firewall),
        pool: args.pool.or(defaults.pool),
        uplinks: if uplinks.is_empty() { defaults.uplinks } else { Some(uplinks) },
        mtu: args.mtu.or(defaults.mtu),
    })
}

fn merge(file: File, defaults: Config) -> Result<Config, Box<dyn std::error::Error + Send + Sync>> {
    let names = match file.uplink {
        None => None,
        Some(Names::One(name)) => Some(vec![name]),
        Some(Names::Several(names)) => Some(names),
    };
    let parse = |names: Vec<String>| {
        let parsed = names.iter().map(|name| InterfaceName::try_from(name.as_str()));
        parsed.collect::<Result<BTreeSet<_>, _>>().map_err(|error| format!("uplink: {error}"))
    };
    let firewall = file.firewall.map(|text| text.parse::<FirewallChoice>()).transpose();
    let pool = file.pool.map(|text| text.parse::<Pool>()).transpose();
    if let Some(mtu) = file.mtu.filter(|mtu| !MTU.contains(mtu)) {
        return Err(format!("mtu: {mtu} is not {} to {}", MTU.start(), MTU.end()).into());
    }
    Ok(Config {
        state_dir: file.state_dir.unwrap_or(defaults.state_dir),
        firewall: firewall.map_err(|error| format!("firewall: {error}"))?.unwrap_or_default(),
        pool: pool.map_err(|error| format!("pool: {error}"))?,
        uplinks: names.map(parse).transpose()?,
        mtu: file.mtu,
    })
}

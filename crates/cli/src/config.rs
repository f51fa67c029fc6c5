use std::{collections::BTreeSet, io::ErrorKind, path::Path};

use clap::{Args, FromArgMatches};
use riklet_api::SettingsDocument;
use riklet_core::model::Mtu;
use riklet_sdn::{Config, FirewallChoice};

use super::{
    args::{NodeArgs, VmmArgs},
    error::CliError,
    input,
};

/// The configuration file, which need not exist. A file that `--config` names must exist.
const DEFAULT: &str = "/etc/riklet-sdn/config.toml";

/// A flag, or its variable, that says otherwise than the daemon does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) flag: &'static str,
    pub(crate) wanted: String,
    pub(crate) used: String,
}

/// Returns whether any of these arguments is about what the daemon decides.
pub(crate) fn concerns_daemon(args: &NodeArgs) -> bool {
    let NodeArgs { firewall, pool, uplink, mtu, mark_mask, egress, flows, ipv6, .. } = args;
    firewall.is_some()
        || pool.is_some()
        || !uplink.is_empty()
        || mtu.is_some()
        || mark_mask.is_some()
        || egress.is_some()
        || flows.is_some()
        || ipv6.is_some()
}

/// Returns the first argument that the daemon with these settings cannot honour.
pub(crate) fn conflict(args: &NodeArgs, settings: &SettingsDocument) -> Option<Conflict> {
    let automatic = || "what the host has".to_owned();
    let wanted: BTreeSet<_> = args.uplink.iter().map(ToString::to_string).collect();
    let wanted = (!wanted.is_empty()).then(|| wanted.into_iter().collect::<Vec<_>>().join(","));
    let used = settings.uplinks.as_ref().map(|names| names.join(","));
    let firewall = args.firewall.filter(|firewall| match firewall {
        FirewallChoice::Auto => false,
        firewall => !settings.firewall.starts_with(firewall.as_str()),
    });
    let differs = |flag, wanted: Option<String>, used: Option<String>| {
        let wanted = wanted.filter(|wanted| Some(wanted) != used.as_ref())?;
        Some(Conflict { flag, wanted, used: used.unwrap_or_else(automatic) })
    };
    let text = |value: Option<u32>| value.map(|value| value.to_string());
    let firewall = firewall.map(|firewall| firewall.as_str().to_owned());
    let egress = args.egress.map(|egress| egress.to_string());
    let flows = args.flows.map(|flows| flows.to_string());
    let ipv6 = args.ipv6.map(|ipv6| ipv6.to_string());
    let mask = args.mark_mask.map(|mask| mask.to_string());
    differs("firewall", firewall, Some(settings.firewall.clone()))
        .or_else(|| differs("pool", args.pool.map(|p| p.to_string()), settings.pool.clone()))
        .or_else(|| differs("uplink", wanted, used))
        .or_else(|| differs("mtu", text(args.mtu.map(Mtu::bytes)), text(settings.mtu)))
        .or_else(|| differs("mark-mask", mask, Some(settings.mark_mask.clone())))
        .or_else(|| differs("egress", egress, Some(settings.egress.clone())))
        .or_else(|| differs("flows", flows, Some(settings.flows.clone())))
        .or_else(|| differs("ipv6", ipv6, Some(settings.ipv6.clone())))
}

/// Loads the configuration: from flags and the environment, then the file, then the defaults.
pub(crate) fn load(args: &NodeArgs) -> Result<Config, CliError> {
    load_for_run(args, of_environment())
}

/// Loads the configuration as [`load`] does, with these flags of `run`, which include the environment.
pub(crate) fn load_for_run(args: &NodeArgs, vmm: VmmArgs) -> Result<Config, CliError> {
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
    config.egress = args.egress.or(config.egress);
    config.flows = args.flows.or(config.flows);
    config.ipv6 = args.ipv6.or(config.ipv6);
    config.api = args.api.clone().or(config.api);
    let VmmArgs { image_roots, image_dir, vmm_uid_base, private_redirects } = vmm;
    let settings = &mut config.vmm;
    if !image_roots.is_empty() {
        settings.image_roots = Some(image_roots);
    }
    settings.image_dir = image_dir.unwrap_or_else(|| std::mem::take(&mut settings.image_dir));
    settings.vmm_users = vmm_uid_base.unwrap_or(settings.vmm_users);
    settings.private_redirects = private_redirects.unwrap_or(settings.private_redirects);
    Ok(config)
}

/// Returns the settings of microVMs that the environment has. Commands other than `run` have no flags for these.
fn of_environment() -> VmmArgs {
    let command = VmmArgs::augment_args(clap::Command::new("riklet-sdn").no_binary_name(true));
    let matches = command.get_matches_from(std::iter::empty::<&str>());
    VmmArgs::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

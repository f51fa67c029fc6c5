mod file;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
};

pub use file::{ConfigError, ConfigReason};

use riklet_core::{
    firewall::Backend,
    model::{Egress, FlowLimit, InterfaceName, Ipv6, MarkMask, Mtu, Pool, SlotAccounts},
};

/// The default directory of the records. The recorded objects live until reboot, and so does `/run`.
pub const DEFAULT_STATE_DIR: &str = "/run/riklet-sdn";

/// The name of the daemon's socket in the state directory, by default.
pub const API_SOCKET: &str = "api.sock";

/// The default directory of images. They may be larger than what fits into `/run`, which is in memory.
pub const DEFAULT_IMAGE_DIR: &str = "/var/lib/riklet-sdn/images";

/// The directories that definitions may name images in, by default.
pub const DEFAULT_IMAGE_ROOTS: [&str; 2] = ["/srv", "/var/lib"];

/// The default limit of the microVMs that the daemon runs for clients of its socket.
pub const DEFAULT_MEMBER_RUNS: u32 = 100;

/// The settings of a node. None is required.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The directory of the records.
    pub state_dir: PathBuf,
    /// The firewall backend. Decided at the first use, and recorded.
    pub firewall: FirewallChoice,
    /// The address range for guests; `None` is the first of [`Pool::candidates`] that overlaps no
    /// route of the host. Decided at the first use, and recorded.
    pub pool: Option<Pool>,
    /// The interfaces that lead to the Internet; `None` is those of the host's default route.
    pub uplinks: Option<BTreeSet<InterfaceName>>,
    /// The MTU of the TAPs; `None` is the lowest of the uplinks'.
    pub mtu: Option<Mtu>,
    /// The bits of packets' and connections' marks that are ours to use; `None` is the default of [`MarkMask`].
    pub mark_mask: Option<MarkMask>,
    /// The reach of guests beyond published ports; `None` is the default of [`Egress`].
    pub egress: Option<Egress>,
    /// The flows that each guest may begin and have at a time; `None` is the default of [`FlowLimit`].
    pub flows: Option<FlowLimit>,
    /// IPv6 for guests; `None` is the default of [`Ipv6`].
    pub ipv6: Option<Ipv6>,
    /// The daemon's socket; `None` is [`API_SOCKET`] in the state directory.
    pub api: Option<PathBuf>,
    /// The most microVMs that the daemon runs at a time for clients of its socket.
    pub member_runs: u32,
    /// True if this process answers guests that ask for names, as the daemon does. Where nobody does, policies with names are
    /// refused. Not a setting of a file.
    pub answers_names: bool,
    /// The settings of microVMs.
    pub vmm: VmmConfig,
}

/// The settings of microVMs. None is required.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmmConfig {
    /// The directory of downloaded images, and of private copies of images.
    pub image_dir: PathBuf,
    /// The directories that definitions may name images in; `None` is [`DEFAULT_IMAGE_ROOTS`] and the directories of the
    /// definitions.
    pub image_roots: Option<Vec<PathBuf>>,
    /// The users of the microVMs whose definitions name none. A supervisor that is not root runs these as its own user.
    pub vmm_users: SlotAccounts,
    /// Lets servers of images redirect to addresses of private networks, and members of the API's group name such servers.
    pub private_redirects: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from(DEFAULT_STATE_DIR),
            firewall: FirewallChoice::Auto,
            pool: None,
            uplinks: None,
            mtu: None,
            mark_mask: None,
            egress: None,
            flows: None,
            ipv6: None,
            api: None,
            member_runs: DEFAULT_MEMBER_RUNS,
            answers_names: false,
            vmm: VmmConfig::default(),
        }
    }
}

impl Default for VmmConfig {
    fn default() -> Self {
        Self {
            image_dir: PathBuf::from(DEFAULT_IMAGE_DIR),
            image_roots: None,
            vmm_users: SlotAccounts::DEFAULT,
            private_redirects: false,
        }
    }
}

impl VmmConfig {
    /// Returns the settings that are not defaults, by the keys of the configuration file.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, OsString)> {
        let Self { image_dir, image_roots, vmm_users, private_redirects } = self;
        let roots = image_roots.iter().flatten().map(|root| ("image_roots", root.into()));
        let dir = (image_dir != Path::new(DEFAULT_IMAGE_DIR)).then(|| image_dir.into());
        let redirects = private_redirects.then(|| ("private_redirects", "true".into()));
        let base = vmm_users.shared();
        let base = (*vmm_users != SlotAccounts::DEFAULT).then(|| base.to_string().into());
        let dir = dir.map(|dir| ("image_dir", dir));
        let base = base.map(|base| ("vmm_uid_base", base));
        roots.chain(dir).chain(base).chain(redirects).collect()
    }
}

impl Config {
    /// Creates a configuration with the records in this directory, and defaults for the rest.
    #[must_use]
    pub fn in_directory(state_dir: impl Into<PathBuf>) -> Self {
        Self { state_dir: state_dir.into(), ..Self::default() }
    }

    /// Returns the settings, by the keys of the configuration file, except those that are left to defaults of the host,
    /// those of microVMs, and those of the daemon alone.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, OsString)> {
        let Self { state_dir, firewall, pool, uplinks, mtu, mark_mask, egress, flows, .. } = self;
        let Self { ipv6, api, .. } = self;
        let mut settings =
            vec![("state_dir", state_dir.into()), ("firewall", firewall.as_str().into())];
        settings.extend(pool.map(|pool| ("pool", pool.to_string().into())));
        let list = |uplinks: &BTreeSet<InterfaceName>| {
            let names: Vec<_> = uplinks.iter().map(InterfaceName::as_str).collect();
            names.join(",").into()
        };
        settings.extend(uplinks.as_ref().map(|uplinks| ("uplink", list(uplinks))));
        settings.extend(mtu.map(|mtu| ("mtu", mtu.bytes().to_string().into())));
        settings.extend(mark_mask.map(|mask| ("mark_mask", mask.to_string().into())));
        settings.extend(egress.map(|egress| ("egress", egress.to_string().into())));
        settings.extend(flows.map(|flows| ("flows", flows.to_string().into())));
        settings.extend(ipv6.map(|ipv6| ("ipv6", ipv6.to_string().into())));
        settings.extend(api.as_ref().map(|api| ("api", api.into())));
        settings
    }

    /// Returns the socket that the daemon listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.api.clone().unwrap_or_else(|| self.state_dir.join(API_SOCKET))
    }
}

/// The choice of the firewall backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FirewallChoice {
    /// iptables if the host has the program, or else nf_tables.
    #[default]
    Auto,
    /// The host's iptables, whichever variant it is.
    Iptables,
    /// nf_tables by netlink; no program is needed.
    Nftables,
}

impl FirewallChoice {
    /// Reports whether this choice allows the backend.
    #[must_use]
    pub const fn allows(self, backend: Backend) -> bool {
        match self {
            Self::Auto => true,
            Self::Iptables => matches!(backend, Backend::Iptables(_)),
            Self::Nftables => matches!(backend, Backend::Nftables),
        }
    }

    /// Returns the name of the choice in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// A text that is no [`FirewallChoice`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not auto, iptables or nftables")]
pub struct FirewallChoiceError {
    text: String,
}

impl std::str::FromStr for FirewallChoice {
    type Err = FirewallChoiceError;

    fn from_str(text: &str) -> Result<Self, FirewallChoiceError> {
        let all = [Self::Auto, Self::Iptables, Self::Nftables];
        let found = all.into_iter().find(|choice| choice.as_str() == text);
        found.ok_or_else(|| FirewallChoiceError { text: text.to_owned() })
    }
}

//! Reads the configuration file: TOML becomes a [`Config`], or an error with its location. Pure.

use std::{
    collections::BTreeSet,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{Config, FirewallChoice, FirewallChoiceError};
use riklet_core::{
    definition::SourceLocation,
    model::{
        EgressError, FlowLimit, FlowLimitError, InterfaceName, InterfaceNameError, Ipv6Error,
        MarkMask, MarkMaskError, Mtu, MtuError, Pool, PoolError, SlotAccounts, SlotAccountsError,
    },
    nearest::nearest,
};

const KEYS: [&str; 15] = [
    "firewall",
    "pool",
    "uplink",
    "mtu",
    "mark_mask",
    "egress",
    "flows",
    "ipv6",
    "state_dir",
    "api",
    "image_dir",
    "image_roots",
    "vmm_uid_base",
    "private_redirects",
    "member_runs",
];

/// An error in a configuration file, with its location: `FILE:LINE:COLUMN: KEY: REASON`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct ConfigError {
    /// The location.
    pub location: SourceLocation,
    /// The key; empty if the error concerns the whole text.
    pub key: String,
    /// The reason. Its message is part of this one's.
    pub reason: ConfigReason,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.location)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.reason)?;
        match self.reason.hint() {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// The reason why a key or its value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum ConfigReason {
    #[error("not valid TOML: {words}")]
    Syntax { words: String },
    #[error("unknown key")]
    UnknownKey { nearest: Option<&'static str> },
    #[error("expected {expected}, found {found}")]
    Sort { expected: &'static str, found: &'static str },
    #[error("{found:?} is not an absolute path")]
    Path { found: String },
    #[error(transparent)]
    UserBase(#[from] SlotAccountsError),
    #[error("{found} is not a number of runs")]
    Count { found: String },
    #[error(transparent)]
    Firewall(#[from] FirewallChoiceError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Uplink(#[from] InterfaceNameError),
    #[error(transparent)]
    Mtu(#[from] MtuError),
    #[error(transparent)]
    MarkMask(#[from] MarkMaskError),
    #[error(transparent)]
    Egress(#[from] EgressError),
    #[error(transparent)]
    Flows(#[from] FlowLimitError),
    #[error(transparent)]
    Ipv6(#[from] Ipv6Error),
}

impl ConfigReason {
    /// Returns the correction, if it is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { nearest: Some(nearest) } => {
                Some(format!("did you mean {nearest:?}?"))
            }
            Self::UnknownKey { nearest: None } => {
                Some(format!("expected one of {}", KEYS.join(", ")))
            }
            _ => None,
        }
    }
}

impl Config {
    /// Reads a configuration file of this name and text. Missing keys have their defaults.
    ///
    /// # Errors
    /// Fails if the text is not TOML, has an unknown key or a wrong value; the error has the first such location.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let refused = |span: Range<usize>, key: &str, reason| ConfigError {
            location: location(file, text, span.start),
            key: key.to_owned(),
            reason,
        };
        let table = DeTable::parse(text).map_err(|error| {
            let words = error.message().to_owned();
            refused(error.span().unwrap_or_default(), "", ConfigReason::Syntax { words })
        })?;
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut config = Self::default();
        for (key, value) in entries {
            set(&mut config, key.get_ref(), value.get_ref()).map_err(|reason| {
                let unknown = matches!(reason, ConfigReason::UnknownKey { .. });
                refused(if unknown { key.span() } else { value.span() }, key.get_ref(), reason)
            })?;
        }
        Ok(config)
    }
}

fn set(config: &mut Config, key: &str, value: &DeValue<'_>) -> Result<(), ConfigReason> {
    match key {
        "firewall" => config.firewall = string(value)?.parse::<FirewallChoice>()?,
        "pool" => config.pool = Some(string(value)?.parse::<Pool>()?),
        "uplink" => config.uplinks = Some(uplinks(value)?),
        "mtu" => config.mtu = Some(decimal(value)?.parse::<Mtu>()?),
        "mark_mask" => config.mark_mask = Some(decimal(value)?.parse::<MarkMask>()?),
        "egress" => config.egress = Some(string(value)?.parse()?),
        "flows" => config.flows = Some(flow_limit(value)?),
        "ipv6" => config.ipv6 = Some(string(value)?.parse()?),
        "state_dir" => config.state_dir = absolute(value)?,
        "api" => config.api = Some(absolute(value)?),
        "image_dir" => config.vmm.image_dir = absolute(value)?,
        "image_roots" => config.vmm.image_roots = Some(directories(value)?),
        "vmm_uid_base" => config.vmm.vmm_users = decimal(value)?.parse::<SlotAccounts>()?,
        "member_runs" => config.member_runs = count(value)?,
        "private_redirects" => config.vmm.private_redirects = boolean(value)?,
        _ => return Err(ConfigReason::UnknownKey { nearest: nearest(key, KEYS) }),
    }
    Ok(())
}

fn string<'a>(value: &'a DeValue<'_>) -> Result<&'a str, ConfigReason> {
    value.as_str().ok_or_else(|| unexpected("a string", value))
}

/// Reads a number, or a word.
fn flow_limit(value: &DeValue<'_>) -> Result<FlowLimit, ConfigReason> {
    let text = value.as_str().map_or_else(|| decimal(value), |word| Ok(word.to_owned()));
    Ok(text?.parse()?)
}

/// Reads one name, or a list of names.
fn uplinks(value: &DeValue<'_>) -> Result<BTreeSet<InterfaceName>, ConfigReason> {
    let name = |value| -> Result<_, ConfigReason> {
        let text = DeValue::as_str(value);
        let text = text.ok_or_else(|| unexpected("a string or a list of them", value))?;
        Ok(InterfaceName::try_from(text)?)
    };
    match value {
        DeValue::Array(items) => items.iter().map(|item| name(item.get_ref())).collect(),
        one => name(one).map(|name| BTreeSet::from([name])),
    }
}

/// Reads one absolute path, or a list of them.
fn directories(value: &DeValue<'_>) -> Result<Vec<PathBuf>, ConfigReason> {
    match value {
        DeValue::Array(items) => items.iter().map(|item| absolute(item.get_ref())).collect(),
        one => absolute(one).map(|path| vec![path]),
    }
}

/// Returns a number in decimal, whatever its base; one that is too large for any setting, as it is written.
fn decimal(value: &DeValue<'_>) -> Result<String, ConfigReason> {
    let DeValue::Integer(integer) = value else { return Err(unexpected("a number", value)) };
    let number = i64::from_str_radix(integer.as_str(), integer.radix());
    Ok(number.map_or_else(|_too_large| integer.as_str().to_owned(), |number| number.to_string()))
}

fn count(value: &DeValue<'_>) -> Result<u32, ConfigReason> {
    let found = decimal(value)?;
    found.parse().map_err(|_not_one| ConfigReason::Count { found })
}

fn boolean(value: &DeValue<'_>) -> Result<bool, ConfigReason> {
    value.as_bool().ok_or_else(|| unexpected("a boolean", value))
}

/// Reads an absolute path: a relative one would depend on the directory in which the program is started.
fn absolute(value: &DeValue<'_>) -> Result<PathBuf, ConfigReason> {
    let text = string(value)?;
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(ConfigReason::Path { found: text.to_owned() });
    }
    Ok(path.to_owned())
}

fn unexpected(expected: &'static str, value: &DeValue<'_>) -> ConfigReason {
    let found = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    ConfigReason::Sort { expected, found }
}

/// Returns the location of a byte of the text.
fn location(file: &str, text: &str, offset: usize) -> SourceLocation {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    SourceLocation { file: file.to_owned(), line, column }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let text = "# a comment\nfirewall = \"nftables\"\npool = \"10.9.0.0/16\"\n\
             uplink = [\"eth0\", \"wlan0\"]\nmtu = 0x578\nmark_mask = 0x7f00\negress = \"all\"\nflows = 8_192\nipv6 = \"on\"\nstate_dir = \"/var/lib/riklet-sdn\"\n\
             api = \"/run/node.sock\"\nimage_dir = \"/data\"\nimage_roots = [\"/srv\", \"/opt\"]\n\
             private_redirects = true\nvmm_uid_base = 70_000\nmember_runs = 7\n";
        let config = Config::parse("config.toml", text).unwrap();
        assert_eq!(config.firewall, FirewallChoice::Nftables);
        assert_eq!(config.pool.unwrap().to_string(), "10.9.0.0/16");
        assert_eq!(config.socket(), Path::new("/run/node.sock"));
        assert_eq!(config.vmm.image_dir, Path::new("/data"));
        assert_eq!(config.vmm.image_roots, Some(vec!["/srv".into(), "/opt".into()]));
        assert!(config.vmm.private_redirects);
        assert_eq!(config.vmm.vmm_users.shared(), 70_000);
        assert_eq!(config.member_runs, 7);
        assert_eq!(config.uplinks.unwrap().len(), 2);
        assert_eq!(config.mtu.unwrap().bytes(), 1400);
        assert_eq!(config.mark_mask.unwrap().of_uplinks(), 0x700);
        assert_eq!(config.egress.unwrap().as_str(), "all");
        assert_eq!(config.flows.unwrap().number(), Some(8192));
        assert_eq!(config.ipv6.unwrap().as_str(), "on");
        let unlimited = Config::parse("config.toml", "flows = \"unlimited\"").unwrap();
        assert_eq!(unlimited.flows.unwrap().number(), None);
        assert_eq!(config.state_dir, Path::new("/var/lib/riklet-sdn"));
        assert_eq!(Config::parse("config.toml", "").unwrap(), Config::default());
        assert_eq!(Config::default().socket(), Path::new("/run/riklet-sdn/api.sock"));
        let one = Config::parse("config.toml", "uplink = \"eth0\"").unwrap();
        assert_eq!(one.uplinks.unwrap().len(), 1);
    }

    #[test]
    fn errors_have_their_location() {
        let texts = [
            "mtu = 1500\ncolour = \"blue\"",
            "firewal = \"auto\"",
            "state-dir = \"/tmp\"",
            "firewall = \"ufw\"",
            "firewall = true",
            "[firewall]\nbackend = \"auto\"",
            "pool = \"10.231.4.1/16\"",
            "pool = 10",
            "mtu = 1500\nuplink = \"a/b\"",
            "uplink = [\"eth0\", 7]",
            "uplink = \"\"",
            "mtu = 67",
            "mtu = 99999999999999999999",
            "mtu = \"1500\"",
            "mark_mask = 0x3f",
            "egress = \"some\"",
            "flows = 0",
            "flows = true",
            "ipv6 = true",
            "ipv6 = \"yes\"",
            "state_dir = \"\"",
            "state_dir = \"run\"",
            "api = \"api.sock\"",
            "image_roots = [\"/srv\", \"images\"]",
            "private_redirects = 1",
            "vmm_uid_base = 4294967295",
            "vmm_uid_base = 0",
            "member_runs = -1",
            "mtu = 1500\nmtu = 1400",
            "# é\nmtu",
            "pool = \"10.9.0.0/16",
        ];
        let refused = texts.map(|text| Config::parse("c.toml", text).unwrap_err().to_string());
        insta::assert_snapshot!(refused.join("\n"), @r#"
        c.toml:2:1: colour: unknown key; expected one of firewall, pool, uplink, mtu, mark_mask, egress, flows, ipv6, state_dir, api, image_dir, image_roots, vmm_uid_base, private_redirects, member_runs
        c.toml:1:1: firewal: unknown key; did you mean "firewall"?
        c.toml:1:1: state-dir: unknown key; did you mean "state_dir"?
        c.toml:1:12: firewall: "ufw" is not auto, iptables or nftables
        c.toml:1:12: firewall: expected a string, found a boolean
        c.toml:1:1: firewall: expected a string, found a table
        c.toml:1:8: pool: 10.231.4.1/16 has bits set after its prefix; the network is 10.231.0.0/16
        c.toml:1:8: pool: expected a string, found a number
        c.toml:2:10: uplink: "a/b" is not an interface name; these have 1 to 15 bytes, without '/', ':', '%' and white space, and are neither all nor default
        c.toml:1:10: uplink: expected a string or a list of them, found a number
        c.toml:1:10: uplink: "" is not an interface name; these have 1 to 15 bytes, without '/', ':', '%' and white space, and are neither all nor default
        c.toml:1:7: mtu: 67 is not an MTU; these are 68 to 65521 bytes
        c.toml:1:7: mtu: "99999999999999999999" is not an MTU; these are 68 to 65521 bytes
        c.toml:1:7: mtu: expected a number, found a string
        c.toml:1:13: mark_mask: "63" has 6 of the 7 bits that marks take, as 0x7f has: no room for packets of guests to the host
        c.toml:1:10: egress: "some" is not internet, all or none
        c.toml:1:9: flows: "0" is not a limit of flows; these are 1 to 65536, or unlimited
        c.toml:1:9: flows: expected a number, found a boolean
        c.toml:1:8: ipv6: expected a string, found a boolean
        c.toml:1:8: ipv6: "yes" is not on or off
        c.toml:1:13: state_dir: "" is not an absolute path
        c.toml:1:13: state_dir: "run" is not an absolute path
        c.toml:1:7: api: "api.sock" is not an absolute path
        c.toml:1:15: image_roots: "images" is not an absolute path
        c.toml:1:21: private_redirects: expected a boolean, found a number
        c.toml:1:16: vmm_uid_base: 4294967295 is not the first of 131072 users of microVMs: below 65536 are root and the host's users, and the greatest is 4294836222
        c.toml:1:16: vmm_uid_base: 0 is not the first of 131072 users of microVMs: below 65536 are root and the host's users, and the greatest is 4294836222
        c.toml:1:15: member_runs: -1 is not a number of runs
        c.toml:2:1: not valid TOML: duplicate key
        c.toml:2:4: not valid TOML: key with no value, expected `=`
        c.toml:1:20: not valid TOML: invalid basic string, expected `"`
        "#);
    }
}

use std::{fmt, str::FromStr};

use super::{Destination, DestinationError, PortRange, Protocol};

/// Names that a policy allows, each at some ports: `<name>:<ports>` or `*.<name>:<ports>`, either with `/tcp` or `/udp`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameRule {
    pattern: NamePattern,
    ports: PortRange,
    protocol: Option<Protocol>,
}

/// A name, or all names below one. In lower case, and without the dot at its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamePattern {
    name: String,
    is_below: bool,
}

/// The reason why a text is not a [`NameRule`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message; the texts are as given")]
#[non_exhaustive]
pub enum NameRuleError {
    #[error(
        "{place:?} is no pattern of names: `*` stands for whole labels in front of a name, as in *.example.org"
    )]
    Pattern { place: String },
    #[error(
        "{place:?} has letters beyond ASCII: write the name as it is asked for (punycode, xn--…)"
    )]
    NotAscii { place: String },
    #[error("{place:?} is no whole name: write all of its labels, as in api.example.com")]
    OneLabel { place: String },
    #[error("{place:?} has an empty label: labels are separated by single dots")]
    EmptyLabel { place: String },
    #[error(
        "{label:?} is no label of a name: letters, digits, - and _ are, and it neither begins nor ends with -"
    )]
    Label { label: String },
    #[error("{place:?} ends with a label of digits, as an address does: no name does")]
    Number { place: String },
    #[error("{label:?} has {} octets; a label has at most {}", label.len(), NamePattern::MAX_LABEL)]
    LongLabel { label: String },
    #[error("the name has {found} octets; a name has at most {}", NamePattern::MAX)]
    Long { found: usize },
    #[error("{text:?} is a URL: write the name and the port of its server, as in {server}")]
    Url { text: String, server: String },
    #[error("{place} has no port: write {place}:443, or a range such as {place}:8000-8010/tcp")]
    NoPorts { place: String },
    #[error(
        "{found} ports are too many for a name, each of whose addresses gets them all; at most {}",
        NameRule::MAX_PORTS
    )]
    ManyPorts { found: u16 },
    #[error(transparent)]
    Destination(#[from] DestinationError),
}

impl NamePattern {
    /// The most octets of a name (RFC 1035, section 2.3.4, without the lengths of the first label and the root).
    pub const MAX: usize = 253;
    /// The most octets of a label.
    pub const MAX_LABEL: usize = 63;

    /// Returns the name, or the one that all names are below.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reports whether it stands for the names below its name, and not for that itself.
    #[must_use]
    pub const fn is_below(&self) -> bool {
        self.is_below
    }

    /// Reports whether it stands for a name, which is in lower case and has no dot at its end: what look-ups are held to.
    #[cfg(test)]
    pub(crate) fn matches(&self, name: &str) -> bool {
        if !self.is_below {
            return self.name == name;
        }
        let before = name.strip_suffix(&self.name).and_then(|rest| rest.strip_suffix('.'));
        before.is_some_and(|labels| !labels.is_empty())
    }
}

impl FromStr for NamePattern {
    type Err = NameRuleError;

    fn from_str(place: &str) -> Result<Self, NameRuleError> {
        let as_given = || place.to_owned();
        if !place.is_ascii() {
            return Err(NameRuleError::NotAscii { place: as_given() });
        }
        let name = place.strip_suffix('.').unwrap_or(place).to_ascii_lowercase();
        let (name, is_below) = match name.strip_prefix("*.") {
            Some(rest) => (rest.to_owned(), true),
            None => (name, false),
        };
        if name.contains('*') {
            return Err(NameRuleError::Pattern { place: as_given() });
        }
        if name.len() > Self::MAX {
            return Err(NameRuleError::Long { found: name.len() });
        }
        let is_letter =
            |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        for label in name.split('.') {
            if label.is_empty() {
                return Err(NameRuleError::EmptyLabel { place: as_given() });
            }
            if label.len() > Self::MAX_LABEL {
                return Err(NameRuleError::LongLabel { label: label.to_owned() });
            }
            if !label.chars().all(is_letter) || label.starts_with('-') || label.ends_with('-') {
                return Err(NameRuleError::Label { label: label.to_owned() });
            }
        }
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|octet| octet.is_ascii_digit()) {
            return Err(NameRuleError::Number { place: as_given() });
        }
        if !is_below && !name.contains('.') {
            return Err(NameRuleError::OneLabel { place: as_given() });
        }
        Ok(Self { name, is_below })
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_below { "*." } else { "" }, self.name)
    }
}

impl NameRule {
    /// The most ports of one rule: each address of a name is let through at each of them.
    pub const MAX_PORTS: u16 = 16;

    /// Returns the names.
    #[must_use]
    pub const fn pattern(&self) -> &NamePattern {
        &self.pattern
    }

    /// Returns the ports.
    #[must_use]
    pub const fn ports(&self) -> PortRange {
        self.ports
    }

    /// Returns the protocols.
    pub fn protocols(&self) -> impl Iterator<Item = Protocol> + use<> {
        let named = self.protocol;
        let all = Destination::WITH_PORTS.into_iter();
        all.filter(move |protocol| named.is_none_or(|named| named == *protocol))
    }
}

impl FromStr for NameRule {
    type Err = NameRuleError;

    fn from_str(text: &str) -> Result<Self, NameRuleError> {
        if let Some((scheme, rest)) = text.split_once("://") {
            let server = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let port = if scheme.eq_ignore_ascii_case("http") { 80 } else { 443 };
            let port = if server.contains(':') { String::new() } else { format!(":{port}") };
            return Err(NameRuleError::Url {
                text: text.to_owned(),
                server: format!("{server}{port}"),
            });
        }
        let (rest, protocol) = Destination::split_protocol(text)?;
        let (place, ports) = rest.split_once(':').map_or((rest, None), |(a, b)| (a, Some(b)));
        let pattern: NamePattern = place.parse()?;
        let Some(ports) = ports else {
            return Err(NameRuleError::NoPorts { place: pattern.to_string() });
        };
        let ports: PortRange = ports.parse().map_err(DestinationError::Ports)?;
        if ports.count() > Self::MAX_PORTS {
            return Err(NameRuleError::ManyPorts { found: ports.count() });
        }
        Ok(Self { pattern, ports, protocol })
    }
}

impl fmt::Display for NameRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pattern, self.ports)?;
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        for text in [
            "api.example.com:443",
            "*.example.org:443/tcp",
            "*.internal:53/udp",
            "_dns.xn--bcher-kva.example:8000-8010",
        ] {
            assert_eq!(text.parse::<NameRule>().unwrap().to_string(), text);
        }
        assert_eq!(
            "API.Example.COM.:443".parse::<NameRule>().unwrap().to_string(),
            "api.example.com:443"
        );
    }

    #[test]
    fn what_is_no_rule_is_told_how_to_be_written() {
        let refused = |text: &str| text.parse::<NameRule>().unwrap_err().to_string();
        let pattern = "is no pattern of names: `*` stands for whole labels in front of a name, as in *.example.org";
        for place in ["*", "*.*", "*.*.example.org", "api.*.org", "*example.org", "a*.example.org"]
        {
            assert_eq!(refused(&format!("{place}:443")), format!("{place:?} {pattern}"));
        }
        assert_eq!(
            refused("bücher.example:443"),
            "\"bücher.example\" has letters beyond ASCII: write the name as it is asked for (punycode, xn--…)"
        );
        assert_eq!(
            refused("api.example.com"),
            "api.example.com has no port: write api.example.com:443, or a range such as api.example.com:8000-8010/tcp"
        );
        assert_eq!(
            refused("db:5432"),
            "\"db\" is no whole name: write all of its labels, as in api.example.com"
        );
        for (url, server) in [
            ("https://api.example.com/v1?a", "api.example.com:443"),
            ("http://api.example.com", "api.example.com:80"),
            ("https://api.example.com:8443/", "api.example.com:8443"),
        ] {
            let reason = "is a URL: write the name and the port of its server, as in";
            assert_eq!(refused(url), format!("{url:?} {reason} {server}"));
        }
        assert!(refused("a..example:1").contains("empty label"));
        assert!(refused("-a.example:1").starts_with("\"-a\" is no label of a name"));
        assert!(refused("a b.example:1").starts_with("\"a b\" is no label"));
        assert!(refused("api.example.123:1").contains("ends with a label of digits"));
        assert!(refused("a.example:1-17").starts_with("17 ports are too many for a name"));
        assert_eq!(refused("a.example:0"), "port 0 is out of range; ports are 1 to 65535");
        assert_eq!(refused("a.example:1/icmp"), "unknown protocol \"icmp\"; tcp and udp are known");
        let label = "a".repeat(64);
        assert!(
            refused(&format!("{label}.example:1"))
                .ends_with("has 64 octets; a label has at most 63")
        );
        let long = format!("{}example", "abcdefg.".repeat(31));
        assert_eq!(
            refused(&format!("{long}:1")),
            "the name has 255 octets; a name has at most 253"
        );
    }

    #[test]
    fn a_pattern_stands_for_names_below_it_only() {
        let pattern = |text: &str| text.parse::<NamePattern>().unwrap();
        assert!(pattern("*.example.org").matches("a.example.org"));
        assert!(pattern("*.example.org").matches("a.b.example.org"));
        for name in ["example.org", ".example.org", "badexample.org", "a.example.org.evil.net", ""]
        {
            assert!(!pattern("*.example.org").matches(name), "{name}");
        }
        assert!(pattern("api.example.com").matches("api.example.com"));
        for name in ["a.api.example.com", "example.com", "xapi.example.com"] {
            assert!(!pattern("api.example.com").matches(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_rule_that_is_read_is_written_and_read_again(text in "[*a-zA-Z0-9._:/-]{0,40}") {
            if let Ok(rule) = text.parse::<NameRule>() {
                prop_assert_eq!(rule.to_string().parse::<NameRule>(), Ok(rule.clone()));
                prop_assert!(rule.ports().count() <= NameRule::MAX_PORTS);
            }
        }

        #[test]
        fn a_pattern_never_matches_a_name_with_another_end(
            end in "[a-z]{1,8}\\.[a-z]{2,4}",
            name in "[a-z.]{0,20}",
        ) {
            let pattern: NamePattern = format!("*.{end}").parse().unwrap();
            prop_assert_eq!(pattern.matches(&name), name.ends_with(&format!(".{end}")) && name.len() > end.len() + 1);
        }
    }
}

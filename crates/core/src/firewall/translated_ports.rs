//! The ports that others translate, as a command leaves them for the next one.

use std::{collections::BTreeSet, fmt};

use super::translation::{Translation, Wanted};
use crate::model::{PortRange, Protocol};

/// The number of ranges that are worth remembering.
const MOST: usize = 64;
/// The text that stands for no ports.
const NONE: &str = "none";

/// Every port for which a rule of others translates packets, whatever else the rule asks for. So nobody translates packets
/// for any other port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TranslatedPorts(BTreeSet<(Protocol, PortRange)>);

impl TranslatedPorts {
    /// Returns the ports that finding all translations takes.
    #[must_use]
    pub fn all() -> Wanted {
        let ports = PortRange::between(1, u16::MAX);
        Protocol::ALL.into_iter().filter_map(|protocol| Some((protocol, None, ports?))).collect()
    }

    /// Returns the ports of [all](Self::all) translations; `None` if they are too many.
    #[must_use]
    pub fn of(translations: &BTreeSet<Translation>) -> Option<Self> {
        let ports = translations.iter().map(|found| (found.protocol, found.ports));
        let ports: BTreeSet<_> = ports.collect();
        (ports.len() <= MOST).then_some(Self(ports))
    }

    /// Reports whether packets for one of these ports may be translated.
    #[must_use]
    pub fn meet(&self, wanted: &Wanted) -> bool {
        wanted.iter().any(|(protocol, _, ports)| {
            let mut of = self.0.iter().filter(|(of, _)| of == protocol);
            of.any(|(_, translated)| translated.overlaps(*ports))
        })
    }

    /// Reads the text that [`Display`](fmt::Display) writes; `None` if it is another one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == NONE {
            return Some(Self::default());
        }
        let range = |text: &str| {
            let (protocol, ports) = text.split_once(':')?;
            Some((Protocol::from_name(protocol)?, ports.parse().ok()?))
        };
        text.split(',').map(range).collect::<Option<_>>().map(Self)
    }
}

impl fmt::Display for TranslatedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(NONE);
        }
        for (number, (protocol, ports)) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{protocol}:{ports}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translations(ports: &[(Protocol, &str)]) -> BTreeSet<Translation> {
        let all = ports.iter().map(|(protocol, ports)| {
            Translation::new(*protocol, None, ports.parse().unwrap(), "ip nat DOCKER")
        });
        all.collect()
    }

    fn wanted(protocol: Protocol, ports: &str) -> Wanted {
        [(protocol, Some([192, 0, 2, 1].into()), ports.parse().unwrap())].into()
    }

    #[test]
    fn ports_are_read_as_they_are_written() {
        let some = [(Protocol::Udp, "53"), (Protocol::Tcp, "8000-8010"), (Protocol::Tcp, "80")];
        for (ports, expected) in [(&some[..], "tcp:80,tcp:8000-8010,udp:53"), (&[], "none")] {
            let ports = TranslatedPorts::of(&translations(ports)).unwrap();
            assert_eq!(ports.to_string(), expected);
            assert_eq!(TranslatedPorts::parse(expected), Some(ports));
        }
        for text in ["", "tcp", "tcp:", "tcp:0", "gre:80", "none,tcp:80", "tcp:80,"] {
            assert_eq!(TranslatedPorts::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_ports_that_somebody_translates_are_met() {
        let some = [(Protocol::Tcp, "8000-8010"), (Protocol::Udp, "53")];
        let ports = TranslatedPorts::of(&translations(&some)).unwrap();
        assert!(ports.meet(&wanted(Protocol::Tcp, "8010-9000")));
        assert!(ports.meet(&wanted(Protocol::Udp, "53")));
        assert!(!ports.meet(&wanted(Protocol::Tcp, "53")));
        assert!(!ports.meet(&wanted(Protocol::Sctp, "8000")));
        assert!(!ports.meet(&Wanted::new()));
        assert!(!TranslatedPorts::default().meet(&TranslatedPorts::all()));
    }

    #[test]
    fn so_many_ports_are_not_remembered() {
        let ports: Vec<_> = (1..=MOST + 1).map(|port| port.to_string()).collect();
        let all: Vec<_> = ports.iter().map(|port| (Protocol::Tcp, port.as_str())).collect();
        assert_eq!(TranslatedPorts::of(&translations(&all)), None);
        assert!(TranslatedPorts::of(&translations(&all[1..])).is_some());
    }
}

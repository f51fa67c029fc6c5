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

    /// Returns the ports of [all](Self::all) translations. If they are many, ports between them count as well, those of the
    /// smallest gaps.
    #[must_use]
    pub fn of(translations: &BTreeSet<Translation>) -> Self {
        let ports = translations.iter().map(|found| (found.protocol, found.ports));
        let ports: BTreeSet<_> = ports.collect();
        let joined = joined(ports.iter().copied(), 0);
        let mut gaps: Vec<_> = joined.windows(2).filter_map(|pair| gap(pair[0], pair[1])).collect();
        let Some(surplus) = joined.len().checked_sub(MOST).filter(|surplus| *surplus > 0) else {
            return Self(joined.into_iter().collect());
        };
        gaps.sort_unstable();
        let widest = gaps.get(surplus - 1).copied().unwrap_or(u16::MAX);
        Self(self::joined(joined.into_iter(), widest).into_iter().collect())
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

/// Returns the number of ports between two ranges in order; `None` if they are of different protocols.
fn gap(
    (protocol, one): (Protocol, PortRange),
    (of_other, other): (Protocol, PortRange),
) -> Option<u16> {
    let between = other.first().saturating_sub(one.last()).saturating_sub(1);
    (protocol == of_other).then_some(between)
}

/// Joins ranges in order with no more than so many ports between them.
fn joined(
    ranges: impl Iterator<Item = (Protocol, PortRange)>,
    widest: u16,
) -> Vec<(Protocol, PortRange)> {
    let mut found: Vec<(Protocol, PortRange)> = Vec::new();
    for next in ranges {
        match found.last_mut() {
            Some(last) if gap(*last, next).is_some_and(|gap| gap <= widest) => {
                let end = last.1.last().max(next.1.last());
                last.1 = PortRange::between(last.1.first(), end).unwrap_or(last.1);
            }
            _ => found.push(next),
        }
    }
    found
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
            let ports = TranslatedPorts::of(&translations(ports));
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
        let ports = TranslatedPorts::of(&translations(&some));
        assert!(ports.meet(&wanted(Protocol::Tcp, "8010-9000")));
        assert!(ports.meet(&wanted(Protocol::Udp, "53")));
        assert!(!ports.meet(&wanted(Protocol::Tcp, "53")));
        assert!(!ports.meet(&wanted(Protocol::Sctp, "8000")));
        assert!(!ports.meet(&Wanted::new()));
        assert!(!TranslatedPorts::default().meet(&TranslatedPorts::all()));
    }

    #[test]
    fn of_many_ports_those_between_them_count_as_well() {
        let of = |ports: &[String]| {
            let all: Vec<_> = ports.iter().map(|port| (Protocol::Tcp, port.as_str())).collect();
            TranslatedPorts::of(&translations(&all))
        };
        let texts = |ports: &mut dyn Iterator<Item = u16>| -> Vec<String> {
            ports.map(|port| port.to_string()).collect()
        };
        assert_eq!(of(&texts(&mut (20_000..25_000))).to_string(), "tcp:20000-24999");
        // Every other port, and a few far from these.
        let ports = texts(&mut (1..=256).step_by(2).chain([9000, 9500, 9501]));
        let found = of(&ports);
        assert_eq!(found.to_string(), "tcp:1-255,tcp:9000,tcp:9500-9501");
        assert!(!found.meet(&wanted(Protocol::Tcp, "8000")));
        for port in &ports {
            assert!(found.meet(&wanted(Protocol::Tcp, port)), "{port}");
        }
        let text = found.to_string();
        assert_eq!(TranslatedPorts::parse(&text), Some(found));
    }
}

//! The ports that exposures have claimed, by range.

use std::collections::BTreeMap;

use crate::model::PortRange;

/// Ports, each with the number of the first exposure that claimed it. The cost of a look-up does not depend on how
/// many ports a range has.
#[derive(Debug, Default)]
pub(super) struct Ports(
    /// The last port and the exposure of each range, by its first port. No two ranges share a port.
    BTreeMap<u16, (u16, usize)>,
);

impl Ports {
    /// Returns the lowest of these ports that is claimed, and the exposure that has it.
    pub(super) fn first_of(&self, ports: PortRange) -> Option<(u16, usize)> {
        let before = self.0.range(..ports.first()).next_back();
        if let Some((_, &(last, exposure))) = before
            && last >= ports.first()
        {
            return Some((ports.first(), exposure));
        }
        let (&first, &(_, exposure)) = self.0.range(ports.first()..=ports.last()).next()?;
        Some((first, exposure))
    }

    /// Gives an exposure those of these ports that no other has.
    pub(super) fn claim(&mut self, ports: PortRange, exposure: usize) {
        let mut rest = Some(ports);
        while let Some(ports) = rest {
            let Some((taken, _)) = self.first_of(ports) else {
                self.0.insert(ports.first(), (ports.last(), exposure));
                return;
            };
            if let Some(free) = PortRange::between(ports.first(), taken.saturating_sub(1)) {
                self.0.insert(free.first(), (free.last(), exposure));
            }
            let held = self.0.range(..=taken).next_back();
            let last = held.map_or(taken, |(_, &(last, _))| last);
            rest = last.checked_add(1).and_then(|next| PortRange::between(next, ports.last()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_stays_with_its_first_exposure() {
        let range = |text: &str| text.parse::<PortRange>().unwrap();
        let mut ports = Ports::default();
        for (exposure, text) in ["80", "70-90", "60-75", "1-65535"].iter().enumerate() {
            ports.claim(range(text), exposure);
        }
        for (text, expected) in [
            ("80", (80, 0)),
            ("79", (79, 1)),
            ("81-90", (81, 1)),
            ("65", (65, 2)),
            ("75", (75, 1)),
            ("59-60", (59, 3)),
            ("91", (91, 3)),
            ("65535", (65535, 3)),
            ("1", (1, 3)),
        ] {
            assert_eq!(ports.first_of(range(text)), Some(expected), "{text}");
        }
        let mut ends = Ports::default();
        ends.claim(range("65535"), 0);
        ends.claim(range("1"), 1);
        assert_eq!(ends.first_of(range("2-65534")), None);
        assert_eq!(ends.first_of(range("1-65535")), Some((1, 1)));
    }
}

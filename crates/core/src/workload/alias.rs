//! The alias of an interface: what marks it as ours, and what a lost store is rebuilt from.
//!
//! `riklet-sdn:NAME[ PROTOCOL:[ADDRESS:]PORTS:GUEST_PORTS]…`, and ` …` where not all exposures fit.

use crate::model::{Exposure, InstanceName, Protocol};

/// What the alias of every interface of ours begins with.
const MARK: &str = "riklet-sdn:";
/// What stands at the end where exposures are missing.
const CUT: &str = " ...";
/// `IFALIASZ` of `<linux/if.h>`, less the final NUL.
const MAX_LENGTH: usize = 255;

/// What an alias says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The instance's name.
    pub name: InstanceName,
    /// Its exposures, as many as fitted.
    pub exposures: Vec<Exposure>,
    /// Whether these are all.
    pub complete: bool,
}

/// The alias of this instance's interface, at most 255 bytes.
#[must_use]
pub fn render(name: &InstanceName, exposures: &[Exposure]) -> String {
    let mut alias = format!("{MARK}{name}");
    for (index, exposure) in exposures.iter().enumerate() {
        let address = exposure.host_address().map(|a| format!("{a}:")).unwrap_or_default();
        let (protocol, host, guest) =
            (exposure.protocol(), exposure.host_ports(), exposure.guest_ports());
        let word = format!(" {protocol}:{address}{host}:{guest}");
        let last = index + 1 == exposures.len();
        let reserve = if last { 0 } else { CUT.len() };
        if alias.len() + word.len() + reserve > MAX_LENGTH {
            alias.push_str(CUT);
            break;
        }
        alias.push_str(&word);
    }
    alias
}

/// The alias of an interface that no instance has yet. It says whose it is, and of no instance ([`parse`]).
#[must_use]
pub fn spare() -> String {
    MARK.to_owned()
}

/// Whether an interface with this alias is ours.
#[must_use]
pub fn is_ours(alias: Option<&str>) -> bool {
    alias.is_some_and(|alias| alias.starts_with(MARK))
}

/// What an alias says; `None` where it is not one of ours, or somebody changed it.
#[must_use]
pub fn parse(alias: &str) -> Option<Marked> {
    let text = alias.strip_prefix(MARK)?;
    let (text, complete) = match text.strip_suffix(CUT) {
        Some(cut) => (cut, false),
        None => (text, true),
    };
    let mut words = text.split(' ');
    let name = words.next()?.parse().ok()?;
    let exposures = words.map(parse_exposure).collect::<Option<_>>()?;
    Some(Marked { name, exposures, complete })
}

fn parse_exposure(word: &str) -> Option<Exposure> {
    let fields: Vec<_> = word.split(':').collect();
    let (protocol, address, host, guest) = match *fields {
        [protocol, host, guest] => (protocol, None, host, guest),
        [protocol, address, host, guest] => (protocol, Some(address.parse().ok()?), host, guest),
        _ => return None,
    };
    let protocol = Protocol::from_name(protocol)?;
    Exposure::new(protocol, address, host.parse().ok()?, guest.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposure(address: Option<&str>, host: &str, guest: &str) -> Exposure {
        let address = address.map(|a| a.parse().unwrap());
        Exposure::new(Protocol::Udp, address, host.parse().unwrap(), guest.parse().unwrap())
            .unwrap()
    }

    #[test]
    fn an_alias_reads_back() {
        let name = InstanceName::try_from("my.function-2").unwrap();
        let exposures =
            vec![exposure(None, "8000-8010", "1-11"), exposure(Some("192.0.2.1"), "53", "5353")];
        let alias = render(&name, &exposures);
        assert_eq!(alias, "riklet-sdn:my.function-2 udp:8000-8010:1-11 udp:192.0.2.1:53:5353");
        assert_eq!(parse(&alias), Some(Marked { name, exposures, complete: true }));
        assert_eq!(parse("docker:hello"), None);
        assert_eq!(parse("riklet-sdn:hello nonsense"), None);
    }

    #[test]
    fn an_alias_fits_the_kernel_and_says_where_it_was_cut() {
        let name = InstanceName::try_from(&*"n".repeat(63)).unwrap();
        let all: Vec<_> =
            (1..40u16).map(|n| exposure(None, &format!("{}", 60000 + n), "65535")).collect();
        for count in 0..all.len() {
            let some: Vec<_> = all.iter().take(count).copied().collect();
            let alias = render(&name, &some);
            assert!(alias.len() <= MAX_LENGTH, "{count}: {}", alias.len());
            let marked = parse(&alias).unwrap();
            assert_eq!(marked.complete, marked.exposures.len() == count);
            assert!(some.starts_with(&marked.exposures));
        }
    }
}

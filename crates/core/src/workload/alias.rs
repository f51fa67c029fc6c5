//! The alias of an interface, which marks it as ours, names its owner, and allows a lost store to be rebuilt.
//!
//! `riklet-sdn@OWNER:[KIND/]NAME[ egress][ limits:LIMITS][ veth:NUMBER:INTERFACE[:PATH]][ PROTOCOL:[ADDRESS:]PORTS:GUEST_PORTS]…[ DIRECTORY]`. OWNER is the
//! identifier of the state directory (16 hexadecimal digits), `egress` stands for a policy, which has no room here, LIMITS are
//! those of [`Limits`] in one word, NUMBER, INTERFACE and PATH are those of a [`PeerName`], and DIRECTORY is its path: it is present only if all exposures leave room for it,
//! and the comment of the firewall's table or jumps always has it. ` ...` follows the exposures if not all of them fit.
//!
//! Earlier versions wrote `riklet-sdn:NAME…`, which names no owner ([`Mark::Unsigned`]).

use std::net::Ipv4Addr;

use crate::{
    link::PeerName,
    model::{Bracketed, Exposure, InstanceName, Kind, Limits, Mark, NamespaceId, Owner, Protocol},
};

/// The beginning of the alias of every interface of ours.
const MARK: &str = "riklet-sdn";
/// The kind that an alias does not name: earlier versions had no other.
const UNNAMED: Kind = Kind::Function;
/// The end of an alias in which exposures are missing.
const CUT: &str = " ...";
/// The word for a policy.
const POLICY: &str = "egress";
/// The begin of the word of the limits.
const LIMITS: &str = "limits:";
/// The begin of the word of the other end of a veth.
const PEER: &str = "veth:";
/// The room that a path leaves in an alias for what follows it.
const ROOM: usize = 32;
/// `IFALIASZ` of `<linux/if.h>`, less the final NUL.
const MAX_LENGTH: usize = 255;

/// The content of an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The kind.
    pub kind: Kind,
    /// The owner.
    pub mark: Mark,
    /// The instance's name.
    pub name: InstanceName,
    /// True if it has a policy: which one is lost.
    pub policy: bool,
    /// Its limits.
    pub limits: Limits,
    /// The other end of its interface, if that is a veth. Its path is missing if there was no room for it.
    pub peer: Option<PeerName>,
    /// Its exposures, as many as there was room for.
    pub exposures: Vec<Exposure>,
    /// True if nothing of these is missing.
    pub complete: bool,
}

/// Returns the alias of this instance's interface, at most 255 bytes. `policy` is true if it has one.
#[must_use]
pub fn render(
    owner: &Owner,
    (kind, name): (Kind, &InstanceName),
    (policy, limits): (bool, Limits),
    peer: Option<&PeerName>,
    exposures: &[Exposure],
) -> String {
    let kind = if kind == UNNAMED { String::new() } else { format!("{kind}/") };
    let policy = if policy { format!(" {POLICY}") } else { String::new() };
    let limits = if limits.is_empty() { String::new() } else { format!(" {LIMITS}{limits}") };
    let mut alias = format!("{}{kind}{name}{policy}{limits}", signature(owner));
    if let Some(peer) = peer {
        alias.push_str(&peer_word(peer, alias.len()));
    }
    for (index, exposure) in exposures.iter().enumerate() {
        let address =
            exposure.host_address().map(|a| format!("{}:", Bracketed(a))).unwrap_or_default();
        let (protocol, host, guest) =
            (exposure.protocol(), exposure.host_ports(), exposure.guest_ports());
        let word = format!(" {protocol}:{address}{host}:{guest}");
        let last = index + 1 == exposures.len();
        let reserve = if last { 0 } else { CUT.len() };
        if alias.len() + word.len() + reserve > MAX_LENGTH {
            alias.push_str(CUT);
            return alias;
        }
        alias.push_str(&word);
    }
    with_directory(alias, owner)
}

/// Returns the word for the other end of a veth, in an alias of which this number of bytes is written.
fn peer_word(PeerName { path, namespace, interface }: &PeerName, written: usize) -> String {
    let word = format!(" {PEER}{}:{interface}", namespace.number());
    match path {
        Some(path) if written + word.len() + 1 + path.as_str().len() + ROOM <= MAX_LENGTH => {
            format!("{word}:{path}")
        }
        _ => word,
    }
}

/// Returns the alias of an interface that no instance has yet. It names the owner, and no instance ([`parse`]).
#[must_use]
pub fn reserved(owner: &Owner) -> String {
    with_directory(signature(owner), owner)
}

fn signature(owner: &Owner) -> String {
    format!("{MARK}@{}:", owner.id())
}

/// Returns the part of an alias that names the owner and no instance.
pub(crate) fn signature_of(alias: &str) -> Option<&str> {
    alias.split_inclusive(':').next().filter(|signature| signature.ends_with(':'))
}

fn with_directory(mut alias: String, owner: &Owner) -> String {
    if alias.len() + 1 + owner.directory().len() <= MAX_LENGTH {
        alias.push(' ');
        alias.push_str(owner.directory());
    }
    alias
}

/// Returns the mark on an interface with this alias; `None` if it is not one of ours.
#[must_use]
pub fn mark(alias: Option<&str>) -> Option<Mark> {
    Some(split(alias?)?.0)
}

/// Returns the content of an alias; `None` if it is not one of ours, or was changed.
#[must_use]
pub fn parse(alias: &str) -> Option<Marked> {
    let (mark, text) = split(alias)?;
    let (text, complete) = match text.strip_suffix(CUT) {
        Some(cut) => (cut, false),
        None => (text, true),
    };
    let mut words = text.split(' ').peekable();
    let word = words.next()?;
    let policy = words.next_if_eq(&POLICY).is_some();
    let (kind, name) = match word.split_once('/') {
        Some((kind, name)) => (Kind::from_name(kind)?, name),
        None => (UNNAMED, word),
    };
    let name = name.parse().ok()?;
    let mut after = |prefix: &str| {
        words.next_if(|word| word.starts_with(prefix)).and_then(|word| word.strip_prefix(prefix))
    };
    let limits = after(LIMITS).unwrap_or_default().parse().ok()?;
    let peer = match after(PEER) {
        Some(word) => Some(parse_peer(word)?),
        None => None,
    };
    let exposures = words.map(parse_exposure).collect::<Option<_>>()?;
    let complete = complete && !policy;
    Some(Marked { kind, mark, name, policy, limits, peer, exposures, complete })
}

/// Returns the mark of an alias, and the text between it and the directory.
fn split(alias: &str) -> Option<(Mark, &str)> {
    let rest = alias.strip_prefix(MARK)?;
    if let Some(text) = rest.strip_prefix(':') {
        return Some((Mark::Unsigned, text));
    }
    let (id, text) = rest.strip_prefix('@')?.split_once(':')?;
    let id = id.parse().ok()?;
    // Neither a name nor an exposure begins with a slash; a directory does, unless it was shortened. If exposures are
    // missing, no directory follows.
    let shortened = text.find(CUT).filter(|at| text.len() > at + CUT.len());
    let place = text.find(" /").into_iter().chain(shortened).min();
    let (text, directory) = match place {
        Some(at) => (text.get(..at)?, text.get(at + 1..).map(str::to_owned)),
        None => (text, None),
    };
    Some((Mark::Signed { id, directory }, text))
}

fn parse_peer(word: &str) -> Option<PeerName> {
    let mut parts = word.splitn(3, ':');
    let namespace = NamespaceId::new(parts.next()?.parse().ok()?);
    let interface = parts.next()?.parse().ok()?;
    let path = match parts.next() {
        Some(path) => Some(path.parse().ok()?),
        None => None,
    };
    Some(PeerName { path, namespace, interface })
}

fn parse_exposure(word: &str) -> Option<Exposure> {
    let fields: Vec<_> = word.split(':').collect();
    let (protocol, address, host, guest) = match *fields {
        [protocol, host, guest] => (protocol, None, host, guest),
        // No record can have an IPv6 address yet.
        [protocol, address, host, guest] => {
            let address: Ipv4Addr = address.parse().ok()?;
            (protocol, Some(address.into()), host, guest)
        }
        _ => return None,
    };
    let protocol = Protocol::from_name(protocol)?;
    Exposure::recorded(protocol, address, host.parse().ok()?, guest.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OwnerId;

    fn exposure(address: Option<&str>, host: &str, guest: &str) -> Exposure {
        let address = address.map(|a| a.parse().unwrap());
        Exposure::new(Protocol::Udp, address, host.parse().unwrap(), guest.parse().unwrap())
            .unwrap()
    }

    fn owner(directory: &str) -> Owner {
        Owner::new(OwnerId::new(0xab), directory)
    }

    #[test]
    fn an_alias_reads_back() {
        let name = InstanceName::try_from("my.function-2").unwrap();
        let exposures =
            vec![exposure(None, "8000-8010", "1-11"), exposure(Some("192.0.2.1"), "53", "5353")];
        let owner = owner("/run/riklet sdn");
        let alias =
            render(&owner, (Kind::Function, &name), (false, Limits::default()), None, &exposures);
        assert_eq!(
            alias,
            "riklet-sdn@00000000000000ab:my.function-2 udp:8000-8010:1-11 udp:192.0.2.1:53:5353 \
             /run/riklet sdn"
        );
        assert_eq!(mark(Some(&alias)), Some(owner.mark()));
        assert_eq!(mark(Some(&reserved(&owner))), Some(owner.mark()));
        assert_eq!(parse(&reserved(&owner)), None, "of no instance");
        let (mark, kind) = (owner.mark(), Kind::Function);
        let (policy, limits) = (false, Limits::default());
        let (peer, complete) = (None, true);
        let expected = Marked { kind, mark, name, policy, limits, peer, exposures, complete };
        assert_eq!(parse(&alias), Some(expected));
        assert_eq!(parse("riklet-sdn@00000000000000ab:hello nonsense"), None);
    }

    #[test]
    fn an_alias_says_that_there_is_a_policy() {
        let (owner, name) = (owner("/run/x"), "egress".parse().unwrap());
        let exposures = [exposure(None, "53", "53")];
        let alias =
            render(&owner, (Kind::Function, &name), (true, Limits::default()), None, &exposures);
        assert_eq!(alias, "riklet-sdn@00000000000000ab:egress egress udp:53:53 /run/x");
        let marked = parse(&alias).unwrap();
        assert_eq!((marked.name, marked.policy, marked.complete), (name.clone(), true, false));
        assert_eq!(marked.exposures, exposures);
        let marked =
            parse(&render(&owner, (Kind::Function, &name), (false, Limits::default()), None, &[]))
                .unwrap();
        assert_eq!((marked.name, marked.policy, marked.complete), (name, false, true));
    }

    #[test]
    fn an_alias_has_the_limits() {
        let (owner, name) = (owner("/run/x"), "limits".parse().unwrap());
        let limits: Limits = "100Mbit,1Gbit".parse().unwrap();
        let exposures = [exposure(None, "53", "53")];
        let alias = render(&owner, (Kind::Function, &name), (true, limits), None, &exposures);
        assert_eq!(
            alias,
            "riklet-sdn@00000000000000ab:limits egress limits:100Mbit,1Gbit udp:53:53 /run/x"
        );
        let marked = parse(&alias).unwrap();
        assert_eq!((marked.name, marked.policy, marked.limits), (name.clone(), true, limits));
        assert_eq!(marked.exposures, exposures);
        let marked =
            parse(&render(&owner, (Kind::Function, &name), (false, limits), None, &[])).unwrap();
        assert_eq!((marked.limits, marked.complete), (limits, true));
        assert_eq!(parse("riklet-sdn@00000000000000ab:x limits:many"), None);
        assert_eq!(signature_of(&alias), Some("riklet-sdn@00000000000000ab:"));
        assert_eq!(signature_of("other"), None);
    }

    #[test]
    fn an_alias_says_where_the_other_end_of_a_veth_is() {
        let (owner, name) = (owner("/run/x"), "web".parse().unwrap());
        let exposures = [exposure(None, "53", "53")];
        let path = format!("/run/netns/{}", "n".repeat(117));
        let peer = |path: &str| PeerName {
            path: Some(path.parse().unwrap()),
            namespace: NamespaceId::new(4_026_532_567),
            interface: "eth0".parse().unwrap(),
        };
        let render = |name: &InstanceName, peer: &PeerName| {
            let (kind, policy) = (Kind::Pod, (false, Limits::default()));
            render(&owner, (kind, name), policy, Some(peer), &exposures)
        };
        let alias = render(&name, &peer("/run/netns/web"));
        assert_eq!(
            alias,
            "riklet-sdn@00000000000000ab:Pod/web veth:4026532567:eth0:/run/netns/web udp:53:53 /run/x"
        );
        let marked = parse(&alias).unwrap();
        assert_eq!((marked.kind, marked.peer), (Kind::Pod, Some(peer("/run/netns/web"))));
        assert_eq!((marked.exposures, marked.complete), (exposures.to_vec(), true));
        let alias = render(&"n".repeat(63).parse().unwrap(), &peer(&path));
        let marked = parse(&alias).unwrap();
        assert!(
            marked.peer.is_some_and(|found| found.path.is_none() && found.is_same(&peer(&path)))
        );
        assert_eq!((marked.exposures, marked.complete), (exposures.to_vec(), true));
    }

    #[test]
    fn an_alias_of_an_earlier_version_names_no_owner() {
        let marked = parse("riklet-sdn:hello udp:53:5353").unwrap();
        assert_eq!((marked.mark, marked.name.as_str()), (Mark::Unsigned, "hello"));
        assert_eq!(marked.exposures, [exposure(None, "53", "5353")]);
        assert_eq!(mark(Some("riklet-sdn:")), Some(Mark::Unsigned));
        for foreign in ["docker:hello", "riklet-sdn", "riklet-sdn@12:hello", "riklet-sdnx:hello"] {
            assert_eq!((mark(Some(foreign)), parse(foreign)), (None, None), "{foreign}");
        }
    }

    #[test]
    fn an_alias_fits_the_kernel_and_says_where_it_was_cut() {
        let name = InstanceName::try_from(&*"n".repeat(63)).unwrap();
        let all: Vec<_> =
            (1..40u16).map(|n| exposure(None, &format!("{}", 60000 + n), "65535")).collect();
        for directory in ["/run/riklet-sdn".to_owned(), format!("/{}/sdn", "d".repeat(90))] {
            let owner = owner(&directory);
            for count in 0..all.len() {
                let some: Vec<_> = all.iter().take(count).copied().collect();
                let alias = render(
                    &owner,
                    (Kind::Function, &name),
                    (false, Limits::default()),
                    None,
                    &some,
                );
                assert!(alias.len() <= MAX_LENGTH, "{count}: {}", alias.len());
                let marked = parse(&alias).unwrap();
                assert_eq!(marked.complete, marked.exposures.len() == count);
                assert!(some.starts_with(&marked.exposures));
                assert!(owner.signed(&marked.mark), "{alias}");
                let named = matches!(&marked.mark, Mark::Signed { directory: Some(_), .. });
                assert!(named || !marked.complete || count > 4, "{alias}");
            }
        }
    }
}

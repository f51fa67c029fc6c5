//! Claims: objects on the host that belong to other records than ours. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    firewall::{Backend, ForeignChain, names},
    model::{InterfaceName, Mark, Owner, OwnerId},
};

/// An object that this program made, and that our records do not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The object.
    pub object: Object,
    /// The records that have it.
    pub holder: Holder,
}

/// An object that bears a mark.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// An interface, by its alias.
    Link(InterfaceName),
    /// The table or the chains of a backend, by a comment.
    Firewall(Backend),
    /// The passage through a foreign chain, which bears no mark.
    ForeignChain(ForeignChain),
}

/// The records that an object belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Records that were in our state directory and are gone, or those of an earlier version.
    Lost,
    /// The records in another state directory.
    Other {
        /// The directory; `None` if the object does not name it.
        directory: Option<String>,
    },
}

/// The objects that an operation takes over and marks as ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Adoption {
    /// No objects: the operation refuses.
    #[default]
    Nothing,
    /// The objects of lost records of our state directory.
    Lost,
    /// The objects of records in other state directories as well.
    All,
}

impl Adoption {
    const fn takes(self, holder: &Holder) -> bool {
        match self {
            Self::Nothing => false,
            Self::Lost => matches!(holder, Holder::Lost),
            Self::All => true,
        }
    }
}

/// Returns the claims of others on the found objects. An object without an owner is ours if we have records: an earlier
/// version made it.
#[must_use]
pub fn claims(
    owner: &Owner,
    recorded: bool,
    adoption: Adoption,
    found: &[(Object, Mark)],
) -> Vec<Claim> {
    let mut directories: BTreeMap<OwnerId, &str> = BTreeMap::new();
    let mut lost: BTreeSet<OwnerId> = BTreeSet::new();
    for (_, mark) in found {
        if let Mark::Signed { id, directory: Some(directory) } = mark {
            directories.insert(*id, directory);
            if directory == owner.directory() {
                lost.insert(*id);
            }
        }
    }
    let holder = |mark: &Mark| match mark {
        Mark::Unsigned => (!recorded).then_some(Holder::Lost),
        Mark::Signed { id, .. } if *id == owner.id() => None,
        Mark::Signed { id, .. } if lost.contains(id) => Some(Holder::Lost),
        Mark::Signed { id, .. } => {
            let directory = directories.get(id).map(|&directory| directory.to_owned());
            Some(Holder::Other { directory })
        }
    };
    let claim = |(object, mark): &(Object, Mark)| {
        let holder = holder(mark).filter(|holder| !adoption.takes(holder))?;
        Some(Claim { object: object.clone(), holder })
    };
    found.iter().filter_map(claim).collect()
}

/// Returns the owners of the found objects besides ours, each with its state directory, where an object names it.
#[must_use]
pub fn other_owners<'a>(owner: &Owner, found: &'a [(Object, Mark)]) -> BTreeMap<OwnerId, &'a str> {
    let signed = found.iter().filter_map(|(_, mark)| match mark {
        Mark::Signed { id, directory: Some(directory) } => Some((*id, directory.as_str())),
        _ => None,
    });
    signed.filter(|(id, _)| *id != owner.id()).collect()
}

/// Returns the identifier of the lost records that something found belongs to.
#[must_use]
pub fn lost_owner(owner: &Owner, found: &[(Object, Mark)]) -> Option<OwnerId> {
    found.iter().find_map(|(_, mark)| match mark {
        Mark::Signed { id, directory: Some(directory) } if directory == owner.directory() => {
            Some(*id)
        }
        _ => None,
    })
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "the interface {name}"),
            Self::Firewall(Backend::Nftables) => {
                write!(f, "the nftables table inet {}", names::nftables::TABLE)
            }
            Self::Firewall(backend) => write!(f, "the {backend} chain {}", names::CHAIN),
            Self::ForeignChain(foreign_chain) => {
                write!(f, "the passage through the foreign chain {foreign_chain}")
            }
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, holder } = self;
        match holder {
            Holder::Lost => write!(f, "{object} is in use, and its records are missing"),
            Holder::Other { directory: Some(directory) } => {
                write!(f, "{object} belongs to the records in {directory}")
            }
            Holder::Other { directory: None } => {
                write!(f, "{object} belongs to the records in another state directory")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: u64, directory: &str) -> Owner {
        Owner::new(OwnerId::new(id), directory)
    }

    fn link(number: u8, mark: Mark) -> (Object, Mark) {
        (Object::Link(format!("rik{number}").parse().unwrap()), mark)
    }

    fn text(claims: &[Claim]) -> Vec<String> {
        claims.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn objects_of_another_directory_are_claimed_by_name() {
        let ours = owner(1, "/run/a");
        let theirs = owner(2, "/run/b");
        let unnamed = Mark::Signed { id: OwnerId::new(2), directory: None };
        let unknown = Mark::Signed { id: OwnerId::new(3), directory: None };
        let found = [
            link(0, ours.mark()),
            link(1, unnamed),
            link(2, unknown),
            (Object::Firewall(Backend::Nftables), theirs.mark()),
        ];
        assert_eq!(
            text(&claims(&ours, true, Adoption::Lost, &found)),
            [
                "the interface rik1 belongs to the records in /run/b",
                "the interface rik2 belongs to the records in another state directory",
                "the nftables table inet riklet belongs to the records in /run/b",
            ]
        );
        assert_eq!(claims(&ours, true, Adoption::All, &found), []);
        assert_eq!(claims(&theirs, true, Adoption::Nothing, &found).len(), 2);
    }

    #[test]
    fn objects_with_a_former_identifier_have_lost_records() {
        let ours = owner(1, "/run/a");
        let unnamed = Mark::Signed { id: OwnerId::new(2), directory: None };
        let found =
            [link(0, unnamed), (Object::Firewall(Backend::Nftables), owner(2, "/run/a").mark())];
        assert_eq!(
            text(&claims(&ours, false, Adoption::Nothing, &found)),
            [
                "the interface rik0 is in use, and its records are missing",
                "the nftables table inet riklet is in use, and its records are missing",
            ]
        );
        assert_eq!(claims(&ours, false, Adoption::Lost, &found), []);
        assert_eq!(lost_owner(&ours, &found), Some(OwnerId::new(2)));
    }

    #[test]
    fn objects_of_an_earlier_version_are_ours_if_there_are_records() {
        let ours = owner(1, "/run/a");
        let found = [link(0, Mark::Unsigned)];
        assert_eq!(claims(&ours, true, Adoption::Nothing, &found), []);
        let [claim] = &claims(&ours, false, Adoption::Nothing, &found)[..] else { panic!() };
        assert_eq!(claim.holder, Holder::Lost);
        assert_eq!(lost_owner(&ours, &found), None);
    }
}

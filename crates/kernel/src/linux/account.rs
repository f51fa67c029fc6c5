//! Users and groups by name: `getpwnam_r(3)` and `getgrnam_r(3)`, which ask every source that the host has.

use nix::unistd::{Group, User};

use crate::{AccountKind, KernelError, Refusal};
use riklet_core::model::AccountName;

pub(super) fn id(kind: AccountKind, name: &AccountName) -> Result<Option<u32>, KernelError> {
    let found = match kind {
        AccountKind::User => {
            User::from_name(name.as_str()).map(|user| user.map(|u| u.uid.as_raw()))
        }
        AccountKind::Group => {
            Group::from_name(name.as_str()).map(|group| group.map(|g| g.gid.as_raw()))
        }
    };
    found.map_err(|errno| {
        let source = Refusal::from(std::io::Error::from(errno));
        KernelError::Account { kind, name: name.clone(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use riklet_core::model::Account;

    #[test]
    fn names_of_the_host_have_numbers() {
        let look_up = |kind, text: &str| match text.parse().unwrap() {
            Account::Name(name) => id(kind, &name).unwrap(),
            Account::Id(_) | Account::OfSlot(_) => panic!("{text} is a number"),
        };
        assert_eq!(look_up(AccountKind::User, "root"), Some(0));
        assert_eq!(look_up(AccountKind::Group, "root"), Some(0));
        assert_eq!(look_up(AccountKind::User, "nobody"), Some(65_534));
        assert_eq!(look_up(AccountKind::User, "no-such-user"), None);
        assert_eq!(look_up(AccountKind::Group, "nobody"), None, "Debian's group is nogroup");
    }
}

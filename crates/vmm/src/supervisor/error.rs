use std::{io, path::PathBuf, time::Duration};

use riklet_core::model::{InstanceName, Kind, Vmm};
use riklet_kernel::{AccountKind, KernelError};
use riklet_sdn::{ErrorKind, NodeError, store::StoreError};

use super::Ended;
use crate::{
    choose::Unusable, host_accounts::BlockConflict, image::ImageError, launch::LaunchError,
    runs::RunError,
};

/// The reason why functions cannot be run, or cannot be run any longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// The network of an instance cannot be brought up or taken down.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A run cannot be recorded.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The instance is up already, and belongs to whoever brought it up.
    #[error("{name} is already recorded")]
    Recorded {
        /// The instance.
        name: InstanceName,
    },
    /// Instances of its kind are started by somebody else.
    #[error("{name} cannot be run: it is a {kind}, whose containers somebody else starts")]
    NotRun {
        /// The instance.
        name: InstanceName,
        /// The kind.
        kind: Kind,
    },
    /// No VMM of this host can run it.
    #[error("{name} cannot be run")]
    Vmm {
        /// The instance.
        name: InstanceName,
        /// The unmet need.
        source: Unusable,
    },
    /// An image cannot be obtained.
    #[error("{name} cannot be run")]
    Image {
        /// The instance.
        name: InstanceName,
        /// The cause.
        source: ImageError,
    },
    /// The host does not know the VMM's user or group.
    #[error("the host has no {kind} {name}")]
    Account {
        /// User or group.
        kind: AccountKind,
        /// The name that is not known.
        name: String,
    },
    /// Another function has the user that the definition names.
    #[error("{name} cannot be run: {other} runs as user {uid} already")]
    UserTaken {
        /// The instance.
        name: InstanceName,
        /// The user.
        uid: u32,
        /// The other instance.
        other: String,
    },
    /// The definition names a user that a slot has.
    #[error("{name} cannot be run: user {uid} is one of those that functions get by their slots")]
    UserOfSlots {
        /// The instance.
        name: InstanceName,
        /// The user.
        uid: u32,
    },
    /// The users of slots are also others of the host.
    #[error(transparent)]
    Block(#[from] BlockConflict),
    /// The VMM would have the group that may use the daemon's socket.
    #[error("{name} cannot be run: its VMM would have the group {gid}, which may use {}", socket.display())]
    CommandsDaemon {
        /// The instance.
        name: InstanceName,
        /// The group.
        gid: u32,
        /// The daemon's socket.
        socket: PathBuf,
    },
    /// The user cannot be taken for a function.
    #[error("{name} cannot be run: user {uid} cannot be locked")]
    UserLock {
        /// The instance.
        name: InstanceName,
        /// The user.
        uid: u32,
        /// The kernel's own words.
        source: io::Error,
    },
    /// The VMM cannot be started, or refuses its machine.
    #[error("{name} cannot be run")]
    Launch {
        /// The instance.
        name: InstanceName,
        /// The cause.
        source: LaunchError,
    },
    /// The end of a VMM cannot be waited for.
    #[error("cannot wait for the end of the VMM of {name}")]
    Wait {
        /// The instance.
        name: InstanceName,
        /// The kernel's own words.
        source: io::Error,
    },
    /// The calling process cannot be identified.
    #[error("cannot identify this process")]
    Identity {
        /// The kernel's own words.
        source: io::Error,
    },
    /// A guest ended before its published ports answered.
    #[error("{name} ended before it was ready: {reason}")]
    GuestEnded {
        /// The instance.
        name: InstanceName,
        /// The end, in words.
        reason: String,
    },
    /// The published ports did not answer in time.
    #[error("not ready after {} s: {}", limit.as_secs(), waited.join("; "))]
    NotReady {
        /// The stage that each of them had reached.
        waited: Vec<String>,
        /// The time limit.
        limit: Duration,
        /// The consoles of those that are not ready.
        consoles: Vec<ConsoleEnd>,
    },
    /// Events cannot be waited for.
    #[error("cannot wait for events")]
    Poll {
        /// The kernel's own words.
        source: io::Error,
    },
}

/// The last lines of a guest's console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleEnd {
    /// The instance.
    pub name: InstanceName,
    /// The lines; none if the guest has written nothing.
    pub lines: Vec<String>,
}

impl ConsoleEnd {
    /// Returns the lines as text for people, after a line that says whose they are.
    #[must_use]
    pub fn text(&self) -> Vec<String> {
        if self.lines.is_empty() {
            return vec![format!("the console of {} is empty", self.name)];
        }
        let first = format!("the console of {} ends with:", self.name);
        let lines = self.lines.iter().map(|line| format!("  {line}"));
        [first].into_iter().chain(lines).collect()
    }
}

impl From<Ended> for SupervisorError {
    fn from(Ended { name, reason, .. }: Ended) -> Self {
        Self::GuestEnded { name, reason }
    }
}

impl From<StoreError> for SupervisorError {
    fn from(error: StoreError) -> Self {
        Self::Node(error.into())
    }
}

impl From<KernelError> for SupervisorError {
    fn from(error: KernelError) -> Self {
        Self::Node(error.into())
    }
}

impl SupervisorError {
    /// Returns the kind of error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Node(error) | Self::Run(RunError::Node(error)) => error.kind(),
            Self::NotRun { .. }
            | Self::Account { .. }
            | Self::UserTaken { .. }
            | Self::UserOfSlots { .. }
            | Self::Block(_)
            | Self::CommandsDaemon { .. } => ErrorKind::Invalid,
            Self::Vmm { source, .. } if source.is_of_the_definition() => ErrorKind::Invalid,
            Self::Image { source, .. } if source.is_of_the_definition() => ErrorKind::Invalid,
            Self::Vmm { .. } => ErrorKind::Host,
            Self::Launch { source, .. } if source.is_of_the_host() => ErrorKind::Host,
            _ => ErrorKind::Failed,
        }
    }

    /// Returns the ends of the consoles that explain the error, as lines for people.
    #[must_use]
    pub fn consoles(&self) -> Vec<String> {
        match self {
            Self::NotReady { consoles, .. } => consoles.iter().flat_map(ConsoleEnd::text).collect(),
            _ => vec![],
        }
    }

    /// Returns a hint, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Node(error) => error.hint(),
            Self::Run(error) => error.hint(),
            Self::UserTaken { .. } => Some(
                "leave `user` out, name another, or set sharedUser to true in both definitions"
                    .to_owned(),
            ),
            Self::Block(_) => Some(BlockConflict::HINT.to_owned()),
            Self::CommandsDaemon { .. } => Some(
                "a guest that takes its VMM over could command the daemon: give the socket a group of its own, by \
                 `--api-group`"
                    .to_owned(),
            ),
            Self::Launch { source: LaunchError::User { source, .. }, .. }
                if source.kind() == io::ErrorKind::AddrInUse =>
            {
                Some("another node of this host has the same users: set vmm_uid_base".to_owned())
            }
            Self::UserOfSlots { .. } => Some("leave `user` out, or name another".to_owned()),
            Self::NotRun { .. } => {
                Some("`riklet-sdn up FILE --netns PATH` gives it its network".to_owned())
            }
            Self::Recorded { name } => Some(format!("`riklet-sdn down {name}` first")),
            Self::Vmm { source, .. } => Some(source.hint()),
            Self::Image { source, .. } => source.hint(),
            Self::NotReady { consoles, .. } => consoles.first().map(|console| {
                format!(
                    "`riklet-sdn logs {}` shows the console; `--ready-timeout` gives more time, and `ready` \
                     of an exposure says what is waited for",
                    console.name
                )
            }),
            _ => None,
        }
    }
}

/// An instance and the VMM that runs it.
pub(super) type Played<'a> = (&'a riklet_sdn::Instance, Vmm);

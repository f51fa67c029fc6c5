use std::{error::Error, io, net::IpAddr, path::PathBuf, time::Duration};

use super::{Access, Digest, Role, SourceError, Url};
use riklet_kernel::process::Credentials;

/// The reason why there is no image that a VMM can open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The definition names neither a path nor a valid URL.
    #[error("cannot use the {role}")]
    Source {
        /// The role of the image.
        role: Role,
        /// The cause.
        source: SourceError,
    },
    /// The file is missing, or this process may not look it up.
    #[error("cannot find the {role} {}", path.display())]
    Find {
        /// The role of the image.
        role: Role,
        /// The path of the file.
        path: PathBuf,
        /// The kernel's own words.
        source: io::Error,
    },
    /// It is in none of the directories that images may be in.
    #[error("the {role} {} is outside of {}", path.display(), listed(roots))]
    Outside {
        /// The role of the image.
        role: Role,
        /// The path of the file.
        path: PathBuf,
        /// The directories.
        roots: Vec<PathBuf>,
    },
    /// It is not a file.
    #[error("the {role} {} is {found}, not a file", path.display())]
    Sort {
        /// The role of the image.
        role: Role,
        /// The path of the file.
        path: PathBuf,
        /// The kind of file found instead, with its article.
        found: &'static str,
    },
    /// It cannot be opened.
    #[error("{} cannot {access} the {role} {}", who(*user), path.display())]
    Open {
        /// The role of the image.
        role: Role,
        /// The path of the file.
        path: PathBuf,
        /// The access that was tried.
        access: Access,
        /// The user who opened it; `None` for this process.
        user: Option<Credentials>,
        /// The kernel's own words.
        source: io::Error,
    },
    /// The VMM's credentials cannot be taken on to test whether it could open the file.
    #[error("cannot try to {access} the {role} {} as {user}", path.display())]
    Become {
        /// The role of the image.
        role: Role,
        /// The path of the file.
        path: PathBuf,
        /// The access that is needed.
        access: Access,
        /// The VMM's user.
        user: Credentials,
        /// The kernel's own words.
        source: io::Error,
    },
    /// It was opened, and cannot be read.
    #[error("cannot read the {role} {}", path.display())]
    Read {
        /// The role of the image.
        role: Role,
        /// The path of the file.
        path: PathBuf,
        /// The kernel's own words.
        source: io::Error,
    },
    /// Its checksum differs from the given one.
    #[error("the {role} {origin} has the SHA-256 {found}, not {expected}")]
    Checksum {
        /// The role of the image.
        role: Role,
        /// Its path or URL.
        origin: String,
        /// True for a downloaded file, false for one that a path names.
        downloaded: bool,
        /// The checksum that was given.
        expected: Digest,
        /// Its checksum.
        found: Digest,
    },
    /// The VMM's user needs a copy, which cannot be made.
    #[error("cannot copy the {role} {} to {}", path.display(), target.display())]
    Copy {
        /// The role of the image.
        role: Role,
        /// The path of the file.
        path: PathBuf,
        /// The path of the copy.
        target: PathBuf,
        /// The kernel's own words.
        source: io::Error,
    },
    /// It is needed for writing, and shared with other functions.
    #[error("the {role} {url} is shared by all that name it, and cannot be written to")]
    Shared {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
    },
    /// There is no connection to its server.
    #[error("cannot download the {role} {url}: its server cannot be reached")]
    Unreachable {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server's certificate is refused.
    #[error("cannot download the {role} {url}: the server's certificate is refused: {why}")]
    Certificate {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The cause.
        why: String,
    },
    /// The server does not answer in time.
    #[error("cannot download the {role} {url}: no {what} within {limit:?}")]
    Timeout {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// `connection` or `data`.
        what: &'static str,
        /// The time waited.
        limit: Duration,
    },
    /// The server answers with a status other than success.
    #[error("cannot download the {role} {url}: the server answers {status}")]
    Status {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The status, such as `404 Not Found`.
        status: ureq::http::StatusCode,
    },
    /// The server redirects too often.
    #[error("cannot download the {role} {url}: more than {limit} redirects")]
    Redirects {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The number of redirects that are followed.
        limit: u32,
    },
    /// The host is in a network that is not public, and the definition is a member's.
    #[error(
        "cannot download the {role} {url}: its host is at {address}, which is not a public address"
    )]
    Internal {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The host's address.
        address: IpAddr,
    },
    /// The server redirects into a network that is not public.
    #[error(
        "cannot download the {role} {url}: it redirects to {to}, at {address}, which is not a public address"
    )]
    InternalRedirect {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The host.
        to: String,
        /// The host's address.
        address: IpAddr,
    },
    /// It is larger than what is downloaded.
    #[error("cannot download the {role} {url}: it is larger than {} MiB, the most that is downloaded", most >> 20)]
    TooLarge {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The largest size in bytes.
        most: u64,
    },
    /// The whole download takes too long. The received part is kept if the server can resume from there.
    #[error("the download of the {role} {url} is not complete after {limit:?}")]
    TooSlow {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The time limit.
        limit: Duration,
    },
    /// The server redirects from https to http.
    #[error("cannot download the {role} {url}: it redirects from https to http")]
    Downgrade {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
    },
    /// The server's answer is not valid HTTP.
    #[error("cannot download the {role} {url}: the server's answer cannot be understood")]
    Answer {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server does not state the length, so that a whole download looks like one that broke off.
    #[error("cannot download the {role} {url}: the server does not say how long it is")]
    UnknownLength {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
    },
    /// The server sent more than it announced.
    #[error("cannot download the {role} {url}: more than the stated {stated} bytes came")]
    Length {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The stated length in bytes.
        stated: u64,
    },
    /// The connection ended early, time after time. The received part is kept if the server can resume from there.
    #[error("the download of the {role} {url} broke off after {}", extent(*received, *total))]
    Broken {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The number of bytes received.
        received: u64,
        /// The number of bytes in all, if known.
        total: Option<u64>,
        /// The failure of the last attempt.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The file system is full. The received part is kept if the server can resume from there.
    #[error("no room for the {role} {url} in {}", dir.display())]
    Full {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The directory of the downloads.
        dir: PathBuf,
        /// The kernel's own words.
        source: io::Error,
    },
    /// The download cannot be stored for another reason.
    #[error("cannot store the {role} {url}: cannot {operation} {}", path.display())]
    Store {
        /// The role of the image.
        role: Role,
        /// Its URL.
        url: Url,
        /// The operation.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's own words.
        source: io::Error,
    },
}

impl ImageError {
    /// Tells whether the definition itself is invalid, as opposed to the way to the image.
    #[must_use]
    pub const fn is_of_the_definition(&self) -> bool {
        matches!(
            self,
            Self::Source { .. }
                | Self::Outside { .. }
                | Self::Find { .. }
                | Self::Sort { .. }
                | Self::Open { .. }
                | Self::Checksum { downloaded: false, .. }
                | Self::Shared { .. }
        )
    }

    /// Returns a hint, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Source { source, .. } => source.hint().to_owned(),
            Self::Open { user, path, access, source, .. } => {
                return open_hint(*user, path, *access, source);
            }
            Self::Become { .. } => "run it as root".to_owned(),
            Self::Checksum { origin, downloaded: false, .. } => {
                format!("`sha256sum {origin}` says what it is; correct the definition or the file")
            }
            Self::Checksum { downloaded: true, .. } => {
                "what came is deleted; compare the definition's sha256 with the publisher's"
                    .to_owned()
            }
            Self::Shared { .. } => {
                "set readOnly to true, or name a file that is this function's own".to_owned()
            }
            Self::Unreachable { .. } | Self::Timeout { what: "connection", .. } => {
                "check the host's name, the network, and the proxy (https_proxy, no_proxy)"
                    .to_owned()
            }
            Self::Certificate { .. } => {
                "check the clock and the package ca-certificates, or let SSL_CERT_FILE name \
                 the certificate of who signed it"
                    .to_owned()
            }
            Self::Timeout { .. } | Self::Broken { .. } | Self::TooSlow { .. } => {
                "try again: what came is kept where the server can go on from there".to_owned()
            }
            Self::Status { status, .. } => return status_hint(*status),
            Self::Outside { .. } => {
                "move it there, or name its directory in `image_roots` of the configuration"
                    .to_owned()
            }
            Self::Internal { .. } => {
                "root may allow it by `private_redirects` of the configuration, or run it"
                    .to_owned()
            }
            Self::InternalRedirect { .. } => {
                "name that URL itself, or allow it by `private_redirects` of the configuration"
                    .to_owned()
            }
            Self::TooLarge { .. } => "download the file yourself, and name its path".to_owned(),
            Self::Redirects { .. } => "name the URL where the file is".to_owned(),
            Self::Downgrade { .. } => {
                "name the http:// URL itself, with the file's sha256".to_owned()
            }
            Self::UnknownLength { .. } => {
                "give the file's sha256: a whole download is known by it".to_owned()
            }
            Self::Full { dir, .. } => format!(
                "make room on the file system of {}, or set `image_dir` to a directory on another",
                dir.display()
            ),
            Self::Copy { source, target, .. } if source.kind() == io::ErrorKind::StorageFull => {
                format!(
                    "make room on the file system of {}, or set `image_dir` to a directory on another",
                    target.display()
                )
            }
            Self::Store { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run it as root".to_owned()
            }
            _ => return None,
        })
    }
}

fn open_hint(
    user: Option<Credentials>,
    path: &std::path::Path,
    access: Access,
    source: &io::Error,
) -> Option<String> {
    if source.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    Some(match user {
        None => "run it as root".to_owned(),
        Some(user) => format!(
            "let {user} {access} it, and search the directories that it is in: \
             `namei -l {}` shows them",
            path.display()
        ),
    })
}

fn status_hint(status: ureq::http::StatusCode) -> Option<String> {
    Some(match status.as_u16() {
        401 | 403 | 407 => {
            "no credentials are sent; download the file yourself, and name its path".to_owned()
        }
        404 | 410 => "check the URL".to_owned(),
        429 | 500..=599 => "try again later".to_owned(),
        _ => return None,
    })
}

/// Returns the directories as text, each once: a definition may be in one that is named anyway.
fn listed(roots: &[PathBuf]) -> String {
    let before = |index| roots.get(..index).unwrap_or_default();
    let roots = roots.iter().enumerate().filter(|(index, root)| !before(*index).contains(root));
    roots.map(|(_, root)| root.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn who(user: Option<Credentials>) -> String {
    user.map_or_else(|| "this process".to_owned(), |user| user.to_string())
}

fn extent(received: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("{received} of {total} bytes"),
        None => format!("{received} bytes"),
    }
}

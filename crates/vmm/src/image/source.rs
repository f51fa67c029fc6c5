//! Sources of images: the paths and URLs that definitions name. Pure.

use std::{ffi::OsString, fmt, os::unix::ffi::OsStringExt, path::PathBuf};

use ureq::http::{Uri, uri::InvalidUri};

/// The place of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path in the file system; a relative path is relative to the current directory.
    Path(PathBuf),
    /// A URL on a server.
    Url(Url),
}

/// An absolute `http` or `https` URL that names a host. It has no fragment and no user name, which are not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url(String);

/// The reason why a text names no image.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum SourceError {
    #[error("it is empty")]
    Empty,
    #[error("it has a NUL character")]
    Nul,
    #[error("{scheme}:// is not supported")]
    Scheme { scheme: String },
    #[error("{text:?} has no absolute path")]
    Relative { text: String },
    #[error("{text:?} names the host {host:?}")]
    Host { text: String, host: String },
    #[error("{text:?} has {found:?}, which is no percent-encoded byte")]
    Encoding { text: String, found: String },
    #[error("{text:?} has a bare {found:?}")]
    Delimiter { text: String, found: char },
    /// The text names a user or password. It is not repeated, since it may hold a password.
    #[error("the URL has a user name, and no credentials are sent")]
    Credentials,
    #[error("{text:?} is no URL")]
    Url { text: String, source: InvalidUri },
    #[error("{text:?} names no host")]
    NoHost { text: String },
}

impl Source {
    /// Parses a path, a `file` URL (RFC 8089) or an `http` or `https` URL (RFC 9110, 4.2).
    ///
    /// A text is a URL only if it has `://` after a scheme, or begins with `file:`: a path may contain a colon.
    ///
    /// # Errors
    /// Fails if the text is none of these.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        if text.trim().is_empty() {
            return Err(SourceError::Empty);
        }
        if text.contains('\0') {
            return Err(SourceError::Nul);
        }
        let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
        let scheme = scheme.to_ascii_lowercase();
        match (scheme.as_str(), rest.strip_prefix("//")) {
            ("file", _) => file_path(text, rest).map(Self::Path),
            ("http" | "https", Some(rest)) => Url::new(text, &scheme, rest).map(Self::Url),
            (_, Some(_)) if is_scheme(&scheme) => Err(SourceError::Scheme { scheme }),
            _ => Ok(Self::Path(text.into())),
        }
    }
}

impl Url {
    fn new(text: &str, scheme: &str, rest: &str) -> Result<Self, SourceError> {
        let sent = rest.split('#').next().unwrap_or_default();
        let authority = sent.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(SourceError::Credentials);
        }
        if authority.is_empty() || authority.starts_with(':') {
            return Err(SourceError::NoHost { text: text.to_owned() });
        }
        let url = format!("{scheme}://{sent}");
        match url.parse::<Uri>() {
            Ok(_) => Ok(Self(url)),
            Err(source) => Err(SourceError::Url { text: text.to_owned(), source }),
        }
    }

    /// Returns the URL as it is requested.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether the connection is authenticated.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SourceError {
    /// Returns a hint about what to write instead.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Empty | Self::Nul | Self::Scheme { .. } | Self::NoHost { .. } => {
                "name a path, or a URL that begins with file:///, http:// or https://"
            }
            Self::Relative { .. } | Self::Host { .. } => {
                "write a file URL with three slashes and an absolute path, \
                 as in file:///srv/kernel, or just the path"
            }
            Self::Encoding { .. } | Self::Delimiter { .. } => {
                "write % as %25, ? as %3F and # as %23 in a file URL, or just the path"
            }
            Self::Credentials => "download the file yourself, and name its path",
            Self::Url { .. } => "percent-encode what a URL cannot hold: a space is %20",
        }
    }
}

/// Tells whether the text is a scheme (RFC 3986, 3.1).
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// Returns the path of a file URL: `file:/path`, `file:///path` or `file://localhost/path`.
fn file_path(text: &str, rest: &str) -> Result<PathBuf, SourceError> {
    let text = || text.to_owned();
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(rest) => {
            let host = rest.split('/').next().unwrap_or_default();
            if !host.is_empty() && !host.eq_ignore_ascii_case("localhost") {
                return Err(SourceError::Host { text: text(), host: host.to_owned() });
            }
            rest.strip_prefix(host).unwrap_or_default()
        }
    };
    if !path.starts_with('/') {
        return Err(SourceError::Relative { text: text() });
    }
    if let Some(found) = path.chars().find(|c| matches!(c, '?' | '#')) {
        return Err(SourceError::Delimiter { text: text(), found });
    }
    let decoded = percent_decoded(path);
    let bytes = decoded.map_err(|found| SourceError::Encoding { text: text(), found })?;
    if bytes.contains(&0) {
        return Err(SourceError::Nul);
    }
    Ok(OsString::from_vec(bytes).into())
}

/// Returns the decoded bytes (RFC 3986, 2.1), or the `%` and the characters after it that are not two hex digits.
fn percent_decoded(text: &str) -> Result<Vec<u8>, String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let decoded = part.split_at_checked(2).and_then(|(digits, rest)| {
            let value = |digit: char| digit.to_digit(16).and_then(|value| u8::try_from(value).ok());
            let mut digits = digits.chars();
            let byte = value(digits.next()?)? << 4 | value(digits.next()?)?;
            Some((byte, rest))
        });
        let wrong = || format!("%{}", part.chars().take(2).collect::<String>());
        let (byte, rest) = decoded.ok_or_else(wrong)?;
        bytes.push(byte);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

    use super::*;

    fn path(text: &str) -> PathBuf {
        match Source::parse(text).unwrap() {
            Source::Path(path) => path,
            Source::Url(url) => panic!("{url} is no path"),
        }
    }

    fn url(text: &str) -> String {
        match Source::parse(text).unwrap() {
            Source::Url(url) => url.to_string(),
            Source::Path(path) => panic!("{} is no URL", path.display()),
        }
    }

    fn refusal(text: &str) -> String {
        let error = Source::parse(text).unwrap_err();
        assert!(!error.hint().is_empty());
        error.to_string()
    }

    #[test]
    fn paths_are_kept_unchanged() {
        for text in ["/srv/vmlinux", "vmlinux", "./a b%20c", "disk:1.img", "a/b://c", "http:kernel"]
        {
            assert_eq!(path(text), Path::new(text));
        }
    }

    #[test]
    fn file_urls_are_absolute_and_percent_decoded() {
        for text in
            ["file:///srv/vm", "file://localhost/srv/vm", "FILE:/srv/vm", "file:///srv/%76m"]
        {
            assert_eq!(path(text), Path::new("/srv/vm"));
        }
        let odd = path("file:///a%20b/%25%3f%ff/ä");
        assert_eq!(odd.as_os_str(), OsStr::from_bytes(b"/a b/%?\xff/\xc3\xa4"));
    }

    #[test]
    fn urls_lose_fragment_and_user_name() {
        assert_eq!(url("http://h/vmlinux"), "http://h/vmlinux");
        assert_eq!(url("HTTPS://h:8443/a?b=c@d#part"), "https://h:8443/a?b=c@d");
        assert_eq!(url("http://[::1]:80"), "http://[::1]:80");
    }

    #[test]
    fn refusals_name_the_fault() {
        assert_eq!(refusal(""), "it is empty");
        assert_eq!(refusal(" \n"), "it is empty");
        assert_eq!(refusal("/a\0b"), "it has a NUL character");
        assert_eq!(refusal("file:///a%00b"), "it has a NUL character");
        assert_eq!(refusal("ftp://h/kernel"), "ftp:// is not supported");
        assert_eq!(refusal("docker+x://h"), "docker+x:// is not supported");
        assert_eq!(refusal("file:kernel"), "\"file:kernel\" has no absolute path");
        assert_eq!(refusal("file://"), "\"file://\" has no absolute path");
        assert_eq!(refusal("file://srv/vm"), "\"file://srv/vm\" names the host \"srv\"");
        for (text, found) in [("/%", "%"), ("/%2", "%2"), ("/%zz/", "%zz"), ("/%ä", "%ä")] {
            let text = format!("file://{text}");
            let expected = format!("{text:?} has {found:?}, which is no percent-encoded byte");
            assert_eq!(refusal(&text), expected);
        }
        assert_eq!(refusal("file:///a?b"), "\"file:///a?b\" has a bare '?'");
        assert_eq!(refusal("http://"), "\"http://\" names no host");
        assert_eq!(refusal("http://:80/a"), "\"http://:80/a\" names no host");
        assert_eq!(refusal("http://h/a b"), "\"http://h/a b\" is no URL");
    }

    #[test]
    fn error_does_not_repeat_a_password() {
        let error = Source::parse("https://me:secret@h/vmlinux").unwrap_err();
        assert_eq!(error.to_string(), "the URL has a user name, and no credentials are sent");
        assert!(!format!("{error:?}").contains("secret"));
    }
}

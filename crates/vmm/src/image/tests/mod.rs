//! Downloads from a real server on 127.0.0.1, and real files.

mod download;
mod https;
mod local;
#[cfg(privileged)]
mod privileged;
mod refusal;
mod resume;
mod server;

use std::{
    collections::BTreeSet,
    error::Error,
    fs::{self, DirBuilder, Permissions},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::*;
#[cfg(privileged)]
use riklet_kernel::process::Credentials;
use server::{End, HttpRequest, Server, cut, send, serve, silent, step, then_silent};

#[cfg(privileged)]
const NOBODY: Credentials = Credentials { uid: 65534, gid: 65534 };
const TAG: &str = "\"one\"";

/// A directory of this test's own that everybody may search, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("riklet-image-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        set_mode(&path, 0o755);
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        write(&path, bytes);
        set_mode(&path, 0o644);
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A node's state directory, and the settings of its downloads.
struct NodeWithImages {
    dir: Dir,
    settings: Settings,
}

impl NodeWithImages {
    fn new() -> Self {
        let settings = Settings {
            pause: Duration::from_millis(1),
            spare: 0,
            private_redirects: true,
            proxies: false,
            certificates: Some(vec![https::AUTHORITY.to_vec()]),
            ..Settings::default()
        };
        Self { dir: Dir::new(), settings }
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut node = Self::new();
        change(&mut node.settings);
        node
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.0.join("state")
    }

    fn images(&self) -> Images {
        Images::new(&self.state_dir(), self.settings.clone())
    }

    fn obtain(&self, url: &str) -> Result<PathBuf, ImageError> {
        self.images().obtain(&kernel(url), &mut |_| {})
    }

    fn obtain_checked(&self, url: &str, sha256: [u8; 32]) -> Result<PathBuf, ImageError> {
        let wanted = Wanted { sha256: Some(sha256), ..kernel(url) };
        self.images().obtain(&wanted, &mut |_| {})
    }

    /// Lists the files in the directory of the images: `whole`, `part`, `json`.
    fn files(&self) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.state_dir().join("images")) else {
            return BTreeSet::new();
        };
        let extension = |path: PathBuf| match path.extension() {
            Some(extension) => extension.to_str().unwrap().to_owned(),
            None => "whole".to_owned(),
        };
        entries.map(|entry| extension(entry.unwrap().path())).collect()
    }

    /// Returns the one file with this extension.
    fn file(&self, extension: &str) -> PathBuf {
        let entries = fs::read_dir(self.state_dir().join("images")).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        paths.find(|path| path.extension().unwrap_or_default() == extension).unwrap()
    }
}

fn kernel(source: &str) -> Wanted<'_> {
    Wanted {
        role: Role::Kernel,
        source,
        sha256: None,
        access: Access::Read,
        user: None,
        groups: &[],
    }
}

fn set(files: &[&str]) -> BTreeSet<String> {
    files.iter().map(ToString::to_string).collect()
}

/// Returns the error with its causes, as the program prints it.
fn words<T: fmt::Debug>(result: Result<T, ImageError>) -> String {
    let error = result.unwrap_err();
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// Returns bytes that are not all alike.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[expect(clippy::disallowed_methods, reason = "a test looks at what was stored")]
fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test stores what is to be found")]
fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

//! What a VMM and its guest write: a log that is kept, and does not grow without end.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

/// How much a log has before it is set aside as `<log>.1`, in bytes: what is kept is between one and two of
/// these.
pub const LIMIT: u64 = 4 << 20;

/// The log of one run.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    file: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    file: File,
    written: u64,
}

impl Console {
    /// Begins an empty log at this path, readable by its owner only; an earlier run's is gone.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn create(path: PathBuf) -> io::Result<Arc<Self>> {
        remove(&aside(&path))?;
        let file = Mutex::new(Log { file: empty(&path)?, written: 0 });
        Ok(Arc::new(Self { path, file }))
    }

    /// Copies all that comes from here into the log, in a thread of its own, until its end.
    pub fn follow(self: &Arc<Self>, mut from: impl Read + Send + 'static) -> JoinHandle<()> {
        let console = Arc::clone(self);
        thread::spawn(move || {
            let mut bytes = [0; 8192];
            loop {
                match from.read(&mut bytes) {
                    Ok(0) => return,
                    Ok(length) => console.write(bytes.get(..length).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot read what the VMM writes");
                        return;
                    }
                }
            }
        })
    }

    /// A full disk must not stop a guest: what does not fit is lost.
    fn write(&self, bytes: &[u8]) {
        let mut log = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if log.written >= LIMIT
            && let Err(error) = self.set_aside(&mut log)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot set the log aside");
        }
        if let Err(error) = log.file.write_all(bytes) {
            tracing::warn!(%error, path = %self.path.display(), "cannot write the log");
        }
        log.written += u64::try_from(bytes.len()).unwrap_or_default();
    }

    fn set_aside(&self, log: &mut Log) -> io::Result<()> {
        std::fs::rename(&self.path, aside(&self.path))?;
        *log = Log { file: empty(&self.path)?, written: 0 };
        Ok(())
    }
}

/// Where the older part of a log is.
#[must_use]
pub fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn empty(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let file = options.open(path)?;
    file.set_len(0)?;
    Ok(file)
}

#[expect(clippy::disallowed_methods, reason = "the log is this module's own")]
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test reads what was written")]
    fn a_log_keeps_the_last_and_does_not_grow() {
        let directory = std::env::temp_dir().join(format!("riklet-console-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("console.log");
        fs::write(&path, "an earlier run").unwrap();
        let console = Console::create(path.clone()).unwrap();
        console.follow(&b"first words\n"[..]).join().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first words\n");

        let much = vec![b'x'; 9 << 20];
        console.follow(io::Cursor::new(much)).join().unwrap();
        console.follow(&b"last words\n"[..]).join().unwrap();
        let kept = fs::metadata(&path).unwrap().len() + fs::metadata(aside(&path)).unwrap().len();
        assert!((LIMIT..2 * LIMIT + 16_384).contains(&kept), "{kept} bytes are kept");
        assert!(fs::read_to_string(&path).unwrap().ends_with("last words\n"));
        fs::remove_dir_all(&directory).unwrap();
    }
}

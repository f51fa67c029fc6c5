//! The database as a file: creates it, opens it, checks that it is ours, and sets it aside.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::{Access, access};

use super::{BUSY_TIMEOUT, StoreError, upgrade::upgrade};

const FILE: &str = "riklet-sdn.db";
const SCHEMA: &str = include_str!("schema.sql");
/// `application_id` of the database header (<https://sqlite.org/fileformat2.html>, offset 68): "RIKN".
const APPLICATION_ID: i64 = 0x5249_4b4e;
/// `user_version` of the database header: the version of the schema.
pub(super) const FORMAT: i64 = 4;

/// The capacity of the cache of prepared statements: larger than their number, so that an open database prepares each
/// once.
const STATEMENTS: usize = 64;

/// The header of a database.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// Nothing was written yet.
    Blank,
    Ours,
    Older(i64),
    Newer(i64),
    Foreign,
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

pub(super) fn canonical(dir: &Path) -> PathBuf {
    if let Ok(found) = fs::canonicalize(dir) {
        return found;
    }
    // Only the last components of the path are missing.
    match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) if parent != Path::new("") => canonical(parent).join(name),
        _ => std::path::absolute(dir).unwrap_or_else(|_nowhere| dir.into()),
    }
}

/// Creates the directory, for its owner only. An existing one is left as it is.
pub(super) fn make_dir(dir: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| StoreError::Io { operation: "make", path: dir.to_owned(), source })
}

/// Opens the database, and creates it if it is missing.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    make(path);
    let connection = connect(path, OpenFlags::SQLITE_OPEN_CREATE)?;
    if is_ours(&connection, path)? {
        tune(&connection, path)?;
    } else {
        initialise(&connection, path)?;
    }
    Ok(connection)
}

/// Opens the database; `None` if there is none.
pub(super) fn open_existing(path: &Path) -> Result<Option<Connection>, StoreError> {
    if !exists(path)? {
        return Ok(None);
    }
    let connection = connect(path, OpenFlags::empty())?;
    if !is_ours(&connection, path)? {
        return Ok(None);
    }
    tune(&connection, path)?;
    Ok(Some(connection))
}

pub(super) fn open_in_memory(name: &Path) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::sqlite("open the database", name.to_owned(), source);
    let connection = Connection::open_in_memory().map_err(failed)?;
    initialise(&connection, name)?;
    Ok(connection)
}

/// Moves the database, and the files that SQLite may have left beside it, to a free name.
pub(super) fn set_aside(path: &Path) -> Result<Option<PathBuf>, StoreError> {
    if !exists(path)? {
        return Ok(None);
    }
    let target = free_name(path, "corrupt")?;
    // The database is moved last: a journal without its database would be taken for that of the next one.
    for suffix in ["-journal", "-wal", "-shm", ""] {
        let from = suffixed(path, suffix);
        if exists(&from)? {
            let moved = fs::rename(&from, suffixed(&target, suffix));
            moved.map_err(|source| StoreError::Io { operation: "move", path: from, source })?;
        }
    }
    Ok(Some(target))
}

/// Returns the first path `<path>.<word>-<n>` that is not taken.
pub(super) fn free_name(path: &Path, word: &str) -> Result<PathBuf, StoreError> {
    let mut number = 1_u32;
    loop {
        let target = suffixed(path, &format!(".{word}-{number}"));
        if !exists(&target)? {
            return Ok(target);
        }
        number += 1;
    }
}

/// The identity of a file: its device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

/// Returns the identity of the file of this name; `None` if there is none.
pub(super) fn identity(path: &Path) -> Option<Identity> {
    let found = fs::metadata(path).ok()?;
    Some(Identity(found.dev(), found.ino()))
}

pub(super) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes a file; one that is not there is as wanted.
#[expect(clippy::disallowed_methods, reason = "a file of the database, or beside it")]
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Io { operation: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

pub(super) fn exists(path: &Path) -> Result<bool, StoreError> {
    let found = path.try_exists();
    found.map_err(|source| StoreError::Io { operation: "look for", path: path.to_owned(), source })
}

/// Creates the database's file, if it is missing, for its owner only: SQLite would let everybody read it, and gives its
/// journal the mode of the database. Others may be allowed to search the state directory, since it has the images that
/// VMMs open. If the file cannot be created, SQLite reports why.
pub(super) fn make(path: &Path) {
    let _made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
}

/// Opens the file. SQLite opens a file that it may not write as read-only, so that commands that only read still work. It does
/// so as well if the file cannot be opened for a moment, for example because a signal came: then it is opened again.
fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let flags = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let is_read_only = connection.is_readonly(rusqlite::MAIN_DB)?;
        Ok((connection, is_read_only))
    };
    let again = |(connection, is_read_only)| {
        let is_by_chance = is_read_only && access(path, Access::WRITE_OK).is_ok();
        if is_by_chance { open() } else { Ok((connection, is_read_only)) }
    };
    let connection = open().and_then(again).map(|(connection, _)| connection);
    connection.map_err(|source| StoreError::sqlite("open the database", path.to_owned(), source))
}

/// Reports whether the database is ours; `false` if nothing was written yet. A foreign database is not changed: its
/// header is read without a journal file, and before `PRAGMA journal_mode`, which would change it.
fn is_ours(connection: &Connection, path: &Path) -> Result<bool, StoreError> {
    let header = header(connection);
    match header
        .map_err(|source| StoreError::sqlite("open the database", path.to_owned(), source))?
    {
        Header::Blank => Ok(false),
        Header::Ours => Ok(true),
        Header::Older(_) => upgrade(connection, path).map(|()| true),
        Header::Newer(found) => {
            Err(StoreError::Newer { path: path.to_owned(), found, known: FORMAT })
        }
        Header::Foreign => Err(StoreError::Foreign { path: path.to_owned() }),
    }
}

pub(super) fn header(connection: &Connection) -> rusqlite::Result<Header> {
    // Both values are read in one transaction (the caller's, if there is one), since another process may be writing
    // them.
    let deferred = || Transaction::new_unchecked(connection, TransactionBehavior::Deferred);
    let _at_one_moment = connection.is_autocommit().then(deferred).transpose()?;
    let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    Ok(match (number("PRAGMA application_id")?, number("PRAGMA user_version")?) {
        (APPLICATION_ID, FORMAT) => Header::Ours,
        (APPLICATION_ID, found) if found > FORMAT => Header::Newer(found),
        (APPLICATION_ID, found) if found > 0 => Header::Older(found),
        (0, 0) if number("SELECT count(*) FROM sqlite_schema")? == 0 => Header::Blank,
        _ => Header::Foreign,
    })
}

/// Tunes SQLite for a state that lives until the next reboot. No commit waits for the disk: with `synchronous = OFF`, a
/// commit survives the end of the process (`kill -9`), and no more is needed. If each process opens the database for
/// one small commit, a persistent journal is quickest (0.13 ms, against 0.3 ms with a write-ahead log).
fn tune(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    let failed = |source| StoreError::sqlite("open the database", path.to_owned(), source);
    connection.execute_batch("PRAGMA synchronous = OFF").map_err(failed)?;
    // A plan that depends on bound values is made again at each call.
    let stable = rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG;
    connection.set_db_config(stable, true).map_err(failed)?;
    let journal: String =
        connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(failed)?;
    // A daemon that has the database open keeps a write-ahead log; that mode stays.
    if journal == "wal" { Ok(()) } else { set_log(connection, path, "PERSIST") }
}

/// Sets the journal mode (<https://sqlite.org/pragma.html#pragma_journal_mode>), unless another process has the
/// database open.
pub(super) fn set_log(connection: &Connection, path: &Path, mode: &str) -> Result<(), StoreError> {
    let failed = |source| StoreError::sqlite("open the database", path.to_owned(), source);
    let wait = |time| connection.busy_timeout(time).map_err(failed);
    wait(Duration::ZERO)?;
    let sql = format!("PRAGMA journal_mode = {mode}");
    let set = connection.query_row(&sql, [], |_row| Ok(()));
    wait(BUSY_TIMEOUT)?;
    match set {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
        set => set.map_err(failed),
    }
}

/// Writes the schema, unless another process was quicker.
fn initialise(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::sqlite("initialise the database", path.to_owned(), source);
    tune(connection, path)?;
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate);
    let transaction = transaction.map_err(failed)?;
    if is_ours(connection, path)? {
        return Ok(());
    }
    let header =
        format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};");
    transaction.execute_batch(SCHEMA).map_err(failed)?;
    transaction.execute_batch(&header).map_err(failed)?;
    transaction.commit().map_err(failed)
}

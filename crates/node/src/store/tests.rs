mod allocation;
mod cost;
mod damage;
mod journal;

use std::{
    collections::BTreeSet,
    fs::DirBuilder,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::*;
use riklet_core::model::{Execution, Exposure, Function, Limits, Protocol, Slot, Workload};

/// A directory of one test, removed at its end.
pub(super) struct Dir(pub(super) PathBuf);

impl Dir {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("riklet-store-{}-{number}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    pub(super) fn files(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Returns the database's bytes.
    #[expect(clippy::disallowed_methods, reason = "a test looks at what the store left")]
    pub(super) fn bytes(&self) -> Vec<u8> {
        std::fs::read(file::path(&self.0)).unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "a test writes what the store must not accept")]
    fn write(&self, bytes: &[u8]) {
        std::fs::write(file::path(&self.0), bytes).unwrap();
    }

    pub(super) fn sql(&self, sql: &str) {
        Connection::open(file::path(&self.0)).unwrap().execute_batch(sql).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub(super) fn name(text: &str) -> InstanceName {
    text.parse().unwrap()
}

/// Returns a function that exposes `tcp|udp [ADDRESS:]PORTS`, each to the same ports.
pub(super) fn function(text: &str, exposures: &[&str]) -> Workload {
    let exposures = exposures.iter().map(|text| {
        let (protocol, rest) = text.split_once(' ').unwrap();
        let (address, ports) = match rest.split_once(':') {
            Some((address, ports)) => (Some(address.parse().unwrap()), ports),
            None => (None, rest),
        };
        let ports = ports.parse().unwrap();
        Exposure::new(Protocol::from_name(protocol).unwrap(), address, ports, ports).unwrap()
    });
    let exposures = exposures.collect();
    let (name, execution) = (name(text), Execution::default());
    Workload::Function(Function {
        name,
        execution,
        exposures,
        egress: None,
        limits: Limits::default(),
    })
}

pub(super) const CAPACITY: u32 = 16_384;

/// Sets the phase of a record as it is now.
fn set_phase(tx: &Tx<'_>, text: &str, phase: Phase) -> Option<Record> {
    tx.set_phase(&tx.get(&name(text)).unwrap()?, phase).unwrap()
}

/// Removes a record as it is now. Returns whether there was one.
fn remove(tx: &Tx<'_>, text: &str) -> bool {
    tx.get(&name(text)).unwrap().is_some_and(|record| tx.remove(&record).unwrap())
}

#[test]
fn a_committed_record_persists() {
    let dir = Dir::new();
    let hello = function("hello", &["tcp 8080", "udp 192.0.2.1:53"]);
    let mut store = Store::open(&dir.0).unwrap();
    let tx = store.transaction().unwrap();
    let record = tx.put(&hello, CAPACITY).unwrap();
    assert_eq!(tx.get(&name("hello")).unwrap(), Some(record.clone()));
    tx.commit().unwrap();
    let tx = store.transaction().unwrap();
    tx.put(&function("lost", &[]), CAPACITY).unwrap();
    assert!(remove(&tx, "hello"));
    drop(tx);
    drop(store);

    let store = Store::open_existing(&dir.0).unwrap().unwrap();
    let generation = record.generation;
    let expected =
        Record { workload: hello, slot: Slot::new(0), phase: Phase::Pending, generation };
    assert_eq!(record, expected);
    assert_eq!(store.all().unwrap().readable, [record]);
    assert_eq!(store.count().unwrap(), 1);
}

#[test]
fn only_open_creates_files_and_only_for_their_owner() {
    let dir = Dir::new();
    assert!(Store::open_existing(&dir.0).unwrap().is_none());
    assert!(Store::set_aside(&dir.0).unwrap().is_none());
    assert!(Lock::shared_within(&dir.0, LOCK_TIMEOUT).unwrap().is_none());
    assert_eq!(dir.files(), BTreeSet::new());
    // An empty file, as a process leaves it that ends between creating the file and writing to it.
    dir.write(b"");
    assert!(Store::open_existing(&dir.0).unwrap().is_none());
    assert_eq!(dir.bytes(), b"");

    let inner = dir.0.join("a/b");
    let mut store = Store::open(&inner).unwrap();
    let tx = store.transaction().unwrap();
    tx.put(&function("a", &[]), CAPACITY).unwrap();
    tx.commit().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    let database = file::path(&inner);
    assert_eq!((mode(&database), mode(&database.with_extension("db-journal"))), (0o600, 0o600));
}

#[test]
fn a_name_keeps_its_slot_and_its_definition_is_replaced() {
    let mut store = Store::in_memory().unwrap();
    let tx = store.transaction().unwrap();
    tx.put(&function("a", &["tcp 1-3"]), CAPACITY).unwrap();
    tx.put(&function("b", &[]), CAPACITY).unwrap();
    set_phase(&tx, "a", Phase::Up).unwrap();
    let changed = tx.put(&function("a", &["tcp 3-4"]), CAPACITY).unwrap();
    assert_eq!((changed.slot, changed.phase), (Slot::new(0), Phase::Pending));
    tx.put(&function("b", &["tcp 1-2"]), CAPACITY).unwrap();
    assert_eq!(tx.get(&name("a")).unwrap(), Some(changed));
}

#[test]
fn a_slot_is_freed_only_when_its_record_is_removed() {
    let mut store = Store::in_memory().unwrap();
    let tx = store.transaction().unwrap();
    for text in ["a", "b", "c"] {
        tx.put(&function(text, &[]), 3).unwrap();
        set_phase(&tx, text, Phase::Up).unwrap();
    }
    tx.put(&function("a", &["tcp 80"]), 3).unwrap();
    set_phase(&tx, "a", Phase::Removing).unwrap();
    let full = tx.put(&function("d", &[]), 3).unwrap_err();
    assert!(matches!(full, StoreError::PoolExhausted { capacity: 3, .. }), "{full:?}");
    assert_eq!(full.to_string(), "no free slot for d: the pool has 3, and all are taken");
    assert!(tx.put(&function("b", &["tcp 80"]), 3).is_err());
    let unsettled: Vec<_> = tx.unsettled().unwrap().readable.into_iter().map(|r| r.phase).collect();
    assert_eq!(unsettled, [Phase::Removing]);

    assert!(remove(&tx, "a"));
    assert!(!remove(&tx, "a"));
    assert_eq!(tx.put(&function("d", &["tcp 80"]), 3).unwrap().slot, Slot::new(0));
    assert_eq!(set_phase(&tx, "a", Phase::Up), None);
}

#[test]
fn ports_clash_as_sockets_do() {
    for (held, asked, clash) in [
        ("tcp 80", "tcp 80", true),
        ("tcp 80", "udp 80", false),
        ("tcp 80", "tcp 81", false),
        ("tcp 80", "tcp 192.0.2.1:80", true),
        ("tcp 192.0.2.1:80", "tcp 80", true),
        ("tcp 192.0.2.1:80", "tcp 192.0.2.1:80", true),
        ("tcp 192.0.2.1:80", "tcp 192.0.2.2:80", false),
        ("tcp 80-90", "tcp 90-99", true),
        ("tcp 80-90", "tcp 91-99", false),
        ("tcp 80-90", "tcp 192.0.2.1:85", true),
        ("sctp 85", "sctp 80-90", true),
    ] {
        let mut store = Store::in_memory().unwrap();
        let tx = store.transaction().unwrap();
        tx.put(&function("holder", &["udp 1", held]), CAPACITY).unwrap();
        let put = tx.put(&function("asker", &["udp 2", asked]), CAPACITY);
        assert_eq!(put.is_err(), clash, "{held} and {asked}: {put:?}");
        if let Err(error) = put {
            let StoreError::PortTaken { holder, held: by, .. } = &error else {
                panic!("{error:?}")
            };
            let expected = function("x", &[held]).exposures()[0];
            assert_eq!((holder.as_str(), by), ("holder", &expected));
            assert_eq!(tx.count().unwrap(), 1, "nothing is recorded of a refused workload");
        }
    }
    let mut store = Store::in_memory().unwrap();
    let tx = store.transaction().unwrap();
    tx.put(&function("web", &["tcp 8000-8010"]), CAPACITY).unwrap();
    let error = tx.put(&function("api", &["tcp 192.0.2.1:8004"]), CAPACITY).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot expose tcp 192.0.2.1:8004 -> 8004 for api: web has tcp 8000-8010 -> 8000-8010"
    );
    assert_eq!(error.hint().unwrap(), "choose another port, or run `riklet-sdn down web` first");
}

#[test]
fn a_record_can_be_put_at_a_given_slot() {
    let mut store = Store::in_memory().unwrap();
    let tx = store.transaction().unwrap();
    tx.put_at(&function("c", &[]), Slot::new(2)).unwrap();
    assert_eq!(tx.put_at(&function("c", &[]), Slot::new(2)).unwrap().slot, Slot::new(2));
    let taken = tx.put_at(&function("d", &[]), Slot::new(2)).unwrap_err();
    assert_eq!(taken.to_string(), "cannot record d in slot 2: c is in slot 2");
    let elsewhere = tx.put_at(&function("c", &[]), Slot::new(0)).unwrap_err();
    assert_eq!(elsewhere.to_string(), "cannot record c in slot 0: c is in slot 2");
    let slots = ["a", "b", "d"].map(|text| tx.put(&function(text, &[]), CAPACITY).unwrap().slot);
    assert_eq!(slots, [0, 1, 3].map(Slot::new));
    tx.put_at(&function("last", &[]), Slot::new(u16::MAX)).unwrap();
    assert_eq!(tx.put(&function("e", &[]), 65_536).unwrap().slot, Slot::new(4));
}

#[test]
fn settings_and_sysctls_persist() {
    let mut store = Store::in_memory().unwrap();
    let tx = store.transaction().unwrap();
    assert_eq!(tx.setting(Setting::Pool).unwrap(), None);
    tx.set_setting(Setting::Pool, "10.231.0.0/16").unwrap();
    tx.set_setting(Setting::Pool, "10.232.0.0/16").unwrap();
    tx.record_sysctl("net.ipv4.ip_forward", "0").unwrap();
    tx.record_sysctl("net.ipv4.ip_forward", "1").unwrap();
    tx.commit().unwrap();
    assert_eq!(store.setting(Setting::Pool).unwrap().as_deref(), Some("10.232.0.0/16"));
    assert_eq!(store.setting(Setting::Backend).unwrap(), None);
    let sysctls = [("net.ipv4.ip_forward".to_owned(), "0".to_owned())];
    assert_eq!(store.recorded_sysctls().unwrap(), BTreeMap::from(sysctls));
    let tx = store.transaction().unwrap();
    tx.clear_settings().unwrap();
    tx.forget_sysctls().unwrap();
    assert_eq!(tx.setting(Setting::Pool).unwrap(), None);
    assert!(tx.recorded_sysctls().unwrap().is_empty());
}

#[test]
fn the_nearest_name_is_found() {
    let mut store = Store::in_memory().unwrap();
    let tx = store.transaction().unwrap();
    for text in ["hello", "help", "world"] {
        tx.put(&function(text, &[]), CAPACITY).unwrap();
    }
    assert_eq!(tx.nearest("helo").unwrap(), Some(name("hello")));
    assert_eq!(tx.nearest("elsewhere").unwrap(), None);
}

#[test]
fn concurrent_threads_get_distinct_slots() {
    let dir = Dir::new();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let dir = &dir.0;
            scope.spawn(move || {
                for number in 0..10 {
                    let mut store = Store::open(dir).unwrap();
                    let tx = store.transaction().unwrap();
                    let name = format!("f{thread}-{number}");
                    tx.put(&function(&name, &[]), CAPACITY).unwrap();
                    tx.commit().unwrap();
                }
            });
        }
    });
    let store = Store::open(&dir.0).unwrap();
    let slots: BTreeSet<u16> =
        store.all().unwrap().readable.iter().map(|r| r.slot.number()).collect();
    assert_eq!(slots, (0..80).collect());
}

#[test]
fn a_reader_never_sees_a_half_created_database() {
    for _ in 0..100 {
        let dir = Dir::new();
        std::thread::scope(|scope| {
            scope.spawn(|| Store::open(&dir.0).unwrap());
            for _ in 0..2 {
                scope.spawn(|| while Store::open_existing(&dir.0).unwrap().is_none() {});
            }
        });
    }
}

#[test]
fn a_database_that_is_removed_and_created_all_the_time_can_be_read() {
    let dir = Dir::new();
    let use_and_purge = || {
        let lock = Lock::exclusive(&dir.0).unwrap();
        drop(Store::open(&dir.0).unwrap());
        drop(lock);
        remove_blank(&dir.0).unwrap()
    };
    std::thread::scope(|scope| {
        let purges = scope.spawn(|| (0..300).filter(|_| use_and_purge()).count());
        while !purges.is_finished() {
            if let Some(store) = Store::open_existing(&dir.0).unwrap() {
                assert_eq!(store.count().unwrap(), 0);
            }
        }
        assert!(purges.join().unwrap() > 0, "it was removed");
    });
}

#[test]
fn a_database_that_is_open_is_not_removed() {
    let dir = Dir::new();
    let store = Store::open(&dir.0).unwrap();
    assert!(!remove_blank(&dir.0).unwrap());
    assert!(store.is_current());
    drop(store);
    assert!(remove_blank(&dir.0).unwrap());
    assert_eq!(dir.files(), ["lock".to_owned()].into());
}

#[test]
fn an_exclusive_lock_excludes_others_until_it_is_dropped() {
    let dir = Dir::new();
    let inside = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let lock = Lock::exclusive(&dir.0).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(lock);
                }
            });
        }
    });
    let _one = Lock::shared_within(&dir.0, LOCK_TIMEOUT).unwrap().unwrap();
    let _other = Lock::shared_within(&dir.0, LOCK_TIMEOUT).unwrap().unwrap();
}

#[test]
fn a_wait_for_a_lock_ends_at_its_limit() {
    let limit = Duration::from_millis(30);
    let dir = Dir::new();
    let held = Lock::exclusive(&dir.0).unwrap();
    for _ in 0..3 {
        let refused = Lock::exclusive_within(&dir.0, limit).unwrap_err();
        assert!(matches!(refused, StoreError::Busy { holder: None, .. }), "{refused}");
        let refused = Lock::shared_within(&dir.0, limit).unwrap_err();
        assert!(matches!(refused, StoreError::Busy { .. }), "{refused}");
    }
    // Those who gave up hold nothing afterwards, and who still waits gets the lock.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| Lock::exclusive(&dir.0).map(drop));
        let other = scope.spawn(|| Lock::exclusive(&dir.0).map(drop));
        drop(held);
        waiting.join().unwrap().unwrap();
        other.join().unwrap().unwrap();
    });
    drop(Lock::exclusive_within(&dir.0, limit).unwrap());
}

#[test]
fn a_database_that_nobody_else_has_locked_is_opened_anew() {
    let dir = Dir::new();
    let (mut one, mut other) = (Store::open(&dir.0).unwrap(), Store::open(&dir.0).unwrap());
    other.connection.busy_timeout(Duration::from_millis(1)).unwrap();
    let transaction = one.transaction().unwrap();
    let refused = other.transaction().unwrap_err();
    assert!(matches!(refused, StoreError::Busy { holder: None, .. }), "{refused}");
    drop(transaction);
    // Any of those of this process may keep the lock.
    assert!(one.is_stuck() && other.is_stuck());

    // One that only reads finds it as well.
    let (one, other) = (Store::open(&dir.0).unwrap(), Store::open(&dir.0).unwrap());
    assert!(!one.is_stuck() && !other.is_stuck());
    other.connection.busy_timeout(Duration::from_millis(1)).unwrap();
    one.connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let refused = other.setting(Setting::Pool).unwrap_err();
    assert!(matches!(refused, StoreError::Busy { holder: None, .. }), "{refused}");
    assert!(one.is_stuck() && other.is_stuck());
}

#[test]
fn a_run_is_prepared_by_one_process_until_it_begins() {
    let mut store = Store::in_memory().unwrap();
    let name: InstanceName = "hello".parse().unwrap();
    let (first, second) = ("10@100".parse().unwrap(), "11@101".parse().unwrap());
    let tx = store.transaction().unwrap();
    let preparing = || tx.run(&name).unwrap().map(|run| (run.preparing, run.supervisor));
    tx.prepare_run(&name, "qemu", first, 5_000).unwrap();
    assert_eq!(preparing(), Some((true, first)));
    tx.begin_run(&name, "qemu", first, 6_000).unwrap();
    assert_eq!(preparing(), Some((false, first)));
    // Who takes it over obtains no images, and is not ended by a stop.
    tx.prepare_run(&name, "qemu", first, 7_000).unwrap();
    assert!(tx.hand_over_run(&name, first, second).unwrap());
    assert_eq!(preparing(), Some((false, second)));
}

#[test]
fn a_run_outlives_its_record() {
    let mut store = Store::in_memory().unwrap();
    let (name, other): (InstanceName, InstanceName) =
        ("hello".parse().unwrap(), "other".parse().unwrap());
    let (supervisor, process) = ("10@100".parse().unwrap(), "11@101".parse().unwrap());
    let tx = store.transaction().unwrap();
    tx.begin_run(&name, "qemu", supervisor, 5_000).unwrap();
    tx.begin_run(&other, "builtin", supervisor, 5_001).unwrap();
    tx.set_run_process(&name, supervisor, process).unwrap();
    tx.set_run_ready(&name, supervisor, Some(750)).unwrap();
    tx.set_run_stopping(&name, supervisor).unwrap();
    let end = |at, reason: &str, failed| End { at, reason: reason.into(), failed };
    tx.end_run(&other, supervisor, &end(6_000, "powered off", true)).unwrap();
    tx.end_run(&other, supervisor, &end(7_000, "lost", false)).unwrap();
    // A process that is no longer the supervisor changes nothing.
    tx.set_run_stopping(&other, supervisor).unwrap();
    tx.set_run_process(&name, process, supervisor).unwrap();
    tx.set_run_ready(&name, process, Some(1)).unwrap();
    tx.end_run(&name, process, &end(8_000, "stopped", false)).unwrap();
    tx.commit().unwrap();

    let run = Run {
        name: name.clone(),
        vmm: "qemu".into(),
        supervisor,
        process: Some(process),
        started: 5_000,
        ready: Some(750),
        preparing: false,
        stopping: true,
        end: None,
    };
    assert_eq!(store.run(&name).unwrap().as_ref(), Some(&run));
    assert_eq!(store.runs_under_way().unwrap(), [run]);
    assert!(store.supervises(supervisor).unwrap() && !store.supervises(process).unwrap());
    let ended = store.run(&other).unwrap().unwrap();
    assert_eq!(ended.end, Some(end(6_000, "powered off", true)));
    assert_eq!((ended.process, ended.stopping), (None, false));
    assert_eq!(store.runs().unwrap().len(), 2);

    let tx = store.transaction().unwrap();
    tx.forget_run(&name).unwrap();
    tx.begin_run(&other, "qemu", process, 8_000).unwrap();
    tx.commit().unwrap();
    assert_eq!(store.run(&other).unwrap().unwrap().end, None, "a new run has not ended");
}

#[test]
fn a_part_that_ends_the_transaction_fails_for_its_own_reason() {
    let mut store = Store::in_memory().unwrap();
    let tx = store.transaction().unwrap();
    let outer = tx.attempt(|| {
        let part = || {
            // SQLite does this by itself after an error of the file system.
            tx.execute("end", "ROLLBACK", [])?;
            Err::<(), _>(StoreError::Gone { path: "/full".into() })
        };
        let refused = tx.attempt(part);
        assert!(matches!(refused, Err(StoreError::Gone { .. })), "{refused:?}");
        refused
    });
    assert!(matches!(outer, Err(StoreError::Gone { .. })), "{outer:?}");
    assert!(tx.is_over());
    drop(tx);
    let tx = store.transaction().unwrap();
    assert!(!tx.is_over(), "the next one begins anew");
}

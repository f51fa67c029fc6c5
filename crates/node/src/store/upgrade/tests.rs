use std::path::PathBuf;

use super::*;
use crate::store::{
    End, Phase, ReservedSlot, Setting, Store, file,
    tests::{CAPACITY, Dir, function, name},
};
use riklet_core::model::Slot;

const FIXTURES: [(i64, &str); 3] = [
    (1, include_str!("format-1.sql")),
    (2, include_str!("format-2.sql")),
    (3, include_str!("format-3.sql")),
];

/// Returns a database of an older format, as a program of that format left it.
fn older(fixture: &str) -> Dir {
    let dir = Dir::new();
    dir.sql(fixture);
    dir
}

/// Returns the contents of a database as text.
fn dump(path: PathBuf) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let mut tables =
        connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").unwrap();
    let tables = tables.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?))).unwrap();
    let tables: Vec<(String, Option<String>)> = tables.map(Result::unwrap).collect();
    let mut dump: Vec<_> = tables.iter().map(|table| format!("{table:?}")).collect();
    for (table, sql) in tables {
        if !sql.is_some_and(|sql| sql.starts_with("CREATE TABLE")) {
            continue;
        }
        let mut rows = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = rows.column_count();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values = (0..columns).map(|index| format!("{:?}", row.get_ref(index).unwrap()));
            dump.push(format!("{table}: {}", values.collect::<Vec<_>>().join(", ")));
        }
    }
    dump
}

/// Asserts that all records exist, and that the database equals a new one.
fn assert_upgraded(dir: &Dir, format: i64) {
    let mut store = Store::open(&dir.0).unwrap();
    store.verify().unwrap();

    let records = store.all().unwrap().readable;
    let found = records.iter().map(|r| (r.workload.name().as_str(), r.slot.number(), r.phase));
    let expected = [("api", 2, Phase::Pending), ("old", 3, Phase::Removing), ("web", 0, Phase::Up)];
    assert_eq!(found.collect::<Vec<_>>(), expected);
    let exposed = |text: &str, exposures| function(text, exposures).exposures().to_vec();
    assert_eq!(records[0].workload.exposures(), exposed("api", &["tcp 9000-9001"]));
    assert_eq!(store.setting(Setting::Pool).unwrap().as_deref(), Some("10.231.0.0/16"));
    assert_eq!(store.recorded_sysctls().unwrap()["net.ipv4.ip_forward"], "0");
    let runs = store.runs().unwrap();
    assert_eq!(store.runs_under_way().unwrap(), [runs[1].clone()]);
    let end = End { at: 1_795_715_354_400, reason: "stopped".into(), failed: false };
    assert_eq!((runs[0].name.as_str(), &runs[0].end), ("gone", &Some(end)));
    let process = Some("32149@288745".parse().unwrap());
    assert_eq!((runs[1].name.as_str(), runs[1].process, runs[1].ready), ("web", process, Some(84)));
    let (reserved, owners): (&[_], &[_]) = match format {
        1 => (&[], &[]),
        _ => (
            &[(ReservedSlot::Creating, 6), (ReservedSlot::Ready, 4), (ReservedSlot::Draining, 5)],
            &[(name("web"), "web.json".to_owned())],
        ),
    };
    for &(state, slot) in reserved {
        assert_eq!(store.reserved(state).unwrap(), [Slot::new(slot)]);
    }
    assert_eq!(store.manifests().unwrap(), owners.iter().cloned().collect());

    let tx = store.transaction().unwrap();
    for taken in ["tcp 8080", "tcp 192.0.2.7:8080", "udp 192.0.2.1:53", "udp 53", "tcp 9001"] {
        assert!(tx.put(&function("asker", &[taken]), CAPACITY).is_err(), "{taken}");
    }
    let next = tx.put(&function("next", &["udp 192.0.2.2:53"]), CAPACITY).unwrap();
    assert_eq!(next.slot, Slot::new(if format == 1 { 1 } else { 4 }));
    for record in &records {
        assert!(tx.remove(record).unwrap());
    }
    tx.put(&function("after", &["tcp 8080", "udp 192.0.2.1:53"]), CAPACITY).unwrap();
}

#[test]
fn an_older_format_is_upgraded_when_it_is_opened() {
    for (format, fixture) in FIXTURES {
        assert_upgraded(&older(fixture), format);
        let looked_at = older(fixture);
        assert_eq!(Store::open_existing(&looked_at.0).unwrap().unwrap().count().unwrap(), 3);
        assert_upgraded(&looked_at, format);
    }
}

#[test]
fn a_record_of_an_address_that_is_no_longer_published_is_read_and_removed() {
    for (_, fixture) in FIXTURES {
        let local = fixture.replace("192.0.2.1", "127.0.0.53").replace("3221225985", "2130706485");
        assert_ne!(local, fixture);
        let dir = older(&local);
        let mut store = Store::open(&dir.0).unwrap();
        store.verify().unwrap();
        assert_eq!(store.all().unwrap().unreadable, []);
        let web = store.get(&name("web")).unwrap().unwrap();
        let address = web.workload.exposures()[1].host_address();
        assert_eq!(address, Some("127.0.0.53".parse().unwrap()));
        let tx = store.transaction().unwrap();
        assert!(tx.put(&function("asker", &["udp 53"]), CAPACITY).is_err());
        assert!(tx.remove(&web).unwrap());
        tx.put(&function("after", &["udp 53"]), CAPACITY).unwrap();
    }
}

#[test]
fn of_many_concurrent_openers_one_upgrades() {
    for (format, fixture) in FIXTURES {
        let dir = older(fixture);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(Store::open(&dir.0).unwrap().count().unwrap(), 3));
            }
        });
        assert_upgraded(&dir, format);
    }
}

/// Fails the upgrade after this number of steps of SQLite, and returns the directory as a process killed at that point
/// would have left it; `None` if the upgrade was complete by then.
fn stop_after(dir: &Dir, steps: i32) -> Option<Dir> {
    let (path, left) = (file::path(&dir.0), Dir::new());
    let mut connection = Connection::open(&path).unwrap();
    let (from, to) = (dir.0.clone(), left.0.clone());
    let stop = move || {
        for entry in std::fs::read_dir(&from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        true
    };
    connection.progress_handler(steps, Some(stop)).unwrap();
    upgrade(&connection, &path).is_err().then_some(left)
}

#[test]
fn an_interrupted_upgrade_leaves_the_older_format() {
    for (format, fixture) in FIXTURES {
        let mut stopped = 0;
        let mut steps = 1;
        loop {
            let dir = older(fixture);
            let before = dump(file::path(&dir.0));
            let Some(killed) = stop_after(&dir, steps) else { break };
            stopped += 1;
            assert_eq!(dump(file::path(&dir.0)), before, "refused after {steps} steps");
            assert_upgraded(&dir, format);
            assert_eq!(dump(file::path(&killed.0)), before, "killed after {steps} steps");
            assert_upgraded(&killed, format);
            steps += steps / 2 + 1;
        }
        assert!(stopped > 8, "{stopped}");
    }
}

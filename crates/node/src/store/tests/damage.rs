//! Databases that are damaged, or that this version must not change.

use super::*;

#[test]
fn refused_databases_are_not_changed() {
    let refused = |prepare: &dyn Fn(&Dir), expected: &str| {
        let dir = Dir::new();
        Store::open(&dir.0).unwrap();
        prepare(&dir);
        let (bytes, files) = (dir.bytes(), dir.files());
        for error in [Store::open(&dir.0).unwrap_err(), Store::open_existing(&dir.0).unwrap_err()] {
            let path = file::path(&dir.0).display().to_string();
            assert_eq!(error.to_string().replace(&path, "DB"), expected);
            assert!(error.hint().is_some());
        }
        assert_eq!((dir.bytes(), dir.files()), (bytes, files));
    };
    refused(
        &|dir| dir.sql("PRAGMA user_version = 7"),
        "DB has format 7; this version knows formats up to 4",
    );
    refused(&|dir| dir.sql("PRAGMA application_id = 7"), "DB is a database of another program");
    refused(
        &|dir| {
            dir.write(b"");
            dir.sql("CREATE TABLE theirs (x)");
        },
        "DB is a database of another program",
    );
    refused(&|dir| dir.write(&[b'x'; 8192]), "cannot open the database: DB is corrupt");
    refused(&|dir| dir.write(b"short"), "cannot open the database: DB is corrupt");
}

/// Returns a store with three records that was damaged by this statement.
fn damaged(dir: &Dir, damage: &str) -> Store {
    let mut store = Store::open(&dir.0).unwrap();
    let tx = store.transaction().unwrap();
    for (text, exposed) in [("a", "tcp 1"), ("hello", "tcp 2"), ("z", "tcp 3")] {
        tx.put(&function(text, &[exposed]), CAPACITY).unwrap();
    }
    tx.commit().unwrap();
    dir.sql(damage);
    store
}

#[test]
fn an_unreadable_record_is_listed_beside_the_readable_ones() {
    for damage in [
        "UPDATE slots SET definition = '{}' WHERE workload = 'hello'",
        "UPDATE slots SET definition = CAST(x'ff' AS TEXT) WHERE workload = 'hello'",
        "PRAGMA ignore_check_constraints = 1; UPDATE slots SET state = 9 WHERE workload = 'hello'",
    ] {
        let dir = Dir::new();
        let mut store = damaged(&dir, damage);
        let Records { readable, unreadable } = store.all().unwrap();
        let names: Vec<_> = readable.iter().map(|record| record.workload.name().as_str()).collect();
        assert_eq!(names, ["a", "z"], "{damage}");
        let [hello] = &unreadable[..] else { panic!("{unreadable:?}") };
        assert_eq!((hello.record.name.as_str(), hello.slot), ("hello", Slot::new(1)));
        let unsettled = store.unsettled().unwrap();
        assert_eq!((unsettled.readable.len(), unsettled.unreadable.len()), (2, 0), "{damage}");
        for error in [store.get(&name("hello")), store.holder(Slot::new(1))].map(Result::unwrap_err)
        {
            assert!(
                matches!(&error, StoreError::Unreadable(found) if **found == *hello),
                "{error:?}"
            );
            assert!(error.to_string().starts_with("the record of hello cannot be read: "));
            assert!(error.hint().unwrap().contains("repair --rebuild"));
        }

        let tx = store.transaction().unwrap();
        let leaving = tx.leave_unreadable(hello).unwrap().unwrap();
        // A record of which only the state was unreadable is readable by now.
        assert!(tx.unsettled().unwrap().names().any(|found| *found == hello.record.name));
        assert_eq!(tx.leave_unreadable(hello).unwrap(), None, "it was changed since");
        assert!(!tx.remove_unreadable(hello).unwrap());
        assert!(tx.remove_unreadable(&leaving).unwrap());
        assert_eq!(tx.put(&function("b", &["tcp 2"]), CAPACITY).unwrap().slot, Slot::new(1));
    }
}

#[test]
fn a_row_without_a_valid_name_or_slot_is_corruption() {
    for damage in [
        "UPDATE slots SET workload = 'not a name' WHERE slot = 1; UPDATE slots SET definition = ''",
        "PRAGMA ignore_check_constraints = 1; UPDATE slots SET slot = 70000 WHERE slot = 1",
    ] {
        let dir = Dir::new();
        let error = damaged(&dir, damage).all().unwrap_err();
        assert!(error.is_corrupt(), "{damage}: {error:?}");
        assert!(error.hint().unwrap().contains("repair --rebuild"));
    }
}

#[test]
fn a_corrupt_database_is_set_aside() {
    let dir = Dir::new();
    for number in 1..=2 {
        Store::open(&dir.0).unwrap();
        dir.write(&[b'x'; 8192]);
        let aside = Store::set_aside(&dir.0).unwrap().unwrap();
        assert_eq!(aside, dir.0.join(format!("riklet-sdn.db.corrupt-{number}")));
        assert!(aside.exists());
    }
    assert!(dir.files().iter().all(|file| file.contains(".corrupt-")), "{:?}", dir.files());
    assert_eq!(Store::open(&dir.0).unwrap().count().unwrap(), 0);
}

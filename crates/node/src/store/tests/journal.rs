//! The journal is bounded, and tells how much is missing.

use super::*;

fn announced(count: u64) -> Store {
    let mut store = Store::in_memory().unwrap();
    let tx = store.transaction().unwrap();
    for number in 1..=count {
        tx.announce(JournalKind::Up, Some(&name("web")), &number.to_string()).unwrap();
    }
    tx.commit().unwrap();
    store
}

#[test]
fn changes_come_in_order_and_once() {
    let store = announced(3);
    assert_eq!(store.last_change().unwrap(), 3);
    let journal = store.changes_after(1).unwrap();
    let texts: Vec<_> = journal.entries.iter().map(|entry| entry.text.as_str()).collect();
    assert_eq!((texts, journal.missed, journal.last), (vec!["2", "3"], Some(0), 3));
    assert_eq!(
        store.changes_after(3).unwrap(),
        Journal { missed: Some(0), last: 3, ..Journal::default() }
    );
}

#[test]
fn the_journal_is_bounded_and_tells_what_is_missing() {
    let store = announced(12_345);
    let journal = store.changes_after(300).unwrap();
    assert_eq!(journal.last, 12_345);
    let kept = u64::try_from(journal.entries.len()).unwrap();
    assert!((1000..1100).contains(&kept), "{kept}");
    assert_eq!(journal.missed, Some(12_345 - 300 - kept));
    // Other records have taken the place of those that were read before.
    let journal = announced(5).changes_after(300).unwrap();
    assert_eq!((journal.missed, journal.last), (None, 5));
}

#[test]
fn a_run_is_announced_from_its_beginning_to_its_end() {
    let mut store = Store::in_memory().unwrap();
    let (supervisor, other) = ("10@100".parse().unwrap(), "11@101".parse().unwrap());
    let tx = store.transaction().unwrap();
    let (web, end) = (name("web"), End::new(9, "stopped".to_owned(), false));
    tx.begin_run(&web, "qemu", supervisor, 5).unwrap();
    tx.set_run_ready(&web, other, Some(7)).unwrap();
    tx.set_run_ready(&web, supervisor, Some(7)).unwrap();
    for _ in 0..2 {
        tx.set_run_stopping(&web, supervisor).unwrap();
    }
    for _ in 0..2 {
        tx.end_run(&web, supervisor, &end).unwrap();
    }
    tx.begin_run(&web, "qemu", supervisor, 10).unwrap();
    tx.end_lost_run(&web, supervisor, &end).unwrap();
    tx.commit().unwrap();
    let entries = store.changes_after(0).unwrap().entries.into_iter();
    let said: Vec<_> = entries.map(|e| format!("{}: {}", e.kind.as_str(), e.text)).collect();
    let began = "started: run by qemu, supervisor process 10";
    assert_eq!(
        said,
        [
            began,
            "ready: ready after 7 ms",
            "stopping: asked to stop",
            "ended: stopped",
            began,
            "lost: stopped"
        ]
    );
}

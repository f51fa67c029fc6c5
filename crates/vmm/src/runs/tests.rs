use super::*;

/// Returns a store with `count` functions, each with a run that this process supervises.
fn with_runs(count: usize) -> Store {
    let mut store = Store::in_memory().unwrap();
    let ours = ProcessId::current().unwrap();
    let tx = store.transaction().unwrap();
    for number in 0..count {
        let name = format!("r{number}").parse().unwrap();
        tx.begin_run(&name, "builtin", ours, 5_000).unwrap();
    }
    tx.commit().unwrap();
    store
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the directory is the test's own")]
fn forgetting_ended_runs_keeps_a_restarted_run() {
    let state_dir = std::env::temp_dir().join(format!("riklet-forget-{}", std::process::id()));
    let (name, mut store) = ("r0".parse().unwrap(), with_runs(1));
    let files = directory(&state_dir, &name);
    std::fs::create_dir_all(&files).unwrap();
    forget_if_ended(&mut store, &state_dir, &name).unwrap();
    assert!(files.exists() && store.run(&name).unwrap().is_some());

    let tx = store.transaction().unwrap();
    let end = End::new(6_000, "stopped".into(), false);
    tx.end_run(&name, ProcessId::current().unwrap(), &end).unwrap();
    tx.commit().unwrap();
    forget_if_ended(&mut store, &state_dir, &name).unwrap();
    assert!(!files.exists() && store.run(&name).unwrap().is_none());
    std::fs::remove_dir_all(&state_dir).unwrap();
}

use super::*;

#[test]
#[expect(clippy::disallowed_methods, reason = "the directory is the test's own")]
fn forgetting_ended_runs_keeps_a_restarted_run() {
    let state_dir = std::env::temp_dir().join(format!("riklet-forget-{}", std::process::id()));
    let (name, mut store) = ("r0".parse().unwrap(), Store::in_memory().unwrap());
    let tx = store.transaction().unwrap();
    tx.begin_run(&name, "builtin", ProcessId::current().unwrap(), 5_000).unwrap();
    tx.commit().unwrap();
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

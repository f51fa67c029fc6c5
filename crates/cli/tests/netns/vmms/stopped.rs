//! A guest that is asked to stop by many at once.

use std::thread;

use super::*;

#[test]
fn many_who_wait_for_an_end_keep_nobody_else_waiting() {
    const MANY: usize = 300;
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let api = &daemon.clone_api();
    let hello = Hello::start(world);
    hello.program.ignore_power_button();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let ask = || api.ask("DELETE", "/v1/runs/hello?timeout=20", "").status;
        let threads: Vec<_> = (0..MANY).map(|_| scope.spawn(ask)).collect();
        wait_for("refusals", START_TIMEOUT, || {
            (threads.iter().filter(|thread| thread.is_finished()).count() > 100).then_some(())
        });
        // The others still wait, and this needs a thread as they do.
        let began = now();
        assert_eq!(daemon.get("/v1/runs")[0]["state"], "stopping");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        hello.program.order("exit 0");
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    });
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert!(count(429) > 100 && count(200) > 0, "{statuses:?}");
    assert_eq!(count(429) + count(200), MANY, "{statuses:?}");
}

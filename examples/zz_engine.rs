#![allow(warnings)]
use riklet_sdn::{
    daemon::{
        engine::{Engine, Options},
        events::Events,
    },
    definition::{self, Source},
    sdn::*,
};
use std::time::{Duration, Instant};
fn work(n: usize) -> riklet_sdn::Workload {
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"Function","name":"f{n}","spec":{{"function":{{"exposure":{{"port":{},"targetPort":3000}}}}}}}}"#,
        10000 + n
    );
    definition::parse(&[Source { name: "x".into(), text }]).unwrap().remove(0)
}
fn pct(v: &mut Vec<Duration>, p: usize) -> f64 {
    v.sort();
    v[(v.len() * p / 100).min(v.len() - 1)].as_secs_f64() * 1e3
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let warm: usize = a[1].parse().unwrap();
    let total: usize = a[2].parse().unwrap();
    if a.get(3).is_some() {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_writer(std::io::stderr)
            .init();
    }
    let dir = std::env::temp_dir().join(format!("zz-{}", std::process::id()));
    let config =
        Config { state_dir: dir.clone(), firewall: FirewallChoice::Nftables, ..Config::default() };
    let events = Events::default();
    let (engine, thread) = Engine::start(config.clone(), Options { warm }, events.clone()).unwrap();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let up = |n| {
            let e = engine.clone();
            async move {
                e.change(Request::Up(vec![work(n)], UpOptions::default())).await.unwrap().unwrap()
            }
        };
        let down = |n: usize| {
            let e = engine.clone();
            async move {
                e.change(Request::Down(Which::Named([format!("f{n}").parse().unwrap()].into())))
                    .await
                    .unwrap()
                    .unwrap()
            }
        };
        let ready = || async {
            loop {
                let s = engine.status().await.unwrap();
                if s.warm >= warm && s.condemned == 0 && s.preparing == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let small = |label: &'static str| {
            let ready = &ready;
            let up = &up;
            let down = &down;
            async move {
                let (mut u, mut d) = (vec![], vec![]);
                for round in 0..8 {
                    ready().await;
                    for i in 0..24 {
                        let t = Instant::now();
                        up(20000 + i).await;
                        u.push(t.elapsed());
                    }
                    ready().await;
                    for i in 0..24 {
                        let t = Instant::now();
                        down(20000 + i).await;
                        d.push(t.elapsed());
                    }
                }
                println!(
                    "{label}: up p50 {:.3} p99 {:.3}; down p50 {:.3} p99 {:.3} ms",
                    pct(&mut u, 50),
                    pct(&mut u, 99),
                    pct(&mut d, 50),
                    pct(&mut d, 99)
                );
            }
        };
        small("few").await;
        let t = Instant::now();
        let mut part = Instant::now();
        for batch in 0..total / 100 {
            let all: Vec<_> = (0..100).map(|i| up(batch * 100 + i)).collect();
            futures_util::future::join_all(all).await;
            if batch % 10 == 9 {
                println!("thousand {} took {:.3}", batch / 10, part.elapsed().as_secs_f64());
                part = Instant::now();
            }
        }
        println!("{total} up {:.3} s", t.elapsed().as_secs_f64());
        println!(
            "{}",
            std::fs::read_to_string("/proc/self/status")
                .unwrap()
                .lines()
                .filter(|l| l.starts_with("VmRSS") || l.starts_with("RssAnon"))
                .collect::<Vec<_>>()
                .join(" ")
        );
        small("many").await;
        let t = Instant::now();
        let d = engine.with(|n| n.check().unwrap()).await.unwrap();
        println!(
            "check {:.3} s empty {} {}",
            t.elapsed().as_secs_f64(),
            d.is_empty(),
            d.plan.steps.len()
        );
    });
    engine.stop();
    thread.join().unwrap();
    let t = Instant::now();
    let (engine, thread) = Engine::start(config.clone(), Options { warm }, events.clone()).unwrap();
    println!("restart {:.3} s", t.elapsed().as_secs_f64());
    rt.block_on(async {
        let t = Instant::now();
        engine.change(Request::Down(Which::All)).await.unwrap().unwrap();
        println!("all down answered {:.3}", t.elapsed().as_secs_f64());
        loop {
            let s = engine.status().await.unwrap();
            if s.condemned == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        println!("all gone {:.3}", t.elapsed().as_secs_f64());
    });
    for e in events
        .listen()
        .0
        .iter()
        .rev()
        .filter(|e| !["up", "down"].contains(&e.kind.as_str()))
        .take(10)
    {
        println!("{} {}", e.kind.as_str(), e.text.lines().take(3).collect::<Vec<_>>().join("|"));
    }
    engine.stop();
    thread.join().unwrap();
    std::fs::remove_dir_all(dir).ok();
}

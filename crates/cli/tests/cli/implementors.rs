//! The node in this process, the engine and the client of a daemon give the same answers: equal documents, equal
//! errors.

use std::{
    fmt::Write,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use riklet_api::{ApiError, Client, NodeApi, Notification, Topic};
use riklet_core::{
    definition::{self, Source},
    model::{InstanceName, Selector, Workload},
};
use riklet_daemon::{
    engine::{Engine, Options},
    events::Events,
    local::LocalNode,
};
use riklet_sdn::{Config, FirewallChoice, Node};
use serde::Serialize;
use serde_json::Value;

use crate::{
    daemon::Daemon,
    environment::{Environment, HELLO, TWO},
};

/// The time within which a daemon deletes TAPs of functions that are down.
const DEADLINE: Duration = Duration::from_secs(20);

const CONFLICT: &str = "
apiVersion: v1
kind: Function
name: other
spec: { function: { exposure: { port: 8080 } } }
";

fn workloads(text: &str) -> Vec<Workload> {
    definition::parse(&[Source { name: "test".into(), text: text.into() }]).unwrap()
}

fn name(text: &str) -> InstanceName {
    text.parse().unwrap()
}

/// The answers to every request to a node, in order.
struct Transcript<'a> {
    node: &'a mut dyn NodeApi,
    directory: PathBuf,
    text: String,
}

impl Transcript<'_> {
    fn add<T: Serialize>(
        &mut self,
        what: &str,
        call: impl FnOnce(&mut dyn NodeApi) -> Result<T, ApiError>,
    ) {
        let answer = match call(self.node) {
            Ok(document) => serde_json::to_value(document),
            Err(error) => serde_json::to_value(error.into_problem()),
        };
        let answer = without_deferred(answer.unwrap());
        let text = format!("{answer:#}").replace(self.directory.to_str().unwrap(), "$DIR");
        writeln!(self.text, "{what}: {text}").unwrap();
    }

    /// Waits until a daemon has deleted the TAPs of functions that are down.
    #[expect(clippy::disallowed_methods, reason = "a wait that ends")]
    fn await_drained(&mut self) {
        let start = Instant::now();
        while self.node.health().unwrap().is_some_and(|health| health.draining_slots > 0) {
            assert!(start.elapsed() < DEADLINE, "a TAP that is down is not deleted");
            thread::yield_now();
        }
    }

    fn record(mut self) -> String {
        let (hello, two, conflict) = (workloads(HELLO), workloads(TWO), workloads(CONFLICT));
        let named = |text: &str| Selector::Named([name(text)].into());
        self.add("list nothing", |node| node.list());
        self.add("inspect nothing", |node| node.inspect(&name("hello")));
        self.add("take down nothing", |node| node.down(&named("hello"), false));
        self.add("plan", |node| node.plan(&hello));
        self.add("up", |node| node.up(&hello, false));
        self.add("up again", |node| node.up(&hello, true));
        self.add("up two", |node| node.up(&two, false));
        self.add("a port that is taken", |node| node.up(&conflict, false));
        self.add("plan what is refused", |node| node.plan(&conflict));
        self.add("list", |node| node.list());
        self.add("inspect", |node| node.inspect(&name("resolver")));
        self.add("inspect a stranger", |node| node.inspect(&name("resolvr")));
        self.add("check", |node| node.check());
        self.add("repair", |node| node.repair());
        self.add("purge one of three", |node| node.down(&named("hello"), true));
        self.add("down", |node| node.down(&named("worker"), false));
        self.await_drained();
        self.add("purge", |node| node.down(&Selector::All, true));
        self.add("list what remains", |node| node.list());
        self.text
    }
}

/// Removes from the answer the steps that a daemon performs after it has answered.
fn without_deferred(mut answer: Value) -> Value {
    if let Some(steps) = answer.get_mut("steps").and_then(Value::as_array_mut) {
        steps.retain(|step| {
            let step = step.as_str().unwrap();
            !(step.starts_with("- flows: of guest")
                || step == "- interfaces of draining slots: deleted")
        });
    }
    answer
}

/// The implementor that answers.
#[derive(Debug, Clone, Copy)]
enum Implementor {
    Local,
    Engine,
    Client,
}

/// Records the answers of one implementor, in a namespace and a directory of its own.
fn recorded(implementor: Implementor) -> String {
    let play = move || {
        let environment = Environment::new();
        let state_dir = environment.path("state");
        let mut config = Config::in_directory(state_dir);
        config.firewall = FirewallChoice::Nftables;
        let record = |node: &mut dyn NodeApi| {
            let (directory, text) = (environment.path(""), String::new());
            Transcript { node, directory, text }.record()
        };
        match implementor {
            Implementor::Local => record(&mut LocalNode::new(Node::new(config))),
            Implementor::Engine => {
                let options = Options { ready_slots: 0, adopt: false };
                let (mut engine, thread) =
                    Engine::start(config, options, Events::default()).unwrap();
                let text = record(&mut engine);
                assert_daemon(&mut engine);
                engine.stop();
                thread.join().unwrap();
                text
            }
            Implementor::Client => {
                let daemon = Daemon::start(&environment, &[]);
                let mut client = Client::connect(&config.socket()).unwrap();
                let text = record(&mut client);
                assert_daemon(&mut client);
                daemon.end();
                text
            }
        }
    };
    thread::spawn(play).join().unwrap_or_else(|reason| std::panic::resume_unwind(reason))
}

/// Makes the requests that only a daemon answers, and those that it refuses.
fn assert_daemon(node: &mut dyn NodeApi) {
    assert_eq!(node.health().unwrap().unwrap().functions, 0);
    let events: Vec<_> =
        node.events(Topic::Changes, false, None).unwrap().map(Result::unwrap).collect();
    let Some(Notification::Event(first)) = events.first() else { panic!("{events:?}") };
    assert_eq!((&*first.kind, first.name.as_deref()), ("up", Some("hello")));
    // The next reader goes on after an event of which the first one kept the token.
    let later: Vec<_> = node
        .events(Topic::Changes, false, Some(first.token.parse().unwrap()))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(later, events[1..]);
    let missed = node.events(Topic::Changes, false, Some("1-1".parse().unwrap())).unwrap().next();
    assert_eq!(missed.unwrap().unwrap(), Notification::Missed(None), "another daemon's token");
    for refused in [node.rebuild(false), node.adopt()] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.status, 409);
        assert!(refused.detail.starts_with("a daemon is running and has the database open"));
    }
}

#[test]
fn each_implementor_gives_the_same_answers() {
    let local = recorded(Implementor::Local);
    assert!(local.contains("\"name\": \"other\""), "a refusal names its function: {local}");
    for other in [Implementor::Engine, Implementor::Client] {
        similar(&local, &recorded(other), other);
    }
}

#[track_caller]
fn similar(local: &str, other: &str, implementor: Implementor) {
    let differs = local.lines().zip(other.lines()).find(|(one, other)| one != other);
    assert!(local == other, "{implementor:?}, {differs:?}:\n{local}\n----\n{other}");
}

//! Scenarios, played with our program and without it.

use std::{
    cell::{Ref, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    panic, thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    comparable::comparable,
    functions::{self, Functions},
    world::{
        Firewall, INTERNET_FAR, Namespace, World,
        daemon::Daemon,
        probe::Probe,
        state::SystemState,
        traffic::{Server, tcp_server},
        wait_for,
    },
};

/// The time within which the daemon must repair what a neighbour broke.
const HEALED: Duration = Duration::from_secs(30);
/// The pause between two connections of a probe: it must not use up the client's ports.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest time without a connection, which includes the time in which the neighbour itself drops everything.
const LONGEST_GAP: Duration = Duration::from_secs(5);
/// The same if changes are not announced: the daemon looks every ten seconds.
const LONGEST_UNANNOUNCED_GAP: Duration = Duration::from_secs(15);
/// The most repairs in one scenario, in which a neighbour changes everything up to six times.
const MOST_REPAIRS: usize = 24;
/// The most pauses between them, of which the second is 0.4 s long.
const MOST_PAUSES: usize = 2;

/// The form in which our program takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Us {
    Nobody,
    /// The command line only.
    Commands,
    /// The command line and the daemon.
    Daemon,
}

/// The node of one of the two performances.
pub(crate) struct Stage {
    pub(crate) world: World,
    /// A server on the Internet that everyone must reach.
    pub(crate) internet: Server,
    us: Us,
    daemon: RefCell<Option<Daemon>>,
    functions: RefCell<Option<Functions>>,
    /// Clients of a function's port, and of the Internet from a function, beside the daemon.
    probes: RefCell<Vec<(&'static str, Probe)>>,
    states: RefCell<BTreeMap<&'static str, SystemState>>,
}

/// Plays the scenario with us and without us at the same time, and compares the hosts at each [`Stage::snapshot`] that
/// the scenario takes.
#[track_caller]
pub(crate) fn play(firewall: Firewall, us: Us, scenario: impl Fn(&Stage) + Sync) {
    let [with, without] = thread::scope(|scope| {
        let performance = |us| {
            let scenario = &scenario;
            let name = if us == Us::Nobody { "without us" } else { "with us" };
            let played =
                thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, move || {
                    let stage = Stage::new(firewall, us);
                    scenario(&stage);
                    stage.states.into_inner()
                });
            played.expect("a thread")
        };
        [us, Us::Nobody].map(performance).map(|played| match played.join() {
            Ok(states) => states,
            Err(reason) => panic::resume_unwind(reason),
        })
    });
    assert!(!with.is_empty() && with.keys().eq(without.keys()));
    for (when, with) in &with {
        let differences = without[when].differences(with);
        assert!(differences.is_empty(), "{when}, not as without us:\n{differences}");
    }
}

impl Stage {
    fn new(firewall: Firewall, us: Us) -> Self {
        let world = World::new(firewall).on_a_machine();
        // Addresses are usable at once, and two snapshots have the same ones (RFC 4862, 5.4).
        world.node.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
        let internet = tcp_server(&world.internet, (INTERNET_FAR, 443));
        let (daemon, functions, probes, states) = Default::default();
        Self { world, internet, us, daemon, functions, probes, states }
    }

    /// Reports whether our program takes part in this performance.
    pub(crate) fn takes_part(&self) -> bool {
        self.us != Us::Nobody
    }

    /// Reports whether our daemon takes part in this performance.
    pub(crate) fn has_daemon(&self) -> bool {
        self.us == Us::Daemon
    }

    /// Starts the daemon, if it takes part and does not run yet.
    #[track_caller]
    pub(crate) fn start_daemon(&self) {
        if self.us == Us::Daemon && self.daemon.borrow().is_none() {
            self.daemon.replace(Some(self.world.daemon(&[])));
        }
    }

    /// Starts the daemon, if it takes part, and two functions.
    #[track_caller]
    pub(crate) fn we_come(&self) {
        if !self.takes_part() {
            return;
        }
        self.start_daemon();
        let functions = Functions::start(&self.world);
        if self.us == Us::Daemon {
            let of = |name, from: &Namespace, to: SocketAddr| (name, Probe::every(PAUSE, from, to));
            self.probes.replace(vec![
                of("a function's port", &self.world.client, functions::ADDRESS.into()),
                of("function → Internet", &functions.web.guest.namespace, self.internet.address),
            ]);
        }
        self.functions.replace(Some(functions));
        self.assert_functions_work("when they are up");
    }

    /// Returns the functions, if there are any.
    pub(crate) fn functions(&self) -> Ref<'_, Option<Functions>> {
        self.functions.borrow()
    }

    /// Asserts that our functions work.
    #[track_caller]
    pub(crate) fn assert_functions_work(&self, when: &str) {
        if let Some(functions) = &*self.functions.borrow() {
            functions.assert_work(self, when);
        }
    }

    /// Recovers from an event that may have broken our network: the daemon notices, or `repair` runs. Then nothing
    /// drifts.
    #[track_caller]
    pub(crate) fn we_recover(&self) {
        let check = || self.world.riklet(&["check"], "");
        match self.us {
            Us::Nobody => {}
            Us::Commands => {
                self.world.riklet(&["repair"], "").success();
                check().success();
            }
            Us::Daemon => {
                wait_for("the daemon to heal", HEALED, || (check().code == Some(0)).then_some(()));
            }
        }
    }

    /// Asserts that nothing was lost for longer than the daemon needs to repair it, and that it did not repair the same
    /// again and again.
    #[track_caller]
    fn assert_daemon_kept_up(&self) {
        let longest = match self.world.firewall {
            Firewall::Nftables | Firewall::IptablesNft => LONGEST_GAP,
            Firewall::IptablesLegacy => LONGEST_UNANNOUNCED_GAP,
        };
        for (name, probe) in self.probes.take() {
            let heard = probe.look();
            assert!(heard.connected > 0 && heard.gap < longest, "{name}: {heard:?}");
        }
        if let Some(daemon) = &*self.daemon.borrow() {
            let events = daemon.events();
            let count = |kind: &str| events.matches(&format!("\"kind\":\"{kind}\"")).count();
            let bounded = count("repaired") <= MOST_REPAIRS && count("backing-off") <= MOST_PAUSES;
            assert!(bounded, "{events}");
        }
    }

    /// Removes everything of ours.
    #[track_caller]
    pub(crate) fn we_go(&self) {
        self.we_go_and_say();
    }

    /// Removes everything of ours, and returns what the program says about it.
    #[track_caller]
    pub(crate) fn we_go_and_say(&self) -> String {
        if self.us == Us::Nobody {
            return String::new();
        }
        self.assert_daemon_kept_up();
        self.functions.take();
        self.world.riklet(&["down", "--all"], "").success();
        if let Some(daemon) = self.daemon.take() {
            daemon.end(Signal::TERM);
        }
        let purge = self.world.riklet(&["down", "--all", "--purge"], "");
        assert_eq!(purge.code, Some(0), "{purge}");
        purge.stderr
    }

    /// Records the present state of the host.
    #[track_caller]
    pub(crate) fn snapshot(&self, when: &'static str) {
        let state = comparable(SystemState::take(&self.world.node));
        assert!(self.states.borrow_mut().insert(when, state).is_none(), "{when}: once");
    }
}

/// Makes one test per firewall from each scenario.
macro_rules! on_machines {
    ($name:ident, $us:expr, $scenario:ident, [$($test:ident: $firewall:ident),+ $(,)?]) => {
        mod $name {
            use super::{Us, $scenario};
            use crate::{stage::play, world::Firewall};

            $(
                #[test]
                fn $test() {
                    play(Firewall::$firewall, $us, $scenario);
                }
            )+
        }
    };
    ($name:ident, $us:expr, $scenario:ident) => {
        $crate::stage::on_machines!(
            $name,
            $us,
            $scenario,
            [nftables: Nftables, iptables_nft: IptablesNft, iptables_legacy: IptablesLegacy]
        );
    };
}
pub(crate) use on_machines;

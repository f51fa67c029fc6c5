//! Random operations of the program, and the answers that are documented for them.

use riklet_core::model::Workload;

use crate::world::{
    World,
    command::{Output, Running},
    random::Random,
    records::{definitions, workload},
};

/// Exposures that do not conflict with each other, each with two ports that it may lead to.
const EXPOSURES: [[&str; 2]; 6] = [
    ["tcp 8000 3000", "tcp 8000 3100"],
    ["tcp 8001 3001", "tcp 8001 3101"],
    ["udp 8000 3000", "udp 8000 3100"],
    ["udp 8001 3001", "udp 8001 3101"],
    ["tcp 192.168.7.10 8005 3005", "tcp 192.168.7.10 8005 3105"],
    ["tcp 8010-8013 3010-3013", "tcp 8010-8013 3110-3113"],
];

/// One call of the program.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Up(Box<Workload>),
    Down(String),
    DownAll,
    Purge,
    Repair,
}

impl Operation {
    /// Returns an operation on one of these names, or on all.
    pub(crate) fn random(random: &mut Random, names: &[&str]) -> Self {
        match random.below(20) {
            0 => Self::DownAll,
            1 => Self::Purge,
            2..4 => Self::Repair,
            _ => {
                let name: &&str = random.pick(names);
                Self::on(random, name)
            }
        }
    }

    /// Returns an operation on this name.
    pub(crate) fn on(random: &mut Random, name: &str) -> Self {
        match random.below(3) {
            0 => Self::Down(name.to_owned()),
            _ => Self::Up(Box::new(some_function(random, name))),
        }
    }

    /// Starts the program.
    #[track_caller]
    pub(crate) fn start(&self, world: &World) -> Running {
        world.riklet_in_background(&self.arguments(), &self.input())
    }

    /// Returns the arguments of the program.
    pub(crate) fn arguments(&self) -> Vec<&str> {
        match self {
            Self::Up(_) => vec!["up", "-"],
            Self::Down(name) => vec!["down", name],
            Self::DownAll => vec!["down", "--all"],
            Self::Purge => vec!["down", "--all", "--purge"],
            Self::Repair => vec!["repair"],
        }
    }

    /// Returns what the program reads from its standard input.
    pub(crate) fn input(&self) -> String {
        match self {
            Self::Up(function) => definitions(std::slice::from_ref(&**function)),
            _ => String::new(),
        }
    }

    /// Tells whether the operation succeeded. The other documented answers are that a port belongs to another
    /// function, and that the name does not exist.
    #[track_caller]
    pub(crate) fn is_done(&self, output: &Output) -> bool {
        if output.code == Some(0) {
            return true;
        }
        let refusal = match self {
            Self::Up(_) => "error: cannot expose ",
            Self::Down(_) => "error: no instance named ",
            Self::DownAll | Self::Purge | Self::Repair => panic!("{output}"),
        };
        // A process that waits for the lock for more than a second says so first.
        let waits = |line: &&str| line.contains("WARN waiting for process ");
        let said = output.stderr.lines().find(|line| !waits(line));
        let refused = output.code == Some(1) && said.is_some_and(|line| line.starts_with(refusal));
        assert!(refused, "{output}");
        false
    }
}

/// Returns a function with a random subset of the exposures.
fn some_function(random: &mut Random, name: &str) -> Workload {
    let mut exposures = Vec::new();
    for targets in &EXPOSURES {
        if random.below(3) == 0 {
            exposures.push(*random.pick(targets));
        }
    }
    workload(name, &exposures)
}

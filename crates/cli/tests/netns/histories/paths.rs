//! The paths by which a function is brought up, taken down and looked at.

use serde_json::Value as Json;

use rustix::process::Signal;

use super::{PAUSE, checker::Value};
use crate::world::{
    World,
    command::{Output, Running},
    daemon::{Api, Reply},
    function::{exposure, function},
    random::Random,
    transport::Transport,
};

/// The words with which a program refuses before it has changed anything.
const REFUSALS: [&str; 6] = [
    "error: no run of ",
    " is already recorded",
    " is already running: ",
    "error: cannot take ",
    "cannot connect: ",
    "another process is starting it",
];
/// The words of a program that may have done its work, in whole or in part.
const FAILURES: [&str; 4] =
    ["does not answer: ", "error: not ready after ", "ended before it was ready: ", "is busy"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// A request to the daemon's socket.
    Api,
    /// The program, which asks the daemon if there is one.
    Program,
    /// The program beside the daemon.
    Alone,
    /// A supervised run with the built-in guest: `run` and `stop`.
    Run,
}

/// The answer to a call.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Written(Value),
    Read(Value),
    /// The call may have written these values, or may yet write them.
    Unknown(Vec<Value>),
    /// Nothing was changed or read.
    Refused,
}

impl Answer {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Written(_) => "done",
            Self::Read(_) => "answered",
            Self::Unknown(_) => "unknown",
            Self::Refused => "refused",
        }
    }
}

impl Path {
    pub(crate) const ALL: [Self; 4] = [Self::Api, Self::Program, Self::Alone, Self::Run];

    /// Brings a function up with this port, and no other.
    pub(crate) fn up(
        self,
        world: &World,
        api: &Api,
        name: &str,
        port: u16,
        random: &mut Random,
    ) -> Answer {
        if self == Self::Api {
            let definition = definition(name, port);
            let reply = api.try_ask("PUT", &format!("/v1/functions/{name}"), &definition);
            return answered(reply, Some(port));
        }
        let output = disturbed(self.start_up(world, name, port), random);
        match self {
            // A run that fails takes the function down again.
            Self::Run => printed(&output, vec![Some(port), None]),
            _ => printed(&output, vec![Some(port)]),
        }
    }

    /// Starts the program that brings a function up.
    pub(crate) fn start_up(self, world: &World, name: &str, port: u16) -> Running {
        let arguments: &[&str] = match self {
            Self::Program => &["up", "-"],
            Self::Run => &["run", "--detach", "--ready-timeout", "5", "-"],
            Self::Api | Self::Alone => &["--no-daemon", "up", "-"],
        };
        world.riklet_in_background(arguments, &definition(name, port))
    }

    /// Takes a function down.
    pub(crate) fn down(self, world: &World, api: &Api, name: &str, random: &mut Random) -> Answer {
        let arguments: &[&str] = match self {
            Self::Api => {
                return answered(api.try_ask("DELETE", &format!("/v1/functions/{name}"), ""), None);
            }
            Self::Program => &["down", name],
            Self::Alone => &["--no-daemon", "down", name],
            Self::Run => &["stop", name],
        };
        printed(&disturbed(world.riklet_in_background(arguments, ""), random), vec![None])
    }

    pub(crate) fn read(self, world: &World, api: &Api, name: &str) -> Answer {
        match self {
            Self::Api => match api.try_ask("GET", &format!("/v1/functions/{name}"), "") {
                Ok(reply) if reply.status == 200 => Answer::Read(port(&reply.json())),
                Ok(reply) if reply.status == 404 => Answer::Read(None),
                _ => Answer::Refused,
            },
            Self::Program | Self::Run => {
                let listed = world.riklet(&["--output", "json", "list"], "");
                match listed.code {
                    Some(0) => Answer::Read(find(&listed.stdout, name)),
                    _ => Answer::Refused,
                }
            }
            Self::Alone => Answer::Read(read_alone(world, name)),
        }
    }
}

/// Reads the records without the daemon.
#[track_caller]
pub(crate) fn read_alone(world: &World, name: &str) -> Value {
    find(&world.riklet(&["--no-daemon", "--output", "json", "list"], "").success(), name)
}

fn find(listed: &str, name: &str) -> Value {
    let listed: Vec<Json> = serde_json::from_str(listed).expect("a list");
    listed.iter().find(|instance| instance["name"] == name).and_then(port)
}

/// Returns the port of an instance, unless it is being taken down: its record stays until that is complete.
fn port(instance: &Json) -> Value {
    if instance["phase"] == "removing" {
        return None;
    }
    let port = instance["exposures"][0]["port"].as_u64().and_then(|port| port.try_into().ok());
    Some(port.unwrap_or_else(|| panic!("no port: {instance}")))
}

fn definition(name: &str, port: u16) -> String {
    function(name, &[exposure(Transport::Tcp, port, 3000)]).to_string()
}

/// Lets the program end, kills it at a random moment, or pauses it once.
fn disturbed(running: Running, random: &mut Random) -> Output {
    let signal = match random.below(6) {
        0 => Signal::KILL,
        1 => Signal::STOP,
        _ => return running.wait(),
    };
    if !running.ends_within(random.part_of(PAUSE)) {
        running.signal(signal);
        if signal == Signal::STOP && !running.ends_within(random.part_of(PAUSE)) {
            running.signal(Signal::CONT);
        }
    }
    running.wait()
}

/// Judges the daemon's reply to a request that writes this value.
fn answered(reply: std::io::Result<Reply>, value: Value) -> Answer {
    // An error means that the connection was refused.
    let Ok(reply) = reply else { return Answer::Refused };
    match (reply.status, value) {
        (200, _) => Answer::Written(value),
        (404, None) => Answer::Read(None),
        // The function is running.
        (409, _) => Answer::Refused,
        // The daemon ended before it answered, or was too busy to tell.
        (0 | 503, _) => Answer::Unknown(vec![value]),
        _ => panic!("{reply:?}"),
    }
}

/// Judges the end of a program that writes the first of these values, and may write the others if it fails.
pub(crate) fn printed(output: &Output, values: Vec<Value>) -> Answer {
    let has = |words: &str| output.stderr.contains(words);
    match (output.code, values[0]) {
        (Some(0), None) if has(": had ended already\n") => Answer::Refused,
        (Some(0), value) => Answer::Written(value),
        (None, _) => Answer::Unknown(values),
        (Some(1), None) if has("error: no instance named ") => Answer::Read(None),
        (Some(1), _) if REFUSALS.iter().any(|words| has(words)) => Answer::Refused,
        // The daemon ended before it answered, or a run was not ready in time.
        (Some(1), _) if FAILURES.iter().any(|words| has(words)) => Answer::Unknown(values),
        _ => panic!("{output}"),
    }
}

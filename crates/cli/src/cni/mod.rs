//! The program as a plugin of the Container Network Interface (<https://www.cni.dev/docs/spec/>), version 1.1.0 and the
//! earlier ones from 0.3.1 on. It is one if `CNI_COMMAND` is set and there are no arguments.
//!
//! The modules beside this one are pure: what is asked ([`call`], [`config`]), what is answered ([`answer`]), and the
//! errors. This one reads the environment and standard input, and does what is asked through the node, as commands do.

mod answer;
mod attachment;
mod call;
mod config;
mod error;

use std::{
    collections::BTreeMap,
    env,
    io::{self, Read, Write},
    process::ExitCode,
};

use clap::Parser;
use riklet_api::{ApiError, HttpStatus, InspectionDocument, NodeApi};
use riklet_core::model::{InstanceName, Selector, Workload};
use serde_json::Value;

use super::{args::Args, interrupt, log, node::ChosenNode};
use attachment::Attachment;
use call::{Call, Command};
use config::Config;
use error::{Code, Error};

/// The longest configuration that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Returns the exit code of the plugin; `None` if the program was not called as one.
pub(crate) fn run() -> Option<ExitCode> {
    let variables: BTreeMap<String, String> = call::VARIABLES
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), env::var_os(name)?.into_string().ok()?)))
        .collect();
    if !variables.contains_key(call::COMMAND) || env::args_os().nth(1).is_some() {
        return None;
    }
    log::start(0);
    let (document, code) = match answered(&variables) {
        Ok(document) => (document, ExitCode::SUCCESS),
        Err((version, error)) => (Some(error.document(&version)), ExitCode::FAILURE),
    };
    log::flush();
    let printed = document.map_or(Ok(()), |document| writeln!(io::stdout(), "{document:#}"));
    Some(if printed.is_ok() { code } else { ExitCode::FAILURE })
}

/// Does what is asked, and returns the document of the answer. An error has the version of the configuration with it.
fn answered(variables: &BTreeMap<String, String>) -> Result<Option<Value>, (String, Error)> {
    let unknown = |error| (answer::LATEST.to_owned(), error);
    let command = Command::of(variables).map_err(unknown)?;
    let text = input().map_err(unknown)?;
    if command == Command::Version {
        return Ok(Some(answer::versions()));
    }
    let config = Config::read(&text, command).map_err(|(version, error)| {
        (version.unwrap_or_else(|| answer::LATEST.to_owned()), error)
    })?;
    done(command, variables, &config).map_err(|error| (config.version.as_str().to_owned(), error))
}

fn input() -> Result<String, Error> {
    let failed = |error: io::Error| Error::new(Code::Io, "cannot read the configuration", error);
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > usize::try_from(MAX_BYTES).unwrap_or(usize::MAX) {
        let words = format!("it is longer than {MAX_BYTES} bytes");
        return Err(Error::new(Code::Decoding, "cannot read the configuration", words));
    }
    String::from_utf8(bytes)
        .map_err(|error| Error::new(Code::Decoding, "the configuration is not text", error))
}

fn done(
    command: Command,
    variables: &BTreeMap<String, String>,
    config: &Config,
) -> Result<Option<Value>, Error> {
    let call = Call::of(command, variables)?;
    // The daemon need not be able to look into namespaces.
    let without_daemon = matches!(call, Call::Check(_));
    let mut node = node(config, without_daemon)?;
    match call {
        Call::Add(attachment) => add(&mut node, config, &attachment).map(Some),
        Call::Del(attachment) => del(&mut node, config, &attachment).map(|()| None),
        Call::Check(attachment) => check(&mut node, config, &attachment).map(|()| None),
        Call::Gc => gc(&mut node, config).map(|()| None),
        Call::Status => status(&mut node).map(|()| None),
    }
}

/// Returns the node, whose settings come from the environment and the configuration file of the program, as those of its
/// commands do.
fn node(config: &Config, without_daemon: bool) -> Result<ChosenNode, Error> {
    let invalid = |words: String| Error::new(Code::Config, "the node's settings are wrong", words);
    let args = Args::try_parse_from(["riklet-sdn"]).map_err(|error| invalid(error.to_string()))?;
    let mut settings = args.node;
    settings.no_daemon |= without_daemon;
    if let Some(directory) = &config.state_dir {
        settings.state_dir = Some(directory.into());
    }
    let node = ChosenNode::of(&settings).map_err(|error| Error::of_node(&ApiError::from(error)))?;
    interrupt::watch(node.config(), settings.no_daemon);
    Ok(node)
}

fn add(node: &mut dyn NodeApi, config: &Config, attachment: &Attachment) -> Result<Value, Error> {
    let workload = config.pod(attachment)?;
    let name = workload.name().clone();
    if let Some(found) = recorded(node, &name)?
        && attachment.is_of(&found)
        && found.link != "missing"
    {
        let words = format!("{} has {} already", attachment.container, attachment.interface);
        return Err(Error::new(Code::Failed, "the interface exists", words));
    }
    let document = attached(node, &workload);
    if document.is_err() {
        // What failed stays recorded, for the next operation to go on with; a runtime expects that nothing is left.
        let _reported = removed(node, &name);
    }
    Ok(answer::result(config, attachment, &document?))
}

fn attached(
    node: &mut dyn NodeApi,
    workload: &Workload,
) -> Result<riklet_api::InstanceDocument, Error> {
    let report = node.up(std::slice::from_ref(workload), false);
    let mut report = report.map_err(|error| Error::of_node(&error))?;
    if let Some(failure) = report.failures.first() {
        return Err(Error::of_failure(failure));
    }
    let lost = || Error::new(Code::Failed, "the node does not say what it has attached", "");
    report.instances.pop().ok_or_else(lost)
}

/// Removes an attachment; one that does not exist counts as removed.
fn del(node: &mut dyn NodeApi, config: &Config, attachment: &Attachment) -> Result<(), Error> {
    removed(node, &attachment.name(&config.name))
}

fn removed(node: &mut dyn NodeApi, name: &InstanceName) -> Result<(), Error> {
    match node.down(&Selector::Named([name.clone()].into()), false) {
        Err(error) if error.status == HttpStatus::NotFound.code() => Ok(()),
        Err(error) => Err(Error::of_node(&error)),
        Ok(report) => match report.failures.first() {
            Some(failure) => Err(Error::of_failure(failure)),
            None => Ok(()),
        },
    }
}

fn recorded(
    node: &mut dyn NodeApi,
    name: &InstanceName,
) -> Result<Option<InspectionDocument>, Error> {
    match node.inspect(name) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.status == HttpStatus::NotFound.code() => Ok(None),
        Err(error) => Err(Error::of_node(&error)),
    }
}

/// Fails if the attachment is not as it was made.
fn check(node: &mut dyn NodeApi, config: &Config, attachment: &Attachment) -> Result<(), Error> {
    let found = recorded(node, &attachment.name(&config.name))?;
    let missing = |words: String| Error::new(Code::Failed, "the attachment is not whole", words);
    let Some(found) = found else {
        return Err(missing(format!("{attachment} is not recorded")));
    };
    answer::complaint(config, attachment, &found).map_or(Ok(()), |words| Err(missing(words)))
}

/// Removes the attachments of this network that the runtime does not list. Without a list nothing is removed; with an empty one
/// all are.
fn gc(node: &mut dyn NodeApi, config: &Config) -> Result<(), Error> {
    let Some(valid) = &config.valid else { return Ok(()) };
    let valid: Vec<_> = valid.iter().map(|one| one.name(&config.name)).collect();
    let listed = node.list().map_err(|error| Error::of_node(&error))?;
    let names = listed.iter().filter_map(|entry| entry.instance.name.parse().ok());
    let stale = names.filter(|name: &InstanceName| {
        attachment::is_of_network(name, &config.name) && !valid.contains(name)
    });
    let results: Vec<_> = stale.map(|name| removed(node, &name)).collect();
    results.into_iter().collect()
}

/// Fails if the node cannot attach anything: with one code if nothing is attached yet, else with another.
fn status(node: &mut dyn NodeApi) -> Result<(), Error> {
    let Err(error) = node.check() else { return Ok(()) };
    let some = node.list().is_ok_and(|listed| !listed.is_empty());
    let code = if some { Code::LimitedConnectivity } else { Code::Unavailable };
    Err(Error::new(code, "the node cannot attach anything", &error.detail))
}

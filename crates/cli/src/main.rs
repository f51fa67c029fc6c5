//! `riklet-sdn`: the command line. Arguments in, text or JSON out: one file per command.

mod args;
mod check;
mod cni;
mod config;
mod doctor;
mod down;
mod error;
mod events;
mod explain;
mod input;
mod inspect;
mod interrupt;
mod list;
mod log;
mod logs;
mod node;
mod output;
mod plain;
mod plan;
mod progress;
mod ps;
mod remote;
mod render;
mod repair;
mod run;
mod serve;
mod stop;
mod top;
mod up;
mod usage;
mod validate;
mod wait;

use std::{path::Path, process::ExitCode};

use clap::CommandFactory;
use clap_complete::Shell;
use riklet_api::NodeApi;
use riklet_sdn::Node;

use args::{Args, Command};
use error::CliError;
use node::ChosenNode;
use output::Output;

fn main() -> ExitCode {
    if let Some(code) = cni::run() {
        return code;
    }
    let args = match usage::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    log::start(args.verbose);
    let output = args.output;
    let is_daemon = matches!(args.command, Some(Command::Serve(_)));
    let code = match dispatch(args) {
        Ok(code) => code,
        Err(error) => {
            output::error(output, &error);
            error.exit_code()
        }
    };
    if is_daemon {
        log::flush_briefly();
    } else {
        log::flush();
    }
    code
}

fn dispatch(args: Args) -> Result<ExitCode, CliError> {
    let output = Output::new(args.output);
    let Some(command) = args.command else { return Ok(usage::missing_command(args.output)) };
    let local = || Ok::<_, CliError>(Node::new(config::load(&args.node)?));
    let node = || ChosenNode::of(&args.node);
    let changing = || {
        let node = node()?;
        interrupt::watch(node.config(), args.node.no_daemon);
        Ok::<_, CliError>(node)
    };
    match command {
        Command::Up(up) => up::run(&mut changing()?, &up, output),
        Command::Down(down) => down::run(&mut changing()?, &down, output),
        Command::List(list) => list::run(&mut node()?, &list, output),
        Command::Inspect(inspect) => inspect::run(&mut node()?, &inspect, output),
        Command::Plan(plan) => plan::run(&mut node()?, &plan, output),
        Command::Validate(validate) => validate::run(&validate, output),
        Command::Schema => validate::schema(output),
        Command::Explain(explain) => explain::run(&mut local()?, &explain, output),
        Command::Check => check::run(&mut node()?, output),
        Command::Repair { adopt: true, .. } => {
            repair::recovered(node()?.adopt()?, "nothing to take over", output)
        }
        Command::Repair { rebuild: true, force, .. } => {
            let nothing = "nothing to do: the database is sound, and has every interface";
            repair::recovered(node()?.rebuild(force)?, nothing, output)
        }
        Command::Repair { .. } => repair::run(&mut changing()?, output),
        Command::Events(events) => events::run(&mut node()?, &events, output),
        Command::Top(top) => top::run(args.node, &top, output),
        Command::Serve(_) if args.node.no_daemon => Err(CliError::WithoutDaemon),
        Command::Serve(serve) => {
            let config = config::load(&args.node)?;
            serve::run(config, serve)
        }
        Command::Run(run) => {
            if run.detach
                && let Some(client) = remote::client(&args.node)?
            {
                return remote::run(&client, &run, output);
            }
            let config = config::load_for_run(&args.node, run.vmm.clone())?;
            run::run(&mut Node::new(config), &run, output)
        }
        Command::Ps => match remote::client(&args.node)? {
            Some(client) => remote::ps(&client, output),
            None => ps::run(local()?.config(), output),
        },
        Command::Logs(logs) => match remote::client(&args.node)? {
            Some(client) => remote::logs(&client, &logs, output),
            None => logs::run(local()?.config(), &logs, output),
        },
        Command::Stop(stop) => match remote::client(&args.node)? {
            Some(client) => remote::stop(&client, &stop, output),
            None => stop::run(&mut local()?, &stop, output),
        },
        Command::Wait(wait) => match remote::client(&args.node)? {
            Some(client) => remote::wait(&client, &wait, output),
            None => wait::run(local()?.config(), &wait, output),
        },
        Command::Doctor => doctor::run(&mut local()?, output),
        Command::Completions { shell } => completions(shell, output),
        Command::Man { directory } => man(&directory),
        Command::Guest { guest } => run::guest(&guest),
    }
}

fn completions(shell: Shell, output: Output) -> Result<ExitCode, CliError> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut shown(), "riklet-sdn", &mut text);
    output.raw(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn man(directory: &Path) -> Result<ExitCode, CliError> {
    let failed = |source| CliError::Man { directory: directory.to_owned(), source };
    clap_mangen::generate_to(shown(), directory).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the command line as users see it.
fn shown() -> clap::Command {
    let all = Args::command();
    let visible = all.get_subcommands().filter(|command| !command.is_hide_set());
    // Clap cannot detach a command from its parent.
    let about = all.get_about().cloned().unwrap_or_default();
    let after = all.get_after_help().cloned().unwrap_or_default();
    clap::Command::new("riklet-sdn")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .after_help(after)
        .args(all.get_arguments())
        .subcommands(visible.cloned())
}

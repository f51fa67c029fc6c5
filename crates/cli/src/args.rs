use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use riklet_core::model::{Account, InstanceName, InterfaceName, Mtu, Pool};
use riklet_sdn::FirewallChoice;

/// The network of a node that runs functions as microVMs: a TAP for each, and its ports on the host.
#[derive(Debug, Parser)]
#[command(name = "riklet-sdn", version, override_usage = "riklet-sdn [OPTIONS] <COMMAND>")]
#[command(next_help_heading = "Options of every command")]
#[command(after_help = "Example:\n  riklet-sdn run examples/hello.json\n\n\
                        Exit status: 0 done; 1 failed, or drift found; 2 invalid input or usage; \
                        3 the host lacks something, or root is needed.")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Print data as text or as JSON.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    #[arg(env = "RIKLET_SDN_OUTPUT", hide_env_values = true)]
    pub(crate) output: OutputFormat,
    /// Print each change once it is made, to standard error; twice: each program that is run as well.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What may also be set in the environment or the configuration file.
#[derive(Debug, ClapArgs)]
pub(crate) struct NodeArgs {
    /// The configuration file [default: /etc/riklet-sdn/config.toml, where there is one].
    #[arg(long, global = true, value_name = "FILE")]
    #[arg(env = "RIKLET_SDN_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// Where the records are kept [default: /run/riklet-sdn].
    #[arg(long, global = true, value_name = "DIR")]
    #[arg(env = "RIKLET_SDN_STATE_DIR", hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// auto, iptables or nftables [default: auto: iptables where the host has it].
    #[arg(long, global = true, value_name = "BACKEND")]
    #[arg(env = "RIKLET_SDN_FIREWALL", hide_env_values = true)]
    pub(crate) firewall: Option<FirewallChoice>,
    /// What the guests' addresses are cut from [default: 10.231.0.0/16, or the next that is free].
    #[arg(long, global = true, value_name = "NETWORK")]
    #[arg(env = "RIKLET_SDN_POOL", hide_env_values = true)]
    pub(crate) pool: Option<Pool>,
    /// The interface that leads to the Internet; several with commas [default: the default route's].
    #[arg(long, global = true, value_name = "IFACE")]
    #[arg(env = "RIKLET_SDN_UPLINK", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    pub(crate) uplink: Vec<InterfaceName>,
    /// The MTU of the TAPs in bytes [default: the uplink's].
    #[arg(long, global = true, value_name = "BYTES")]
    #[arg(env = "RIKLET_SDN_MTU", hide_env_values = true)]
    pub(crate) mtu: Option<Mtu>,
    /// The daemon's socket [default: api.sock in the state directory]. Commands work alone where nobody listens.
    #[arg(long, global = true, value_name = "SOCKET")]
    #[arg(env = "RIKLET_SDN_API", hide_env_values = true)]
    pub(crate) api: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum OutputFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring up the network of every definition in the files.
    Up(UpArgs),
    /// Take instances down.
    Down(DownArgs),
    /// List what is recorded, and what the kernel has of it.
    #[command(after_help = "Example:\n  riklet-sdn list --output json")]
    List,
    /// Show one instance, or what a VMM needs to attach to it.
    Inspect(InspectArgs),
    /// Show what `up` would do, step by step, and change nothing.
    Plan(PlanArgs),
    /// Compare the kernel with the records: exit status 1 where they differ.
    #[command(after_help = "Example:\n  riklet-sdn check || riklet-sdn repair")]
    Check,
    /// Make the kernel what the records say: what drifted comes back, what leaked goes.
    #[command(after_help = "Example:\n  riklet-sdn repair")]
    Repair {
        /// Verify the database; if it is not sound, set it aside and record anew what the interfaces' aliases say.
        #[arg(long, conflicts_with = "adopt")]
        rebuild: bool,
        /// Set the database aside even if it seems sound.
        #[arg(long, requires = "rebuild")]
        force: bool,
        /// Take over the functions of another state directory, and record them here.
        #[arg(long)]
        adopt: bool,
    },
    /// Print what the daemon did.
    Events(EventsArgs),
    /// Show the functions with what goes in and out of them, and what is wrong.
    Top(TopArgs),
    /// Serve the API, keep TAPs ready and repair what drifts, until Ctrl-C or SIGTERM.
    Serve(ServeArgs),
    /// Bring functions up with their microVMs behind them, until Ctrl-C or SIGTERM.
    Run(RunArgs),
    /// List the functions that run, and how those that ran have ended.
    #[command(after_help = "Example:\n  riklet-sdn ps")]
    Ps,
    /// Print what a function's VMM and guest wrote: the console.
    Logs(LogsArgs),
    /// End functions that run: power off, then SIGTERM, then SIGKILL.
    Stop(StopArgs),
    /// Wait until a function that runs has ended, and say how: exit status 1 where it failed.
    Wait(WaitArgs),
    /// Say what this host has and lacks, and what to do about it.
    #[command(after_help = "Example:\n  riklet-sdn doctor")]
    Doctor,
    /// Print the completions of a shell.
    #[command(after_help = "Example:\n  riklet-sdn completions bash > \
                            /etc/bash_completion.d/riklet-sdn")]
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Play the guest on a TAP: the child process of `run`.
    #[command(hide = true)]
    Guest {
        /// What to play, as JSON.
        guest: String,
    },
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn up examples/hello.json")]
pub(crate) struct UpArgs {
    /// Files with definitions, JSON or YAML; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Refuse an exposure that would shadow a local process, instead of warning.
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, ClapArgs)]
#[command(override_usage = "riklet-sdn down [OPTIONS] <NAME>...\n       \
                            riklet-sdn down [OPTIONS] --all [--purge]")]
#[command(after_help = "Example:\n  riklet-sdn down hello")]
pub(crate) struct DownArgs {
    /// The instances' names.
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) names: Vec<InstanceName>,
    /// All that are recorded.
    #[arg(long)]
    pub(crate) all: bool,
    /// Remove what the instances share as well, and restore the sysctls that were changed; with --all, forget
    /// the runs that have ended, and their logs.
    #[arg(long)]
    pub(crate) purge: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn inspect hello --format firecracker")]
pub(crate) struct InspectArgs {
    /// The instance's name.
    pub(crate) name: InstanceName,
    /// What a VMM needs, in its own words: firecracker (`network-interfaces`), boot-args (of the guest's
    /// kernel), qemu (arguments), or env (variables of a shell).
    #[arg(long, value_enum, hide_possible_values = true)]
    pub(crate) format: Option<InspectFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectFormat {
    /// The `network-interfaces` of a Firecracker configuration.
    Firecracker,
    /// The argument of the guest's kernel that gives it its address.
    BootArgs,
    /// The arguments of QEMU.
    Qemu,
    /// Variables of a shell.
    Env,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn plan examples/hello.json")]
pub(crate) struct PlanArgs {
    /// Files with definitions, JSON or YAML; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn run examples/hello.json")]
pub(crate) struct RunArgs {
    /// Files with definitions, JSON or YAML; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// How long to wait for the published ports to answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) ready_timeout: u16,
    /// Print the guest's console as it comes; for one function.
    #[arg(long, conflicts_with = "detach")]
    pub(crate) console: bool,
    /// Return once all is ready, and leave a supervisor behind that outlives the terminal.
    #[arg(long)]
    pub(crate) detach: bool,
    /// Be that supervisor.
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub(crate) supervise: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn events -f")]
pub(crate) struct EventsArgs {
    /// Go on with what comes.
    #[arg(long, short)]
    pub(crate) follow: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn top --once")]
pub(crate) struct TopArgs {
    /// Print one table, for scripts; with `--output json` always.
    #[arg(long)]
    pub(crate) once: bool,
    /// What the rates are over, and how often they are shown anew, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = super::top::interval)]
    pub(crate) interval: Duration,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn serve --api-group kvm")]
pub(crate) struct ServeArgs {
    /// Who may use the API besides root: the name or the number of a group.
    #[arg(long, value_name = "GROUP", env = "RIKLET_SDN_API_GROUP", hide_env_values = true)]
    pub(crate) api_group: Option<Account>,
    /// How many TAPs are made in advance; 0 is none.
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=4096))]
    pub(crate) warm: u16,
    /// A directory whose definition files are brought up, and taken down as they go [default:
    /// /etc/riklet-sdn/functions.d, where there is one].
    #[arg(long, value_name = "DIR", env = "RIKLET_SDN_MANIFESTS", hide_env_values = true)]
    pub(crate) manifests: Option<PathBuf>,
    /// Where /metrics can be read by TCP as well, such as 127.0.0.1:9464: by whoever reaches that address.
    #[arg(long, value_name = "ADDRESS:PORT", env = "RIKLET_SDN_METRICS", hide_env_values = true)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Take over the functions of another state directory first, and record them here.
    #[arg(long)]
    pub(crate) adopt: bool,
    /// How long a client may take to send a request, in milliseconds.
    #[arg(long, value_name = "MS", hide = true, default_value_t = 10_000)]
    pub(crate) patience: u32,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn logs hello --follow")]
pub(crate) struct LogsArgs {
    /// The function's name.
    pub(crate) name: InstanceName,
    /// Go on with what comes, until the function has ended.
    #[arg(long, short)]
    pub(crate) follow: bool,
}

#[derive(Debug, ClapArgs)]
#[command(override_usage = "riklet-sdn stop [OPTIONS] <NAME>...\n       \
                            riklet-sdn stop [OPTIONS] --all")]
#[command(after_help = "Example:\n  riklet-sdn stop hello")]
pub(crate) struct StopArgs {
    /// The functions' names.
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) names: Vec<InstanceName>,
    /// All that run.
    #[arg(long)]
    pub(crate) all: bool,
    /// How long the guest may take to power off before SIGTERM, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) timeout: u16,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn wait hello")]
pub(crate) struct WaitArgs {
    /// The function's name.
    pub(crate) name: InstanceName,
}

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use riklet_core::model::{
    Account, BootArgs, Destination, Egress, Exposure, FlowLimit, Image, InstanceName,
    InterfaceName, Ipv6, MarkMask, Memory, Mtu, Pool, ProxyAddress, SlotAccounts, Vcpus, Vmm,
};
use riklet_sdn::FirewallChoice;

use super::run::described;

/// Connects functions that run as microVMs: gives each a TAP, and publishes its ports on the host.
#[derive(Debug, Parser)]
#[command(name = "riklet-sdn", version, override_usage = "riklet-sdn [OPTIONS] <COMMAND>")]
#[command(next_help_heading = "Options of every command")]
#[command(after_help = "Example:\n  riklet-sdn run examples/hello.json\n\n\
                        Exit status: 0 success; 1 failure, or drift found; 2 invalid input or usage; \
                        3 the host lacks something, or root is needed.")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Print data as text or as JSON.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    #[arg(env = "RIKLET_SDN_OUTPUT", hide_env_values = true)]
    pub(crate) output: OutputFormat,
    /// Log each change to standard error; given twice, also each program that is run.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Settings that may also come from the environment or the configuration file.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct NodeArgs {
    /// Configuration file [default: /etc/riklet-sdn/config.toml, if it exists].
    #[arg(long, global = true, value_name = "FILE")]
    #[arg(env = "RIKLET_SDN_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// Directory of the records [default: /run/riklet-sdn].
    #[arg(long, global = true, value_name = "DIR")]
    #[arg(env = "RIKLET_SDN_STATE_DIR", hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Firewall backend: auto, iptables or nftables [default: auto, which is iptables if the host has it].
    #[arg(long, global = true, value_name = "BACKEND")]
    #[arg(env = "RIKLET_SDN_FIREWALL", hide_env_values = true)]
    pub(crate) firewall: Option<FirewallChoice>,
    /// Address range for guests [default: 10.231.0.0/16, or the next free one].
    #[arg(long, global = true, value_name = "NETWORK")]
    #[arg(env = "RIKLET_SDN_POOL", hide_env_values = true)]
    pub(crate) pool: Option<Pool>,
    /// Interfaces that lead to the Internet, separated by commas [default: those of the default route].
    #[arg(long, global = true, value_name = "IFACE")]
    #[arg(env = "RIKLET_SDN_UPLINK", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    pub(crate) uplink: Vec<InterfaceName>,
    /// MTU of the TAPs in bytes [default: that of the uplink].
    #[arg(long, global = true, value_name = "BYTES")]
    #[arg(env = "RIKLET_SDN_MTU", hide_env_values = true)]
    pub(crate) mtu: Option<Mtu>,
    /// Bits of packet and connection marks to use [default: 0x7f].
    #[arg(long, global = true, value_name = "MASK")]
    #[arg(env = "RIKLET_SDN_MARK_MASK", hide_env_values = true)]
    pub(crate) mark_mask: Option<MarkMask>,
    /// Reach of guests beyond published ports: internet, all or none [default: internet].
    #[arg(long, global = true, value_name = "REACH")]
    #[arg(env = "RIKLET_SDN_EGRESS", hide_env_values = true)]
    pub(crate) egress: Option<Egress>,
    /// Flows that each guest may begin and have at a time, a number or unlimited [default: 4096].
    #[arg(long, global = true, value_name = "COUNT")]
    #[arg(env = "RIKLET_SDN_FLOWS", hide_env_values = true)]
    pub(crate) flows: Option<FlowLimit>,
    /// IPv6 for guests, with the firewall nftables: on or off [default: off].
    #[arg(long, global = true, value_name = "CHOICE")]
    #[arg(env = "RIKLET_SDN_IPV6", hide_env_values = true)]
    pub(crate) ipv6: Option<Ipv6>,
    /// Socket of the daemon [default: api.sock in the state directory]. Without a daemon, commands work alone.
    #[arg(long, global = true, value_name = "SOCKET")]
    #[arg(env = "RIKLET_SDN_API", hide_env_values = true)]
    pub(crate) api: Option<PathBuf>,
    /// Work without the daemon, on the same records and under the same lock.
    #[arg(long, global = true)]
    pub(crate) no_daemon: bool,
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
    /// Take functions down.
    Down(DownArgs),
    /// List the recorded functions and the state of their TAPs.
    List(ListArgs),
    /// Show one function, or the settings that a VMM needs to attach to it.
    Inspect(InspectArgs),
    /// Show what `up` would do, step by step, without changing anything.
    #[command(visible_alias = "diff")]
    Plan(PlanArgs),
    /// Read definitions and print what they define; needs neither root nor a node.
    Validate(ValidateArgs),
    /// Print the JSON Schema of definitions, for editors.
    #[command(after_help = "Example:\n  riklet-sdn schema > riklet-sdn.schema.json")]
    Schema,
    /// Explain what happens to a packet, and why; exit status 1 if nobody gets it.
    Explain(ExplainArgs),
    /// Compare the kernel with the records; exit status 1 if they differ.
    #[command(after_help = "Example:\n  riklet-sdn check || riklet-sdn repair")]
    Check,
    /// Make the kernel match the records: restore what drifted, remove what leaked.
    #[command(after_help = "Example:\n  riklet-sdn repair")]
    Repair {
        /// Verify the database; if it is damaged, set it aside and recreate the records from the interfaces' aliases.
        #[arg(long, conflicts_with = "adopt")]
        rebuild: bool,
        /// With --rebuild: set the database aside even if it is sound.
        #[arg(long, requires = "rebuild")]
        force: bool,
        /// Take over the functions of another state directory.
        #[arg(long)]
        adopt: bool,
    },
    /// Print what the daemon and other processes did; needs a daemon.
    Events(EventsArgs),
    /// Show the functions with their traffic, and any drift.
    Top(TopArgs),
    /// Run the daemon: API, ready TAPs, and repair of drift, until Ctrl-C or SIGTERM.
    Serve(ServeArgs),
    /// Bring functions up and run their microVMs, until Ctrl-C or SIGTERM.
    Run(Box<RunArgs>),
    /// List running functions, and how earlier runs ended.
    #[command(after_help = "Example:\n  riklet-sdn ps")]
    Ps,
    /// Print the console of a function: the output of its guest and VMM.
    Logs(LogsArgs),
    /// Stop running functions: power off, then SIGTERM, then SIGKILL.
    Stop(StopArgs),
    /// Wait until a running function ends, and print how; exit status 1 if it failed.
    Wait(WaitArgs),
    /// Check what this host has and lacks, and suggest remedies.
    #[command(after_help = "Example:\n  riklet-sdn doctor")]
    Doctor,
    /// Print completions for a shell.
    #[command(after_help = "Example:\n  riklet-sdn completions bash > \
                            /etc/bash_completion.d/riklet-sdn")]
    Completions {
        /// Name of the shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write man pages into a directory: one of the program, and one of each command.
    #[command(hide = true)]
    Man {
        /// Directory that exists.
        directory: PathBuf,
    },
    /// Run the built-in guest on a TAP: the child process of `run`.
    #[command(hide = true)]
    Guest {
        /// Description of the guest, as JSON.
        guest: String,
    },
}

/// The definitions that a command reads.
#[derive(Debug, ClapArgs)]
pub(crate) struct FileArgs {
    /// Files with definitions in JSON or YAML, and directories of such files; `-` is standard input.
    #[arg(value_name = "FILE")]
    pub(crate) named: Vec<PathBuf>,
    /// Another file or directory.
    #[arg(long = "file", short = 'f', id = "more", value_name = "FILE")]
    pub(crate) more: Vec<PathBuf>,
}

impl FileArgs {
    /// Returns an iterator over the paths, in their order.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.named.iter().chain(&self.more)
    }
}

#[derive(Debug, ClapArgs)]
#[command(override_usage = "riklet-sdn up [OPTIONS] <FILE>...")]
#[command(after_help = "Example:\n  riklet-sdn up examples/hello.json")]
#[command(mut_arg("named", |files| files.required_unless_present("more")))]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) files: FileArgs,
    /// Refuse a port that a local process or another program has, even with `shadow: true`.
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
}

/// The place of a pod.
#[derive(Debug, ClapArgs)]
pub(crate) struct NamespaceArgs {
    /// Network namespace of the one pod that is defined, such as /run/netns/web or /proc/PID/ns/net.
    #[arg(long, value_name = "PATH")]
    pub(crate) netns: Option<PathBuf>,
    /// Name of the pod's interface there, in place of that of its definition.
    #[arg(long, value_name = "NAME", requires = "netns")]
    pub(crate) ifname: Option<InterfaceName>,
}

#[derive(Debug, ClapArgs)]
#[command(override_usage = "riklet-sdn down [OPTIONS] <NAME>...\n       \
                            riklet-sdn down [OPTIONS] --file <FILE>...\n       \
                            riklet-sdn down [OPTIONS] --all [--purge]")]
#[command(after_help = "Example:\n  riklet-sdn down hello")]
pub(crate) struct DownArgs {
    /// Names of the functions.
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "file"], conflicts_with = "all")]
    pub(crate) names: Vec<InstanceName>,
    /// Take the functions down that a file, or the files of a directory, define; `-` is standard input.
    #[arg(long, short, value_name = "FILE", conflicts_with = "all")]
    pub(crate) file: Vec<PathBuf>,
    /// Take all recorded functions down.
    #[arg(long)]
    pub(crate) all: bool,
    /// Also remove what all functions share, and restore what was changed on the host; with --all, forget
    /// ended runs and their logs.
    #[arg(long)]
    pub(crate) purge: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn list --output json")]
pub(crate) struct ListArgs {
    /// Print names only.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn inspect hello --format firecracker")]
pub(crate) struct InspectArgs {
    /// Name of the function.
    pub(crate) name: InstanceName,
    /// Settings for a VMM or its guest: firecracker (`network-interfaces`), boot-args (for the guest's
    /// kernel), cloud-init (`network-config`), qemu (arguments), or env (shell variables).
    #[arg(long, value_enum, hide_possible_values = true)]
    pub(crate) format: Option<InspectFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectFormat {
    /// The `network-interfaces` of a Firecracker configuration.
    Firecracker,
    /// The kernel argument that gives the guest its address.
    BootArgs,
    /// The network configuration of cloud-init.
    CloudInit,
    /// The arguments of QEMU.
    Qemu,
    /// Shell variables.
    Env,
}

#[derive(Debug, ClapArgs)]
#[command(override_usage = "riklet-sdn plan [OPTIONS] <FILE>...")]
#[command(after_help = "Example:\n  riklet-sdn plan examples/hello.json")]
#[command(mut_arg("named", |files| files.required_unless_present("more")))]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) files: FileArgs,
}

#[derive(Debug, ClapArgs)]
#[command(override_usage = "riklet-sdn explain [OPTIONS] <FROM> to <DESTINATION>")]
#[command(after_help = "Example:\n  riklet-sdn explain hello to 192.0.2.7:443/tcp")]
pub(crate) struct ExplainArgs {
    /// Sender and destination of the packet that begins a connection. The sender is a function, an address, or `host`, the
    /// node. The destination is an address or a name, `host`, or `function:NAME`; with a port, and with /udp or /sctp if it is
    /// not for TCP.
    #[arg(value_name = "FROM to DESTINATION", required = true, num_args = 1..=3)]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, ClapArgs)]
#[command(override_usage = "riklet-sdn validate [OPTIONS] <FILE>...")]
#[command(after_help = "Example:\n  riklet-sdn validate examples/ports.yaml")]
#[command(mut_arg("named", |files| files.required_unless_present("more")))]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    pub(crate) files: FileArgs,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug, ClapArgs)]
#[command(mut_arg("named", |files| files.help(
    "Files with definitions in JSON or YAML, and directories of such files; `-` is standard input. Without any, options \
     describe one function"
)))]
#[command(override_usage = "riklet-sdn run [OPTIONS] <FILE>...\n       \
                            riklet-sdn run [OPTIONS] [--publish <PORT:TARGET>]...")]
#[command(after_help = "Example:\n  riklet-sdn run examples/hello.json")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) files: FileArgs,
    /// Time limit for the guests to boot and their published ports to answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) ready_timeout: u16,
    /// Do not wait until the published ports answer.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Print the guest's console while it runs; allowed for a single function.
    #[arg(long, conflicts_with = "detach")]
    pub(crate) console: bool,
    /// Print control characters of the console as they are, also to a terminal.
    #[arg(long, requires = "console")]
    pub(crate) raw: bool,
    /// Return once all functions are ready, and leave a supervisor behind that outlives the terminal.
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Act as that supervisor.
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub(crate) supervise: bool,
    /// A unit of systemd was made for that supervisor.
    #[arg(long, hide = true, requires = "supervise")]
    pub(crate) in_unit: bool,
    /// A directory with definitions, whose images they may name.
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) beside: Vec<PathBuf>,
    /// A member of the group of the daemon's socket wrote the definition.
    #[arg(long, hide = true, requires = "supervise")]
    pub(crate) for_member: bool,
    #[command(flatten)]
    pub(crate) vmm: VmmArgs,
    #[command(flatten)]
    pub(crate) described: DescribedArgs,
}

/// One function, in place of its definition.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "A function without a file")]
#[group(id = "described", multiple = true, conflicts_with_all = ["named", "more"])]
pub(crate) struct DescribedArgs {
    /// Name of the function [default: hello].
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<InstanceName>,
    /// Ports of the host and of the guest: 8080:3000, 127.0.0.1:8080:3000 or 5353:53/udp [default: 8080:3000, if no option
    /// describes the function].
    #[arg(long, short, value_name = "PORT:TARGET", value_parser = described::exposure)]
    pub(crate) publish: Vec<Exposure>,
    /// VMM that runs it, or the guest that is built in [default: the VMM that the host has, if there is a kernel].
    #[arg(long, value_parser = described::vmms())]
    pub(crate) vmm: Option<Vmm>,
    /// Kernel of the guest, a file or a URL.
    #[arg(long, value_name = "IMAGE", value_parser = described::image)]
    pub(crate) kernel: Option<Image>,
    /// First file system of the guest, a file or a URL.
    #[arg(long, value_name = "IMAGE", value_parser = described::image)]
    pub(crate) initrd: Option<Image>,
    /// Root file system of the guest, a file or a URL.
    #[arg(long, value_name = "IMAGE", value_parser = described::image)]
    pub(crate) rootfs: Option<Image>,
    /// Memory of the guest, such as 512M or 2G.
    #[arg(long, short, value_name = "SIZE")]
    pub(crate) memory: Option<Memory>,
    /// Number of processors of the guest.
    #[arg(long, value_name = "COUNT", value_parser = described::vcpus)]
    pub(crate) vcpus: Option<Vcpus>,
    /// Additions to the kernel command line.
    #[arg(long, value_name = "TEXT", value_parser = described::boot_args)]
    pub(crate) boot_args: Option<BootArgs>,
    #[arg(long, value_name = "DESTINATION")]
    #[arg(
        help = "Destination that it may reach as well, such as 10.0.5.0/24:5432/tcp, [2001:db8::/32]:443 or host:9000"
    )]
    pub(crate) allow: Vec<Destination>,
    /// Destination that it may not reach.
    #[arg(long, value_name = "DESTINATION")]
    pub(crate) deny: Vec<Destination>,
    /// Proxy that gets its TCP connections to ports 80 and 443, such as 127.0.0.1:3128.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) via: Option<ProxyAddress>,
}

/// Settings of microVMs that may also come from the environment or the configuration file.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct VmmArgs {
    /// Directories in which definitions may name images, separated by commas [default: that of the definition,
    /// /srv, /var/lib].
    #[arg(long, value_name = "DIR", env = "RIKLET_SDN_IMAGE_ROOTS", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    pub(crate) image_roots: Vec<PathBuf>,
    /// Directory for downloads and private copies of images [default: /var/lib/riklet-sdn/images].
    #[arg(long, value_name = "DIR", env = "RIKLET_SDN_IMAGE_DIR", hide_env_values = true)]
    pub(crate) image_dir: Option<PathBuf>,
    /// First of the user IDs that VMMs run as; the VMM of slot N runs as UID + N + 1 [default: 1900000000].
    #[arg(long, value_name = "UID", env = "RIKLET_SDN_VMM_UID_BASE", hide_env_values = true)]
    pub(crate) vmm_uid_base: Option<SlotAccounts>,
    /// Allow downloads of images to be redirected to private addresses, and clients of the socket to name such addresses.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[arg(
        env = "RIKLET_SDN_PRIVATE_REDIRECTS",
        hide_env_values = true,
        hide_possible_values = true
    )]
    pub(crate) private_redirects: Option<bool>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn events -f --refused")]
pub(crate) struct EventsArgs {
    /// Keep printing new events as they come.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Print what functions tried to reach and were refused, instead of the other events.
    #[arg(long)]
    pub(crate) refused: bool,
    /// Print only the events after the one with this token (`--output json` shows tokens).
    #[arg(long, value_name = "TOKEN")]
    pub(crate) since: Option<riklet_api::Token>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn top --once")]
pub(crate) struct TopArgs {
    /// Print one table and exit, for scripts; implied by `--output json`.
    #[arg(long)]
    pub(crate) once: bool,
    /// Time between two displays, over which the rates are taken, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = super::top::interval)]
    pub(crate) interval: Duration,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn serve --api-group riklet")]
pub(crate) struct ServeArgs {
    /// Group that may use the API besides root, by name or number.
    #[arg(long, value_name = "GROUP", env = "RIKLET_SDN_API_GROUP", hide_env_values = true)]
    pub(crate) api_group: Option<Account>,
    /// Number of TAPs to keep ready; 0 for none.
    #[arg(long, value_name = "COUNT", default_value_t = 64, alias = "warm")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=4096))]
    pub(crate) ready_slots: u16,
    /// Maximum number of microVMs that clients of the socket run at a time [default: 100].
    #[arg(long, value_name = "COUNT", env = "RIKLET_SDN_MEMBER_RUNS", hide_env_values = true)]
    pub(crate) member_runs: Option<u32>,
    /// Directory of definition files to follow: functions come and go with their files [default:
    /// /etc/riklet-sdn/functions.d, if it exists].
    #[arg(long, value_name = "DIR", env = "RIKLET_SDN_MANIFESTS", hide_env_values = true)]
    pub(crate) manifests: Option<PathBuf>,
    /// TCP address that also serves /metrics, such as 127.0.0.1:9464, to anybody who can reach it.
    #[arg(long, value_name = "ADDRESS:PORT", env = "RIKLET_SDN_METRICS", hide_env_values = true)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Take over the functions of another state directory first.
    #[arg(long)]
    pub(crate) adopt: bool,
    /// Time limit for a client to send a request, in milliseconds.
    #[arg(long, value_name = "MS", hide = true, default_value_t = 10_000)]
    pub(crate) patience: u32,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn logs hello --follow")]
pub(crate) struct LogsArgs {
    /// Name of the function.
    pub(crate) name: InstanceName,
    /// Keep printing new output until the function ends.
    #[arg(long, short, conflicts_with = "previous")]
    pub(crate) follow: bool,
    /// Print only the last LINES lines.
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
    /// Print only what was written in the last seconds, minutes, hours or days: 30s, 10m, 2h, 1d.
    #[arg(long, value_name = "TIME", value_parser = super::usage::time)]
    pub(crate) since: Option<Duration>,
    /// Print the log of the run before the latest one.
    #[arg(long)]
    pub(crate) previous: bool,
    /// Print the VMM's own log, which Firecracker and Cloud Hypervisor have.
    #[arg(long)]
    pub(crate) vmm: bool,
    /// Print control characters as they are, also to a terminal.
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Debug, ClapArgs)]
#[command(override_usage = "riklet-sdn stop [OPTIONS] <NAME>...\n       \
                            riklet-sdn stop [OPTIONS] --all")]
#[command(after_help = "Example:\n  riklet-sdn stop hello")]
pub(crate) struct StopArgs {
    /// Names of the functions.
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) names: Vec<InstanceName>,
    /// Stop all running functions.
    #[arg(long)]
    pub(crate) all: bool,
    /// Time for the guest to power off before SIGTERM, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) timeout: u16,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  riklet-sdn wait hello")]
pub(crate) struct WaitArgs {
    /// Name of the function.
    pub(crate) name: InstanceName,
}

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use riklet_core::{
    firewall::{Backend, Ban, Confinement, ForeignChainState},
    forwarding::ON,
    model::{InterfaceName, Pool},
    plan::{self, Advice, CutOff},
    routing::{self, UplinkMarks},
    switch::{self, IP_FORWARD},
};
use riklet_kernel::{
    ForeignChains, HostFacts, Kernel, KernelError, Links, NetworkManagers, Routes, Sysctls,
};
use riklet_sdn::process::Credentials;
use riklet_sdn::{
    Config, Drift, FirewallChoice, Node, NodeError, UplinkFlaw, Warning, overlapping_route,
    store::{Setting, Store},
};
use riklet_vmm::{
    choose::{Facts, Kvm},
    host_accounts::{self, BlockConflict},
    image,
};
use rustix::process::geteuid;
use serde::Serialize;

use super::{
    error::{CliError, chain, tun_advice},
    input,
    output::Output,
    render,
};

/// The number of bans that are listed.
const MOST_BANS: usize = 20;
const SET_POOL: &str = "set pool to a range that no route covers";

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// Works, with something worth knowing.
    Note,
    /// Could not be looked at by this user.
    Unseen,
    /// Does not work without a remedy.
    Fail,
}

/// The result of one check.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    subject: &'static str,
    found: String,
    advice: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject, found: found.into(), advice: None }
    }

    fn note(subject: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Note, subject, found: found.into(), advice: Some(advice.into()) }
    }

    fn unseen(subject: &'static str, why: impl Into<String>) -> Self {
        let advice = Some("run it as root to see it".to_owned());
        Self { level: Level::Unseen, subject, found: why.into(), advice }
    }

    fn fail(subject: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Fail, subject, found: found.into(), advice: Some(advice.into()) }
    }
}

/// Checks the host. The exit status is 3 if a check fails.
pub(crate) fn run<K: Kernel>(node: &mut Node<K>, output: Output) -> Result<ExitCode, CliError> {
    const HOST: u8 = 3;
    let config = node.config().clone();
    let open = node.left_open().ok();
    let flaws = node.uplink_flaws().unwrap_or_default();
    let checked = node.check();
    let mut findings = look(&config, node.kernel(), open.as_ref(), &flaws);
    findings.extend(functions(checked));
    output.print(
        || {
            let rows: Vec<_> = findings.iter().flat_map(row).collect();
            render::table(&["", "WHAT", "FOUND"], &rows)
        },
        || &findings,
    )?;
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    Ok(if failed { ExitCode::from(HOST) } else { ExitCode::SUCCESS })
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Note => "note",
        Level::Unseen => "?",
        Level::Fail => "FAIL",
    }
}

fn row(finding: &Finding) -> Vec<Vec<String>> {
    let Finding { level: how, subject, found, advice } = finding;
    let mut rows = vec![vec![level(*how).to_owned(), (*subject).to_owned(), found.clone()]];
    rows.extend(advice.iter().map(|a| vec![String::new(), String::new(), format!("-> {a}")]));
    rows
}

fn look(
    config: &Config,
    kernel: &mut impl Kernel,
    open: Option<&Confinement>,
    flaws: &[UplinkFlaw],
) -> Vec<Finding> {
    let decided = decided(config);
    let mut findings = vec![privilege(), tun()];
    findings.extend(firewall(config, decided, kernel));
    findings.push(forwarding(kernel));
    findings.extend(read_only_sysctls(config, kernel));
    findings.extend(open.filter(|open| !open.is_empty()).map(left_open));
    findings.extend(other_firewalls(kernel));
    findings.push(uplink(config, kernel));
    findings
        .extend(flaws.iter().map(|flaw| Finding::note("uplink", flaw.to_string(), flaw.advice())));
    findings.push(loopback(kernel));
    findings.extend(resolvers(kernel));
    findings.extend(pool(config, decided, kernel));
    findings.extend(decided.and_then(|(_, pool)| routing_rule(pool, kernel)));
    findings.push(state(config));
    let facts = riklet_vmm::supervisor::facts();
    findings.extend(vmms(&facts));
    findings.extend(vmm_users(&facts, config));
    findings
}

/// Returns a note if the users that VMMs run as by default cannot open what each VMM opens.
fn vmm_users(facts: &Facts, config: &Config) -> Option<Finding> {
    const TUN: &str = "/dev/net/tun";
    if !geteuid().is_root() || facts.programs.is_empty() {
        return None;
    }
    let users = config.vmm.vmm_users;
    if let Some(conflict) = host_accounts::conflict(users) {
        return Some(Finding::fail("VMMs' users", conflict.to_string(), BlockConflict::HINT));
    }
    let user = Credentials { uid: users.shared(), gid: users.shared() };
    let advice = "`chmod 666 /dev/net/tun`, as udev does; or name `user: root` in a definition that you trust";
    (!image::opens_device(TUN, user, &[]))
        .then(|| Finding::note("VMMs' users", format!("they may not open {TUN}"), advice))
}

/// Returns the findings about the VMMs that `run` can use.
fn vmms(facts: &Facts) -> Vec<Finding> {
    let found: Vec<_> =
        facts.programs.iter().map(|(vmm, path)| format!("{vmm} ({})", path.display())).collect();
    if found.is_empty() {
        let advice = "`run` has the builtin guest; install firecracker, qemu or cloud-hypervisor";
        return vec![Finding::note("microVMs", "no VMM on the PATH", advice)];
    }
    let without = "firecracker and cloud-hypervisor need it; qemu does without: accelerator tcg";
    let kvm = match facts.kvm {
        Kvm::Opens if is_guest() => Finding::note(
            "KVM",
            "/dev/kvm can be opened, and this host is a virtual machine itself",
            "where a microVM hangs before its first line: qemu with accelerator tcg",
        ),
        Kvm::Opens => Finding::ok("KVM", "/dev/kvm can be opened"),
        Kvm::Missing => Finding::note("KVM", "there is no /dev/kvm", without),
        Kvm::Denied => Finding::note("KVM", "/dev/kvm may not be opened", without),
    };
    vec![Finding::ok("microVMs", found.join(", ")), kvm]
}

/// Tells whether this host is itself a guest, as the processor reports (CPUID leaf 1, ECX bit 31).
fn is_guest() -> bool {
    let text = input::read(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

fn privilege() -> Finding {
    match input::require_privilege() {
        Ok(()) => Finding::ok("privilege", "CAP_NET_ADMIN"),
        Err(_) => Finding::unseen("privilege", "no CAP_NET_ADMIN: not everything can be looked at"),
    }
}

fn tun() -> Finding {
    match input::open_tun().map_err(io::Error::from) {
        Ok(()) => Finding::ok("TAPs", "/dev/net/tun can be opened"),
        Err(error)
            if error.kind() == io::ErrorKind::PermissionDenied
                && input::require_privilege().is_err() =>
        {
            Finding::unseen("TAPs", format!("/dev/net/tun: {error}"))
        }
        Err(error) => {
            let advice = tun_advice(&error);
            Finding::fail("TAPs", format!("/dev/net/tun: {error}"), advice)
        }
    }
}

fn firewall(
    config: &Config,
    decided: Option<(Backend, Pool)>,
    kernel: &mut (impl ForeignChains + HostFacts + NetworkManagers + Routes),
) -> Vec<Finding> {
    let uplinks = uplinks(config, kernel).unwrap_or_default();
    let nftables = match kernel.foreign_chains(Backend::Nftables, &uplinks) {
        Ok(_) => Finding::ok("nf_tables", "the kernel has it"),
        Err(error) => unreadable("nf_tables", &error, "`modprobe nf_tables`, or use iptables"),
    };
    let variant = kernel.iptables();
    let iptables = match &variant {
        Ok(Some(variant)) => Finding::ok("iptables", Backend::Iptables(*variant).as_str()),
        Ok(None) if config.firewall == FirewallChoice::Iptables => Finding::fail(
            "iptables",
            "configured, and not there",
            "install it, or set firewall to nftables",
        ),
        Ok(None) => Finding::ok("iptables", "not there; nf_tables needs no program"),
        Err(error) => unreadable("iptables", error, "repair it, or set firewall to nftables"),
    };
    let mut findings = vec![nftables, iptables];
    let backend = match (decided, config.firewall, variant) {
        (Some((backend, _)), ..) => Some((backend, "is used")),
        (None, FirewallChoice::Auto | FirewallChoice::Iptables, Ok(Some(variant))) => {
            Some((Backend::Iptables(variant), "will be used"))
        }
        (None, FirewallChoice::Auto, Ok(None)) | (None, FirewallChoice::Nftables, _) => {
            Some((Backend::Nftables, "will be used"))
        }
        (None, ..) => None,
    };
    if let Some((backend, how)) = backend {
        findings.push(Finding::ok("firewall", format!("{backend} {how}")));
        let foreign_chains = kernel.foreign_chains(backend, &uplinks).unwrap_or_default();
        let files = kernel.manager_files().unwrap_or_default();
        findings.extend(plan::cut_offs(&foreign_chains, &files).iter().map(cut_off));
        let changeable = foreign_chains.iter().filter(|state| state.drops && !state.is_blocked());
        findings.extend(changeable.map(foreign_chain));
        findings.extend(kernel.drops_around(&uplinks).unwrap_or_default().iter().map(dropping));
        let pool = decided.map(|(_, pool)| pool).or(config.pool);
        let pool = pool.or_else(|| Pool::candidates().first().copied());
        let found = kernel.bans().unwrap_or_default().into_iter();
        findings.extend(bans(
            found.filter(|ban| pool.is_some_and(|pool| ban.concerns(pool.v4()))).collect(),
        ));
    }
    findings
}

/// Returns the findings about what is recorded, compared with the kernel: objects of other records, and what may surprise the
/// users of instances.
fn functions(checked: Result<Drift, NodeError>) -> Vec<Finding> {
    match checked {
        Ok(drift) => {
            // One of several says whose they are.
            let claim = drift.plan.claims.first().map(|claim| {
                let claimed = NodeError::Claimed {
                    claims: drift.plan.claims.clone(),
                    state_dir: PathBuf::new(),
                };
                Finding::fail("records", claim.to_string(), claimed.hint().unwrap_or_default())
            });
            claim.into_iter().chain(drift.warnings.iter().map(warning)).collect()
        }
        // The finding about the records has the reason otherwise.
        Err(_) if input::require_privilege().is_err() => {
            vec![Finding::unseen(
                "ports",
                "who else has the ports of functions, and whose functions are",
            )]
        }
        Err(_) => vec![],
    }
}

/// Returns the findings about rules of others that drop packets of many addresses: those of most addresses first.
fn bans(mut found: Vec<Ban>) -> Vec<Finding> {
    const ADVICE: &str = "functions with these addresses, or clients with them, are cut off; if that is not intended, narrow \
        the rule, or accept packets from and to rik* before it";
    found.sort_by_key(|ban| Reverse(ban.further_addresses()));
    let more = found.split_off(found.len().min(MOST_BANS)).len();
    let named = found.iter().map(ToString::to_string);
    let rest = match more {
        0 => None,
        1 => Some("one more rule drops packets of as many addresses or fewer".to_owned()),
        more => Some(format!("{more} more rules drop packets of as many addresses or fewer")),
    };
    named.chain(rest).map(|found| Finding::note("firewall", found, ADVICE)).collect()
}

/// Returns the finding about what may surprise the users of an instance.
fn warning(warning: &Warning) -> Finding {
    let advice = match warning {
        Warning::AbsentAddress(_) => "give the host the address, or correct hostAddress",
        _ => {
            "publish another port, or have the other one use another; its clients reach the function"
        }
    };
    Finding::note("ports", warning.to_string(), advice)
}

/// Returns the finding about a chain of others, before or after the hook forward, that drops guests' packets.
fn dropping(chain: &String) -> Finding {
    Finding::note(
        "firewall",
        format!("{chain}: somebody else's chain, drops guests' packets"),
        "if that is not intended, have it accept packets from and to rik* first; `up` changes only chains of forwarded packets",
    )
}

fn cut_off(cut_off: &CutOff) -> Finding {
    let CutOff { foreign_chain, advice } = cut_off;
    Finding::fail(
        "FORWARD",
        format!(
            "{foreign_chain}: drops guests' packets, and only the process that owns its table can change it"
        ),
        match advice {
            Advice::Reload => format!("{advice}; `up` and `serve` write them"),
            Advice::Install | Advice::AskOwner => advice.to_string(),
        },
    )
}

fn foreign_chain(state: &ForeignChainState) -> Finding {
    if state.open {
        return Finding::ok("FORWARD", format!("{}: guests' packets pass", state.foreign_chain));
    }
    Finding::note(
        "FORWARD",
        format!("{}: somebody else's chain, drops guests' packets", state.foreign_chain),
        "nothing to do: `up` lets guests' packets pass it, and no others",
    )
}

/// Returns the backend and the pool that the node has used since its first instance.
fn decided(config: &Config) -> Option<(Backend, Pool)> {
    let store = Store::open_existing(&config.state_dir).ok()??;
    let setting = |setting| store.setting(setting).ok().flatten();
    let backend = Backend::from_name(&setting(Setting::Backend)?)?;
    Some((backend, setting(Setting::Pool)?.parse().ok()?))
}

fn forwarding(kernel: &mut impl Sysctls) -> Finding {
    match kernel.sysctl(IP_FORWARD) {
        Ok(Some(value)) if value == "1" => Finding::ok("forwarding", "on"),
        Ok(Some(_)) => Finding::note(
            "forwarding",
            "off for the host as a whole",
            "nothing to do: `up` turns it on for the interfaces that guests are reached by, and \
             `down --all --purge` off again",
        ),
        Ok(None) => Finding::fail("forwarding", format!("no sysctl {IP_FORWARD}"), "mount /proc"),
        Err(error) => unreadable("forwarding", &error, "mount /proc"),
    }
}

/// Returns a finding for each sysctl that `up` would have to set and cannot write. If all of them are right, returns
/// one finding; if they can be written, none.
fn read_only_sysctls(config: &Config, kernel: &mut (impl Routes + Sysctls)) -> Vec<Finding> {
    if input::require_privilege().is_err() {
        return vec![Finding::unseen("sysctls", "whether they can be written")];
    }
    let uplinks = config.uplinks.clone().map_or_else(|| kernel.uplinks(), Ok).unwrap_or_default();
    let needed = [switch::disable_ipv6("default")];
    let needed = needed.into_iter().chain(uplinks.iter().map(switch::forwarding));
    let read_only = needed.filter(|name| matches!(kernel.sysctl_is_writable(name), Ok(false)));
    let read_only: Vec<_> = read_only.collect();
    let wrong = read_only.iter().filter_map(|name| {
        let value = kernel.sysctl(name).ok().flatten().filter(|value| value != ON)?;
        Some(Finding::fail(
            "sysctls",
            format!("{name} is {value}, must be {ON}, and cannot be written"),
            format!("`sysctl -w {name}={ON}` where /proc/sys can be written"),
        ))
    });
    let wrong: Vec<_> = wrong.collect();
    if wrong.is_empty() && !read_only.is_empty() {
        return vec![Finding::ok("sysctls", "read-only, and as functions need them")];
    }
    wrong
}

/// Returns the finding about packets that the host forwards only because of us.
fn left_open(open: &Confinement) -> Finding {
    let list = |names: Vec<&InterfaceName>| {
        names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let (from, to) = (list(open.from().iter().collect()), list(open.to().iter().collect()));
    Finding::note(
        "forwarding",
        format!("only because functions are up, packets from {from} are forwarded to {to}"),
        "`riklet-sdn serve` drops them, and allows them once somebody sets ip_forward to 1",
    )
}

/// Returns a finding for each firewall that may reload its rules, recognized by what it leaves on a host.
fn other_firewalls(kernel: &mut impl Links) -> Vec<Finding> {
    let mut has_link = |name: &str| {
        let name = InterfaceName::try_from(name).ok();
        name.is_some_and(|name| matches!(kernel.link(&name), Ok(Some(_))))
    };
    let docker = has_link("docker0");
    let podman = has_link("podman0") || has_link("cni-podman0");
    let ufw = input::read(Path::new("/etc/ufw/ufw.conf"));
    let ufw = ufw.is_ok_and(|text| text.lines().any(|line| line.trim() == "ENABLED=yes"));
    let firewalld = Path::new("/run/firewalld").exists();
    let seen = [("Docker", docker), ("Podman", podman), ("ufw", ufw), ("firewalld", firewalld)];
    let seen = seen.into_iter().filter(|(_, seen)| *seen);
    seen.map(|(name, _)| {
        Finding::note(
            "firewall",
            format!("{name} seen"),
            "after it reloads its rules: `riklet-sdn repair`",
        )
    })
    .collect()
}

fn uplink(config: &Config, kernel: &mut (impl Links + Routes)) -> Finding {
    let names = match uplinks(config, kernel) {
        Err(error) => return unreadable("uplink", &error, "set uplink"),
        Ok(names) => names,
    };
    if names.is_empty() {
        return Finding::note(
            "uplink",
            "no default route",
            "guests do not reach the Internet; published ports work. Add a route, or set uplink",
        );
    }
    if let Some(missing) = names.iter().find(|name| matches!(kernel.link(name), Ok(None))) {
        let advice = "guests do not reach the Internet by it; published ports work. Correct uplink";
        return Finding::note("uplink", format!("there is no interface {missing}"), advice);
    }
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    Finding::ok("uplink", names.join(", "))
}

/// Returns the configured uplinks, or those of the default route.
fn uplinks(
    config: &Config,
    kernel: &mut impl Routes,
) -> Result<BTreeSet<InterfaceName>, KernelError> {
    match &config.uplinks {
        Some(configured) => Ok(configured.clone()),
        None => kernel.uplinks(),
    }
}

/// Returns a finding if guests get no name server of the host's.
fn resolvers(kernel: &mut impl HostFacts) -> Option<Finding> {
    match kernel.resolvers() {
        Ok(servers) => servers.is_empty().then(|| {
            Finding::note(
                "DNS",
                "the host names no server that a guest can reach: its loopback is out of reach",
                "set `dns` in definitions; a guest without it has no name server",
            )
        }),
        Err(error) => Some(unreadable("DNS", &error, "set `dns` in definitions")),
    }
}

fn loopback(kernel: &mut impl Links) -> Finding {
    let link = InterfaceName::try_from("lo").ok().map(|name| kernel.link(&name));
    match link {
        Some(Ok(Some(link))) if link.up => Finding::ok("loopback", "up"),
        Some(Err(error)) => unreadable("loopback", &error, "a kernel with rtnetlink is needed"),
        _ => Finding::note(
            "loopback",
            "lo is down",
            "published ports do not answer at 127.0.0.1: `ip link set lo up`",
        ),
    }
}

fn pool(
    config: &Config,
    decided: Option<(Backend, Pool)>,
    kernel: &mut impl Routes,
) -> Vec<Finding> {
    let mut overlap = |pool| overlapping_route(kernel, pool);
    let unanswered = |error| vec![unreadable("pool", &error, "a kernel with rtnetlink is needed")];
    let overlaps = |pool, route| format!("{pool} overlaps the route to {route}");
    let theirs = format!("addresses there that guests get are theirs; {SET_POOL}");
    if let Some((_, pool)) = decided {
        return match overlap(pool) {
            Err(error) => unanswered(error),
            Ok(None) => vec![Finding::ok("pool", format!("{pool} is used"))],
            Ok(Some(route)) => {
                let within = route.destination.prefix_len() > pool.v4().prefix_len();
                let spared = within && config.pool.is_none();
                let advice = if spared {
                    "nothing to do: new functions get other addresses"
                } else {
                    &*theirs
                };
                vec![Finding::note(
                    "pool",
                    format!("{pool} is used, and overlaps the route to {route}"),
                    advice,
                )]
            }
        };
    }
    let free = |pool| Finding::ok("pool", format!("{pool} overlaps no route"));
    if let Some(pool) = config.pool {
        return match overlap(pool) {
            Err(error) => unanswered(error),
            Ok(None) => vec![free(pool)],
            Ok(Some(route)) => vec![Finding::note("pool", overlaps(pool, route), theirs)],
        };
    }
    let mut findings = Vec::new();
    for pool in Pool::candidates() {
        let route = match overlap(pool) {
            Err(error) => return unanswered(error),
            Ok(None) => {
                findings.push(free(pool));
                return findings;
            }
            Ok(Some(route)) => route,
        };
        let advice = "nothing to do: the next candidate is taken";
        findings.push(Finding::note("pool", overlaps(pool, route), advice));
    }
    findings.push(Finding::fail("pool", "every candidate overlaps a route", SET_POOL));
    findings
}

/// Returns a finding that names a routing rule that may divert packets to guests, and that none of ours can precede.
fn routing_rule(pool: Pool, kernel: &mut impl Routes) -> Option<Finding> {
    let rules = match kernel.rules() {
        Ok(rules) => rules,
        Err(error) => {
            let advice = "a kernel with rtnetlink is needed";
            return Some(unreadable("routing", &error, advice));
        }
    };
    let (marks, ways) = (UplinkMarks::default(), BTreeMap::new());
    let rule = routing::decide(pool.v4(), &rules, &marks, &ways).unanswered?;
    Some(Finding::note(
        "routing",
        format!("the rule {rule} may take packets to functions elsewhere"),
        "give it a priority of 3 or more: then rules of ours come before it",
    ))
}

fn state(config: &Config) -> Finding {
    let dir = config.state_dir.display();
    match Store::open_existing(&config.state_dir).and_then(|s| s.map(|s| s.count()).transpose()) {
        Ok(None) => Finding::ok("records", format!("none yet in {dir}")),
        Ok(Some(count)) => Finding::ok("records", format!("{count} in {dir}")),
        Err(error) if error.is_permission() => Finding::unseen("records", chain(&error)),
        Err(error) => {
            let advice = error.hint().unwrap_or_else(|| "use another --state-dir".to_owned());
            Finding::fail("records", chain(&error), advice)
        }
    }
}

fn unreadable(subject: &'static str, error: &KernelError, advice: &'static str) -> Finding {
    if error.refusal().is_permission() {
        return Finding::unseen(subject, chain(error));
    }
    Finding::fail(subject, chain(error), advice)
}

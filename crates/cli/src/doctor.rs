//! `doctor`: looks at what this host has and lacks, and suggests remedies.

mod daemon;
mod finding;
mod microvm;
mod network;
mod records;

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use riklet_core::{
    firewall::{Backend, Ban, Confinement, Entry, ForeignChainState, PortBan},
    model::{Egress, InterfaceName, Pool},
    plan::{self, Advice, CutOff},
};
use riklet_kernel::{Firewall, ForeignChains, HostFacts, Kernel, Links, NetworkManagers, Routes};
use riklet_sdn::{
    Config, Drift, FirewallChoice, ListedInstance, Node, NodeError, UplinkFlaw, Warning,
    store::StoreError,
};

use self::{
    finding::{Finding, Level, row, unreadable},
    microvm::{privilege, tun, vmm_users, vmms},
    network::{
        forwarding, left_open, loopback, pool, read_only_sysctls, resolvers, routing_rule, uplink,
        uplinks,
    },
    records::Records,
};
use super::{
    error::{CliError, chain},
    input,
    output::Output,
    render,
};

/// The number of bans that are listed.
const MOST_BANS: usize = 20;

/// Checks the host. The exit status is 3 if a check fails.
pub(crate) fn run<K: Kernel>(node: &mut Node<K>, output: Output) -> Result<ExitCode, CliError> {
    const HOST: u8 = 3;
    let config = node.config().clone();
    let records = Records::open(&config);
    let at_rest = records.are_at_rest();
    let open = if at_rest { node.left_open().ok() } else { None };
    let flaws = node.uplink_flaws().unwrap_or_default();
    let checked = at_rest.then(|| node.check());
    let listed = if at_rest { node.list().unwrap_or_default() } else { vec![] };
    let functions_of = (&records, &published(&listed));
    let mut findings = look(&config, node.kernel(), (open.as_ref(), &flaws), functions_of);
    findings.extend(checked.into_iter().flat_map(functions));
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

fn look(
    config: &Config,
    kernel: &mut impl Kernel,
    (open, flaws): (Option<&Confinement>, &[UplinkFlaw]),
    (records, published): (&Records, &BTreeSet<Entry>),
) -> Vec<Finding> {
    let decided = records.decided();
    let mut findings = vec![privilege(), tun()];
    findings.extend(firewall(config, records, kernel, published));
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
    findings.extend(records.findings(&config.state_dir));
    findings.extend(daemon::stopped(&config.state_dir));
    let facts = riklet_vmm::supervisor::facts();
    findings.extend(vmms(&facts));
    findings.extend(vmm_users(&facts, config));
    findings
}

fn firewall(
    config: &Config,
    records: &Records,
    kernel: &mut (impl Firewall + ForeignChains + HostFacts + NetworkManagers + Routes),
    published: &BTreeSet<Entry>,
) -> Vec<Finding> {
    let decided = records.decided();
    let uplinks = uplinks(config, kernel).unwrap_or_default();
    let nftables = match kernel.foreign_chains(Backend::Nftables, &uplinks) {
        Ok(_) => Finding::ok("nf_tables", "the kernel has it"),
        Err(error) => unreadable(
            "nf_tables",
            &error,
            "`modprobe nf_tables`; without it no function can have a policy (`network.egress`)",
        ),
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
        findings.extend(refusal(config.egress.or_else(|| records.egress()), backend, kernel));
        let foreign_chains = kernel.foreign_chains(backend, &uplinks).unwrap_or_default();
        let files = kernel.manager_files().unwrap_or_default();
        findings.extend(plan::cut_offs(&foreign_chains, &files).iter().map(cut_off));
        let changeable = foreign_chains.iter().filter(|state| state.drops && !state.is_blocked());
        let in_use = !published.is_empty();
        findings.extend(changeable.map(|state| foreign_chain(state, in_use)));
        findings.extend(kernel.drops_around(&uplinks).unwrap_or_default().iter().map(dropping));
        let pool = decided.map(|(_, pool)| pool).or(config.pool);
        let pool = pool.or_else(|| Pool::candidates().first().copied());
        let found = kernel.bans().unwrap_or_default().into_iter();
        findings.extend(bans(
            found.filter(|ban| pool.is_some_and(|pool| ban.concerns(pool.v4()))).collect(),
        ));
        if !published.is_empty() {
            let found = kernel.port_bans(&uplinks, published).unwrap_or_default();
            findings.extend(port_bans(&found));
        }
    }
    findings
}

/// Returns a finding if the kernel lacks what this backend refuses services of the host with, and the reach of guests asks
/// for that.
fn refusal(
    egress: Option<Egress>,
    backend: Backend,
    kernel: &mut impl Firewall,
) -> Option<Finding> {
    // Who may not ask is told so by other findings. The legacy iptables does not answer before it is loaded.
    let lacks = egress.unwrap_or_default() != Egress::All
        && matches!(kernel.can_refuse(backend), Ok(false));
    lacks.then(|| {
        Finding::fail(
            "firewall",
            "the kernel lacks the match `socket`, by which iptables refuses services of the host to guests: `up` fails",
            "install its module xt_socket, set firewall to nftables, or let guests reach everything: set egress to all",
        )
    })
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
        Err(_) if input::require_privilege().is_err() => {
            vec![Finding::unseen(
                "ports",
                "which ports of functions somebody else has, and whose the functions on this host are",
            )]
        }
        // The finding about the records has the reason.
        Err(NodeError::Store(error)) if !matches!(error, StoreError::Busy { .. }) => vec![],
        Err(error) => {
            let advice = error.hint().unwrap_or_else(|| "mend that, and run it again".to_owned());
            let found = format!("not compared with the records: {}", chain(&error));
            vec![Finding::fail("functions", found, advice)]
        }
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

/// Returns the exposures of these instances, as the firewall has them.
fn published(instances: &[ListedInstance]) -> BTreeSet<Entry> {
    let of = |listed: &ListedInstance| {
        let guests: Vec<_> = listed.instance.addresses.guests().collect();
        let entries = listed.instance.workload.exposures().iter().flat_map(|exposure| {
            guests.iter().map(|guest| Entry::Exposure {
                protocol: exposure.protocol(),
                host_address: exposure.host_address(),
                host_ports: exposure.host_ports(),
                guest: *guest,
                guest_ports: exposure.guest_ports(),
            })
        });
        entries.collect::<Vec<_>>()
    };
    instances.iter().flat_map(of).collect()
}

/// Returns the findings about rules of others that drop packets for published ports.
fn port_bans(found: &BTreeSet<PortBan>) -> Vec<Finding> {
    const ADVICE: &str = "clients do not reach the function; if that is not intended, narrow the rule, or accept packets to rik* \
        before it";
    let more = found.len().saturating_sub(MOST_BANS);
    let rest =
        (more > 0).then(|| format!("more published ports that rules drop packets for: {more}"));
    let named = found.iter().take(MOST_BANS).map(ToString::to_string);
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

/// Returns the finding about a chain of others that drops our traffic, on a node that publishes ports or not.
fn foreign_chain(state: &ForeignChainState, in_use: bool) -> Finding {
    let ForeignChainState { foreign_chain, open, .. } = state;
    if *open {
        return Finding::ok("FORWARD", format!("{foreign_chain}: guests' packets pass"));
    }
    if in_use {
        let found = format!(
            "{foreign_chain}: somebody else's chain, drops guests' packets, and our passage through it is not in its place"
        );
        let advice = "`riklet-sdn repair` puts it there; the daemon does so by itself";
        return Finding::fail("FORWARD", found, advice);
    }
    Finding::note(
        "FORWARD",
        format!("{foreign_chain}: somebody else's chain, drops guests' packets"),
        "nothing to do: `up` lets guests' packets pass it, and no others",
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

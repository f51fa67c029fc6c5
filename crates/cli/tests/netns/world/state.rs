//! Everything that a program may leave behind in a namespace, as text that can be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
};

use serde_json::Value;

use super::{Firewall, Namespace, namespace::read_proc};

/// The directories of a namespace's sysctls, under `/proc/sys`.
const SYSCTLS: [&str; 3] = ["net/ipv4", "net/ipv6", "net/netfilter"];
/// Sysctls whose values the kernel changes by itself.
const VOLATILE_SYSCTLS: [&str; 1] = ["net/netfilter/nf_conntrack_count"];
/// Fields of `ip` that change as time goes by.
const VOLATILE_FIELDS: [&str; 4] =
    ["valid_life_time", "preferred_life_time", "tentative", "operstate"];

/// A snapshot in parts. Each part is a list of lines, in an order that has a meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SystemState(BTreeMap<&'static str, Vec<String>>);

impl SystemState {
    /// Takes a snapshot, which changes nothing.
    #[track_caller]
    pub(crate) fn take(namespace: &Namespace) -> Self {
        let nft = namespace.tool(&["nft", "--stateless", "list", "ruleset"]);
        let nft_tables = |family: &str| nft.lines().any(|line| table_of_iptables(line, family));
        let legacy = |file: &str| {
            let path = Path::new("/proc/thread-self/net").join(file);
            namespace.run(|| read_proc(&path)).is_some_and(|names| !names.is_empty())
        };
        // Reading tables that do not exist would create them.
        let saved = |asked: bool, variant: Firewall, program: &str| {
            let saved = asked.then(|| namespace.feed(&[variant.xtables(), program], ""));
            saved.map(|output| rules(&output.stdout)).unwrap_or_default()
        };
        let legacy_rules = |names: &str, program: &str| {
            used_tables(&saved(legacy(names), Firewall::IptablesLegacy, program))
        };
        let parts = [
            ("links", json_lines(&namespace.tool(&["ip", "-j", "-d", "link"]))),
            ("addresses", addresses(namespace)),
            ("routes", routes(namespace)),
            (
                "permanent neighbours",
                json_lines(&namespace.tool(&["ip", "-j", "neighbour", "show", "nud", "permanent"])),
            ),
            ("policy routing", json_lines(&namespace.tool(&["ip", "-j", "rule"]))),
            ("nftables", nested(&nft)),
            ("iptables-nft", saved(nft_tables("ip"), Firewall::IptablesNft, "iptables-save")),
            ("ip6tables-nft", saved(nft_tables("ip6"), Firewall::IptablesNft, "ip6tables-save")),
            ("iptables-legacy", legacy_rules("ip_tables_names", "iptables-save")),
            ("ip6tables-legacy", legacy_rules("ip6_tables_names", "ip6tables-save")),
            ("sysctls", sysctls(namespace)),
        ];
        Self(parts.into())
    }

    /// Replaces the lines of each part by the ones that `change` returns.
    #[allow(dead_code, reason = "of the tests in neighbours")]
    pub(crate) fn with_parts(self, change: impl Fn(&str, Vec<String>) -> Vec<String>) -> Self {
        let change = |(part, lines)| (part, change(part, lines));
        Self(self.0.into_iter().map(change).collect())
    }

    /// Splits the state into the firewalls' parts and the rest. The firewalls' parts can be compared with those of
    /// other nodes.
    pub(crate) fn firewall_and_rest(self) -> (Self, Self) {
        let (firewall, rest) = self.0.into_iter().partition(|(part, _)| part.contains("tables"));
        (Self(firewall), Self(rest))
    }

    /// Returns the differences, one per line: `-` for removed lines, `+` for new ones. Empty if there are none.
    pub(crate) fn differences(&self, after: &Self) -> String {
        let mut text = String::new();
        for (part, before) in &self.0 {
            let after = after.0.get(part).map_or(&[][..], Vec::as_slice);
            if before == after {
                continue;
            }
            let (gone, new) = (without(before, after), without(after, before));
            writeln!(text, "{part}:").expect("a String");
            for (sign, lines) in [('-', &gone), ('+', &new)] {
                for line in lines {
                    writeln!(text, "  {sign} {line}").expect("a String");
                }
            }
            if gone.is_empty() && new.is_empty() {
                for (before, after) in before.iter().zip(after).filter(|(one, other)| one != other)
                {
                    writeln!(text, "  in the place of {before}: {after}").expect("a String");
                }
            }
        }
        text
    }
}

/// Asserts that the two snapshots are equal.
#[track_caller]
pub(crate) fn assert_same(before: &SystemState, after: &SystemState) {
    let differences = before.differences(after);
    assert!(differences.is_empty(), "the system is not as it was:\n{differences}");
}

/// Asserts that everything from before is still there, in its order. There may be more, and the sysctls that a
/// forwarding node needs may have changed (`inet_forward_change` of the kernel's net/ipv4/devinet.c).
#[track_caller]
pub(crate) fn assert_kept(before: &SystemState, after: &SystemState) {
    let forwards = |line: &str| {
        let name = line.split(" = ").next().unwrap_or_default();
        ["/ip_forward", "/forwarding", "all/accept_redirects"].iter().any(|end| name.ends_with(end))
    };
    for (part, before) in &before.0 {
        let mut after = after.0.get(part).into_iter().flatten();
        for line in before.iter().filter(|line| *part != "sysctls" || !forwards(line)) {
            let kept = after.by_ref().any(|other| other == line);
            assert!(kept, "{part}: gone, or in another place: {line}");
        }
    }
}

/// Returns the lines that remain after each line of `others` has removed one equal line.
fn without<'a>(lines: &'a [String], others: &[String]) -> Vec<&'a String> {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for line in others {
        *counts.entry(line).or_default() += 1;
    }
    let is_left = |line: &&String| match counts.get_mut(line.as_str()) {
        Some(count @ 1..) => {
            *count -= 1;
            false
        }
        _ => true,
    };
    lines.iter().filter(is_left).collect()
}

/// Returns the objects of an array that `ip -j` printed.
fn json(text: &str) -> Vec<Value> {
    // Some versions print nothing for an empty array.
    let text = if text.trim().is_empty() { "[]" } else { text };
    let mut values: Vec<Value> = serde_json::from_str(text).expect("JSON of `ip`");
    values.iter_mut().for_each(forget_volatile);
    values
}

/// Returns the objects of an array that `ip -j` printed, as sorted text.
fn json_lines(text: &str) -> Vec<String> {
    sorted(json(text).iter().map(Value::to_string))
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines
}

fn addresses(namespace: &Namespace) -> Vec<String> {
    let links = json(&namespace.tool(&["ip", "-j", "address"]));
    sorted(links.iter().flat_map(|link| {
        let of_link = link["addr_info"].as_array().into_iter().flatten();
        of_link.map(move |address| format!("{} {address}", link["ifname"]))
    }))
}

fn forget_volatile(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in VOLATILE_FIELDS {
                fields.remove(name);
            }
            fields.values_mut().for_each(forget_volatile);
        }
        Value::Array(values) => values.iter_mut().for_each(forget_volatile),
        _ => {}
    }
}

fn routes(namespace: &Namespace) -> Vec<String> {
    let of = |family| {
        json_lines(&namespace.tool(&["ip", "-j", family, "route", "show", "table", "all"]))
    };
    [of("-4"), of("-6")].concat()
}

/// Tells whether this line of `nft` opens a table that `iptables` (family `ip`) or `ip6tables` may have created.
fn table_of_iptables(line: &str, family: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    matches!(words[..], ["table", of, "filter" | "nat" | "mangle" | "raw" | "security", "{"]
        if of == family)
}

/// Returns the lines of `nft list ruleset`, each after its table and its chain.
fn nested(text: &str) -> Vec<String> {
    let mut blocks: Vec<&str> = Vec::new();
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "}") {
        // `nft` does not indent the first line of a table; everything inside is indented.
        if line.starts_with("table ") {
            blocks.clear();
        } else if ["chain ", "set ", "map ", "flowtable "].iter().any(|word| line.starts_with(word))
        {
            blocks.truncate(1);
        }
        lines.push(blocks.iter().chain(&[line]).copied().collect::<Vec<_>>().join(" "));
        if let Some(block) = line.strip_suffix(" {") {
            blocks.truncate(1);
            blocks.push(block);
        }
    }
    lines
}

/// Returns the lines of `iptables-save` without comments and counters.
fn rules(saved: &str) -> Vec<String> {
    saved
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| match line.split_once(" [") {
            Some((chain, _)) if line.starts_with(':') => chain.to_owned(),
            _ => line.to_owned(),
        })
        .collect()
}

/// Removes the tables that have no rules: the legacy variant cannot remove a table once it has been read. Sorts the others:
/// they are listed in the order of their first use.
fn used_tables(lines: &[String]) -> Vec<String> {
    let says_nothing = |line: &String| {
        line.starts_with('*')
            || line == "COMMIT"
            || line.ends_with(" ACCEPT") && line.starts_with(':')
    };
    let tables = lines.split_inclusive(|line| line == "COMMIT");
    let used: BTreeSet<_> = tables.filter(|table| !table.iter().all(says_nothing)).collect();
    used.into_iter().flatten().cloned().collect()
}

fn sysctls(namespace: &Namespace) -> Vec<String> {
    let root = Path::new("/proc/sys");
    let collect = || {
        let mut found = BTreeSet::new();
        for directory in SYSCTLS {
            collect_sysctls(root, &root.join(directory), &mut found);
        }
        found
    };
    namespace.run(collect).into_iter().collect()
}

fn collect_sysctls(root: &Path, directory: &Path, found: &mut BTreeSet<String>) {
    // The directory of an interface vanishes with it.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if path.is_dir() {
            collect_sysctls(root, &path, found);
        } else if !VOLATILE_SYSCTLS.contains(&&*name)
            && let Some(value) = read_proc(&path)
        {
            found.insert(format!("{name} = {value}"));
        }
    }
}

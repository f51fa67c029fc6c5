//! The parts of two hosts' states that are equal if the hosts were treated alike.

use crate::world::state::SystemState;

/// Fields of `ip -j` that differ from host to host: interface numbers, and identifiers derived from addresses.
const DIFFERENT: [&str; 7] =
    ["ifindex", "link_index", "link_netnsid", "address", "permaddr", "bridge_id", "root_id"];

/// Removes from a state everything that differs from host to host, and any order that has no meaning.
pub(crate) fn comparable(state: SystemState) -> SystemState {
    state.with_parts(|part, lines| {
        let lines = lines.iter().map(|line| anonymous(&without_carrier(line)));
        match part {
            "nftables" => sorted_by_chain(lines.map(|line| (String::new(), line)), 5),
            part if part.contains("tables") => {
                let mut table = String::new();
                let with_table = lines.map(|line| {
                    if let Some(name) = line.strip_prefix('*') {
                        name.clone_into(&mut table);
                    }
                    (table.clone(), line)
                });
                sorted_by_chain(with_table, 2)
            }
            _ => {
                let mut lines: Vec<String> = lines.filter(|line| !comes_late(line)).collect();
                lines.sort();
                lines
            }
        }
    })
}

/// Reports whether a line of `ip -j` is the route to a link-local address of the host itself, which the kernel adds a while after
/// the address (`addrconf_dad_work`). The addresses are compared.
fn comes_late(line: &str) -> bool {
    line.contains("\"dst\":\"link-local\"") && line.contains("\"table\":\"local\"")
}

/// Removes from a line of `ip -j` that there is no carrier, which the kernel takes a while to notice.
fn without_carrier(line: &str) -> String {
    ["\"NO-CARRIER\",", "\"linkdown\""]
        .iter()
        .fold(line.to_owned(), |line, flag| line.replace(flag, ""))
}

/// Sorts lines, each with its table, by table and chain. The order of rules in a chain is kept; the order of chains
/// has no meaning. The first `words` words of a line name its chain.
fn sorted_by_chain(lines: impl Iterator<Item = (String, String)>, words: usize) -> Vec<String> {
    let key = |(table, line): &(String, String)| {
        let chain = line.split_whitespace().take(words).collect::<Vec<_>>().join(" ");
        (table.clone(), chain)
    };
    let mut lines: Vec<_> = lines.collect();
    lines.sort_by_key(key);
    lines.into_iter().map(|(table, line)| format!("{table} {line}")).collect()
}

/// Removes hardware addresses, interface numbers, and the random names and identifiers of container engines from the
/// line.
fn anonymous(line: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    let mut text = String::new();
    let mut rest = line;
    let mut differs = false;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(length);
        rest = after;
        if !token.contains(|c: char| c.is_ascii_alphanumeric()) {
            text.push_str(token);
            continue;
        }
        text.push_str(if differs { "…" } else { placeholder(token) });
        differs = DIFFERENT.contains(&token) || token.ends_with("_timer");
    }
    text
}

fn placeholder(token: &str) -> &str {
    let hexadecimal = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit());
    let is_mac = token.len() == 17
        && token.split(':').count() == 6
        && token.split(':').all(|byte| byte.len() == 2 && hexadecimal(byte));
    if is_mac {
        "MAC"
    } else if token.starts_with("veth") {
        "veth"
    } else if token.starts_with("fe80::") || token.starts_with("ff02::1:ff") {
        "link-local"
    } else if token.len() == 64 && hexadecimal(token) {
        "identifier"
    } else {
        token
    }
}

//! What the states of two hosts have in common if they were treated alike.

use crate::world::state::SystemState;

/// Fields of `ip -j` that differ from host to host: numbers of interfaces, identifiers made of addresses.
const DIFFERENT: [&str; 7] =
    ["ifindex", "link_index", "link_netnsid", "address", "permaddr", "bridge_id", "root_id"];

/// The state without what no two hosts have in common, and without an order that means nothing.
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
                let mut lines: Vec<String> = lines.collect();
                lines.sort();
                lines
            }
        }
    })
}

/// The line of `ip -j` without what says that there is no carrier, which the kernel notices in its own time.
fn without_carrier(line: &str) -> String {
    ["\"NO-CARRIER\",", "\"linkdown\""]
        .iter()
        .fold(line.to_owned(), |line, flag| line.replace(flag, ""))
}

/// Lines, each with its table, by table and chain. The order of rules in a chain stays; that of chains means nothing.
/// The first words of a line, so many, name its chain.
fn sorted_by_chain(lines: impl Iterator<Item = (String, String)>, words: usize) -> Vec<String> {
    let key = |(table, line): &(String, String)| {
        let chain = line.split_whitespace().take(words).collect::<Vec<_>>().join(" ");
        (table.clone(), chain)
    };
    let mut lines: Vec<_> = lines.collect();
    lines.sort_by_key(key);
    lines.into_iter().map(|(table, line)| format!("{table} {line}")).collect()
}

/// The line without addresses of hardware, interfaces' numbers, and the names and identifiers that engines throw dice
/// for.
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

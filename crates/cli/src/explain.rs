use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    process::ExitCode,
};

use riklet_core::{
    address::is_of_a_host,
    explain::Origin,
    model::{PortRange, PortRangeError},
};
use riklet_kernel::Kernel;
use riklet_sdn::{
    Node,
    explain::{Explained, Peer, Question},
};
use serde_json::{Value, json};

use super::{args::ExplainArgs, error::CliError, input, output::Output};

/// The word for the node itself, and the prefix of a function's name.
const NODE: &str = "host";
const FUNCTION: &str = "function:";

pub(crate) fn run<K: Kernel>(
    node: &mut Node<K>,
    args: &ExplainArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let question = question(&args.words).map_err(|reason| CliError::Question { reason })?;
    let explained = node.explain(&question)?;
    output.print(|| text(&explained), || document(&explained))?;
    Ok(if explained.arrives() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Parses `FROM DESTINATION` or `FROM to DESTINATION`.
fn question(words: &[String]) -> Result<Question, String> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let (from, to) = match *words {
        [from, to] | [from, "to", to] if to != "to" => (from, to),
        _ => return Err("write FROM to DESTINATION, as in hello to 192.0.2.7:443".to_owned()),
    };
    let (rest, protocol) = input::split_protocol(to)?;
    let no_port = || format!("{to:?} has no port: write one after it, as in {rest}:443");
    let (place, port) = rest.rsplit_once(':').ok_or_else(no_port)?;
    let ports: PortRange = port.parse().map_err(|error: PortRangeError| error.to_string())?;
    if !ports.is_single() {
        return Err(format!("{ports} are several ports: ask for one"));
    }
    let port = ports.first();
    if place.contains(':') && place.parse::<IpAddr>().is_ok() {
        return Err(format!("{rest:?} may be an address without a port: write [{place}]:{port}"));
    }
    let from = match from {
        NODE => Peer::Node,
        _ => match address(from) {
            Some(Peer::Address(address)) if !is_of_a_host(address) => {
                return Err(format!("nobody sends packets from {address}"));
            }
            Some(address) => address,
            None => function(from.strip_prefix(FUNCTION).unwrap_or(from))?,
        },
    };
    let to = match place {
        NODE if matches!(from, Peer::Address(_)) => {
            return Err("name the address of the node that is asked, instead of host".to_owned());
        }
        NODE => Peer::Node,
        _ => match (place.strip_prefix(FUNCTION), address(place)) {
            (Some(name), _) => function(name)?,
            (None, Some(address)) => address,
            (None, None) => resolved(place, port)?,
        },
    };
    if let (Peer::Address(one), Peer::Address(other)) = (&from, &to)
        && one.is_ipv4() != other.is_ipv4()
    {
        return Err(format!("{one} and {other} are of two families: no packet has both"));
    }
    Ok(Question { from, to, protocol, port })
}

/// Returns the address of this text; `None` if it is none.
fn address(text: &str) -> Option<Peer> {
    let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inside.unwrap_or(text).parse().ok().map(Peer::Address)
}

fn function(name: &str) -> Result<Peer, String> {
    name.parse().map(Peer::Function).map_err(|error| format!("{error}"))
}

/// Returns the first address of a name, as the node resolves it: one of IPv4 if it has any.
fn resolved(name: &str, port: u16) -> Result<Peer, String> {
    let failed = |error| {
        format!("the node does not resolve {name:?} ({error}); a function is {FUNCTION}NAME")
    };
    let addresses = (name, port).to_socket_addrs().map_err(failed)?;
    let first = addresses.map(|address| address.ip()).min_by_key(IpAddr::is_ipv6);
    first.map(Peer::Address).ok_or_else(|| format!("{name:?} has no address"))
}

/// Returns the sender, in words.
fn sender(explained: &Explained) -> String {
    match (explained.packet.from, &explained.sender) {
        (Origin::Node, _) => "the node".to_owned(),
        (Origin::Guest(address), Some(name)) => format!("{name} ({address})"),
        (Origin::Guest(address), None) => format!("{address}, which no function has,"),
        (Origin::Elsewhere(address), _) => address.to_string(),
    }
}

fn text(explained: &Explained) -> String {
    let Explained { packet, explanation, obstacles, .. } = explained;
    let to = SocketAddr::new(packet.to, packet.port);
    let mut lines = vec![format!("{} to {to}/{}", sender(explained), packet.protocol)];
    let width = explanation.steps.iter().map(|step| step.chain.len()).max().unwrap_or(0);
    let steps = explanation.steps.iter();
    lines.extend(steps.map(|step| format!("  {:width$}  {}", step.chain, step.decision)));
    lines.push(if obstacles.is_empty() {
        format!("It {}.", explanation.end)
    } else {
        format!("By the rules it {}, but:", explanation.end)
    });
    lines.extend(explanation.hint.iter().map(|hint| format!("hint: {hint}")));
    for obstacle in obstacles {
        lines.extend([format!("  {}", obstacle.what), format!("  hint: {}", obstacle.hint)]);
    }
    if !explained.not_followed.is_empty() {
        let chains: Vec<_> = explained.not_followed.iter().map(String::as_str).collect();
        lines.push(format!(
            "Not followed: the rules of others in {}. They may drop or translate the packet, or its answer.",
            chains.join(", ")
        ));
    }
    lines.join("\n") + "\n"
}

fn document(explained: &Explained) -> Value {
    let Explained { packet, explanation, obstacles, .. } = explained;
    let steps = explanation.steps.iter();
    let from = match packet.from {
        Origin::Node => None,
        Origin::Guest(address) | Origin::Elsewhere(address) => Some(address),
    };
    json!({
        "from": { "address": from, "function": explained.sender.as_ref().map(ToString::to_string) },
        "to": { "address": packet.to, "port": packet.port, "protocol": packet.protocol.as_str() },
        "steps": steps
            .map(|step| json!({ "chain": step.chain, "decision": step.decision }))
            .collect::<Value>(),
        "end": explanation.end.to_string(),
        "arrives": explained.arrives(),
        "notFollowed": explained.not_followed,
        "hint": explanation.hint,
        "obstacles": obstacles
            .iter()
            .map(|obstacle| json!({ "what": obstacle.what, "hint": obstacle.hint }))
            .collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use riklet_core::model::Protocol;

    use super::*;

    fn asked(text: &str) -> Result<Question, String> {
        question(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn questions_are_read() {
        let hello = || Peer::Function("hello".parse().unwrap());
        let (client, node) = ([10, 9, 0, 2].into(), [10, 9, 0, 1].into());
        let of_v6 = || Peer::Address("2001:db8::1".parse().unwrap());
        for (text, from, to, protocol, port) in [
            (
                "10.9.0.2 to 10.9.0.1:8080/tcp",
                Peer::Address(client),
                Peer::Address(node),
                Protocol::Tcp,
                8080,
            ),
            ("hello 10.9.0.1:53/UDP", hello(), Peer::Address(node), Protocol::Udp, 53),
            ("function:hello to host:22", hello(), Peer::Node, Protocol::Tcp, 22),
            ("host to function:hello:3000", Peer::Node, hello(), Protocol::Tcp, 3000),
            ("hello to [2001:db8::1]:443/udp", hello(), of_v6(), Protocol::Udp, 443),
            ("2001:db8::1 to function:hello:80", of_v6(), hello(), Protocol::Tcp, 80),
            ("[2001:db8::1] to [2001:db8::1]:80", of_v6(), of_v6(), Protocol::Tcp, 80),
        ] {
            assert_eq!(asked(text), Ok(Question { from, to, protocol, port }), "{text}");
        }
    }

    #[test]
    fn what_is_no_question_is_refused() {
        for (text, reason) in [
            ("hello", "write FROM to DESTINATION, as in hello to 192.0.2.7:443"),
            ("hello at 10.9.0.1:80", "write FROM to DESTINATION, as in hello to 192.0.2.7:443"),
            (
                "hello to 10.9.0.1",
                "\"10.9.0.1\" has no port: write one after it, as in 10.9.0.1:443",
            ),
            (
                "hello to 10.9.0.1:http",
                "\"http\" is neither a port such as 8080 nor a range such as 8000-8010",
            ),
            ("hello to 10.9.0.1:0", "port 0 is out of range; ports are 1 to 65535"),
            ("hello to 10.9.0.1:80-81", "80-81 are several ports: ask for one"),
            ("hello to", "write FROM to DESTINATION, as in hello to 192.0.2.7:443"),
            ("224.0.0.1 to 10.9.0.1:80", "nobody sends packets from 224.0.0.1"),
            ("hello to 10.9.0.1:80/icmp", "unknown protocol \"icmp\"; tcp, udp and sctp are known"),
            ("10.9.0.2 to host:80", "name the address of the node that is asked, instead of host"),
            (
                "hello to 2001:db8::1:80",
                "\"2001:db8::1:80\" may be an address without a port: write [2001:db8::1]:80",
            ),
            ("ff02::1 to [2001:db8::1]:80", "nobody sends packets from ff02::1"),
            (
                "10.9.0.2 to [2001:db8::1]:80",
                "10.9.0.2 and 2001:db8::1 are of two families: no packet has both",
            ),
        ] {
            assert_eq!(asked(text), Err(reason.to_owned()), "{text}");
        }
    }
}

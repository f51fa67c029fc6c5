//! A real name server behind the uplink, and a client that asks.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    INTERNET, Namespace, World,
    command::{self, Running},
    traffic::PATIENCE,
    wait_for,
};

/// An answer, as dig(1) prints it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The response code, such as `NOERROR`; empty without an answer.
    pub(crate) status: String,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Answer {
    /// Reports whether it has this response code and these addresses.
    pub(crate) fn is<A: Copy + Into<IpAddr>>(&self, status: &str, addresses: &[A]) -> bool {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| (*address).into()).collect();
        self.status == status && self.addresses == addresses
    }
}

impl World {
    /// Starts dnsmasq(8) at [`INTERNET`] with these options, and waits until it answers.
    #[track_caller]
    pub(crate) fn name_server(&self, options: &[&str]) -> Running {
        let address = format!("--listen-address={INTERNET}");
        let all = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--user=root",
            "--pid-file=",
            "--log-facility=-",
            "--host-record=ready.test,192.0.2.1",
            &address,
        ];
        let all = [&all, options].concat();
        let environment = command::environment();
        let running = command::start(&self.internet, "dnsmasq", &all, &environment, "");
        wait_for("the name server", PATIENCE, || {
            let answer = dig(&self.internet, INTERNET, &["ready.test"]);
            answer.is("NOERROR", &[[192, 0, 2, 1]]).then_some(())
        });
        running
    }
}

/// Asks a server for a name by dig(1), once.
#[track_caller]
pub(crate) fn dig(from: &Namespace, server: Ipv4Addr, words: &[&str]) -> Answer {
    let server = format!("@{server}");
    let options = ["+tries=1", "+time=10", "+noall", "+comments", "+answer"];
    let all = [&["-r", &*server], words, &options].concat();
    let output = command::run(from, "dig", &all, &command::environment(), "");
    let text = &output.stdout;
    let status = text.split("status: ").nth(1).and_then(|rest| rest.split(',').next());
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(3);
        let is_address = matches!(words.next(), Some("A" | "AAAA"));
        is_address.then(|| words.next()?.parse().ok()).flatten()
    });
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_unstable();
    Answer { status: status.unwrap_or_default().to_owned(), addresses }
}

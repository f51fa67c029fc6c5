//! The manual recipe: six commands.

use std::time::Duration;

use super::Peer;
use crate::common::namespace::Namespace;

pub(super) struct Recipe(Namespace);

impl Recipe {
    pub(super) fn new() -> Self {
        let recipe = Self(Namespace::new());
        recipe.0.sh(&up(0));
        recipe
    }
}

impl Peer for Recipe {
    fn name(&self) -> &'static str {
        "shell recipe"
    }

    fn cycle(&mut self, number: usize) -> (Duration, Duration) {
        (self.0.sh(&up(number)), self.0.sh(&down(number)))
    }
}

/// Returns the TAP, the host's address on it, the guest's address, and the port.
fn words(number: usize) -> [String; 4] {
    let network = format!("10.99.{}", number / 64);
    let first = number % 64 * 4;
    [
        format!("shell{number}"),
        format!("{network}.{}", first + 1),
        format!("{network}.{}", first + 2),
        (10_000 + number).to_string(),
    ]
}

fn up(number: usize) -> String {
    let [tap, host, guest, port] = words(number);
    format!(
        "ip tuntap add {tap} mode tap && ip addr add {host}/30 dev {tap} && ip link set {tap} up && \
         iptables -t nat -A PREROUTING -p tcp --dport {port} -j DNAT --to-destination {guest}:3000 && \
         iptables -t nat -A POSTROUTING -s {guest} -j MASQUERADE && \
         iptables -A FORWARD -i {tap} -j ACCEPT"
    )
}

fn down(number: usize) -> String {
    let [tap, _, guest, port] = words(number);
    format!(
        "iptables -D FORWARD -i {tap} -j ACCEPT && \
         iptables -t nat -D POSTROUTING -s {guest} -j MASQUERADE && \
         iptables -t nat -D PREROUTING -p tcp --dport {port} -j DNAT --to-destination {guest}:3000 && \
         ip link delete {tap}"
    )
}

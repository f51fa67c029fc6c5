//! Functions that fuzzing calls. Each takes bytes as they are received from the kernel, and panics if a law is broken.

use netlink_packet_route::RouteNetlinkMessage;
use riklet_core::firewall::nftables::{Chain, Rule, Set, Table, ban, element, names, refused};

use super::{
    conntrack, firewall::nftables, link_state, listeners, netlink, refusals, resolvers, route,
    shaping, watched,
};

/// Reads answers: their ends, refusals and words.
pub fn netlink(data: &[u8]) {
    netlink::fuzz(data);
}

/// Reads answers of rtnetlink(7).
pub fn rtnetlink(data: &[u8]) {
    for message in netlink::messages(data) {
        link_state::fuzz(message);
        shaping::fuzz(message);
        if let Some(message) = netlink::decode::<RouteNetlinkMessage>(message) {
            route::fuzz(&message);
        }
    }
}

/// Reads answers of nf_tables.
pub fn nftables(data: &[u8]) {
    for message in netlink::messages(data) {
        let _elements = (element::read(message), names::read(message), refused::counts(message));
        let Some(read) = nftables::read(message) else { continue };
        let _ban = ban::read(message);
        #[cfg(fuzzing)]
        if let Some(rule) = Rule::decoded(read.clone()) {
            let rule = riklet_core::firewall::nftables::rule_message::assert_same(message, rule);
            let _left_out = ban::assert_left_out(message, &rule);
            let _missed =
                riklet_core::firewall::nftables::foreign_translation::fuzz(message, &rule);
        }
        let _objects = (
            Table::read(read.clone()),
            Chain::read(read.clone()),
            Rule::read(message),
            Set::read(read),
        );
    }
}

/// Reads notifications of rtnetlink(7) and of nf_tables.
pub fn notifications(data: &[u8]) {
    watched::fuzz(data);
}

/// Reads answers of ctnetlink.
pub fn conntrack(data: &[u8]) {
    netlink::messages(data).for_each(conntrack::fuzz);
}

/// Reads messages of `nfnetlink_log`.
pub fn nflog(data: &[u8]) {
    netlink::messages(data).for_each(refusals::fuzz);
}

/// Reads answers of `sock_diag(7)`.
pub fn sock_diag(data: &[u8]) {
    netlink::messages(data).for_each(listeners::fuzz_diag);
}

/// Reads files of `/proc`, and a resolv.conf(5).
pub fn files(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    listeners::fuzz_proc(&text);
    resolvers::fuzz(&text);
    crate::process::fuzz(&text);
}

#[cfg(test)]
mod tests {
    use riklet_testkit::fuzz::replay;

    #[test]
    fn answers_of_netlink() {
        replay("netlink", super::netlink);
    }

    #[test]
    fn answers_of_rtnetlink() {
        replay("rtnetlink", super::rtnetlink);
    }

    #[test]
    fn answers_of_nf_tables() {
        replay("nftables", super::nftables);
    }

    #[test]
    fn notifications() {
        replay("notifications", super::notifications);
    }

    #[test]
    fn answers_of_ctnetlink() {
        replay("conntrack", super::conntrack);
    }

    #[test]
    fn messages_of_nfnetlink_log() {
        replay("nflog", super::nflog);
    }

    #[test]
    fn answers_of_sock_diag() {
        replay("sock_diag", super::sock_diag);
    }

    #[test]
    fn files() {
        replay("files", super::files);
    }
}

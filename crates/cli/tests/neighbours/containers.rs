//! Stand-ins for Docker 28 and 29: a container behind a bridge, and the rules that Docker writes for it. Docker 29 has two
//! backends, iptables and nftables.

use std::net::Ipv4Addr;

use crate::{
    container::{Container, PUBLISHED, SERVED},
    stage::{Stage, Us, on_machines},
    world::{Namespace, World},
};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);

/// The rules of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    Docker28,
    Docker29,
    Docker29Nftables,
}

/// The chains that Docker 28 and 29 have in the table `filter` of iptables, but for those that isolate networks.
const CHAINS: [&str; 5] = ["DOCKER", "DOCKER-BRIDGE", "DOCKER-CT", "DOCKER-FORWARD", "DOCKER-USER"];

const FILTER: &str = "\
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
ISOLATION
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
";

/// Rules of Docker's own that are inserted at the head of a chain at each start, or appended once.
const FORWARD: [&str; 2] = ["FORWARD -j DOCKER-FORWARD", "FORWARD -j DOCKER-USER"];
const NAT: [&str; 3] = [
    "PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
    "OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
    "POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
];
/// Nobody but the bridge reaches a container at its own address.
const RAW: &str = "PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP";

const NFTABLES: &str = r#"
table ip docker-bridges {
    map filter-forward-in-jumps {
        type ifname : verdict
        elements = { "docker0" : jump filter-forward-in__docker0 }
    }
    map filter-forward-out-jumps {
        type ifname : verdict
        elements = { "docker0" : jump filter-forward-out__docker0 }
    }
    map nat-postrouting-out-jumps {
        type ifname : verdict
        elements = { "docker0" : jump nat-postrouting-out__docker0 }
    }
    chain filter-FORWARD {
        type filter hook forward priority filter; policy accept;
        oifname vmap @filter-forward-in-jumps
        iifname vmap @filter-forward-out-jumps
    }
    chain nat-OUTPUT {
        type nat hook output priority -100; policy accept;
        ip daddr != 127.0.0.0/8 fib daddr type local counter jump nat-prerouting-and-output
    }
    chain nat-POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        iifname vmap @nat-postrouting-out-jumps
    }
    chain nat-PREROUTING {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local counter jump nat-prerouting-and-output
    }
    chain nat-prerouting-and-output {
        iifname != "docker0" tcp dport PUBLISHED counter dnat to 172.17.0.2:SERVED comment "DNAT"
    }
    chain raw-PREROUTING {
        type filter hook prerouting priority raw; policy accept;
        ip daddr 172.17.0.2 iifname != "docker0" counter drop comment "DROP DIRECT ACCESS"
    }
    chain filter-forward-in__docker0 {
        ct state established,related counter accept
        iifname "docker0" counter accept comment "ICC"
        ip daddr 172.17.0.2 tcp dport SERVED counter accept
        counter drop comment "UNPUBLISHED PORT DROP"
    }
    chain filter-forward-out__docker0 {
        ct state established,related counter accept
        counter accept comment "OUTGOING"
    }
    chain nat-postrouting-out__docker0 {
        oifname != "docker0" ip saddr 172.17.0.0/16 counter masquerade comment "MASQUERADE"
    }
}
"#;

/// The stand-in for an engine with one container.
struct Docker<'a> {
    world: &'a World,
    rules: Rules,
    container: Container,
}

impl<'a> Docker<'a> {
    /// Starts the engine for the first time, with its container.
    #[track_caller]
    fn start(world: &'a World, rules: Rules) -> Self {
        let namespace = Namespace::new();
        let batch = |namespace: &Namespace, commands: &str| {
            namespace.feed(&["ip", "-batch", "-"], commands).success();
        };
        // Programs on the machine do not see the file of the other namespace.
        let node = world.node.path();
        batch(&namespace, &format!("link add eth0 type veth peer name veth0 netns {node}\n"));
        let bridge = "link add docker0 type bridge\nlink set veth0 master docker0 up\n";
        batch(
            &world.node,
            &format!("{bridge}address add {GATEWAY}/16 dev docker0\nlink set docker0 up\n"),
        );
        let address = format!("link set eth0 up\naddress add {ADDRESS}/16 dev eth0\n");
        batch(&namespace, &format!("{address}route add default via {GATEWAY}\n"));
        world.node.set_sysctl("net/ipv4/ip_forward", "1");
        let docker = Self { world, rules, container: Container::of(namespace, ADDRESS) };
        docker.write(false);
        docker
    }

    /// Writes its rules. If it has `started` before, it writes all of them anew: its jumps stand first in their chains
    /// again.
    #[track_caller]
    fn write(&self, started: bool) {
        let ports = |text: &str| {
            text.replace("PUBLISHED", &PUBLISHED.to_string()).replace("SERVED", &SERVED.to_string())
        };
        if self.rules == Rules::Docker29Nftables {
            let anew = "table ip docker-bridges {}\ndelete table ip docker-bridges\n";
            self.world
                .node
                .feed(&["nft", "-f", "-"], &format!("{anew}{}", ports(NFTABLES)))
                .success();
            return;
        }
        let before = if started { removal() } else { String::new() };
        self.restore(&before);
        let (isolating, isolation) = self.isolation();
        let chains = [&CHAINS, isolating].concat();
        let chains = lines(":", &chains).replace('\n', " - [0:0]\n");
        let filter = FILTER.replace("ISOLATION", isolation);
        let accept =
            format!("-d {ADDRESS}/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport {SERVED}");
        let (jumps, nat) = (lines("-I ", &FORWARD), lines("-A ", &NAT));
        let dnat = "! -i docker0 -p tcp -m tcp --dport";
        self.restore(&format!(
            "*filter\n:FORWARD DROP [0:0]\n{chains}-A DOCKER {accept} -j ACCEPT\n{filter}{jumps}COMMIT\n\
             *nat\n:DOCKER - [0:0]\n{nat}-A DOCKER {dnat} {PUBLISHED} -j DNAT --to-destination {ADDRESS}:{SERVED}\n\
             COMMIT\n*raw\n-A {RAW}\nCOMMIT\n"
        ));
    }

    /// Returns the chains, and the rules, that isolate networks from each other.
    fn isolation(&self) -> (&'static [&'static str], &'static str) {
        match self.rules {
            Rules::Docker28 => (
                &["DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2"],
                "-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1\n\
                 -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2\n\
                 -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP",
            ),
            Rules::Docker29 | Rules::Docker29Nftables => {
                (&["DOCKER-INTERNAL"], "-A DOCKER-FORWARD -j DOCKER-INTERNAL")
            }
        }
    }

    #[track_caller]
    fn restore(&self, input: &str) {
        let arguments = ["iptables-restore", "--noflush", "--wait"];
        self.world.program(self.world.firewall.xtables(), &arguments, input).success();
    }

    /// Removes everything of the engine from the host.
    #[track_caller]
    fn uninstall(self) {
        let node = &self.world.node;
        if self.rules == Rules::Docker29Nftables {
            node.tool(&["nft", "delete", "table", "ip", "docker-bridges"]);
        } else {
            self.restore(&removal());
            let chains = [&CHAINS, self.isolation().0].concat();
            let (empty, delete) = (lines("-F ", &chains), lines("-X ", &chains));
            self.restore(&format!(
                "*filter\n:FORWARD ACCEPT [0:0]\n{empty}{delete}COMMIT\n*nat\n-F DOCKER\n-X DOCKER\nCOMMIT\n"
            ));
        }
        node.tool(&["ip", "link", "delete", "veth0"]);
        node.tool(&["ip", "link", "delete", "docker0"]);
    }
}

/// Returns the input of `iptables-restore` that removes Docker's rules from the chains that all share.
fn removal() -> String {
    let (filter, nat) = (lines("-D ", &FORWARD), lines("-D ", &NAT));
    format!("*filter\n{filter}COMMIT\n*nat\n{nat}COMMIT\n*raw\n-D {RAW}\nCOMMIT\n")
}

/// Returns a line for each text, with these words before it.
fn lines(before: &str, texts: &[&str]) -> String {
    texts.iter().flat_map(|text| [before, text, "\n"]).collect()
}

fn before_us(stage: &Stage, rules: Rules) {
    let docker = Docker::start(&stage.world, rules);
    docker.container.assert_works(stage, "before us");
    stage.we_come();
    docker.container.assert_works(stage, "beside us");
    docker.write(true);
    stage.we_recover();
    docker.container.assert_works(stage, "after Docker's restart");
    stage.we_go();
    docker.container.assert_works(stage, "when we are gone");
    stage.snapshot("while Docker runs");
    docker.uninstall();
    stage.snapshot("when Docker is gone");
}

fn after_us(stage: &Stage, rules: Rules) {
    stage.we_come();
    let docker = Docker::start(&stage.world, rules);
    stage.we_recover();
    docker.container.assert_works(stage, "after us");
    docker.write(true);
    stage.we_recover();
    docker.container.assert_works(stage, "after Docker's restart");
    docker.uninstall();
    stage.we_recover();
    stage.assert_functions_work("when Docker is gone");
    let docker = Docker::start(&stage.world, rules);
    stage.we_recover();
    docker.container.assert_works(stage, "when Docker is there again");
    stage.we_go();
    docker.container.assert_works(stage, "when we are gone");
    stage.snapshot("while Docker runs");
}

/// Plays both scenarios on these firewalls.
macro_rules! stands_in {
    ($name:ident, $rules:expr, [$($before:tt)+], [$($after:tt)+]) => {
        mod $name {
            use super::{Rules, Stage, Us, after_us, before_us, on_machines};

            fn before(stage: &Stage) {
                before_us(stage, $rules);
            }

            fn after(stage: &Stage) {
                after_us(stage, $rules);
            }

            on_machines!(comes_before_us, Us::Commands, before, [$($before)+]);
            on_machines!(comes_after_the_daemon, Us::Daemon, after, [$($after)+]);
        }
    };
}

stands_in!(
    docker_28,
    Rules::Docker28,
    [nftables: Nftables, iptables_nft: IptablesNft, iptables_legacy: IptablesLegacy],
    [iptables_nft: IptablesNft]
);
stands_in!(docker_29, Rules::Docker29, [nftables: Nftables], [nftables: Nftables]);
stands_in!(
    docker_29_with_nftables,
    Rules::Docker29Nftables,
    [nftables: Nftables, iptables_nft: IptablesNft, iptables_legacy: IptablesLegacy],
    [nftables: Nftables, iptables_nft: IptablesNft, iptables_legacy: IptablesLegacy]
);

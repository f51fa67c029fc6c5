//! A node among its neighbours, each in a network namespace.
//!
//! ```text
//! client 192.168.7.2 ──── lan0 192.168.7.1, .10 ┐
//!                                               node ── rikN ═══ Guest
//! internet 203.0.113.1 ── up0 203.0.113.2 ──────┤
//!          198.51.100.9                         │
//! other 172.20.0.2 ────── oth0 172.20.0.1 ──────┘
//! ```
//!
//! The uplink is `up0`. Nobody has a route to the guests' addresses; everybody has one to the client's.

pub(crate) mod background;
pub(crate) mod command;
pub(crate) mod daemon;
pub(crate) mod foreign;
pub(crate) mod function;
pub(crate) mod guest;
pub(crate) mod held;
pub(crate) mod http;
#[allow(dead_code, reason = "of the tests in neighbours")]
pub(crate) mod machine;
pub(crate) mod namespace;
pub(crate) mod owned;
pub(crate) mod probe;
pub(crate) mod runs;

pub(crate) mod random;
pub(crate) mod records;
pub(crate) mod resolver;
pub(crate) mod sctp;
pub(crate) mod sniffer;
pub(crate) mod state;
mod system;
pub(crate) mod traffic;
pub(crate) mod transport;
pub(crate) mod wait;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::ErrorKind,
    net::Ipv4Addr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

pub(crate) use namespace::Namespace;
pub(crate) use wait::wait_for;

use command::{Output, Running};

pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 2);
pub(crate) const NODE_LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
pub(crate) const NODE_LAN_SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 10);
pub(crate) const NODE_UPLINK: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub(crate) const NODE_OTHER: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);
pub(crate) const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(crate) const INTERNET_FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 2);

/// The firewall under test: the program's backend, and the variant of `iptables` on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firewall {
    /// The backend `nftables`, on a node whose `iptables` is the nft variant.
    Nftables,
    IptablesNft,
    IptablesLegacy,
}

impl Firewall {
    /// The program's name for the backend.
    fn backend(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::IptablesNft | Self::IptablesLegacy => "iptables",
        }
    }

    /// Returns the program that acts as `iptables`, `iptables-save` and so on, depending on the name it is called by.
    pub(crate) fn xtables(self) -> &'static str {
        match self {
            Self::Nftables | Self::IptablesNft => "/usr/sbin/xtables-nft-multi",
            Self::IptablesLegacy => "/usr/sbin/xtables-legacy-multi",
        }
    }
}

/// Makes one test per firewall of the same behaviour: `on_every_firewall!(name, |world| { … });` with `world: &World`.
/// The tests are `name::nftables`, `name::iptables_nft` and `name::iptables_legacy`.
macro_rules! on_every_firewall {
    ($(#[$attribute:meta])* $name:ident, |$world:ident| $body:block) => {
        $(#[$attribute])*
        fn $name($world: &$crate::world::World) $body

        mod $name {
            use $crate::world::{Firewall, World};

            #[test]
            fn nftables() {
                super::$name(&World::new(Firewall::Nftables));
            }

            #[test]
            fn iptables_nft() {
                super::$name(&World::new(Firewall::IptablesNft));
            }

            #[test]
            fn iptables_legacy() {
                super::$name(&World::new(Firewall::IptablesLegacy));
            }
        }
    };
}
pub(crate) use on_every_firewall;

/// The namespaces, and the file system that the program under test sees.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) client: Namespace,
    pub(crate) node: Namespace,
    pub(crate) internet: Namespace,
    pub(crate) other: Namespace,
    pub(crate) firewall: Firewall,
    /// The whole environment of the programs run on the node: `PATH`, on which `iptables` is the variant
    /// under test, and `RIKLET_SDN_STATE_DIR`, `RIKLET_SDN_CONFIG` (an empty file), `RIKLET_SDN_FIREWALL`.
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) directory: Directory,
}

impl World {
    pub(crate) fn new(firewall: Firewall) -> Self {
        let [client, node, internet, other] = std::array::from_fn(|_| Namespace::new());
        // A new namespace inherits its first values from the host. Each of many attempts may be refused by ICMP, so
        // ICMP has no rate limit (icmp(7), icmp_ratelimit).
        for sysctl in
            ["ip_forward", "conf/all/rp_filter", "conf/default/rp_filter", "icmp_ratelimit"]
        {
            node.set_sysctl(&format!("net/ipv4/{sysctl}"), "0");
        }
        connect(&node, &client, &internet, &other);
        let directory = Directory::new();
        let environment = environment(firewall, directory.path(), directory.users());
        Self { client, node, internet, other, firewall, environment, directory }
    }

    /// Runs `riklet-sdn` on the node.
    #[track_caller]
    pub(crate) fn riklet(&self, arguments: &[&str], stdin: &str) -> Output {
        self.program(env!("CARGO_BIN_EXE_riklet-sdn"), arguments, stdin)
    }

    /// Runs `riklet-sdn` on the node, and returns the processor time that it and its programs took, in seconds.
    #[track_caller]
    pub(crate) fn processor_time(&self, arguments: &[&str], stdin: &str) -> f64 {
        // bash(1), TIMEFORMAT: user and system time in seconds, with three digits.
        let script = "TIMEFORMAT='%U %S'; time \"$@\" >/dev/null";
        let program = env!("CARGO_BIN_EXE_riklet-sdn");
        let arguments = [&["-c", script, "bash", program], arguments].concat();
        let output = self.program("bash", &arguments, stdin);
        assert_eq!(output.code, Some(0), "{output}");
        let times = output.stderr.lines().last().expect("a line").split_whitespace();
        times.map(|seconds| seconds.parse::<f64>().expect("a number")).sum()
    }

    /// Starts `riklet-sdn` on the node, in the background.
    #[track_caller]
    pub(crate) fn riklet_in_background(&self, arguments: &[&str], stdin: &str) -> Running {
        self.program_in_background(env!("CARGO_BIN_EXE_riklet-sdn"), arguments, stdin)
    }

    /// Starts any program on the node in the background, with the environment that `riklet-sdn` has.
    #[track_caller]
    pub(crate) fn program_in_background(
        &self,
        program: &str,
        arguments: &[&str],
        stdin: &str,
    ) -> Running {
        command::start(&self.node, program, arguments, &self.environment, stdin)
    }

    /// Runs any program on the node, with the environment that `riklet-sdn` has.
    #[track_caller]
    pub(crate) fn program(&self, program: &str, arguments: &[&str], stdin: &str) -> Output {
        command::run(&self.node, program, arguments, &self.environment, stdin)
    }
}

/// Creates cables, addresses and routes. The cables have no IPv6 link-local addresses, since these appear after a
/// while, and no two snapshots would be equal.
fn connect(node: &Namespace, client: &Namespace, internet: &Namespace, other: &Namespace) {
    let batch = |namespace: &Namespace, commands: &str| {
        namespace.feed(&["ip", "-batch", "-"], commands).success();
    };
    let cable = |name: &str, peer: &Namespace| {
        let peer = peer.path();
        format!(
            "link add {name} type veth peer name eth0 netns {peer}\n\
             link set {name} addrgenmode none\nlink set {name} up\n"
        )
    };
    let cables = [cable("lan0", client), cable("up0", internet), cable("oth0", other)].concat();
    batch(
        node,
        &format!(
            "{cables}\
             address add {NODE_LAN}/24 dev lan0\naddress add {NODE_LAN_SECOND}/24 dev lan0\n\
             address add {NODE_UPLINK}/24 dev up0\naddress add {NODE_OTHER}/24 dev oth0\n\
             route add default via {INTERNET}\n"
        ),
    );
    let far = |address: Ipv4Addr, rest: &str| {
        format!(
            "link set eth0 addrgenmode none\nlink set eth0 up\naddress add {address}/24 dev eth0\n\
             {rest}\n"
        )
    };
    batch(client, &far(CLIENT, &format!("route add default via {NODE_LAN}")));
    let to_client = |via: Ipv4Addr| format!("route add 192.168.7.0/24 via {via}");
    let more = format!("{}\naddress add {INTERNET_FAR}/32 dev eth0", to_client(NODE_UPLINK));
    batch(internet, &far(INTERNET, &more));
    batch(other, &far(OTHER, &to_client(NODE_OTHER)));
    wait_for("the cables' carrier", Duration::from_secs(10), || {
        let links = node.tool(&["ip", "-brief", "link", "show", "up"]);
        (links.matches(" UP ").count() == 3).then_some(())
    });
}

fn environment(firewall: Firewall, directory: &Path, users: u32) -> BTreeMap<String, String> {
    let path = |name: &str| directory.join(name).into_os_string().into_string().expect("UTF-8");
    fs::create_dir(path("bin")).expect("a directory");
    fs::create_dir(path("state")).expect("a directory");
    File::create(path("config.toml")).expect("a file");
    for program in ["iptables", "ip6tables"]
        .into_iter()
        .flat_map(|family| ["", "-save", "-restore"].map(|suffix| format!("bin/{family}{suffix}")))
    {
        symlink(firewall.xtables(), path(&program)).expect("a symbolic link");
    }
    let mut environment = command::environment();
    environment.extend([
        ("PATH".to_owned(), format!("{}:{}", path("bin"), command::PATH)),
        // With one lock for all namespaces the tests would wait for each other (iptables(8)).
        ("XTABLES_LOCKFILE".to_owned(), path("xtables.lock")),
        ("RIKLET_SDN_STATE_DIR".to_owned(), path("state")),
        ("RIKLET_SDN_CONFIG".to_owned(), path("config.toml")),
        ("RIKLET_SDN_IMAGE_DIR".to_owned(), path("images")),
        ("RIKLET_SDN_IMAGE_ROOTS".to_owned(), format!("{},{GUEST}", directory.display())),
        ("RIKLET_SDN_FIREWALL".to_owned(), firewall.backend().to_owned()),
        ("RIKLET_SDN_VMM_UID_BASE".to_owned(), users.to_string()),
    ]);
    environment
}

/// The directory of the guest that `scripts/guest` makes.
const GUEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/guest");

/// A directory that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf, Users);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = env::temp_dir().join(format!("riklet-sdn-test-{}-{number}", process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Self(path, Users::new()),
                // A killed test with the same process id left it behind.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot make {}: {error}", path.display()),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the first of a block of users that no other test has: all tests are in one process namespace.
    pub(crate) fn users(&self) -> u32 {
        self.1.first()
    }
}

/// A block of users for VMMs, which is nobody else's while this exists.
#[derive(Debug)]
struct Users(u32, PathBuf);

impl Users {
    /// The number of blocks. Each has one user for each slot, and one more.
    const BLOCKS: u32 = 14_000;

    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let all = env::temp_dir().join("riklet-sdn-test-users");
        let made = fs::create_dir(&all);
        assert!(made.is_ok() || all.is_dir(), "{made:?}");
        // What an earlier test left may still be ending.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let first = process::id().wrapping_mul(37).wrapping_add(number) % Self::BLOCKS;
        let blocks = (0..Self::BLOCKS).map(|next| (first + next) % Self::BLOCKS);
        let mut free = blocks.filter_map(|block| {
            let path = all.join(block.to_string());
            fs::create_dir(&path).is_ok().then_some(Self(block, path))
        });
        free.next().expect("a free block of users")
    }

    fn first(&self) -> u32 {
        2_100_000_000 + (self.0 << 17)
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        fs::remove_dir(&self.1).ok();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

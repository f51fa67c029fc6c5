//! ufw as Debian ships it: it drops forwarded packets unless a rule allows them.

use crate::{
    container::{PUBLISHED, SERVED},
    router::{HostFirewall, Routed, is_not_announced, starts_after_us, starts_before_us},
    stage::{Stage, Us, on_machines},
    world::{OTHER, World},
};

struct Ufw<'a> {
    world: &'a World,
}

impl Ufw<'_> {
    #[track_caller]
    fn ufw(&self, arguments: &[&str]) {
        self.world.program("ufw", arguments, "").success();
    }
}

impl<'a> HostFirewall<'a> for Ufw<'a> {
    /// Enables ufw for the first time, on a router.
    fn start(world: &'a World) -> Self {
        let ufw = Self { world };
        world
            .program("sh", &["-c", "echo net/ipv4/ip_forward=1 >>/etc/ufw/sysctl.conf"], "")
            .success();
        // The rules for NAT, as in ufw-framework(8).
        let nat = format!(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
             -A PREROUTING -i lan0 -p tcp --dport {PUBLISHED} -j DNAT --to-destination {OTHER}:{SERVED}\n\
             -A POSTROUTING -s {OTHER}/24 -o up0 -j MASQUERADE\nCOMMIT\n"
        );
        world.program("sh", &["-c", "cat >>/etc/ufw/before.rules"], &nat).success();
        ufw.ufw(&["route", "allow", "in", "on", "lan0", "out", "on", "oth0"]);
        ufw.ufw(&["route", "allow", "in", "on", "oth0"]);
        ufw.ufw(&["--force", "enable"]);
        ufw
    }

    fn reload(&mut self) {
        self.ufw(&["reload"]);
    }

    /// Reloads ufw, restarts its service, then disables and enables it, while functions serve.
    fn disturb(&mut self, stage: &Stage, routed: &Routed) {
        self.reload();
        stage.we_recover();
        routed.assert_works(stage, "after ufw's reload");
        self.world.program("/lib/ufw/ufw-init", &["restart"], "").success();
        stage.we_recover();
        routed.assert_works(stage, "after the restart of ufw's service");
        self.ufw(&["disable"]);
        stage.we_recover();
        stage.assert_functions_work("when ufw is disabled");
        self.ufw(&["--force", "enable"]);
        stage.we_recover();
        routed.assert_works(stage, "when ufw is enabled again");
    }

    fn stop(&mut self) {
        self.ufw(&["disable"]);
    }
}

fn before_us(stage: &Stage) {
    starts_before_us::<Ufw<'_>>(stage);
}

fn after_us(stage: &Stage) {
    starts_after_us::<Ufw<'_>>(stage);
}

fn not_announced(stage: &Stage) {
    is_not_announced::<Ufw<'_>>(stage);
}

on_machines!(
    comes_before_us,
    Us::Commands,
    before_us,
    [nftables: Nftables, iptables_nft: IptablesNft, iptables_legacy: IptablesLegacy]
);
on_machines!(
    comes_after_us,
    Us::Commands,
    after_us,
    [nftables: Nftables, iptables_nft: IptablesNft, iptables_legacy: IptablesLegacy]
);
on_machines!(
    comes_after_the_daemon,
    Us::Daemon,
    after_us,
    [nftables: Nftables, iptables_nft: IptablesNft]
);
on_machines!(is_not_announced, Us::Daemon, not_announced, [iptables_legacy: IptablesLegacy]);

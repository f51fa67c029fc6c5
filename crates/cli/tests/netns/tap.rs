//! The owner of a TAP, and its number of queues.

use riklet_core::model::{Pool, Slot};
use serde_json::Value;

use crate::world::{
    CLIENT, Firewall, NODE_LAN, World,
    command::Output,
    guest::{Guest, Nic},
    state::{SystemState, assert_same},
    traffic::{tcp_ask, tcp_server},
};

/// Brings up the function `hello` with this execution.
#[track_caller]
fn up(world: &World, execution: &str) -> Output {
    let definition = format!(
        "apiVersion: v1\nkind: Function\nname: hello\nspec:\n  function:\n    \
         execution: {{{execution}}}\n    exposure: {{port: 8080, targetPort: 3000}}\n"
    );
    world.riklet(&["up", "-"], &definition)
}

/// Returns the fields of `ip`'s output that only a TAP has.
fn tap(world: &World) -> Value {
    let text = world.node.tool(&["ip", "-details", "-json", "link", "show", "dev", "rik0"]);
    let links: Value = serde_json::from_str(&text).unwrap();
    links[0]["linkinfo"]["info_data"].clone()
}

#[test]
fn tap_matches_its_definition_and_is_repaired() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    up(&world, "user: nobody, group: nogroup, queues: 4").success();
    let found = tap(&world);
    assert_eq!((&found["user"], &found["group"]), (&"nobody".into(), &"nogroup".into()));
    assert_eq!(found["multi_queue"], true);
    world.riklet(&["check"], "").success();
    let inspected = world.riklet(&["inspect", "hello", "--format", "qemu"], "").success();
    assert!(inspected.contains(",queues=4 ") && inspected.contains(",mq=on,"), "{inspected}");

    // Another program replaces the TAP.
    let alias = "riklet-sdn:hello tcp:8080:3000";
    world.node.tool(&["ip", "link", "delete", "rik0"]);
    world.node.tool(&["ip", "tuntap", "add", "dev", "rik0", "mode", "tap", "user", "1"]);
    world.node.tool(&["ip", "link", "set", "rik0", "alias", alias]);
    let drift = world.riklet(&["check"], "");
    let line = "- interface rik0: cannot be changed to several queues";
    assert!(drift.code == Some(1) && drift.stdout.contains(line), "{drift}");
    world.riklet(&["repair"], "").success();
    world.riklet(&["check"], "").success();
    assert_eq!(tap(&world), found);

    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
}

#[test]
fn unknown_user_is_refused() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let words = up(&world, "user: no-such-user").failure(2);
    assert_eq!(
        words,
        "error: hello: spec.function.execution.user: this host knows no user no-such-user\n\
         hint: `useradd --system no-such-user`, or write a number\n"
    );
    assert_same(&before, &SystemState::take(&world.node));
    assert_eq!(world.riklet(&["--output", "json", "list"], "").success(), "[]\n");
}

#[test]
fn tap_of_a_running_guest_is_not_replaced() {
    let world = World::new(Firewall::Nftables);
    up(&world, "").success();
    let guest = Guest::attach(&world, Nic::of_slot(Pool::candidates()[0], Slot::new(0)));
    let server = tcp_server(&guest.namespace, (guest.nic.address, 3000));
    for (execution, why) in [
        ("queues: 2", "a VMM has the TAP rik0 open, which cannot be changed to several queues"),
        ("user: 54321", "cannot give TAP rik0 to its user: Device or resource busy (os error 16)"),
    ] {
        let words = up(&world, execution).failure(1);
        assert!(words.contains(why) && words.contains("hint: stop the VMM"), "{words}");
        let answer = tcp_ask(&world.client, (NODE_LAN, 8080)).unwrap();
        assert_eq!((answer.client.ip(), answer.server), (CLIENT.into(), server.address));
    }
    drop((server, guest));
    world.riklet(&["repair"], "").success();
    assert_eq!((&tap(&world)["user"], &tap(&world)["multi_queue"]), (&54321.into(), &false.into()));
}

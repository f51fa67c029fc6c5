//! The output of each command on success, as text and as JSON, and its messages about drift.

use serde_json::Value;

use crate::environment::{Environment, HELLO, TWO, transcript};

fn json(environment: &Environment, arguments: &[&str]) -> Value {
    environment.run(&[&["--output", "json"], arguments].concat()).json()
}

#[test]
fn each_command_prints_text() {
    let environment = Environment::new();
    environment.write("two.yaml", TWO);
    let commands: [&[&str]; 18] = [
        &["list"],
        &["check"],
        &["down", "--all"],
        &["plan", "hello.json"],
        &["up", "hello.json"],
        &["up", "hello.json"],
        &["plan", "hello.json"],
        &["up", "two.yaml"],
        &["list"],
        &["inspect", "resolver"],
        &["inspect", "resolver", "--format", "firecracker"],
        &["inspect", "resolver", "--format", "boot-args"],
        &["inspect", "resolver", "--format", "qemu"],
        &["inspect", "resolver", "--format", "env"],
        &["check"],
        &["repair"],
        &["down", "hello", "worker"],
        &["down", "--all", "--purge"],
    ];
    insta::assert_snapshot!(transcript(&environment, commands), @r#"
    $ riklet-sdn list
    NAME  INTERFACE  GUEST  HOST ADDRESS  STATE  EXPOSURES
    $ riklet-sdn check
    ---- stderr ----
    no drift
    $ riklet-sdn down --all
    ---- stderr ----
    nothing to do
    $ riklet-sdn plan hello.json
    + TAP rik0: address 10.231.0.1/30, MAC 0a:52:49:4b:00:01, MTU 1500, neighbour 10.231.0.2 at 06:52:49:4b:00:00
    ~ firewall: all of it, guests 10.231.0.0/16, uplinks none
    + firewall: tcp 8080 -> 10.231.0.2:3000
    + firewall: hairpin 10.231.0.2
    + routing rule 32762: from 10.231.0.0/16 to 10.231.0.0/16 iif lo lookup main
    + routing rule 32762: from 10.231.0.0/16 to 10.231.0.0/16 fwmark 0x40/0x40 lookup main
    + routing rule 32763: from 10.231.0.0/16 to 10.231.0.0/16 prohibit
    $ riklet-sdn up hello.json
    NAME   INTERFACE  GUEST       HOST ADDRESS  EXPOSURES
    hello  rik0       10.231.0.2  10.231.0.1    tcp 8080 -> 3000
    $ riklet-sdn up hello.json
    NAME   INTERFACE  GUEST       HOST ADDRESS  EXPOSURES
    hello  rik0       10.231.0.2  10.231.0.1    tcp 8080 -> 3000
    $ riklet-sdn plan hello.json
    ---- stderr ----
    nothing to do
    $ riklet-sdn up two.yaml
    NAME      INTERFACE  GUEST        HOST ADDRESS  EXPOSURES
    resolver  rik1       10.231.0.6   10.231.0.5    udp 127.0.0.1:53 -> 53
                                                    tcp 8000-8002 -> 80-82
    worker    rik2       10.231.0.10  10.231.0.9    -
    $ riklet-sdn list
    NAME      INTERFACE  GUEST        HOST ADDRESS  STATE  EXPOSURES
    hello     rik0       10.231.0.2   10.231.0.1    ready  tcp 8080 -> 3000
    resolver  rik1       10.231.0.6   10.231.0.5    ready  udp 127.0.0.1:53 -> 53
                                                           tcp 8000-8002 -> 80-82
    worker    rik2       10.231.0.10  10.231.0.9    ready  -
    $ riklet-sdn inspect resolver
    name      resolver
    kind      Function
    phase     up
    interface rik1 (ready)
    guest     10.231.0.6/30 06:52:49:4b:00:01
    host      10.231.0.5/30 0a:52:49:4b:00:01
    mtu       1500
    exposure  udp 127.0.0.1:53 -> 53 (in the firewall)
    exposure  tcp 8000-8002 -> 80-82 (in the firewall)
    $ riklet-sdn inspect resolver --format firecracker
    [
      {
        "guest_mac": "06:52:49:4b:00:01",
        "host_dev_name": "rik1",
        "iface_id": "eth0"
      }
    ]
    $ riklet-sdn inspect resolver --format boot-args
    net.ifnames=0 ip=10.231.0.6::10.231.0.5:255.255.255.252:resolver:eth0:off:192.0.2.53
    $ riklet-sdn inspect resolver --format qemu
    -netdev tap,id=eth0,ifname=rik1,script=no,downscript=no -device virtio-net-pci,netdev=eth0,mac=06:52:49:4b:00:01,host_mtu=1500,romfile=
    $ riklet-sdn inspect resolver --format env
    RIKLET_NAME=resolver
    RIKLET_TAP=rik1
    RIKLET_GUEST_ADDRESS=10.231.0.6
    RIKLET_GUEST_MAC=06:52:49:4b:00:01
    RIKLET_GATEWAY=10.231.0.5
    RIKLET_NETMASK=255.255.255.252
    RIKLET_MTU=1500
    $ riklet-sdn check
    ---- stderr ----
    no drift
    $ riklet-sdn repair
    ---- stderr ----
    nothing to do
    $ riklet-sdn down hello worker
    $ riklet-sdn down --all --purge
    "#);
}

#[test]
fn inspect_prints_a_network_configuration_for_cloud_init() {
    let environment = Environment::new();
    environment.write("two.yaml", TWO);
    environment.run(&["up", "two.yaml"]).success();
    let commands: [&[&str]; 1] = [&["inspect", "resolver", "--format", "cloud-init"]];
    insta::assert_snapshot!(transcript(&environment, commands), @r#"
    $ riklet-sdn inspect resolver --format cloud-init
    {
      "ethernets": {
        "eth0": {
          "addresses": [
            "10.231.0.2/30"
          ],
          "match": {
            "macaddress": "06:52:49:4b:00:00"
          },
          "mtu": 1500,
          "nameservers": {
            "addresses": [
              "192.0.2.53"
            ]
          },
          "routes": [
            {
              "to": "0.0.0.0/0",
              "via": "10.231.0.1"
            }
          ],
          "set-name": "eth0"
        }
      },
      "version": 2
    }
    "#);
}

#[test]
fn each_command_prints_json() {
    let environment = Environment::new();
    let json = |arguments: &[&str]| json(&environment, arguments);
    assert_eq!(json(&["list"]), Value::Array(vec![]));
    insta::assert_snapshot!(format!("{:#}", json(&["plan", "hello.json"])), @r#"
    {
      "blocked": [],
      "steps": [
        "+ TAP rik0: address 10.231.0.1/30, MAC 0a:52:49:4b:00:01, MTU 1500, neighbour 10.231.0.2 at 06:52:49:4b:00:00",
        "~ firewall: all of it, guests 10.231.0.0/16, uplinks none",
        "+ firewall: tcp 8080 -> 10.231.0.2:3000",
        "+ firewall: hairpin 10.231.0.2",
        "+ routing rule 32762: from 10.231.0.0/16 to 10.231.0.0/16 iif lo lookup main",
        "+ routing rule 32762: from 10.231.0.0/16 to 10.231.0.0/16 fwmark 0x40/0x40 lookup main",
        "+ routing rule 32763: from 10.231.0.0/16 to 10.231.0.0/16 prohibit"
      ],
      "warnings": []
    }
    "#);
    insta::assert_snapshot!(format!("{:#}", json(&["up", "hello.json"])), @r#"
    {
      "failures": [],
      "instances": [
        {
          "exposures": [
            {
              "port": 8080,
              "protocol": "TCP",
              "targetPort": 3000,
              "type": "NodePort"
            }
          ],
          "guest": {
            "address": "10.231.0.2",
            "mac": "06:52:49:4b:00:00"
          },
          "host": {
            "address": "10.231.0.1",
            "mac": "0a:52:49:4b:00:01"
          },
          "interface": "rik0",
          "kind": "Function",
          "mtu": 1500,
          "name": "hello",
          "phase": "up",
          "prefixLength": 30,
          "slot": 0,
          "tap": "rik0"
        }
      ],
      "others": [],
      "steps": [
        "+ TAP rik0: address 10.231.0.1/30, MAC 0a:52:49:4b:00:01, MTU 1500, neighbour 10.231.0.2 at 06:52:49:4b:00:00",
        "~ firewall: all of it, guests 10.231.0.0/16, uplinks none",
        "+ firewall: tcp 8080 -> 10.231.0.2:3000",
        "+ firewall: hairpin 10.231.0.2",
        "+ routing rule 32762: from 10.231.0.0/16 to 10.231.0.0/16 iif lo lookup main",
        "+ routing rule 32762: from 10.231.0.0/16 to 10.231.0.0/16 fwmark 0x40/0x40 lookup main",
        "+ routing rule 32763: from 10.231.0.0/16 to 10.231.0.0/16 prohibit"
      ],
      "warnings": []
    }
    "#);
    insta::assert_snapshot!(format!("{:#}", json(&["check"])), @r#"
    {
      "blocked": [],
      "firewall": [],
      "lost": [],
      "steps": [],
      "unsettled": [],
      "warnings": []
    }
    "#);
    insta::assert_snapshot!(format!("{:#}", json(&["repair"])), @r#"
    {
      "failures": [],
      "instances": [],
      "others": [],
      "steps": [],
      "warnings": []
    }
    "#);
    insta::assert_snapshot!(format!("{:#}", json(&["down", "hello"])), @r#"
    {
      "failures": [],
      "instances": [],
      "others": [],
      "steps": [
        "- firewall: tcp 8080 -> 10.231.0.2:3000",
        "- firewall: hairpin 10.231.0.2",
        "- interface rik0: out of service",
        "- flows: of guest 10.231.0.2",
        "- interfaces of draining slots: deleted"
      ],
      "warnings": []
    }
    "#);
}

#[test]
fn all_commands_print_the_same_json_of_an_instance() {
    let environment = Environment::new();
    // The default resolvers are the host's, so this definition has none.
    let mut hello: Value = serde_json::from_str(HELLO).unwrap();
    hello["spec"]["function"]["execution"]["dns"] = Value::Array(vec![]);
    environment.write("hello.json", hello.to_string());
    let json = |arguments: &[&str]| json(&environment, arguments);
    let up = json(&["up", "hello.json"]);
    // `list` and `inspect` have more fields.
    let instance = up["instances"][0].as_object().unwrap();
    let listed = json(&["list"]);
    let inspected = json(&["inspect", "hello"]);
    for (name, value) in instance {
        assert_eq!((&listed[0][name], &inspected[name]), (value, value), "{name}");
    }
    assert_eq!(listed[0]["link"], "ready");
    let only = |name: &str| (name.to_owned(), inspected[name].clone());
    let only = Value::from_iter(["definition", "drift", "exposed", "link"].map(only));
    insta::assert_snapshot!(format!("{only:#}"), @r#"
    {
      "definition": {
        "apiVersion": "v1",
        "kind": "Function",
        "name": "hello",
        "replicas": 1,
        "spec": {
          "function": {
            "execution": {
              "dns": []
            },
            "exposure": [
              {
                "port": 8080,
                "protocol": "TCP",
                "targetPort": 3000,
                "type": "NodePort"
              }
            ]
          }
        }
      },
      "drift": [],
      "exposed": true,
      "link": "ready"
    }
    "#);
    let formats = ["firecracker", "boot-args", "cloud-init", "qemu", "env"]
        .map(|format| (format.to_owned(), json(&["inspect", "hello", "--format", format])));
    insta::assert_snapshot!(format!("{:#}", Value::from_iter(formats)), @r#"
    {
      "boot-args": "net.ifnames=0 ip=10.231.0.2::10.231.0.1:255.255.255.252:hello:eth0:off",
      "cloud-init": {
        "ethernets": {
          "eth0": {
            "addresses": [
              "10.231.0.2/30"
            ],
            "match": {
              "macaddress": "06:52:49:4b:00:00"
            },
            "mtu": 1500,
            "routes": [
              {
                "to": "0.0.0.0/0",
                "via": "10.231.0.1"
              }
            ],
            "set-name": "eth0"
          }
        },
        "version": 2
      },
      "env": {
        "RIKLET_GATEWAY": "10.231.0.1",
        "RIKLET_GUEST_ADDRESS": "10.231.0.2",
        "RIKLET_GUEST_MAC": "06:52:49:4b:00:00",
        "RIKLET_MTU": "1500",
        "RIKLET_NAME": "hello",
        "RIKLET_NETMASK": "255.255.255.252",
        "RIKLET_TAP": "rik0"
      },
      "firecracker": [
        {
          "guest_mac": "06:52:49:4b:00:00",
          "host_dev_name": "rik0",
          "iface_id": "eth0"
        }
      ],
      "qemu": [
        "-netdev",
        "tap,id=eth0,ifname=rik0,script=no,downscript=no",
        "-device",
        "virtio-net-pci,netdev=eth0,mac=06:52:49:4b:00:00,host_mtu=1500,romfile="
      ]
    }
    "#);
}

#[test]
fn drift_is_shown_and_repaired() {
    let environment = Environment::with_hello();
    let sound = environment.snapshot();
    environment.tool("ip", &["link", "set", "rik0", "down"]);
    environment.tool("nft", &["flush", "map", "inet", "riklet", "exposures"]);
    let commands: [&[&str]; 7] = [
        &["list"],
        &["inspect", "hello"],
        &["check"],
        &["check", "--output", "json"],
        &["repair"],
        &["check"],
        &["check", "--output", "json"],
    ];
    insta::assert_snapshot!(transcript(&environment, commands), @r#"
    $ riklet-sdn list
    NAME   INTERFACE  GUEST       HOST ADDRESS  STATE  EXPOSURES
    hello  rik0       10.231.0.2  10.231.0.1    down   tcp 8080 -> 3000
    $ riklet-sdn inspect hello
    name      hello
    kind      Function
    phase     up
    interface rik0 (down)
    guest     10.231.0.2/30 06:52:49:4b:00:00
    host      10.231.0.1/30 0a:52:49:4b:00:01
    mtu       1500
    exposure  tcp 8080 -> 3000 (MISSING in the firewall)
    lacks     up
    lacks     neighbour 10.231.0.2 at 06:52:49:4b:00:00
    $ riklet-sdn check
    ~ TAP rik0: up, neighbour 10.231.0.2 at 06:52:49:4b:00:00
    + firewall: tcp 8080 -> 10.231.0.2:3000
    ---- stderr ----
    hint: `riklet-sdn repair` makes the kernel match the records
    ---- exit code 1 ----
    $ riklet-sdn check --output json
    {
      "blocked": [],
      "firewall": [],
      "lost": [],
      "steps": [
        "~ TAP rik0: up, neighbour 10.231.0.2 at 06:52:49:4b:00:00",
        "+ firewall: tcp 8080 -> 10.231.0.2:3000"
      ],
      "unsettled": [],
      "warnings": []
    }
    ---- exit code 1 ----
    $ riklet-sdn repair
    ~ TAP rik0: up, neighbour 10.231.0.2 at 06:52:49:4b:00:00
    + firewall: tcp 8080 -> 10.231.0.2:3000
    $ riklet-sdn check
    ---- stderr ----
    no drift
    $ riklet-sdn check --output json
    {
      "blocked": [],
      "firewall": [],
      "lost": [],
      "steps": [],
      "unsettled": [],
      "warnings": []
    }
    "#);
    // The database has the repair in its journal, from which a daemon tells of it.
    environment.assert_unchanged_but(&sound, "/riklet-sdn.db", "the repair");
}

#[test]
fn verbose_output_lists_each_step() {
    let environment = Environment::new();
    let output = environment.run(&["-v", "up", "hello.json"]);
    insta::assert_snapshot!(output, @r"
    NAME   INTERFACE  GUEST       HOST ADDRESS  EXPOSURES
    hello  rik0       10.231.0.2  10.231.0.1    tcp 8080 -> 3000
    ---- stderr ----
     INFO + TAP rik0: address 10.231.0.1/30, MAC 0a:52:49:4b:00:01, MTU 1500, neighbour 10.231.0.2 at 06:52:49:4b:00:00
     INFO ~ firewall: all of it, guests 10.231.0.0/16, uplinks none
    + firewall: tcp 8080 -> 10.231.0.2:3000
    + firewall: hairpin 10.231.0.2
     INFO + routing rule 32762: from 10.231.0.0/16 to 10.231.0.0/16 iif lo lookup main
     INFO + routing rule 32762: from 10.231.0.0/16 to 10.231.0.0/16 fwmark 0x40/0x40 lookup main
     INFO + routing rule 32763: from 10.231.0.0/16 to 10.231.0.0/16 prohibit
    ");
    let output = environment.run(&["up", "hello.json", "-v"]);
    insta::assert_snapshot!(output, @r"
    NAME   INTERFACE  GUEST       HOST ADDRESS  EXPOSURES
    hello  rik0       10.231.0.2  10.231.0.1    tcp 8080 -> 3000
    ");
}

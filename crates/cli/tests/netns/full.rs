//! A full file system of the records stops neither `down` nor repairs.

use std::path::PathBuf;

use crate::world::{
    Firewall, World,
    function::{exposure, function},
    on_every_firewall,
    transport::Transport::Tcp,
};

/// Fills the file system, so that nobody gets another block.
const FILL: &str = "dd if=/dev/zero of=\"$RIKLET_SDN_STATE_DIR/fill\" bs=4k 2>/dev/null || true";

/// Runs a shell script whose state directory is a small file system of its own, full of nothing yet. `$RIKLET` is the
/// program, `$ONE` to `$THREE` are definitions, and `$MANY` is a file with a thousand of them.
fn run(world: &World, size: &str, script: &str) {
    let definition = |name: &str, port: u16| function(name, &[exposure(Tcp, port, 3000)]);
    let files = [("one", 8081), ("two", 8082), ("three", 8083)]
        .map(|(name, port)| write(world, name, &definition(name, port).to_string()));
    let many = (0..1000).map(|number| definition(&format!("m{number}"), 10_000 + number));
    let many = write(world, "many", &many.collect::<serde_json::Value>().to_string());
    let variables = format!(
        "RIKLET='{}' ONE='{}' TWO='{}' THREE='{}' MANY='{}'",
        env!("CARGO_BIN_EXE_riklet-sdn"),
        files[0].display(),
        files[1].display(),
        files[2].display(),
        many.display()
    );
    let mount = format!("mount -t tmpfs -o size={size} small \"$RIKLET_SDN_STATE_DIR\"");
    let script = format!("{variables}\n{mount}\n{script}");
    world.program("unshare", &["--mount", "sh", "-euxc", &script], "").success();
}

#[expect(clippy::disallowed_methods, reason = "the definitions are the test's own")]
fn write(world: &World, name: &str, text: &str) -> PathBuf {
    let path = world.directory.path().join(format!("{name}.json"));
    std::fs::write(&path, text).expect("a file");
    path
}

on_every_firewall!(full_disk_stops_neither_down_nor_repair, |world| {
    let script = "\"$RIKLET\" up \"$ONE\"; \"$RIKLET\" up \"$TWO\"; \"$RIKLET\" up \"$THREE\"
        FILL
        ip link delete rik1
        \"$RIKLET\" repair
        \"$RIKLET\" check
        \"$RIKLET\" down one
        \"$RIKLET\" down --all
        rm \"$RIKLET_SDN_STATE_DIR/fill\"
        \"$RIKLET\" up \"$ONE\"
        \"$RIKLET\" down --all --purge";
    run(world, "200k", &script.replace("FILL", FILL));
});

/// Purges after two `up`s on a full file system. Where much is free at first, little is left of its last blocks for the
/// journal, too.
fn purge_on_a_full_disk(before: &str) {
    let world = &World::new(Firewall::Nftables);
    let script = "\"$RIKLET\" up \"$ONE\"
        FILL
        \"$RIKLET\" up \"$TWO\"; \"$RIKLET\" up \"$THREE\"
        BEFORE
        said=$(\"$RIKLET\" down --all --purge 2>&1)
        [ -z \"$said\" ]
        rm \"$RIKLET_SDN_STATE_DIR/fill\"
        [ \"$(ls \"$RIKLET_SDN_STATE_DIR\")\" = lock ]";
    run(world, "1600k", &script.replace("FILL", FILL).replace("BEFORE", before));
}

#[test]
fn all_is_purged_on_a_full_disk() {
    purge_on_a_full_disk("");
}

#[test]
fn the_rest_is_purged_on_a_full_disk() {
    purge_on_a_full_disk("\"$RIKLET\" down two three");
}

#[test]
fn full_disk_stops_neither_down_nor_healing_by_the_daemon() {
    let world = &World::new(Firewall::Nftables);
    let script = "\"$RIKLET\" serve --ready-slots 4 & daemon=$!
        trap 'kill $daemon' EXIT
        until [ -S \"$RIKLET_SDN_STATE_DIR/api.sock\" ]; do sleep 0.01; done
        \"$RIKLET\" up \"$ONE\"; \"$RIKLET\" up \"$TWO\"; \"$RIKLET\" up \"$THREE\"
        FILL
        ip link delete rik1
        until ip link show rik1 && \"$RIKLET\" check; do sleep 0.01; done
        \"$RIKLET\" down one
        \"$RIKLET\" down --all
        rm \"$RIKLET_SDN_STATE_DIR/fill\"
        \"$RIKLET\" up \"$MANY\"
        \"$RIKLET\" check";
    run(world, "3m", &script.replace("FILL", FILL));
}

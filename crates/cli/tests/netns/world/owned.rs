//! A table of nf_tables that another process owns (`NFT_TABLE_F_OWNER`), as a newer firewalld has one.

use std::{path::PathBuf, time::Duration};

use super::{World, command::Running, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);

/// A table of the family inet, and the process that owns it: an nft(8) that reads commands from a pipe. The table ends with
/// the process, when this is dropped.
pub(crate) struct Owned<'a> {
    world: &'a World,
    table: &'static str,
    pipe: PathBuf,
    loads: usize,
    owner: Running,
}

impl<'a> Owned<'a> {
    /// Starts the process, which creates the table with these chains and rules: a command of nft(8) in each line.
    #[track_caller]
    pub(crate) fn load(world: &'a World, table: &'static str, rules: &str) -> Self {
        let pipe = world.directory.path().join(format!("owner-of-{table}"));
        let path = pipe.to_str().expect("UTF-8");
        let read = "rm -f \"$0\" && mkfifo \"$0\" && echo ready && exec nft -i 0<>\"$0\"";
        let mut owner = world.program_in_background("sh", &["-c", read, path], "");
        owner.wait_for_line("ready");
        let mut loaded = Self { world, table, pipe, loads: 0, owner };
        loaded.reload(rules);
        loaded
    }

    /// Replaces the chains and the rules, in one transaction.
    #[track_caller]
    pub(crate) fn reload(&mut self, rules: &str) {
        let Self { world, table, pipe, loads, .. } = self;
        *loads += 1;
        let loaded = format!("loaded_{loads}");
        let [table, chain] =
            [&format!("table inet {table}"), &format!("chain inet {table} {loaded}")];
        let mut commands = Vec::new();
        if *loads > 1 {
            commands.push(format!("delete {table}"));
        }
        commands.push(format!("add {table} {{ flags owner ; }}"));
        commands.extend(rules.lines().map(str::to_owned));
        commands.push(format!("add {chain}"));
        let write = ["-c", "cat >\"$0\"", pipe.to_str().expect("UTF-8")];
        world.program("sh", &write, &format!("{}\n", commands.join(" ; "))).success();
        wait_for("the table of another process", PATIENCE, || {
            let list = ["nft", "list", "chain", "inet", self.table, &loaded];
            (world.node.feed(&list, "").code == Some(0)).then_some(())
        });
    }

    /// Ends the process, and its table with it.
    #[track_caller]
    pub(crate) fn end(self) {
        let Self { world, table, owner, .. } = self;
        drop(owner);
        wait_for("the table to end", PATIENCE, || {
            let list = world.node.feed(&["nft", "list", "table", "inet", table], "");
            (list.code != Some(0)).then_some(())
        });
    }
}

//! A node agent: it brings a function's network up, starts the function's VMM on the TAP, and takes the network down when
//! the function is no longer wanted.
//!
//! It needs root, and changes the network of the namespace that it runs in. To try it where it changes nothing else, build
//! it with `cargo build --manifest-path examples/embed/Cargo.toml`, then run `sudo unshare --net
//! examples/embed/target/debug/embed`.

use std::error::Error;

use riklet_sdn::{
    Config, Instance, Node, Selector, UpOptions,
    definition::{self, Source},
};

#[expect(clippy::print_stdout, reason = "an agent would start a VMM instead")]
fn main() -> Result<(), Box<dyn Error>> {
    // The agent's records. The command line works on them with `--state-dir`, and refuses to touch them without.
    serve(Config::in_directory("/run/my-agent/network"), |instance| {
        let (tap, mac, addresses) =
            (instance.interface(), instance.guest_mac(), instance.addresses.v4);
        println!("{}: TAP {tap}, MAC {mac}", instance.name());
        println!("{}: address {}, gateway {}", instance.name(), addresses.guest, addresses.host);
    })
}

/// Exposes a function for as long as its VMM runs.
pub(crate) fn serve(config: Config, run_vmm: impl Fn(&Instance)) -> Result<(), Box<dyn Error>> {
    let text = include_str!("../../hello.json").to_owned();
    let workloads = definition::parse(&[Source { name: "hello.json".to_owned(), text }])?;
    let mut node = Node::new(config);
    let report = node.up(&workloads, UpOptions::default())?;
    if let Some(failure) = report.failures.into_iter().next() {
        return Err(failure.into());
    }
    report.instances.iter().for_each(run_vmm);
    let names = report.instances.iter().map(|instance| instance.name().clone());
    node.down(&Selector::Named(names.collect()), false)?;
    Ok(())
}

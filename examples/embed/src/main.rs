//! A node agent: it brings a function's network up, starts the function's VMM on the TAP, and takes the
//! network down when the function is no longer wanted.
//!
//! It needs root, and changes the network of the namespace that it runs in. To try it where it changes
//! nothing else: `cargo build --manifest-path examples/embed/Cargo.toml && sudo unshare --net examples/embed/target/debug/embed`.

use std::error::Error;

use riklet_core::definition::{self, Source};
use riklet_kernel::HostFacts;
use riklet_sdn::{Config, Node, Selector, UpOptions};
use riklet_vmm::attachment::{self, Attachment};

#[expect(clippy::print_stdout, reason = "an agent would start something")]
fn main() -> Result<(), Box<dyn Error>> {
    // What an agent keeps apart from the command line's instances, it keeps in a directory of its own.
    let config = Config { state_dir: "/run/my-agent/network".into(), ..Config::default() };
    serve(config, |configuration| println!("the VMM is started with {configuration}"))
}

/// Exposes a function for as long as its VMM runs.
pub(crate) fn serve(config: Config, run_vmm: impl Fn(&str)) -> Result<(), Box<dyn Error>> {
    let source =
        Source { name: "hello.json".into(), text: include_str!("../../hello.json").into() };
    let workloads = definition::parse(&[source])?;

    let mut node = Node::new(config);
    let report = node.up(&workloads, UpOptions::default())?;
    if let Some(failure) = report.failures.into_iter().next() {
        return Err(failure.into());
    }
    // The host's own: the guest asks them for names.
    let resolvers = node.kernel().resolvers()?;
    for instance in &report.instances {
        let attachment = Attachment::of(instance, &resolvers);
        run_vmm(&attachment::firecracker(&attachment).to_string());
    }
    let names = report.instances.iter().map(|instance| instance.name().clone());
    node.down(&Selector::Named(names.collect()), false)?;
    Ok(())
}

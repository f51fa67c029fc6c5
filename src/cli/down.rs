use std::process::ExitCode;

use riklet_sdn::{
    kernel::Kernel,
    sdn::{Sdn, Which},
    store::Store,
    vmm::runs,
};

use super::{args::DownArgs, error::CliError, input, output, output::Output};

pub(crate) fn run<K: Kernel>(
    sdn: &mut Sdn<K>,
    args: &DownArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    input::require_privilege()?;
    let which =
        if args.all { Which::All } else { Which::Named(args.names.iter().cloned().collect()) };
    if let Some(store) = Store::open_existing(&sdn.config().state_dir)? {
        runs::refuse_running(&store, &which)?;
    }
    let mut report = sdn.down(&which, args.purge)?;
    if args.all && args.purge {
        let state_dir = &sdn.config().state_dir;
        if let Some(mut store) = Store::open_existing(state_dir)? {
            runs::forget_ended(&mut store, state_dir)?;
        }
    }
    if report.done.is_empty() {
        output.remark("nothing to do");
    }
    output.print(String::new, || output::report(&report))?;
    output.complaints(&mut report).map(|()| ExitCode::SUCCESS)
}

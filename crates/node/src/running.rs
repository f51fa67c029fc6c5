//! A running function is not taken down, except by its supervisor.

use super::{NodeError, session::Context};
use crate::store::Store;
use riklet_core::model::Selector;
use riklet_kernel::{HostFacts, process::ProcessId};

impl<K: HostFacts> Context<'_, K> {
    /// Fails if another process than this supervisor runs one of these instances. Looks at their runs only. A run whose
    /// supervisor has ended does not count.
    pub(crate) fn refuse_running(
        &mut self,
        store: &Store,
        selector: &Selector,
        supervisor: Option<ProcessId>,
    ) -> Result<(), NodeError> {
        let runs = match selector {
            Selector::All => store.runs_under_way()?,
            Selector::Named(names) => {
                let runs: Result<Vec<_>, _> = names.iter().map(|name| store.run(name)).collect();
                runs?.into_iter().flatten().filter(|run| run.end.is_none()).collect()
            }
        };
        // One that obtains its images has no network yet.
        for run in runs.into_iter().filter(|run| !run.preparing) {
            if Some(run.supervisor) != supervisor && self.kernel.is_alive(run.supervisor)? {
                return Err(NodeError::running(&run));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use riklet_kernel::fake::FakeKernel;

    use super::*;
    use crate::{Config, cache::Cache};

    /// Returns a store with this number of functions, each with a run that this process supervises.
    fn with_runs(count: usize) -> Store {
        let mut store = Store::in_memory().unwrap();
        let ours = ProcessId::current().unwrap();
        let tx = store.transaction().unwrap();
        for number in 0..count {
            let name = format!("r{number}").parse().unwrap();
            tx.begin_run(&name, "builtin", ours, 5_000).unwrap();
        }
        tx.commit().unwrap();
        store
    }

    #[test]
    fn a_down_reads_only_the_runs_of_its_instances() {
        let selector = |name: &str| Selector::Named([name.parse().unwrap()].into());
        let (config, mut kernel, mut cache) =
            (Config::default(), FakeKernel::new(), Cache::default());
        let mut context = Context { config: &config, kernel: &mut kernel, cache: &mut cache };
        let costs = [10, 10_000].map(|count| {
            let mut store = with_runs(count);
            let (running, others) = (selector("r7"), selector("other"));
            assert!(context.refuse_running(&store, &running, None).is_err());
            assert!(context.refuse_running(&store, &Selector::All, None).is_err());
            let (steps, refused) =
                store.steps(|store| context.refuse_running(store, &others, None));
            refused.unwrap();
            steps
        });
        assert_eq!(costs[0], costs[1], "instructions of SQLite");
    }
}

use super::{
    Config, Drift, Inspection, ListedInstance, Node, NodeError, RebuildOptions, Rebuilt, Report,
    Selector, UpOptions, WarmNode, Warning,
};
use riklet_core::{
    model::{InstanceName, Workload},
    plan::Plan,
};
use riklet_kernel::{Kernel, process::ProcessId};

/// The operations that a [`Node`] and a [`WarmNode`] have in common, for code that works with either.
///
/// Each is the method of the same name.
pub trait NodeOperations: sealed::Sealed {
    /// Returns the configuration.
    fn config(&self) -> &Config;

    /// Brings up the network of these workloads, as [`Node::up`].
    ///
    /// # Errors
    /// Fails as that method does.
    fn up(&mut self, workloads: &[Workload], options: UpOptions) -> Result<Report, NodeError>;

    /// Returns the plan of bringing these workloads up, as [`Node::plan`].
    ///
    /// # Errors
    /// Fails as that method does.
    fn plan(&mut self, workloads: &[Workload]) -> Result<(Plan, Vec<Warning>), NodeError>;

    /// Takes instances down, as [`Node::down`].
    ///
    /// # Errors
    /// Fails as that method does.
    fn down(&mut self, selector: &Selector, purge: bool) -> Result<Report, NodeError>;

    /// Takes instances down for the supervisor of their runs, as [`Node::down_as`].
    ///
    /// # Errors
    /// Fails as that method does.
    fn down_as(
        &mut self,
        supervisor: ProcessId,
        selector: &Selector,
        purge: bool,
    ) -> Result<Report, NodeError>;

    /// Compares the kernel with the records, as [`Node::check`].
    ///
    /// # Errors
    /// Fails as that method does.
    fn check(&mut self) -> Result<Drift, NodeError>;

    /// Changes the kernel to what the records say, as [`Node::repair`].
    ///
    /// # Errors
    /// Fails as that method does.
    fn repair(&mut self) -> Result<Report, NodeError>;

    /// Rebuilds the records from the interfaces' aliases, as [`Node::rebuild`].
    ///
    /// # Errors
    /// Fails as that method does.
    fn rebuild(&mut self, options: RebuildOptions) -> Result<Rebuilt, NodeError>;

    /// Takes over the objects of the records in another state directory, as [`Node::adopt`].
    ///
    /// # Errors
    /// Fails as that method does.
    fn adopt(&mut self) -> Result<Rebuilt, NodeError>;

    /// Removes records in which there is nothing, as [`Node::remove_blank`]. A [`WarmNode`] keeps them.
    ///
    /// # Errors
    /// Fails as that method does.
    fn remove_blank(&mut self) -> Result<bool, NodeError>;

    /// Lists the recorded instances, as [`Node::list`].
    ///
    /// # Errors
    /// Fails as that method does.
    fn list(&mut self) -> Result<Vec<ListedInstance>, NodeError>;

    /// Returns one recorded instance, as [`Node::inspect`].
    ///
    /// # Errors
    /// Fails as that method does.
    fn inspect(&mut self, name: &InstanceName) -> Result<Inspection, NodeError>;
}

macro_rules! forward {
    ($($node:ident),*) => { $(
        impl<K: Kernel> NodeOperations for $node<K> {
            fn config(&self) -> &Config {
                self.config()
            }

            fn up(
                &mut self,
                workloads: &[Workload],
                options: UpOptions,
            ) -> Result<Report, NodeError> {
                self.up(workloads, options)
            }

            fn plan(&mut self, workloads: &[Workload]) -> Result<(Plan, Vec<Warning>), NodeError> {
                self.plan(workloads)
            }

            fn down(&mut self, selector: &Selector, purge: bool) -> Result<Report, NodeError> {
                self.down(selector, purge)
            }

            fn down_as(
                &mut self,
                supervisor: ProcessId,
                selector: &Selector,
                purge: bool,
            ) -> Result<Report, NodeError> {
                self.down_as(supervisor, selector, purge)
            }

            fn check(&mut self) -> Result<Drift, NodeError> {
                self.check()
            }

            fn repair(&mut self) -> Result<Report, NodeError> {
                self.repair()
            }

            fn rebuild(&mut self, options: RebuildOptions) -> Result<Rebuilt, NodeError> {
                self.rebuild(options)
            }

            fn adopt(&mut self) -> Result<Rebuilt, NodeError> {
                self.adopt()
            }

            fn remove_blank(&mut self) -> Result<bool, NodeError> {
                self.remove_blank()
            }

            fn list(&mut self) -> Result<Vec<ListedInstance>, NodeError> {
                self.list()
            }

            fn inspect(&mut self, name: &InstanceName) -> Result<Inspection, NodeError> {
                self.inspect(name)
            }
        }
    )* };
}

forward!(Node, WarmNode);

mod sealed {
    pub trait Sealed {}
    impl<K> Sealed for super::Node<K> {}
    impl<K> Sealed for super::WarmNode<K> {}
}

use super::{Config, Drift, Node, NodeError, Report, Selector, WarmNode};
use riklet_kernel::Kernel;

/// The operations that a [`Node`] and a [`WarmNode`] have in common, for code that works with either.
///
/// Each is the method of the same name.
pub trait NodeOperations: sealed::Sealed {
    /// Returns the configuration.
    fn config(&self) -> &Config;

    /// Takes instances down, as [`Node::down`].
    ///
    /// # Errors
    /// As there.
    fn down(&mut self, selector: &Selector, purge: bool) -> Result<Report, NodeError>;

    /// Compares the kernel with the records, as [`Node::check`].
    ///
    /// # Errors
    /// As there.
    fn check(&mut self) -> Result<Drift, NodeError>;

    /// Changes the kernel to what the records say, as [`Node::repair`].
    ///
    /// # Errors
    /// As there.
    fn repair(&mut self) -> Result<Report, NodeError>;
}

macro_rules! forward {
    ($($node:ident),*) => { $(
        impl<K: Kernel> NodeOperations for $node<K> {
            fn config(&self) -> &Config {
                self.config()
            }

            fn down(&mut self, selector: &Selector, purge: bool) -> Result<Report, NodeError> {
                self.down(selector, purge)
            }

            fn check(&mut self) -> Result<Drift, NodeError> {
                self.check()
            }

            fn repair(&mut self) -> Result<Report, NodeError> {
                self.repair()
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

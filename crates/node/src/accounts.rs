//! Resolves the names of users and groups, and the files of network namespaces, once, when a definition is brought up: the
//! record has the numbers that the interface was made with, whatever the host later calls them.

use super::NodeError;
use riklet_core::model::{Account, InstanceName, Namespace, Workload};
use riklet_kernel::{AccountKind, HostFacts};

/// Returns the same workloads, with numbers instead of the names of users and groups, and with those of namespaces.
pub(super) fn resolved(
    kernel: &mut impl HostFacts,
    workloads: &[Workload],
) -> Result<Vec<Workload>, NodeError> {
    let mut found = workloads.to_vec();
    for workload in &mut found {
        let name = workload.name().clone();
        let execution = workload.execution_mut();
        resolve(kernel, &name, AccountKind::User, &mut execution.user)?;
        resolve(kernel, &name, AccountKind::Group, &mut execution.group)?;
        if let Some((namespace, _)) = workload.namespace_mut() {
            resolve_namespace(kernel, &name, namespace)?;
        }
    }
    Ok(found)
}

fn resolve(
    kernel: &mut impl HostFacts,
    name: &InstanceName,
    kind: AccountKind,
    account: &mut Option<Account>,
) -> Result<(), NodeError> {
    if let Some(Account::Name(named)) = account {
        let id = kernel.account(kind, named)?.ok_or_else(|| NodeError::UnknownAccount {
            name: name.clone(),
            kind,
            account: named.clone(),
        })?;
        *account = Some(Account::Id(id));
    }
    Ok(())
}

/// Looks at the file that leads to a namespace. One that the definition names by its number as well must be that one.
fn resolve_namespace(
    kernel: &mut impl HostFacts,
    name: &InstanceName,
    namespace: &mut Namespace,
) -> Result<(), NodeError> {
    let Some(path) = &namespace.path else { return Ok(()) };
    let found = kernel.namespace(path)?;
    if let Some(wanted) = namespace.id.filter(|wanted| *wanted != found) {
        let (name, path) = (name.clone(), path.clone());
        return Err(NodeError::OtherNamespace { name, path, wanted, found });
    }
    namespace.id = Some(found);
    Ok(())
}

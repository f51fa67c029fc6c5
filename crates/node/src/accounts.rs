//! Resolves the names of users and groups once, when a definition is brought up: the record has the numbers that the
//! TAP has, whatever the host later calls them.

use super::NodeError;
use riklet_core::model::{Account, InstanceName, Workload};
use riklet_kernel::{AccountKind, HostFacts};

/// Returns the same workloads, with numbers instead of the names of users and groups.
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

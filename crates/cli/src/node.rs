//! Chooses what carries out a command: the daemon if one listens, otherwise the node in this process.

use std::{fs, io, os::unix::net::UnixStream};

use riklet_api::{
    ApiError, Check, Client, Health, HttpStatus, InspectionDocument, ListEntry, NodeApi,
    Notifications, PlanDocument, RebuiltDocument, ReportDocument, Token, Topic, chain,
};
use riklet_core::model::{InstanceName, Selector, Workload};
use riklet_daemon::local::LocalNode;
use riklet_sdn::{Config, Node, process::LockHolder};
use rustix::net::sockopt;

use super::{args::NodeArgs, config, error::CliError, input};

/// The statuses of requests that a privileged process carries out beside the daemon.
const BESIDE_DAEMON: [HttpStatus; 2] = [HttpStatus::PayloadTooLarge, HttpStatus::NotImplemented];

/// The node that the arguments select.
///
/// It looks for a daemon only when an operation is requested, so that invalid input is reported first. A request that
/// is too large for the daemon, or needs a privilege that the daemon lacks, is carried out in this process, if the user may do
/// that: on the same records and under the same lock.
pub(crate) struct ChosenNode {
    daemon: Daemon,
    local: LocalNode,
    /// The arguments, if the daemon was not asked yet whether it can honour them.
    args: Option<NodeArgs>,
}

/// The daemon of the node, as far as it is known so far.
enum Daemon {
    Unknown,
    Absent,
    /// It is left out, whether or not one listens.
    Unwanted,
    Listens(Client),
}

/// The requirement of an operation that this process carries out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Requires {
    Nothing,
    /// Root, to change or to see the state of the kernel.
    Privilege,
    /// Root, and the ability to create TAPs.
    Taps,
    /// A daemon.
    Daemon,
}

impl ChosenNode {
    /// Returns the node that the arguments and the configuration select.
    pub(crate) fn of(args: &NodeArgs) -> Result<Self, CliError> {
        let local = LocalNode::new(Node::new(config::load(args)?));
        let daemon = if args.no_daemon { Daemon::Unwanted } else { Daemon::Unknown };
        let args = config::concerns_daemon(args).then(|| args.clone());
        Ok(Self { daemon, local, args })
    }

    /// Returns the settings of this process.
    pub(crate) fn config(&self) -> &Config {
        self.local.config()
    }

    fn ask<T>(
        &mut self,
        requires: Requires,
        call: impl Fn(&mut dyn NodeApi) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let args = self.args.take();
        if let Some(client) = self.daemon(requires)? {
            if let Some(args) = args
                && let Some(conflict) = config::conflict(&args, &client.settings()?)
            {
                return Err(CliError::Conflict(conflict).into());
            }
            match call(client) {
                Err(error)
                    if BESIDE_DAEMON.iter().any(|status| error.status == status.code())
                        && input::require_privilege().is_ok() => {}
                answer => return answer,
            }
        }
        match requires {
            Requires::Nothing | Requires::Daemon => {}
            Requires::Privilege => input::require_privilege()?,
            Requires::Taps => input::require_taps()?,
        }
        call(&mut self.local)
    }

    /// Returns a client of the daemon; `None` if none listens as far as this process can see. A user who may not enter
    /// the state directory may not work without a daemon either, and gets that error instead.
    fn daemon(&mut self, requires: Requires) -> Result<Option<&mut Client>, CliError> {
        if matches!(self.daemon, Daemon::Unwanted) && requires == Requires::Daemon {
            return Err(CliError::WithoutDaemon);
        }
        if matches!(self.daemon, Daemon::Unknown) {
            let socket = self.local.config().socket();
            let visible = || {
                requires == Requires::Daemon
                    || input::require_privilege().is_err() && fs::symlink_metadata(&socket).is_ok()
            };
            let connected = UnixStream::connect(&socket).and_then(|stream| {
                let server = server_of(&stream);
                Ok((Client::connect(&socket)?, server))
            });
            self.daemon = match connected {
                Ok((_, Some(process))) if process.is_stopped => {
                    return Err(CliError::StoppedDaemon { path: socket, process });
                }
                Ok((client, _)) => Daemon::Listens(client),
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied && visible() => {
                    return Err(CliError::Daemon { path: socket, source });
                }
                Err(_nobody_listens) => Daemon::Absent,
            };
        }
        Ok(match &mut self.daemon {
            Daemon::Listens(client) => Some(client),
            Daemon::Absent | Daemon::Unwanted | Daemon::Unknown => None,
        })
    }
}

impl NodeApi for ChosenNode {
    fn up(&mut self, workloads: &[Workload], strict: bool) -> Result<ReportDocument, ApiError> {
        let needs_tap = workloads.iter().any(|workload| workload.namespace().is_none());
        let requires = if needs_tap { Requires::Taps } else { Requires::Privilege };
        self.ask(requires, |node| node.up(workloads, strict))
    }

    fn down(&mut self, selector: &Selector, purge: bool) -> Result<ReportDocument, ApiError> {
        self.ask(Requires::Privilege, |node| node.down(selector, purge))
    }

    fn list(&mut self) -> Result<Vec<ListEntry>, ApiError> {
        self.ask(Requires::Nothing, |node| node.list())
    }

    fn inspect(&mut self, name: &InstanceName) -> Result<InspectionDocument, ApiError> {
        self.ask(Requires::Nothing, |node| node.inspect(name))
    }

    fn plan(&mut self, workloads: &[Workload]) -> Result<PlanDocument, ApiError> {
        self.ask(Requires::Privilege, |node| node.plan(workloads))
    }

    fn check(&mut self) -> Result<Check, ApiError> {
        self.ask(Requires::Privilege, |node| node.check())
    }

    fn repair(&mut self) -> Result<ReportDocument, ApiError> {
        self.ask(Requires::Privilege, |node| node.repair())
    }

    fn rebuild(&mut self, force: bool) -> Result<RebuiltDocument, ApiError> {
        self.ask(Requires::Privilege, |node| node.rebuild(force))
    }

    fn adopt(&mut self) -> Result<RebuiltDocument, ApiError> {
        self.ask(Requires::Privilege, |node| node.adopt())
    }

    fn health(&mut self) -> Result<Option<Health>, ApiError> {
        self.ask(Requires::Nothing, |node| node.health())
    }

    fn events(
        &mut self,
        topic: Topic,
        follow: bool,
        since: Option<Token>,
    ) -> Result<Notifications, ApiError> {
        self.ask(Requires::Daemon, |node| node.events(topic, follow, since))
    }
}

/// Returns the process that listens on the other side, if it can be told (`SO_PEERCRED` of unix(7)).
fn server_of(stream: &UnixStream) -> Option<LockHolder> {
    let pid = sockopt::socket_peercred(stream).ok()?.pid.as_raw_nonzero();
    LockHolder::new(u32::try_from(pid.get()).ok()?)
}

/// Converts the errors of this process, in addition to those of the node and of the daemon.
impl From<CliError> for ApiError {
    fn from(error: CliError) -> Self {
        let refusal = Self::new(HttpStatus::ServiceUnavailable, error.kind(), chain(&error));
        refusal.with_hint(error.hint())
    }
}

//! Limits the number of connections, and the time that one may stall.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, watch},
    task::JoinSet,
    time,
};
use tokio_io_timeout::TimeoutStream;

/// The largest number of connections to the API.
const API: usize = 1024;
/// The largest number of connections for metrics.
const METRICS: usize = 64;
/// The descriptors that connections leave to the engine and the supervisors, for netlink, sockets, TAPs and logs.
const RESERVE: usize = 256;
/// The longest head of a request, and the largest part of a body that is read ahead, in bytes.
const READ_AHEAD: usize = 64 << 10;

/// The client at the other end of a connection. Each request has it as an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// Root, or the user that the daemon runs as.
    Operator,
    /// Anybody else who may connect.
    Other,
}

/// The limits of a listener's connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// The largest number of concurrent connections. Further ones wait in the listener's queue.
    connections: usize,
    /// The time limit for the head of a request, and for a client that does not read its answer.
    patience: Duration,
}

/// The limits of both listeners.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    descriptors: usize,
    patience: Duration,
}

impl Limits {
    /// Creates the limits that fit this process's limit of open files.
    pub(super) fn new(patience: Duration) -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        let descriptors = limit.and_then(|limit| usize::try_from(limit).ok());
        Self { descriptors: descriptors.unwrap_or(usize::MAX), patience }
    }

    /// Returns the limit of the API: half of the available descriptors.
    pub(super) fn api(self) -> Limit {
        self.at_most(API, 2)
    }

    /// Returns the limit of the metrics: an eighth, since anybody may connect.
    pub(super) fn metrics(self) -> Limit {
        self.at_most(METRICS, 8)
    }

    fn at_most(self, most: usize, part: usize) -> Limit {
        let to_spare = self.descriptors.saturating_sub(RESERVE) / part;
        Limit { connections: to_spare.clamp(8, most), patience: self.patience }
    }
}

/// Raises the limit of open files to the maximum of the process; the usual limit is 1,024.
pub(super) fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

/// Accepts and serves connections, until the daemon ends and the last connection with it.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    accept: impl AsyncFn() -> io::Result<(S, Client)>,
    router: Router,
    limit: Limit,
    mut ending: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(limit.connections));
    let mut connections = JoinSet::new();
    let accepted = async || {
        let permit = Arc::clone(&permits).acquire_owned().await;
        (accept().await, permit)
    };
    loop {
        tokio::select! {
            (accepted, permit) = accepted() => match accepted {
                Ok((stream, client)) => {
                    let conversation =
                        converse((stream, client), router.clone(), limit, ending.clone());
                    connections.spawn(async move {
                        conversation.await;
                        drop(permit);
                    });
                }
                Err(error) => not_accepted(&error).await,
            },
            Some(_) = connections.join_next() => {}
            () = super::ended(&mut ending) => break,
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Handles a failed accept: the client is gone, or there are no descriptors left, which waiting may cure.
async fn not_accepted(error: &io::Error) {
    tracing::warn!("cannot accept a connection: {error}");
    time::sleep(Duration::from_millis(10)).await;
}

/// Serves one connection, until the client or the daemon ends it, or the client stops reading.
async fn converse(
    (stream, client): (impl AsyncRead + AsyncWrite + Unpin, Client),
    router: Router,
    limit: Limit,
    mut ending: watch::Receiver<bool>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limit.patience).max_buf_size(READ_AHEAD);
    // A client may close its end after the request (shutdown(2), `SHUT_WR`), and still gets its answer.
    http.half_close(true);
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(client);
        service.call(request)
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limit.patience));
    let io = TokioIo::new(Box::pin(stream));
    let mut connection = std::pin::pin!(http.serve_connection(io, service));
    let result = tokio::select! {
        result = &mut connection => result,
        () = super::ended(&mut ending) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!("a connection ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_limits_reserve_descriptors_for_repairs() {
        for descriptors in [0, 256, 512, 1024, 4096, usize::MAX] {
            let limits = Limits { descriptors, patience: Duration::from_secs(1) };
            let (api, metrics) = (limits.api().connections, limits.metrics().connections);
            assert!(api >= 8 && metrics >= 8, "{descriptors}: nobody could connect");
            assert!(api <= API && metrics <= METRICS);
            if descriptors > RESERVE + 64 {
                assert!(api + metrics + RESERVE <= descriptors, "{descriptors}: {api} + {metrics}");
            }
        }
    }
}

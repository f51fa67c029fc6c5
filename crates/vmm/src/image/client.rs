//! The HTTP client, and the interpretation of its errors.

use std::{error::Error as StdError, io, path::PathBuf, sync::Arc, time::Duration};

use rustls::{CertificateError, crypto::ring};
use ureq::{
    Agent, Timeout,
    tls::{Certificate, RootCerts, TlsConfig},
    unversioned::transport::DefaultConnector,
};

use super::{
    ImageError,
    part::DownloadTarget,
    resolver::{Internal, PublicOnly},
};

/// Limits and options of the HTTP client.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the downloads; `None` is `images` in the state directory.
    pub directory: Option<PathBuf>,
    /// The directories that files may be in, also after symbolic links are followed; `None` is everywhere.
    pub roots: Option<Vec<PathBuf>>,
    /// The group that may read the downloads; `None` lets everybody read them.
    pub group: Option<u32>,
    /// The largest image that is downloaded, in bytes.
    pub most: u64,
    /// The time limit of a whole download, over all its connections.
    pub whole: Duration,
    /// The bytes that a download leaves free on its file system.
    pub spare: u64,
    /// Follows redirects to other hosts at addresses that are not public: of private networks, of this host, link-local
    /// ones. A host that a URL names itself may have any address.
    pub private_redirects: bool,
    /// Refuses such an address of the host that the URL names, too. The proxy of the configuration may have any address.
    pub public_only: bool,
    /// The time limit of resolving the host's name, and then of connecting, with TLS.
    pub connect: Duration,
    /// The time limit for the next byte.
    pub silence: Duration,
    /// The number of times that a download resumes after a broken connection.
    pub retries: u32,
    /// The pause before the first resumption. It doubles with each further one.
    pub pause: Duration,
    /// The number of redirects that are followed.
    pub redirects: u32,
    /// Uses the proxies that `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` name, in lower
    /// or upper case.
    pub proxies: bool,
    /// The certificates (DER) of the authorities that may vouch for a server. `None` means those that the host trusts,
    /// or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    pub certificates: Option<Vec<Vec<u8>>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            directory: None,
            roots: None,
            group: None,
            most: 64 << 30,
            whole: Duration::from_hours(1),
            spare: 64 << 20,
            private_redirects: false,
            public_only: false,
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            retries: 3,
            pause: Duration::from_millis(500),
            redirects: 10,
            proxies: true,
            certificates: None,
        }
    }
}

/// Creates a client for this one file. It accepts only https if the file's URL is https, also after redirects.
pub(super) fn agent(settings: &Settings, target: &DownloadTarget) -> Agent {
    let mut config = Agent::config_builder()
        .https_only(target.url.is_https())
        .http_status_as_error(false)
        .max_redirects(settings.redirects)
        .timeout_resolve(Some(settings.connect))
        .timeout_connect(Some(settings.connect))
        .timeout_per_read(Some(settings.silence))
        .timeout_per_write(Some(settings.silence))
        .max_idle_connections(0)
        .user_agent(concat!("riklet-sdn/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .tls_config(tls(settings));
    if !settings.proxies {
        config = config.proxy(None);
    }
    let resolver = PublicOnly::new(settings, &target.url);
    Agent::with_parts(config.build(), DefaultConnector::default(), resolver)
}

fn tls(settings: &Settings) -> TlsConfig {
    let trusted = match &settings.certificates {
        Some(certificates) => {
            certificates.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
        }
        None => host_certificates(),
    };
    TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(trusted)))
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build()
}

fn host_certificates() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::debug!(%error, "cannot read a certificate of the host");
    }
    found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
}

/// Tells whether the connection ended too early.
pub(super) fn is_break(error: &ureq::Error) -> bool {
    let ureq::Error::Io(error) = error else { return false };
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

/// Tells whether the server was silent for too long.
pub(super) fn is_silence(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Timeout(Timeout::PerRead))
}

/// Returns the error that ends a download.
pub(super) fn refusal(
    settings: &Settings,
    target: &DownloadTarget,
    error: ureq::Error,
) -> ImageError {
    let (role, url) = (target.role, target.url.clone());
    match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            ImageError::Timeout { role, url, what: "connection", limit: settings.connect }
        }
        ureq::Error::Timeout(_) => {
            ImageError::Timeout { role, url, what: "data", limit: settings.silence }
        }
        ureq::Error::TooManyRedirects => {
            ImageError::Redirects { role, url, limit: settings.redirects }
        }
        ureq::Error::Other(source) if internal(&*source).is_some() => {
            let to = internal(&*source).cloned().unwrap_or_default();
            let Internal { host, address, named } = to;
            if named {
                ImageError::Internal { role, url, address }
            } else {
                ImageError::InternalRedirect { role, url, to: host, address }
            }
        }
        ureq::Error::RequireHttpsOnly(_) => ImageError::Downgrade { role, url },
        ureq::Error::Io(source) => match certificate(&source) {
            Some(error) => ImageError::Certificate { role, url, why: reason(error) },
            None => ImageError::Unreachable { role, url, source: source.into() },
        },
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::InvalidProxyUrl
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_) => ImageError::Unreachable { role, url, source: error.into() },
        _ => ImageError::Answer { role, url, source: error.into() },
    }
}

fn internal<'a>(error: &'a (dyn StdError + Send + Sync + 'static)) -> Option<&'a Internal> {
    error.downcast_ref()
}

fn certificate(error: &io::Error) -> Option<&CertificateError> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(error) => Some(error),
        _ => None,
    }
}

fn reason(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet".to_owned()
        }
        CertificateError::UnknownIssuer => "nobody whom this host trusts signed it".to_owned(),
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "it is signed by itself".to_owned()
        }
        other => other.to_string(),
    }
}

//! Connects to RabbitMQ, with clear errors.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lapin::tcp::{AMQPUriTcpExt, OwnedTLSConfig, RustlsConnector, RustlsConnectorConfig};
use lapin::types::LongString;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, ErrorKind};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use url::{Host, Url};

/// Where the URL says nothing else: the peer is taken for dead when nothing comes from it for twice this long.
pub const HEARTBEAT_S_DEFAULT: u16 = 15;

/// How long the address, the connection, TLS and the login may take together.
pub const CONNECT_MS_MAX: u64 = 10_000;

/// Why there is no connection to the broker. The texts name the address and the user, never the password.
#[derive(Clone, Debug, Error)]
pub enum ConnectError {
    /// The URL can't be used.
    #[error("the broker's URL is wrong: {0}; it looks like amqp://user:password@host:5672/%2f, amqps:// with TLS")]
    Url(String),
    /// The file of the certificate authority can't be used.
    #[error("the certificates in {} can't be used: {reason}", file.display())]
    CaFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing answers, or the connection broke before the login was done.
    #[error("RabbitMQ at {address} can't be reached: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// The system's error.
        reason: String,
    },
    /// It took longer than [`CONNECT_MS_MAX`].
    #[error("RabbitMQ at {address} did not answer within {CONNECT_MS_MAX} ms")]
    TimedOut {
        /// Host and port.
        address: String,
    },
    /// TLS failed: most often the server's certificate does not verify.
    #[error(
        "TLS with RabbitMQ at {address} failed: {reason}; is the host's name the certificate's, and is its authority known (ca_file)?"
    )]
    Tls {
        /// Host and port.
        address: String,
        /// The error of the TLS library.
        reason: String,
    },
    /// The broker does not let this user in.
    #[error("RabbitMQ at {address} refuses the login of the user {user:?}: check the user and the password")]
    Login {
        /// Host and port.
        address: String,
        /// The user.
        user: String,
    },
    /// The virtual host does not exist, or the user has no right to it.
    #[error(
        "RabbitMQ at {address} refuses the virtual host {vhost:?} to the user {user:?}: {reason}; the default one, /, is written /%2f in the URL"
    )]
    Vhost {
        /// Host and port.
        address: String,
        /// The virtual host.
        vhost: String,
        /// The user.
        user: String,
        /// The broker's own words.
        reason: String,
    },
    /// The broker, or the library, said something else.
    #[error("no connection to RabbitMQ at {address}: {reason}")]
    Other {
        /// Host and port.
        address: String,
        /// What was said.
        reason: String,
    },
}

impl ConnectError {
    /// Whether the same attempt may succeed a little later, without anyone changing the configuration.
    pub fn is_transient(&self) -> bool {
        match self {
            ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } | ConnectError::Other { .. } => true,
            ConnectError::Url(_)
            | ConnectError::CaFile { .. }
            | ConnectError::Tls { .. }
            | ConnectError::Login { .. }
            | ConnectError::Vhost { .. } => false,
        }
    }
}

/// Connects, without any recovery of lapin's: who holds the connection decides what a lost one means.
///
/// `name` is what the broker's management shows. With `amqps://` the server is verified: against the certificates in
/// `ca_file` and no others where it is given, else against the system's.
pub async fn connect(url: &str, name: &str, ca_file: Option<&Path>) -> Result<Connection, ConnectError> {
    let uri = parse(url)?;
    let target = Target::of(&uri);
    let tls = match uri.scheme {
        AMQPScheme::AMQP => None,
        AMQPScheme::AMQPS => Some(tls_connector(ca_file, &target)?),
    };
    let properties = ConnectionProperties::default().with_connection_name(LongString::from(name));
    let runtime = lapin::runtime::default_runtime().map_err(|error| target.failed(&error))?;
    let open = async move |uri: AMQPUri, runtime| {
        let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
        let stream = plain.connect_with_config_async(OwnedTLSConfig::default().as_ref(), &runtime).await?;
        match &tls {
            None => Ok(stream),
            Some(tls) => stream
                .into_rustls(tls, &uri.authority.host)
                .await
                .map_err(|error| io::Error::other(TlsFailed(error.to_string())).into()),
        }
    };
    let connecting = Connection::connector(uri, runtime, open, properties);
    match tokio::time::timeout(Duration::from_millis(CONNECT_MS_MAX), connecting).await {
        Ok(connected) => connected.map_err(|error| target.failed(&error)),
        Err(_elapsed) => Err(ConnectError::TimedOut { address: target.address }),
    }
}

/// Waits for what the broker answers on a connection, for [`CONNECT_MS_MAX`] at the most.
///
/// A question that is asked in the moment in which the connection ends may find nobody left in lapin (4.12) who would answer it,
/// not even with an error.
///
/// # Errors
/// That of the answer, or an I/O error of the kind `TimedOut`: the connection is to be given up.
pub async fn in_time<T>(answer: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
    match tokio::time::timeout(Duration::from_millis(CONNECT_MS_MAX), answer).await {
        Ok(answered) => answered,
        Err(_elapsed) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

/// What an error names. The password is not among it.
struct Target {
    address: String,
    user: String,
    vhost: String,
}

/// Marks an error of the TLS handshake on its way through lapin.
#[derive(Debug, Error)]
#[error("{0}")]
struct TlsFailed(String);

impl Target {
    fn of(uri: &AMQPUri) -> Target {
        Target {
            address: format!("{}:{}", uri.authority.host, uri.authority.port),
            user: uri.authority.userinfo.username.clone(),
            vhost: uri.vhost.clone(),
        }
    }

    fn failed(&self, error: &lapin::Error) -> ConnectError {
        let Target { address, user, vhost } = self;
        let (address, user, vhost) = (address.clone(), user.clone(), vhost.clone());
        match error.kind() {
            ErrorKind::IOError(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsFailed>()) {
                Some(TlsFailed(reason)) => ConnectError::Tls { address, reason: reason.clone() },
                None => ConnectError::Unreachable { address, reason: error.to_string() },
            },
            ErrorKind::ProtocolError(error) => match error.get_id() {
                ACCESS_REFUSED => ConnectError::Login { address, user },
                NOT_ALLOWED => ConnectError::Vhost { address, vhost, user, reason: error.get_message().to_string() },
                _ => ConnectError::Other { address, reason: error.to_string() },
            },
            _ => ConnectError::Other { address, reason: error.to_string() },
        }
    }
}

/// AMQP's reply code for a login that is refused.
const ACCESS_REFUSED: u16 = 403;
/// AMQP's reply code for a virtual host that is not there, or not for this user.
const NOT_ALLOWED: u16 = 530;

/// The URL, checked without ever quoting it: it holds the password.
fn parse(url: &str) -> Result<AMQPUri, ConnectError> {
    let wrong = |problem: &str| ConnectError::Url(problem.to_owned());
    let parsed = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    if !["amqp", "amqps"].contains(&parsed.scheme()) {
        return Err(wrong(&format!("the scheme {:?} is not amqp or amqps", parsed.scheme())));
    }
    // lapin takes an IPv6 address for no host at all, and goes to localhost.
    let host = match parsed.host() {
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(host) => host.to_string(),
        None => return Err(wrong("it has no host")),
    };
    let mut uri: AMQPUri = url.parse().map_err(|_| wrong("a part of it can't be read"))?;
    uri.authority.host = host;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S_DEFAULT);
    Ok(uri)
}

fn tls_connector(ca_file: Option<&Path>, target: &Target) -> Result<RustlsConnector, ConnectError> {
    let address = target.address.clone();
    let failed = |error: io::Error| ConnectError::Tls { address, reason: error.to_string() };
    let Some(file) = ca_file else {
        return RustlsConnectorConfig::new_with_native_certs()
            .and_then(|config| config.connector_with_no_client_auth())
            .map_err(failed);
    };
    let unusable = |reason: String| ConnectError::CaFile { file: file.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("there is no certificate in it".to_owned()));
    }
    RustlsConnectorConfig::default()
        .with_parsable_certificates(certificates)
        .connector_with_no_client_auth()
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read() {
        let uri = parse("amqp://user:p%40ss@[::1]:5673/%2f").expect("a URL");
        assert_eq!((uri.authority.host.as_str(), uri.authority.port), ("::1", 5673));
        assert_eq!((uri.authority.userinfo.password.as_str(), uri.vhost.as_str()), ("p@ss", "/"));
        assert_eq!(uri.query.heartbeat, Some(HEARTBEAT_S_DEFAULT));
        let uri = parse("amqps://example.com/shop?heartbeat=60").expect("a URL");
        assert_eq!((uri.authority.host.as_str(), uri.authority.port), ("example.com", 5671));
        assert_eq!((uri.query.heartbeat, uri.vhost.as_str()), (Some(60), "shop"));
    }

    #[test]
    fn a_wrong_url_is_never_quoted() {
        for url in [
            "",
            "amqp:secret",
            "http://u:secret@host/",
            "amqp://u:secret@host:port/",
            "amqp://u:secret@/",
            "amqp://u:secret@host/?heartbeat=x",
            "amqp://u:secret%ff@host/",
        ] {
            let error = parse(url).expect_err(url);
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
            assert!(!error.is_transient());
        }
    }
}

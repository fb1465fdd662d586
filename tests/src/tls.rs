//! Certificates of the tests' own authorities, and TLS before servers that speak none.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Signs certificates for servers. Nobody but who is given its file knows it.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// For whom and until when a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// For `localhost`, now.
    Right,
    /// Now, for another host.
    WrongName,
    /// For `localhost`, until some years ago.
    Expired,
}

/// A certificate with its key, both in PEM.
pub struct Signed {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of the tests'");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("ca.pem"), issuer.pem())?;
        Ok(Self { issuer, folder })
    }

    /// The file with its own certificate, as `ca_file` takes it. It is gone when the authority is.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a server on this host.
    pub fn sign(&self, validity: Validity) -> Result<Signed> {
        let host = if validity == Validity::WrongName { "elsewhere.example" } else { "localhost" };
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, host);
        if validity == Validity::Expired {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Signed { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

impl Signed {
    /// Writes `server.crt` and `server.key` into a folder, made where it is missing, for a server of whatever user to read.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("server.crt"), &self.certificate)?;
        std::fs::write(folder.join("server.key"), &self.key)?;
        Ok(())
    }
}

/// Takes TLS connections and passes them on to a server. Serves until the test's runtime ends.
pub struct TlsFront {
    /// Where it listens, on loopback.
    pub port: u16,
    sessions: Arc<AtomicUsize>,
}

impl TlsFront {
    /// Before the server of that URL. A client of PostgreSQL first asks for TLS, which it gets.
    pub async fn before(url: &str, signed: &Signed) -> Result<Self> {
        let certificate = CertificateDer::from_pem_slice(signed.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes())?;
        let config =
            ServerConfig::builder_with_provider(Arc::new(tokio_rustls::rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let front = Self { port: listener.local_addr()?.port(), sessions: Arc::default() };
        let (acceptor, starttls) = (TlsAcceptor::from(Arc::new(config)), url.starts_with("postgres"));
        tokio::spawn(serve(listener, acceptor, address(url)?, starttls, front.sessions.clone()));
        Ok(front)
    }

    /// How many clients have taken the certificate so far.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    server: SocketAddr,
    starttls: bool,
    sessions: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let (acceptor, sessions) = (acceptor.clone(), sessions.clone());
        tokio::spawn(async move {
            if starttls {
                let mut request = [0; 8];
                stream.read_exact(&mut request).await?;
                stream.write_all(b"S").await?;
            }
            // A client that refuses the certificate ends here; its own error is what the tests look at.
            if let Ok(mut stream) = acceptor.accept(stream).await {
                sessions.fetch_add(1, Ordering::Relaxed);
                let mut to_server = TcpStream::connect(server).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut to_server).await?;
            }
            std::io::Result::Ok(())
        });
    }
}

/// Host and port of a URL, with or without a user.
fn address(url: &str) -> Result<SocketAddr> {
    let authority = url.split('/').nth(2).and_then(|authority| authority.rsplit('@').next());
    Ok(authority.context("a URL's host and port")?.parse()?)
}

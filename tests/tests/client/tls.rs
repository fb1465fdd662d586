//! `amqps://`, through a TLS front of the test's own before the real broker. The front serves other tests, too.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use pinion_client::{ConnectError, Publisher, PublisherConfig};
use pinion_tests::stack;
use rcgen::CertifiedKey;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// Takes TLS connections as `localhost`, with a certificate that it has signed itself, and passes them on to a server.
pub(crate) struct Front {
    pub(crate) port: u16,
    pub(crate) ca_file: PathBuf,
    _folder: TempDir,
}

impl Front {
    async fn start() -> Result<Front> {
        Front::before(&stack().await?.rabbitmq).await
    }

    /// Before the server of that URL.
    pub(crate) async fn before(url: &str) -> Result<Front> {
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let config =
            ServerConfig::builder_with_provider(Arc::new(tokio_rustls::rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key.into())?;
        let folder = tempfile::tempdir()?;
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, cert.pem())?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let starttls = url.starts_with("postgres");
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), address(url)?, starttls));
        Ok(Front { port, ca_file, _folder: folder })
    }

    fn config(&self, host: &str) -> PublisherConfig {
        PublisherConfig::new(format!("amqps://guest:guest@{host}:{}/%2f", self.port))
    }
}

/// With `starttls` a client of PostgreSQL first asks for TLS, which it gets.
async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    server: SocketAddr,
    starttls: bool,
) -> std::io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if starttls {
                let mut request = [0; 8];
                stream.read_exact(&mut request).await?;
                stream.write_all(b"S").await?;
            }
            // A client that refuses the certificate ends here; its own error is what the tests look at.
            if let Ok(mut stream) = acceptor.accept(stream).await {
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

#[tokio::test]
async fn a_server_is_verified() -> Result<()> {
    let front = Front::start().await?;
    let publisher = Publisher::connect(front.config("localhost").ca_file(&front.ca_file)).await?;
    // The default exchange knows every queue by its name; this one does not exist, and the broker says so.
    let answer = publisher.publish_raw("", "no-such-queue", Default::default(), b"x".to_vec()).await;
    ensure!(matches!(answer, Err(pinion_client::PublishError::Unroutable { .. })), "{answer:?}");
    publisher.close().await;

    for (what, config) in [
        ("an unknown authority", front.config("localhost")),
        ("another host's name", front.config("127.0.0.1").ca_file(&front.ca_file)),
    ] {
        let error = Publisher::connect(config).await.expect_err(what);
        ensure!(matches!(&error, ConnectError::Tls { .. }) && !error.is_transient(), "{what}: {error}");
        ensure!(error.to_string().contains("certificate"), "{what}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_port_without_tls_and_a_file_without_certificates_are_named() -> Result<()> {
    let plain = stack().await?.rabbitmq.replace("amqp://", "amqps://");
    let error = Publisher::connect(PublisherConfig::new(plain)).await.expect_err("the port speaks no TLS");
    ensure!(matches!(&error, ConnectError::Tls { .. }), "{error}");

    let front = Front::start().await?;
    std::fs::write(&front.ca_file, "no certificate")?;
    for file in [front.ca_file.clone(), front.ca_file.with_file_name("missing.pem")] {
        let error = Publisher::connect(front.config("localhost").ca_file(&file)).await.expect_err("no certificate");
        ensure!(matches!(&error, ConnectError::CaFile { file: named, .. } if *named == file), "{error}");
    }
    Ok(())
}

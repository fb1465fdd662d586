//! `amqps://`, through a TLS front of the test's own before the real broker. The front serves other tests, too.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use pinion_client::{ConnectError, Publisher, PublisherConfig};
use pinion_tests::{Authority, TlsFront, Validity, stack};

/// Takes TLS connections as `localhost`, with a certificate of an authority of its own, and passes them on to a server.
pub(crate) struct Front {
    pub(crate) port: u16,
    pub(crate) ca_file: PathBuf,
    _authority: Authority,
}

impl Front {
    async fn start() -> Result<Front> {
        Front::before(&stack().await?.rabbitmq).await
    }

    /// Before the server of that URL.
    pub(crate) async fn before(url: &str) -> Result<Front> {
        let authority = Authority::new()?;
        let port = TlsFront::before(url, &authority.sign(Validity::Right)?).await?.port;
        Ok(Front { port, ca_file: authority.ca_file(), _authority: authority })
    }

    fn config(&self, host: &str) -> PublisherConfig {
        PublisherConfig::new(format!("amqps://guest:guest@{host}:{}/%2f", self.port))
    }
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

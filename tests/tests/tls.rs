//! TLS to every server: the right certificate is taken, and no other, whatever else would work.

use std::path::Path;

use anyhow::{Result, ensure};
use pinion_tests::{
    Authority, MysqlShop, Namespace, Pinion, PrivateMariadb, PrivateRabbit, PrivateReplica, Setup, TlsFront, Validity,
};

use crate::shop::{applied, compare_all, compare_mysql, send, settled};

/// A line of the configuration that names an authority.
fn ca_line(file: &Path) -> String {
    format!("ca_file = {file:?}\n")
}

/// The command must fail because of the server's certificate.
async fn refused(pinion: &Pinion, what: &str, command: &[&str], said: &str) -> Result<()> {
    let output = pinion.command(command).await?;
    ensure!(output.code == 1, "{what}: {output:?}");
    ensure!(output.stderr.contains("certificate"), "{what}: {}", output.stderr);
    ensure!(output.stderr.contains(said), "{what} should say {said:?}: {}", output.stderr);
    Ok(())
}

#[tokio::test]
async fn the_broker_and_the_cluster_are_verified() -> Result<()> {
    let namespace = Namespace::shop(5).await?;
    let authority = Authority::new()?;
    let (rabbitmq, elasticsearch) = (namespace.rabbit().url().to_owned(), namespace.elastic().url().to_owned());
    let with = async |signed: &Authority, validity, ca_file: Option<&Path>| -> Result<(Setup, [TlsFront; 2])> {
        let signed = signed.sign(validity)?;
        let fronts = [TlsFront::before(&rabbitmq, &signed).await?, TlsFront::before(&elasticsearch, &signed).await?];
        let ca_line = ca_file.map(ca_line).unwrap_or_default();
        let setup = Setup {
            rabbitmq: format!("amqps://guest:guest@localhost:{}/%2f", fronts[0].port),
            rabbitmq_more: ca_line.clone(),
            elasticsearch: vec![format!("https://localhost:{}", fronts[1].port)],
            elasticsearch_more: ca_line,
            ..Setup::shop(&namespace)?
        };
        Ok((setup, fronts))
    };

    let (setup, fronts) = with(&authority, Validity::Right, Some(&authority.ca_file())).await?;
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=5).await?;
    settled(&worker, "orders", "indexed", 5).await?;
    ensure!(compare_all(&namespace, &setup, "orders", "orders").await? == 5);
    assert_eq!(worker.terminate().await?, 0);
    assert!(fronts.iter().all(|front| front.sessions() > 0), "nothing went through the fronts");

    let (other, its_file) = (Authority::new()?, authority.ca_file());
    for (what, signer, validity, ca_file, said) in [
        ("wrong name", &authority, Validity::WrongName, Some(its_file.as_path()), "not valid for"),
        ("expired", &authority, Validity::Expired, Some(&its_file), "expired"),
        ("of another authority", &other, Validity::Right, Some(&its_file), ""),
        ("of nobody that the system knows", &authority, Validity::Right, None, ""),
    ] {
        let (setup, fronts) = with(signer, validity, ca_file).await?;
        let pinion = setup.write(&namespace)?;
        refused(&pinion, what, &["enqueue", "orders", "1"], said).await?;
        refused(&pinion, what, &["dead", "list"], said).await?;
        assert_eq!(fronts.map(|front| front.sessions()), [0, 0], "{what}");
    }
    namespace.finish().await
}

/// The broker itself, without a front.
#[tokio::test]
async fn rabbitmq_is_verified() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let authority = Authority::new()?;
    let broker = PrivateRabbit::start_tls(&authority.sign(Validity::Right)?).await?;
    let url = |host: &str| format!("amqps://guest:guest@{host}:{}/%2f", broker.tls_port());
    let setup =
        Setup { rabbitmq: url("localhost"), rabbitmq_more: ca_line(&authority.ca_file()), ..Setup::shop(&namespace)? };
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    pinion.command(&["enqueue", "orders", "1"]).await?.ok()?;
    settled(&worker, "orders", "indexed", 1).await?;
    assert_eq!(worker.terminate().await?, 0);

    let other = Authority::new()?;
    let enqueue = ["enqueue", "orders", "1"];
    let of_another = Setup { rabbitmq_more: ca_line(&other.ca_file()), ..setup.clone() };
    refused(&of_another.write(&namespace)?, "another authority", &enqueue, "").await?;
    let by_another_name = Setup { rabbitmq: url("127.0.0.1"), ..setup };
    refused(&by_another_name.write(&namespace)?, "another name", &enqueue, "not valid for").await?;
    namespace.finish().await
}

/// `explain` reads as a worker does: the primary's position, then the rows on the replica.
#[tokio::test]
async fn postgres_is_verified() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let authority = Authority::new()?;
    let replica = PrivateReplica::start().await?;
    let on_localhost = |url: String| url.replace("127.0.0.1", "localhost");
    let right = authority.sign(Validity::Right)?;
    replica.serve_tls(&right).await?;
    let front = TlsFront::before(&namespace.primary_url(), &right).await?;
    let url = on_localhost(replica.url(namespace.name()));
    let mut setup = Setup {
        primary: format!("postgres://pinion:pinion@localhost:{}/{}", front.port, namespace.name()),
        replicas: vec![url.clone()],
        on_lag: "wait".to_owned(),
        source_more: ca_line(&authority.ca_file()),
        ..Setup::shop(&namespace)?
    };
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", [1]).await?;
    settled(&worker, "orders", "indexed", 1).await?;
    assert_eq!(worker.terminate().await?, 0);
    assert!(front.sessions() > 0, "the primary was not asked through its front");
    let explain = ["explain", "orders", "1"];
    pinion.command(&explain).await?.ok()?;

    // The address itself may say it all, as libpq's does.
    let other = Authority::new()?;
    setup.source_more = String::new();
    setup.primary = namespace.primary_url();
    let own = |ca_file: &Path| vec![format!("{url}?sslmode=verify-full&sslrootcert={}", ca_file.display())];
    setup.replicas = own(&authority.ca_file());
    let pinion = setup.write(&namespace)?;
    pinion.command(&explain).await?.ok()?;
    setup.replicas = own(&other.ca_file());
    refused(&setup.write(&namespace)?, "another authority", &explain, "").await?;
    setup.replicas = vec![format!("{url}?sslmode=verify-full")];
    refused(&setup.write(&namespace)?, "nobody that the system knows", &explain, "").await?;
    setup.replicas = own(&authority.ca_file());
    for (validity, said) in [(Validity::WrongName, "not valid for"), (Validity::Expired, "expired")] {
        replica.serve_tls(&authority.sign(validity)?).await?;
        refused(&setup.write(&namespace)?, "a wrong certificate", &explain, said).await?;
    }
    namespace.finish().await
}

#[tokio::test]
async fn mariadb_is_verified() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let authority = Authority::new()?;
    let servers = PrivateMariadb::start_tls(&authority.sign(Validity::Right)?).await?;
    let shop = MysqlShop::on(&namespace, &servers, 3).await?;
    // Whoever comes without TLS is not let in, so that what works below works through it.
    shop.execute("ALTER USER pinion@'127.0.0.1' REQUIRE SSL").await?;
    shop.replica_caught_up().await?;
    let mut setup = Setup::mysql(&namespace, &shop)?;
    for url in [&mut setup.primary, &mut setup.replicas[0]] {
        *url = url.replace("127.0.0.1", "localhost");
    }
    setup.source_more = ca_line(&authority.ca_file());
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=3).await?;
    settled(&worker, "orders", "indexed", 3).await?;
    ensure!(compare_mysql(&namespace, &setup, &shop, "orders").await? == 3);
    assert_eq!(worker.terminate().await?, 0);

    let other = Authority::new()?;
    let explain = ["explain", "orders", "1"];
    setup.source_more = ca_line(&other.ca_file());
    refused(&setup.write(&namespace)?, "another authority", &explain, "").await?;
    setup.source_more = ca_line(&authority.ca_file());
    for (validity, said) in [(Validity::WrongName, "not valid for"), (Validity::Expired, "expired")] {
        servers.serve_tls(&authority.sign(validity)?).await?;
        refused(&setup.write(&namespace)?, "a wrong certificate", &explain, said).await?;
    }
    drop(shop);
    namespace.finish().await
}

//! Secrets that are planted in every setting that takes one, and looked for in everything that Pinion says and keeps.

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt as _, stream};
use pinion_tests::{MysqlShop, Namespace, Pinion, Setup, Worker, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::shop::{TIMEOUT, applied, dead_letters_of, send, send_raw, settled};

/// The word that every planted secret begins with, and that nothing else has in it.
const WORD: &str = "hushhush";

/// Commands that between them use all servers, and every way of printing.
const COMMANDS: [&[&str]; 16] = [
    &["plan"],
    &["apply"],
    &["check"],
    &["check", "--json"],
    &["status"],
    &["status", "--json"],
    &["enqueue", "orders", "1"],
    &["enqueue", "orders", "--all"],
    &["explain", "orders", "1"],
    &["dead", "list"],
    &["dead", "show", "orders/1"],
    &["dead", "replay", "--yes"],
    &["pause", "customers", "--no-wait"],
    &["resume", "customers", "--no-wait"],
    &["offsets"],
    &["init", "--table", "public.orders"],
];

/// Where a text shows the word: as it is, as bytes, or in base64, wherever in the encoded text it begins.
fn leak(text: &str) -> Option<&str> {
    let as_bytes = "104, 117, 115, 104, 104, 117, 115, 104";
    let in_base64 = ["aHVzaGh1c2", "h1c2hodXNo", "odXNoaHVza"];
    let forms = [WORD, as_bytes, "6875736868757368"].into_iter().chain(in_base64);
    let found = forms.filter_map(|form| text.find(form)).min()?;
    let start = text.floor_char_boundary(found.saturating_sub(300));
    Some(&text[start..text.floor_char_boundary(found + 100)])
}

fn keeps_silent(what: &str, text: &str) -> Result<()> {
    match leak(text) {
        None => Ok(()),
        Some(shown) => anyhow::bail!("{what} shows a secret: {shown}"),
    }
}

#[test]
fn a_leak_is_found_in_every_form() {
    let bytes = format!("{:?}", format!("user\0{WORD}-1").as_bytes());
    // `a:`, `ab:` and `abc:` before the word, in base64.
    for text in ["x hushhush-1 y", &bytes, "YTpodXNoaHVzaC0x", "YWI6aHVzaGh1c2gtMQ==", "YWJjOmh1c2hodXNoLTE="] {
        assert!(leak(text).is_some(), "{text}");
    }
    assert!(leak("hush").is_none());
}

/// Everything that the namespace's own indexes hold, the broker tells of its queues, and the worker shows.
async fn keeps_all_silent(namespace: &Namespace, worker: &Worker) -> Result<()> {
    for page in ["/metrics", "/readyz", "/healthz"] {
        keeps_silent(page, &worker.admin(page).await?.1)?;
    }
    let indexes = format!("/{}-*", namespace.name());
    namespace.elastic().ok(Method::POST, &format!("{indexes}/_refresh"), None).await?;
    let kept = namespace.elastic().search(&indexes[1..], json!({"size": 1000})).await?;
    for index in ["workers", "sources", "dead-letters", "jobs"] {
        ensure!(kept.to_string().contains(&format!("{}-{index}", namespace.name())), "nothing is kept in {index}");
    }
    keeps_silent("an index", &kept.to_string())?;
    keeps_silent("an index's settings", &namespace.elastic().ok(Method::GET, &indexes, None).await?.to_string())?;
    keeps_silent("the worker's log", &worker.log()?)
}

/// Runs every command at the level that tells the most.
async fn commands_keep_silent(pinion: &Pinion, level: &str) -> Result<()> {
    let outputs = stream::iter(COMMANDS).map(async |command| {
        let output = pinion.command(&[&["--log", level], command].concat()).await?;
        anyhow::Ok((command, output))
    });
    let outputs: Vec<_> = outputs.buffer_unordered(8).collect().await;
    for output in outputs {
        let (command, output) = output?;
        ensure!(output.code != 2, "{command:?} was not run: {}", output.stderr);
        keeps_silent(&format!("{command:?}"), &output.stdout)?;
        keeps_silent(&format!("{command:?}"), &output.stderr)?;
    }
    Ok(())
}

/// Users of the servers with secrets of their own. Removed at the end.
async fn plant(namespace: &Namespace, shop: &MysqlShop) -> Result<Setup> {
    let user = namespace.name();
    namespace.execute(&format!("CREATE ROLE {user} LOGIN PASSWORD '{WORD}-postgres' IN ROLE pinion")).await?;
    shop.execute(&format!(
        "CREATE USER {user}@'127.0.0.1' IDENTIFIED BY '{WORD}-mariadb'; GRANT SELECT ON {user}.* TO {user}@'127.0.0.1'"
    ))
    .await?;
    let password = json!({"password": format!("{WORD}-rabbitmq"), "tags": ""});
    namespace.rabbit().management(Method::PUT, &format!("/users/{user}"), Some(password)).await?;
    let rights = json!({"configure": ".*", "write": ".*", "read": ".*"});
    namespace.rabbit().management(Method::PUT, &format!("/permissions/%2f/{user}"), Some(rights)).await?;
    let own = |url: String, secret: &str| url.replacen("pinion:pinion@", &format!("{user}:{WORD}-{secret}@"), 1);
    let setup = Setup::shop(namespace)?;
    Ok(Setup {
        rabbitmq: setup.rabbitmq.replace("guest:guest@", &format!("{user}:{WORD}-rabbitmq@")),
        elasticsearch_more: format!("username = \"elastic\"\npassword = \"{WORD}-elasticsearch\"\n"),
        primary: own(setup.primary.clone(), "postgres"),
        replicas: setup.replicas.iter().map(|url| own(url.clone(), "postgres")).collect(),
        extra: format!(
            "[sources.other]\nkind = \"mariadb\"\nprimary = {:?}\nreplicas = [{:?}]\n{}",
            own(shop.primary_url(), "mariadb"),
            own(shop.replica_url(), "mariadb"),
            feed("127.0.0.1:1"),
        ),
        ..setup
    })
}

fn feed(nobody: &str) -> String {
    format!(
        "[kafka]\nbrokers = [\"{nobody}\"]\ntopics = [\"shop.public.*\"]\nregistry = \"http://pinion:{WORD}-registry@{nobody}/api\"\n"
    )
}

async fn uproot(namespace: &Namespace) -> Result<()> {
    let user = namespace.name();
    namespace.execute(&format!("DROP ROLE {user}")).await?;
    namespace.rabbit().management(Method::DELETE, &format!("/users/{user}"), None).await.map(drop)
}

#[tokio::test]
async fn no_secret_is_told_while_all_goes_well() -> Result<()> {
    let namespace = Namespace::shop(3).await?;
    let shop = MysqlShop::mariadb(&namespace, 1).await?;
    let setup = plant(&namespace, &shop).await?;
    let tested = async {
        let pinion = applied(&namespace, &setup).await?;
        let worker = pinion.work(&["--log", "trace", "--jobs", "orders"]).await?;
        send(&namespace, "orders", 1..=3).await?;
        send_raw(&namespace, "orders", "not json").await?;
        settled(&worker, "orders", "indexed", 3).await?;
        dead_letters_of(&namespace, 1).await?;
        commands_keep_silent(&pinion, "trace").await?;
        // The last heartbeat tells of what the commands did.
        eventually("a heartbeat", TIMEOUT, async || {
            let kept = namespace.elastic().search(&format!("{}-workers", namespace.name()), json!({})).await?;
            Ok((kept["hits"]["total"]["value"] == 1).then_some(()))
        })
        .await?;
        keeps_all_silent(&namespace, &worker).await?;
        let log = worker.log()?;
        for told in [r#""level":"DEBUG""#, r#""target":"pinion"#, r#""target":"reqwest"#] {
            ensure!(log.contains(told), "the log is not that of the level: no {told}");
        }
        ensure!(!log.contains("next_msg") && !log.contains("will handle frame"), "lapin's traces are logged");
        assert_eq!(worker.terminate().await?, 0);
        anyhow::Ok(())
    };
    let outcome = tested.await;
    uproot(&namespace).await?;
    drop(shop);
    outcome?;
    namespace.finish().await
}

/// Passwords that are refused, servers that are away, addresses that can't be read.
#[tokio::test]
async fn no_secret_is_told_of_servers_that_fail() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let nobody = "127.0.0.1:1";
    let wrong = |url: &str| {
        url.replace("guest:guest@", &format!("guest:{WORD}@")).replace("pinion:pinion@", &format!("pinion:{WORD}@"))
    };
    let good = Setup::shop(&namespace)?;
    let refused = Setup {
        rabbitmq: wrong(&good.rabbitmq),
        elasticsearch: vec![format!("http://elastic:{WORD}-elasticsearch@{nobody}")],
        primary: wrong(&good.primary),
        replicas: vec![format!("postgres://pinion:{WORD}@{nobody}/shop")],
        extra: feed(nobody),
        // What it holds can't be finished, so that an orderly end takes all of this.
        worker: "shutdown_s_max = 1\n".to_owned(),
        ..Setup::shop(&namespace)?
    };
    // The worker gets as far as its databases; the commands not even to the broker.
    applied(&namespace, &good).await?;
    send(&namespace, "orders", [1]).await?;
    let pinion = Setup { rabbitmq: good.rabbitmq.clone(), ..refused.clone() }.write(&namespace)?;
    let worker = pinion.work(&["--log", "trace", "--jobs", "orders"]).await?;
    let page: Value = eventually("the worker to say what is away", TIMEOUT, async || {
        let (_, page) = worker.admin("/readyz").await?;
        let page: Value = serde_json::from_str(&page)?;
        ensure!(page["ready"] == false && page["away"].as_object().is_some_and(|away| !away.is_empty()), "{page}");
        Ok(Some(page))
    })
    .await?;
    keeps_silent("/readyz", &page.to_string())?;
    commands_keep_silent(&refused.write(&namespace)?, "trace").await?;
    keeps_silent("/metrics", &worker.admin("/metrics").await?.1)?;
    keeps_silent("the worker's log", &worker.log()?)?;
    worker.terminate().await?;

    for (setting, value) in [
        ("rabbitmq", format!("amqp://guest:{WORD}@127.0.0.1:port/%2f")),
        ("primary", format!("postgres://pinion:{WORD}@[::1/shop")),
        ("primary", format!("mysql://pinion:{WORD}@127.0.0.1/shop")),
        ("elasticsearch", format!("http://elastic:{WORD}@127.0.0.1:port")),
        ("elasticsearch", format!("ftp://elastic:{WORD}@{nobody}")),
    ] {
        let mut setup = Setup { jobs: good.jobs.clone(), ..Setup::without_jobs(&namespace)? };
        match setting {
            "rabbitmq" => setup.rabbitmq = value.clone(),
            "primary" => setup.primary = value.clone(),
            _ => setup.elasticsearch = vec![value.clone()],
        }
        let output = setup.write(&namespace)?.command(&["--log", "trace", "status"]).await?;
        ensure!(output.code > 0, "{value} is taken");
        keeps_silent(&value, &(output.stdout + &output.stderr)).with_context(|| setting.to_owned())?;
    }
    namespace.finish().await
}

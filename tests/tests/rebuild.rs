//! `pinion rebuild`: a new index beside the old one, under live writes, whatever ends in the middle.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::ready;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use pinion_client::{Publisher, PublisherConfig};
use pinion_schemas::{Job, Names};
use pinion_tests::{Namespace, Pinion, Setup, Worker, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::interval;

use crate::shop::{TIMEOUT, applied, compare_all, dead_letters, document, orders_or, patience, send};

/// The shop's job with files that can be changed under the workers.
struct Shop {
    namespace: Namespace,
    setup: Setup,
    pinion: Pinion,
}

impl Shop {
    async fn start(orders: u32) -> Result<Self> {
        let namespace = Namespace::shop(orders).await?;
        let setup = Setup::shop(&namespace)?;
        // The loading rests most of the time while there are live writes.
        let pinion = applied(&namespace, &setup).await?.with_patience(4 * patience(orders));
        Ok(Self { namespace, setup, pinion })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.setup.jobs.join("orders").join(name)
    }

    /// Changes a file of the job; gives what it was.
    fn change(&self, name: &str, from: &str, to: &str) -> Result<String> {
        let before = std::fs::read_to_string(self.file(name))?;
        ensure!(before.contains(from), "{name} has no {from}");
        std::fs::write(self.file(name), before.replacen(from, to, 1))?;
        Ok(before)
    }

    async fn work(&self) -> Result<Worker> {
        self.pinion.work(&["--jobs", "orders"]).await
    }

    async fn enqueue_all(&self) -> Result<()> {
        self.pinion.command(&["enqueue", "orders", "--all"]).await?.ok().map(drop)
    }

    /// Waits until the alias holds exactly what the job's query gives now.
    async fn equal(&self, orders: u32) -> Result<usize> {
        eventually("all documents to be there and equal", patience(orders), async || {
            compare_all(&self.namespace, &self.setup, "orders", "orders").await.map(Some)
        })
        .await
    }

    /// Changes every so many orders, and sends them.
    async fn touch(&self, orders: u32, step: u32) -> Result<()> {
        let ids = || (1..=i64::from(orders / step)).map(|id| id * i64::from(step));
        let list = ids().map(|id| id.to_string()).collect::<Vec<_>>().join(", ");
        self.namespace.execute(&format!("UPDATE orders SET total = total + 1 WHERE id IN ({list})")).await?;
        send(&self.namespace, "orders", ids()).await
    }

    /// What is kept under this id about the job's rebuild.
    async fn kept(&self, document: &str) -> Result<Option<Value>> {
        let jobs = format!("{}-jobs", self.namespace.name());
        Ok(self.namespace.elastic().get(&jobs, document).await?.map(|kept| kept["_source"].clone()))
    }

    /// The indexes behind the alias.
    async fn behind(&self) -> Result<Vec<String>> {
        let path = format!("/_alias/{}", self.namespace.index("orders"));
        let answer = self.namespace.elastic().ok(Method::GET, &path, None).await?;
        Ok(answer.as_object().context("aliases")?.keys().cloned().collect())
    }

    /// Orders come, change and go, and items move, in transactions that change 14 documents each, 500 a second as far as the machine can,
    /// until it is told to end; every change is sent. How many transactions there were.
    async fn live(&self, orders: u32, end: &AtomicBool) -> Result<u32> {
        let config = PublisherConfig::new(self.namespace.rabbit().url());
        let publisher = Publisher::connect(config.namespace(Names::new(self.namespace.name())?)).await?;
        let began = Instant::now();
        let numbers = stream::unfold((interval(Duration::from_millis(28)), 0_u32), |(mut due, number)| async move {
            due.tick().await;
            Some((number, (due, number + 1)))
        });
        let changes = numbers
            .take_while(|_| ready(!end.load(Ordering::Relaxed)))
            .map(|number| self.change_some(orders, number, &publisher))
            .buffer_unordered(4)
            .try_fold(0, |changes, ()| ready(Ok(changes + 1)))
            .await?;
        publisher.close().await;
        let rate = f64::from(changes * 14) / began.elapsed().as_secs_f64();
        eprintln!("{changes} transactions changed {rate:.0} documents a second");
        Ok(changes)
    }

    /// One of these transactions; those next to it change other orders.
    async fn change_some(&self, orders: u32, number: u32, publisher: &Publisher) -> Result<()> {
        let id = |of: u32| i64::from(1 + (number * 31 + of * 977) % orders);
        let new = i64::from(orders + 1 + number);
        let [deleted, from, to] = [2, 3, 4].map(id);
        let updated: Vec<i64> = (10..20).map(id).collect();
        let list = updated.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        self.namespace
            .execute(&format!(
                "BEGIN; UPDATE orders SET total = total + 1 WHERE id IN ({list});
                 INSERT INTO orders (id, customer_id, merchant_id, total, placed_at, updated_at)
                   SELECT {new}, customer_id, merchant_id, 7, placed_at, updated_at FROM orders ORDER BY id LIMIT 1;
                 DELETE FROM orders WHERE id = {deleted};
                 UPDATE order_items SET order_id = {to}
                   WHERE order_id = {from} AND EXISTS (SELECT FROM orders WHERE id = {to}); COMMIT"
            ))
            .await?;
        let changed = updated.into_iter().chain([new, deleted, from, to]);
        let report = publisher.publish_all(stream::iter(changed.map(|id| Job::new("orders", id)))).await;
        ensure!(report.failed.is_empty(), "{report:?}");
        Ok(())
    }
}

const NEW_COLUMN: (&str, &str) = ("    o.status,\n", "    o.status,\n    upper(o.status) AS shouted,\n");
const NEW_FIELDS: (&str, &str) =
    (r#""currency": { "type": "keyword" }"#, r#""currency": { "type": "text" }, "shouted": { "type": "keyword" }"#);

#[tokio::test]
async fn an_index_is_rebuilt_under_live_writes_whatever_ends() -> Result<()> {
    let orders = orders_or(4_000)?;
    let shop = Shop::start(orders).await?;
    let (first, second) = (shop.work().await?, shop.work().await?);
    shop.enqueue_all().await?;
    shop.equal(orders).await?;
    let old = shop.behind().await?;

    // Another query, and a field of another type: the old index refuses what the new query gives.
    let old_sql = shop.change("document.sql", NEW_COLUMN.0, NEW_COLUMN.1)?;
    shop.change("mapping.json", NEW_FIELDS.0, NEW_FIELDS.1)?;
    let new_sql = std::fs::read_to_string(shop.file("document.sql"))?;
    let planned = shop.pinion.command(&["rebuild", "orders", "--dry-run"]).await?.ok()?.stdout;
    assert!(planned.contains("the field currency: type keyword -> text"), "{planned}");

    let end = AtomicBool::new(false);
    let live = shop.live(orders, &end);
    let rebuilding = async {
        let rate = (orders / 8).to_string();
        let mut command = shop.pinion.start(&["rebuild", "orders", "--ids-per-second", &rate])?;
        let loading = eventually("the loading to be in the middle", TIMEOUT, async || {
            let kept = shop.kept("rebuild-walk:orders").await?.unwrap_or_default();
            let ids = kept["walk"]["ids"].as_u64().unwrap_or_default();
            Ok((ids >= u64::from(orders / 4)).then_some(kept))
        });
        let loading = loading.await?;
        ensure!(loading["walk"]["done"] == false, "{loading}: it is over already");
        let status = shop.pinion.command(&["status"]).await?.stdout;
        ensure!(status.contains("REBUILDS\n  orders: "), "{status}");
        command.kill().await?;
        first.kill().await?;
        // It has the new files, and feeds the old index by its own query, as the other one feeds the new index.
        let third = shop.work().await?;
        let rebuilt = shop.pinion.command(&["rebuild", "orders", "--ids-per-second", "0"]).await?.ok()?;
        ensure!(rebuilt.stdout.contains("the alias is"), "{rebuilt:?}");
        // With writes after it, too.
        tokio::time::sleep(Duration::from_secs(1)).await;
        end.store(true, Ordering::Relaxed);
        anyhow::Ok(third)
    };
    let (changes, third) = tokio::try_join!(live, rebuilding)?;
    assert!(changes > 50, "{changes} changes put nothing to the test");
    let new = shop.behind().await?;
    assert!(new.len() == 1 && new != old, "{old:?}, {new:?}");
    let count = shop.equal(orders).await?;
    assert_eq!(dead_letters(&shop.namespace).await?.len(), 0);

    // The way back, with changes that were made after the alias had moved.
    shop.touch(orders, 10).await?;
    shop.pinion.command(&["rebuild", "orders", "--rollback"]).await?.ok()?;
    assert_eq!(shop.behind().await?, old);
    std::fs::write(shop.file("document.sql"), &old_sql)?;
    assert_eq!(shop.equal(orders).await?, count);
    std::fs::write(shop.file("document.sql"), &new_sql)?;
    shop.touch(orders, 20).await?;
    shop.pinion.command(&["rebuild", "orders", "--full"]).await?.ok()?;
    assert_eq!(shop.behind().await?, new);
    assert_eq!(shop.equal(orders).await?, count);

    let refused = shop.pinion.command(&["rebuild", "orders", "--cancel"]).await?;
    assert!(refused.code == 1 && refused.stderr.contains("--finish"), "{refused:?}");
    let refused = shop.pinion.command(&["rebuild", "orders", "--finish"]).await?;
    assert!(refused.code == 1 && refused.stderr.contains("another document.sql"), "{refused:?}");
    assert_eq!(second.terminate().await?, 0);
    // Its last heartbeat may have come after its farewell, and counts for some seconds then.
    eventually("the worker with the old files to be forgotten", TIMEOUT, async || {
        let finished = shop.pinion.command(&["rebuild", "orders", "--finish"]).await?;
        ensure!(finished.code == 0, "{finished:?}");
        Ok(Some(()))
    })
    .await?;
    let elastic = shop.namespace.elastic();
    assert_eq!(elastic.request(Method::GET, &format!("/{}", old[0]), None).await?.0, 404);
    assert_eq!(shop.kept("rebuild:orders").await?, None);
    let settings = elastic.ok(Method::GET, &format!("/{}/_settings?flat_settings=true", new[0]), None).await?;
    assert_eq!(settings[&new[0]]["settings"]["index.refresh_interval"], "1s");
    shop.touch(orders, 30).await?;
    assert_eq!(shop.equal(orders).await?, count);
    assert!(shop.pinion.command(&["plan"]).await?.ok()?.stdout.contains("Nothing to do"));
    assert_eq!(third.terminate().await?, 0);
    shop.namespace.finish().await
}

/// A new index that refuses documents is told, and the job goes on without it.
#[tokio::test]
async fn what_the_new_index_refuses_ends_the_rebuild_and_not_the_job() -> Result<()> {
    const ORDERS: u32 = 200;
    let shop = Shop::start(ORDERS).await?;
    let worker = shop.work().await?;
    shop.enqueue_all().await?;
    shop.equal(ORDERS).await?;
    let old = shop.behind().await?;
    let mapping =
        shop.change("mapping.json", r#""status": { "type": "keyword" }"#, r#""status": { "type": "long" }"#)?;
    let failed = shop.pinion.command(&["rebuild", "orders"]).await?;
    assert_eq!(failed.code, 1, "{failed:?}");
    for expected in ["can't be built", "[status]", "--cancel", &old[0]] {
        assert!(failed.stderr.contains(expected), "{expected}: {}", failed.stderr);
    }
    shop.namespace.execute("UPDATE orders SET status = 'cancelled' WHERE id = 7").await?;
    send(&shop.namespace, "orders", [7]).await?;
    let status = |document: &Value| document["status"].clone();
    document(&shop.namespace, "orders", 7, status, Some(json!("cancelled"))).await?;
    assert_eq!(shop.behind().await?, old);
    assert_eq!(dead_letters(&shop.namespace).await?.len(), 0);

    let refused = shop.pinion.command(&["rebuild", "orders", "--rollback"]).await?;
    assert!(refused.code == 1 && refused.stderr.contains("has not moved"), "{refused:?}");
    let refused = shop.pinion.command(&["rebuild", "orders", "--finish"]).await?;
    assert!(refused.code == 1 && refused.stderr.contains("--cancel"), "{refused:?}");
    shop.pinion.command(&["rebuild", "orders", "--cancel"]).await?.ok()?;
    std::fs::write(shop.file("mapping.json"), mapping)?;
    shop.equal(ORDERS).await?;

    // Paused, it waits, and live writes go on to both.
    let mut command = shop.pinion.start(&["rebuild", "orders", "--ids-per-second", "1"])?;
    let paused = eventually("the loading to be paused", TIMEOUT, async || {
        let paused = shop.pinion.command(&["rebuild", "orders", "--pause"]).await?;
        Ok((paused.code == 0).then_some(paused))
    });
    assert!(paused.await?.stdout.contains("is paused"));
    shop.namespace.execute("UPDATE orders SET status = 'accepted' WHERE id = 8").await?;
    send(&shop.namespace, "orders", [8]).await?;
    document(&shop.namespace, "orders", 8, status, Some(json!("accepted"))).await?;
    shop.pinion.command(&["rebuild", "orders", "--resume", "--ids-per-second", "0"]).await?.ok()?;
    let ended = tokio::time::timeout(patience(ORDERS), command.wait()).await.context("the rebuild goes on")??;
    assert!(ended.success(), "{ended}");
    assert_ne!(shop.behind().await?, old);
    shop.equal(ORDERS).await?;
    assert_eq!(worker.terminate().await?, 0);

    shop.pinion.command(&["rebuild", "orders", "--finish"]).await?.ok()?;
    let refused = shop.pinion.command(&["rebuild", "orders"]).await?;
    assert!(refused.code == 1 && refused.stderr.contains("no worker runs the job orders"), "{refused:?}");
    shop.namespace.finish().await
}

//! `age_s_max`: no document is older, though nobody sends a message.

use anyhow::{Context as _, Result, ensure};
use pinion_tests::{Namespace, Setup, eventually};

use crate::shop::{TIMEOUT, applied, compare_all, dead_letters};

const ORDERS: u32 = 1_500;

/// Two workers, of which the one that walks is killed on its way.
#[tokio::test]
async fn all_ids_come_again_and_again_whoever_ends() -> Result<()> {
    let namespace = Namespace::shop(ORDERS).await?;
    let setup = Setup::shop(&namespace)?;
    let file = setup.jobs.join("orders/job.toml");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("freshness_s_max = 30\n", "freshness_s_max = 30\nage_s_max = 20\n"))?;
    let pinion = applied(&namespace, &setup).await?;
    let first = pinion.work(&["--jobs", "orders"]).await?;
    eventually("the walk to have begun", TIMEOUT, async || {
        Ok((first.metrics().await?.sum("pinion_age_walked_total", &[("job", "orders")]) >= 300.0).then_some(()))
    })
    .await?;
    let walked = first.metrics().await?.sum("pinion_age_walked_total", &[]);
    ensure!(walked < f64::from(ORDERS), "it was over already: nothing is left for another worker");
    first.kill().await?;
    let second = pinion.work(&["--jobs", "orders"]).await?;
    let all = async || {
        eventually("all documents to be there and equal", 3 * TIMEOUT, async || {
            let compared = compare_all(&namespace, &setup, "orders", "orders").await?;
            ensure!(compared == ORDERS as usize, "there are {compared}");
            Ok(Some(()))
        })
        .await
    };
    all().await?;
    namespace.execute("UPDATE orders SET total = total + 1").await?;
    all().await?;
    let again = second.metrics().await?;
    let ended = again.sum("pinion_age_walk_timestamp_seconds", &[("job", "orders")]);
    assert!(ended > 0.0, "no walk has ended");
    assert_eq!(dead_letters(&namespace).await?.len(), 0);
    assert_eq!(second.terminate().await?, 0);
    namespace.finish().await.context("the end")
}

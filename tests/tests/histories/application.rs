//! One of the applications that change the shop, with the hooks that tell of it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};
use pinion_client::Publisher;
use pinion_schemas::Job;
use pinion_tests::Dice;
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::changes::{Allowed, Once, Statement, Touch, Transaction};
use super::plan::Plan;
use super::record::{COMMITTED, Document, Record};
use super::shop::{Connection, Database, Shop};

/// How often an application changes the shop.
pub(super) const EVERY: Duration = Duration::from_millis(120);
/// How late the last hooks may be, when nothing else changes any more.
const AFTERWARDS: Duration = Duration::from_secs(20);
/// Between two tries of a hook.
const RETRY: Duration = Duration::from_millis(200);

/// Changes the shop, and tells of it after the commit if there are hooks.
pub(super) struct Application<'a> {
    pub(super) shop: &'a Shop,
    pub(super) record: &'a Record,
    pub(super) hooks: Option<Publisher>,
    /// Closed while the primary is killed or replaced.
    pub(super) gate: &'a RwLock<()>,
    pub(super) plan: &'a Plan,
}

impl Application<'_> {
    /// The plan's transactions, as far as they fit into its time. Its own dice decide what it does; those of the hooks, which throw as
    /// often as there are documents to tell of, are others.
    pub(super) async fn run(&self, number: usize, mut dice: Dice) -> Result<()> {
        let mut hook_dice = dice.split();
        let mut once = Once::new(number);
        let mut late = JoinSet::new();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let plan = self.plan;
        let until = Instant::now() + plan.duration;
        let spoil = plan.database == Database::Postgres;
        for count in 0..plan.transactions {
            let early = count < plan.transactions / 2;
            let transaction =
                Transaction::new(&mut dice, &mut once, Allowed { truncate: early, spoil: early && spoil });
            ticks.tick().await;
            let touched = self.carry_out(&transaction).await?;
            let longest = until.saturating_duration_since(Instant::now()).max(AFTERWARDS);
            self.tell(touched, &mut hook_dice, longest, &mut late).await?;
            // On a slow machine some are left over.
            if Instant::now() > until {
                break;
            }
        }
        while let Some(told) = late.join_next().await {
            told??;
        }
        Ok(())
    }

    /// The documents that it touched; none unless it was committed. What the database refuses is rolled back.
    async fn carry_out(&self, transaction: &Transaction) -> Result<BTreeSet<Document>> {
        let _open = self.gate.read().await;
        let mut database = self.shop.connect().await?;
        database.run("BEGIN").await?;
        let Some(mut touched) = statements(&mut database, &transaction.statements).await? else {
            self.record.count("transactions refused");
            database.run("ROLLBACK").await?;
            return Ok(BTreeSet::new());
        };
        sleep(transaction.open_for).await;
        if !transaction.commit {
            self.record.count("transactions rolled back");
            database.run("ROLLBACK").await?;
            return Ok(BTreeSet::new());
        }
        if !database.run("COMMIT").await? {
            self.record.count("transactions refused");
            return Ok(BTreeSet::new());
        }
        self.record.count("transactions committed");
        for touch in transaction.statements.iter().flat_map(|statement| &statement.touches) {
            touched.extend(touched_after(&mut database, touch).await?);
        }
        if touched.is_empty() {
            return Ok(touched);
        }
        if let Some(clock) = transaction.ticks {
            let ticked = self.shop.look_at_clock(&mut database, clock).await?;
            self.record.ticked(clock, ticked);
        }
        let texts: Vec<&str> = transaction.statements.iter().map(|statement| statement.sql.as_str()).collect();
        self.record.note(touched.iter().copied().collect::<Vec<_>>(), format!("{COMMITTED} {}", texts.join("; ")));
        Ok(touched)
    }

    /// As hooks do: mostly at once, some twice, some late and so out of order.
    async fn tell(
        &self,
        touched: BTreeSet<Document>,
        dice: &mut Dice,
        longest: Duration,
        late: &mut JoinSet<Result<()>>,
    ) -> Result<()> {
        let Some(hooks) = &self.hooks else { return Ok(()) };
        let (delay_ms_max, longest_ms) =
            (i64::try_from(self.plan.hook_delay_max.as_millis())?, i64::try_from(longest.as_millis())?);
        let mut at_once = Vec::new();
        for document in touched {
            match dice.of(1..=100) {
                1..=2 => self.tell_later(hooks, document, dice.of(0..=delay_ms_max).min(longest_ms), late),
                3..=8 => self.tell_later(hooks, document, dice.of(0..=2000), late),
                9..=18 => at_once.extend([document, document]),
                _ => at_once.push(document),
            }
        }
        futures_util::future::try_join_all(at_once.into_iter().map(|document| publish(hooks, document))).await?;
        Ok(())
    }

    fn tell_later(&self, hooks: &Publisher, document: Document, ms: i64, late: &mut JoinSet<Result<()>>) {
        self.record.count("hooks delayed");
        self.record.note([document], format!("its hook waits for {ms} ms"));
        let hooks = hooks.clone();
        late.spawn(async move {
            sleep(Duration::from_millis(ms.unsigned_abs())).await;
            publish(&hooks, document).await
        });
    }
}

/// Carries out the statements; gives what they touch as far as it has to be asked in the transaction. `None`: one was refused.
async fn statements(database: &mut Connection, statements: &[Statement]) -> Result<Option<BTreeSet<Document>>> {
    let mut touched = BTreeSet::new();
    for statement in statements {
        for touch in &statement.touches {
            let Some(found) = touched_inside(database, touch, " FOR UPDATE").await? else { return Ok(None) };
            touched.extend(found);
        }
        if !database.run(&statement.sql).await? {
            return Ok(None);
        }
        for touch in &statement.touches {
            let Some(found) = touched_inside(database, touch, "").await? else { return Ok(None) };
            touched.extend(found);
        }
    }
    Ok(Some(touched))
}

async fn touched_inside(database: &mut Connection, touch: &Touch, lock: &str) -> Result<Option<Vec<Document>>> {
    let question = match touch {
        Touch::Items(items) => format!("SELECT order_id FROM order_items WHERE id IN ({}){lock}", list(items)),
        Touch::Totals(found) => format!("SELECT id, customer_id, merchant_id FROM orders WHERE {found}{lock}"),
        Touch::Orders(_) | Touch::Customers(_) | Touch::Merchants(_) | Touch::AllOrders => return Ok(Some(Vec::new())),
    };
    let Some(rows) = database.numbers(&question).await? else { return Ok(None) };
    let jobs = ["orders", "customers", "merchants"];
    Ok(Some(rows.iter().flat_map(|row| jobs.into_iter().zip(row.iter().copied())).collect()))
}

/// After the commit: who moves an order to a renamed customer later tells of it later.
async fn touched_after(database: &mut Connection, touch: &Touch) -> Result<Vec<Document>> {
    let (mut touched, question) = match touch {
        Touch::Orders(orders) => return Ok(orders.iter().map(|id| ("orders", *id)).collect()),
        Touch::Items(_) | Touch::Totals(_) => return Ok(Vec::new()),
        Touch::Customers(ids) => (of("customers", ids), format!("WHERE customer_id IN ({})", list(ids))),
        Touch::Merchants(ids) => (of("merchants", ids), format!("WHERE merchant_id IN ({})", list(ids))),
        Touch::AllOrders => (Vec::new(), String::new()),
    };
    let Some(rows) = database.numbers(&format!("SELECT id FROM orders {question}")).await? else {
        bail!("the orders are not to be had")
    };
    touched.extend(rows.iter().map(|row| ("orders", row[0])));
    Ok(touched)
}

fn of(job: &'static str, ids: &[i64]) -> Vec<Document> {
    ids.iter().map(|id| (job, *id)).collect()
}

fn list(ids: &[i64]) -> String {
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

/// Until the broker has it: a hook that gives up would lose its change.
pub(super) async fn publish(hooks: &Publisher, (job, id): Document) -> Result<()> {
    loop {
        match hooks.publish(&Job::new(job, id)).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_transient() => sleep(RETRY).await,
            Err(error) => return Err(error.into()),
        }
    }
}

//! What the change feed asks of a source.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use pinion_schemas::Id;
use sqlx::{AssertSqlSafe, Either, Executor as _, SqlSafeStr as _, Statement as _, TypeInfo as _};

use super::Postgres;
use super::fault::{of_primary, of_query};
use super::reading::PostgresReading;
use super::statement::sql_type;
use crate::error::Fault;
use crate::planted::{Bug, planted};
use crate::ports::{TouchedPage, Transaction};

/// How often transactions in progress are looked at.
const LOOK: Duration = Duration::from_millis(2);
/// A wait that is longer is told, and goes on.
const TELL_AFTER: Duration = Duration::from_secs(5);
/// A transaction that the primary has not begun yet belongs to another history, such as that before a restore.
const UNKNOWN_MAX: Duration = Duration::from_secs(5);

/// Which transactions are in progress.
struct Progress {
    /// Their lower 32 bits.
    open: HashSet<u32>,
    /// The lower 32 bits of the first one that has not begun.
    next: u32,
}

impl Progress {
    fn has_not_begun(&self, transaction: u32) -> bool {
        // Transactions are numbered in a circle: half of it lies ahead.
        transaction.wrapping_sub(self.next) < u32::MAX / 2
    }
}

impl Postgres {
    /// Debezium reads a commit from the log, which is written before others can see it.
    pub(super) async fn wait_until_visible(&self, transactions: &[Transaction]) -> Result<(), Fault> {
        let xids = |transaction: &Transaction| if let Transaction::Xid(xid) = transaction { Some(*xid) } else { None };
        let transactions: Vec<u32> = transactions.iter().filter_map(xids).collect();
        if planted(Bug::FeedBeforeVisible) {
            return Ok(());
        }
        let began = Instant::now();
        loop {
            let progress = self.progress().await?;
            let open = transactions.iter().filter(|transaction| progress.open.contains(transaction)).count();
            let unknown = transactions.iter().filter(|transaction| progress.has_not_begun(**transaction)).count();
            if open == 0 && unknown == 0 {
                return Ok(());
            }
            if open > 0 && began.elapsed() > TELL_AFTER {
                return Err(self.again(format!("{open} transactions of events are still in progress on the primary")));
            }
            if open == 0 && began.elapsed() > UNKNOWN_MAX {
                tracing::warn!(source = self.source, unknown, "events of transactions that the primary does not know");
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Those of this database: a snapshot names those of the server's other databases, too. A transaction keeps the lock on its
    /// own number until others can see it.
    pub(super) async fn open_transactions(&self) -> Result<Vec<Transaction>, Fault> {
        let question = "SELECT transactionid::text FROM pg_locks JOIN pg_stat_activity USING (pid) \
                        WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND datname = current_database() \
                        UNION ALL SELECT transaction::text FROM pg_prepared_xacts WHERE database = current_database()";
        let asked = sqlx::query_scalar::<_, String>(question).fetch_all(&self.primary.pool).await;
        let open = asked.map_err(|error| of_primary(&self.source, &self.primary.name, &error))?;
        Ok(open.iter().filter_map(|transaction| transaction.parse().ok().map(Transaction::Xid)).collect())
    }

    async fn progress(&self) -> Result<Progress, Fault> {
        // A transaction's 64 bits as text; only the lower half is compared.
        let question = "SELECT pg_snapshot_xmax(s)::text, ARRAY(SELECT pg_snapshot_xip(s)::text) \
                        FROM (SELECT pg_current_snapshot() AS s) AS snapshot";
        let asked = sqlx::query_as::<_, (String, Vec<String>)>(question).fetch_one(&self.primary.pool).await;
        let (next, open) = asked.map_err(|error| of_primary(&self.source, &self.primary.name, &error))?;
        let low = |text: &String| text.parse::<u64>().map(|transaction| transaction as u32).unwrap_or_default();
        Ok(Progress { open: open.iter().map(low).collect(), next: low(&next) })
    }

    pub(super) async fn replica_identity_full(&self) -> Result<Vec<String>, Fault> {
        let question = "SELECT n.nspname || '.' || c.relname FROM pg_class c \
                        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relreplident = 'f' AND c.relkind IN ('r', 'p')";
        let asked = sqlx::query_scalar(question).fetch_all(&self.primary.pool).await;
        asked.map_err(|error| of_primary(&self.source, &self.primary.name, &error))
    }
}

impl PostgresReading {
    /// See [`Reading::touched`](crate::ports::Reading::touched).
    pub(super) async fn find_touched(&mut self, page: TouchedPage<'_>) -> Result<Vec<Id>, Fault> {
        const QUERY: &str = "the `sql` of a [[watch]]";
        let TouchedPage { rule, keys, key, after, limit } = page;
        let (source, server) = (self.source.as_str(), self.server.as_str());
        let failed = |error: sqlx::Error| of_query(QUERY, source, server, &error);
        // The keys are sent as text and become what the query compares them with.
        let plain = AssertSqlSafe(rule.to_postgres()).into_sql_str();
        let prepared = (&mut *self.transaction).prepare(plain).await.map_err(failed)?;
        let wanted = match prepared.parameters() {
            Some(Either::Left([wanted, ..])) => wanted.name().to_owned(),
            _ => "text[]".to_owned(),
        };
        let kind = sql_type(key);
        let rest = if after.is_some() { format!("WHERE touched.id > $2::text::{kind}") } else { String::new() };
        let sql = format!(
            "SELECT id::text FROM (SELECT DISTINCT id::{kind} AS id FROM ({}) AS found(id)) AS touched {rest} \
             ORDER BY touched.id LIMIT {limit}",
            rule.with_ids(&format!("($1::text[]::{wanted})"))
        );
        let keys: Vec<String> = keys.iter().map(|key| plain_text(key)).collect();
        let mut query = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).bind(keys);
        if let Some(after) = after {
            query = query.bind(after.to_string());
        }
        let found = query.fetch_all(&mut *self.transaction).await.map_err(failed)?;
        let ids = found.iter().map(|id| key.id_from_text(id));
        ids.collect::<Result<_, _>>().map_err(|error| Fault::Job(format!("{QUERY}: {error}")))
    }
}

/// A JSON string's text; anything else as it is written.
fn plain_text(json: &str) -> String {
    serde_json::from_str(json).unwrap_or_else(|_| json.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_numbered_in_a_circle() {
        let progress = |next| Progress { open: HashSet::new(), next };
        assert!(!progress(100).has_not_begun(99));
        assert!(progress(100).has_not_begun(100));
        assert!(progress(u32::MAX).has_not_begun(3), "the numbers begin anew");
        assert!(!progress(3).has_not_begun(u32::MAX), "one from before they began anew");
    }

    #[test]
    fn keys_are_sent_as_text() {
        assert_eq!(["42", "\"a\\\"b\"", "null"].map(plain_text), ["42", "a\"b", "null"]);
    }
}

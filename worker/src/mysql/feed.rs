//! What the change feed asks of a source.

use pinion_schemas::{Id, KeyType};
use sqlx::{AssertSqlSafe, Column as _, Executor as _, SqlSafeStr as _, Statement as _};

use super::fault::{of_primary, of_query};
use super::operator::quoted;
use super::reading::{MysqlReading, with_ids};
use super::{Flavor, Mysql};
use crate::error::Fault;
use crate::ports::{TouchedPage, Transaction};

/// How long a transaction may take from the binary log to being seen; then another question is asked.
const VISIBLE_S: f64 = 5.0;

impl Mysql {
    /// MySQL writes a transaction to its binary log, and so to the feed, before its GTID counts as executed, which the fence
    /// asks for. MariaDB's fence is the binary log's own position.
    pub(super) async fn wait_until_visible(&self, transactions: &[Transaction]) -> Result<(), Fault> {
        let gtids: Vec<&str> = transactions
            .iter()
            .filter_map(|transaction| if let Transaction::Gtid(gtid) = transaction { Some(&**gtid) } else { None })
            .collect();
        if self.flavor == Flavor::Mariadb || gtids.is_empty() {
            return Ok(());
        }
        let asked = sqlx::query_scalar::<_, i64>("SELECT CAST(WAIT_FOR_EXECUTED_GTID_SET(?, ?) AS SIGNED)")
            .bind(gtids.join(","))
            .bind(VISIBLE_S)
            .fetch_one(&self.primary.pool)
            .await;
        match asked.map_err(|error| of_primary(&self.source, &self.primary.name, &error))? {
            0 => Ok(()),
            _ => Err(self.again(format!("{} does not show {} yet", self.primary.name, gtids.join(",")))),
        }
    }

    /// Those that MySQL is committing. MariaDB's are of no matter, see above.
    pub(super) async fn open_transactions(&self) -> Result<Vec<Transaction>, Fault> {
        if self.flavor == Flavor::Mariadb {
            return Ok(Vec::new());
        }
        let asked = sqlx::query_scalar::<_, String>("SELECT CAST(@@global.gtid_owned AS CHAR)");
        let owned = asked.fetch_one(&self.primary.pool).await;
        Ok(owned_gtids(&owned.map_err(|error| of_primary(&self.source, &self.primary.name, &error))?))
    }

    /// The tables of the binary log: all, where it has whole rows.
    pub(super) async fn tables_with_row_images(&self) -> Result<Vec<String>, Fault> {
        let question = "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) FROM information_schema.TABLES \
                        WHERE TABLE_TYPE = 'BASE TABLE' AND @@global.binlog_row_image = 'FULL' AND @@global.binlog_format = 'ROW'";
        let asked = sqlx::query_scalar(question).fetch_all(&self.primary.pool).await;
        asked.map_err(|error| of_primary(&self.source, &self.primary.name, &error))
    }
}

impl MysqlReading {
    /// See [`Reading::touched`](crate::ports::Reading::touched).
    pub(super) async fn find_touched(&mut self, page: TouchedPage<'_>) -> Result<Vec<Id>, Fault> {
        const QUERY: &str = "the `sql` of a [[watch]]";
        let TouchedPage { rule, keys, key, after, limit } = page;
        let (source, server) = (self.source.as_str(), self.server.as_str());
        let failed = |error: sqlx::Error| of_query(QUERY, source, server, &error);
        if let Some(problem) = rule.mysql_problem() {
            return Err(Fault::Job(format!("{QUERY}: {problem}")));
        }
        let found = with_ids(rule, keys.len());
        let prepared = (&mut *self.transaction).prepare(AssertSqlSafe(found.clone()).into_sql_str()).await;
        let prepared = prepared.map_err(failed)?;
        let [column] = prepared.columns() else {
            return Err(Fault::Job(format!(
                "{QUERY}: it has {} columns; select the documents' ids alone",
                prepared.columns().len()
            )));
        };
        let id = comparable(key, &quoted(column.name()));
        let rest = if after.is_some() { "WHERE id > ?" } else { "" };
        let sql = format!(
            "SELECT CAST(id AS CHAR) FROM (SELECT DISTINCT {id} AS id FROM ({found}\n) AS found \
             WHERE {} IS NOT NULL) AS touched {rest} ORDER BY id LIMIT {limit}",
            quoted(column.name())
        );
        let mut query = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql));
        let padding = keys.last().into_iter().cycle().take(keys.len().next_power_of_two() - keys.len());
        for _place in 0..rule.places() {
            for key in keys.iter().chain(padding.clone()) {
                // A number as such: compared with a text, a column's index would be of no use.
                query = match (key.parse::<i64>(), serde_json::from_str::<String>(key)) {
                    (Ok(number), _) => query.bind(number),
                    (_, Ok(text)) => query.bind(text),
                    _ => query.bind(key.clone()),
                };
            }
        }
        query = match after {
            Some(Id::Int(number)) => query.bind(*number),
            Some(other) => query.bind(other.to_string()),
            None => query,
        };
        let found = query.fetch_all(&mut *self.transaction).await.map_err(failed)?;
        let ids = found.iter().map(|id| key.id_from_text(id));
        ids.collect::<Result<_, _>>().map_err(|error| Fault::Job(format!("{QUERY}: {error}")))
    }
}

/// A column as an id: one order, whatever its collation.
fn comparable(key: KeyType, column: &str) -> String {
    match key {
        KeyType::Bigint => format!("CAST({column} AS SIGNED)"),
        KeyType::Uuid | KeyType::Text => format!("CONVERT({column} USING utf8mb4) COLLATE utf8mb4_bin"),
    }
}

/// The transactions of `@@gtid_owned`, each with the thread that owns it: `UUID:5#16:6#17,UUID:1#18`.
fn owned_gtids(owned: &str) -> Vec<Transaction> {
    let server = |part: &str| -> Vec<Transaction> {
        let Some((server, numbers)) = part.trim().split_once(':') else { return Vec::new() };
        let number = |number: &str| number.split('#').next().unwrap_or_default().to_owned();
        numbers
            .split(':')
            .map(|text| Transaction::Gtid(format!("{server}:{}", number(text)).into_boxed_str()))
            .collect()
    };
    owned.split(',').flat_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_transactions_are_told_apart() {
        let gtid = |text: &str| Transaction::Gtid(text.into());
        assert_eq!(owned_gtids(""), vec![]);
        assert_eq!(owned_gtids("a-b:5#16:6#17,\nc-d:1#18"), vec![gtid("a-b:5"), gtid("a-b:6"), gtid("c-d:1")]);
    }
}

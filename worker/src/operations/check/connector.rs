//! What the change feed's connector needs of PostgreSQL: the log's level, a publication with the watched tables, a slot that moves.

use pinion_schemas::Severity;
use sqlx::postgres::PgConnection;

use super::some_of;

/// A slot that is further behind is told: the connector does not keep up, or waits.
const SLOT_BYTES_MAX: i64 = 256 * 1024 * 1024;

/// How grave it is, what it is, and its mend.
pub(super) type Told = (Severity, String, String);

/// A watched table in the publications.
struct Published {
    name: String,
    /// Whether some publication has it.
    is_there: bool,
    /// Whether its rows' changes are published, and that it is truncated.
    rows: bool,
    truncates: bool,
}

/// A logical slot of the database.
#[derive(Clone)]
struct Slot {
    name: String,
    active: bool,
    /// How much log its consumer has not confirmed, in bytes.
    behind: Option<i64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    status: Option<String>,
}

/// Looks at the primary as the connector for these tables sees it.
pub(super) async fn check(primary: &mut PgConnection, tables: &[String]) -> Vec<Told> {
    match ask(primary, tables).await {
        Ok(told) => told,
        Err(error) => {
            let problem = format!("what the feed's connector needs of the primary can't be looked up: {error}");
            vec![(Severity::Warning, problem, "mend it and check again".to_owned())]
        }
    }
}

async fn ask(primary: &mut PgConnection, tables: &[String]) -> sqlx::Result<Vec<Told>> {
    let question = "SELECT current_setting('wal_level'), current_setting('max_slot_wal_keep_size')";
    let (level, keep): (String, String) = sqlx::query_as(question).fetch_one(&mut *primary).await?;
    let mut told = Vec::from_iter(level_told(&level));
    let question = "SELECT w.name, bool_or(p.oid IS NOT NULL) AS is_there, \
         coalesce(bool_or(p.pubinsert AND p.pubupdate AND p.pubdelete), false) AS rows, \
         coalesce(bool_or(p.pubtruncate), false) AS truncates \
         FROM unnest($1::text[]) AS w(name) JOIN pg_class c ON c.oid = to_regclass(w.name) \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_publication_tables t ON t.schemaname = n.nspname AND t.tablename = c.relname \
         LEFT JOIN pg_publication p ON p.pubname = t.pubname GROUP BY w.name ORDER BY w.name";
    let published =
        sqlx::query_as::<_, (String, bool, bool, bool)>(question).bind(tables).fetch_all(&mut *primary).await?;
    let published =
        published.into_iter().map(|(name, is_there, rows, truncates)| Published { name, is_there, rows, truncates });
    told.extend(published_told(&Vec::from_iter(published)));
    let question = "SELECT slot_name::text, active, pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn)::int8, wal_status \
         FROM pg_replication_slots WHERE slot_type = 'logical' AND database = current_database() ORDER BY slot_name";
    let slots =
        sqlx::query_as::<_, (String, bool, Option<i64>, Option<String>)>(question).fetch_all(&mut *primary).await?;
    let slots = slots.into_iter().map(|(name, active, behind, status)| Slot { name, active, behind, status });
    told.extend(slots_told(&Vec::from_iter(slots), keep == "-1"));
    Ok(told)
}

fn level_told(level: &str) -> Option<Told> {
    (level != "logical").then(|| {
        let problem = format!("the primary has wal_level = {level}: its log does not tell the changes of rows");
        let mend = "ALTER SYSTEM SET wal_level = logical, and restart it";
        (Severity::Error, problem, mend.to_owned())
    })
}

fn published_told(published: &[Published]) -> Vec<Told> {
    let those = |which: fn(&Published) -> bool| -> Vec<String> {
        published.iter().filter(|table| which(table)).map(|table| table.name.clone()).collect()
    };
    let mut told = Vec::new();
    let missing = those(|table| !table.is_there);
    if !missing.is_empty() {
        let problem = format!("no publication has {}, so no change of it comes", some_of(&missing));
        let mend = format!("ALTER PUBLICATION … ADD TABLE {}; deploy/debezium has the kit", missing.join(", "));
        told.push((Severity::Warning, problem, mend));
    }
    let rows = those(|table| table.is_there && !table.rows);
    if !rows.is_empty() {
        let problem = format!("no publication has all changes of {}", some_of(&rows));
        let mend = "ALTER PUBLICATION … SET (publish = 'insert, update, delete, truncate')".to_owned();
        told.push((Severity::Warning, problem, mend));
    }
    let truncates = those(|table| table.is_there && table.rows && !table.truncates);
    if !truncates.is_empty() {
        let problem = format!("no publication has the truncates of {}: documents would stay", some_of(&truncates));
        let mend = "ALTER PUBLICATION … SET (publish = 'insert, update, delete, truncate')".to_owned();
        told.push((Severity::Warning, problem, mend));
    }
    told
}

fn slots_told(slots: &[Slot], keeps_all: bool) -> Vec<Told> {
    if slots.is_empty() {
        let problem = "the database has no logical replication slot: no connector has followed it yet".to_owned();
        return vec![(Severity::Warning, problem, "make the connector; deploy/debezium has the kit".to_owned())];
    }
    let mut told = Vec::new();
    for Slot { name, active, behind, status } in slots {
        let megabytes = behind.unwrap_or_default() / 1024 / 1024;
        let (problem, mend) = if status.as_deref() == Some("lost") {
            (
                format!(
                    "the replication slot {name} is lost: the server removed log that it needed, and changes are missing"
                ),
                "drop it, start the connector anew, then `pinion enqueue JOB --all`",
            )
        } else if !active {
            (
                format!(
                    "the replication slot {name} is not active, and holds {megabytes} MiB of log: no connector follows it"
                ),
                "start its connector, or drop the slot where nobody needs it",
            )
        } else if behind.is_some_and(|behind| behind > SLOT_BYTES_MAX) {
            (
                format!("the replication slot {name} is {megabytes} MiB behind"),
                "look at the connector: is it paused, slow, without heartbeats?",
            )
        } else {
            continue;
        };
        told.push((Severity::Warning, problem, mend.to_owned()));
    }
    if keeps_all {
        let problem =
            "max_slot_wal_keep_size is not set: while the connector is away, the log grows until the disk is full";
        let mend = "set it on the primary to what the disk can take";
        told.push((Severity::Note, problem.to_owned(), mend.to_owned()));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(told: &[Told]) -> Vec<&str> {
        told.iter().map(|(_, problem, _)| problem.as_str()).collect()
    }

    #[test]
    fn the_log_has_to_be_logical() {
        assert!(level_told("logical").is_none());
        assert_eq!(level_told("replica").map(|told| told.0), Some(Severity::Error));
    }

    #[test]
    fn watched_tables_are_published_whole() {
        let table =
            |name: &str, is_there, rows, truncates| Published { name: name.to_owned(), is_there, rows, truncates };
        let told = published_told(&[
            table("public.a", true, true, true),
            table("public.b", false, false, false),
            table("public.c", true, false, true),
            table("public.d", true, true, false),
        ]);
        assert_eq!(
            problems(&told),
            [
                "no publication has public.b, so no change of it comes",
                "no publication has all changes of public.c",
                "no publication has the truncates of public.d: documents would stay",
            ]
        );
    }

    #[test]
    fn a_slot_moves() {
        let slot = |active, behind, status: &str| Slot {
            name: "pinion".to_owned(),
            active,
            behind: Some(behind),
            status: Some(status.to_owned()),
        };
        let told = |slots: &[Slot]| problems(&slots_told(slots, false)).join("\n");
        assert_eq!(told(&[slot(true, 1000, "reserved")]), "");
        assert!(told(&[]).contains("no logical replication slot"));
        let away = slot(false, 3 * 1024 * 1024, "extended");
        assert!(told(&[away]).contains("not active, and holds 3 MiB"));
        assert!(told(&[slot(true, SLOT_BYTES_MAX + 1, "extended")]).contains("is 256 MiB behind"));
        assert!(told(&[slot(false, 0, "lost")]).contains("is lost"));
        let notes = slots_told(&[slot(true, 0, "reserved")], true);
        assert_eq!(notes.iter().map(|told| told.0).collect::<Vec<_>>(), [Severity::Note]);
    }
}

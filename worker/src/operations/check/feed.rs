//! The change feed: whether its brokers can be reached, have the topics, and the databases tell what the rules need.

use pinion_schemas::{Finding, JobDefinition, Severity, Watch, WatchRule};
use sqlx::postgres::PgConnection;

use super::{Context, Place, jobs_of, some_of};
use crate::config;
use crate::feed::{Registry, topics};

/// The brokers and the topics of the tables that are watched.
pub(super) async fn check(context: &Context) -> Vec<Finding> {
    let Some(kafka) = &context.config.kafka else { return Vec::new() };
    let place = Place::config(context);
    let topics = match topics(kafka).await {
        Ok(topics) => topics,
        Err(error) => {
            let problem = format!("no broker of {} answers: {error}", kafka.brokers.join(", "));
            let line = place.toml_line(&["kafka", "brokers"]);
            return vec![place.finding(Severity::Error, line, problem, "mend [kafka] brokers, or start them")];
        }
    };
    let mut findings = check_registry(kafka, &place).await;
    let mut missing = Vec::new();
    for (prefix, source) in context.config.topic_prefixes() {
        let watched = jobs_of(context, source).into_iter().flat_map(|job| &job.watch);
        missing
            .extend(watched.map(|watch| format!("{prefix}.{}", watch.table)).filter(|topic| !topics.contains(topic)));
    }
    missing.sort();
    missing.dedup();
    if missing.is_empty() {
        return findings;
    }
    let line = place.toml_line(&["kafka", "topics"]);
    let problem = format!("there is no topic {}", some_of(&missing));
    let mend =
        "it comes with the table's first event; else look at the connector's table.include.list and topic.prefix";
    findings.push(place.finding(Severity::Warning, line, problem, mend));
    findings
}

async fn check_registry(kafka: &config::Kafka, place: &Place) -> Vec<Finding> {
    let Some(address) = &kafka.registry else { return Vec::new() };
    let asked = match Registry::new(address) {
        Ok(registry) => registry.ping().await,
        Err(problem) => Err(problem),
    };
    let Err(problem) = asked else { return Vec::new() };
    let line = place.toml_line(&["kafka", "registry"]);
    let problem = format!("the schema registry is of no use: {problem}");
    vec![place.finding(
        Severity::Error,
        line,
        problem,
        "mend [kafka] registry, or start it; without it no event in Avro is read",
    )]
}

/// The tables of the job's rules: without its whole old row, a child does not tell the parent that it has left.
pub(super) async fn check_tables(connection: &mut PgConnection, job: &JobDefinition) -> Vec<Finding> {
    let file = Place::of_job(job, "job.toml");
    let mut findings = Vec::new();
    for (number, watch) in job.watch.iter().enumerate() {
        let line = file.toml_line(&["watch", &number.to_string(), "table"]);
        if job.event_table().is_some() {
            findings.extend(check_rows(connection, &file, line, watch).await);
            continue;
        }
        let question = "SELECT c.relreplident::text, \
             ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey) \
             WHERE i.indrelid = c.oid AND i.indisprimary) \
             FROM pg_class c WHERE c.oid = to_regclass($1)";
        let asked = sqlx::query_as::<_, (String, Vec<String>)>(question).bind(&watch.table);
        let (identity, columns) = match asked.fetch_optional(&mut *connection).await {
            Ok(Some(found)) => found,
            // A table that is not there is told with the rule itself.
            Ok(None) => continue,
            Err(failure) => {
                let problem = format!("{} can't be looked up: {failure}", watch.table);
                findings.push(file.finding(Severity::Warning, line, problem, "mend it and check again"));
                continue;
            }
        };
        let table = &watch.table;
        let (problem, mend) = match &watch.rule {
            WatchRule::Key(key) if identity != "f" && !columns.contains(key) => (
                format!(
                    "the feed does not tell the old {key} of a changed row of {table}: the document that it left stays as it was"
                ),
                format!("ALTER TABLE {table} REPLICA IDENTITY FULL"),
            ),
            WatchRule::Sql(_) if columns.len() != 1 => (
                format!("{table} has no primary key of one column, with which the feed asks `sql`"),
                "give it one, or watch it with `key`".to_owned(),
            ),
            WatchRule::Key(_) | WatchRule::Sql(_) => continue,
        };
        findings.push(file.finding(Severity::Warning, line, problem, mend));
    }
    findings
}

/// The table whose rows are the documents of a job from events.
async fn check_rows(connection: &mut PgConnection, file: &Place, line: Option<usize>, watch: &Watch) -> Vec<Finding> {
    let WatchRule::Key(key) = &watch.rule else { return Vec::new() };
    let table = &watch.table;
    // Values of these columns may be stored outside of the row, and are then told only when they change.
    let question = "SELECT c.relreplident::text, \
         ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             AND a.attstorage <> 'p' AND a.attlen < 0 ORDER BY a.attnum), \
         ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey) \
             WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate), \
         ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             AND a.atthasdef AND NOT a.attnotnull AND a.attgenerated = '' ORDER BY a.attnum) \
         FROM pg_class c WHERE c.oid = to_regclass($1)";
    let asked = sqlx::query_as::<_, (String, Vec<String>, Vec<String>, Vec<String>)>(question).bind(table);
    let (identity, large, primary, defaults) = match asked.fetch_optional(&mut *connection).await {
        Ok(Some(found)) => found,
        Ok(None) => return Vec::new(),
        Err(failure) => {
            let problem = format!("{table} can't be looked up: {failure}");
            return vec![file.finding(Severity::Warning, line, problem, "mend it and check again")];
        }
    };
    let mut findings = Vec::new();
    if primary != [key.clone()] {
        let problem = format!("{key} alone is not the primary key of {table} (one that is not deferrable)");
        let mend = "documents from events are rows by their own key: name it, or take the documents from a query";
        findings.push(file.finding(Severity::Error, line, problem, mend));
    }
    if identity != "f" && !large.is_empty() {
        let problem = format!(
            "an update of {table} does not tell large values that it leaves as they were ({}): the document is then a dead letter, \
             or has null there (numbers, bit strings, and arrays of floats, numbers, truth values or moments)",
            some_of(&large)
        );
        let mend = format!("ALTER TABLE {table} REPLICA IDENTITY FULL, unless these values stay below 2 kB");
        findings.push(file.finding(Severity::Warning, line, problem, mend));
    }
    if !defaults.is_empty() {
        let problem = format!(
            "converters write a column's default where it is NULL, unless told otherwise ({})",
            some_of(&defaults)
        );
        let mend = "value.converter.replace.null.with.default=false (JSON), ignore.default.for.nullables=true (Confluent's Avro)";
        findings.push(file.finding(Severity::Note, line, problem, mend));
    }
    findings
}

use std::fs;

use tempfile::TempDir;

use super::*;

const SQL: &str = "SELECT id AS _id FROM orders WHERE id = ANY(:ids)";
const TOML: &str = "index = \"orders\"\nsource = \"shop\"\nkey = \"bigint\"\n";

/// A schemas folder that holds one folder, with these files.
fn folder(name: &str, files: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let schemas = TempDir::new().expect("a temporary folder");
    let job = add(&schemas, name, files);
    (schemas, job)
}

fn add(schemas: &TempDir, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let job = schemas.path().join(name);
    fs::create_dir(&job).expect("a folder");
    for (file, text) in files {
        fs::write(job.join(file), text).expect("a file");
    }
    job
}

fn with_toml(toml: &str) -> (Option<JobDefinition>, Vec<String>) {
    let (_schemas, job) = folder("orders", &[("job.toml", toml), ("document.sql", SQL), ("mapping.json", "{}")]);
    let (definition, findings) = load_job(&job);
    let prefix = format!("{}/", job.display());
    (definition, findings.iter().map(|finding| finding.to_string().replace(&prefix, "")).collect())
}

fn refused(toml: &str, expected: &str) {
    let (definition, findings) = with_toml(toml);
    assert!(definition.is_none(), "{toml}");
    assert!(findings.iter().any(|finding| finding.starts_with(expected)), "{findings:#?} should have {expected}");
}

#[test]
fn a_whole_definition() {
    let (definition, findings) = with_toml(
        r#"
        index = "orders"
        source = "shop"
        key = "uuid"
        owner = "orders team"
        description = "One document an order."
        freshness_s_max = 30
        [[watch]]
        table = "public.orders"
        key = "id"
        [[watch]]
        table = "public.customers"
        sql = "SELECT id FROM orders WHERE customer_id = ANY(:ids)"
        "#,
    );
    assert_eq!(findings, [""; 0]);
    let definition = definition.expect("a definition");
    assert_eq!((definition.name.as_str(), definition.index.as_str()), ("orders", "orders"));
    assert_eq!((definition.key, definition.from), (KeyType::Uuid, From::Query));
    assert_eq!(definition.freshness_s_max, Some(30));
    assert_eq!(definition.sql.to_postgres(), "SELECT id AS _id FROM orders WHERE id = ANY($1)");
    assert_eq!(definition.watch[0].rule, WatchRule::Key("id".to_owned()));
    assert!(matches!(definition.watch[1].rule, WatchRule::Sql(_)));
}

#[test]
fn what_the_toml_may_leave_out() {
    let (definition, findings) = with_toml(TOML);
    assert_eq!(findings, [""; 0]);
    let definition = definition.expect("a definition");
    assert_eq!((definition.owner, definition.watch.len(), definition.from), (None, 0, From::Query));
}

#[test]
fn a_finding_names_file_line_problem_and_mend() {
    let (_, findings) = with_toml(&TOML.replace("\"orders\"", "\"Orders\""));
    assert_eq!(
        findings,
        [
            "job.toml:1: index \"Orders\" has upper-case letters; write lower-case letters, digits, - and _, 200 bytes at most"
        ]
    );
}

#[test]
fn what_the_toml_is_refused_for() {
    refused(&format!("{TOML}colour = 1\n"), "job.toml:4: unknown field `colour`, expected one of");
    refused("index = \"a\"\nkey = \"text\"\n", "job.toml:1: missing field `source`");
    refused(&TOML.replace("bigint", "int"), "job.toml:3: unknown variant `int`, expected one of");
    refused(&format!("{TOML}x = ["), "job.toml:4: ");
    refused(&TOML.replace("\"shop\"", "\"\""), "job.toml:2: source is empty");
    refused(&format!("{TOML}freshness_s_max = 0\n"), "job.toml:4: freshness_s_max is 0");
    refused(&format!("{TOML}age_s_max = 9\n"), "job.toml:4: age_s_max is 9");
    refused(
        &format!("{TOML}[[watch]]\ntable = \"orders\"\nkey = \"id\""),
        "job.toml:5: table \"orders\" has no schema",
    );
    refused(&format!("{TOML}[[watch]]\ntable = \"a.b\"\n"), "job.toml:5: the watch of \"a.b\" needs one rule");
    refused(&format!("{TOML}[[watch]]\ntable = \"a.b\"\nkey = \"\"\n"), "job.toml:6: key is empty");
    refused(
        &format!("{TOML}[[watch]]\ntable = \"a.b\"\nkey = \"c\"\nsql = \"SELECT :ids\"\n"),
        "job.toml:5: the watch",
    );
    refused(
        &format!("{TOML}[[watch]]\ntable = \"a.b\"\nsql = \"SELECT :id\"\n"),
        "job.toml:6: sql: :id is no placeholder",
    );
    refused(&format!("{TOML}[[watch]]\ntable = \"a.b\"\nsql = '''\nSELECT 1,\n:id'''\n"), "job.toml:8: sql: :id is no");
}

#[test]
fn elasticsearchs_rules_for_an_index() {
    for index in [
        "", "-a", "_a", "+a", ".a", "A", "Ä", "a b", "a\\\\b", "a/b", "a*", "a?", "a\\\"", "a<", "a>", "a|", "a,",
        "a#", "a:",
    ] {
        refused(&TOML.replace("\"orders\"", &format!("\"{index}\"")), "job.toml:1: index ");
    }
    refused(&TOML.replace("\"orders\"", &format!("\"{}\"", "a".repeat(201))), "job.toml:1: index ");
    for index in ["a", "a-b_c.d1", "ä", &"a".repeat(200)] {
        assert!(with_toml(&TOML.replace("\"orders\"", &format!("\"{index}\""))).0.is_some(), "{index}");
    }
}

#[test]
fn every_file_is_checked_whatever_is_wrong_in_the_others() {
    let (_schemas, job) =
        folder("Orders", &[("job.toml", "index = 1"), ("document.sql", "\nDELETE"), ("mapping.json", "{\n")]);
    let (definition, findings) = load_job(&job);
    assert!(definition.is_none());
    let places: Vec<String> = findings.iter().map(|f| format!("{} {:?}", folder_name_of(&f.file), f.line)).collect();
    assert_eq!(places, ["job.toml None", "document.sql Some(2)", "mapping.json Some(2)", "job.toml Some(1)"]);
}

#[test]
fn missing_files_are_findings_with_a_mend() {
    let (_schemas, job) = folder("orders", &[("job.toml", TOML)]);
    let (definition, findings) = load_job(&job);
    assert!(definition.is_none());
    let missing: Vec<String> = findings.iter().map(|f| folder_name_of(&f.file)).collect();
    assert_eq!(missing, ["document.sql", "mapping.json"]);
    assert!(findings.iter().all(|f| f.problem == "the file is missing" && !f.mend.is_empty()));
}

#[test]
fn a_schemas_folder() {
    let good = [("job.toml", TOML), ("document.sql", SQL), ("mapping.json", "{}")];
    let (schemas, _) = folder("orders", &good);
    add(&schemas, "customers", &[("job.toml", &TOML.replace("orders", "customers")), good[1], good[2]]);
    add(&schemas, "copies", &good);
    add(&schemas, "notes", &[("readme.md", "no job")]);
    fs::write(schemas.path().join("database.sql"), "").expect("a file");
    let jobs = load_jobs(schemas.path()).expect("the folder");
    let seen: Vec<(&str, bool)> = jobs.iter().map(|job| (job.name.as_str(), job.definition.is_some())).collect();
    assert_eq!(seen, [("copies", false), ("customers", true), ("orders", false)]);
    assert_eq!(jobs[0].findings[0].problem, "the index \"orders\" is also the job orders's");
    assert_eq!(jobs[2].findings[0].problem, "the index \"orders\" is also the job copies's");
}

#[test]
fn a_schemas_folder_that_is_not_there() {
    let error = load_jobs(Path::new("nowhere/at/all")).expect_err("no folder");
    assert!(error.to_string().contains("nowhere/at/all"), "{error}");
}

fn folder_name_of(file: &Path) -> String {
    file.file_name().expect("a file's name").to_string_lossy().into_owned()
}

fn of_event(toml: &str, files: &[(&str, &str)]) -> (Option<JobDefinition>, Vec<String>) {
    let files = [&[("job.toml", toml), ("mapping.json", "{}")], files].concat();
    let (_schemas, job) = folder("orders", &files);
    let (definition, findings) = load_job(&job);
    let prefix = format!("{}/", job.display());
    (definition, findings.iter().map(|finding| finding.to_string().replace(&prefix, "")).collect())
}

#[test]
fn a_job_from_events_has_one_table_and_no_query() {
    let toml = format!(
        "{TOML}from = \"event\"\n[columns]\ntotal = \"Decimal(2)\"\n[[watch]]\ntable = \"public.Orders\"\nkey = \"id\"\n"
    );
    let (definition, findings) = of_event(&toml, &[]);
    assert_eq!(findings, [""; 0]);
    let definition = definition.expect("a definition");
    assert_eq!(definition.event_table(), Some(("public.Orders", "id")));
    assert_eq!(definition.columns.get("total"), Some(&ColumnType::Decimal(2)));
    assert_eq!(
        definition.sql.to_postgres(),
        "SELECT t.id AS _id, t.* FROM public.\"Orders\" AS t WHERE t.id = ANY($1)"
    );

    let (definition, findings) = of_event(&toml, &[("document.sql", SQL)]);
    assert!(definition.is_none());
    assert!(
        findings[0].starts_with("document.sql: from = \"event\" takes the documents from the events"),
        "{findings:?}"
    );
    let (_, findings) = of_event(&format!("{TOML}from = \"event\"\n"), &[]);
    assert!(findings[0].starts_with("job.toml: from = \"event\" needs one table"), "{findings:?}");
    let (_, findings) = of_event(&toml.replace("key = \"id\"", "sql = \"SELECT :ids\""), &[]);
    assert!(findings[0].starts_with("job.toml:8: from = \"event\" needs one table"), "{findings:?}");
    let (_, findings) = of_event(&toml.replace("Decimal(2)", "decimal"), &[]);
    assert!(findings[0].contains("\"decimal\" is no type of a column"), "{findings:?}");
    refused(&format!("{TOML}[columns]\na = \"Date\"\n"), "job.toml:4: [columns] has no effect on a query");
}

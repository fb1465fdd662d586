use super::*;

fn finding(file: &str, line: Option<usize>, severity: Severity, problem: &str) -> Finding {
    Finding { file: file.into(), line, problem: problem.to_owned(), mend: "mend it".to_owned(), severity }
}

#[test]
fn a_report_is_in_the_order_of_the_files_and_counts() {
    let findings = vec![
        finding("jobs/b/job.toml", Some(2), Severity::Error, "no source"),
        finding("jobs/a/document.sql", Some(12), Severity::Warning, "too wide"),
        finding("jobs/a/document.sql", Some(3), Severity::Error, "no such column"),
        finding("jobs/a/document.sql", Some(3), Severity::Error, "no such column"),
        finding("jobs/a/document.sql", None, Severity::Note, "as text"),
    ];
    let report = Report::new(2, findings);
    insta::assert_snapshot!(report, @r"
    jobs/a/document.sql: note: as text; mend it
    jobs/a/document.sql:3: no such column; mend it
    jobs/a/document.sql:12: warning: too wide; mend it
    jobs/b/job.toml:2: no source; mend it
    2 jobs checked: 2 errors, 1 warning, 1 note
    ");
    assert_eq!(report.json()["errors"], 2);
    assert_eq!(report.json()["findings"][1]["severity"], "error");
    insta::assert_snapshot!(Report::new(1, Vec::new()), @"1 job checked: nothing to complain about");
}

#[test]
fn many_names_are_cut_short() {
    let names: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
    assert_eq!(some_of(&names), "a, b, c and 2 more");
    assert_eq!(some_of(&names[..3]), "a, b, c");
}

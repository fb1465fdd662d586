use super::*;

/// The annotated file with every commented setting switched on.
fn uncommented() -> String {
    let setting = |line: &str| {
        line.strip_prefix("# ").is_some_and(|rest| {
            rest.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        })
    };
    ANNOTATED
        .lines()
        .filter(|line| !line.contains("api_key") && !line.contains("file:/run") && !line.contains("# username"))
        .map(|line| if setting(line) { &line[2..] } else { line })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_annotated_file_is_valid_and_shows_the_defaults() {
    let plain = Config::parse(ANNOTATED, Path::new("/etc/pinion")).expect("valid");
    let full = Config::parse(&uncommented(), Path::new("/etc/pinion")).expect("valid with every setting");
    assert_eq!(plain.schemas, Path::new("/etc/pinion/schemas/shop"));
    assert_eq!(format!("{:?}", plain.worker), format!("{:?}", full.worker));
    assert_eq!(format!("{:?}", plain.admin), format!("{:?}", full.admin));
    let without_ca = |config: &Config| format!("{:?}", config.sources).replace("Some(\"/etc/pinion/ca.pem\")", "None");
    assert_eq!(without_ca(&plain), without_ca(&full));
}

fn problem_of(edit: impl Fn(&str) -> String) -> String {
    Config::parse(&edit(ANNOTATED), Path::new("")).expect_err("refused")
}

#[test]
fn refuses_what_it_does_not_know() {
    let problem = problem_of(|text| text.replace("[worker]", "[worker]\nbatch_mx = 5"));
    assert!(problem.contains("unknown field `batch_mx`"), "{problem}");
    assert!(problem.starts_with("line "), "{problem}");
}

#[test]
fn refuses_values_out_of_bounds() {
    let problem = problem_of(|text| text.replace("[worker]", "[worker]\nbatch_max = 0"));
    assert_eq!(problem, "worker.batch_max: 0 is out of bounds; give 1 to 10000");
}

#[test]
fn messages_and_debug_show_no_secret() {
    let problem = problem_of(|text| text.replace("kind = \"postgres\"", "kind = \"oracle\""));
    assert!(!problem.contains("pinion:pinion"), "{problem}");
    let config = Config::parse(ANNOTATED, Path::new("")).expect("valid");
    assert!(!format!("{config:?}").contains("guest"), "{config:?}");
}

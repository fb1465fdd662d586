use super::*;

/// The annotated file with every commented setting switched on.
fn uncommented() -> String {
    let setting = |line: &str| {
        line.strip_prefix("# ").is_some_and(|rest| {
            rest.starts_with("[kafka]")
                || rest.starts_with("[verify]")
                || rest
                    .split_once(" = ")
                    .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
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
    // What is shown of these two is an example.
    let without = |config: &Config| {
        let sources = format!("{:?}", config.sources);
        sources
            .replace("Some(\"/etc/pinion/ca.pem\")", "None")
            .replace("topic_prefix: Some(\"shop\")", "topic_prefix: None")
    };
    assert_eq!(without(&plain), without(&full));
    assert!(plain.kafka.is_none());
    let kafka = "[kafka]\nbrokers = [\"a:1\"]\ntopics = [\"shop.public.*\"]\n";
    let short = Config::parse(&format!("{ANNOTATED}\n{kafka}"), Path::new("")).expect("valid").kafka.expect("there");
    let kafka = full.kafka.expect("there");
    let defaults =
        |kafka: &Kafka| (kafka.group.clone(), kafka.fan_out_ids_per_s_max, kafka.stall_s_max, kafka.silence_s_max);
    assert_eq!(defaults(&kafka), defaults(&short));
    assert!(plain.verify.is_none());
    let verify = full.verify.expect("there");
    let short = Config::parse(&format!("{ANNOTATED}\n[verify]\nevery_s = 3600\n"), Path::new("")).expect("valid");
    assert_eq!(format!("{verify:?}"), format!("{:?}", short.verify.expect("there")));
}

#[test]
fn refuses_a_verification_that_can_not_be() {
    let of = |line: &str| problem_of(|text| format!("{text}\n[verify]\nevery_s = 60\n{line}\n"));
    assert!(of("sample = 0.0").starts_with("verify.sample: 0 is out of bounds"));
    let problem = of("webhook = \"hooks.example.com/secret\"");
    assert_eq!(problem, "verify.webhook: not an address that begins with https:// or http://");
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
fn a_topic_is_of_the_source_with_the_longest_prefix() {
    let kafka = "[kafka]\nbrokers = [\"a:1\"]\ntopics = [\"shop.public.*\"]\n\n[worker]";
    let other = "[sources.other]\nkind = \"postgres\"\nprimary = \"postgres://a/b\"\ntopic_prefix = \"shop.eu\"\n";
    let text = ANNOTATED.replace("[worker]", &format!("{other}{kafka}"));
    let config = Config::parse(&text, Path::new("")).expect("valid");
    assert_eq!(config.source_of("shop.public.orders"), Some("shop"));
    assert_eq!(config.source_of("shop.eu.public.orders"), Some("other"));
    assert_eq!(config.source_of("shopping.public.orders"), None);
    assert_eq!(config.source_of("__debezium-heartbeat.shop.eu"), Some("other"));
    assert_eq!(config.source_of("__debezium-heartbeat.shopping"), None);
    assert_eq!(config.table_of("shop.eu.public.orders"), Some("public.orders"));
    assert_eq!(config.table_of("__debezium-heartbeat.shop"), None, "a heartbeat is of no table");
    assert_eq!(config.feed_topics(), ["shop.public.*", "__debezium-heartbeat.shop"]);
    assert_eq!(config.feed_sources().collect::<Vec<_>>(), ["shop"]);
    let problem = problem_of(|text| text.replace("[worker]", &kafka.replace("shop.public", "web.public")));
    assert!(problem.contains("\"web.public.*\" is of no source: it has to begin with shop."), "{problem}");
}

#[test]
fn messages_and_debug_show_no_secret() {
    let problem = problem_of(|text| text.replace("kind = \"postgres\"", "kind = \"oracle\""));
    assert!(!problem.contains("pinion:pinion"), "{problem}");
    let config = Config::parse(ANNOTATED, Path::new("")).expect("valid");
    assert!(!format!("{config:?}").contains("guest"), "{config:?}");
    let text = ANNOTATED.replace("http://127.0.0.1:19200", "https://elastic:hush-hush@127.0.0.1:19200");
    let config = Config::parse(&text, Path::new("")).expect("valid");
    assert!(!format!("{config:?}").contains("hush"), "{config:?}");
}

/// Where a secret is written wrongly, the message tells the line and quotes none of it.
#[test]
fn a_secret_that_is_written_wrongly_is_not_quoted() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("secret"), "hush-hush, expected a secret").expect("written");
    let broker = "url = \"amqp://guest:guest@127.0.0.1:15670/%2f\"";
    let cluster = "urls = [\"http://127.0.0.1:19200\"]";
    let replicas = "replicas = [\"postgres://pinion:pinion@127.0.0.1:15433/shop\"]";
    let cases = [
        (broker, "url = amqp://guest:hush-hush@127.0.0.1", "line 8"),
        (broker, "url = \"amqp://guest:hush-hush@127.0.0.1", "line 8"),
        (broker, "url = [\"amqp://guest:hush-hush@127.0.0.1\"]", "line 8: invalid type: sequence, expected a string"),
        (cluster, "urls = \"http://elastic:hush-hush@127.0.0.1:19200\"", "invalid type: string, expected a sequence"),
        (
            cluster,
            "urls = [\"http://elastic:hush-hush@127.0.0.1:port\"]",
            "line 12: not an address such as http://127.0.0.1:9200: invalid port",
        ),
        (cluster, "urls = \"${file:secret}\"", "invalid type: string, expected a sequence"),
        (
            cluster,
            "urls = [\"${file:secret}\"]",
            "not an address such as http://127.0.0.1:9200: relative URL without a base",
        ),
        (cluster, "username = 5\nurls = []\npassword = 7044", "invalid type: integer, expected a string"),
        (
            replicas,
            "replicas = \"postgres://pinion:hush-hush@127.0.0.1:15433/shop\"",
            "invalid type: string, expected a seq",
        ),
    ];
    for (right, wrong, told) in cases {
        assert!(ANNOTATED.contains(right), "{right}");
        let text = ANNOTATED.replace(right, wrong);
        let problem = Config::parse(&text, folder.path()).expect_err(wrong);
        assert!(problem.contains(told), "{wrong}: {problem}");
        assert!(!problem.contains("hush") && !problem.contains("7044"), "{problem}");
    }
}

#[test]
fn mariadb_and_mysql_are_read_from_replicas_only() {
    let mariadb = |text: &str| text.replace("kind = \"postgres\"", "kind = \"mariadb\"");
    Config::parse(&mariadb(ANNOTATED), Path::new("")).expect("replicas are there");
    let problem = problem_of(|text| mariadb(text).replace("replicas = [", "# replicas = ["));
    assert!(problem.starts_with("sources.shop.replicas: at least one is needed"), "{problem}");
    let problem = problem_of(|text| mariadb(text).replace("# on_lag", "on_lag"));
    assert!(problem.starts_with("sources.shop.on_lag: it can only be \"wait\""), "{problem}");
    let problem = problem_of(|text| mariadb(text).replace("# fence = \"flush\"", "fence = \"insert\""));
    assert!(problem.starts_with("sources.shop.fence: "), "{problem}");
}

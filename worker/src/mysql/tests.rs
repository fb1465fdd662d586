use super::*;

fn mariadb() -> Mysql {
    let source = toml::from_str(
        "kind = \"mariadb\"\nprimary = \"mysql://u:p@127.0.0.1:1/shop\"\nreplicas = [\"mariadb://u:p@127.0.0.1:2/shop\"]",
    );
    let source: config::Source = source.expect("a source");
    Mysql::new(Flavor::Mariadb, "shop", &source, &config::Worker::default()).expect("addresses")
}

/// What a replica at `stands` shows, when the primary with the server id 2 is at `fence`.
fn shown(stands: &str, fence: &str) -> Result<u64, String> {
    let at = Gtid::parse(fence).expect("a GTID").sequence;
    let fence = Position {
        identity: Identity { system: 0, timeline: 2 },
        at,
        text: fence.into(),
        asked_at: tokio::time::Instant::now(),
    };
    mariadb().shown(stands, &fence)
}

#[tokio::test]
async fn a_replica_counts_if_it_is_on_the_primarys_history() {
    assert_eq!(shown("0-2-100", "0-2-100"), Ok(100));
    assert_eq!(shown("0-2-103", "0-2-100"), Ok(103));
    assert_eq!(shown("0-1-90", "0-2-100"), Ok(90), "before a failover, the old primary's");
    assert_eq!(shown("0-1-100", "0-1-100"), Ok(100), "a new primary that has committed nothing yet");
    for (stands, fence) in
        [("0-1-105", "0-1-100"), ("0-1-105", "0-2-100"), ("0-1-100", "0-2-100"), ("1-2-100", "0-2-100")]
    {
        let error = shown(stands, fence).expect_err(stands);
        assert!(error.contains("another history"), "{error}");
    }
    assert!(shown("", "0-2-100").expect_err("no replica").contains("no replica"));
}

#[test]
fn a_uuid_begins_with_a_number() {
    assert_eq!(first_half("3e11fa47-71ca-11e1-9e33-c80aa9429562"), 0x3e11_fa47_71ca_11e1);
}

//! Texts that would like to be more than texts.

use std::time::SystemTime;

use anyhow::{Context, Result};

use pinion_tests::Dice;

/// Ids, none twice: known nuisances, and some that a seed makes of their parts.
pub(super) fn corpus(seed: u64) -> Vec<String> {
    let mut ids = nuisances();
    let mut dice = Dice::new(seed);
    let characters: Vec<char> = ids.iter().flat_map(|id| id.chars()).collect();
    for _ in 0..MADE {
        let length = dice.of(1..=30);
        let some = |_| characters[usize::try_from(dice.of(0..=characters.len() as i64 - 1)).unwrap_or_default()];
        let made: String = (0..length).map(some).collect();
        // Alone it stands for standard input.
        if made != "-" && !ids.contains(&made) {
            ids.push(made);
        }
    }
    ids
}

/// `PINION_TEST_SEED`, else a new one; shown where the test fails.
pub(super) fn seed() -> Result<u64> {
    let seed = match std::env::var("PINION_TEST_SEED") {
        Ok(seed) => seed.parse().context("PINION_TEST_SEED")?,
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
    };
    println!("PINION_TEST_SEED={seed}");
    Ok(seed)
}

/// So many ids are made of a seed.
const MADE: usize = 60;

#[rustfmt::skip]
fn nuisances() -> Vec<String> {
    let texts = [
        "keep", "Keep", "KEEP", "keep ", " keep", "\tkeep", "'", "''", "\"", "`", "\\", "\\'", "\\\\", ";", "--", "-1", "-x", "--help",
        "/*", "*/", "*", "?", "$1", "$$", ":ids", "%s", "%", "%%", "%00", "%2e%2e%2f", "%2F", "%zz", "+", "a b", "a+b", "a%20b", "{}",
        "[1]", "null", "true", "0", "00", "1e3", "NaN", ".", "..", "./", "../things", "/", "//", "a/b", "a/../b", "\\..\\", "_search",
        "_doc", "_all", "?q=*", "a#b", "a&b=c", "a?b", "http://127.0.0.1/", "'; DROP TABLE things; --", "' OR '1'='1", "\" OR 1=1 --",
        "x') OR ('1'='1", "1; SELECT 1", "$(reboot)", "`reboot`", "${HOME}", "{{7*7}}", "<script>", "\n", "\r", "\r\n", "a\nb", "\n\n",
        "\u{b}", "\u{1}", "\u{7f}", "\u{85}", "\u{2028}", "\u{2029}", "\u{feff}", "\u{feff}keep", "\u{200b}", "\u{202e}gnp.exe",
        "\u{2066}x\u{2069}", "\u{1b}[2J\u{1b}[1;31mred", "{\"delete\":{\"_id\":\"keep\"}}", "\"}}\n{\"delete\":{\"_id\":\"keep\"}}\n",
        "\n{\"index\":{\"_id\":\"keep\"}}\n{\"n\":\"0\"}\n", "ä", "a\u{308}", "ß", "SS", "İ", "ı", "Ω", "\u{2126}", "ﬀ", "😀", "👩‍👩‍👧",
        "\u{fffd}", "\u{10ffff}", "שלום", "مرحبا", "中文", "ไทย",
    ];
    let longest =
        ["x".repeat(512), "'".repeat(512), "ä".repeat(256), "😀".repeat(128), format!("{}😀", "y".repeat(200))];
    texts.into_iter().map(str::to_owned).chain(longest).collect()
}

//! What the documents say of the files is true.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The words of the map that name files or folders, as paths from the top.
fn places(map: &str) -> BTreeSet<PathBuf> {
    let mut folders: Vec<(usize, PathBuf)> = Vec::new();
    let mut places = BTreeSet::new();
    for line in map.lines() {
        let indent = line.len() - line.trim_start().len();
        folders.retain(|(at, _)| *at < indent);
        let parent = folders.last().map(|(_, folder)| folder.clone()).unwrap_or_default();
        let mut folder = None;
        for word in line.split_whitespace().map(|word| word.trim_matches(|c: char| ",;:()".contains(c))) {
            let place = folder.as_ref().unwrap_or(&parent).join(word);
            if word.ends_with('/') {
                folder.get_or_insert_with(|| place.clone());
            }
            if word.ends_with('/') || word.ends_with(".rs") {
                places.insert(place);
            }
        }
        // A line deep in the explanations continues the line above.
        folders.extend(folder.filter(|_| indent < 10).map(|folder| (indent, folder)));
    }
    places
}

#[test]
fn the_guarantees_name_tests_that_are_there() -> Result<()> {
    let text = std::fs::read_to_string(top().join("docs/guarantees.md"))?;
    let named = text.split('`').filter_map(|word| word.split_once("::")).filter(|(file, _)| *file != "file");
    let mut seen = 0;
    for (file, test) in named {
        let path = top().join("tests/tests").join(file).with_extension("rs");
        let source = std::fs::read_to_string(&path).with_context(|| format!("{file}::{test}"))?;
        assert!(source.contains(&format!("fn {test}()")), "{file}.rs has no test {test}");
        seen += 1;
    }
    assert!(seen > 30, "{seen} tests are named");
    Ok(())
}

#[test]
fn the_map_matches_the_files() -> Result<()> {
    let text = std::fs::read_to_string(top().join("ARCHITECTURE.md"))?;
    let map = text.split("## What lives where").nth(1).and_then(|rest| rest.split("```").nth(1)).context("the map")?;
    let places = places(map);
    assert!(places.len() > 40, "{places:#?}");
    let missing: Vec<_> = places.iter().filter(|place| !top().join(place).exists()).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names what is not there: {missing:#?}");
    for entry in std::fs::read_dir(top().join("worker/src"))? {
        let name = entry?.file_name().into_string().ok().context("a name")?;
        let is_left_out = ["lib.rs", "main.rs", "commands.rs", "operations.rs"].contains(&name.as_str());
        if name.ends_with(".rs") && !name.ends_with("_tests.rs") && !is_left_out {
            assert!(
                map.split_whitespace().any(|word| word.trim_end_matches(',') == name),
                "ARCHITECTURE.md does not name worker/src/{name}"
            );
        }
    }
    Ok(())
}

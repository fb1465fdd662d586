//! An explanation as people read it.

use serde_json::value::RawValue;

use super::super::output::{Table, ago, shortened};
use super::super::shown;
use crate::operations::difference::Difference;
use crate::operations::explain::{Age, Explanation, VersionParts};

/// What is shown of a value in the list of differences.
const VALUE_WIDTH: usize = 36;

/// What is shown of a dead letter's error; `pinion dead show` has all of it.
const ERROR_WIDTH: usize = 300;

pub(super) fn page(explanation: &Explanation, now_ms: u64) -> String {
    let Explanation { job, id, source, index, differences, dead_letter, .. } = explanation;
    let mut text = format!("{job} {}: {}\n\n", shown::word(id), verdict(explanation));
    let mut table = Table::new(&[]);
    table.row(["source", &source.source, &version(&source.version), "what a read gives now"]);
    let behind = index.index.as_deref().unwrap_or("unknown");
    match &index.version {
        Some(held) => table.row(["index", behind, &version(held), index.age.map(age).unwrap_or_default()]),
        None => table.row(["index", behind, "no such document"]),
    }
    text.push_str(&table.lines(0));
    if let Some(dead) = dead_letter {
        let (reason, last) = (&dead.letter.reason, ago(now_ms, dead.letter.last_at));
        let error = shortened(&dead.letter.error, ERROR_WIDTH);
        text.push_str(&format!("dead letter {}: {reason}, {last}: {error}\n", shown::word(&dead.key)));
    }
    if !differences.is_empty() {
        text.push_str(&format!("\n{}", differences_table(differences)));
    }
    let sides = [("source", &source.document), ("index", &index.document)];
    let sides = if explanation.equal { &sides[..1] } else { &sides };
    for (title, document) in sides {
        if let Some(document) = document {
            let title = if explanation.equal { "source and index" } else { *title };
            text.push_str(&format!("\n{title}\n{}\n", pretty(document)));
        }
    }
    text
}

/// What it means, and what to do.
fn verdict(explanation: &Explanation) -> String {
    let Explanation { job, id, source, index, differences, dead_letter, .. } = explanation;
    let mend = match dead_letter {
        Some(dead) => {
            format!("mend the cause, then `pinion dead replay --job {job} --id {}--yes`", argument(&dead.letter.id))
        }
        None => format!("if no job for it is on its way, `pinion enqueue {job} {}` sends one", positional(id)),
    };
    match (&source.document, &index.document) {
        (Some(_), Some(_)) if differences.is_empty() => "the index is true to the source".to_owned(),
        (None, None) => "there is no such document, neither in the source nor in the index".to_owned(),
        (Some(_), Some(_)) => {
            let fields =
                if differences.len() == 1 { "1 value".to_owned() } else { format!("{} values", differences.len()) };
            format!("{fields} differ; {mend}")
        }
        (Some(_), None) => format!("missing in the index; {mend}"),
        (None, Some(_)) => format!("the source has it no longer, the index still does; {mend}"),
    }
}

fn argument(id: &Option<String>) -> String {
    id.as_ref().map(|id| format!("{} ", shown::argument(id))).unwrap_or_default()
}

/// An id as an argument that is no option; negative numbers are known to be none.
fn positional(id: &str) -> String {
    let looks_like_an_option = id.starts_with('-') && id.parse::<i64>().is_err();
    format!("{}{}", if looks_like_an_option { "-- " } else { "" }, shown::argument(id))
}

fn version(version: &VersionParts) -> String {
    format!("generation {} position {}", version.generation, version.position)
}

fn age(age: Age) -> &'static str {
    match age {
        Age::Older => "read before that",
        Age::Same => "read at that position",
        Age::Newer => "newer: written since, or by somebody else",
    }
}

fn differences_table(differences: &[Difference]) -> String {
    let mut table = Table::new(&[]);
    table.row(["FIELD", "SOURCE", "INDEX"]);
    let shown = |value: &Option<Box<RawValue>>| {
        value.as_ref().map_or_else(|| "missing".to_owned(), |value| shortened(value.get(), VALUE_WIDTH))
    };
    for Difference { field, source, index } in differences {
        table.row([field.clone(), shown(source), shown(index)]);
    }
    table.lines(0)
}

/// JSON with a value a line. The values' own text is kept: numbers keep their digits.
fn pretty(document: &RawValue) -> String {
    let mut out = String::new();
    let mut depth = 0;
    let mut chars = document.get().chars().peekable();
    while let Some(next) = chars.next() {
        match next {
            '"' => {
                out.push('"');
                while let Some(inner) = chars.next() {
                    out.push(inner);
                    match inner {
                        '\\' => out.extend(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                out.push(next);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                match chars.next_if(|c| matches!(c, '}' | ']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        break_line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth -= 1;
                break_line(&mut out, depth);
                out.push(next);
            }
            ',' => {
                out.push(',');
                break_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            space if space.is_ascii_whitespace() => {}
            other => out.push(other),
        }
    }
    out
}

fn break_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.push_str(&"  ".repeat(depth));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::explain::{IndexSide, SourceSide};

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("the test gives JSON")
    }

    fn explanation(source: Option<&str>, index: Option<&str>) -> Explanation {
        let version = |position: &str| VersionParts {
            number: "9007199254740993".to_owned(),
            generation: 1,
            position: position.to_owned(),
        };
        let (source, index) = (source.map(raw), index.map(raw));
        let differences = match (&source, &index) {
            (Some(source), Some(index)) => crate::operations::difference::differences(source, index).expect("texts"),
            _ => Vec::new(),
        };
        Explanation {
            job: "orders".to_owned(),
            id: "42".to_owned(),
            equal: source.is_some() == index.is_some() && differences.is_empty(),
            index: IndexSide {
                index: Some("orders-20251121-132447".to_owned()),
                version: index.is_some().then(|| version("0/16B3700")),
                age: index.is_some().then_some(Age::Older),
                document: index,
            },
            source: SourceSide { source: "shop".to_owned(), document: source, version: version("0/16B3748") },
            differences,
            dead_letter: None,
        }
    }

    #[test]
    fn a_difference_is_shown_by_value() {
        let source = r#"{"id":42,"total":10.50,"customer":{"name":"Anna \"A\" Rossi"},"items":[]}"#;
        let index = r#"{"id":42,"total":10.5,"customer":{"name":"Anna"},"old":[1,2]}"#;
        insta::assert_snapshot!(page(&explanation(Some(source), Some(index)), 0));
    }

    #[test]
    fn every_verdict_says_what_to_do() {
        let first_line = |source, index| page(&explanation(source, index), 0).lines().next().map(str::to_owned);
        let lines = [(Some("{}"), Some("{ }")), (None, None), (Some("{}"), None), (None, Some("{}"))];
        let lines: Vec<String> = lines.into_iter().filter_map(|(source, index)| first_line(source, index)).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        orders 42: the index is true to the source
        orders 42: there is no such document, neither in the source nor in the index
        orders 42: missing in the index; if no job for it is on its way, `pinion enqueue orders 42` sends one
        orders 42: the source has it no longer, the index still does; if no job for it is on its way, `pinion enqueue orders 42` sends one
        ");
    }

    #[test]
    fn pretty_json_keeps_every_token() {
        let text = r#"{"a":{},"b":[ ],"c":[1.50,{"d":"x,:{}[]\\\""}],"e":null}"#;
        let pretty = pretty(&raw(text));
        let compact: serde_json::Value = serde_json::from_str(&pretty).expect("still JSON");
        assert_eq!(compact, serde_json::from_str::<serde_json::Value>(text).expect("JSON"));
        assert!(pretty.contains("1.50") && pretty.contains("\"a\": {}"), "{pretty}");
    }
}

//! `pinion diff`

use std::fmt::Write as _;

use clap::Args;

use super::output::{Table, counted, print, print_json, progress, shortened, thousands};
use super::shown;
use super::{Failure, Global};
use crate::operations::diff::{Counted, Diff as Found, DiffOptions, diff};

/// What is shown of a value.
const VALUE_WIDTH: usize = 36;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion diff orders-old orders                     ids and values, both ways
  pinion diff orders-old orders --ids-only          only which documents there are
  pinion diff orders-old orders --ignore indexed_at --ignore meta
                                                    these fields, and all below them, may differ
  pinion diff orders-old orders --json | jq .fields how many documents differ in each field

Takes indexes and aliases of one index, whoever writes them; the job's own index before an alias moves beside an old
pipeline's, for example. Numbers are compared as numbers. What is written meanwhile may be told as a difference.
The exit code is 0 if both hold the same, and 1 if not.")]
pub(crate) struct Diff {
    /// An index or alias.
    #[arg(value_name = "INDEX_A")]
    a: String,
    /// Another one.
    #[arg(value_name = "INDEX_B")]
    b: String,
    /// Compare which documents there are, not what is in them.
    #[arg(long, conflicts_with = "ignore")]
    ids_only: bool,
    /// A field that may differ, with all that is below it.
    #[arg(long, value_name = "FIELD")]
    ignore: Vec<String>,
    /// Examples of each kind of difference.
    #[arg(long, value_name = "N", default_value_t = 10)]
    examples: usize,
}

impl Diff {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let context = global.context()?;
        let options = DiffOptions { documents: !self.ids_only, ignored: self.ignore, examples_max: self.examples };
        let bar = progress(None, global.json);
        let found = diff(&context, &self.a, &self.b, &options, &|looked| bar.inc(looked)).await;
        bar.finish_and_clear();
        let found = found?;
        if global.json {
            print_json(&found)?;
        } else {
            print(&page(&found))?;
        }
        if found.is_same() { Ok(()) } else { Err(Failure::Found) }
    }
}

fn page(found: &Found) -> String {
    let Found { a, b, documents_a, documents_b, only_a, only_b, different, fields, examples, seconds } = found;
    let verdict = if found.is_same() { "the same" } else { "not the same" };
    let mut text = format!("{} and {}: {verdict} ({seconds:.1} s)\n\n", shown::word(a), shown::word(b));
    let mut table = Table::new(&[1]);
    table.row([format!("documents of {a}"), thousands(*documents_a), String::new()]);
    table.row([format!("documents of {b}"), thousands(*documents_b), String::new()]);
    let mut counted = |what: String, counted: &Counted| table.row([what, thousands(counted.count), some(counted)]);
    counted(format!("only in {a}"), only_a);
    counted(format!("only in {b}"), only_b);
    table.row(["in both, different".to_owned(), thousands(*different), String::new()]);
    text.push_str(&table.lines(0));
    text + &differing(fields, examples, a, b)
}

/// Some of the ids, as an operator may copy them.
pub(super) fn some(counted: &Counted) -> String {
    let mut ids: Vec<String> = counted.examples.iter().map(|id| shown::argument(id)).collect();
    if counted.count > ids.len() as u64 {
        ids.push("…".to_owned());
    }
    ids.join(" ")
}

/// In which fields documents differ, and some of them.
pub(super) fn differing(
    fields: &std::collections::BTreeMap<String, u64>,
    examples: &[crate::operations::diff::Example],
    left: &str,
    right: &str,
) -> String {
    let mut text = String::new();
    if !fields.is_empty() {
        text.push_str("\nfields that differ\n");
        let mut table = Table::new(&[1]);
        for (field, count) in fields {
            table.row([field.clone(), counted(*count, "document")]);
        }
        text.push_str(&table.lines(2));
    }
    for example in examples {
        write!(text, "\n{}\n", shown::argument(&example.id)).expect("writing to a String does not fail");
        let mut table = Table::new(&[]);
        table.row(["field", left, right]);
        for place in &example.differences {
            let value = |value: &Option<Box<serde_json::value::RawValue>>| {
                value.as_ref().map_or("-".to_owned(), |value| shortened(value.get(), VALUE_WIDTH))
            };
            table.row([place.field.clone(), value(&place.source), value(&place.index)]);
        }
        text.push_str(&table.lines(2));
    }
    text
}

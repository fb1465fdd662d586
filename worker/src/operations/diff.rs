//! Two indexes compared, both ways: an old pipeline's beside the new one's, before an alias moves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use pinion_schemas::{Id, KeyType};
use serde::Serialize;
use serde_json::value::RawValue;

use super::Context;
use super::difference::{Difference, differences};
use super::documents::indexed;
use super::state::unusable;
use crate::elasticsearch::{Method, Walk, segment};

/// Documents that are read together.
const PAGE: usize = 1_000;

/// How to compare.
#[derive(Debug, Clone)]
pub struct DiffOptions {
    /// Whether the documents are compared, or only which there are.
    pub documents: bool,
    /// Fields that may differ, each with all that is below it.
    pub ignored: Vec<String>,
    /// Examples of each kind.
    pub examples_max: usize,
}

/// Two indexes.
#[derive(Debug, Default, Serialize)]
pub struct Diff {
    /// The first index.
    pub a: String,
    /// The second one.
    pub b: String,
    /// Documents of the first.
    pub documents_a: u64,
    /// Documents of the second.
    pub documents_b: u64,
    /// In the first one only.
    pub only_a: Counted,
    /// In the second one only.
    pub only_b: Counted,
    /// In both, with other values.
    pub different: u64,
    /// How many documents differ in a field; the places of arrays are left out.
    pub fields: BTreeMap<String, u64>,
    /// Some of those that differ.
    pub examples: Vec<Example>,
    /// How long it took.
    pub seconds: f64,
}

/// So many ids, and some of them.
#[derive(Debug, Default, Serialize)]
pub struct Counted {
    /// In all.
    pub count: u64,
    /// The first ones.
    pub examples: Vec<String>,
}

impl Counted {
    /// Counts an id, and keeps it where there is room.
    pub(super) fn add(&mut self, id: &Id, examples_max: usize) {
        self.count += 1;
        if self.examples.len() < examples_max {
            self.examples.push(id.to_string());
        }
    }
}

/// A document that differs.
#[derive(Debug, Serialize)]
pub struct Example {
    /// Its id.
    pub id: String,
    /// Where; `source` is the first index's value here, `index` the second one's.
    pub differences: Vec<Difference>,
}

impl Diff {
    /// Whether both hold the same.
    pub fn is_same(&self) -> bool {
        self.only_a.count == 0 && self.only_b.count == 0 && self.different == 0
    }
}

/// Compares the indexes (or aliases of one index) `a` and `b`, and tells of progress by how many documents were looked at.
///
/// # Errors
/// One is missing, or Elasticsearch is away.
pub async fn diff(
    context: &Context,
    a: &str,
    b: &str,
    options: &DiffOptions,
    tell: &(dyn Fn(u64) + Sync),
) -> anyhow::Result<Diff> {
    let began = Instant::now();
    for index in [a, b] {
        let asked = context.elasticsearch.request(Method::Get, &format!("/{}/_count", segment(index)), None).await;
        let answer = asked.map_err(|fault| unusable(index, fault))?;
        anyhow::ensure!(answer.status != 404, "there is no index or alias {index}");
    }
    let mut found = Diff { a: a.to_owned(), b: b.to_owned(), ..Diff::default() };
    let mut walk = walk(context, a).await?;
    while let Some(ids) = walk.next().await.map_err(|fault| unusable(a, fault))? {
        found.documents_a += ids.len() as u64;
        let theirs = indexed(context, b, &ids, options.documents).await?;
        let ours = if options.documents { indexed(context, a, &ids, true).await? } else { Vec::new() };
        for (place, (id, theirs)) in ids.iter().zip(&theirs).enumerate() {
            // One that was deleted since the walk began is no document of the first one any more.
            let ours = ours.get(place).map(|ours| ours.source.as_deref());
            match (ours, theirs.version.is_some()) {
                (None | Some(Some(_)), false) => found.only_a.add(id, options.examples_max),
                (Some(Some(ours)), true) => found.compare(id, ours, theirs.source.as_deref(), options)?,
                (None | Some(None), _) => {}
            }
        }
        tell(ids.len() as u64);
    }
    let mut walk = self::walk(context, b).await?;
    while let Some(ids) = walk.next().await.map_err(|fault| unusable(b, fault))? {
        found.documents_b += ids.len() as u64;
        for (id, ours) in ids.iter().zip(indexed(context, a, &ids, false).await?) {
            if ours.version.is_none() {
                found.only_b.add(id, options.examples_max);
            }
        }
        tell(ids.len() as u64);
    }
    found.seconds = began.elapsed().as_secs_f64();
    Ok(found)
}

/// Any text is an id here: the index may be another pipeline's.
async fn walk<'a>(context: &'a Context, index: &str) -> anyhow::Result<Walk<'a>> {
    let walk = Walk::begin(&context.elasticsearch, index, KeyType::Text, PAGE).await;
    walk.map_err(|fault| unusable(index, fault))
}

impl Diff {
    fn compare(&mut self, id: &Id, a: &RawValue, b: Option<&RawValue>, options: &DiffOptions) -> anyhow::Result<()> {
        let Some(b) = b else { return Ok(()) };
        let mut places = differences(a, b)?;
        places.retain(|place| !options.ignored.iter().any(|field| is_below(&place.field, field)));
        if places.is_empty() {
            return Ok(());
        }
        self.different += 1;
        count(&mut self.fields, &places);
        if self.examples.len() < options.examples_max {
            self.examples.push(Example { id: id.to_string(), differences: places });
        }
        Ok(())
    }
}

/// Whether a place is a field's, or of something in it.
fn is_below(place: &str, field: &str) -> bool {
    place.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Counts a document once in each field that it differs in.
pub(super) fn count(fields: &mut BTreeMap<String, u64>, places: &[Difference]) {
    let differing: BTreeSet<String> = places.iter().map(|place| without_places(&place.field)).collect();
    for field in differing {
        *fields.entry(field).or_default() += 1;
    }
}

/// `items[2].sku` as `items.sku`.
fn without_places(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut inside = false;
    for character in field.chars() {
        match character {
            '[' => inside = true,
            ']' => inside = false,
            other if !inside => text.push(other),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_arrays_are_left_out() {
        assert_eq!(without_places("items[12].tags[0].name"), "items.tags.name");
        assert_eq!(without_places("total"), "total");
    }

    #[test]
    fn a_document_counts_once_in_a_field() {
        let place = |field: &str| Difference { field: field.to_owned(), source: None, index: None };
        let mut fields = BTreeMap::new();
        count(&mut fields, &["items[0].sku", "items[0].title", "items[1].sku"].map(place));
        assert_eq!(fields, BTreeMap::from([("items.sku".to_owned(), 1), ("items.title".to_owned(), 1)]));
    }

    #[test]
    fn a_field_may_differ_with_all_that_is_below_it() {
        for place in ["a", "a.b", "a[0]"] {
            assert!(is_below(place, "a"), "{place}");
        }
        assert!(!is_below("ab", "a") && !is_below("b.a", "a"));
    }
}

//! `pinion verify`

use std::time::Duration;

use clap::Args;

use super::diff::{differing, some};
use super::output::{Table, counted, print, print_json, progress, set_total, set_waiting, thousands};
use super::range::{Range, told};
use super::shown;
use super::{Failure, Global};
use crate::operations::verify::{Event, Verified, VerifyOptions, patience, verify};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion verify orders                       is there a document for each row, and a row for each document?
  pinion verify orders --full                and does each document equal what the query gives now?
  pinion verify orders --full --sample 0.01  of a hundredth of them, with a bound for the others
  pinion verify orders --from 1000 --to 2000 the ids from 1000 to 1999
  pinion verify orders --full --by updated_at --from 2025-11-20T18:00:00
                                             what has changed since then
  pinion verify orders --full --repair       what is wrong is enqueued, and workers mend it
  pinion verify orders --ids-per-second 5000 gentle on the replica

The source is read through its replicas, past the fence, as workers do. What differs is looked at again until it is gone, or
has been so for as long as the job may take (freshness_s_max of job.toml, else 30 s; --patience-s): a busy index raises no
false alarm. Without --full only keys are compared: a row that document.sql leaves out then counts as one that is there.
A range (--by, --from, --to) is of the rows as they are now, and of the documents as they are in the index; a time without
a zone is in UTC, and an index of the database on that column makes it quick. What lies in the range on one side only is still compared by its id.
Documents whose version no read has had yet were written by somebody else. --repair writes to PostgreSQL's log until it has passed
them, if they are not far ahead; otherwise workers put them right once it has, or after `pinion apply --raise-generation`. The result is kept in the index …-verify. The exit code is 0 if the index is true to the source.")]
pub(crate) struct Verify {
    /// The job.
    #[arg(value_name = "JOB")]
    job: String,
    /// Compare whole documents, value by value.
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    range: Range,
    /// Look at this part of the ids only, chosen at random: above 0, at most 1.
    #[arg(long, value_name = "PART", default_value_t = 1.0, hide_default_value = true, value_parser = part)]
    sample: f64,
    /// Enqueue what is wrong, into the low queue.
    #[arg(long)]
    repair: bool,
    /// How long a difference may stand before it is reported.
    #[arg(long, value_name = "SECONDS")]
    patience_s: Option<u64>,
    /// Look at no more ids in a second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ids_per_second: Option<u32>,
    /// Examples of each kind of difference.
    #[arg(long, value_name = "N", default_value_t = 10)]
    examples: usize,
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(part) if part > 0.0 && part <= 1.0 => Ok(part),
        _ => Err("it has to be above 0 and at most 1, as 0.01 for a hundredth".to_owned()),
    }
}

impl Verify {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let context = global.context()?;
        let given = self.patience_s.map(Duration::from_secs);
        let patience = given.unwrap_or(patience(context.definition(&self.job)?));
        let options = VerifyOptions {
            index: None,
            full: self.full,
            range: self.range.into_columns()?,
            sample: self.sample,
            patience,
            ids_per_second_max: self.ids_per_second,
            gentle: false,
            repair: self.repair,
            examples_max: self.examples,
        };
        let bar = progress(None, global.json);
        let tell = |event| match event {
            // The rows, then the documents.
            Event::Expected(rows) => set_total(&bar, Some(2 * rows).filter(|total| *total > 0)),
            Event::Looked(ids) => bar.inc(ids),
            Event::Waiting(ids) => {
                set_waiting(&bar, format!("{} to be looked at again", counted(ids as u64, "difference")));
            }
        };
        let verified = verify(&context, &self.job, &options, &tell).await;
        bar.finish_and_clear();
        let verified = verified?;
        if global.json {
            print_json(&verified)?;
        } else {
            print(&page(&verified))?;
        }
        // What is repaired is not yet mended: whoever asks again learns whether it is.
        if verified.is_true() { Ok(()) } else { Err(Failure::Found) }
    }
}

fn page(verified: &Verified) -> String {
    let Verified { job, source_ids, index_ids, missing, orphaned, different, unwritable, seconds, .. } = verified;
    let verdict = match verified.wrong() {
        0 if verified.stopped.is_none() => "the index is true to the source".to_owned(),
        0 => "not finished".to_owned(),
        wrong => format!("{} not true to the source", counted(wrong, "document")),
    };
    let rate = (source_ids + index_ids) as f64 / seconds.max(0.001);
    let range = verified.range.as_ref().map(|range| format!(", {}", told(range))).unwrap_or_default();
    let mut text = format!("{}{range}: {verdict} ({seconds:.1} s, {rate:.0} ids/s)\n\n", shown::word(job));
    let mut table = Table::new(&[1]);
    table.row(["rows looked at".to_owned(), thousands(*source_ids), String::new()]);
    table.row(["documents looked at".to_owned(), thousands(*index_ids), String::new()]);
    for (what, of_them) in [
        ("missing: a row, no document", missing),
        ("orphaned: a document, no row", orphaned),
        ("different", different),
        ("rows that make no document", unwritable),
    ] {
        if verified.full || what != "different" {
            table.row([what.to_owned(), thousands(of_them.count), some(of_them)]);
        }
    }
    if verified.from_the_future > 0 {
        let of_them = thousands(verified.from_the_future);
        table.row(["of these, with a version that no read has had yet".to_owned(), of_them, String::new()]);
    }
    table.row(["mended meanwhile".to_owned(), thousands(verified.in_flight), String::new()]);
    text.push_str(&table.lines(0));
    if let Some(part) = verified.wrong_part_max {
        let percent = part * 100.0;
        text.push_str(&format!("\na sample: with a confidence of 95 % at most {percent:.3} % of all are wrong\n"));
    }
    text.push_str(&differing(&verified.fields, &verified.examples, "source", "index"));
    if verified.passed == Some(false) {
        text.push_str(
            "\nsome versions are far ahead, or of a log that can't be written to: those documents stand still until it has passed them, or \
             `pinion apply --raise-generation SOURCE` has made all that is read newer\n",
        );
    }
    if verified.repaired > 0 {
        text.push_str(&format!("\n{} enqueued\n", counted(verified.repaired, "id")));
    } else if verified.wrong() > unwritable.count && verified.range.is_some() {
        text.push_str("\nthe same with --repair enqueues them\n");
    } else if verified.wrong() > unwritable.count {
        text.push_str(&format!(
            "\n`pinion verify {job}{} --repair` enqueues them\n",
            if verified.full { " --full" } else { "" }
        ));
    }
    if let Some(stopped) = &verified.stopped {
        text.push_str(&format!("\nstopped: {stopped}\n"));
    }
    text
}

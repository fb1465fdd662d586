//! Dead letters as people read them.

use super::super::output::{Table, ago, counted, shortened, thousands, utc};
use super::super::status::dead_letters;
use crate::operations::dead::{Counts, Dropped, Letter, Replayed};

/// The width that is kept to where keys are not too long for it.
const WIDTH: usize = 100;

/// So much of an error is shown in any case.
const ERROR_WIDTH_MIN: usize = 24;

pub(super) fn counts(counts: &Counts, now_ms: u64) -> String {
    if counts.total == 0 { String::new() } else { dead_letters(counts, now_ms) }
}

pub(super) fn list(counts: &Counts, letters: &[Letter], now_ms: u64) -> String {
    if counts.total == 0 {
        return "no dead letters\n".to_owned();
    }
    let mut table = Table::new(&[3]);
    table.row(["KEY", "LAST", "REASON", "TRIES"]);
    for Letter { key, letter } in letters {
        let last = ago(now_ms, letter.last_at);
        table.row([key.clone(), last, letter.reason.clone(), letter.attempts.to_string()]);
    }
    let error_width = WIDTH.saturating_sub(table.width() + 2).max(ERROR_WIDTH_MIN);
    let errors = letters.iter().map(|Letter { letter, .. }| {
        let marked = if letter.replaying { "being replayed; " } else { "" };
        shortened(&format!("{marked}{}", letter.error), error_width)
    });
    let table = table.with_column(std::iter::once("ERROR".to_owned()).chain(errors));
    let total = counted(counts.total, "dead letter");
    let mut text = format!("{total}\n{}", self::counts(counts, now_ms));
    if !letters.is_empty() {
        text.push_str(&format!("\n{}", table.lines(0)));
    }
    let left = counts.total.saturating_sub(letters.len() as u64);
    if left > 0 {
        text.push_str(&format!("… and {} more: --limit shows them\n", thousands(left)));
    }
    text
}

pub(super) fn letter(letter: &Letter) -> String {
    let mut table = Table::new(&[]);
    let Letter { key, letter: found } = letter;
    table.row(["key", key]);
    table.row(["job", &found.job]);
    table.row(["id", found.id.as_deref().unwrap_or("could not be read")]);
    table.row(["reason", &found.reason]);
    table.row(["error", &found.error]);
    table.row(["attempts", &found.attempts.to_string()]);
    table.row(["first", &utc(found.first_at)]);
    table.row(["last", &utc(found.last_at)]);
    table.row(["worker", &found.worker]);
    if found.replaying {
        table.row(["replay", "begun: the next `pinion dead replay` takes it again"]);
    }
    let message = match found.message().map(String::from_utf8) {
        Some(Ok(text)) => text,
        Some(Err(bytes)) => format!("{} bytes that are no text, in base64: {}", bytes.as_bytes().len(), found.message),
        None => format!("unreadable: {}", found.message),
    };
    let cut = if found.is_cut() {
        let kept = found.message().map_or(0, |kept| kept.len() as u64);
        format!(", the first {} of {} bytes", thousands(kept), thousands(found.message_bytes))
    } else {
        String::new()
    };
    format!("{}\nmessage{cut}\n{message}\n", table.lines(0))
}

pub(super) fn replayed(replayed: &Replayed) -> String {
    let Replayed { replayed, failed_again, changed, refused } = replayed;
    let mut text = format!("{} replayed\n", counted(*replayed, "dead letter"));
    if *failed_again > 0 {
        text.push_str(&format!("{} failed again at once, and stay\n", thousands(*failed_again)));
    }
    if *changed > 0 {
        text.push_str(&format!("{} were changed by somebody else meanwhile, and stay\n", thousands(*changed)));
    }
    for (why, letters) in refused {
        text.push_str(&format!("{} can't be replayed, and stay: {why}\n", thousands(*letters)));
    }
    text
}

pub(super) fn dropped(dropped: &Dropped) -> String {
    let mut text = format!("{} dropped\n", counted(dropped.dropped, "dead letter"));
    if dropped.changed > 0 {
        text.push_str(&format!("{} were written anew meanwhile, and stay\n", thousands(dropped.changed)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::DeadLetter;
    use crate::operations::dead::JobCount;

    const NOW: u64 = 1_763_731_487_000;

    fn a_letter() -> Letter {
        let id = pinion_schemas::Id::Int(9_007_199_254_740_993);
        let body = br#"{"job_name":"orders","id":9007199254740993}"#;
        let letter = DeadLetter::of_document("orders", &id, body, &"web1-1-a".into());
        let letter = letter
            .because("refused", "document_parsing_exception: [1:7] failed to parse field [total] of type [double]");
        let letter = DeadLetter { first_at: NOW - 7_200_000, last_at: NOW - 12_000, attempts: 1, ..letter };
        Letter { key: letter.key(), letter }
    }

    #[test]
    fn letters_are_listed_and_counted() {
        let jobs = vec![JobCount {
            job: "orders".to_owned(),
            letters: 1234,
            last_at: NOW - 12_000,
            reasons: vec![("refused".to_owned(), 1230), ("wrong_id".to_owned(), 4)],
        }];
        let replaying =
            Letter { letter: DeadLetter { replaying: true, ..a_letter().letter }, key: "orders/7".to_owned() };
        insta::assert_snapshot!(list(&Counts { total: 1234, jobs }, &[a_letter(), replaying], NOW));
        assert_eq!(list(&Counts::default(), &[], NOW), "no dead letters\n");
    }

    #[test]
    fn a_letter_is_shown_whole() {
        insta::assert_snapshot!(letter(&a_letter()));
        let no_text = DeadLetter { id: None, message: "//4=".to_owned(), message_bytes: 2, ..a_letter().letter };
        let no_text = letter(&Letter { key: "orders/message-1".to_owned(), letter: no_text });
        assert!(no_text.ends_with("message\n2 bytes that are no text, in base64: //4=\n"), "{no_text}");
        let cut = DeadLetter { message: "YWJj".to_owned(), message_bytes: 100_000, ..a_letter().letter };
        let cut = self::letter(&Letter { key: "orders/message-2".to_owned(), letter: cut });
        assert!(cut.ends_with("\nmessage, the first 3 of 100,000 bytes\nabc\n"), "{cut}");
    }

    #[test]
    fn what_became_of_a_replay() {
        let refused = [("no job is called \"old\"".to_owned(), 2)].into();
        insta::assert_snapshot!(replayed(&Replayed { replayed: 1, failed_again: 3, changed: 4, refused }), @r#"
        1 dead letter replayed
        3 failed again at once, and stay
        4 were changed by somebody else meanwhile, and stay
        2 can't be replayed, and stay: no job is called "old"
        "#);
    }
}

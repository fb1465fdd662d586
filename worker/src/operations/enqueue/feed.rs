//! The ids in their order, a message's worth at a time, never all of them in memory.

use anyhow::Context as _;
use pinion_schemas::{Id, JobDefinition, KeyType};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

use super::{Event, Ids};
use crate::error::Fault;
use crate::ports::{Database, Keys, WhichKeys};
use crate::retry::Backoff;

/// A longer line is no id of any type.
const LINE_BYTES_MAX: usize = 4096;

/// A page of keys that can't be read is asked for again so often: a replica cancels reads now and then.
const PAGE_TRIES: u32 = 5;

/// Ids to come.
pub(super) struct Feed<'a> {
    origin: Origin<'a>,
    tell: &'a (dyn Fn(Event) + Sync),
}

enum Origin<'a> {
    Given(std::vec::IntoIter<Id>),
    Lines(Lines<'a>),
    All { keys: Box<dyn Keys + 'a>, page: std::vec::IntoIter<Id> },
}

/// A message's worth of ids. Without any only at the end, or if there were bad lines.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) ids: Vec<Id>,
    pub(super) bad_lines: u64,
}

impl<'a> Feed<'a> {
    pub(super) async fn open(
        database: &'a dyn Database,
        job: &'a JobDefinition,
        ids: Ids<'a>,
        tell: &'a (dyn Fn(Event) + Sync),
    ) -> anyhow::Result<Self> {
        let origin = match ids {
            Ids::Given(given) => {
                let ids: Vec<Id> = given.iter().map(|id| job.key.id_from_text(id)).collect::<Result<_, _>>()?;
                tell(Event::Expected(ids.len() as u64));
                Origin::Given(ids.into_iter())
            }
            Ids::Lines(reader) => Origin::Lines(Lines { reader, key: job.key, line: 0, ended: false }),
            Ids::All(range) => {
                let keys = database
                    .keys(job, WhichKeys { after: None, range })
                    .await
                    .with_context(|| format!("job {}", job.name))?;
                tell(Event::Expected(keys.estimate()));
                Origin::All { keys, page: Vec::new().into_iter() }
            }
        };
        Ok(Self { origin, tell })
    }

    pub(super) async fn chunk(&mut self, ids_max: usize) -> anyhow::Result<Chunk> {
        match &mut self.origin {
            Origin::Given(ids) => Ok(Chunk { ids: ids.take(ids_max).collect(), bad_lines: 0 }),
            Origin::Lines(lines) => lines.chunk(ids_max, self.tell).await,
            Origin::All { keys, page } => {
                if page.len() == 0 {
                    *page = next_page(&mut **keys).await?.into_iter();
                }
                Ok(Chunk { ids: page.take(ids_max).collect(), bad_lines: 0 })
            }
        }
    }
}

async fn next_page(keys: &mut (dyn Keys + '_)) -> Result<Vec<Id>, Fault> {
    let mut backoff = Backoff::for_server();
    let mut tries = 1;
    loop {
        match keys.page().await {
            Err(fault @ (Fault::Again { .. } | Fault::Away { .. })) if tries < PAGE_TRIES => {
                tracing::warn!(%fault, "a page of keys is read again");
                backoff.wait().await;
                tries += 1;
            }
            page => return page,
        }
    }
}

/// A text with an id a line.
struct Lines<'a> {
    reader: &'a mut (dyn AsyncBufRead + Send + Unpin),
    key: KeyType,
    line: u64,
    ended: bool,
}

impl Lines<'_> {
    async fn chunk(&mut self, ids_max: usize, tell: &(dyn Fn(Event) + Sync)) -> anyhow::Result<Chunk> {
        let mut chunk = Chunk::default();
        let mut text = Vec::new();
        while chunk.ids.len() < ids_max && !self.ended && self.next(&mut text).await.context("standard input")? {
            match self.id(&text) {
                Ok(Some(id)) => chunk.ids.push(id),
                Ok(None) => {}
                Err(problem) => {
                    chunk.bad_lines += 1;
                    tell(Event::BadLine(self.line, problem));
                }
            }
        }
        Ok(chunk)
    }

    /// The next line without its break; `false` at the end. Of a line that is too long one byte too many is kept.
    async fn next(&mut self, text: &mut Vec<u8>) -> std::io::Result<bool> {
        text.clear();
        let mut begun = false;
        loop {
            let read = self.reader.fill_buf().await?;
            if read.is_empty() {
                break;
            }
            if !begun {
                begun = true;
                self.line += 1;
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let part = &read[..end.unwrap_or(read.len())];
            let room = LINE_BYTES_MAX + 1 - text.len();
            text.extend_from_slice(&part[..part.len().min(room)]);
            let used = end.map_or(read.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_some() {
                break;
            }
        }
        self.ended = !begun;
        Ok(begun)
    }

    /// The id of a line, none of an empty one. A text's spaces are its own.
    fn id(&self, line: &[u8]) -> Result<Option<Id>, String> {
        if line.len() > LINE_BYTES_MAX {
            return Err(format!("it is longer than {LINE_BYTES_MAX} bytes"));
        }
        let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
        let line = line.strip_suffix('\r').unwrap_or(line);
        let line = if self.key == KeyType::Text { line } else { line.trim() };
        if line.is_empty() {
            return Ok(None);
        }
        self.key.id_from_text(line).map(Some).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    async fn check(key: KeyType, text: &[u8], ids: &[&str], bad_lines: &[u64]) {
        let mut reader = tokio::io::BufReader::with_capacity(7, text);
        let mut lines = Lines { reader: &mut reader, key, line: 0, ended: false };
        let bad = Mutex::new(Vec::new());
        let tell = |event| {
            if let Event::BadLine(line, _) = event {
                bad.lock().expect("not poisoned").push(line);
            }
        };
        let mut found = Vec::new();
        loop {
            let chunk = lines.chunk(2, &tell).await.expect("memory can be read");
            if chunk.ids.is_empty() && chunk.bad_lines == 0 {
                break;
            }
            found.extend(chunk.ids.iter().map(Id::to_string));
        }
        assert_eq!(
            (found.as_slice(), bad.into_inner().expect("not poisoned").as_slice()),
            (ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>().as_slice(), bad_lines)
        );
    }

    #[tokio::test]
    async fn lines_are_read_whatever_their_breaks_and_bad_ones_are_numbered() {
        check(
            KeyType::Bigint,
            b"1\n\n 2 \r\nx\n9223372036854775807\n9223372036854775808\n3",
            &["1", "2", "9223372036854775807", "3"],
            &[4, 6],
        )
        .await;
        check(KeyType::Text, b" a \nb\r\n\xff\nc", &[" a ", "b", "c"], &[3]).await;
        let long = [vec![b'1'; 10_000], b"\n7\n".to_vec()].concat();
        check(KeyType::Bigint, &long, &["7"], &[1]).await;
        check(KeyType::Bigint, b"x\ny\nz\n", &[], &[1, 2, 3]).await;
        check(KeyType::Bigint, b"", &[], &[]).await;
    }
}

//! Reads and converts on a thread of its own, a few batches ahead of the appends.

use super::{
    APPEND_BYTES_MAX, APPEND_ROWS_MAX,
    payload::{ConvertedBatch, Converter},
    rows::{ReadError, Row, RowReader},
};
use anyhow::{Context, anyhow};
use std::thread::JoinHandle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Batches that wait for their append; the thread waits when there are as many.
const BATCHES_AHEAD: usize = 4;

pub(super) struct Feed {
    batches: mpsc::Receiver<anyhow::Result<ConvertedBatch>>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    pub(super) fn start(reader: RowReader, converter: Converter, from_line: u64) -> anyhow::Result<Self> {
        let (send, batches) = mpsc::channel(BATCHES_AHEAD);
        let work = move || {
            for batch in (Batches { reader, converter, from_line }) {
                let failed = batch.is_err();
                if send.blocking_send(batch).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("import-read".to_owned()).spawn(work).context("cannot start the reading thread")?;
        Ok(Self { batches, thread: Some(thread) })
    }

    /// The next batch; nothing at the end of the file or after `stop`.
    pub(super) async fn next(&mut self, stop: &CancellationToken) -> anyhow::Result<Option<ConvertedBatch>> {
        // The stop goes first: batches are nearly always ready.
        let batch = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            batch = self.batches.recv() => batch,
        };
        if batch.is_none() && self.thread.take().is_some_and(|t| t.join().is_err()) {
            return Err(anyhow!("the thread that reads the file has failed"));
        }
        batch.transpose()
    }

    /// The end of the file was reached.
    pub(super) fn ended(&self) -> bool {
        self.thread.is_none()
    }
}

struct Batches {
    reader: RowReader,
    converter: Converter,
    from_line: u64,
}

impl Batches {
    fn rows(&mut self) -> Result<Vec<Row>, ReadError> {
        let mut rows = Vec::with_capacity(APPEND_ROWS_MAX);
        let mut bytes = 0;
        while rows.len() < APPEND_ROWS_MAX && bytes < APPEND_BYTES_MAX {
            let Some(row) = self.reader.next().transpose()? else { break };
            if row.line >= self.from_line {
                bytes += row.text.len();
                rows.push(row);
            }
        }
        Ok(rows)
    }
}

impl Iterator for Batches {
    type Item = anyhow::Result<ConvertedBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.rows() {
            Ok(rows) if rows.is_empty() => None,
            Ok(rows) => Some(self.converter.convert(rows).context("cannot convert")),
            Err(e) => Some(Err(e.into())),
        }
    }
}

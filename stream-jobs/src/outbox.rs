//! What waits for room in an epoch record. A record is bounded; rows that do not fit leave with the next epochs, in order, as part
//! of the state. A watermark is never told before the rows that it stands on have left.

use crate::state::{Pieces, StateError};
use arrow_array::RecordBatch;
use schemas::{Output, OutputKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Uncompressed bytes of rows that one record takes: LZ4 and the header keep it under the record's bound.
const RECORD_BYTES: usize = 700 * 1024;

type Watermarks = (Option<i64>, BTreeMap<String, i64>);

#[derive(Debug)]
struct Waiting {
    output: Output,
    bytes: usize,
    /// What may be told while this waits.
    hold: Watermarks,
}

#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    watermarks: Watermarks,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    waiting: Vec<(String, OutputKind, Watermarks)>,
    watermarks: Watermarks,
}

impl Outbox {
    /// The watermarks as they were told last: what holds until the rows of the coming epoch have left.
    pub fn watermark(&self) -> Watermarks {
        self.watermarks.clone()
    }

    pub fn push(&mut self, output: Output, hold: Watermarks) {
        if output.batch.num_rows() == 0 {
            return;
        }
        let bytes = bytes_of(&output.batch);
        self.bytes += bytes;
        self.waiting.push_back(Waiting { output, bytes, hold });
    }

    pub fn set_watermarks(&mut self, task: Option<i64>, views: BTreeMap<String, i64>) {
        self.watermarks = (task, views);
    }

    /// What may be told now: after [`Outbox::take`].
    pub fn told_watermarks(&self) -> Watermarks {
        self.waiting.front().map_or_else(|| self.watermarks.clone(), |w| w.hold.clone())
    }

    /// The rows for one record.
    pub fn take(&mut self) -> Vec<Output> {
        let mut room = RECORD_BYTES;
        let mut out = Vec::new();
        while let Some(mut first) = self.waiting.pop_front() {
            if first.bytes <= room {
                room -= first.bytes;
                self.bytes -= first.bytes;
                out.push(first.output);
                continue;
            }
            let rows = first.output.batch.num_rows();
            let per_row = (first.bytes / rows.max(1)).max(1);
            let fit = (room / per_row).max(usize::from(out.is_empty())).min(rows);
            if fit > 0 {
                out.push(Output { batch: first.output.batch.slice(0, fit), ..first.output.clone() });
                first.output.batch = first.output.batch.slice(fit, rows - fit);
                let left = first.bytes.saturating_sub(per_row * fit);
                self.bytes -= first.bytes - left;
                first.bytes = left;
            }
            if first.output.batch.num_rows() > 0 {
                self.waiting.push_front(first);
            }
            break;
        }
        out
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn pieces(&self) -> Result<Pieces, StateError> {
        let meta = Meta {
            waiting: self.waiting.iter().map(|w| (w.output.name.clone(), w.output.kind, w.hold.clone())).collect(),
            watermarks: self.watermarks.clone(),
        };
        Ok(Pieces {
            meta: serde_json::to_value(meta).map_err(StateError::Meta)?,
            batches: self.waiting.iter().map(|w| ("rows".to_owned(), w.output.batch.clone())).collect(),
        })
    }

    pub fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        let meta: Meta = pieces.meta()?;
        for ((name, kind, hold), batch) in meta.waiting.into_iter().zip(pieces.take_all("rows")) {
            self.push(Output { name, kind, batch }, hold);
        }
        self.watermarks = meta.watermarks;
        Ok(())
    }
}

/// Bytes of the batch's rows, counted from its values, so that it comes out the same for equal rows wherever they lie in memory.
fn bytes_of(batch: &RecordBatch) -> usize {
    use arrow_array::{Array, cast::AsArray};
    use arrow_schema::DataType;
    let rows = batch.num_rows();
    let column = |c: &arrow_array::ArrayRef| match c.data_type() {
        DataType::Utf8 => rows * 5 + c.as_string::<i32>().iter().flatten().map(str::len).sum::<usize>(),
        DataType::Binary => rows * 5 + c.as_binary::<i32>().iter().flatten().map(<[u8]>::len).sum::<usize>(),
        t => rows * (t.primitive_width().unwrap_or(16) + 1),
    };
    256 + batch.columns().iter().map(column).sum::<usize>()
}

//! What waits for room in an epoch record. A record is bounded; rows that do not fit leave with the next epochs, in order, as part
//! of the state. A watermark is never told before the rows that it stands on have left.

use crate::state::{Pieces, StateError};
use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::ArrowError;
use schemas::{DeadLetter, DeadReason, Output, OutputKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// The output of what could not be taken.
pub const DEAD_LETTERS: &str = "dead_letters";
/// Uncompressed bytes of rows that one record takes: LZ4 and the header keep it under the record's bound.
/// So do the rows of tables that are copied beside them.
const RECORD_BYTES: usize = 640 * 1024;

const EMPTY_BATCH_BYTES: usize = 256;

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

    /// Rows that no record can hold become dead letters; returns how many.
    pub fn push(&mut self, mut output: Output, hold: Watermarks) -> Result<u64, ArrowError> {
        let mut bytes = bytes_of(&output.batch);
        let mut dead = 0;
        if bytes > RECORD_BYTES
            && let Some(letters) = without_too_large(&mut output)?
        {
            bytes = bytes_of(&output.batch);
            dead = letters.batch.num_rows() as u64;
            let of_letters = bytes_of(&letters.batch);
            self.add(letters, of_letters, hold.clone());
        }
        if output.batch.num_rows() > 0 {
            self.add(output, bytes, hold);
        }
        Ok(dead)
    }

    fn add(&mut self, output: Output, bytes: usize, hold: Watermarks) {
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
            let bytes = bytes_of(&batch);
            self.add(Output { name, kind, batch }, bytes, hold);
        }
        self.watermarks = meta.watermarks;
        Ok(())
    }
}

/// Takes the rows out that are larger than a record, and gives them as dead letters; `None` where there are none.
fn without_too_large(output: &mut Output) -> Result<Option<Output>, ArrowError> {
    // Almost always no row can be, and then none is looked at by itself.
    if EMPTY_BATCH_BYTES + output.batch.columns().iter().map(|column| widest_of_column(column.as_ref())).sum::<usize>() <= RECORD_BYTES {
        return Ok(None);
    }
    let sizes: Vec<usize> = (0..output.batch.num_rows()).map(|row| bytes_of(&output.batch.slice(row, 1))).collect();
    let letter = |bytes: &usize| DeadLetter {
        topic: output.name.clone(),
        partition: 0,
        offset: 0,
        append_us: 0,
        kind: DeadReason::TooLarge,
        reason: format!("a row of `{}` has {bytes} bytes, an epoch record takes {RECORD_BYTES}", output.name),
        key: None,
        value: None,
    };
    let letters: Vec<DeadLetter> = sizes.iter().filter(|bytes| **bytes > RECORD_BYTES).map(letter).collect();
    if letters.is_empty() {
        return Ok(None);
    }
    let fits: BooleanArray = sizes.iter().map(|bytes| Some(*bytes <= RECORD_BYTES)).collect();
    output.batch = arrow_select::filter::filter_record_batch(&output.batch, &fits)?;
    Ok(Some(Output { name: DEAD_LETTERS.to_owned(), kind: OutputKind::Dead, batch: DeadLetter::to_batch(&letters)? }))
}

/// Bytes of the batch's rows, counted from its values, so that it comes out the same for equal rows wherever they lie in memory.
fn bytes_of(batch: &RecordBatch) -> usize {
    EMPTY_BATCH_BYTES + batch.columns().iter().map(|column| bytes_of_column(column.as_ref())).sum::<usize>()
}

fn bytes_of_column(c: &dyn arrow_array::Array) -> usize {
    use arrow_array::cast::AsArray;
    use arrow_schema::DataType;
    let rows = c.len();
    match c.data_type() {
        DataType::Utf8 => rows * 5 + c.as_string::<i32>().iter().flatten().map(str::len).sum::<usize>(),
        DataType::Binary => rows * 5 + c.as_binary::<i32>().iter().flatten().map(<[u8]>::len).sum::<usize>(),
        DataType::List(_) => rows * 5 + c.as_list::<i32>().iter().flatten().map(|items| bytes_of_column(items.as_ref())).sum::<usize>(),
        t => rows * (t.primitive_width().unwrap_or(16) + 1),
    }
}

/// No value of the column has more bytes.
fn widest_of_column(c: &dyn arrow_array::Array) -> usize {
    use arrow_array::cast::AsArray;
    use arrow_schema::DataType;
    let widest = |offsets: &[i32]| offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or_default() + 5;
    match c.data_type() {
        DataType::Utf8 => widest(c.as_string::<i32>().offsets()),
        DataType::Binary => widest(c.as_binary::<i32>().offsets()),
        DataType::List(_) => bytes_of_column(c),
        t => t.primitive_width().unwrap_or(16) + 1,
    }
}

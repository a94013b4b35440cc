//! Decoded input: what `ingest` hands to a task.

use arrow_array::{ArrayRef, BinaryArray, BooleanArray, Int64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use bytes::Bytes;
use std::sync::Arc;

/// Why a record became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// The payload is not what the source's columns say.
    Undecodable,
    /// The record stands in another partition than murmur2 of its key says, or its key is not that of its payload.
    Misplaced,
    /// `event_time` is missing, before 1980, or more than a day ahead of the append time.
    BadTime,
    /// It is more than a record of the log, or a row of a table, can hold.
    TooLarge,
}

/// Bytes of a record that its dead letter keeps. The record itself stands where the letter says.
const KEPT_VALUE_BYTES_MAX: usize = 128 * 1024;
const KEPT_KEY_BYTES_MAX: usize = 4 * 1024;
const KEPT_REASON_BYTES_MAX: usize = 2 * 1024;

impl DeadReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::Misplaced => "misplaced",
            Self::BadTime => "bad_time",
            Self::TooLarge => "too_large",
        }
    }
}

/// A record that could not be taken: its coordinates, why, and its original bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub topic: String,
    pub partition: u32,
    pub offset: u64,
    pub append_us: i64,
    pub kind: DeadReason,
    /// One sentence in the house's wording, e.g. ``field `bytes_down` is `"12a"`, expected an integer``.
    pub reason: String,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
}

impl DeadLetter {
    pub fn schema() -> Schema {
        Schema::new(vec![
            Field::new("topic", DataType::Utf8, false),
            Field::new("partition", DataType::UInt32, false),
            Field::new("offset", DataType::UInt64, false),
            Field::new("append_us", DataType::Int64, false),
            Field::new("kind", DataType::Utf8, false),
            Field::new("reason", DataType::Utf8, false),
            Field::new("key", DataType::Binary, true),
            Field::new("value", DataType::Binary, true),
        ])
    }

    /// Dead letters as the rows of an output. One that is larger than a record can hold is cut, and its reason says so.
    pub fn to_batch(letters: &[Self]) -> Result<RecordBatch, ArrowError> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(letters.iter().map(|l| &l.topic))),
            Arc::new(UInt32Array::from_iter_values(letters.iter().map(|l| l.partition))),
            Arc::new(UInt64Array::from_iter_values(letters.iter().map(|l| l.offset))),
            Arc::new(Int64Array::from_iter_values(letters.iter().map(|l| l.append_us))),
            Arc::new(StringArray::from_iter_values(letters.iter().map(|l| l.kind.as_str()))),
            Arc::new(StringArray::from_iter_values(letters.iter().map(Self::told_reason))),
            Arc::new(BinaryArray::from_iter(letters.iter().map(|l| kept(l.key.as_ref(), KEPT_KEY_BYTES_MAX)))),
            Arc::new(BinaryArray::from_iter(letters.iter().map(|l| kept(l.value.as_ref(), KEPT_VALUE_BYTES_MAX)))),
        ];
        RecordBatch::try_new(Arc::new(Self::schema()), columns)
    }
}

impl DeadLetter {
    fn told_reason(&self) -> String {
        let mut reason = self.reason[..self.reason.floor_char_boundary(KEPT_REASON_BYTES_MAX)].to_owned();
        for (what, bytes, max) in [("key", &self.key, KEPT_KEY_BYTES_MAX), ("value", &self.value, KEPT_VALUE_BYTES_MAX)] {
            if let Some(bytes) = bytes.as_ref().filter(|b| b.len() > max) {
                reason.push_str(&format!("; the first {max} of {} bytes of the {what} are kept here", bytes.len()));
            }
        }
        reason
    }
}

fn kept(bytes: Option<&Bytes>, max: usize) -> Option<&[u8]> {
    bytes.map(|b| &b[..b.len().min(max)])
}

/// The decoded records `[from, to)` of one partition of one source topic.
#[derive(Clone, Debug)]
pub struct SourceBatch {
    pub topic: String,
    pub partition: u32,
    pub from: u64,
    pub to: u64,
    /// One row a decoded record, in offset order; the columns that the source declares, in its order.
    pub rows: RecordBatch,
    /// Record keys, row by row.
    pub keys: BinaryArray,
    /// Offsets, row by row.
    pub offsets: UInt64Array,
    /// Append times in UTC microseconds, row by row.
    pub append_us: Int64Array,
    /// True where the record was a tombstone: its columns other than the key's are null.
    pub tombstones: Option<BooleanArray>,
    /// Offset of the end-of-source marker, when one stands in the range.
    pub end_of_source: Option<u64>,
    pub dead: Vec<DeadLetter>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::cast::AsArray;

    #[test]
    fn a_dead_letter_keeps_what_fits_a_record_and_says_how_much_there_was() {
        let letter = |value: Vec<u8>| DeadLetter {
            topic: "usage.v1".to_owned(),
            partition: 0,
            offset: 7,
            append_us: 0,
            kind: DeadReason::Undecodable,
            reason: "not JSON".to_owned(),
            key: Some(Bytes::from_static(b"k")),
            value: Some(value.into()),
        };
        let batch = DeadLetter::to_batch(&[letter(vec![b'x'; 900_000]), letter(b"short".to_vec())]).unwrap();
        let (reasons, values) = (batch.column(5).as_string::<i32>(), batch.column(7).as_binary::<i32>());
        assert_eq!(reasons.value(0), "not JSON; the first 131072 of 900000 bytes of the value are kept here");
        assert_eq!(values.value(0).len(), 131_072);
        assert_eq!((reasons.value(1), values.value(1)), ("not JSON", &b"short"[..]));
    }
}

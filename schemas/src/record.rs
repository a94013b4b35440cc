//! Records as the log takes and gives them.

use arrow_array::{
    Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, UInt32Array, UInt64Array,
    cast::AsArray,
    types::{Int64Type, UInt32Type, UInt64Type},
};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use bytes::Bytes;
use std::sync::Arc;

/// Header that marks the end of a bounded source: every window that has a row closes.
pub const END_OF_SOURCE_HEADER: &str = "headend-end-of-source";

/// Header of a table's record that was too large for its row, with the bytes that its value had: see [`Record::shorten`].
pub const TOO_LARGE_HEADER: &str = "headend-too-large";
/// The largest value of a record that a table takes: its records are copied into epoch records, beside what leaves the epoch.
pub const TABLE_VALUE_BYTES_MAX: usize = 64 * 1024;
/// What of a larger one is kept.
const SHORTENED_BYTES: usize = 16 * 1024;

/// A record on its way into the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    pub key: Option<Bytes>,
    /// `None` is a tombstone in a compacted topic.
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Bytes)>,
}

impl NewRecord {
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), value: Some(value.into()), headers: Vec::new() }
    }

    /// The marker that `import --close` appends to every partition.
    pub fn end_of_source() -> Self {
        Self { key: None, value: None, headers: vec![(END_OF_SOURCE_HEADER.to_owned(), Bytes::from_static(b"1"))] }
    }
}

/// A record as it stands in a partition of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: u64,
    /// UTC microseconds at which the log appended the record (Kafka gives milliseconds).
    pub append_us: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Bytes)>,
}

impl Record {
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    pub fn is_end_of_source(&self) -> bool {
        self.value.is_none() && self.header(END_OF_SOURCE_HEADER).is_some()
    }
}

/// Copies of records, for a log that will not keep them: one row a record, and one more for each header after its first.
const COPY_COLUMNS: [(&str, DataType, bool); 7] = [
    ("offset", DataType::UInt64, false),
    ("append_us", DataType::Int64, false),
    ("key", DataType::Binary, true),
    ("value", DataType::Binary, true),
    ("headers", DataType::UInt32, false),
    ("header", DataType::Utf8, true),
    ("header_value", DataType::Binary, true),
];

impl Record {
    /// Cuts a value that is larger than [`TABLE_VALUE_BYTES_MAX`] and says so in a header, which the decoder makes a dead letter of. The
    /// record itself stands in the log until a newer one takes its place.
    pub fn shorten(&mut self) {
        if let Some(value) = self.value.as_mut().filter(|v| v.len() > TABLE_VALUE_BYTES_MAX) {
            self.headers = vec![(TOO_LARGE_HEADER.to_owned(), Bytes::from(value.len().to_string()))];
            value.truncate(SHORTENED_BYTES);
        }
    }

    /// Bytes that the record takes in a copy, about.
    pub fn copied_bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| 40 + name.len() + value.len()).sum();
        40 + self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }

    pub fn to_batch(records: &[Self]) -> Result<RecordBatch, ArrowError> {
        // A record without headers has one row too.
        let rows: Vec<(&Self, usize)> = records.iter().flat_map(|r| (0..r.headers.len().max(1)).map(move |n| (r, n))).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(r, _)| r.offset))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(r, _)| r.append_us))),
            Arc::new(BinaryArray::from_iter(rows.iter().map(|(r, n)| r.key.as_deref().filter(|_| *n == 0)))),
            Arc::new(BinaryArray::from_iter(rows.iter().map(|(r, n)| r.value.as_deref().filter(|_| *n == 0)))),
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|(r, _)| r.headers.len() as u32))),
            Arc::new(StringArray::from_iter(rows.iter().map(|(r, n)| r.headers.get(*n).map(|h| &h.0)))),
            Arc::new(BinaryArray::from_iter(rows.iter().map(|(r, n)| r.headers.get(*n).map(|h| &h.1[..])))),
        ];
        let fields: Vec<Field> = COPY_COLUMNS.into_iter().map(|(name, data_type, nullable)| Field::new(name, data_type, nullable)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
    }

    /// What [`Record::to_batch`] was given.
    pub fn from_batch(batch: &RecordBatch) -> Result<Vec<Self>, ArrowError> {
        if batch.schema().fields().iter().map(|f| f.data_type()).ne(COPY_COLUMNS.iter().map(|c| &c.1)) {
            return Err(ArrowError::SchemaError("these are no copied records".to_owned()));
        }
        let (offsets, times) = (batch.column(0).as_primitive::<UInt64Type>(), batch.column(1).as_primitive::<Int64Type>());
        let (keys, values) = (batch.column(2).as_binary::<i32>(), batch.column(3).as_binary::<i32>());
        let (counts, names, headers) = (batch.column(4).as_primitive::<UInt32Type>(), batch.column(5).as_string::<i32>(), batch.column(6).as_binary::<i32>());
        let bytes = |column: &BinaryArray, row: usize| column.is_valid(row).then(|| Bytes::copy_from_slice(column.value(row)));
        let mut records = Vec::with_capacity(batch.num_rows());
        let mut row = 0;
        while row < batch.num_rows() {
            let n = counts.value(row) as usize;
            let of_record = row..(row + n).min(batch.num_rows());
            records.push(Self {
                offset: offsets.value(row),
                append_us: times.value(row),
                key: bytes(keys, row),
                value: bytes(values, row),
                headers: of_record.map(|h| (names.value(h).to_owned(), bytes(headers, h).unwrap_or_default())).collect(),
            });
            row += n.max(1);
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: u64, key: Option<&'static str>, value: Option<&'static str>, headers: &[(&str, &'static str)]) -> Record {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), Bytes::from_static(value.as_bytes()))).collect();
        Record { offset, append_us: offset as i64 * 10, key: key.map(Bytes::from), value: value.map(Bytes::from), headers }
    }

    #[test]
    fn copies_of_records_are_the_records() {
        let records = vec![
            record(3, Some("a"), Some("1"), &[("ce_id", "x"), ("ce_id", "y"), ("", "")]),
            record(7, None, Some(""), &[]),
            record(8, Some(""), None, &[(END_OF_SOURCE_HEADER, "1")]),
        ];
        assert_eq!(Record::from_batch(&Record::to_batch(&records).unwrap()).unwrap(), records);
        assert_eq!(Record::from_batch(&Record::to_batch(&[]).unwrap()).unwrap(), []);
    }

    #[test]
    fn a_value_that_is_too_large_for_a_table_is_cut_and_says_its_size() {
        let mut large = Record { value: Some(Bytes::from(vec![b'x'; TABLE_VALUE_BYTES_MAX + 1])), ..record(0, Some("k"), None, &[("h", "v")]) };
        large.shorten();
        assert_eq!(large.header(TOO_LARGE_HEADER).unwrap(), &(TABLE_VALUE_BYTES_MAX + 1).to_string());
        assert!(large.copied_bytes() < TABLE_VALUE_BYTES_MAX / 2);
        let mut fits = record(0, Some("k"), Some("v"), &[("h", "v")]);
        fits.shorten();
        assert_eq!(fits, record(0, Some("k"), Some("v"), &[("h", "v")]));
    }
}

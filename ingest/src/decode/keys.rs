//! The key of each row: that its record key is the texts of its key columns, and that it stands where murmur2 puts it.

use super::{Cut, DecoderSpec};
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray, builder::BinaryBuilder, cast::AsArray};
use arrow_schema::{ArrowError, DataType};
use schemas::{DeadReason, event::shown, partition::partition_of};

/// A row that cannot stay: its index, why, and the sentence.
pub type Fault = (usize, DeadReason, String);

/// The keys of the rows without a fault, in order, and the faults.
pub fn check(spec: &DecoderSpec, rows: &RecordBatch, cut: &Cut<'_>) -> Result<(BinaryArray, Vec<Fault>), ArrowError> {
    let columns = spec.key.iter().map(|k| as_text(rows.column(*k))).collect::<Result<Vec<ArrayRef>, _>>()?;
    let texts: Vec<&StringArray> = columns.iter().map(|c| c.as_string::<i32>()).collect();
    let mut keys = BinaryBuilder::with_capacity(cut.rows.len(), cut.rows.len() * 24);
    let mut faults = Vec::new();
    let mut key = Vec::with_capacity(64);
    for (row, at) in cut.rows.iter().enumerate() {
        let record = &cut.records[at.record];
        match row_key(spec, &texts, row, &mut key).and_then(|()| check_record(spec, cut.partition, record.key.as_deref(), &mut key)) {
            Ok(()) => keys.append_value(&key),
            Err((kind, reason)) => faults.push((row, kind, reason)),
        }
    }
    Ok((keys.finish(), faults))
}

fn as_text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match column.data_type() {
        DataType::Utf8 => Ok(column.clone()),
        _ => arrow_cast::cast(column, &DataType::Utf8),
    }
}

/// The key that the row's columns say.
fn row_key(spec: &DecoderSpec, texts: &[&StringArray], row: usize, key: &mut Vec<u8>) -> Result<(), (DeadReason, String)> {
    key.clear();
    for (n, column) in texts.iter().enumerate() {
        let name = || spec.schema.field(spec.key[n]).name();
        if column.is_null(row) {
            return Err((DeadReason::Undecodable, format!("field `{}` is missing", name())));
        }
        let text = column.value(row);
        if text.bytes().any(|b| matches!(b, b'|' | b':')) {
            let reason = format!("field `{}` is {}, a key field may not hold `|` or `:`", name(), shown(&text.into()));
            return Err((DeadReason::Undecodable, reason));
        }
        if n > 0 {
            key.push(b'|');
        }
        key.extend_from_slice(text.as_bytes());
    }
    Ok(())
}

/// Holds the row's key against the record's. A source without key columns takes the record's as it is.
fn check_record(spec: &DecoderSpec, partition: u32, record_key: Option<&[u8]>, key: &mut Vec<u8>) -> Result<(), (DeadReason, String)> {
    match record_key {
        Some(own) if spec.key.is_empty() => key.extend_from_slice(own),
        Some(own) if own != key.as_slice() => {
            let (own, said) = (String::from_utf8_lossy(own), String::from_utf8_lossy(key));
            return Err((DeadReason::Misplaced, format!("record key is `{own}`, its fields say `{said}`")));
        }
        _ => {}
    }
    if spec.trust_partition || spec.partitions == 0 || (spec.key.is_empty() && record_key.is_none()) {
        return Ok(());
    }
    match partition_of(key, spec.partitions) {
        p if p == partition => Ok(()),
        p => Err((DeadReason::Misplaced, format!("key `{}` belongs in partition {p} of {}", String::from_utf8_lossy(key), spec.partitions))),
    }
}

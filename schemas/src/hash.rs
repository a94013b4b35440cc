//! One hash over the rows of an Arrow batch, independent of how the rows lie in memory, so that a replay can be
//! compared with what was recorded.

use arrow_array::{Array, RecordBatch, cast::AsArray, types::*};
use arrow_schema::{DataType, TimeUnit};
use xxhash_rust::xxh3::Xxh3;

/// Feeds `batch` into `hash`: column by column, name, type, validity and value. Floats count by their bits, with
/// one zero and one NaN. The memory layout (slices, offsets, unused value slots under nulls) does not show.
pub fn hash_batch(hash: &mut Xxh3, batch: &RecordBatch) {
    hash.update(&(batch.num_rows() as u64).to_le_bytes());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        hash.update(field.name().as_bytes());
        hash.update(&[0]);
        hash_array(hash, column.as_ref());
    }
}

macro_rules! integers {
    ($hash:expr, $array:expr, $type:ty) => {{
        let a = $array.as_primitive::<$type>();
        if a.null_count() == 0 {
            // The buffer's own bytes: Arrow is little-endian, like every machine that this runs on.
            $hash.update(a.values().inner().as_slice());
        } else {
            for v in a.iter() {
                match v {
                    Some(v) => {
                        $hash.update(&[1]);
                        $hash.update(&v.to_le_bytes());
                    }
                    None => $hash.update(&[0]),
                }
            }
        }
    }};
}

fn hash_array(hash: &mut Xxh3, array: &dyn Array) {
    match array.data_type() {
        DataType::Int64 => integers!(hash, array, Int64Type),
        DataType::Int32 => integers!(hash, array, Int32Type),
        DataType::Int16 => integers!(hash, array, Int16Type),
        DataType::Int8 => integers!(hash, array, Int8Type),
        DataType::UInt64 => integers!(hash, array, UInt64Type),
        DataType::UInt32 => integers!(hash, array, UInt32Type),
        DataType::UInt16 => integers!(hash, array, UInt16Type),
        DataType::UInt8 => integers!(hash, array, UInt8Type),
        DataType::Timestamp(TimeUnit::Microsecond, _) => integers!(hash, array, TimestampMicrosecondType),
        DataType::Decimal128(_, _) => integers!(hash, array, Decimal128Type),
        DataType::Float64 => {
            for v in array.as_primitive::<Float64Type>().iter() {
                let bits = v.map_or(u64::MAX, canonical_bits);
                hash.update(&bits.to_le_bytes());
            }
        }
        DataType::Utf8 => {
            for v in array.as_string::<i32>().iter() {
                hash_bytes(hash, v.map(str::as_bytes));
            }
        }
        DataType::Binary => {
            for v in array.as_binary::<i32>().iter() {
                hash_bytes(hash, v);
            }
        }
        DataType::Boolean => {
            for v in array.as_boolean().iter() {
                hash.update(&[v.map_or(2, u8::from)]);
            }
        }
        DataType::List(_) => {
            for items in array.as_list::<i32>().iter() {
                hash_bytes(hash, items.as_ref().map(|items| items.len().to_le_bytes()).as_ref().map(<[u8; 8]>::as_slice));
                items.iter().for_each(|items| hash_array(hash, items.as_ref()));
            }
        }
        _ => hash_any(hash, array),
    }
}

/// Types that are rare in outputs: through their debug text, a row at a time.
fn hash_any(hash: &mut Xxh3, array: &dyn Array) {
    for row in 0..array.len() {
        hash_bytes(hash, Some(format!("{:?}", array.slice(row, 1)).as_bytes()));
    }
}

fn hash_bytes(hash: &mut Xxh3, bytes: Option<&[u8]>) {
    match bytes {
        Some(b) => {
            hash.update(&(b.len() as u32).to_le_bytes());
            hash.update(b);
        }
        None => hash.update(&u32::MAX.to_le_bytes()),
    }
}

fn canonical_bits(v: f64) -> u64 {
    if v == 0.0 {
        0
    } else if v.is_nan() {
        f64::NAN.to_bits()
    } else {
        v.to_bits()
    }
}

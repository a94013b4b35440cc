//! A compacted topic as a table: the newest row per record key, handed on as changes.

use super::{Context, Effects, Flow, OpError, Operator, nullable};
use crate::{
    delta::{ChangeBuilder, Delta, Op},
    state::{Frozen, Pieces, StateError, keys::RowCodec},
};
use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, cast::AsArray, types::Int64Type};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use std::{collections::BTreeMap, sync::Arc};

type Bytes = Arc<[u8]>;

pub struct TableOperator {
    codec: RowCodec,
    /// By record key: the time and the row.
    rows: BTreeMap<Bytes, (i64, Bytes)>,
}

impl TableOperator {
    pub fn new(schema: &SchemaRef) -> Result<Self, OpError> {
        Ok(Self { codec: RowCodec::new(Arc::new(nullable(schema)))?, rows: BTreeMap::new() })
    }
}

impl Operator for TableOperator {
    fn process(&mut self, _context: &Context<'_>, inputs: &[&Flow], _effects: &mut Effects) -> Result<Delta, OpError> {
        let delta = &inputs[0].delta;
        let Some(origin) = delta.origin.as_ref().filter(|_| !delta.is_empty()) else { return Ok(Delta::empty(Arc::clone(self.codec.schema()))) };
        let rows = self.codec.encode(&delta.batch)?;
        // Per key: its row before the epoch and the time of the change. What happened in between is not handed on.
        let mut touched: BTreeMap<Bytes, (Option<Bytes>, i64)> = BTreeMap::new();
        for (i, row) in rows.into_iter().enumerate() {
            let (key, time): (Bytes, i64) = (Arc::from(origin.keys.value(i)), delta.times[i]);
            let held = self.rows.get(&key);
            if held.is_some_and(|(t, _)| *t > time) {
                continue;
            }
            touched.entry(Arc::clone(&key)).or_insert_with(|| (held.map(|(_, r)| Arc::clone(r)), time)).1 = time;
            if delta.op(i) == Op::Delete {
                self.rows.remove(&key)
            } else {
                self.rows.insert(key, (time, row))
            };
        }
        let (mut befores, mut afters, mut builder) = (Vec::new(), Vec::new(), ChangeBuilder::new());
        for (key, (before, time)) in touched {
            let after = self.rows.get(&key).map(|(_, r)| Arc::clone(r));
            if before == after {
                continue;
            }
            let place = |rows: &mut Vec<Bytes>, row: Option<Bytes>| {
                row.map(|r| {
                    rows.push(r);
                    rows.len() - 1
                })
            };
            let (b, a) = (place(&mut befores, before), place(&mut afters, after));
            builder.push(b, a, time);
        }
        let decode = |rows: &[Arc<[u8]>]| self.codec.decode(rows.iter().map(AsRef::as_ref));
        Ok(builder.finish(&decode(&befores)?, &decode(&afters)?)?)
    }

    fn freeze(&mut self) -> Frozen {
        let rows = self.rows.clone();
        Box::new(move || {
            let schema = Schema::new(vec![
                Field::new("key", DataType::Binary, false),
                Field::new("time", DataType::Int64, false),
                Field::new("row", DataType::Binary, false),
            ]);
            let columns: Vec<ArrayRef> = vec![
                Arc::new(BinaryArray::from_iter_values(rows.keys())),
                Arc::new(Int64Array::from_iter_values(rows.values().map(|(t, _)| *t))),
                Arc::new(BinaryArray::from_iter_values(rows.values().map(|(_, r)| r))),
            ];
            Ok(Pieces { meta: serde_json::Value::Null, batches: vec![("rows".to_owned(), RecordBatch::try_new(Arc::new(schema), columns)?)] })
        })
    }

    fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        let batch = pieces.take("rows")?;
        let (keys, times, rows) = (batch.column(0).as_binary::<i32>(), batch.column(1).as_primitive::<Int64Type>(), batch.column(2).as_binary::<i32>());
        self.rows = (0..batch.num_rows()).map(|i| (Arc::from(keys.value(i)), (times.value(i), Arc::from(rows.value(i))))).collect();
        Ok(())
    }
}

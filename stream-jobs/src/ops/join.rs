//! Tables joined by a key: each side keeps its newest row per key; a key is evaluated again when a row of it changes on any
//! side, and at a tick of `now()`.

use super::{Context, Effects, Flow, OpError, Operator, nullable};
use crate::{
    delta::{ChangeBuilder, Delta, Op},
    gate::Gate,
    plan::{Emit, Join, JoinKind, ViewSpec},
    state::{Frozen, Pieces, StateError, keys::RowCodec},
    steps,
};
use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, cast::AsArray, types::*};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

type Key = Arc<[u8]>;

/// The newest row of a key on one side.
#[derive(Debug, Clone)]
struct Held {
    time: i64,
    row: Arc<[u8]>,
}

struct Side {
    codec: RowCodec,
    on: RowCodec,
    on_columns: Vec<usize>,
    rows: BTreeMap<Key, Held>,
}

pub struct JoinOperator {
    plan: Join,
    sides: Vec<Side>,
    output: RowCodec,
    /// The row that was handed on last for each key.
    emitted: BTreeMap<Key, Held>,
    gate: Option<Gate>,
    uses_now: bool,
    last_now: i64,
}

impl JoinOperator {
    pub fn new(view: &ViewSpec, plan: Join) -> Result<Self, OpError> {
        let sides = plan
            .sides
            .iter()
            .map(|side| {
                let schema = Arc::new(nullable(&side.schema));
                let on = Arc::new(schema.project(&side.on)?);
                Ok(Side { codec: RowCodec::new(schema)?, on: RowCodec::new(on)?, on_columns: side.on.clone(), rows: BTreeMap::new() })
            })
            .collect::<Result<Vec<_>, OpError>>()?;
        let gate = match view.emit {
            Emit::ChangesEvery { interval_us } => Some(Gate::new(interval_us)),
            _ => None,
        };
        Ok(Self {
            plan,
            sides,
            output: RowCodec::new(Arc::new(nullable(&view.schema)))?,
            emitted: BTreeMap::new(),
            gate,
            uses_now: view.uses_now,
            last_now: i64::MIN,
        })
    }

    /// Takes the rows of one side; the keys whose row changed are added to `touched`.
    fn absorb(&mut self, side: usize, delta: &Delta, touched: &mut BTreeSet<Key>) -> Result<(), OpError> {
        let side = &mut self.sides[side];
        if !delta.is_empty() {
            let rows = side.codec.encode(&delta.batch)?;
            let keys = side.on.encode(&delta.batch.project(&side.on_columns)?)?;
            for (i, (key, row)) in keys.into_iter().zip(rows).enumerate() {
                if side.put(&key, delta.ops.as_ref().map(|ops| ops[i]), Held { time: delta.times[i], row }) {
                    touched.insert(key);
                }
            }
        }
        if let Some(gone) = &delta.gone {
            let keys = side.on.encode(&gone.batch.project(&side.on_columns)?)?;
            for (key, time) in keys.into_iter().zip(&gone.times) {
                if side.rows.get(&key).is_some_and(|held| held.time < *time) {
                    side.rows.remove(&key);
                    touched.insert(key);
                }
            }
        }
        Ok(())
    }

    /// Evaluates `touched` and gives the changes against what was handed on before.
    fn evaluate(&mut self, touched: &BTreeSet<Key>, time: Option<i64>) -> Result<Delta, OpError> {
        let schema = Arc::clone(self.output.schema());
        if touched.is_empty() {
            return Ok(Delta::empty(schema));
        }
        let joined: Vec<&Key> = touched.iter().filter(|k| self.has_row(k)).collect();
        let (kept, after) = self.rows_after(&joined)?;
        let after_rows = self.output.encode(&after)?;
        let mut standing: BTreeMap<&Key, usize> = kept.iter().enumerate().map(|(row, at)| (joined[*at], row)).collect();
        let mut builder = ChangeBuilder::new();
        let mut befores: Vec<Arc<[u8]>> = Vec::new();
        let mut updates = Vec::new();
        for key in touched {
            let after = standing.remove(key);
            let before = self.emitted.get(key);
            if let (Some(b), Some(a)) = (before, after)
                && b.row == after_rows[a]
            {
                continue;
            }
            let at = time.unwrap_or_else(|| self.newest_time(key).max(before.map_or(i64::MIN, |b| b.time)));
            let before_index = before.map(|b| {
                befores.push(Arc::clone(&b.row));
                befores.len() - 1
            });
            builder.push(before_index, after, at);
            updates.push((Arc::clone(key), after.map(|a| Held { time: at, row: Arc::clone(&after_rows[a]) })));
        }
        let befores = self.output.decode(befores.iter().map(AsRef::as_ref))?;
        for (key, row) in updates {
            match row {
                Some(row) => self.emitted.insert(key, row),
                None => self.emitted.remove(&key),
            };
        }
        Ok(builder.finish(&befores, &after)?)
    }

    fn has_row(&self, key: &Key) -> bool {
        self.sides.iter().zip(&self.plan.sides).enumerate().all(|(i, (side, plan))| side.rows.contains_key(key) || (i > 0 && plan.kind == JoinKind::Left))
    }

    fn newest_time(&self, key: &Key) -> i64 {
        self.sides.iter().filter_map(|s| s.rows.get(key)).map(|h| h.time).max().unwrap_or(i64::MIN)
    }

    /// The joined rows of `keys` after the view's steps: for each row the index of its key, and the rows.
    fn rows_after(&self, keys: &[&Key]) -> Result<(Vec<usize>, RecordBatch), OpError> {
        let mut columns: Vec<ArrayRef> = Vec::new();
        for side in &self.sides {
            columns.extend(side.columns_of(keys)?);
        }
        let fields: Vec<Field> = self.plan.schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        let batch = super::batch_of(&Arc::new(Schema::new(fields)), columns, keys.len())?;
        Ok(steps::through(&self.plan.post, batch)?)
    }
}

impl Side {
    /// True when the key's row changed.
    fn put(&mut self, key: &Key, op: Option<Op>, new: Held) -> bool {
        let held = self.rows.get(key);
        match op {
            // Appended rows: the newest by time, then by arrival.
            None if held.is_some_and(|h| h.time > new.time) => false,
            Some(Op::UpdateBefore | Op::Delete) if held.is_some_and(|h| h.row != new.row) || held.is_none() => false,
            Some(Op::UpdateBefore | Op::Delete) => self.rows.remove(key).is_some(),
            _ => {
                self.rows.insert(Arc::clone(key), new);
                true
            }
        }
    }

    /// This side's columns for `keys`, null where it has no row.
    fn columns_of(&self, keys: &[&Key]) -> Result<Vec<ArrayRef>, OpError> {
        Ok(self.codec.columns_of(keys.iter().map(|key| self.rows.get(*key).map(|held| held.row.as_ref())))?)
    }
}

impl Operator for JoinOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], _effects: &mut Effects) -> Result<Delta, OpError> {
        let mut out = Vec::new();
        let mut touched = BTreeSet::new();
        for (i, flow) in inputs.iter().enumerate() {
            let delta = flow.delta.clone().through(&self.plan.sides[i].pre)?;
            match &mut self.gate {
                Some(gate) => gate.push(i, &delta)?,
                None => self.absorb(i, &delta, &mut touched)?,
            }
        }
        let ticks = match &mut self.gate {
            Some(gate) => gate.release(context.watermark)?,
            None => Vec::new(),
        };
        for (tick, rows) in ticks {
            // At the end of the input the clock stays where it was.
            (context.set_now)(tick.min(context.now_us));
            let mut touched = BTreeSet::new();
            for (side, delta) in rows {
                self.absorb(side, &delta, &mut touched)?;
            }
            out.push(self.evaluate(&touched, Some(tick))?);
        }
        (context.set_now)(context.now_us);
        let mut time = None;
        if self.uses_now && context.now_us != self.last_now {
            self.last_now = context.now_us;
            touched.extend(self.sides[0].rows.keys().cloned());
            touched.extend(self.emitted.keys().cloned());
            time = Some(context.now_us);
        }
        out.push(self.evaluate(&touched, time)?);
        Ok(Delta::concat(self.output.schema(), out)?)
    }

    fn freeze(&mut self) -> Frozen {
        let tables: Vec<(String, BTreeMap<Key, Held>)> =
            self.sides.iter().enumerate().map(|(i, s)| (format!("side.{i}"), s.rows.clone())).chain([("emitted".to_owned(), self.emitted.clone())]).collect();
        let gate = self.gate.as_ref().map(Gate::pieces);
        let meta = serde_json::json!({ "last_now": self.last_now });
        Box::new(move || {
            let mut pieces = Pieces { meta, batches: Vec::new() };
            for (name, table) in tables {
                pieces.batches.push((name, table_batch(&table)?));
            }
            if let Some(gate) = gate {
                gate.add_to(&mut pieces)?;
            }
            Ok(pieces)
        })
    }

    fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        self.last_now = pieces.meta["last_now"].as_i64().unwrap_or(i64::MIN);
        for (i, side) in self.sides.iter_mut().enumerate() {
            side.rows = table_rows(&pieces.take(&format!("side.{i}"))?);
        }
        self.emitted = table_rows(&pieces.take("emitted")?);
        match &mut self.gate {
            Some(gate) => gate.restore(&mut pieces),
            None => Ok(()),
        }
    }
}

fn table_batch(table: &BTreeMap<Key, Held>) -> Result<RecordBatch, StateError> {
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("key", DataType::Binary, false),
        Field::new("time", DataType::Int64, false),
        Field::new("row", DataType::Binary, false),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BinaryArray::from_iter_values(table.keys())),
        Arc::new(Int64Array::from_iter_values(table.values().map(|h| h.time))),
        Arc::new(BinaryArray::from_iter_values(table.values().map(|h| &h.row))),
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}

fn table_rows(batch: &RecordBatch) -> BTreeMap<Key, Held> {
    let (keys, times, rows) = (batch.column(0).as_binary::<i32>(), batch.column(1).as_primitive::<Int64Type>(), batch.column(2).as_binary::<i32>());
    (0..batch.num_rows()).map(|i| (Key::from(keys.value(i)), Held { time: times.value(i), row: Arc::from(rows.value(i)) })).collect()
}

//! Two tables joined by columns that are not the whole key of both: each row of a side has as many partners as there are.
//!
//! What is joined is known by the keys of its two rows. A pair is evaluated again when one of its rows changes, and no other pair is.

use super::{
    Context, Effects, Flow, OpError, Operator,
    group::{Route, rows_of_columns_at},
    nullable,
};
use crate::{
    delta::{ChangeBuilder, Delta, Op},
    gate::Gate,
    plan::{Emit, JoinKind, PairJoin, Side as SideSpec, ViewSpec},
    state::{Frozen, Pieces, StateError, keys::RowCodec},
    steps,
};
use arrow_array::{Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, cast::AsArray, types::*};
use arrow_schema::{Field, Schema, SchemaRef};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

type Bytes = Arc<[u8]>;

/// What is joined: the compared columns, the key of the left row and that of the right.
type Pair = (Bytes, Option<Bytes>, Option<Bytes>);

#[derive(Debug, Clone, PartialEq)]
struct Held {
    time: i64,
    row: Bytes,
}

struct Side {
    spec: SideSpec,
    codec: RowCodec,
    on: RowCodec,
    key: RowCodec,
    /// By the compared columns, then by the row's key.
    rows: BTreeMap<Bytes, BTreeMap<Bytes, Held>>,
    /// The compared columns of each row, by its key.
    places: BTreeMap<Bytes, Bytes>,
}

pub struct PairJoinOperator {
    plan: PairJoin,
    sides: [Side; 2],
    output: RowCodec,
    /// The columns by which the view's rows are known.
    key: Vec<usize>,
    output_key: RowCodec,
    emitted: BTreeMap<Pair, Held>,
    gate: Option<Gate>,
    uses_now: bool,
    last_now: i64,
    route: Option<Route>,
    schema: SchemaRef,
}

impl PairJoinOperator {
    pub fn new(view: &ViewSpec, plan: PairJoin, route: Option<Route>) -> Result<Self, OpError> {
        let side = |spec: &SideSpec| -> Result<Side, OpError> {
            let schema = Arc::new(nullable(&spec.schema));
            let (on, key) = (Arc::new(schema.project(&spec.on)?), Arc::new(schema.project(&spec.key)?));
            let codecs = (RowCodec::new(schema)?, RowCodec::new(on)?, RowCodec::new(key)?);
            Ok(Side { spec: spec.clone(), codec: codecs.0, on: codecs.1, key: codecs.2, rows: BTreeMap::new(), places: BTreeMap::new() })
        };
        Ok(Self {
            sides: [side(&plan.left)?, side(&plan.right)?],
            output: RowCodec::new(Arc::new(nullable(&view.schema)))?,
            output_key: RowCodec::new(Arc::new(nullable(&view.schema.project(&view.key)?)))?,
            key: view.key.clone(),
            emitted: BTreeMap::new(),
            gate: match view.emit {
                Emit::ChangesEvery { interval_us } => Some(Gate::new(interval_us)),
                _ => None,
            },
            uses_now: view.uses_now,
            last_now: i64::MIN,
            route,
            schema: Arc::new(nullable(&plan.schema)),
            plan,
        })
    }

    fn absorb(&mut self, number: usize, delta: &Delta, touched: &mut BTreeSet<Pair>) -> Result<(), OpError> {
        for (key, on, row) in self.sides[number].entries(number, delta)? {
            let (row, op) = row;
            let side = &mut self.sides[number];
            let held = side.places.get(&key).and_then(|on| side.rows.get(on)?.get(&key)).cloned();
            let takes = matches!(op, Some(Op::UpdateBefore | Op::Delete));
            let changes = match (&held, takes) {
                (None, true) => false,
                (Some(held), true) => held.row == row.row,
                // Appended rows: the newest by time, then by arrival.
                (Some(held), false) => op.is_some() || held.time <= row.time,
                (None, false) => true,
            };
            if !changes {
                continue;
            }
            if held.is_some() {
                self.touch(number, &key, touched);
                self.sides[number].remove(&key);
            }
            if !takes {
                self.sides[number].put(key.clone(), on, row);
            }
            self.touch(number, &key, touched);
        }
        if let Some(gone) = &delta.gone {
            let keys = self.sides[number].key.encode(&gone.batch.project(&self.sides[number].spec.key)?)?;
            for (key, time) in keys.into_iter().zip(&gone.times) {
                let side = &self.sides[number];
                let held = side.places.get(&key).and_then(|on| side.rows.get(on)?.get(&key));
                if held.is_some_and(|held| held.time < *time) {
                    self.touch(number, &key, touched);
                    self.sides[number].remove(&key);
                }
            }
        }
        Ok(())
    }

    /// Every pair of a row that stands on side `number`, with its partners as they are.
    fn touch(&self, number: usize, key: &Bytes, touched: &mut BTreeSet<Pair>) {
        let Some(on) = self.sides[number].places.get(key) else { return };
        let pair = |mine: Option<&Bytes>, theirs: Option<&Bytes>| -> Pair {
            let (left, right) = if number == 0 { (mine, theirs) } else { (theirs, mine) };
            (Arc::clone(on), left.cloned(), right.cloned())
        };
        touched.insert(pair(Some(key), None));
        for partner in self.sides[1 - number].rows.get(on).into_iter().flat_map(BTreeMap::keys) {
            touched.insert(pair(Some(key), Some(partner)));
            touched.insert(pair(None, Some(partner)));
        }
    }

    fn stands(&self, (on, left, right): &Pair) -> bool {
        let [lefts, rights] = &self.sides;
        let held = |side: &Side, key: &Bytes| side.rows.get(on).is_some_and(|rows| rows.contains_key(key));
        match (left, right) {
            (Some(left), Some(right)) => held(lefts, left) && held(rights, right),
            (Some(left), None) => self.plan.kind != JoinKind::Inner && held(lefts, left) && !rights.rows.contains_key(on),
            (None, Some(right)) => self.plan.kind == JoinKind::Full && held(rights, right) && !lefts.rows.contains_key(on),
            (None, None) => false,
        }
    }

    /// Evaluates `touched` and gives the changes against what was handed on before.
    fn evaluate(&mut self, touched: &BTreeSet<Pair>, time: Option<i64>) -> Result<Delta, OpError> {
        let schema = Arc::clone(self.output.schema());
        if touched.is_empty() {
            return Ok(Delta::empty(schema));
        }
        let joined: Vec<&Pair> = touched.iter().filter(|pair| self.stands(pair)).collect();
        let (kept, after) = self.rows_after(&joined)?;
        let after_rows = self.output.encode(&after)?;
        let mut standing: BTreeMap<&Pair, usize> = kept.iter().enumerate().map(|(row, at)| (joined[*at], row)).collect();
        let (mut changes, mut befores, mut updates) = (Vec::new(), Vec::<Bytes>::new(), Vec::new());
        for pair in touched {
            let (after, before) = (standing.remove(pair), self.emitted.get(pair));
            if before.map(|held| &held.row) == after.map(|row| &after_rows[row]) {
                continue;
            }
            let at = time.unwrap_or_else(|| self.newest_time(pair).max(before.map_or(i64::MIN, |held| held.time)));
            let before = before.map(|held| {
                befores.push(Arc::clone(&held.row));
                befores.len() - 1
            });
            changes.push((before, after, at));
            updates.push((pair.clone(), after.map(|row| Held { time: at, row: Arc::clone(&after_rows[row]) })));
        }
        let befores = self.output.decode(befores.iter().map(AsRef::as_ref))?;
        for (pair, row) in updates {
            match row {
                Some(row) => self.emitted.insert(pair, row),
                None => self.emitted.remove(&pair),
            };
        }
        self.told(changes, &befores, &after)
    }

    /// The changes as the view tells them. A row without a partner and a row with one may have one key: then one takes the place of the other.
    fn told(&self, changes: Vec<(Option<usize>, Option<usize>, i64)>, befores: &RecordBatch, afters: &RecordBatch) -> Result<Delta, OpError> {
        let key_of = |batch: &RecordBatch| self.output_key.encode(&batch.project(&self.key)?);
        let (keys_before, keys_after) = (key_of(befores)?, key_of(afters)?);
        let mut coming: BTreeMap<&Bytes, usize> = BTreeMap::new();
        if !self.key.is_empty() {
            coming = changes.iter().filter(|(before, ..)| before.is_none()).filter_map(|(_, after, _)| Some((&keys_after[(*after)?], (*after)?))).collect();
        }
        let mut builder = ChangeBuilder::new();
        let mut placed = BTreeSet::new();
        for (before, after, at) in changes.iter().filter(|(before, ..)| before.is_some()) {
            let takes_its_place = before.filter(|_| after.is_none()).and_then(|before| coming.get(&keys_before[before]).copied());
            placed.extend(takes_its_place);
            builder.push(*before, after.or(takes_its_place), *at);
        }
        for (_, after, at) in changes.iter().filter(|(before, after, _)| before.is_none() && after.is_some_and(|row| !placed.contains(&row))) {
            builder.push(None, *after, *at);
        }
        Ok(builder.finish(befores, afters)?)
    }

    fn held(&self, number: usize, pair: &Pair) -> Option<&Held> {
        let key = if number == 0 { pair.1.as_ref() } else { pair.2.as_ref() };
        self.sides[number].rows.get(&pair.0)?.get(key?)
    }

    fn newest_time(&self, pair: &Pair) -> i64 {
        (0..2).filter_map(|number| self.held(number, pair)).map(|held| held.time).max().unwrap_or(i64::MIN)
    }

    /// The joined rows after the view's steps: for each row the index of its pair, and the rows.
    fn rows_after(&self, pairs: &[&Pair]) -> Result<(Vec<usize>, RecordBatch), OpError> {
        let mut columns: Vec<ArrayRef> = Vec::new();
        for (number, side) in self.sides.iter().enumerate() {
            columns.extend(side.codec.columns_of(pairs.iter().map(|pair| self.held(number, pair).map(|held| held.row.as_ref())))?);
        }
        let batch = super::batch_of(&self.schema, columns, pairs.len())?;
        Ok(steps::through(&self.plan.post, batch)?)
    }
}

/// Key, compared columns and row of each row, with its operation.
type Entry = (Bytes, Bytes, (Held, Option<Op>));

impl Side {
    fn entries(&self, number: usize, delta: &Delta) -> Result<Vec<Entry>, OpError> {
        if delta.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.codec.encode(&delta.batch)?;
        let keys = self.key.encode(&delta.batch.project(&self.spec.key)?)?;
        let on = delta.batch.project(&self.spec.on)?;
        let compared = self.on.encode(&on)?;
        let entry = |(i, ((key, row), compared)): (usize, ((Bytes, Bytes), Bytes))| {
            // Null is equal to nothing: such a row stands alone.
            let alone = on.columns().iter().any(|column| column.is_null(i));
            let compared = if alone { [&[number as u8 + 1], key.as_ref()].concat() } else { [&[0], compared.as_ref()].concat() };
            (key, Bytes::from(compared), (Held { time: delta.times[i], row }, delta.ops.as_ref().map(|ops| ops[i])))
        };
        Ok(keys.into_iter().zip(rows).zip(compared).enumerate().map(entry).collect())
    }

    fn remove(&mut self, key: &Bytes) {
        let Some(on) = self.places.remove(key) else { return };
        if let Some(rows) = self.rows.get_mut(&on) {
            rows.remove(key);
            if rows.is_empty() {
                self.rows.remove(&on);
            }
        }
    }

    fn put(&mut self, key: Bytes, on: Bytes, row: Held) {
        self.rows.entry(Arc::clone(&on)).or_default().insert(Arc::clone(&key), row);
        self.places.insert(key, on);
    }
}

impl Operator for PairJoinOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], _effects: &mut Effects) -> Result<Delta, OpError> {
        let mut out = Vec::new();
        let mut touched = BTreeSet::new();
        for (number, flow) in inputs.iter().enumerate() {
            let spec = &self.sides[number].spec;
            let mut delta = flow.delta.clone().through(&spec.pre)?;
            if let Some(route) = self.route.filter(|_| spec.routed) {
                delta = rows_of_columns_at(&delta, &spec.on, route)?;
            }
            match &mut self.gate {
                Some(gate) => gate.push(number, &delta)?,
                None => self.absorb(number, &delta, &mut touched)?,
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
            for (number, delta) in rows {
                self.absorb(number, &delta, &mut touched)?;
            }
            out.push(self.evaluate(&touched, Some(tick))?);
        }
        (context.set_now)(context.now_us);
        let mut time = None;
        if self.uses_now && context.now_us != self.last_now {
            self.last_now = context.now_us;
            let standing = |number: usize| self.sides[number].places.keys();
            let mut all = BTreeSet::new();
            standing(0).for_each(|key| self.touch(0, key, &mut all));
            standing(1).for_each(|key| self.touch(1, key, &mut all));
            touched.extend(all);
            time = Some(context.now_us);
        }
        out.push(self.evaluate(&touched, time)?);
        Ok(Delta::concat(self.output.schema(), out)?)
    }

    fn freeze(&mut self) -> Frozen {
        let sides: Vec<Vec<(Bytes, Bytes, Held)>> = self
            .sides
            .iter()
            .map(|side| side.rows.iter().flat_map(|(on, rows)| rows.iter().map(move |(key, held)| (Arc::clone(on), Arc::clone(key), held.clone()))).collect())
            .collect();
        let emitted = self.emitted.clone();
        let gate = self.gate.as_ref().map(Gate::pieces);
        let meta = serde_json::json!({ "last_now": self.last_now });
        Box::new(move || {
            let mut pieces = Pieces { meta, batches: Vec::new() };
            for (number, rows) in sides.into_iter().enumerate() {
                let batch = batch(rows.iter().map(|(on, key, held)| ([Some(on), Some(key), None], held)))?;
                pieces.batches.push((format!("side.{number}"), batch));
            }
            let rows = batch(emitted.iter().map(|((on, left, right), held)| ([Some(on), left.as_ref(), right.as_ref()], held)))?;
            pieces.batches.push(("emitted".to_owned(), rows));
            if let Some(gate) = gate {
                gate.add_to(&mut pieces)?;
            }
            Ok(pieces)
        })
    }

    fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        self.last_now = pieces.meta["last_now"].as_i64().unwrap_or(i64::MIN);
        for number in 0..2 {
            for ([on, key, _], held) in rows_of(&pieces.take(&format!("side.{number}"))?) {
                self.sides[number].put(key.unwrap_or_default(), on.unwrap_or_default(), held);
            }
        }
        for ([on, left, right], held) in rows_of(&pieces.take("emitted")?) {
            self.emitted.insert((on.unwrap_or_default(), left, right), held);
        }
        match &mut self.gate {
            Some(gate) => gate.restore(&mut pieces),
            None => Ok(()),
        }
    }
}

fn batch<'a>(rows: impl Iterator<Item = ([Option<&'a Bytes>; 3], &'a Held)>) -> Result<RecordBatch, StateError> {
    let rows: Vec<([Option<&Bytes>; 3], &Held)> = rows.collect();
    let mut columns: Vec<ArrayRef> = (0..3).map(|i| Arc::new(BinaryArray::from_iter(rows.iter().map(|(keys, _)| keys[i]))) as ArrayRef).collect();
    columns.push(Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, held)| held.time))));
    columns.push(Arc::new(BinaryArray::from_iter_values(rows.iter().map(|(_, held)| &held.row))));
    let fields: Vec<Field> = columns.iter().enumerate().map(|(i, c)| Field::new(format!("c{i}"), c.data_type().clone(), true)).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn rows_of(batch: &RecordBatch) -> Vec<([Option<Bytes>; 3], Held)> {
    let keys: Vec<&BinaryArray> = (0..3).map(|i| batch.column(i).as_binary::<i32>()).collect();
    let (times, rows) = (batch.column(3).as_primitive::<Int64Type>(), batch.column(4).as_binary::<i32>());
    let key = |i: usize, row: usize| keys[i].is_valid(row).then(|| Bytes::from(keys[i].value(row)));
    (0..batch.num_rows()).map(|row| ([key(0, row), key(1, row), key(2, row)], Held { time: times.value(row), row: Arc::from(rows.value(row)) })).collect()
}

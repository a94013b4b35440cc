//! The first rows of each partition in an order: what `ROW_NUMBER() … <= n` keeps.
//!
//! Over appended rows no more than `n` are kept; over changes all, because one that is taken back lets the next one in.

use super::{Context, Effects, Flow, OpError, Operator, group::Route, group::rows_of_route, nullable};
use crate::{
    delta::{ChangeBuilder, Delta, Op},
    gate::Gate,
    plan::{Emit, GroupColumn, Rank, ViewSpec},
    state::{Frozen, Pieces, StateError, keys::RowCodec},
    steps::evaluate,
};
use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, UInt64Array, cast::AsArray, types::Int64Type};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{Field, Schema, SchemaRef};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

type Bytes = Arc<[u8]>;

/// Rows of a partition by their order, then by what breaks ties.
type Partition = BTreeMap<(Bytes, Bytes), Held>;

/// A row in a snapshot: its partition, its place there, and itself.
type Kept<'a> = (&'a Bytes, &'a (Bytes, Bytes), &'a Held);

#[derive(Debug, Clone)]
struct Held {
    time: i64,
    row: Bytes,
    /// Equal rows that stand here: more than one over changes alone.
    count: i64,
}

pub struct RankOperator {
    plan: Rank,
    emit: Emit,
    /// Rows below are never taken back.
    appended: bool,
    codec: RowCodec,
    partitions: BTreeMap<Bytes, Partition>,
    /// Partitions whose window is open, by its end.
    due: BTreeMap<i64, BTreeSet<Bytes>>,
    /// Counts rows in the order of the log.
    arrived: u64,
    gate: Option<Gate>,
    route: Option<Route>,
    raw_schema: SchemaRef,
}

impl RankOperator {
    pub fn new(view: &ViewSpec, plan: Rank, appended: bool, route: Option<Route>) -> Result<Self, OpError> {
        let raw_schema = Arc::new(nullable(&plan.schema));
        let columns: Vec<usize> = (0..raw_schema.fields().len() - 1).collect();
        Ok(Self {
            codec: RowCodec::new(Arc::new(raw_schema.project(&columns)?))?,
            gate: match view.emit {
                Emit::ChangesEvery { interval_us } => Some(Gate::new(interval_us)),
                _ => None,
            },
            plan,
            emit: view.emit,
            appended,
            partitions: BTreeMap::new(),
            due: BTreeMap::new(),
            arrived: 0,
            route,
            raw_schema,
        })
    }

    fn mine(&self, delta: Delta) -> Result<Delta, OpError> {
        let columns: Vec<GroupColumn> = self.plan.partition.iter().cloned().map(GroupColumn::Expr).collect();
        match self.route {
            Some(route) => rows_of_route(&delta, &columns, route),
            None => Ok(delta),
        }
    }

    /// Rows in; gives the changes of the partitions they touch.
    fn absorb(&mut self, delta: &Delta) -> Result<Delta, OpError> {
        if delta.is_empty() {
            return Ok(Delta::empty(Arc::clone(&self.raw_schema)));
        }
        let keys = encoded(&self.plan.partition.iter().map(|e| (Arc::clone(e), Default::default())).collect::<Vec<_>>(), &delta.batch)?;
        let orders = encoded(&self.plan.order, &delta.batch)?;
        let rows = self.codec.encode(&delta.batch)?;
        let touched: BTreeSet<Bytes> = keys.iter().cloned().collect();
        let closes = self.emit == Emit::OnWindowClose;
        let before: Vec<Vec<Held>> = if closes { Vec::new() } else { touched.iter().map(|key| self.first_rows(key)).collect() };
        for (i, row) in rows.into_iter().enumerate() {
            self.arrived += 1;
            let tie = self.tie(delta.times[i], &row);
            if closes {
                self.due.entry(delta.times[i].saturating_add(1)).or_default().insert(Arc::clone(&keys[i]));
            }
            self.put(&keys[i], (Arc::clone(&orders[i]), tie), row, delta.times[i], delta.op(i));
        }
        if closes {
            return Ok(Delta::empty(Arc::clone(&self.raw_schema)));
        }
        let after: Vec<Vec<Held>> = touched.iter().map(|key| self.first_rows(key)).collect();
        let time = delta.times.iter().copied().max().unwrap_or(i64::MIN);
        self.changes(&before, &after, time)
    }

    /// Between rows of one order: the earlier, then the one that came first. Where several tasks hand rows up, and where rows change, that
    /// is not known, and the row itself decides.
    fn tie(&self, time: i64, row: &Bytes) -> Bytes {
        let mut tie = Vec::new();
        if self.appended {
            tie.extend(((time as u64) ^ (1 << 63)).to_be_bytes());
        }
        if self.appended && self.route.is_none() {
            tie.extend(self.arrived.to_be_bytes());
        } else {
            tie.extend_from_slice(row);
        }
        Arc::from(tie)
    }

    fn put(&mut self, key: &Bytes, at: (Bytes, Bytes), row: Bytes, time: i64, op: Op) {
        let partition = self.partitions.entry(Arc::clone(key)).or_default();
        if !op.adds() {
            if let Some(held) = partition.get_mut(&at) {
                held.count -= 1;
                if held.count == 0 {
                    partition.remove(&at);
                }
            }
            if partition.is_empty() {
                self.partitions.remove(key);
            }
            return;
        }
        partition.entry(at).and_modify(|held| held.count += 1).or_insert(Held { time, row, count: 1 });
        if self.appended && partition.len() > self.plan.limit {
            partition.pop_last();
        }
    }

    fn first_rows(&self, key: &Bytes) -> Vec<Held> {
        let rows = self.partitions.get(key).into_iter().flat_map(BTreeMap::values);
        rows.flat_map(|held| std::iter::repeat_n(held.clone(), held.count.max(0) as usize)).take(self.plan.limit).collect()
    }

    fn changes(&self, before: &[Vec<Held>], after: &[Vec<Held>], time: i64) -> Result<Delta, OpError> {
        let (mut befores, mut afters, mut builder) = (Rows::default(), Rows::default(), ChangeBuilder::new());
        for (before, after) in before.iter().zip(after) {
            if self.plan.by_place {
                for place in 0..before.len().max(after.len()) {
                    let (b, a) = (before.get(place), after.get(place));
                    if b.map(|held| &held.row) != a.map(|held| &held.row) {
                        builder.push(b.map(|held| befores.push(held, place)), a.map(|held| afters.push(held, place)), time);
                    }
                }
                continue;
            }
            let mut left: Vec<&Held> = after.iter().collect();
            for held in before {
                match left.iter().position(|other| other.row == held.row) {
                    Some(at) => {
                        left.swap_remove(at);
                    }
                    None => builder.push(Some(befores.push(held, 0)), None, time),
                }
            }
            for held in after.iter().filter(|held| left.iter().any(|other| std::ptr::eq(*other, *held))) {
                builder.push(None, Some(afters.push(held, 0)), time);
            }
        }
        Ok(builder.finish(&self.batch(&befores)?, &self.batch(&afters)?)?)
    }

    fn batch(&self, rows: &Rows) -> Result<RecordBatch, OpError> {
        let decoded = self.codec.decode(rows.rows.iter().map(AsRef::as_ref))?;
        let mut columns: Vec<ArrayRef> = decoded.columns().to_vec();
        columns.push(Arc::new(UInt64Array::from(rows.places.clone())));
        super::batch_of(&self.raw_schema, columns, rows.rows.len())
    }

    /// The partitions of the windows that end at or before `watermark`, once and for all.
    fn close(&mut self, watermark: i64) -> Result<Delta, OpError> {
        let mut rows = Rows::default();
        let mut times = Vec::new();
        while let Some(entry) = self.due.first_entry().filter(|entry| *entry.key() <= watermark) {
            let (end, keys) = entry.remove_entry();
            for key in keys {
                for (place, held) in self.first_rows(&key).iter().enumerate() {
                    rows.push(held, place);
                    times.push(end - 1);
                }
                self.partitions.remove(&key);
            }
        }
        Ok(Delta::rows(self.batch(&rows)?, times))
    }
}

#[derive(Default)]
struct Rows {
    rows: Vec<Bytes>,
    /// Row numbers, from 1.
    places: Vec<u64>,
}

impl Rows {
    fn push(&mut self, held: &Held, place: usize) -> usize {
        self.rows.push(Arc::clone(&held.row));
        self.places.push(place as u64 + 1);
        self.rows.len() - 1
    }
}

/// The expressions of each row as bytes that sort as they do.
fn encoded(exprs: &[(crate::plan::Expr, arrow_schema::SortOptions)], batch: &RecordBatch) -> Result<Vec<Bytes>, OpError> {
    if exprs.is_empty() {
        return Ok(vec![Arc::from(&[][..]); batch.num_rows()]);
    }
    let columns = exprs.iter().map(|(expr, _)| evaluate(expr, batch)).collect::<Result<Vec<_>, _>>()?;
    let fields = columns.iter().zip(exprs).map(|(c, (_, options))| SortField::new_with_options(c.data_type().clone(), *options)).collect();
    let rows = RowConverter::new(fields)?.convert_columns(&columns)?;
    Ok(rows.iter().map(|row| Arc::from(row.data())).collect())
}

impl Operator for RankOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], _effects: &mut Effects) -> Result<Delta, OpError> {
        let mut delta = self.mine(inputs[0].delta.clone().through(&self.plan.pre)?)?;
        if self.plan.told_at_ticks && self.gate.is_some() {
            // Else they would wait for the tick after.
            delta.times.iter_mut().for_each(|time| *time = time.saturating_sub(1));
        }
        let mut out = Vec::new();
        for delta in Gate::pass(&mut self.gate, delta, context.watermark)? {
            out.push(self.absorb(&delta)?);
        }
        if let Some(watermark) = context.watermark.filter(|_| self.emit == Emit::OnWindowClose) {
            out.push(self.close(watermark)?);
        }
        Ok(Delta::concat(&self.raw_schema, out)?.through(&self.plan.post)?)
    }

    fn freeze(&mut self) -> Frozen {
        let partitions = self.partitions.clone();
        let gate = self.gate.as_ref().map(Gate::pieces);
        let meta = serde_json::json!({ "arrived": self.arrived });
        Box::new(move || {
            let rows: Vec<Kept<'_>> = partitions.iter().flat_map(|(key, rows)| rows.iter().map(move |(at, held)| (key, at, held))).collect();
            let bytes = |of: fn(&Kept<'_>) -> Bytes| Arc::new(BinaryArray::from_iter_values(rows.iter().map(of))) as ArrayRef;
            let ints = |of: fn(&Kept<'_>) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(of))) as ArrayRef;
            let columns = vec![
                bytes(|r| Arc::clone(r.0)),
                bytes(|r| Arc::clone(&r.1.0)),
                bytes(|r| Arc::clone(&r.1.1)),
                bytes(|r| Arc::clone(&r.2.row)),
                ints(|r| r.2.time),
                ints(|r| r.2.count),
            ];
            let names = ["partition", "order", "tie", "row", "time", "count"];
            let fields: Vec<Field> = names.iter().zip(&columns).map(|(name, c)| Field::new(*name, c.data_type().clone(), false)).collect();
            let mut pieces = Pieces { meta, batches: vec![("rows".to_owned(), RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)] };
            if let Some(gate) = gate {
                gate.add_to(&mut pieces)?;
            }
            Ok(pieces)
        })
    }

    fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        self.arrived = pieces.meta["arrived"].as_u64().ok_or_else(|| StateError::Missing("arrived".to_owned()))?;
        let batch = pieces.take("rows")?;
        let bytes = |column: usize, row: usize| -> Bytes { Arc::from(batch.column(column).as_binary::<i32>().value(row)) };
        let ints = |column: usize| batch.column(column).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let key = bytes(0, row);
            let held = Held { time: ints(4).value(row), row: bytes(3, row), count: ints(5).value(row) };
            if self.emit == Emit::OnWindowClose {
                self.due.entry(held.time.saturating_add(1)).or_default().insert(Arc::clone(&key));
            }
            self.partitions.entry(key).or_default().insert((bytes(1, row), bytes(2, row)), held);
        }
        match &mut self.gate {
            Some(gate) => gate.restore(&mut pieces),
            None => Ok(()),
        }
    }
}

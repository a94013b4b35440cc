//! A stream joined with a stream: rows of equal keys whose times lie within bounds of one another.
//!
//! A row is kept until the watermark says that no partner can come any more; so the state is bounded by the watermark. A row that comes
//! when its own partition's watermark has passed the row and its last partner is late: that is a function of the log
//! alone, and what is kept suffices for every row that is not late, so neither the cut nor the order of the inputs shows.

use super::{
    Context, Effects, Flow, OpError, Operator,
    group::{Route, rows_of_columns_at},
    nullable,
};
use crate::{
    delta::Delta,
    plan::{IntervalJoin, JoinKind, Side as SideSpec, ViewSpec},
    state::{Frozen, Pieces, StateError, keys::RowCodec},
    steps,
};
use arrow_array::{Array, ArrayRef, BinaryArray, BooleanArray, Int64Array, RecordBatch, UInt64Array, cast::AsArray, types::*};
use arrow_schema::{Field, Schema, SchemaRef};
use std::{collections::BTreeMap, sync::Arc};

type Bytes = Arc<[u8]>;

/// Where a row stands on its side: time and arrival.
type At = (i64, u64);

#[derive(Debug, Clone)]
struct Kept {
    row: Bytes,
    /// A partner was found.
    matched: bool,
}

/// By the compared columns, then by where they stand.
type KeptRows = BTreeMap<Bytes, BTreeMap<At, Kept>>;

struct Side {
    spec: SideSpec,
    codec: RowCodec,
    on: RowCodec,
    rows: KeptRows,
    /// Keys by the time of their rows: what leaves first.
    by_time: BTreeMap<At, Bytes>,
    /// A row is late when its partition's watermark is past its time and this.
    late_us: i64,
    /// A row is kept until the watermark is past its time and this.
    kept_us: i64,
}

pub struct IntervalJoinOperator {
    view: Arc<ViewSpec>,
    plan: IntervalJoin,
    left: Side,
    right: Side,
    arrived: u64,
    watermark: Option<i64>,
    route: Option<Route>,
    schema: SchemaRef,
}

/// Pairs that were found, and rows that stay alone.
#[derive(Default)]
struct Pairs {
    left: Vec<Option<(Bytes, At)>>,
    right: Vec<Option<(Bytes, At)>>,
    left_rows: Vec<Option<Bytes>>,
    right_rows: Vec<Option<Bytes>>,
}

impl IntervalJoinOperator {
    pub fn new(view: Arc<ViewSpec>, plan: IntervalJoin, route: Option<Route>) -> Result<Self, OpError> {
        let (lower, upper) = (plan.lower_us, plan.upper_us);
        let side = |spec: &SideSpec, late_us: i64, kept_us: i64| -> Result<Side, OpError> {
            let schema = Arc::new(nullable(&spec.schema));
            let on = Arc::new(schema.project(&spec.on)?);
            let spec = spec.clone();
            Ok(Side { codec: RowCodec::new(schema)?, on: RowCodec::new(on)?, rows: BTreeMap::new(), by_time: BTreeMap::new(), late_us, kept_us, spec })
        };
        Ok(Self {
            left: side(&plan.left, upper.max(0), upper.max(upper - lower))?,
            right: side(&plan.right, (-lower).max(0), (-lower).max(upper - lower))?,
            arrived: 0,
            watermark: None,
            route,
            schema: Arc::new(nullable(&plan.schema)),
            plan,
            view,
        })
    }

    fn absorb(&mut self, is_left: bool, flow: &Flow, pairs: &mut Pairs, effects: &mut Effects) -> Result<(), OpError> {
        let side = if is_left { &mut self.left } else { &mut self.right };
        let mut delta = flow.delta.clone().through(&side.spec.pre)?;
        if let Some(route) = self.route.filter(|_| side.spec.routed) {
            delta = rows_of_columns_at(&delta, &side.spec.on, route)?;
        }
        if delta.is_empty() {
            return Ok(());
        }
        let (late, on_time) = side.judge(&delta);
        if !late.is_empty() {
            let ends: Vec<i64> = late.iter().map(|row| delta.times[*row].saturating_add(side.late_us)).collect();
            effects.late_rows(&self.view, &delta.take(&late)?, &ends, i64::MIN)?;
            delta = delta.take(&on_time)?;
        }
        let rows = side.codec.encode(&delta.batch)?;
        let on = delta.batch.project(&side.spec.on)?;
        let keys = side.on.encode(&on)?;
        for (i, (key, row)) in keys.into_iter().zip(rows).enumerate() {
            self.arrived += 1;
            let at = (delta.times[i], self.arrived);
            // Null is equal to nothing.
            let joins = on.columns().iter().all(|column| column.is_valid(i));
            let key = if joins { key } else { Bytes::from(self.arrived.to_be_bytes().as_slice()) };
            let (side, other) = if is_left { (&mut self.left, &self.right) } else { (&mut self.right, &self.left) };
            let partners = other.rows.get(&key).filter(|_| joins);
            let bounds = if is_left { (at.0 + self.plan.lower_us, at.0 + self.plan.upper_us) } else { (at.0 - self.plan.upper_us, at.0 - self.plan.lower_us) };
            for (partner_at, partner) in partners.into_iter().flat_map(|rows| rows.range((bounds.0, 0)..=(bounds.1, u64::MAX))) {
                let (mine, theirs) = (((Arc::clone(&key), at), Arc::clone(&row)), ((Arc::clone(&key), *partner_at), Arc::clone(&partner.row)));
                let (l, r) = if is_left { (mine, theirs) } else { (theirs, mine) };
                pairs.push(Some(l), Some(r));
            }
            side.rows.entry(Arc::clone(&key)).or_default().insert(at, Kept { row, matched: false });
            side.by_time.insert(at, key);
        }
        Ok(())
    }

    /// The rows of the pairs for which the rest of the condition holds.
    fn joined(&mut self, pairs: &Pairs) -> Result<(RecordBatch, Vec<i64>), OpError> {
        let (batch, times) = self.rows_of(pairs)?;
        let mask = match &self.plan.filter {
            Some(filter) => steps::filter_mask(filter, &batch)?,
            None => BooleanArray::from(vec![true; batch.num_rows()]),
        };
        let holds = |row: usize| mask.is_valid(row) && mask.value(row);
        for row in (0..batch.num_rows()).filter(|row| holds(*row)) {
            for (side, place) in [(&mut self.left, &pairs.left[row]), (&mut self.right, &pairs.right[row])] {
                let kept = place.as_ref().and_then(|(key, at)| side.rows.get_mut(key)?.get_mut(at));
                kept.into_iter().for_each(|kept| kept.matched = true);
            }
        }
        let times = times.into_iter().enumerate().filter(|(row, _)| holds(*row)).map(|(_, time)| time).collect();
        Ok((arrow_select::filter::filter_record_batch(&batch, &mask)?, times))
    }

    fn rows_of(&self, pairs: &Pairs) -> Result<(RecordBatch, Vec<i64>), OpError> {
        let mut columns = self.left.codec.columns_of(pairs.left_rows.iter().map(Option::as_deref))?;
        columns.extend(self.right.codec.columns_of(pairs.right_rows.iter().map(Option::as_deref))?);
        let time = |place: &Option<(Bytes, At)>| place.as_ref().map(|(_, at)| at.0);
        let by_right = self.plan.time_of_right;
        let time_of = |(l, r)| if by_right { time(r).or(time(l)) } else { time(l).or(time(r)) }.unwrap_or(i64::MIN);
        let times = pairs.left.iter().zip(&pairs.right).map(time_of).collect();
        Ok((super::batch_of(&self.schema, columns, pairs.left.len())?, times))
    }

    /// Forgets rows for which no partner can come; of an outer join those that found none come out.
    fn expire(&mut self, watermark: i64) -> Result<Delta, OpError> {
        let mut alone = Pairs::default();
        for (key, at, kept) in self.left.expire(watermark) {
            if !kept.matched && self.plan.kind != JoinKind::Inner {
                alone.push(Some(((key, at), kept.row)), None);
            }
        }
        for (key, at, kept) in self.right.expire(watermark) {
            if !kept.matched && self.plan.kind == JoinKind::Full {
                alone.push(None, Some(((key, at), kept.row)));
            }
        }
        let (batch, times) = self.rows_of(&alone)?;
        Ok(Delta::rows(batch, times))
    }
}

impl Pairs {
    fn push(&mut self, left: Option<((Bytes, At), Bytes)>, right: Option<((Bytes, At), Bytes)>) {
        let (at, row) = left.unzip();
        self.left.push(at);
        self.left_rows.push(row);
        let (at, row) = right.unzip();
        self.right.push(at);
        self.right_rows.push(row);
    }
}

impl Side {
    /// Rows that are late, and those that are not.
    fn judge(&self, delta: &Delta) -> (Vec<usize>, Vec<usize>) {
        let Some(origin) = &delta.origin else { return (Vec::new(), (0..delta.len()).collect()) };
        (0..delta.len()).partition(|row| origin.watermarks[*row] > delta.times[*row].saturating_add(self.late_us))
    }

    fn expire(&mut self, watermark: i64) -> Vec<(Bytes, At, Kept)> {
        let mut out = Vec::new();
        while let Some(entry) = self.by_time.first_entry().filter(|entry| watermark == i64::MAX || entry.key().0.saturating_add(self.kept_us) < watermark) {
            let (at, key) = entry.remove_entry();
            let Some(rows) = self.rows.get_mut(&key) else { continue };
            out.extend(rows.remove(&at).map(|kept| (Arc::clone(&key), at, kept)));
            if rows.is_empty() {
                self.rows.remove(&key);
            }
        }
        out
    }

    fn restore(&mut self, batch: &RecordBatch) {
        let (keys, rows) = (batch.column(0).as_binary::<i32>(), batch.column(3).as_binary::<i32>());
        let (times, arrivals) = (batch.column(1).as_primitive::<Int64Type>(), batch.column(2).as_primitive::<UInt64Type>());
        for i in 0..batch.num_rows() {
            let (key, at): (Bytes, At) = (Arc::from(keys.value(i)), (times.value(i), arrivals.value(i)));
            let kept = Kept { row: Arc::from(rows.value(i)), matched: batch.column(4).as_boolean().value(i) };
            self.rows.entry(Arc::clone(&key)).or_default().insert(at, kept);
            self.by_time.insert(at, key);
        }
    }
}

impl Operator for IntervalJoinOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], effects: &mut Effects) -> Result<Delta, OpError> {
        let mut pairs = Pairs::default();
        self.absorb(true, inputs[0], &mut pairs, effects)?;
        self.absorb(false, inputs[1], &mut pairs, effects)?;
        let mut out = Vec::new();
        if !pairs.left.is_empty() {
            let (batch, times) = self.joined(&pairs)?;
            out.push(Delta::rows(batch, times));
        }
        self.watermark = context.watermark.or(self.watermark);
        if let Some(watermark) = context.watermark {
            out.push(self.expire(watermark)?);
        }
        Ok(Delta::concat(&self.schema, out)?.through(&self.plan.post)?)
    }

    /// A pair comes when its second row does, and a row without a partner when none can come: both behind the watermark.
    fn holds_back(&self) -> Option<i64> {
        let watermark = self.watermark.filter(|w| *w != i64::MAX)?;
        Some(watermark.saturating_sub(self.left.kept_us.max(self.right.kept_us)))
    }

    fn freeze(&mut self) -> Frozen {
        let meta = serde_json::json!({ "arrived": self.arrived, "watermark": self.watermark });
        let sides = [("left", self.left.rows.clone()), ("right", self.right.rows.clone())];
        Box::new(move || {
            let batches = sides.into_iter().map(|(name, rows)| Ok((name.to_owned(), kept_batch(&rows)?))).collect::<Result<_, StateError>>()?;
            Ok(Pieces { meta, batches })
        })
    }

    fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        self.arrived = pieces.meta["arrived"].as_u64().ok_or_else(|| StateError::Missing("arrived".to_owned()))?;
        self.watermark = pieces.meta["watermark"].as_i64();
        self.left.restore(&pieces.take("left")?);
        self.right.restore(&pieces.take("right")?);
        Ok(())
    }
}

fn kept_batch(rows: &KeptRows) -> Result<RecordBatch, StateError> {
    let rows: Vec<(&Bytes, &At, &Kept)> = rows.iter().flat_map(|(key, rows)| rows.iter().map(move |(at, kept)| (key, at, kept))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| r.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1.0))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.1.1))),
        Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| &r.2.row))),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|r| Some(r.2.matched)))),
    ];
    let names = ["key", "time", "arrival", "row", "matched"];
    let fields: Vec<Field> = names.iter().zip(&columns).map(|(name, c)| Field::new(*name, c.data_type().clone(), false)).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

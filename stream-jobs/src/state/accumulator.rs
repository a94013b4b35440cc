//! Aggregates as columns: one value per group, folded row by row in log order.
//!
//! Count, sum, min, max, avg, first and last are our own columns: cheap to freeze, exact (floats too), and the same for every cut
//! and order. Every other aggregate keeps its argument rows ([`Bag`]) and lets DataFusion run over them when a result is asked for.

use super::{
    StateError,
    bag::Bag,
    column::Column,
    exact::ExactSum,
    extreme::Extreme,
    number::{self, Fold, ValueColumn, Values},
    seen::Seen,
    whole::{self, WholeSum},
};
use crate::plan::{AggregateCall, AggregateFunction};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, BinaryArray, Float64Array, Int64Array, PrimitiveArray, RecordBatch, cast::AsArray, types::*};
use arrow_schema::{ArrowError, DataType, Field};
use std::sync::Arc;

#[derive(Debug)]
pub enum Accumulator {
    Count(Seen),
    Sum(WholeSum),
    Extreme(Extreme),
    /// The least or the greatest of what is no integer.
    Number {
        value: ValueColumn,
        seen: Column<i64>,
        fold: Fold,
        data_type: DataType,
    },
    /// The sum of floats, or their mean.
    Exact {
        sum: Column<ExactSum>,
        seen: Column<i64>,
        mean: bool,
    },
    /// `last` = false keeps the first value by time, true the last; equal times go by log order.
    Edge {
        value: ValueColumn,
        seen: Column<i64>,
        time: Column<i64>,
        last: bool,
        data_type: DataType,
    },
    Rows(Bag),
}

/// The rows of one call: their groups, arguments and times.
pub struct Rows<'a> {
    pub slots: &'a [u32],
    pub args: &'a [ArrayRef],
    pub times: &'a [i64],
    /// The call has a `FILTER`: rows that it refuses are counted for their groups and are not among these.
    pub filtered: bool,
}

impl Rows<'_> {
    /// Hands on the group and the value of each row, nulls left out.
    pub fn each<T: ArrowPrimitiveType>(&self, values: &PrimitiveArray<T>, mut each: impl FnMut(u32, T::Native)) {
        if values.null_count() == 0 {
            return self.slots.iter().zip(values.values()).for_each(|(slot, value)| each(*slot, *value));
        }
        self.slots.iter().zip(values).for_each(|(slot, value)| _ = value.map(|value| each(*slot, value)));
    }
}

impl Accumulator {
    pub fn new(call: &AggregateCall) -> Self {
        let extreme = |fold| match &call.data_type {
            data_type if number::is_i64(data_type) => Self::Extreme(Extreme::new(fold, data_type)),
            data_type => Self::Number { value: ValueColumn::new(data_type), seen: Column::default(), fold, data_type: data_type.clone() },
        };
        let edge = |last| Self::Edge {
            value: ValueColumn::new(&call.data_type),
            seen: Column::default(),
            time: Column::default(),
            last,
            data_type: call.data_type.clone(),
        };
        let exact = |mean| Self::Exact { sum: Column::default(), seen: Column::default(), mean };
        match &call.function {
            AggregateFunction::Count => Self::Count(Seen::default()),
            AggregateFunction::Sum if call.data_type == DataType::Float64 => exact(false),
            AggregateFunction::Sum => Self::Sum(WholeSum::new(&call.data_type)),
            AggregateFunction::Min => extreme(Fold::Min),
            AggregateFunction::Max => extreme(Fold::Max),
            AggregateFunction::Avg => exact(true),
            AggregateFunction::FirstValue => edge(false),
            AggregateFunction::LastValue => edge(true),
            AggregateFunction::DataFusion(f) => Self::Rows(Bag::new(Arc::clone(f), call.order.clone(), call.arg_types.clone(), call.data_type.clone())),
        }
    }

    /// An accumulator of the same call without a group.
    pub fn empty(&self) -> Self {
        match self {
            Self::Count(_) => Self::Count(Seen::default()),
            Self::Sum(sum) => Self::Sum(sum.empty()),
            Self::Extreme(extreme) => Self::Extreme(extreme.empty()),
            Self::Exact { mean, .. } => Self::Exact { sum: Column::default(), seen: Column::default(), mean: *mean },
            Self::Number { fold, data_type, .. } => {
                Self::Number { value: ValueColumn::new(data_type), seen: Column::default(), fold: *fold, data_type: data_type.clone() }
            }
            Self::Edge { last, data_type, .. } => {
                Self::Edge { value: ValueColumn::new(data_type), seen: Column::default(), time: Column::default(), last: *last, data_type: data_type.clone() }
            }
            Self::Rows(bag) => Self::Rows(bag.empty()),
        }
    }

    /// Leaves a group as if it had seen no row.
    pub fn clear(&mut self, slot: usize) {
        match self {
            Self::Count(seen) => seen.clear(slot),
            Self::Sum(sum) => sum.clear(slot),
            Self::Extreme(extreme) => extreme.clear(slot),
            Self::Exact { sum, seen, .. } => {
                *sum.get_mut(slot) = ExactSum::default();
                *seen.get_mut(slot) = 0;
            }
            Self::Number { value, seen, .. } | Self::Edge { value, seen, .. } => {
                value.clear(slot);
                *seen.get_mut(slot) = 0;
            }
            Self::Rows(bag) => bag.clear(slot),
        }
    }

    /// Room for groups up to `len`.
    pub fn grow(&mut self, len: usize) {
        match self {
            Self::Count(seen) => seen.grow(len),
            Self::Sum(sum) => sum.grow(len),
            Self::Extreme(extreme) => extreme.grow(len),
            Self::Number { value, seen, .. } => {
                value.grow(len);
                seen.grow(len, 0);
            }
            Self::Exact { sum, seen, .. } => {
                sum.grow(len, ExactSum::default());
                seen.grow(len, 0);
            }
            Self::Edge { value, seen, time, .. } => {
                value.grow(len);
                seen.grow(len, 0);
                time.grow(len, 0);
            }
            Self::Rows(bag) => bag.grow(len),
        }
    }

    /// Room for groups up to `len`, of whose rows none was for this aggregate.
    pub fn grow_unseen(&mut self, len: usize) {
        self.grow(len);
        match self {
            Self::Count(seen) => *seen = Seen::nothing(len),
            Self::Sum(sum) => sum.has_seen_nothing(),
            Self::Extreme(extreme) => extreme.has_seen_nothing(),
            Self::Number { .. } | Self::Exact { .. } | Self::Edge { .. } | Self::Rows(_) => {}
        }
    }

    /// Folds rows in. `counted` are the rows of all groups before these.
    pub fn update(&mut self, rows: &Rows<'_>, counted: &Column<i64>) -> Result<(), StateError> {
        match self {
            Self::Count(seen) => count(seen, rows, counted, 1),
            Self::Sum(sum) => sum.fold(rows, counted, false)?,
            Self::Extreme(extreme) => extreme.fold(rows, counted)?,
            Self::Number { value, seen, fold, .. } => value.fold(seen, rows.slots, &Values::new(&rows.args[0])?, *fold)?,
            Self::Exact { sum, seen, .. } => add_exactly(sum, seen, rows, false)?,
            Self::Edge { value, seen, time, last, data_type } => update_edge(value, seen, time, *last, data_type, rows)?,
            Self::Rows(bag) => bag.add(rows)?,
        }
        Ok(())
    }

    /// Takes rows back. Over changes the planner makes kept rows of the aggregates that cannot.
    pub fn retract(&mut self, rows: &Rows<'_>, counted: &Column<i64>) -> Result<(), StateError> {
        match self {
            Self::Count(seen) => count(seen, rows, counted, -1),
            Self::Sum(sum) => sum.fold(rows, counted, true)?,
            Self::Exact { sum, seen, .. } => add_exactly(sum, seen, rows, true)?,
            Self::Rows(bag) => bag.take_back(rows)?,
            Self::Extreme(_) | Self::Number { .. } | Self::Edge { .. } => debug_assert!(false, "the planner lets this aggregate stand over appended rows only"),
        }
        Ok(())
    }

    /// Folds group `sources[i]` of `other` into group `slots[i]`; `other` is later than what is here. `rows` and `other_rows` are those of the groups
    /// before that.
    pub fn merge(&mut self, slots: &[u32], rows: &Column<i64>, (other, other_rows): (&Self, &Column<i64>), sources: &[u32]) -> Result<(), StateError> {
        let pairs = || slots.iter().zip(sources).map(|(a, b)| (*a as usize, *b as usize));
        match (self, other) {
            (Self::Count(seen), Self::Count(other)) => seen.merge(slots, rows, (other, other_rows), sources, false),
            (Self::Sum(sum), Self::Sum(other)) => sum.merge(slots, rows, (other, other_rows), sources, false),
            (Self::Extreme(extreme), Self::Extreme(other)) => extreme.merge(slots, rows, (other, other_rows), sources),
            (Self::Number { value, seen, fold, .. }, Self::Number { value: v, seen: n, .. }) => {
                for (slot, source) in pairs().filter(|(_, source)| *n.get(*source) > 0) {
                    value.fold_one(slot, *seen.get(slot) > 0, v, source, *fold);
                    *seen.get_mut(slot) += *n.get(source);
                }
            }
            (Self::Exact { sum, seen, .. }, Self::Exact { sum: s, seen: n, .. }) => {
                for (slot, source) in pairs() {
                    sum.get_mut(slot).merge(s.get(source));
                    *seen.get_mut(slot) += *n.get(source);
                }
            }
            (Self::Edge { value, seen, time, last, .. }, Self::Edge { value: v, seen: n, time: t, .. }) => {
                for (slot, source) in pairs().filter(|(_, source)| *n.get(*source) > 0) {
                    if edge_moves(*seen.get(slot), *time.get(slot), *t.get(source), *last) {
                        value.copy_from(slot, v, source);
                        *time.get_mut(slot) = *t.get(source);
                    }
                    *seen.get_mut(slot) += *n.get(source);
                }
            }
            (Self::Rows(bag), Self::Rows(other)) => bag.merge(slots, other, sources)?,
            _ => debug_assert!(false, "accumulators of one call are of one kind"),
        }
        Ok(())
    }

    /// True where [`Accumulator::unmerge`] can take a merged group back.
    pub fn unmerges(&self) -> bool {
        matches!(self, Self::Count(_) | Self::Sum(_) | Self::Exact { .. })
    }

    /// Takes group `sources[i]` of `other`, merged before, out of group `slots[i]`.
    pub fn unmerge(&mut self, slots: &[u32], rows: &Column<i64>, (other, other_rows): (&Self, &Column<i64>), sources: &[u32]) {
        let pairs = || slots.iter().zip(sources).map(|(a, b)| (*a as usize, *b as usize));
        match (self, other) {
            (Self::Count(seen), Self::Count(other)) => seen.merge(slots, rows, (other, other_rows), sources, true),
            (Self::Sum(sum), Self::Sum(other)) => sum.merge(slots, rows, (other, other_rows), sources, true),
            (Self::Exact { sum, seen, .. }, Self::Exact { sum: s, seen: n, .. }) => {
                for (slot, source) in pairs() {
                    sum.get_mut(slot).retract(s.get(source));
                    *seen.get_mut(slot) -= *n.get(source);
                }
            }
            _ => debug_assert!(false, "only what can be taken back is merged so"),
        }
    }

    /// Folds states that [`Accumulator::states`] made, as rows of a partial view.
    pub fn update_from_states(&mut self, slots: &[u32], states: &[ArrayRef], counted: &Column<i64>) -> Result<(), StateError> {
        let rows = Rows { slots, args: states, times: &[], filtered: false };
        match self {
            Self::Count(seen) => {
                let (seen, n) = (seen.own(counted), states[0].as_primitive::<Int64Type>());
                slots.iter().zip(n.values()).for_each(|(slot, n)| *seen.get_mut(*slot as usize) += n);
            }
            Self::Sum(sum) => sum.add_states(slots, states, counted)?,
            Self::Extreme(_) | Self::Number { .. } => self.update(&rows, counted)?,
            Self::Exact { sum, seen, .. } => {
                let (sums, n) = (exact_sums(&states[0])?, states[1].as_primitive::<Int64Type>());
                for (row, slot) in slots.iter().enumerate() {
                    sum.get_mut(*slot as usize).merge(sums.get(row));
                    *seen.get_mut(*slot as usize) += n.value(row);
                }
            }
            Self::Edge { .. } => {
                let times = states[1].as_primitive::<Int64Type>();
                self.update(&Rows { slots, args: &states[..1], times: times.values(), filtered: false }, counted)?;
            }
            Self::Rows(bag) => bag.add_states(slots, states)?,
        }
        Ok(())
    }

    /// Fields of the state columns of aggregate number `i`: what a partial view carries.
    pub fn state_fields(call: &AggregateCall, i: usize) -> Vec<Field> {
        let field = |j: usize, t: DataType| Field::new(format!("__s{i}_{j}"), t, true);
        match &call.function {
            AggregateFunction::Count => vec![field(0, DataType::Int64)],
            AggregateFunction::Sum if call.data_type == DataType::Float64 => vec![field(0, DataType::Binary), field(1, DataType::Int64)],
            AggregateFunction::Sum => vec![field(0, whole::kept_type(&call.data_type)), field(1, DataType::Int64)],
            AggregateFunction::Avg => vec![field(0, DataType::Binary), field(1, DataType::Int64)],
            AggregateFunction::DataFusion(_) => Bag::state_types(&call.arg_types).into_iter().enumerate().map(|(j, t)| field(j, t)).collect(),
            AggregateFunction::FirstValue | AggregateFunction::LastValue => vec![field(0, call.data_type.clone()), field(1, DataType::Int64)],
            _ => vec![field(0, call.data_type.clone())],
        }
    }

    /// State columns of the groups `slots`, which have `rows`.
    pub fn states(&self, slots: &[u32], rows: &Column<i64>) -> Result<Vec<ArrayRef>, StateError> {
        let gather = |c: &Column<i64>| Arc::new(Int64Array::from_iter_values(slots.iter().map(|s| *c.get(*s as usize)))) as ArrayRef;
        Ok(match self {
            Self::Count(seen) => vec![Arc::new(seen.counts(slots, rows))],
            Self::Sum(sum) => sum.states(slots),
            Self::Extreme(extreme) => vec![extreme.evaluate(slots)?],
            Self::Exact { sum, seen, .. } => vec![exact_array(slots.iter().map(|s| sum.get(*s as usize))), gather(seen)],
            Self::Edge { time, .. } => vec![self.evaluate(slots, rows)?, gather(time)],
            Self::Number { .. } => vec![self.evaluate(slots, rows)?],
            Self::Rows(bag) => bag.states(slots)?,
        })
    }

    /// Results of the groups `slots`, in that order; each has `rows`.
    pub fn evaluate(&self, slots: &[u32], rows: &Column<i64>) -> Result<ArrayRef, StateError> {
        match self {
            Self::Count(seen) => Ok(Arc::new(seen.counts(slots, rows))),
            Self::Extreme(extreme) => extreme.evaluate(slots),
            Self::Sum(sum) => sum.evaluate(slots),
            Self::Number { value, seen, data_type, .. } | Self::Edge { value, seen, data_type, .. } => value.evaluate(seen, slots, data_type),
            Self::Exact { sum, seen, mean } => Ok(Arc::new(Float64Array::from_iter(slots.iter().map(|s| {
                let (n, sum) = (*seen.get(*s as usize), sum.get(*s as usize));
                (n > 0).then(|| if *mean { sum.value() / n as f64 } else { sum.value() })
            })))),
            Self::Rows(bag) => bag.evaluate(slots),
        }
    }

    pub fn freeze(&mut self) -> Self {
        match self {
            Self::Count(seen) => Self::Count(seen.freeze()),
            Self::Extreme(extreme) => Self::Extreme(extreme.freeze()),
            Self::Sum(sum) => Self::Sum(sum.freeze()),
            Self::Number { value, seen, fold, data_type } => {
                Self::Number { value: value.freeze(), seen: seen.freeze(), fold: *fold, data_type: data_type.clone() }
            }
            Self::Exact { sum, seen, mean } => Self::Exact { sum: sum.freeze(), seen: seen.freeze(), mean: *mean },
            Self::Edge { value, seen, time, last, data_type } => {
                Self::Edge { value: value.freeze(), seen: seen.freeze(), time: time.freeze(), last: *last, data_type: data_type.clone() }
            }
            Self::Rows(bag) => Self::Rows(bag.freeze()),
        }
    }

    /// Snapshot columns (all groups), and what the aggregate keeps beside them: argument rows, or the rounds of its sums.
    pub fn to_snapshot(&self, len: usize) -> Result<(Vec<ArrayRef>, Option<RecordBatch>), StateError> {
        let counts = |c: &Column<i64>| Arc::new(Int64Array::from_iter_values(c.iter().copied())) as ArrayRef;
        Ok(match self {
            Self::Count(seen) => (vec![seen.to_array(len)], None),
            Self::Extreme(extreme) => (extreme.to_snapshot(), None),
            Self::Sum(sum) => sum.to_snapshot()?,
            Self::Number { value, seen, data_type, .. } => (vec![value.to_array(data_type)?, counts(seen)], None),
            Self::Exact { sum, seen, .. } => (vec![exact_array(sum.iter()), counts(seen)], None),
            Self::Edge { value, seen, time, data_type, .. } => (vec![value.to_array(data_type)?, counts(seen), counts(time)], None),
            Self::Rows(bag) => (Vec::new(), Some(bag.to_snapshot()?)),
        })
    }

    /// Takes back what [`Accumulator::to_snapshot`] gave; returns how many columns it used.
    pub fn restore(&mut self, columns: &[ArrayRef], rows: Option<RecordBatch>, len: usize) -> Result<usize, StateError> {
        let counts = |a: &ArrayRef| a.as_primitive::<Int64Type>().values().iter().copied().collect::<Column<i64>>();
        Ok(match self {
            Self::Count(seen) => {
                *seen = Seen::restore(&columns[0]);
                1
            }
            Self::Extreme(extreme) => {
                extreme.restore(columns);
                2
            }
            Self::Sum(sum) => {
                sum.restore(columns, rows.as_ref());
                2
            }
            Self::Number { value, seen, .. } => {
                value.restore(&columns[0])?;
                *seen = counts(&columns[1]);
                2
            }
            Self::Exact { sum, seen, .. } => {
                *sum = exact_sums(&columns[0])?;
                *seen = counts(&columns[1]);
                2
            }
            Self::Edge { value, seen, time, .. } => {
                value.restore(&columns[0])?;
                *seen = counts(&columns[1]);
                *time = counts(&columns[2]);
                3
            }
            Self::Rows(bag) => {
                bag.grow(len);
                if let Some(rows) = rows {
                    bag.restore(&rows, len)?;
                }
                0
            }
        })
    }
}

/// `COUNT(*)` counts rows, `COUNT(x)` those whose `x` is not null.
fn count(seen: &mut Seen, rows: &Rows<'_>, counted: &Column<i64>, step: i64) {
    let nulls = rows.args.first().and_then(|a| a.logical_nulls());
    seen.count(rows, nulls.as_ref(), counted, step);
}

fn add_exactly(sum: &mut Column<ExactSum>, seen: &mut Column<i64>, rows: &Rows<'_>, back: bool) -> Result<(), StateError> {
    let Values::F64(values) = Values::new(&arrow_cast::cast(&rows.args[0], &DataType::Float64)?)? else { return Ok(()) };
    for (slot, value) in rows.slots.iter().zip(values.iter()) {
        let (slot, Some(value)) = (*slot as usize, value) else { continue };
        if back {
            sum.get_mut(slot).subtract(value);
            *seen.get_mut(slot) -= 1;
        } else {
            sum.get_mut(slot).add(value);
            *seen.get_mut(slot) += 1;
        }
    }
    Ok(())
}

fn exact_array<'a>(sums: impl Iterator<Item = &'a ExactSum>) -> ArrayRef {
    let states: Vec<Vec<u8>> = sums.map(ExactSum::to_bytes).collect();
    Arc::new(BinaryArray::from_iter_values(states))
}

fn exact_sums(array: &ArrayRef) -> Result<Column<ExactSum>, StateError> {
    let broken = || StateError::Arrow(ArrowError::CastError("the state of a sum of floats cannot be read".to_owned()));
    array.as_binary::<i32>().iter().map(|bytes| bytes.and_then(ExactSum::from_bytes).ok_or_else(broken)).collect()
}

fn edge_moves(seen: i64, held: i64, time: i64, last: bool) -> bool {
    seen == 0 || if last { time >= held } else { time < held }
}

fn update_edge(
    value: &mut ValueColumn,
    seen: &mut Column<i64>,
    time: &mut Column<i64>,
    last: bool,
    data_type: &DataType,
    rows: &Rows<'_>,
) -> Result<(), StateError> {
    let array = &rows.args[0];
    let mut given = ValueColumn::new(data_type);
    given.restore(array)?;
    for (row, slot) in rows.slots.iter().enumerate() {
        if array.is_null(row) {
            continue;
        }
        let slot = *slot as usize;
        if edge_moves(*seen.get(slot), *time.get(slot), rows.times[row], last) {
            value.copy_from(slot, &given, row);
            *time.get_mut(slot) = rows.times[row];
        }
        *seen.get_mut(slot) += 1;
    }
    Ok(())
}

//! Aggregates as columns: one value per group, folded row by row in log order.
//!
//! Count, sum, min, max, avg, first and last are our own columns: cheap to freeze, exact for integers and decimals, and the
//! same for every cut because each row is folded on its own, in order. Every other aggregate keeps its argument rows and lets
//! DataFusion's accumulator run over them, in blocks of one fixed size, when a result is asked for: exact and free of
//! the cut as well, at the price of memory, which `explain` shows.

use super::{
    StateError,
    column::Column,
    number::{Fold, ValueColumn, Values},
};
use crate::plan::{AggregateCall, AggregateFunction};
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, UInt32Array, cast::AsArray, types::*};
use arrow_schema::{DataType, Field, Schema};
use arrow_select::concat::{concat, concat_batches};
use datafusion::{
    logical_expr::{EmitTo, GroupsAccumulator},
    physical_expr::aggregate::AggregateFunctionExpr,
};
use std::sync::Arc;

/// Rows that DataFusion's accumulators are fed at a time.
const BLOCK: usize = 8192;

#[derive(Debug)]
pub enum Accumulator {
    Count(Column<i64>),
    Number {
        value: ValueColumn,
        seen: Column<i64>,
        fold: Fold,
        data_type: DataType,
    },
    Avg {
        sum: Column<f64>,
        seen: Column<i64>,
    },
    /// `last` = false keeps the first value by time, true the last; equal times go by log order.
    Edge {
        value: ValueColumn,
        seen: Column<i64>,
        time: Column<i64>,
        last: bool,
        data_type: DataType,
    },
    Rows {
        function: Arc<AggregateFunctionExpr>,
        blocks: Vec<RecordBatch>,
        groups: usize,
        data_type: DataType,
    },
}

/// The rows of one call: their groups, arguments and times. Rows that the call's `FILTER` refuses are not among them.
pub struct Rows<'a> {
    pub slots: &'a [u32],
    pub args: &'a [ArrayRef],
    pub times: &'a [i64],
}

impl Accumulator {
    pub fn new(call: &AggregateCall) -> Self {
        let number = |fold| Self::Number { value: ValueColumn::new(&call.data_type), seen: Column::default(), fold, data_type: call.data_type.clone() };
        let edge = |last| Self::Edge {
            value: ValueColumn::new(&call.data_type),
            seen: Column::default(),
            time: Column::default(),
            last,
            data_type: call.data_type.clone(),
        };
        match &call.function {
            AggregateFunction::Count => Self::Count(Column::default()),
            AggregateFunction::Sum => number(Fold::Add),
            AggregateFunction::Min => number(Fold::Min),
            AggregateFunction::Max => number(Fold::Max),
            AggregateFunction::Avg => Self::Avg { sum: Column::default(), seen: Column::default() },
            AggregateFunction::FirstValue => edge(false),
            AggregateFunction::LastValue => edge(true),
            AggregateFunction::DataFusion(f) => Self::Rows { function: Arc::clone(f), blocks: Vec::new(), groups: 0, data_type: call.data_type.clone() },
        }
    }

    /// Room for groups up to `len`.
    pub fn grow(&mut self, len: usize) {
        match self {
            Self::Count(c) => c.grow(len, 0),
            Self::Number { value, seen, .. } => {
                value.grow(len);
                seen.grow(len, 0);
            }
            Self::Avg { sum, seen } => {
                sum.grow(len, 0.0);
                seen.grow(len, 0);
            }
            Self::Edge { value, seen, time, .. } => {
                value.grow(len);
                seen.grow(len, 0);
                time.grow(len, 0);
            }
            Self::Rows { groups, .. } => *groups = len.max(*groups),
        }
    }

    pub fn update(&mut self, rows: &Rows<'_>) -> Result<(), StateError> {
        match self {
            Self::Count(c) => count(c, rows, 1),
            Self::Number { value, seen, fold, .. } => value.fold(seen, rows.slots, &Values::new(&rows.args[0])?, *fold)?,
            Self::Avg { sum, seen } => average(sum, seen, rows, 1.0)?,
            Self::Edge { value, seen, time, last, data_type } => update_edge(value, seen, time, *last, data_type, rows)?,
            Self::Rows { blocks, .. } => blocks.push(argument_rows(rows)?),
        }
        Ok(())
    }

    /// Takes rows back. Only count, sum and avg can; the planner lets no other aggregate stand over changes.
    pub fn retract(&mut self, rows: &Rows<'_>) -> Result<(), StateError> {
        match self {
            Self::Count(c) => count(c, rows, -1),
            Self::Number { value, seen, fold: Fold::Add, .. } => value.fold(seen, rows.slots, &Values::new(&rows.args[0])?, Fold::Subtract)?,
            Self::Avg { sum, seen } => average(sum, seen, rows, -1.0)?,
            Self::Number { .. } | Self::Edge { .. } | Self::Rows { .. } => debug_assert!(false, "the planner refuses this aggregate over changes"),
        }
        Ok(())
    }

    /// Folds group `sources[i]` of `other` into group `slots[i]`; `other` is later than what is here.
    pub fn merge(&mut self, slots: &[u32], other: &Self, sources: &[u32]) -> Result<(), StateError> {
        let pairs = || slots.iter().zip(sources).map(|(a, b)| (*a as usize, *b as usize));
        match (self, other) {
            (Self::Count(c), Self::Count(o)) => pairs().for_each(|(slot, source)| *c.get_mut(slot) += *o.get(source)),
            (Self::Number { value, seen, fold, .. }, Self::Number { value: v, seen: n, .. }) => {
                for (slot, source) in pairs().filter(|(_, source)| *n.get(*source) > 0) {
                    value.fold_one(slot, *seen.get(slot) > 0, v, source, *fold);
                    *seen.get_mut(slot) += *n.get(source);
                }
            }
            (Self::Avg { sum, seen }, Self::Avg { sum: s, seen: n }) => {
                for (slot, source) in pairs() {
                    *sum.get_mut(slot) += *s.get(source);
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
            (Self::Rows { blocks, .. }, Self::Rows { blocks: o, .. }) => merge_rows(blocks, o, slots, sources)?,
            _ => debug_assert!(false, "accumulators of one call are of one kind"),
        }
        Ok(())
    }

    /// Folds states that [`Accumulator::states`] made, as rows of a partial view.
    pub fn update_from_states(&mut self, slots: &[u32], states: &[ArrayRef]) -> Result<(), StateError> {
        let rows = Rows { slots, args: states, times: &[] };
        match self {
            Self::Count(c) => {
                let n = states[0].as_primitive::<Int64Type>();
                slots.iter().zip(n.values()).for_each(|(slot, n)| *c.get_mut(*slot as usize) += n);
            }
            Self::Number { .. } => self.update(&rows)?,
            Self::Avg { sum, seen } => {
                let (s, n) = (states[0].as_primitive::<Float64Type>(), states[1].as_primitive::<Int64Type>());
                for (row, slot) in slots.iter().enumerate() {
                    *sum.get_mut(*slot as usize) += s.value(row);
                    *seen.get_mut(*slot as usize) += n.value(row);
                }
            }
            Self::Edge { .. } => {
                let times = states[1].as_primitive::<Int64Type>();
                self.update(&Rows { slots, args: &states[..1], times: times.values() })?;
            }
            Self::Rows { .. } => debug_assert!(false, "the planner sends no partial states of this aggregate"),
        }
        Ok(())
    }

    /// Fields of the state columns of aggregate number `i`: what a partial view carries.
    pub fn state_fields(call: &AggregateCall, i: usize) -> Vec<Field> {
        let field = |j: usize, t: DataType| Field::new(format!("__s{i}_{j}"), t, true);
        match &call.function {
            AggregateFunction::Count => vec![field(0, DataType::Int64)],
            AggregateFunction::Avg => vec![field(0, DataType::Float64), field(1, DataType::Int64)],
            AggregateFunction::FirstValue | AggregateFunction::LastValue => vec![field(0, call.data_type.clone()), field(1, DataType::Int64)],
            _ => vec![field(0, call.data_type.clone())],
        }
    }

    pub fn states(&self, slots: &[u32]) -> Result<Vec<ArrayRef>, StateError> {
        let gather = |c: &Column<i64>| Arc::new(Int64Array::from_iter_values(slots.iter().map(|s| *c.get(*s as usize)))) as ArrayRef;
        Ok(match self {
            Self::Count(c) => vec![gather(c)],
            Self::Avg { sum, seen } => vec![Arc::new(Float64Array::from_iter_values(slots.iter().map(|s| *sum.get(*s as usize)))), gather(seen)],
            Self::Edge { time, .. } => vec![self.evaluate(slots)?, gather(time)],
            Self::Number { .. } | Self::Rows { .. } => vec![self.evaluate(slots)?],
        })
    }

    /// Results of the groups `slots`, in that order.
    pub fn evaluate(&self, slots: &[u32]) -> Result<ArrayRef, StateError> {
        match self {
            Self::Count(c) => Ok(Arc::new(Int64Array::from_iter_values(slots.iter().map(|s| *c.get(*s as usize))))),
            Self::Number { value, seen, data_type, .. } | Self::Edge { value, seen, data_type, .. } => value.evaluate(seen, slots, data_type),
            Self::Avg { sum, seen } => Ok(Arc::new(Float64Array::from_iter(slots.iter().map(|s| {
                let n = *seen.get(*s as usize);
                (n > 0).then(|| *sum.get(*s as usize) / n as f64)
            })))),
            Self::Rows { function, blocks, groups, data_type } => evaluate_rows(function, blocks, *groups, slots, data_type),
        }
    }

    pub fn freeze(&mut self) -> Self {
        match self {
            Self::Count(c) => Self::Count(c.freeze()),
            Self::Number { value, seen, fold, data_type } => {
                Self::Number { value: value.freeze(), seen: seen.freeze(), fold: *fold, data_type: data_type.clone() }
            }
            Self::Avg { sum, seen } => Self::Avg { sum: sum.freeze(), seen: seen.freeze() },
            Self::Edge { value, seen, time, last, data_type } => {
                Self::Edge { value: value.freeze(), seen: seen.freeze(), time: time.freeze(), last: *last, data_type: data_type.clone() }
            }
            Self::Rows { function, blocks, groups, data_type } => {
                Self::Rows { function: Arc::clone(function), blocks: blocks.clone(), groups: *groups, data_type: data_type.clone() }
            }
        }
    }

    /// Snapshot columns (all groups), and the kept argument rows where the aggregate has them.
    pub fn to_snapshot(&self) -> Result<(Vec<ArrayRef>, Option<RecordBatch>), StateError> {
        let counts = |c: &Column<i64>| Arc::new(Int64Array::from_iter_values(c.iter().copied())) as ArrayRef;
        Ok(match self {
            Self::Count(c) => (vec![counts(c)], None),
            Self::Number { value, seen, data_type, .. } => (vec![value.to_array(data_type)?, counts(seen)], None),
            Self::Avg { sum, seen } => (vec![Arc::new(Float64Array::from_iter_values(sum.iter().copied())), counts(seen)], None),
            Self::Edge { value, seen, time, data_type, .. } => (vec![value.to_array(data_type)?, counts(seen), counts(time)], None),
            Self::Rows { blocks, .. } => (Vec::new(), joined(blocks)?),
        })
    }

    /// Takes back what [`Accumulator::to_snapshot`] gave; returns how many columns it used.
    pub fn restore(&mut self, columns: &[ArrayRef], rows: Option<RecordBatch>, len: usize) -> Result<usize, StateError> {
        let counts = |a: &ArrayRef| a.as_primitive::<Int64Type>().values().iter().copied().collect::<Column<i64>>();
        Ok(match self {
            Self::Count(c) => {
                *c = counts(&columns[0]);
                1
            }
            Self::Number { value, seen, .. } => {
                value.restore(&columns[0])?;
                *seen = counts(&columns[1]);
                2
            }
            Self::Avg { sum, seen } => {
                *sum = columns[0].as_primitive::<Float64Type>().values().iter().copied().collect();
                *seen = counts(&columns[1]);
                2
            }
            Self::Edge { value, seen, time, .. } => {
                value.restore(&columns[0])?;
                *seen = counts(&columns[1]);
                *time = counts(&columns[2]);
                3
            }
            Self::Rows { blocks, groups, .. } => {
                blocks.extend(rows);
                *groups = len;
                0
            }
        })
    }
}

/// `COUNT(*)` counts rows, `COUNT(x)` those whose `x` is not null.
fn count(counts: &mut Column<i64>, rows: &Rows<'_>, step: i64) {
    match rows.args.first().and_then(|a| a.logical_nulls()) {
        None => rows.slots.iter().for_each(|s| *counts.get_mut(*s as usize) += step),
        Some(nulls) => {
            for (slot, _) in rows.slots.iter().zip(nulls.iter()).filter(|(_, valid)| *valid) {
                *counts.get_mut(*slot as usize) += step;
            }
        }
    }
}

fn average(sum: &mut Column<f64>, seen: &mut Column<i64>, rows: &Rows<'_>, sign: f64) -> Result<(), StateError> {
    let Values::F64(values) = Values::new(&arrow_cast::cast(&rows.args[0], &DataType::Float64)?)? else { return Ok(()) };
    for (slot, value) in rows.slots.iter().zip(values.iter()) {
        if let Some(value) = value {
            *sum.get_mut(*slot as usize) += sign * value;
            *seen.get_mut(*slot as usize) += sign as i64;
        }
    }
    Ok(())
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

/// Group numbers and arguments as one batch: column `slot`, then `a0`, `a1`, …
fn argument_rows(rows: &Rows<'_>) -> Result<RecordBatch, StateError> {
    let mut fields = vec![Field::new("slot", DataType::UInt32, false)];
    let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from(rows.slots.to_vec()))];
    for (i, a) in rows.args.iter().enumerate() {
        fields.push(Field::new(format!("a{i}"), a.data_type().clone(), true));
        columns.push(Arc::clone(a));
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn joined(blocks: &[RecordBatch]) -> Result<Option<RecordBatch>, StateError> {
    Ok(match blocks.first() {
        Some(first) => Some(concat_batches(&first.schema(), blocks)?),
        None => None,
    })
}

fn merge_rows(blocks: &mut Vec<RecordBatch>, other: &[RecordBatch], slots: &[u32], sources: &[u32]) -> Result<(), StateError> {
    let Some(rows) = joined(other)? else { return Ok(()) };
    let target: std::collections::HashMap<u32, u32> = sources.iter().copied().zip(slots.iter().copied()).collect();
    let from = rows.column(0).as_primitive::<UInt32Type>();
    let moved: UInt32Array = from.values().iter().map(|s| target.get(s).copied()).collect();
    let keep: BooleanArray = moved.iter().map(|s| Some(s.is_some())).collect();
    let mut columns = rows.columns().to_vec();
    columns[0] = Arc::new(UInt32Array::from_iter_values(moved.iter().map(Option::unwrap_or_default)));
    let rows = RecordBatch::try_new(rows.schema(), columns)?;
    blocks.push(arrow_select::filter::filter_record_batch(&rows, &keep)?);
    Ok(())
}

fn evaluate_rows(function: &AggregateFunctionExpr, blocks: &[RecordBatch], groups: usize, slots: &[u32], data_type: &DataType) -> Result<ArrayRef, StateError> {
    let results: ArrayRef = if function.groups_accumulator_supported() {
        let mut accumulator = function.create_groups_accumulator()?;
        feed(accumulator.as_mut(), blocks, groups)?;
        accumulator.evaluate(EmitTo::All)?
    } else {
        evaluate_row_by_row(function, blocks, groups)?
    };
    let indices = UInt32Array::from(slots.to_vec());
    let taken = arrow_select::take::take(&results, &indices, None)?;
    Ok(if taken.data_type() == data_type { taken } else { arrow_cast::cast(&taken, data_type)? })
}

/// Rows in log order in blocks of [`BLOCK`], so that neither cuts nor panes show in the result.
fn feed(accumulator: &mut dyn GroupsAccumulator, blocks: &[RecordBatch], groups: usize) -> Result<(), StateError> {
    let Some(rows) = joined(blocks)? else {
        let empty: [ArrayRef; 0] = [];
        return Ok(accumulator.update_batch(&empty, &[], None, groups)?);
    };
    for start in (0..rows.num_rows()).step_by(BLOCK) {
        let block = rows.slice(start, BLOCK.min(rows.num_rows() - start));
        let slots: Vec<usize> = block.column(0).as_primitive::<UInt32Type>().values().iter().map(|s| *s as usize).collect();
        accumulator.update_batch(&block.columns()[1..], &slots, None, groups)?;
    }
    Ok(())
}

fn evaluate_row_by_row(function: &AggregateFunctionExpr, blocks: &[RecordBatch], groups: usize) -> Result<ArrayRef, StateError> {
    let mut accumulators = (0..groups).map(|_| function.create_accumulator()).collect::<Result<Vec<_>, _>>()?;
    if let Some(rows) = joined(blocks)? {
        let slots = rows.column(0).as_primitive::<UInt32Type>();
        let mut by_group: Vec<Vec<u32>> = vec![Vec::new(); groups];
        slots.values().iter().enumerate().for_each(|(row, slot)| by_group[*slot as usize].push(row as u32));
        for (accumulator, rows_of) in accumulators.iter_mut().zip(by_group) {
            let indices = UInt32Array::from(rows_of);
            let args = rows.columns()[1..].iter().map(|c| arrow_select::take::take(c, &indices, None)).collect::<Result<Vec<_>, _>>()?;
            accumulator.update_batch(&args)?;
        }
    }
    let arrays = accumulators.iter_mut().map(|a| a.evaluate()?.to_array()).collect::<Result<Vec<_>, _>>()?;
    let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
    if arrays.is_empty() {
        return Ok(arrow_array::new_empty_array(function.field().data_type()));
    }
    Ok(concat(&arrays)?)
}

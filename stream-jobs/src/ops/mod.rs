//! The operators of a task: each takes what its inputs hand on in an epoch, changes its state, and hands on its own rows.
//!
//! An operator is a pure function of its state, its inputs and the context. It knows no clock, no log and no other operator.

pub mod alert;
pub mod alert_task;
pub mod as_of;
pub mod candidates;
pub mod group;
pub mod interval_join;
pub mod join;
pub mod keyed;
pub mod map;
pub mod pair_join;
pub mod rank;
pub mod session;
pub mod table;
pub mod union;
pub mod window;

use crate::{
    delta::Delta,
    plan::{AggregateCall, GroupColumn, LatePolicy, ViewSpec},
    state::{Frozen, Groups, KeyCodec, KeyDictionary, Pieces, StateError, accumulator::Rows},
    steps::{self, evaluate},
};
use arrow_array::{Array, ArrayRef, BinaryArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use arrow_select::take::take;
use datafusion::error::DataFusionError;
use schemas::{Counters, Output, OutputKind};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum OpError {
    #[error("{0}")]
    DataFusion(#[from] DataFusionError),
    #[error("{0}")]
    Arrow(#[from] ArrowError),
    #[error("{0}")]
    State(#[from] StateError),
    /// An invariant does not hold: a bug, and the task stops.
    #[error("broken invariant: {0}")]
    Broken(String),
}

/// What an operator is told about the epoch.
pub struct Context<'a> {
    /// The view's watermark after the rows of this epoch; `i64::MAX` when its inputs have ended.
    pub watermark: Option<i64>,
    /// The value of `now()`: the watermark cut to the view's tick.
    pub now_us: i64,
    /// Sets the cell that `now()` reads.
    pub set_now: &'a dyn Fn(i64),
}

/// What one input hands to an operator.
#[derive(Debug, Clone)]
pub struct Flow {
    pub delta: Delta,
    /// Rows from another level, by the partition of the epoch topic they came from; `delta` holds them all.
    pub by_partition: Vec<(u32, Delta)>,
}

/// What an epoch does beside handing rows on.
#[derive(Default)]
pub struct Effects {
    pub counters: Counters,
    pub outputs: Vec<Output>,
    pub raised: alert::Raised,
    /// Rows that conditions kept out, for [`crate::status`].
    pub filtered: u64,
}

impl Effects {
    /// Counts late rows, and puts them where the view wants them; `ends`: of the last window of each.
    pub fn late_rows(&mut self, view: &ViewSpec, delta: &Delta, ends: &[i64], closed_through: i64) -> Result<(), OpError> {
        self.counters.late += delta.len() as u64;
        metrics::counter!("headend_late_rows_total", "view" => view.name.clone(), "reason" => "window_closed").increment(delta.len() as u64);
        match view.late {
            LatePolicy::Side => self.late(&view.name, delta, ends, closed_through),
            LatePolicy::Drop => Ok(()),
        }
    }

    /// Writes late rows with their coordinates and the reason.
    fn late(&mut self, view: &str, delta: &Delta, window_ends: &[i64], closed_through: i64) -> Result<(), OpError> {
        let n = delta.len();
        let origin = delta.origin.as_ref();
        let watermarks: Vec<i64> = (0..n).map(|i| origin.map_or(i64::MIN, |o| o.watermarks[i]).max(closed_through)).collect();
        let reasons = window_ends.iter().zip(&watermarks).map(|(end, watermark)| {
            format!("its last window ended at `{}`, the watermark stood at `{}`", schemas::clock::rfc3339(*end), schemas::clock::rfc3339(*watermark))
        });
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter((0..n).map(|i| origin.and_then(|o| Some(o.place(i)?.topic.as_ref()))))),
            Arc::new(UInt32Array::from_iter((0..n).map(|i| origin.and_then(|o| Some(o.place(i)?.partition))))),
            Arc::new(UInt64Array::from_iter((0..n).map(|i| origin.map(|o| o.offsets[i])))),
            Arc::new(StringArray::from_iter_values(reasons)),
            Arc::new(Int64Array::from(delta.times.clone())),
        ];
        let mut fields: Vec<Field> = [
            ("_topic", DataType::Utf8),
            ("_partition", DataType::UInt32),
            ("_offset", DataType::UInt64),
            ("_reason", DataType::Utf8),
            ("_time", DataType::Int64),
        ]
        .map(|(name, t)| Field::new(name, t, true))
        .to_vec();
        fields.extend(delta.batch.schema().fields().iter().map(|f| f.as_ref().clone()));
        columns.extend(delta.batch.columns().iter().cloned());
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
        self.outputs.push(Output { name: format!("{view}.late"), kind: OutputKind::Late, batch });
        Ok(())
    }
}

pub trait Operator: Send {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], effects: &mut Effects) -> Result<Delta, OpError>;
    /// A time before which rows may still leave the operator, whatever its watermark says.
    fn holds_back(&self) -> Option<i64> {
        None
    }
    /// Ends of the first and the last window that hold rows, in UTC microseconds.
    fn open_windows(&self) -> Option<(i64, i64)> {
        None
    }
    /// The view is new in a job that has run: rows up to `newest` came before it, and what they would be part of is not told.
    fn begin(&mut self, _newest: i64) {}
    /// [`Operator::restore`] for a view to which aggregates were added since: it `had` these, and rows up to `newest` came before.
    fn restore_with_more(&mut self, _pieces: Pieces, _had: &[AggregateCall], _newest: Option<i64>) -> Result<(), StateError> {
        Err(StateError::Missing("aggregates".to_owned()))
    }
    /// The view leaves the job: what it has told to stand is taken back.
    fn end(&mut self, _watermark: Option<i64>, _effects: &mut Effects) {}
    /// A frozen copy of the state, to be turned into pieces elsewhere.
    fn freeze(&mut self) -> Frozen;
    /// Takes the state back; called once, on a fresh operator.
    fn restore(&mut self, pieces: Pieces) -> Result<(), StateError>;
}

/// The arguments of one aggregate call over a batch, and the rows that its `FILTER` keeps (`None`: all).
pub struct CallValues {
    pub args: Vec<ArrayRef>,
    pub kept: Option<BooleanArray>,
}

pub fn values_of(calls: &[AggregateCall], batch: &RecordBatch) -> Result<Vec<CallValues>, OpError> {
    calls
        .iter()
        .map(|call| {
            let args = call.args.iter().map(|e| evaluate(e, batch)).collect::<Result<_, _>>()?;
            let kept = call.filter.as_ref().map(|f| steps::filter_mask(f, batch)).transpose()?;
            Ok(CallValues { args, kept })
        })
        .collect()
}

/// Key ids of the rows of `batch`, by the record key where the codec says so.
pub fn keys_of(
    group: &[GroupColumn],
    codec: &KeyCodec,
    dictionary: &mut KeyDictionary,
    batch: &RecordBatch,
    record_keys: Option<&BinaryArray>,
) -> Result<Vec<u32>, OpError> {
    let columns = if codec.uses_record_key() && record_keys.is_some() { Vec::new() } else { key_columns(group, batch)? };
    Ok(codec.intern(dictionary, &columns, record_keys, batch.num_rows())?)
}

pub fn key_columns(group: &[GroupColumn], batch: &RecordBatch) -> Result<Vec<ArrayRef>, DataFusionError> {
    let exprs = group.iter().filter_map(|g| match g {
        GroupColumn::Expr(e) => Some(e),
        GroupColumn::WindowStart | GroupColumn::WindowEnd => None,
    });
    exprs.map(|e| evaluate(e, batch)).collect()
}

/// Folds rows (`None`: all) of an evaluated batch into `groups`.
pub fn fold_rows(groups: &mut Groups, rows: Option<&[u32]>, ids: &[u32], values: &[CallValues], times: &[i64], retract: bool) -> Result<(), OpError> {
    let picked: Option<Vec<u32>> = rows.map(|r| r.iter().map(|i| ids[*i as usize]).collect());
    let slots = groups.slots_for(picked.as_deref().unwrap_or(ids));
    for (call, values) in values.iter().enumerate() {
        fold_call(groups, call, rows, &slots, values, times, retract)?;
    }
    groups.count_rows(&slots, if retract { -1 } else { 1 });
    Ok(())
}

fn fold_call(groups: &mut Groups, call: usize, rows: Option<&[u32]>, slots: &[u32], values: &CallValues, times: &[i64], retract: bool) -> Result<(), OpError> {
    if rows.is_none() && values.kept.is_none() {
        groups.update(call, &Rows { slots, args: &values.args, times, filtered: false }, retract)?;
        return Ok(());
    }
    let all: Vec<u32>;
    let rows = match rows {
        Some(rows) => rows,
        None => {
            all = (0..times.len() as u32).collect();
            &all
        }
    };
    let keeps = |row: u32| values.kept.as_ref().is_none_or(|k| k.is_valid(row as usize) && k.value(row as usize));
    let (rows, slots): (Vec<u32>, Vec<u32>) = rows.iter().copied().zip(slots.iter().copied()).filter(|(row, _)| keeps(*row)).unzip();
    let times: Vec<i64> = rows.iter().map(|r| times[*r as usize]).collect();
    let indices = UInt32Array::from(rows);
    let args = values.args.iter().map(|a| take(a, &indices, None)).collect::<Result<Vec<_>, _>>()?;
    groups.update(call, &Rows { slots: &slots, args: &args, times: &times, filtered: values.kept.is_some() }, retract)?;
    Ok(())
}

/// A batch of `schema` whose columns are cast where an aggregate's type is wider or narrower than planned.
pub fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, OpError> {
    let columns = columns
        .into_iter()
        .zip(schema.fields())
        .map(|(c, f)| if c.data_type() == f.data_type() { Ok(c) } else { arrow_cast::cast(&c, f.data_type()) })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &RecordBatchOptions::new().with_row_count(Some(rows)))?)
}

/// The schema with every field nullable: what operators hand on, so that a planner's stricter guess never stops a task.
pub fn nullable(schema: &Schema) -> Schema {
    Schema::new(schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>())
}

pub fn single_column(name: &str, array: ArrayRef) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new(Arc::new(Schema::new(vec![Field::new(name, array.data_type().clone(), true)])), vec![array])
}

//! What one node of a job hands to the next in an epoch: rows that are appended, or changes of keyed rows.

use crate::{plan::Step, steps};
use arrow_array::{Array, ArrayRef, BinaryArray, BooleanArray, Int64Array, RecordBatch, StringArray, UInt32Array, cast::AsArray, types::Int64Type};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};
use arrow_select::{concat::concat_batches, filter::filter_record_batch, take::take_record_batch};
use datafusion::error::DataFusionError;
use std::{collections::HashMap, sync::Arc};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Insert,
    /// Stands right before its [`Op::UpdateAfter`].
    UpdateBefore,
    UpdateAfter,
    Delete,
}

impl Op {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => schemas::op::INSERT,
            Self::UpdateBefore => schemas::op::UPDATE_BEFORE,
            Self::UpdateAfter => schemas::op::UPDATE_AFTER,
            Self::Delete => schemas::op::DELETE,
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Insert, Self::UpdateBefore, Self::UpdateAfter, Self::Delete].into_iter().find(|o| o.as_str() == text)
    }

    /// True for a row that stands after the change.
    pub fn adds(self) -> bool {
        matches!(self, Self::Insert | Self::UpdateAfter)
    }
}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub topic: Arc<str>,
    pub partition: u32,
}

/// Where rows of a source come from: what lateness and the `late` output need.
#[derive(Debug, Clone)]
pub struct Origin {
    pub places: Vec<Place>,
    /// Which of the places each row comes from; `None`: all from the one there is.
    pub of_row: Option<Vec<u32>>,
    pub keys: BinaryArray,
    pub offsets: Vec<u64>,
    /// Watermark of the row's own input partition as it stood before the row; `i64::MIN` before the first.
    pub watermarks: Vec<i64>,
}

/// Keys that fell silent: rows whose key columns alone are filled, and the time at which each was gone.
#[derive(Debug, Clone)]
pub struct Gone {
    pub batch: RecordBatch,
    pub times: Vec<i64>,
}

/// Hidden columns of [`Delta::to_kept`].
const KEPT_COLUMNS: usize = 4;

#[derive(Debug, Clone)]
pub struct Delta {
    pub batch: RecordBatch,
    /// `None`: every row is appended.
    pub ops: Option<Vec<Op>>,
    /// Time of each row in UTC microseconds.
    pub times: Vec<i64>,
    pub origin: Option<Origin>,
    /// Keys for which a sliding window has moved past their last row. Tables drop them; nobody else sees them.
    pub gone: Option<Gone>,
}

impl Delta {
    pub fn empty(schema: SchemaRef) -> Self {
        Self { batch: RecordBatch::new_empty(schema), ops: None, times: Vec::new(), origin: None, gone: None }
    }

    pub fn rows(batch: RecordBatch, times: Vec<i64>) -> Self {
        Self { batch, ops: None, times, origin: None, gone: None }
    }

    pub fn changes(batch: RecordBatch, ops: Vec<Op>, times: Vec<i64>) -> Self {
        Self { batch, ops: Some(ops), times, origin: None, gone: None }
    }

    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.batch.num_rows() == 0
    }

    /// No rows, and nobody fell silent.
    pub fn is_quiet(&self) -> bool {
        self.is_empty() && self.gone.as_ref().is_none_or(|g| g.times.is_empty())
    }

    pub fn op(&self, row: usize) -> Op {
        self.ops.as_ref().map_or(Op::Insert, |ops| ops[row])
    }

    /// The rows where `mask` holds. Of a pair before/after of which one half stays, the half becomes a delete or an insert.
    pub fn filter(&self, mask: &BooleanArray) -> Result<Self, DataFusionError> {
        let kept: Vec<usize> = (0..self.len()).filter(|i| mask.is_valid(*i) && mask.value(*i)).collect();
        if kept.len() == self.len() {
            return Ok(self.clone());
        }
        let ops = self.ops.as_ref().map(|ops| kept.iter().map(|i| narrowed(ops, *i, mask)).collect());
        Ok(Self {
            batch: filter_record_batch(&self.batch, mask)?,
            ops,
            times: kept.iter().map(|i| self.times[*i]).collect(),
            origin: self.origin.as_ref().map(|o| o.take(&kept)),
            gone: self.gone.clone(),
        })
    }

    /// All rows but those at `taken`.
    pub fn without(&self, taken: &[usize]) -> Result<Self, DataFusionError> {
        let mut kept = vec![true; self.len()];
        taken.iter().for_each(|row| kept[*row] = false);
        self.filter(&BooleanArray::from(kept))
    }

    /// The rows `indices`, in that order.
    pub fn take(&self, indices: &[usize]) -> Result<Self, DataFusionError> {
        let rows = UInt32Array::from_iter_values(indices.iter().map(|i| *i as u32));
        Ok(Self {
            batch: take_record_batch(&self.batch, &rows)?,
            ops: self.ops.as_ref().map(|ops| indices.iter().map(|i| ops[*i]).collect()),
            times: indices.iter().map(|i| self.times[*i]).collect(),
            origin: self.origin.as_ref().map(|o| o.take(indices)),
            gone: None,
        })
    }

    /// `parts` one after the other, all of one schema and kind. The origin is kept where every part has one.
    pub fn concat(schema: &SchemaRef, parts: Vec<Self>) -> Result<Self, DataFusionError> {
        let (mut told, mut quiet): (Vec<Self>, Vec<Self>) = parts.into_iter().partition(|p| !p.is_quiet());
        if told.len() < 2 {
            return Ok(told.pop().or_else(|| quiet.pop()).unwrap_or_else(|| Self::empty(Arc::clone(schema))));
        }
        let gone: Vec<Gone> = told.iter_mut().filter_map(|p| p.gone.take()).collect();
        let gone = match gone.first() {
            Some(first) => Some(Gone {
                batch: concat_batches(&first.batch.schema(), gone.iter().map(|g| &g.batch))?,
                times: gone.iter().flat_map(|g| &g.times).copied().collect(),
            }),
            None => None,
        };
        Ok(Self {
            batch: concat_batches(&told[0].batch.schema(), told.iter().map(|p| &p.batch))?,
            ops: told.iter().any(|p| p.ops.is_some()).then(|| told.iter().flat_map(|p| (0..p.len()).map(|row| p.op(row))).collect()),
            times: told.iter().flat_map(|p| &p.times).copied().collect(),
            origin: told.iter_mut().map(|p| p.origin.take()).collect::<Option<Vec<_>>>().map(Origin::concat),
            gone,
        })
    }

    /// Without the updates that leave a row as it was: a projection may not show what has changed.
    pub fn without_idle_updates(self) -> Result<Self, DataFusionError> {
        let Some(ops) = &self.ops else { return Ok(self) };
        let idle = |i: usize| ops[i] == Op::UpdateBefore && ops.get(i + 1) == Some(&Op::UpdateAfter) && same_row(&self.batch, i, &self.batch, i + 1);
        let mut kept = Vec::with_capacity(ops.len());
        let mut row = 0;
        while row < ops.len() {
            if idle(row) {
                row += 2;
                continue;
            }
            kept.push(row);
            row += 1;
        }
        if kept.len() == ops.len() {
            return Ok(self);
        }
        Ok(Self { gone: self.gone.clone(), ..self.take(&kept)? })
    }

    /// Changes of rows that the columns `key` tell apart, one a row: what stood before the first of them, and what stands after the last.
    pub fn coalesced(self, key: &[usize]) -> Result<Self, DataFusionError> {
        let Some(ops) = self.ops.clone() else { return Ok(self) };
        let columns: Vec<ArrayRef> = key.iter().map(|column| Arc::clone(self.batch.column(*column))).collect();
        let converter = RowConverter::new(columns.iter().map(|column| SortField::new(column.data_type().clone())).collect())?;
        let keys = converter.convert_columns(&columns)?;
        let mut order: Vec<usize> = Vec::new();
        let mut changes: HashMap<Vec<u8>, (Option<usize>, Option<usize>)> = HashMap::new();
        for (row, op) in ops.iter().enumerate() {
            let change = changes.entry(keys.row(row).data().to_vec()).or_insert_with(|| {
                order.push(row);
                ((!op.adds()).then_some(row), None)
            });
            change.1 = op.adds().then_some(row);
        }
        let mut builder = ChangeBuilder::new();
        for first in order {
            let (before, after) = changes.get(keys.row(first).data()).copied().unwrap_or_default();
            match (before, after) {
                (Some(b), Some(a)) if same_row(&self.batch, b, &self.batch, a) => {}
                (b, a) => builder.push(b, a, self.times[a.or(b).unwrap_or(first)]),
            }
        }
        builder.finish(&self.batch, &self.batch)
    }

    /// The rows as a batch for a snapshot, with what lateness needs of their origin.
    pub fn to_kept(&self) -> Result<RecordBatch, ArrowError> {
        let n = self.len();
        let origin = self.origin.as_ref();
        let ops: StringArray = (0..n).map(|i| self.ops.as_ref().map(|ops| ops[i].as_str())).collect();
        let keys: BinaryArray = (0..n).map(|i| origin.map(|o| o.keys.value(i))).collect();
        let before: Int64Array = (0..n).map(|i| origin.map(|o| o.watermarks[i])).collect();
        let hidden: [ArrayRef; KEPT_COLUMNS] = [Arc::new(Int64Array::from(self.times.clone())), Arc::new(ops), Arc::new(keys), Arc::new(before)];
        let names = ["__time", "__op", "__key", "__before"];
        let fields = names.iter().zip(&hidden).map(|(name, column)| Arc::new(Field::new(*name, column.data_type().clone(), true)));
        let schema = Schema::new(self.batch.schema().fields().iter().cloned().chain(fields).collect::<Vec<_>>());
        RecordBatch::try_new(Arc::new(schema), self.batch.columns().iter().cloned().chain(hidden.iter().cloned()).collect())
    }

    /// What [`Delta::to_kept`] gave.
    pub fn from_kept(kept: &RecordBatch) -> Result<Self, ArrowError> {
        let n = kept.num_columns() - KEPT_COLUMNS;
        let ops: Vec<Op> = kept.column(n + 1).as_string::<i32>().iter().flatten().filter_map(Op::parse).collect();
        let (keys, before) = (kept.column(n + 2).as_binary::<i32>(), kept.column(n + 3).as_primitive::<Int64Type>());
        let origin = (keys.null_count() == 0).then(|| Origin {
            places: Vec::new(),
            of_row: None,
            keys: keys.clone(),
            offsets: vec![0; kept.num_rows()],
            watermarks: before.values().to_vec(),
        });
        Ok(Self {
            batch: kept.project(&(0..n).collect::<Vec<_>>())?,
            ops: (!ops.is_empty()).then_some(ops),
            times: kept.column(n).as_primitive::<Int64Type>().values().to_vec(),
            origin,
            gone: None,
        })
    }

    /// The same rows under the names of `schema`, whose types are theirs.
    pub fn named(mut self, schema: &SchemaRef) -> Result<Self, DataFusionError> {
        let renamed = |batch: &RecordBatch| RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec());
        if self.batch.schema() != *schema {
            self.batch = renamed(&self.batch)?;
            self.gone = self.gone.map(|gone| renamed(&gone.batch).map(|batch| Gone { batch, times: gone.times })).transpose()?;
        }
        Ok(self)
    }

    /// Runs stateless steps over the rows; `gone` rows pass projections and no filter.
    pub fn through(self, plan: &[Step]) -> Result<Self, DataFusionError> {
        let mut delta = self;
        for step in plan {
            delta = match step {
                Step::Filter(expr) if delta.is_empty() => {
                    let _ = expr;
                    delta
                }
                Step::Filter(expr) => delta.filter(&steps::filter_mask(expr, &delta.batch)?)?,
                Step::Project { exprs, schema } => {
                    let gone = match delta.gone.take() {
                        Some(g) => Some(Gone { batch: steps::project(exprs, schema, &g.batch)?, times: g.times }),
                        None => None,
                    };
                    let batch = steps::project(exprs, schema, &delta.batch)?;
                    Self { batch, gone, ..delta }
                }
                Step::Keyed { .. } => return Err(DataFusionError::Internal("a keyed step runs in its operator".to_owned())),
            };
        }
        Ok(delta)
    }
}

fn narrowed(ops: &[Op], row: usize, mask: &BooleanArray) -> Op {
    let stays = |i: usize| mask.is_valid(i) && mask.value(i);
    match ops[row] {
        Op::UpdateBefore if !ops.get(row + 1).is_some_and(|o| *o == Op::UpdateAfter && stays(row + 1)) => Op::Delete,
        Op::UpdateAfter if row == 0 || ops[row - 1] != Op::UpdateBefore || !stays(row - 1) => Op::Insert,
        op => op,
    }
}

impl Origin {
    /// `None` for rows that came back out of a snapshot.
    pub fn place(&self, row: usize) -> Option<&Place> {
        self.places.get(self.of_row.as_ref().map_or(0, |of_row| of_row[row] as usize))
    }

    /// The origins of rows that follow one another.
    fn concat(parts: Vec<Self>) -> Self {
        let mut whole = Self {
            places: Vec::new(),
            of_row: None,
            keys: BinaryArray::from_iter_values(std::iter::empty::<&[u8]>()),
            offsets: Vec::new(),
            watermarks: Vec::new(),
        };
        let mut of_row = Vec::new();
        let keys = parts.iter().flat_map(|part| part.keys.iter());
        whole.keys = keys.collect();
        for part in parts {
            let first = whole.places.len() as u32;
            of_row.extend((0..part.offsets.len()).map(|row| first + part.of_row.as_ref().map_or(0, |of_row| of_row[row])));
            whole.places.extend(part.places);
            whole.offsets.extend(part.offsets);
            whole.watermarks.extend(part.watermarks);
        }
        whole.of_row = Some(of_row);
        whole
    }

    fn take(&self, rows: &[usize]) -> Self {
        Self {
            places: self.places.clone(),
            of_row: self.of_row.as_ref().map(|of_row| rows.iter().map(|i| of_row[*i]).collect()),
            keys: BinaryArray::from_iter_values(rows.iter().map(|i| self.keys.value(*i))),
            offsets: rows.iter().map(|i| self.offsets[*i]).collect(),
            watermarks: rows.iter().map(|i| self.watermarks[*i]).collect(),
        }
    }
}

/// Builds the changes of keyed rows out of what stood before and what stands after, key by key.
pub struct ChangeBuilder {
    /// (op, from the batch of befores?, row there, time)
    rows: Vec<(Op, bool, usize, i64)>,
}

impl ChangeBuilder {
    pub fn new() -> Self {
        Self { rows: Vec::new() }
    }

    /// One key: row `before` of the befores, row `after` of the afters, either may be missing.
    pub fn push(&mut self, before: Option<usize>, after: Option<usize>, time: i64) {
        match (before, after) {
            (Some(b), Some(a)) => {
                self.rows.push((Op::UpdateBefore, true, b, time));
                self.rows.push((Op::UpdateAfter, false, a, time));
            }
            (Some(b), None) => self.rows.push((Op::Delete, true, b, time)),
            (None, Some(a)) => self.rows.push((Op::Insert, false, a, time)),
            (None, None) => {}
        }
    }

    pub fn finish(self, befores: &RecordBatch, afters: &RecordBatch) -> Result<Delta, DataFusionError> {
        let both = concat_batches(&afters.schema(), [befores, afters])?;
        let shift = befores.num_rows();
        let indices = UInt32Array::from_iter_values(self.rows.iter().map(|(_, from_before, row, _)| if *from_before { *row } else { row + shift } as u32));
        let batch = take_record_batch(&both, &indices)?;
        Ok(Delta::changes(batch, self.rows.iter().map(|r| r.0).collect(), self.rows.iter().map(|r| r.3).collect()))
    }
}

impl Default for ChangeBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// True where row `a` of `left` and row `b` of `right` hold the same values.
pub fn same_row(left: &RecordBatch, a: usize, right: &RecordBatch, b: usize) -> bool {
    left.columns().iter().zip(right.columns()).all(|(l, r)| l.slice(a, 1).as_ref() == r.slice(b, 1).as_ref())
}

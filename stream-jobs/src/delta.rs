//! What one node of a job hands to the next in an epoch: rows that are appended, or changes of keyed rows.

use crate::{plan::Step, steps};
use arrow_array::{Array, BinaryArray, BooleanArray, RecordBatch, UInt32Array};
use arrow_schema::SchemaRef;
use arrow_select::{concat::concat_batches, filter::filter_record_batch, take::take_record_batch};
use datafusion::error::DataFusionError;
use std::sync::Arc;

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

/// Where rows of a source come from: what lateness and the `late` output need.
#[derive(Debug, Clone)]
pub struct Origin {
    pub topic: Arc<str>,
    pub partition: u32,
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

    /// `parts` one after the other, all of one schema and kind. Only the origin of a part that stands alone is kept.
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
            origin: None,
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
    fn take(&self, rows: &[usize]) -> Self {
        Self {
            topic: Arc::clone(&self.topic),
            partition: self.partition,
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

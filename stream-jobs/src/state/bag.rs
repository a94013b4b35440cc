//! The argument rows of aggregates that have no state of their own here: kept per group, and run through DataFusion's accumulator when
//! a result is asked for. So neither a cut, nor a snapshot, nor a row that was taken back shows in a result; memory grows with
//! the rows, which `explain` says.

use super::{StateError, accumulator::Rows, column::Column};
use arrow_array::{Array, ArrayRef, Int64Array, ListArray, RecordBatch, UInt32Array, cast::AsArray, types::Int64Type};
use arrow_buffer::OffsetBuffer;
use arrow_ord::sort::{SortColumn, lexsort_to_indices};
use arrow_schema::{ArrowError, DataType, Field, Schema, SortOptions};
use arrow_select::{
    concat::concat,
    interleave::interleave_record_batch,
    take::{take, take_record_batch},
};
use datafusion::{logical_expr::EmitTo, physical_expr::aggregate::AggregateFunctionExpr};
use std::sync::Arc;

/// Rows of a group that an accumulator is fed at a time.
const BLOCK: usize = 8192;
/// Blocks after which the kept rows are put together, so that an epoch of few rows costs little for good.
const BLOCKS_MAX: usize = 64;

/// How the rows of a group are fed: `ORDER BY` inside of the call, columns of the arguments. Equal ones go by time, then by arrival.
pub type Order = Vec<(usize, SortOptions)>;

#[derive(Debug)]
pub struct Bag {
    function: Arc<AggregateFunctionExpr>,
    order: Order,
    data_type: DataType,
    types: Vec<DataType>,
    /// Column `time`, then the arguments.
    blocks: Vec<RecordBatch>,
    /// Per group its rows: block and row.
    rows: Column<Vec<(u32, u32)>>,
}

impl Bag {
    pub fn new(function: Arc<AggregateFunctionExpr>, order: Order, types: Vec<DataType>, data_type: DataType) -> Self {
        Self { function, order, data_type, types, blocks: Vec::new(), rows: Column::default() }
    }

    pub fn grow(&mut self, len: usize) {
        self.rows.grow(len, Vec::new());
    }

    pub fn freeze(&mut self) -> Self {
        Self {
            function: Arc::clone(&self.function),
            order: self.order.clone(),
            data_type: self.data_type.clone(),
            types: self.types.clone(),
            blocks: self.blocks.clone(),
            rows: self.rows.freeze(),
        }
    }

    /// A bag of the same call without a row.
    pub fn empty(&self) -> Self {
        Self::new(Arc::clone(&self.function), self.order.clone(), self.types.clone(), self.data_type.clone())
    }

    pub fn clear(&mut self, slot: usize) {
        self.rows.get_mut(slot).clear();
    }

    fn schema(&self) -> Arc<Schema> {
        let time = Field::new("time", DataType::Int64, true);
        let args = self.types.iter().enumerate().map(|(i, t)| Field::new(format!("a{i}"), t.clone(), true));
        Arc::new(Schema::new(std::iter::once(time).chain(args).collect::<Vec<_>>()))
    }

    fn block(&self, times: &[i64], args: &[ArrayRef]) -> Result<RecordBatch, ArrowError> {
        let columns = std::iter::once(Arc::new(Int64Array::from(times.to_vec())) as ArrayRef).chain(args.iter().cloned()).collect();
        RecordBatch::try_new(self.schema(), columns)
    }

    pub fn add(&mut self, rows: &Rows<'_>) -> Result<(), StateError> {
        let block = self.block(rows.times, rows.args)?;
        self.push(block, rows.slots)
    }

    fn push(&mut self, block: RecordBatch, slots: &[u32]) -> Result<(), StateError> {
        if slots.is_empty() {
            return Ok(());
        }
        self.compact()?;
        let number = self.blocks.len() as u32;
        self.blocks.push(block);
        for (row, slot) in slots.iter().enumerate() {
            self.rows.get_mut(*slot as usize).push((number, row as u32));
        }
        Ok(())
    }

    /// Takes rows back: for each the newest kept row with the same arguments.
    pub fn take_back(&mut self, rows: &Rows<'_>) -> Result<(), StateError> {
        for (row, slot) in rows.slots.iter().enumerate() {
            let blocks = &self.blocks;
            let same = |(block, at): &(u32, u32)| {
                let kept = &blocks[*block as usize];
                rows.args.iter().zip(&kept.columns()[1..]).all(|(a, b)| a.slice(row, 1).as_ref() == b.slice(*at as usize, 1).as_ref())
            };
            let held = self.rows.get_mut(*slot as usize);
            if let Some(at) = held.iter().rposition(same) {
                held.remove(at);
            }
        }
        Ok(())
    }

    /// Adds the groups `sources` of `other` to the groups `slots`.
    pub fn merge(&mut self, slots: &[u32], other: &Self, sources: &[u32]) -> Result<(), StateError> {
        let shift = self.blocks.len() as u32;
        self.blocks.extend(other.blocks.iter().cloned());
        for (slot, source) in slots.iter().zip(sources) {
            let theirs = other.rows.get(*source as usize);
            if !theirs.is_empty() {
                self.rows.get_mut(*slot as usize).extend(theirs.iter().map(|(block, row)| (block + shift, *row)));
            }
        }
        self.compact()
    }

    /// Puts many small blocks together, without the rows that no group holds any more.
    fn compact(&mut self) -> Result<(), StateError> {
        if self.blocks.len() < BLOCKS_MAX {
            return Ok(());
        }
        let all: Vec<u32> = (0..self.rows.len() as u32).collect();
        let rows = self.rows_of(&all)?;
        let mut at = 0;
        for slot in 0..self.rows.len() {
            let n = self.rows.get(slot).len();
            if n > 0 {
                *self.rows.get_mut(slot) = (at..at + n as u32).map(|row| (0, row)).collect();
                at += n as u32;
            }
        }
        self.blocks = vec![rows];
        Ok(())
    }

    /// The rows of the groups `slots`, group after group, in the order of arrival.
    fn rows_of(&self, slots: &[u32]) -> Result<RecordBatch, ArrowError> {
        let picked: Vec<(usize, usize)> =
            slots.iter().flat_map(|slot| self.rows.get(*slot as usize)).map(|(block, row)| (*block as usize, *row as usize)).collect();
        if picked.is_empty() {
            return Ok(RecordBatch::new_empty(self.schema()));
        }
        interleave_record_batch(&self.blocks.iter().collect::<Vec<_>>(), &picked)
    }

    /// The rows of one group as they are fed.
    fn ordered(&self, slot: u32) -> Result<RecordBatch, ArrowError> {
        let rows = self.rows_of(&[slot])?;
        let arrival: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows.num_rows() as i64));
        let by = |values: &ArrayRef, options| SortColumn { values: Arc::clone(values), options };
        let mut sort: Vec<SortColumn> = self.order.iter().map(|(column, options)| by(rows.column(column + 1), Some(*options))).collect();
        sort.extend([by(rows.column(0), None), by(&arrival, None)]);
        let indices = lexsort_to_indices(&sort, None)?;
        take_record_batch(&rows, &indices)
    }

    /// Results of the groups `slots`. Each group is fed by itself, in blocks of one size, so that no other group shows in it.
    pub fn evaluate(&self, slots: &[u32]) -> Result<ArrayRef, StateError> {
        // What a group without rows comes to, a fresh accumulator knows: one for many groups takes each as seen.
        let filled: Vec<u32> = slots.iter().copied().filter(|slot| !self.rows.get(*slot as usize).is_empty()).collect();
        let groups = filled.iter().map(|slot| self.ordered(*slot)).collect::<Result<Vec<_>, _>>()?;
        let mut results = if groups.is_empty() {
            arrow_array::new_empty_array(self.function.field().data_type())
        } else if self.function.groups_accumulator_supported() {
            self.evaluate_together(&groups)?
        } else {
            self.evaluate_one_by_one(&groups)?
        };
        if filled.len() < slots.len() {
            let nothing = self.function.create_accumulator()?.evaluate()?.to_array()?;
            let mut next = 0;
            let place = |slot: &u32| {
                let there = !self.rows.get(*slot as usize).is_empty();
                next += u32::from(there);
                if there { next - 1 } else { filled.len() as u32 }
            };
            let places: UInt32Array = slots.iter().map(place).collect();
            results = take(&concat(&[results.as_ref(), nothing.as_ref()])?, &places, None)?;
        }
        Ok(if results.data_type() == &self.data_type { results } else { arrow_cast::cast(&results, &self.data_type)? })
    }

    fn evaluate_together(&self, groups: &[RecordBatch]) -> Result<ArrayRef, StateError> {
        let mut accumulator = self.function.create_groups_accumulator()?;
        let longest = groups.iter().map(RecordBatch::num_rows).max().unwrap_or(0);
        for start in (0..longest.max(1)).step_by(BLOCK) {
            let (mut ids, mut parts) = (Vec::new(), Vec::new());
            for (id, rows) in groups.iter().enumerate().filter(|(_, rows)| rows.num_rows() > start) {
                let part = rows.slice(start, BLOCK.min(rows.num_rows() - start));
                ids.extend(std::iter::repeat_n(id, part.num_rows()));
                parts.push(part);
            }
            let schema = self.schema();
            let block = arrow_select::concat::concat_batches(&schema, &parts)?;
            accumulator.update_batch(&block.columns()[1..], &ids, None, groups.len())?;
        }
        Ok(accumulator.evaluate(EmitTo::All)?)
    }

    fn evaluate_one_by_one(&self, groups: &[RecordBatch]) -> Result<ArrayRef, StateError> {
        let mut results = Vec::with_capacity(groups.len());
        for rows in groups {
            let mut accumulator = self.function.create_accumulator()?;
            for start in (0..rows.num_rows()).step_by(BLOCK) {
                accumulator.update_batch(&rows.slice(start, BLOCK.min(rows.num_rows() - start)).columns()[1..])?;
            }
            results.push(accumulator.evaluate()?.to_array()?);
        }
        let results: Vec<&dyn Array> = results.iter().map(AsRef::as_ref).collect();
        Ok(concat(&results)?)
    }

    /// Fields of the state: a list of times and a list of each argument.
    pub fn state_types(types: &[DataType]) -> Vec<DataType> {
        std::iter::once(&DataType::Int64).chain(types).map(|t| DataType::List(Arc::new(Field::new("item", t.clone(), true)))).collect()
    }

    pub fn states(&self, slots: &[u32]) -> Result<Vec<ArrayRef>, StateError> {
        let rows = self.rows_of(slots)?;
        let offsets = OffsetBuffer::<i32>::from_lengths(slots.iter().map(|slot| self.rows.get(*slot as usize).len()));
        let list = |values: &ArrayRef| {
            let field = Arc::new(Field::new("item", values.data_type().clone(), true));
            Ok(Arc::new(ListArray::try_new(field, offsets.clone(), Arc::clone(values), None)?) as ArrayRef)
        };
        rows.columns().iter().map(list).collect()
    }

    /// Adds what [`Bag::states`] gave for other tasks' rows.
    pub fn add_states(&mut self, slots: &[u32], states: &[ArrayRef]) -> Result<(), StateError> {
        let lists: Vec<&ListArray> = states.iter().map(|s| s.as_list::<i32>()).collect();
        let Some(times) = lists.first() else { return Ok(()) };
        let of_row: Vec<u32> = slots.iter().enumerate().flat_map(|(row, slot)| std::iter::repeat_n(*slot, times.value_length(row) as usize)).collect();
        let flat = |list: &&ListArray| {
            let (from, to) = (list.value_offsets()[0] as usize, list.value_offsets()[list.len()] as usize);
            list.values().slice(from, to - from)
        };
        let columns: Vec<ArrayRef> = lists.iter().map(flat).collect();
        let block = RecordBatch::try_new(self.schema(), columns)?;
        self.push(block, &of_row)
    }

    /// All rows with their group first, for a snapshot.
    pub fn to_snapshot(&self) -> Result<RecordBatch, StateError> {
        let all: Vec<u32> = (0..self.rows.len() as u32).collect();
        let rows = self.rows_of(&all)?;
        let slots = all.iter().flat_map(|slot| std::iter::repeat_n(i64::from(*slot), self.rows.get(*slot as usize).len()));
        let schema = rows.schema();
        let fields = std::iter::once(Arc::new(Field::new("slot", DataType::Int64, false))).chain(schema.fields().iter().cloned());
        let columns = std::iter::once(Arc::new(Int64Array::from_iter_values(slots)) as ArrayRef).chain(rows.columns().iter().cloned());
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns.collect())?)
    }

    pub fn restore(&mut self, snapshot: &RecordBatch, len: usize) -> Result<(), StateError> {
        self.grow(len);
        let slots: Vec<u32> = snapshot.column(0).as_primitive::<Int64Type>().values().iter().map(|s| *s as u32).collect();
        let block = RecordBatch::try_new(self.schema(), snapshot.columns()[1..].to_vec())?;
        self.push(block, &slots)
    }
}

//! The least and the greatest of integers and times.

use super::{StateError, accumulator::Rows, column::Column, number::Fold, seen::Seen};
use arrow_array::{Array, ArrayRef, Int64Array, cast::AsArray, types::Int64Type};
use arrow_cast::cast;
use arrow_schema::DataType;
use std::sync::Arc;

/// A group that has seen no value holds the one that any other replaces, so that rows are folded without asking whether they are the first.
#[derive(Debug)]
pub struct Extreme {
    values: Column<i64>,
    seen: Seen,
    fold: Fold,
    data_type: DataType,
}

impl Extreme {
    pub fn new(fold: Fold, data_type: &DataType) -> Self {
        Self { values: Column::default(), seen: Seen::default(), fold, data_type: data_type.clone() }
    }

    pub fn empty(&self) -> Self {
        Self::new(self.fold, &self.data_type)
    }

    fn none(&self) -> i64 {
        match self.fold {
            Fold::Min => i64::MAX,
            Fold::Max => i64::MIN,
        }
    }

    pub fn grow(&mut self, len: usize) {
        self.values.grow(len, self.none());
        self.seen.grow(len);
    }

    /// No row that is here so far was for this aggregate.
    pub fn has_seen_nothing(&mut self) {
        self.seen = Seen::nothing(self.values.len());
    }

    pub fn clear(&mut self, slot: usize) {
        *self.values.get_mut(slot) = self.none();
        self.seen.clear(slot);
    }

    pub fn fold(&mut self, rows: &Rows<'_>, counted: &Column<i64>) -> Result<(), StateError> {
        let values = cast(&rows.args[0], &DataType::Int64)?;
        let values = values.as_primitive::<Int64Type>();
        self.seen.count(rows, values.nulls(), counted, 1);
        rows.each(values, |slot, value| self.take(slot, value));
        Ok(())
    }

    #[inline]
    fn take(&mut self, slot: u32, value: i64) {
        let held = self.values.get_mut(slot as usize);
        *held = match self.fold {
            Fold::Min => value.min(*held),
            Fold::Max => value.max(*held),
        };
    }

    /// Folds group `sources[i]` of `other`, whose groups have `other_rows`, into group `slots[i]`.
    pub fn merge(&mut self, slots: &[u32], rows: &Column<i64>, (other, other_rows): (&Self, &Column<i64>), sources: &[u32]) {
        self.seen.merge(slots, rows, (&other.seen, other_rows), sources, false);
        slots.iter().zip(sources).for_each(|(slot, source)| self.take(*slot, *other.values.get(*source as usize)));
    }

    pub fn evaluate(&self, slots: &[u32]) -> Result<ArrayRef, StateError> {
        let values: ArrayRef = Arc::new(self.seen.gather::<Int64Type>(&self.values, slots));
        Ok(if self.data_type == DataType::Int64 { values } else { cast(&values, &self.data_type)? })
    }

    pub fn freeze(&mut self) -> Self {
        Self { values: self.values.freeze(), seen: self.seen.freeze(), fold: self.fold, data_type: self.data_type.clone() }
    }

    pub fn to_snapshot(&self) -> Vec<ArrayRef> {
        vec![Arc::new(Int64Array::from_iter_values(self.values.iter().copied())), self.seen.to_array(self.values.len())]
    }

    pub fn restore(&mut self, columns: &[ArrayRef]) {
        self.values = columns[0].as_primitive::<Int64Type>().values().iter().copied().collect();
        self.seen = Seen::restore(&columns[1]);
    }
}

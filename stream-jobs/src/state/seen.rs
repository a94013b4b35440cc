//! How many values each group of an aggregate has seen that were not null.

use super::{accumulator::Rows, column::Column};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, Int64Array, NullArray, PrimitiveArray, cast::AsArray, types::Int64Type};
use arrow_buffer::NullBuffer;
use arrow_schema::DataType;
use std::sync::Arc;

/// As long as every row has brought one, these are the rows of the group, which [`super::Groups`] counts for all aggregates: no column, and none
/// to be kept up. They become a column with the first row that brings none.
#[derive(Debug, Default)]
pub struct Seen(Option<Column<i64>>);

impl Seen {
    /// Nothing seen by `len` groups, whatever rows they have.
    pub fn nothing(len: usize) -> Self {
        let mut seen = Column::default();
        seen.grow(len, 0);
        Self(Some(seen))
    }

    pub fn grow(&mut self, len: usize) {
        if let Some(seen) = &mut self.0 {
            seen.grow(len, 0);
        }
    }

    pub fn clear(&mut self, slot: usize) {
        if let Some(seen) = &mut self.0 {
            *seen.get_mut(slot) = 0;
        }
    }

    /// Counts the `rows` whose value is not null in (`step` 1) or out (−1). `counted` are the rows of all groups before these.
    pub fn count(&mut self, rows: &Rows<'_>, nulls: Option<&NullBuffer>, counted: &Column<i64>, step: i64) {
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        if self.0.is_none() && !rows.filtered && nulls.is_none() {
            return;
        }
        let seen = self.own(counted);
        for (_, slot) in rows.slots.iter().enumerate().filter(|(row, _)| nulls.is_none_or(|nulls| nulls.is_valid(*row))) {
            *seen.get_mut(*slot as usize) += step;
        }
    }

    /// The column, made out of the `rows` that were counted so far where there is none yet.
    pub fn own(&mut self, rows: &Column<i64>) -> &mut Column<i64> {
        self.0.get_or_insert_with(|| rows.iter().copied().collect())
    }

    /// The counts of `slots`, whose groups have `rows`.
    pub fn counts(&self, slots: &[u32], rows: &Column<i64>) -> Int64Array {
        let counts = self.0.as_ref().unwrap_or(rows);
        Int64Array::from_iter_values(slots.iter().map(|slot| *counts.get(*slot as usize)))
    }

    /// How many of `slots`, each of which has rows, have seen a value.
    pub fn some(&self, slots: &[u32]) -> usize {
        self.0.as_ref().map_or(slots.len(), |seen| slots.iter().filter(|slot| *seen.get(**slot as usize) > 0).count())
    }

    /// The values of `slots`, each of which has rows; null where none was seen.
    pub fn gather<T: ArrowPrimitiveType>(&self, values: &Column<T::Native>, slots: &[u32]) -> PrimitiveArray<T> {
        let value = |slot: &u32| *values.get(*slot as usize);
        match &self.0 {
            None => PrimitiveArray::from_iter_values(slots.iter().map(value)),
            Some(seen) => slots.iter().map(|slot| (*seen.get(*slot as usize) > 0).then(|| value(slot))).collect(),
        }
    }

    /// Counts what the groups `sources` of `other` have seen into the groups `slots`, or takes it `back`. The rows of both are not yet counted
    /// together.
    pub fn merge(&mut self, slots: &[u32], rows: &Column<i64>, (other, other_rows): (&Self, &Column<i64>), sources: &[u32], back: bool) {
        if self.0.is_none() && other.0.is_none() {
            return;
        }
        let (own, other) = (self.own(rows), other.0.as_ref().unwrap_or(other_rows));
        for (slot, source) in slots.iter().zip(sources) {
            let n = *other.get(*source as usize);
            *own.get_mut(*slot as usize) += if back { -n } else { n };
        }
    }

    pub fn freeze(&mut self) -> Self {
        Self(self.0.as_mut().map(Column::freeze))
    }

    /// For a snapshot, of `len` groups.
    pub fn to_array(&self, len: usize) -> ArrayRef {
        match &self.0 {
            None => Arc::new(NullArray::new(len)),
            Some(seen) => Arc::new(Int64Array::from_iter_values(seen.iter().copied())),
        }
    }

    pub fn restore(array: &ArrayRef) -> Self {
        Self((*array.data_type() != DataType::Null).then(|| array.as_primitive::<Int64Type>().values().iter().copied().collect()))
    }
}

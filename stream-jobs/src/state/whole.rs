//! Sums of integers and of decimals, exact whatever they come to on their way.
//!
//! A sum is kept modulo 2⁶⁴ (or 2¹²⁸), and beside it how often it has gone around, for the few groups where it has. So one that outgrew its
//! type and came back is right again, in any order of rows, panes and tasks. One that stands outside of its type when it is asked for is
//! null, and counted as a failed expression.

use super::{StateError, accumulator::Rows, column::Column, seen::Seen};
use crate::steps;
use arrow_array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, Int64Array, PrimitiveArray, RecordBatch, UInt32Array, builder::PrimitiveBuilder, cast::AsArray,
    types::*,
};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Schema};
use std::{collections::BTreeMap, sync::Arc};

#[derive(Debug)]
pub struct WholeSum {
    totals: Totals,
    seen: Seen,
    data_type: DataType,
}

#[derive(Debug)]
enum Totals {
    Integers(Total<Int64Type>),
    /// Of decimals; and of unsigned integers, which no `i64` holds.
    Decimals(Total<Decimal128Type>),
}

#[derive(Debug)]
struct Total<T: ArrowPrimitiveType> {
    sums: Column<T::Native>,
    /// By slot, those that are not zero.
    rounds: BTreeMap<u32, i64>,
}

/// The type in which a sum of `data_type` is kept, and crosses to other tasks.
pub fn kept_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::UInt64 => DataType::Decimal128(Decimal128Type::MAX_PRECISION, 0),
        other => other.clone(),
    }
}

impl WholeSum {
    pub fn new(data_type: &DataType) -> Self {
        let totals = match kept_type(data_type) {
            DataType::Decimal128(..) => Totals::Decimals(Total::default()),
            _ => Totals::Integers(Total::default()),
        };
        Self { totals, seen: Seen::default(), data_type: data_type.clone() }
    }

    pub fn empty(&self) -> Self {
        Self::new(&self.data_type)
    }

    pub fn grow(&mut self, len: usize) {
        self.seen.grow(len);
        match &mut self.totals {
            Totals::Integers(t) => t.sums.grow(len, 0),
            Totals::Decimals(t) => t.sums.grow(len, 0),
        }
    }

    /// No row that is here so far was for this aggregate.
    pub fn has_seen_nothing(&mut self) {
        self.seen = Seen::nothing(self.len());
    }

    fn len(&self) -> usize {
        match &self.totals {
            Totals::Integers(t) => t.sums.len(),
            Totals::Decimals(t) => t.sums.len(),
        }
    }

    pub fn clear(&mut self, slot: usize) {
        self.seen.clear(slot);
        match &mut self.totals {
            Totals::Integers(t) => t.clear(slot),
            Totals::Decimals(t) => t.clear(slot),
        }
    }

    /// Adds the rows, or takes them `back`.
    pub fn fold(&mut self, rows: &Rows<'_>, counted: &Column<i64>, back: bool) -> Result<(), StateError> {
        let values = cast(&rows.args[0], &kept_type(&self.data_type))?;
        self.seen.count(rows, values.nulls(), counted, if back { -1 } else { 1 });
        match &mut self.totals {
            Totals::Integers(t) => rows.each(values.as_primitive::<Int64Type>(), |slot, value| t.add(slot, value, back)),
            Totals::Decimals(t) => rows.each(values.as_primitive::<Decimal128Type>(), |slot, value| t.add(slot, value, back)),
        }
        Ok(())
    }

    /// Adds group `sources[i]` of `other`, whose groups have `other_rows`, to group `slots[i]`, or takes it `back`.
    pub fn merge(&mut self, slots: &[u32], rows: &Column<i64>, (other, other_rows): (&Self, &Column<i64>), sources: &[u32], back: bool) {
        self.seen.merge(slots, rows, (&other.seen, other_rows), sources, back);
        match (&mut self.totals, &other.totals) {
            (Totals::Integers(t), Totals::Integers(o)) => t.merge(slots, o, sources, back),
            (Totals::Decimals(t), Totals::Decimals(o)) => t.merge(slots, o, sources, back),
            _ => debug_assert!(false, "sums of one call are of one kind"),
        }
    }

    /// Folds what [`WholeSum::states`] made.
    pub fn add_states(&mut self, slots: &[u32], states: &[ArrayRef], counted: &Column<i64>) -> Result<(), StateError> {
        self.fold(&Rows { slots, args: &states[..1], times: &[], filtered: false }, counted, false)?;
        let rounds = states[1].as_primitive::<Int64Type>();
        for (slot, n) in slots.iter().zip(rounds.values()).filter(|(_, n)| **n != 0) {
            match &mut self.totals {
                Totals::Integers(t) => t.go_around(*slot, *n),
                Totals::Decimals(t) => t.go_around(*slot, *n),
            }
        }
        Ok(())
    }

    /// The sums of the groups as they are kept, null where nothing was seen, and their rounds.
    pub fn states(&self, slots: &[u32]) -> Vec<ArrayRef> {
        let (sums, rounds): (ArrayRef, _) = match &self.totals {
            Totals::Integers(t) => (Arc::new(self.seen.gather::<Int64Type>(&t.sums, slots)), &t.rounds),
            Totals::Decimals(t) => (Arc::new(self.seen.gather::<Decimal128Type>(&t.sums, slots).with_data_type(kept_type(&self.data_type))), &t.rounds),
        };
        let rounds = Int64Array::from_iter_values(slots.iter().map(|slot| rounds.get(slot).copied().unwrap_or_default()));
        vec![sums, Arc::new(rounds)]
    }

    /// The sums of the groups; null where nothing was seen, and where the type cannot hold them.
    pub fn evaluate(&self, slots: &[u32]) -> Result<ArrayRef, StateError> {
        let sums: ArrayRef = match &self.totals {
            Totals::Integers(t) if t.rounds.is_empty() => return Ok(Arc::new(self.seen.gather::<Int64Type>(&t.sums, slots))),
            Totals::Integers(t) => Arc::new(t.held(self.seen.gather::<Int64Type>(&t.sums, slots), slots, |_| true)),
            Totals::Decimals(t) => {
                let kept = kept_type(&self.data_type);
                let DataType::Decimal128(precision, _) = kept else { return Err(StateError::Missing("the precision of a sum".to_owned())) };
                let fits = |sum: i128| Decimal128Type::is_valid_decimal_precision(sum, precision);
                cast(&t.held(self.seen.gather::<Decimal128Type>(&t.sums, slots), slots, fits).with_data_type(kept), &self.data_type)?
            }
        };
        steps::count_failed(self.seen.some(slots) - (sums.len() - sums.null_count()));
        Ok(sums)
    }

    pub fn freeze(&mut self) -> Self {
        let totals = match &mut self.totals {
            Totals::Integers(t) => Totals::Integers(t.freeze()),
            Totals::Decimals(t) => Totals::Decimals(t.freeze()),
        };
        Self { totals, seen: self.seen.freeze(), data_type: self.data_type.clone() }
    }

    /// Sums and counts of all groups, and the slots and rounds of those that have gone around.
    pub fn to_snapshot(&self) -> Result<(Vec<ArrayRef>, Option<RecordBatch>), StateError> {
        let (sums, rounds): (ArrayRef, _) = match &self.totals {
            Totals::Integers(t) => (Arc::new(Int64Array::from_iter_values(t.sums.iter().copied())), &t.rounds),
            Totals::Decimals(t) => {
                let sums = PrimitiveArray::<Decimal128Type>::from_iter_values(t.sums.iter().copied());
                (Arc::new(sums.with_data_type(kept_type(&self.data_type))), &t.rounds)
            }
        };
        let seen = self.seen.to_array(self.len());
        if rounds.is_empty() {
            return Ok((vec![sums, seen], None));
        }
        let schema = Schema::new(vec![Field::new("slot", DataType::UInt32, false), Field::new("rounds", DataType::Int64, false)]);
        let slots: ArrayRef = Arc::new(UInt32Array::from_iter_values(rounds.keys().copied()));
        let rounds: ArrayRef = Arc::new(Int64Array::from_iter_values(rounds.values().copied()));
        Ok((vec![sums, seen], Some(RecordBatch::try_new(Arc::new(schema), vec![slots, rounds])?)))
    }

    pub fn restore(&mut self, columns: &[ArrayRef], rounds: Option<&RecordBatch>) {
        let rounds = rounds.map(|batch| {
            let (slots, rounds) = (batch.column(0).as_primitive::<UInt32Type>(), batch.column(1).as_primitive::<Int64Type>());
            slots.values().iter().copied().zip(rounds.values().iter().copied()).collect()
        });
        let rounds = rounds.unwrap_or_default();
        self.totals = match &self.totals {
            Totals::Integers(_) => Totals::Integers(Total::restored(&columns[0], rounds)),
            Totals::Decimals(_) => Totals::Decimals(Total::restored(&columns[0], rounds)),
        };
        self.seen = Seen::restore(&columns[1]);
    }
}

impl<T: ArrowPrimitiveType> Default for Total<T> {
    fn default() -> Self {
        Self { sums: Column::default(), rounds: BTreeMap::new() }
    }
}

impl<T: ArrowPrimitiveType> Total<T> {
    fn restored(sums: &ArrayRef, rounds: BTreeMap<u32, i64>) -> Self {
        Self { sums: sums.as_primitive::<T>().values().iter().copied().collect(), rounds }
    }

    fn clear(&mut self, slot: usize) {
        *self.sums.get_mut(slot) = T::Native::ZERO;
        self.rounds.remove(&(slot as u32));
    }

    fn merge(&mut self, slots: &[u32], other: &Self, sources: &[u32], back: bool) {
        for (slot, source) in slots.iter().zip(sources) {
            self.add(*slot, *other.sums.get(*source as usize), back);
            if let Some(rounds) = other.rounds.get(source) {
                self.go_around(*slot, if back { -*rounds } else { *rounds });
            }
        }
    }

    #[inline]
    fn add(&mut self, slot: u32, value: T::Native, back: bool) {
        let held = self.sums.get_mut(slot as usize);
        let (sum, falls) =
            if back { (held.sub_wrapping(value), value.is_gt(T::Native::ZERO)) } else { (held.add_wrapping(value), value.is_lt(T::Native::ZERO)) };
        // A sum falls with what makes it less, unless it has gone around.
        let goes_around = sum.is_lt(*held) != falls;
        *held = sum;
        if goes_around {
            self.go_around(slot, if falls { -1 } else { 1 });
        }
    }

    fn go_around(&mut self, slot: u32, rounds: i64) {
        let held = self.rounds.entry(slot).or_default();
        *held += rounds;
        if *held == 0 {
            self.rounds.remove(&slot);
        }
    }

    /// `sums` of `slots` without those that have gone around and those that do not fit.
    fn held(&self, sums: PrimitiveArray<T>, slots: &[u32], fits: impl Fn(T::Native) -> bool) -> PrimitiveArray<T> {
        let mut held = PrimitiveBuilder::<T>::with_capacity(sums.len());
        for (sum, slot) in sums.iter().zip(slots) {
            held.append_option(sum.filter(|sum| !self.rounds.contains_key(slot) && fits(*sum)));
        }
        held.finish()
    }

    fn freeze(&mut self) -> Self {
        Self { sums: self.sums.freeze(), rounds: self.rounds.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(sum: &mut WholeSum, values: &[i64], back: bool) {
        let array: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        let rows: Column<i64> = std::iter::once(1).collect();
        sum.fold(&Rows { slots: &vec![0; values.len()], args: &[array], times: &[], filtered: false }, &rows, back).unwrap();
    }

    #[test]
    fn a_sum_that_went_around_is_right_again_when_it_has_come_back() {
        let extremes = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
        let mut sum = WholeSum::new(&DataType::Int64);
        sum.grow(1);
        let mut is: i128 = 0;
        let mut random = 1_u64;
        let mut outside = 0;
        for _ in 0..10_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (value, back) = (extremes[(random >> 40) as usize % extremes.len()], random >> 63 == 1);
            fold(&mut sum, &[value], back);
            is += if back { -i128::from(value) } else { i128::from(value) };
            let (columns, rounds) = sum.to_snapshot().unwrap();
            sum.restore(&columns, rounds.as_ref());
            let shown = sum.evaluate(&[0]).unwrap();
            let shown = shown.as_primitive::<Int64Type>();
            assert_eq!(shown.is_valid(0).then(|| shown.value(0)), i64::try_from(is).ok());
            outside += usize::from(shown.is_null(0));
        }
        assert!(outside > 1_000 && outside < 9_999, "{outside}");
    }

    #[test]
    fn a_decimal_beyond_its_digits_is_null_and_an_unsigned_one_below_zero() {
        let mut sum = WholeSum::new(&DataType::Decimal128(38, 0));
        sum.grow(1);
        let nines: ArrayRef = Arc::new(arrow_array::Decimal128Array::from(vec![10_i128.pow(38) - 1]).with_data_type(DataType::Decimal128(38, 0)));
        let rows = Rows { slots: &[0], args: &[nines], times: &[], filtered: false };
        let counted: Column<i64> = std::iter::once(1).collect();
        (0..5).for_each(|_| sum.fold(&rows, &counted, false).unwrap());
        assert!(sum.evaluate(&[0]).unwrap().is_null(0));
        (0..4).for_each(|_| sum.fold(&rows, &counted, true).unwrap());
        assert_eq!(sum.evaluate(&[0]).unwrap().as_primitive::<Decimal128Type>().value(0), 10_i128.pow(38) - 1);

        let mut sum = WholeSum::new(&DataType::UInt64);
        sum.grow(1);
        let most: ArrayRef = Arc::new(arrow_array::UInt64Array::from(vec![u64::MAX]));
        let rows = Rows { slots: &[0], args: &[most], times: &[], filtered: false };
        sum.fold(&rows, &counted, false).unwrap();
        assert_eq!(sum.evaluate(&[0]).unwrap().as_primitive::<UInt64Type>().value(0), u64::MAX);
        sum.fold(&rows, &counted, false).unwrap();
        assert!(sum.evaluate(&[0]).unwrap().is_null(0));
    }
}

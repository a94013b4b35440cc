//! Columns of one value per group, in the few representations that aggregates need.

use super::{StateError, column::Column};
use arrow_array::{Array, ArrayRef, Decimal128Array, Float64Array, Int64Array, cast::AsArray, types::*};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType};
use datafusion::scalar::ScalarValue;
use std::{cmp::Ordering, sync::Arc};

/// How values of a type are kept: integers and times as `i64`, floats as `f64`, decimals as `i128`, the rest as scalars.
#[derive(Debug)]
pub enum ValueColumn {
    I64(Column<i64>),
    F64(Column<f64>),
    I128(Column<i128>),
    Scalar(Column<ScalarValue>),
}

/// An array read through the representation of a [`ValueColumn`].
pub enum Values {
    I64(Int64Array),
    F64(Float64Array),
    I128(Decimal128Array),
    Scalar(ArrayRef),
}

impl Values {
    pub fn new(array: &ArrayRef) -> Result<Self, ArrowError> {
        Ok(match array.data_type() {
            DataType::Int64 => Self::I64(array.as_primitive::<Int64Type>().clone()),
            t if is_i64(t) => Self::I64(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
            DataType::Float64 => Self::F64(array.as_primitive::<Float64Type>().clone()),
            DataType::Float32 => Self::F64(cast(array, &DataType::Float64)?.as_primitive::<Float64Type>().clone()),
            DataType::Decimal128(_, _) => Self::I128(array.as_primitive::<Decimal128Type>().clone()),
            _ => Self::Scalar(Arc::clone(array)),
        })
    }
}

/// Types whose values are kept as `i64`.
pub fn is_i64(t: &DataType) -> bool {
    matches!(
        t,
        DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::Timestamp(_, _)
            | DataType::Date64
    )
}

impl ValueColumn {
    pub fn new(data_type: &DataType) -> Self {
        match data_type {
            t if is_i64(t) => Self::I64(Column::default()),
            DataType::Float32 | DataType::Float64 => Self::F64(Column::default()),
            DataType::Decimal128(_, _) => Self::I128(Column::default()),
            _ => Self::Scalar(Column::default()),
        }
    }

    pub fn grow(&mut self, len: usize) {
        match self {
            Self::I64(c) => c.grow(len, 0),
            Self::F64(c) => c.grow(len, 0.0),
            Self::I128(c) => c.grow(len, 0),
            Self::Scalar(c) => c.grow(len, ScalarValue::Null),
        }
    }

    pub fn clear(&mut self, slot: usize) {
        match self {
            Self::I64(c) => *c.get_mut(slot) = 0,
            Self::F64(c) => *c.get_mut(slot) = 0.0,
            Self::I128(c) => *c.get_mut(slot) = 0,
            Self::Scalar(c) => *c.get_mut(slot) = ScalarValue::Null,
        }
    }

    pub fn freeze(&mut self) -> Self {
        match self {
            Self::I64(c) => Self::I64(c.freeze()),
            Self::F64(c) => Self::F64(c.freeze()),
            Self::I128(c) => Self::I128(c.freeze()),
            Self::Scalar(c) => Self::Scalar(c.freeze()),
        }
    }

    /// Folds `values` into the groups `slots`; `seen[slot]` counts the values that were not null.
    pub fn fold(&mut self, seen: &mut Column<i64>, slots: &[u32], values: &Values, how: Fold) -> Result<(), StateError> {
        match (self, values) {
            (Self::F64(c), Values::F64(v)) => fold_numbers(c, seen, slots, v.iter(), how),
            (Self::I128(c), Values::I128(v)) => fold_numbers(c, seen, slots, v.iter(), how),
            (Self::Scalar(c), Values::Scalar(v)) => return fold_scalars(c, seen, slots, v, how),
            _ => return Err(StateError::Arrow(ArrowError::CastError("an aggregate's values changed their type".to_owned()))),
        }
        Ok(())
    }

    /// Copies the value of `from` at `source` over the one at `slot`.
    pub fn copy_from(&mut self, slot: usize, from: &Self, source: usize) {
        match (self, from) {
            (Self::I64(c), Self::I64(f)) => *c.get_mut(slot) = *f.get(source),
            (Self::F64(c), Self::F64(f)) => *c.get_mut(slot) = *f.get(source),
            (Self::I128(c), Self::I128(f)) => *c.get_mut(slot) = *f.get(source),
            (Self::Scalar(c), Self::Scalar(f)) => *c.get_mut(slot) = f.get(source).clone(),
            _ => debug_assert!(false, "columns of one aggregate have one representation"),
        }
    }

    /// Folds group `source` of `from` into group `slot`.
    pub fn fold_one(&mut self, slot: usize, filled: bool, from: &Self, source: usize, how: Fold) {
        if !filled {
            return self.copy_from(slot, from, source);
        }
        match (self, from) {
            (Self::F64(c), Self::F64(f)) => apply(c.get_mut(slot), *f.get(source), how),
            (Self::I128(c), Self::I128(f)) => apply(c.get_mut(slot), *f.get(source), how),
            (Self::Scalar(c), Self::Scalar(f)) => apply_scalar(c.get_mut(slot), f.get(source).clone(), how),
            _ => debug_assert!(false, "columns of one aggregate have one representation"),
        }
    }

    /// The values of `slots` as an array of `data_type`; null where nothing was seen.
    pub fn evaluate(&self, seen: &Column<i64>, slots: &[u32], data_type: &DataType) -> Result<ArrayRef, StateError> {
        let valid = |s: &u32| *seen.get(*s as usize) > 0;
        let array: ArrayRef = match self {
            Self::I64(c) => Arc::new(Int64Array::from_iter(slots.iter().map(|s| valid(s).then(|| *c.get(*s as usize))))),
            Self::F64(c) => Arc::new(Float64Array::from_iter(slots.iter().map(|s| valid(s).then(|| *c.get(*s as usize))))),
            Self::I128(c) => {
                let values = Decimal128Array::from_iter(slots.iter().map(|s| valid(s).then(|| *c.get(*s as usize))));
                return Ok(Arc::new(values.with_data_type(data_type.clone())));
            }
            Self::Scalar(c) => {
                let null = ScalarValue::try_from(data_type)?;
                if slots.is_empty() {
                    return Ok(arrow_array::new_empty_array(data_type));
                }
                ScalarValue::iter_to_array(slots.iter().map(|s| if valid(s) { c.get(*s as usize).clone() } else { null.clone() }))?
            }
        };
        Ok(if array.data_type() == data_type { array } else { cast(&array, data_type)? })
    }

    /// All values for a snapshot, `seen` or not.
    pub fn to_array(&self, data_type: &DataType) -> Result<ArrayRef, StateError> {
        Ok(match self {
            Self::I64(c) => Arc::new(Int64Array::from_iter_values(c.iter().copied())),
            Self::F64(c) => Arc::new(Float64Array::from_iter_values(c.iter().copied())),
            Self::I128(c) => Arc::new(Decimal128Array::from_iter_values(c.iter().copied()).with_data_type(data_type.clone())),
            Self::Scalar(c) if c.is_empty() => arrow_array::new_empty_array(data_type),
            Self::Scalar(c) => {
                let null = ScalarValue::try_from(data_type)?;
                ScalarValue::iter_to_array(c.iter().map(|v| if *v == ScalarValue::Null { null.clone() } else { v.clone() }))?
            }
        })
    }

    pub fn restore(&mut self, array: &ArrayRef) -> Result<(), StateError> {
        match (&mut *self, Values::new(array)?) {
            (Self::I64(c), Values::I64(v)) => *c = v.values().iter().copied().collect(),
            (Self::F64(c), Values::F64(v)) => *c = v.values().iter().copied().collect(),
            (Self::I128(c), Values::I128(v)) => *c = v.values().iter().copied().collect(),
            (Self::Scalar(c), Values::Scalar(v)) => {
                for i in 0..v.len() {
                    c.push(ScalarValue::try_from_array(&v, i)?);
                }
            }
            _ => return Err(StateError::Arrow(ArrowError::CastError("a snapshot's column has another type than its aggregate".to_owned()))),
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    Min,
    Max,
}

fn apply<T: Copy + PartialOrd>(held: &mut T, value: T, how: Fold) {
    match how {
        Fold::Min if value < *held => *held = value,
        Fold::Max if value > *held => *held = value,
        Fold::Min | Fold::Max => {}
    }
}

fn apply_scalar(held: &mut ScalarValue, value: ScalarValue, how: Fold) {
    let wanted = if how == Fold::Min { Ordering::Less } else { Ordering::Greater };
    if value.partial_cmp(held) == Some(wanted) {
        *held = value;
    }
}

fn fold_numbers<T: Copy + PartialOrd>(column: &mut Column<T>, seen: &mut Column<i64>, slots: &[u32], values: impl Iterator<Item = Option<T>>, how: Fold) {
    for (slot, value) in slots.iter().zip(values) {
        let (slot, Some(value)) = (*slot as usize, value) else { continue };
        let n = seen.get_mut(slot);
        let held = column.get_mut(slot);
        if *n == 0 {
            *held = value;
        } else {
            apply(held, value, how);
        }
        *n += 1;
    }
}

fn fold_scalars(column: &mut Column<ScalarValue>, seen: &mut Column<i64>, slots: &[u32], values: &ArrayRef, how: Fold) -> Result<(), StateError> {
    for (row, slot) in slots.iter().enumerate() {
        if values.is_null(row) {
            continue;
        }
        let value = ScalarValue::try_from_array(values, row)?;
        let n = seen.get_mut(*slot as usize);
        let held = column.get_mut(*slot as usize);
        if *n == 0 {
            *held = value;
        } else {
            apply_scalar(held, value, how);
        }
        *n += 1;
    }
    Ok(())
}

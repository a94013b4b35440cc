//! Functions with a memory per key: `prev`, `robust_z`, `percent_rank`.
//!
//! They see the rows of a key in log order, so a result depends on the log alone. Results are rounded to 1e-6.

use super::OpError;
use crate::{
    plan::{Expr, KeyedCall, KeyedFunction, Step},
    state::{Frozen, KeyDictionary, Pieces, StateError},
};
use arrow_array::{Array, ArrayRef, BinaryArray, Float64Array, RecordBatch, UInt32Array, cast::AsArray, types::*};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::scalar::ScalarValue;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Earlier rows that a robust z-score needs at least.
const ROBUST_Z_ROWS_MIN: usize = 8;

#[derive(Debug)]
enum Memory {
    /// The last value of each key.
    Last { data_type: DataType, values: BTreeMap<u32, ScalarValue> },
    /// The last `size` numbers of each key.
    History { size: usize, values: BTreeMap<u32, VecDeque<f64>> },
}

#[derive(Debug, Default)]
pub struct KeyedState {
    dictionary: KeyDictionary,
    memories: Vec<Memory>,
}

impl KeyedState {
    pub fn new(steps: &[Step]) -> Self {
        let calls = steps.iter().flat_map(|s| match s {
            Step::Keyed { functions, .. } => functions.as_slice(),
            _ => &[],
        });
        let memories = calls
            .map(|call| match call.function {
                KeyedFunction::Prev => Memory::Last { data_type: call.data_type.clone(), values: BTreeMap::new() },
                KeyedFunction::RobustZ { size } | KeyedFunction::PercentRank { size } => Memory::History { size, values: BTreeMap::new() },
            })
            .collect();
        Self { dictionary: KeyDictionary::default(), memories }
    }

    pub fn is_empty(&self) -> bool {
        self.memories.is_empty()
    }

    /// `batch` with one more column per function; `place` is the number of the first function.
    pub fn append(&mut self, place: usize, calls: &[KeyedCall], schema: &SchemaRef, batch: &RecordBatch, keys: &BinaryArray) -> Result<RecordBatch, OpError> {
        let ids: Vec<u32> = (0..keys.len()).map(|i| self.dictionary.intern(keys.value(i))).collect();
        let mut columns = batch.columns().to_vec();
        for (i, call) in calls.iter().enumerate() {
            let argument = argument(&call.arg, batch)?;
            columns.push(match &mut self.memories[place + i] {
                Memory::Last { data_type, values } => previous(data_type, values, &ids, &argument)?,
                Memory::History { size, values } => ranks(call.function, *size, values, &ids, &argument)?,
            });
        }
        let schema = Arc::new(super::nullable(schema));
        super::batch_of(&schema, columns, batch.num_rows())
    }

    pub fn freeze(&mut self) -> Frozen {
        let keys = self.dictionary.freeze();
        let batches: Result<Vec<_>, StateError> = self.memories.iter().map(memory_batch).collect();
        Box::new(move || {
            let mut pieces =
                Pieces { meta: serde_json::Value::Null, batches: vec![("keys".to_owned(), super::single_column("key", Arc::new(keys.to_array()))?)] };
            pieces.batches.extend(batches?.into_iter().enumerate().map(|(i, b)| (format!("memory.{i}"), b)));
            Ok(pieces)
        })
    }

    pub fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        self.dictionary = KeyDictionary::restore(pieces.take("keys")?.column(0).as_binary());
        for (i, memory) in self.memories.iter_mut().enumerate() {
            let batch = pieces.take(&format!("memory.{i}"))?;
            let ids = batch.column(0).as_primitive::<UInt32Type>();
            match memory {
                Memory::Last { values, .. } => {
                    for (row, id) in ids.values().iter().enumerate() {
                        values.insert(*id, ScalarValue::try_from_array(batch.column(1), row)?);
                    }
                }
                Memory::History { values, .. } => {
                    for (id, v) in ids.values().iter().zip(batch.column(1).as_primitive::<Float64Type>().values()) {
                        values.entry(*id).or_default().push_back(*v);
                    }
                }
            }
        }
        Ok(())
    }
}

fn argument(expr: &Expr, batch: &RecordBatch) -> Result<ArrayRef, OpError> {
    Ok(crate::steps::evaluate(expr, batch)?)
}

fn previous(data_type: &DataType, values: &mut BTreeMap<u32, ScalarValue>, ids: &[u32], argument: &ArrayRef) -> Result<ArrayRef, OpError> {
    if ids.is_empty() {
        return Ok(arrow_array::new_empty_array(data_type));
    }
    let null = ScalarValue::try_from(data_type)?;
    let mut out = Vec::with_capacity(ids.len());
    for (row, id) in ids.iter().enumerate() {
        let value = ScalarValue::try_from_array(argument, row)?;
        out.push(values.insert(*id, value).unwrap_or_else(|| null.clone()));
    }
    Ok(ScalarValue::iter_to_array(out)?)
}

fn ranks(function: KeyedFunction, size: usize, values: &mut BTreeMap<u32, VecDeque<f64>>, ids: &[u32], argument: &ArrayRef) -> Result<ArrayRef, OpError> {
    let numbers = arrow_cast::cast(argument, &DataType::Float64)?;
    let numbers = numbers.as_primitive::<Float64Type>();
    let out: Float64Array = ids
        .iter()
        .enumerate()
        .map(|(row, id)| {
            let x = numbers.is_valid(row).then(|| numbers.value(row))?;
            let history = values.entry(*id).or_default();
            let result = match function {
                KeyedFunction::RobustZ { .. } => robust_z(x, history),
                _ => percent_rank(x, history),
            };
            if history.len() == size {
                history.pop_front();
            }
            history.push_back(x);
            result.map(|r| (r * 1e6).round() / 1e6)
        })
        .collect();
    Ok(Arc::new(out))
}

/// 0.6745 (x − median) / MAD: Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993.
pub fn robust_z(x: f64, history: &VecDeque<f64>) -> Option<f64> {
    if history.len() < ROBUST_Z_ROWS_MIN {
        return None;
    }
    let median = median(history.iter().copied().collect());
    let mad = self::median(history.iter().map(|v| (v - median).abs()).collect());
    (mad > 0.0).then(|| 0.6745 * (x - median) / mad)
}

/// Share of the history that is at most `x`.
pub fn percent_rank(x: f64, history: &VecDeque<f64>) -> Option<f64> {
    let at_most = |part: &[f64]| part.iter().map(|v| u64::from(*v <= x)).sum::<u64>();
    let (older, newer) = history.as_slices();
    (!history.is_empty()).then(|| (at_most(older) + at_most(newer)) as f64 / history.len() as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let mid = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[mid - 1] + values[mid]) / 2.0 } else { values[mid] }
}

fn memory_batch(memory: &Memory) -> Result<RecordBatch, StateError> {
    let (ids, values): (Vec<u32>, ArrayRef) = match memory {
        Memory::Last { data_type, values } => {
            let array = if values.is_empty() { arrow_array::new_empty_array(data_type) } else { ScalarValue::iter_to_array(values.values().cloned())? };
            (values.keys().copied().collect(), array)
        }
        Memory::History { values, .. } => {
            let (ids, numbers): (Vec<u32>, Vec<f64>) = values.iter().flat_map(|(id, h)| h.iter().map(move |v| (*id, *v))).unzip();
            (ids, Arc::new(Float64Array::from(numbers)))
        }
    };
    let schema = Schema::new(vec![Field::new("id", DataType::UInt32, false), Field::new("value", values.data_type().clone(), true)]);
    Ok(RecordBatch::try_new(Arc::new(schema), vec![Arc::new(UInt32Array::from(ids)), values])?)
}

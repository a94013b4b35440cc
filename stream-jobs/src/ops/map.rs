//! A map: filters and projections over rows or changes, and functions that look at the earlier rows of a key.

use super::{Context, Effects, Flow, OpError, Operator, keyed::KeyedState};
use crate::{
    delta::Delta,
    plan::Step,
    state::{Frozen, Pieces, StateError},
};
use arrow_array::{ArrayRef, BinaryArray};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{DataType, Field, SchemaRef};

pub struct MapOperator {
    steps: Vec<Step>,
    schema: SchemaRef,
    keyed: KeyedState,
}

impl MapOperator {
    pub fn new(steps: Vec<Step>, schema: SchemaRef) -> Self {
        let keyed = KeyedState::new(&steps);
        Self { steps, schema, keyed }
    }

    fn through_keyed(&mut self, mut delta: Delta) -> Result<Delta, OpError> {
        let mut place = 0;
        for step in &self.steps {
            delta = match step {
                Step::Keyed { functions, key, schema } => {
                    let keys = keys(&delta, key)?;
                    let batch = self.keyed.append(place, functions, schema, &delta.batch, &keys)?;
                    place += functions.len();
                    Delta { batch, ..delta }
                }
                Step::Filter(_) | Step::Project { .. } => delta.through(std::slice::from_ref(step))?,
            }
        }
        Ok(delta)
    }
}

/// The key columns of the rows, in Arrow's row format.
fn keys(delta: &Delta, key: &[usize]) -> Result<BinaryArray, OpError> {
    if key.is_empty() {
        return Ok(BinaryArray::from_iter_values((0..delta.len()).map(|_| b"")));
    }
    let columns: Vec<ArrayRef> = key.iter().map(|i| delta.batch.column(*i).clone()).collect();
    let converter = RowConverter::new(columns.iter().map(|c| SortField::new(c.data_type().clone())).collect::<Vec<SortField>>())?;
    let rows = converter.convert_columns(&columns)?;
    Ok(BinaryArray::from_iter_values(rows.iter().map(|r| r.data().to_vec())))
}

impl Operator for MapOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], effects: &mut Effects) -> Result<Delta, OpError> {
        (context.set_now)(context.now_us);
        let delta = inputs[0].delta.clone();
        if delta.is_quiet() {
            return Ok(Delta::empty(self.schema.clone()));
        }
        let rows = delta.len();
        let delta = if self.keyed.is_empty() { delta.through(&self.steps)? } else { self.through_keyed(delta)? };
        effects.filtered += (rows - delta.len()) as u64;
        if self.keyed.is_empty() { Ok(delta.without_idle_updates()?) } else { Ok(delta) }
    }

    fn freeze(&mut self) -> Frozen {
        self.keyed.freeze()
    }

    fn restore(&mut self, pieces: Pieces) -> Result<(), StateError> {
        self.keyed.restore(pieces)
    }
}

/// Key columns of a view for functions that look at earlier rows: its key without the window's columns.
pub fn entity_columns(key: &[usize], schema: &SchemaRef) -> Vec<usize> {
    let is_window = |f: &Field| matches!(f.data_type(), DataType::Timestamp(_, _)) && f.name().starts_with("window_");
    key.iter().copied().filter(|i| !is_window(schema.field(*i))).collect()
}

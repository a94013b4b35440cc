//! `UNION ALL`: the rows of all inputs, each after its own steps.

use super::{Context, Effects, Flow, OpError, Operator};
use crate::{
    delta::Delta,
    plan::UnionInput,
    state::{Frozen, Pieces, StateError},
};
use arrow_schema::SchemaRef;

pub struct UnionOperator {
    inputs: Vec<UnionInput>,
    schema: SchemaRef,
}

impl UnionOperator {
    pub fn new(inputs: Vec<UnionInput>, schema: SchemaRef) -> Self {
        Self { inputs, schema }
    }
}

impl Operator for UnionOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], _effects: &mut Effects) -> Result<Delta, OpError> {
        (context.set_now)(context.now_us);
        let mut parts = Vec::with_capacity(inputs.len());
        for (flow, input) in inputs.iter().zip(&self.inputs) {
            if !flow.delta.is_empty() {
                parts.push(Delta { gone: None, ..flow.delta.clone() }.through(&input.steps)?.named(&self.schema)?);
            }
        }
        Ok(Delta::concat(&self.schema, parts)?)
    }

    fn freeze(&mut self) -> Frozen {
        Box::new(|| Ok(Pieces::default()))
    }

    fn restore(&mut self, _pieces: Pieces) -> Result<(), StateError> {
        Ok(())
    }
}

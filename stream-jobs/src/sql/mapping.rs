//! A mapping: one `SELECT … FROM input` that turns the rows of a file into the rows of an event.

use super::{
    catalog::{Catalog, RelationInfo},
    error::{SqlError, from_datafusion, place},
    functions::FunctionContext,
    on_deep_stack,
    query::{self, Base},
    scope::Scope,
    statement, tokens,
    view::Settings,
};
use crate::{
    plan::{Relation, Step},
    steps::{filter_mask, project_strictly},
};
use arrow_array::{RecordBatch, UInt32Array, cast::AsArray, types::UInt32Type};
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::filter::{filter, filter_record_batch};
use datafusion::{common::DataFusionError, sql::sqlparser::tokenizer::Location};
use std::sync::Arc;

/// The name under which the query reads.
const INPUT: &str = "input";

#[derive(Debug, Clone)]
pub struct Mapping {
    steps: Vec<Step>,
    schema: SchemaRef,
}

impl Mapping {
    /// Compiles `sql` over rows of `input`. Filters and projections only: each row is mapped by itself.
    pub fn new(sql: &str, input: SchemaRef) -> Result<Self, SqlError> {
        on_deep_stack(|| Self::plan(sql, input))
    }

    fn plan(sql: &str, input: SchemaRef) -> Result<Self, SqlError> {
        let statements = tokens::statements(sql)?;
        let [tokens] = statements.as_slice() else {
            let second = statements.get(1).map_or(Location::new(1, 1), |tokens| tokens.start());
            return Err(SqlError::at(second, "a mapping is one `SELECT … FROM input`"));
        };
        let mut catalog = Catalog::new(&FunctionContext::default());
        catalog.add(input_relation(input));
        let mut scope = Scope::new(Arc::new(catalog), Settings::plain(tokens), 0);
        let mut planned = query::plan(statement::query(tokens)?, tokens, &mut scope)?;
        let refused = |message: &str| Err(place(SqlError::unplaced(message), tokens));
        if !matches!(planned.base, Base::Relation { window: None, .. }) || !scope.specs.is_empty() {
            return refused("a mapping maps each row by itself: no `GROUP BY`, no `JOIN`");
        }
        let schema = planned.rows.finish().map_err(|e| from_datafusion(e, tokens))?;
        if planned.rows.uses_now {
            return refused("`now()` cannot stand in a mapping: the same file gives the same rows");
        }
        Ok(Self { steps: planned.rows.steps, schema })
    }

    /// The columns of the result.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The mapped rows, and for each of them the row of `batch` that it was made from. A row that cannot be mapped (a text that is no
    /// number) is an error of the whole batch: a caller that wants to know which one maps the rows by halves.
    pub fn apply(&self, batch: &RecordBatch) -> Result<(RecordBatch, Vec<u32>), ArrowError> {
        let mut rows = UInt32Array::from_iter_values(0..batch.num_rows() as u32);
        let mut current = batch.clone();
        for step in &self.steps {
            match step {
                Step::Filter(expr) => {
                    let mask = filter_mask(expr, &current).map_err(arrow_error)?;
                    rows = filter(&rows, &mask)?.as_primitive::<UInt32Type>().clone();
                    current = filter_record_batch(&current, &mask)?;
                }
                Step::Project { exprs, schema } => current = project_strictly(exprs, schema, &current).map_err(arrow_error)?,
                // The planner refuses these over rows without a key.
                Step::Keyed { .. } => return Err(ArrowError::NotYetImplemented("a keyed function in a mapping".into())),
            }
        }
        Ok((current, rows.values().to_vec()))
    }
}

fn arrow_error(error: DataFusionError) -> ArrowError {
    match error {
        DataFusionError::ArrowError(inner, _) => *inner,
        other => ArrowError::ComputeError(other.strip_backtrace()),
    }
}

fn input_relation(schema: SchemaRef) -> RelationInfo {
    RelationInfo {
        name: INPUT.into(),
        relation: Relation::Source(0),
        schema: Arc::clone(&schema),
        key: Vec::new(),
        window_columns: Vec::new(),
        time_column: None,
        time_is_window_end: false,
        partition: None,
        level: 1,
        changes: false,
        stream: true,
        part: false,
        broadcast: false,
    }
}

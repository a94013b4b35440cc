//! Evaluates compiled expressions over a batch: the work that every operator shares.
//!
//! A record's fault never stops a task: where an expression fails for a row (a division by zero, a text that is no number), its value
//! for that row is null, and is counted in `headend_failed_expressions_total`. The rows around it are untouched. An error that
//! does not come from the data comes out as an error.

use crate::plan::{Expr, Step};
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, cast::AsArray, new_null_array};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use arrow_select::{
    concat::concat,
    filter::{filter_record_batch, prep_null_mask_filter},
};
use datafusion::common::{DataFusionError, exec_err};

/// One value a row of `batch`. A constant becomes as many rows as `batch` has.
pub fn evaluate(expr: &Expr, batch: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    match evaluate_strictly(expr, batch) {
        Err(error) if is_fault_of_data(&error) => evaluate_around_faults(expr, batch),
        result => result,
    }
}

/// As [`evaluate`], but a row for which the expression fails is an error.
pub fn evaluate_strictly(expr: &Expr, batch: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    expr.evaluate(batch)?.into_array(batch.num_rows())
}

/// Halves the batch until the rows that fail stand alone: a few of them cost a few evaluations and not one for each row.
fn evaluate_around_faults(expr: &Expr, batch: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    let rows = batch.num_rows();
    if rows <= 1 {
        count_failed(rows);
        return Ok(new_null_array(&expr.data_type(&batch.schema())?, rows));
    }
    let half = rows / 2;
    let (first, second) = (evaluate(expr, &batch.slice(0, half))?, evaluate(expr, &batch.slice(half, rows - half))?);
    Ok(concat(&[first.as_ref(), second.as_ref()])?)
}

/// Counts rows whose value is null because it could not be computed.
pub fn count_failed(rows: usize) {
    if rows > 0 {
        metrics::counter!("headend_failed_expressions_total").increment(rows as u64);
    }
}

fn is_fault_of_data(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::Execution(_) => true,
        DataFusionError::ArrowError(inner, _) => matches!(
            inner.as_ref(),
            ArrowError::DivideByZero
                | ArrowError::CastError(_)
                | ArrowError::ParseError(_)
                | ArrowError::ComputeError(_)
                | ArrowError::ArithmeticOverflow(_)
                | ArrowError::InvalidArgumentError(_)
        ),
        _ => false,
    }
}

/// The columns of `exprs` over `batch`, as a batch of `schema`.
pub fn project(exprs: &[Expr], schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
    let columns = exprs.iter().map(|expr| evaluate(expr, batch)).collect::<Result<Vec<_>, _>>()?;
    batch_of(schema, columns, batch.num_rows())
}

/// Runs stateless steps over joined rows: which of the rows are left, and what became of them.
pub fn through(plan: &[Step], mut batch: RecordBatch) -> Result<(Vec<usize>, RecordBatch), DataFusionError> {
    let mut kept: Vec<usize> = (0..batch.num_rows()).collect();
    for step in plan {
        match step {
            Step::Filter(expr) => {
                let mask = filter_mask(expr, &batch)?;
                batch = filter_record_batch(&batch, &mask)?;
                kept = kept.into_iter().zip(mask.iter()).filter(|(_, m)| *m == Some(true)).map(|(k, _)| k).collect();
            }
            Step::Project { exprs, schema } => batch = project(exprs, schema, &batch)?,
            Step::Keyed { .. } => return Err(DataFusionError::Internal("a keyed function stands over a join".to_owned())),
        }
    }
    Ok((kept, batch))
}

/// As [`project`], but a row for which an expression fails is an error.
pub fn project_strictly(exprs: &[Expr], schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
    let columns = exprs.iter().map(|expr| evaluate_strictly(expr, batch)).collect::<Result<Vec<_>, _>>()?;
    batch_of(schema, columns, batch.num_rows())
}

fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, DataFusionError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

/// One bit a row: true where `expr` is true. Null is false, as in SQL's `WHERE`.
pub fn filter_mask(expr: &Expr, batch: &RecordBatch) -> Result<BooleanArray, DataFusionError> {
    let array = evaluate(expr, batch)?;
    match array.data_type() {
        DataType::Boolean => {}
        DataType::Null => return Ok(BooleanArray::from(vec![false; array.len()])),
        other => return exec_err!("a condition is `{other}`, expected a boolean"),
    }
    let mask = array.as_boolean();
    Ok(if mask.null_count() == 0 { mask.clone() } else { prep_null_mask_filter(mask) })
}

//! Evaluates compiled expressions over a batch: the two kinds of work that every operator shares.

use crate::plan::Expr;
use arrow_array::{Array, BooleanArray, RecordBatch, RecordBatchOptions, cast::AsArray};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::filter::prep_null_mask_filter;
use datafusion::common::{DataFusionError, exec_err};

/// The columns of `exprs` over `batch`, as a batch of `schema`. A constant becomes as many rows as `batch` has.
pub fn project(exprs: &[Expr], schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
    let rows = batch.num_rows();
    let columns = exprs.iter().map(|expr| expr.evaluate(batch)?.into_array(rows)).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

/// One bit a row: true where `expr` is true. Null is false, as in SQL's `WHERE`.
pub fn filter_mask(expr: &Expr, batch: &RecordBatch) -> Result<BooleanArray, DataFusionError> {
    let array = expr.evaluate(batch)?.into_array(batch.num_rows())?;
    match array.data_type() {
        DataType::Boolean => {}
        DataType::Null => return Ok(BooleanArray::from(vec![false; array.len()])),
        other => return exec_err!("a condition is `{other}`, expected a boolean"),
    }
    let mask = array.as_boolean();
    Ok(if mask.null_count() == 0 { mask.clone() } else { prep_null_mask_filter(mask) })
}

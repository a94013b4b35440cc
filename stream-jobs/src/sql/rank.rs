//! `ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) <= n`: the best rows of each partition, or with `= 1` one of many.

use super::{
    catalog::RelationInfo,
    error::SqlError,
    query::{Base, Planned},
    rows::{Place, Rows},
    scope::Scope,
};
use crate::plan::Expr as Compiled;
use arrow_schema::{DataType, Field, Schema, SchemaRef, SortOptions};
use datafusion::{
    common::{Result, ScalarValue},
    logical_expr::{
        self as logical, BinaryExpr, Expr, Operator, WindowFunctionDefinition,
        utils::{conjunction, split_conjunction},
    },
};
use std::sync::Arc;

/// Row numbers over one relation, before it is known in which task they run.
#[derive(Debug, Clone)]
pub(super) struct Ranked {
    /// The relation as it is after `pre`.
    pub info: Arc<RelationInfo>,
    pub pre: Rows,
    pub partition: Vec<Compiled>,
    /// The column after `pre` that each partition column is, unchanged.
    pub partition_origins: Vec<Option<usize>>,
    pub order: Vec<(Compiled, SortOptions)>,
    pub limit: Option<usize>,
    /// What the user calls the row number.
    pub name: String,
    /// Columns after `pre`, then the row number.
    pub schema: SchemaRef,
}

impl Ranked {
    /// The row number among the columns of `schema`.
    pub fn place(&self) -> usize {
        self.schema.fields().len() - 1
    }

    /// A condition above: a bound of the row number is ours, the rest filters what is left.
    pub fn filter(&mut self, rows: &mut Rows, predicate: &Expr) -> Result<()> {
        let mut others = Vec::new();
        for condition in split_conjunction(predicate) {
            match self.limit_of(rows, condition) {
                Some(limit) => {
                    if limit < 1 {
                        let error = SqlError::unplaced(format!("`{condition}` keeps no row"));
                        return Err(error.hint("row numbers begin with 1").into());
                    }
                    self.limit = Some(self.limit.map_or(limit as usize, |held| held.min(limit as usize)));
                }
                None => others.push(condition.clone()),
            }
        }
        match conjunction(others) {
            Some(rest) if self.limit.is_none() && self.speaks_of_place(rows, &rest) => {
                Err(SqlError::unplaced(format!("`{}` is no bound of a row number", rest.human_display()))
                    .hint("write `rn <= 10`, with a constant whole number, or `rn = 1`")
                    .into())
            }
            Some(rest) => rows.filter(&rest),
            None => Ok(()),
        }
    }

    fn speaks_of_place(&self, rows: &Rows, expr: &Expr) -> bool {
        use datafusion::common::tree_node::TreeNode;
        expr.exists(|inner| Ok(self.is_place(rows, inner))).unwrap_or(false)
    }

    fn is_place(&self, rows: &Rows, expr: &Expr) -> bool {
        match expr {
            Expr::Cast(cast) => self.is_place(rows, &cast.expr),
            _ => matches!(rows.place_of(expr), Some(Place::Physical(_))) && rows.origin_of(expr) == Some(self.place()),
        }
    }

    fn limit_of(&self, rows: &Rows, condition: &Expr) -> Option<i128> {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return None };
        let (op, number) = if self.is_place(rows, left) {
            (*op, number_of(right)?)
        } else if self.is_place(rows, right) {
            (op.swap()?, number_of(left)?)
        } else {
            return None;
        };
        match op {
            Operator::LtEq => Some(number),
            Operator::Lt => Some(number - 1),
            Operator::Eq if number == 1 => Some(1),
            _ => None,
        }
    }
}

fn number_of(expr: &Expr) -> Option<i128> {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(n)), _) => Some(i128::from(*n)),
        Expr::Literal(ScalarValue::UInt64(Some(n)), _) => Some(i128::from(*n)),
        Expr::Literal(ScalarValue::Int32(Some(n)), _) => Some(i128::from(*n)),
        Expr::Cast(cast) => number_of(&cast.expr),
        _ => None,
    }
}

pub(super) fn build(input: Planned, window: &logical::Window, scope: &mut Scope<'_>) -> Result<Planned> {
    let over_rows = matches!(input.base, Base::Relation { window: None, .. }) && !input.rows.has_keyed_step();
    let Planned { base, rows: mut pre } = if over_rows { input } else { scope.as_view(input)? };
    let Base::Relation { info, .. } = base else { return Err(SqlError::unplaced("`ROW_NUMBER` over this query is not part of this version").into()) };
    let [expr] = window.window_expr.as_slice() else {
        return Err(SqlError::unplaced("one `OVER` a query").hint("put the second into a view over the first").into());
    };
    let function = function_of(expr);
    let Some(function) = function.filter(|f| matches!(&f.fun, WindowFunctionDefinition::WindowUDF(udf) if udf.name() == "row_number")) else {
        return Err(SqlError::unplaced("with `OVER` stands `ROW_NUMBER()` alone, and a bound of it around the query")
            .hint("aggregate with `GROUP BY` over a window, or use `prev`, `robust_z` and `percent_rank`")
            .into());
    };
    let params = &function.params;
    if params.order_by.is_empty() {
        let error = SqlError::unplaced("`ROW_NUMBER()` has no order by which rows are counted");
        return Err(error.hint("write `OVER (PARTITION BY … ORDER BY …)`").into());
    }
    pre.settle()?;
    let (mut partition, mut partition_origins, mut order) = (Vec::new(), Vec::new(), Vec::new());
    for column in &params.partition_by {
        partition_origins.push(match pre.place_of(column) {
            Some(Place::Physical(index)) => Some(index),
            _ => None,
        });
        partition.push(pre.compile(column)?);
    }
    for sort in &params.order_by {
        order.push((pre.compile(&sort.expr)?, SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first }));
    }
    let name = window.schema.field(window.schema.fields().len() - 1).name().clone();
    let place = Arc::new(Field::new("__place", DataType::UInt64, true));
    let schema: SchemaRef = Arc::new(Schema::new(pre.schema().fields().iter().cloned().chain([place]).collect::<Vec<_>>()));
    let rows = Rows::new(window.schema.clone()).with_types(&schema);
    let info = Arc::new(info.after(&pre));
    let ranked = Ranked { info, pre, partition, partition_origins, order, limit: None, name, schema };
    Ok(Planned { base: Base::Rank(Box::new(ranked)), rows })
}

fn function_of(expr: &Expr) -> Option<&logical::expr::WindowFunction> {
    match expr {
        Expr::Alias(alias) => function_of(&alias.expr),
        Expr::WindowFunction(function) => Some(function),
        _ => None,
    }
}

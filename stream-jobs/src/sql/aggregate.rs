//! `GROUP BY`: group columns, aggregate functions, and their split in two where the rows of a group lie in several tasks.

use super::{
    catalog::{RelationInfo, WindowCall},
    error::SqlError,
    query::{Base, Planned},
    rows::{Place, Rows},
    statement::timestamp,
};
use crate::ops::window::partial_schema;
use crate::plan::{Aggregate, AggregateCall, AggregateFunction, Expr as Compiled, GroupColumn, Phase, Relation, Step, WindowSpec};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::{
    common::Result,
    logical_expr::{self as logical, Expr, expr::AggregateFunctionParams},
    physical_expr::{
        aggregate::AggregateExprBuilder,
        expressions::{CastExpr, Column as PhysicalColumnExpr},
    },
};
use std::sync::Arc;

/// An aggregate over one relation, before it is known in which task it runs.
#[derive(Debug)]
pub(super) struct Grouped {
    pub info: Arc<RelationInfo>,
    pub window: Option<WindowCall>,
    pub pre: Rows,
    pub group: Vec<GroupColumn>,
    /// The relation's column that each group column is, unchanged.
    pub group_origins: Vec<Option<usize>>,
    pub calls: Vec<AggregateCall>,
    /// Names of the functions, for messages.
    pub call_names: Vec<String>,
    /// Group columns, then results.
    pub schema: SchemaRef,
}

pub(super) fn build(input: Planned, aggregate: &logical::Aggregate) -> Result<Planned> {
    let (info, window) = match input.base {
        Base::Relation { info, window } => (info, window),
        Base::Aggregate(_) => return Err(own_view("an aggregate over a query that aggregates").into()),
        Base::Join(_) => return Err(own_view("an aggregate over a join").into()),
    };
    let mut pre = input.rows;
    if pre.has_keyed_step() {
        return Err(own_view("an aggregate over `prev`, `robust_z` or `percent_rank`").into());
    }
    let (group, group_fields, group_origins) = group_columns(&mut pre, aggregate)?;
    if window.is_some() && !group.iter().any(is_bound) {
        let error = SqlError::unplaced("a window function needs `window_start` or `window_end` among the columns of `GROUP BY`");
        return Err(error.hint("write `GROUP BY …, window_start, window_end`").into());
    }
    if group.is_empty() {
        let error = SqlError::unplaced("an aggregate without `GROUP BY` has no key by which its row is known");
        return Err(error.hint("group by a column, or by `window_start` and `window_end` of `TUMBLE`").into());
    }
    let mut fields = group_fields;
    let (mut calls, mut call_names) = (Vec::new(), Vec::new());
    for (expr, field) in aggregate.aggr_expr.iter().zip(aggregate.schema.fields().iter().skip(group.len())) {
        let call = call_of(&mut pre, expr, field)?;
        call_names.push(function_of(expr).map(|f| f.func.name().to_string()).unwrap_or_default());
        fields.push(Arc::new(Field::new(field.name(), call.data_type.clone(), true)));
        calls.push(call);
    }
    let schema = Arc::new(Schema::new(fields));
    let rows = Rows::new(aggregate.schema.clone()).with_types(&schema);
    let grouped = Grouped { info, window, pre, group, group_origins, calls, call_names, schema };
    Ok(Planned { base: Base::Aggregate(Box::new(grouped)), rows })
}

fn own_view(what: &str) -> SqlError {
    SqlError::unplaced(format!("{what} is not part of this version")).hint("make the inner query a view of its own")
}

pub(super) fn is_bound(column: &GroupColumn) -> bool {
    matches!(column, GroupColumn::WindowStart | GroupColumn::WindowEnd)
}

type GroupColumns = (Vec<GroupColumn>, Vec<FieldRef>, Vec<Option<usize>>);

fn group_columns(pre: &mut Rows, aggregate: &logical::Aggregate) -> Result<GroupColumns> {
    let (mut group, mut fields, mut origins) = (Vec::new(), Vec::new(), Vec::new());
    for (expr, field) in aggregate.group_expr.iter().zip(aggregate.schema.fields()) {
        let expr = expr.clone().unalias_nested().data;
        if matches!(expr, Expr::GroupingSet(_)) {
            return Err(SqlError::unplaced("`ROLLUP`, `CUBE` and `GROUPING SETS` are not part of this version")
                .hint("write one view for each grouping")
                .into());
        }
        let (column, data_type) = match pre.place_of(&expr) {
            Some(Place::WindowStart) => (GroupColumn::WindowStart, timestamp()),
            Some(Place::WindowEnd) => (GroupColumn::WindowEnd, timestamp()),
            _ => {
                let (expr, data_type) = as_utf8(pre.compile(&expr)?, &pre.schema())?;
                (GroupColumn::Expr(expr), data_type)
            }
        };
        origins.push(pre.origin_of(&expr));
        fields.push(Arc::new(Field::new(field.name(), data_type, true)));
        group.push(column);
    }
    Ok((group, fields, origins))
}

/// Text of a group is `Utf8`, whatever the function that made it returns.
fn as_utf8(expr: Compiled, schema: &Schema) -> Result<(Compiled, DataType)> {
    Ok(match expr.data_type(schema)? {
        DataType::Utf8View | DataType::LargeUtf8 => (Arc::new(CastExpr::new(expr, DataType::Utf8, None)), DataType::Utf8),
        other => (expr, other),
    })
}

fn function_of(expr: &Expr) -> Option<&logical::expr::AggregateFunction> {
    match expr {
        Expr::Alias(alias) => function_of(&alias.expr),
        Expr::AggregateFunction(function) => Some(function),
        _ => None,
    }
}

fn call_of(pre: &mut Rows, expr: &Expr, field: &FieldRef) -> Result<AggregateCall> {
    let Some(function) = function_of(expr) else {
        return Err(SqlError::unplaced(format!("`{expr}` is no aggregate")).into());
    };
    let (name, params) = (function.func.name(), &function.params);
    check_params(name, params)?;
    let counts_rows = name == "count" && !params.distinct && params.args.iter().all(|a| matches!(a, Expr::Literal(value, _) if !value.is_null()));
    let mut args = if counts_rows { Vec::new() } else { params.args.iter().map(|arg| pre.compile(arg)).collect::<Result<Vec<_>>>()? };
    let filter = params.filter.as_ref().map(|filter| pre.compile(filter)).transpose()?;
    let function = match own_function(name, params.distinct, args.first(), &pre.schema())? {
        Some(own) => own,
        None => {
            let built = AggregateExprBuilder::new(function.func.clone(), args.clone())
                .schema(pre.schema())
                .alias(field.name())
                .with_distinct(params.distinct)
                .build()?;
            AggregateFunction::DataFusion(Arc::new(built))
        }
    };
    let mut data_type = field.data_type().clone();
    if matches!(function, AggregateFunction::Avg) && data_type != DataType::Float64 {
        // The mean of decimals is kept as floats; the type that the plan expects is put back after the aggregate.
        args = vec![Arc::new(CastExpr::new(args[0].clone(), DataType::Float64, None))];
        data_type = DataType::Float64;
    }
    Ok(AggregateCall { function, args, filter, data_type })
}

fn check_params(name: &str, params: &AggregateFunctionParams) -> Result<()> {
    if !params.order_by.is_empty() {
        return Err(SqlError::unplaced(format!("`ORDER BY` inside of `{name}` is not part of this version"))
            .hint("`first_value` and `last_value` go by event time by themselves")
            .into());
    }
    if params.null_treatment.is_some() {
        let message = format!("`IGNORE NULLS` of `{name}` is not part of this version");
        return Err(SqlError::unplaced(message).hint(format!("write `{name}(x) FILTER (WHERE x IS NOT NULL)`")).into());
    }
    Ok(())
}

/// The functions that are columns of our own, where the type of their argument allows it.
fn own_function(name: &str, distinct: bool, arg: Option<&Compiled>, schema: &Schema) -> Result<Option<AggregateFunction>> {
    if distinct {
        return Ok(None);
    }
    let arg = arg.map(|arg| arg.data_type(schema)).transpose()?;
    let number = matches!(arg, Some(DataType::Int64 | DataType::UInt64 | DataType::Float64 | DataType::Decimal128(..)));
    let plain = arg.as_ref().is_some_and(|t| !t.is_nested());
    Ok(match name {
        "count" => Some(AggregateFunction::Count),
        "sum" if number => Some(AggregateFunction::Sum),
        "avg" if matches!(arg, Some(DataType::Float64 | DataType::Decimal128(..))) => Some(AggregateFunction::Avg),
        "min" if plain => Some(AggregateFunction::Min),
        "max" if plain => Some(AggregateFunction::Max),
        "first_value" if plain => Some(AggregateFunction::FirstValue),
        "last_value" if plain => Some(AggregateFunction::LastValue),
        _ => None,
    })
}

impl Grouped {
    /// The name of the first function that is not one of `count`, `sum` and `avg`: rows can be added to the others only.
    pub fn first_unretractable(&self) -> Option<&str> {
        let retractable = |f: &AggregateFunction| matches!(f, AggregateFunction::Count | AggregateFunction::Sum | AggregateFunction::Avg);
        self.calls.iter().zip(&self.call_names).find(|(call, _)| !retractable(&call.function)).map(|(_, name)| name.as_str())
    }

    /// The name of the first function that DataFusion serves.
    pub fn first_foreign(&self) -> Option<&str> {
        let foreign = |f: &AggregateFunction| matches!(f, AggregateFunction::DataFusion(_));
        self.calls.iter().zip(&self.call_names).find(|(call, _)| foreign(&call.function)).map(|(_, name)| name.as_str())
    }

    fn spec(&self, window: WindowCall, time_column: usize, time_is_window_end: bool) -> WindowSpec {
        WindowSpec { time_column, time_is_window_end, size_us: window.size_us, slide_us: window.slide_us, offset_us: window.offset_us }
    }

    /// The window over the rows after `pre`.
    fn input_spec(&self, window: WindowCall) -> Result<WindowSpec> {
        let time = self.info.time_column.and_then(|origin| self.pre.column_of(origin));
        let time = time.ok_or_else(|| SqlError::unplaced(format!("the subquery loses the time of `{}`", self.info.name)))?;
        Ok(self.spec(window, time, self.info.time_is_window_end))
    }

    /// The whole aggregate in the task of its input.
    pub fn single(&self, by_record_key: bool) -> Result<Aggregate> {
        Ok(Aggregate {
            input: self.info.relation,
            pre: self.pre.steps.clone(),
            phase: Phase::Single,
            window: self.window.map(|window| self.input_spec(window)).transpose()?,
            group: self.group.clone(),
            aggregates: self.calls.clone(),
            schema: self.schema.clone(),
            post: Vec::new(),
            by_record_key,
        })
    }

    /// The part that runs beside the rows: states of panes, in the layout that the operators define.
    pub fn partial(&self, window: WindowCall) -> Result<Aggregate> {
        if let Some(name) = self.first_foreign() {
            let error = SqlError::unplaced(format!("`{name}` cannot be split over tasks in this version"));
            return Err(error.hint("use `count`, `sum`, `min`, `max`, `avg`, `first_value` or `last_value`").into());
        }
        let pane_us = window.pane_us();
        let pane = WindowCall { size_us: pane_us, slide_us: pane_us, offset_us: window.offset_us % pane_us };
        let mut partial = Aggregate {
            input: self.info.relation,
            pre: self.pre.steps.clone(),
            phase: Phase::Partial,
            window: Some(self.input_spec(pane)?),
            group: self.group.clone(),
            aggregates: self.calls.clone(),
            schema: self.schema.clone(),
            post: Vec::new(),
            by_record_key: false,
        };
        partial.schema = partial_schema(&partial);
        Ok(partial)
    }

    /// The part that adds the states of `partial` up. Its arguments are the columns of the states.
    pub fn merging(&self, window: WindowCall, partial: &Aggregate, input: Relation) -> Aggregate {
        let column = |index: usize| Arc::new(PhysicalColumnExpr::new(partial.schema.field(index).name(), index)) as Compiled;
        let group = self.group.iter().enumerate().map(|(index, own)| match own {
            GroupColumn::Expr(_) => GroupColumn::Expr(column(index)),
            bound => bound.clone(),
        });
        let aggregates = self.calls.iter().enumerate().map(|(i, call)| {
            let prefix = format!("__s{i}_");
            let states = (0..partial.schema.fields().len()).filter(|c| partial.schema.field(*c).name().starts_with(&prefix));
            AggregateCall { function: call.function.clone(), args: states.map(column).collect(), filter: None, data_type: call.data_type.clone() }
        });
        Aggregate {
            input,
            pre: Vec::new(),
            phase: Phase::Final,
            window: Some(self.spec(window, partial.group.len() + 1, true)),
            group: group.collect(),
            aggregates: aggregates.collect(),
            schema: self.schema.clone(),
            post: Vec::new(),
            by_record_key: false,
        }
    }
}

/// What crosses from the tasks of the rows to those of the groups.
pub(super) struct Crossing {
    pub steps: Vec<Step>,
    pub schema: SchemaRef,
    /// Columns of the source's key, and its time.
    pub key: Vec<usize>,
    pub time_column: Option<usize>,
}

impl Grouped {
    /// Moves all computing in front of the crossing, so that no column crosses which the aggregate does not read. What remains reads
    /// the columns that came over.
    pub fn cross(&mut self) -> Result<Crossing> {
        let mut columns = Columns { input: self.pre.schema(), exprs: Vec::new(), fields: Vec::new() };
        for (i, column) in self.group.iter_mut().enumerate() {
            if let GroupColumn::Expr(expr) = column {
                *expr = columns.push(expr.clone(), format!("__g{i}"))?;
            }
        }
        for (i, call) in self.calls.iter_mut().enumerate() {
            for (j, arg) in call.args.iter_mut().enumerate() {
                *arg = columns.push(arg.clone(), format!("__a{i}_{j}"))?;
            }
            if let Some(filter) = &mut call.filter {
                *filter = columns.push(filter.clone(), format!("__f{i}"))?;
            }
        }
        let mut key = Vec::new();
        for origin in &self.info.key {
            let lost = || SqlError::unplaced(format!("the subquery loses the key of `{}`", self.info.name));
            let column = self.pre.column_of(*origin).ok_or_else(lost)?;
            key.push(columns.exprs.len());
            columns.push(self.pre.column_expr(column), self.info.column_name(*origin).to_string())?;
        }
        let mut time_column = None;
        if let Some(time) = self.info.time_column.and_then(|origin| self.pre.column_of(origin)) {
            time_column = Some(columns.exprs.len());
            columns.push(self.pre.column_expr(time), "__time".to_string())?;
        }
        let mut steps = std::mem::take(&mut self.pre.steps);
        let schema: SchemaRef = Arc::new(Schema::new(columns.fields));
        steps.push(Step::Project { exprs: columns.exprs, schema: schema.clone() });
        Ok(Crossing { steps, schema, key, time_column })
    }
}

/// The columns of a projection while they are collected.
struct Columns {
    input: SchemaRef,
    exprs: Vec<Compiled>,
    fields: Vec<FieldRef>,
}

impl Columns {
    /// Adds a column; returns the expression that reads it afterwards.
    fn push(&mut self, expr: Compiled, name: String) -> Result<Compiled> {
        let column = Arc::new(PhysicalColumnExpr::new(&name, self.exprs.len()));
        self.fields.push(Arc::new(Field::new(name, expr.data_type(&self.input)?, true)));
        self.exprs.push(expr);
        Ok(column)
    }
}

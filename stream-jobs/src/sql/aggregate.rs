//! `GROUP BY`: group columns, aggregate functions, and their split in two where the rows of a group lie in several tasks.

use super::{
    catalog::RelationInfo,
    error::{SqlError, plain_error},
    query::{Base, Planned},
    rows::{Place, Rows},
    scope::Scope,
    statement::timestamp,
};
use crate::ops::window::partial_schema;
use crate::{
    plan::{Aggregate, AggregateCall, AggregateFunction, Expr as Compiled, GroupColumn, Phase, Relation, Step, WindowSpec},
    state::bag::Order,
    windows::Windows,
};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef, SortOptions};
use datafusion::{
    common::Result,
    functions_aggregate::first_last::first_value_udaf,
    logical_expr::{self as logical, Expr, expr::NullTreatment},
    physical_expr::{
        PhysicalSortExpr,
        aggregate::AggregateExprBuilder,
        expressions::{CastExpr, Column as PhysicalColumnExpr},
    },
};
use std::sync::Arc;

/// An aggregate over one relation, before it is known in which task it runs.
#[derive(Debug, Clone)]
pub(super) struct Grouped {
    pub info: Arc<RelationInfo>,
    pub window: Option<Windows>,
    pub pre: Rows,
    pub group: Vec<GroupColumn>,
    /// The relation's column that each group column is, unchanged.
    pub group_origins: Vec<Option<usize>>,
    pub calls: Vec<AggregateCall>,
    /// Group columns, then results, then the revision where closed windows are put right.
    pub schema: SchemaRef,
    pub revisions: bool,
}

pub(super) fn build(input: Planned, aggregate: &logical::Aggregate, scope: &mut Scope<'_>) -> Result<Planned> {
    let over_rows = matches!(input.base, Base::Relation { .. }) && !input.rows.has_keyed_step();
    let Planned { base, rows: mut pre } = if over_rows { input } else { scope.as_view(input)? };
    let Base::Relation { info, window } = base else { return Err(SqlError::unplaced("an aggregate over this query is not part of this version").into()) };
    let (mut group, mut group_fields, mut group_origins) = group_columns(&mut pre, aggregate)?;
    let implied = group.split_off(implied_from(&info, &group_origins));
    group_origins.truncate(group.len());
    let implied_fields = group_fields.split_off(group.len());
    if window.is_some() && !group.iter().any(is_bound) {
        let error = SqlError::unplaced("a window function needs `window_start` or `window_end` among the columns of `GROUP BY`");
        return Err(error.hint("write `GROUP BY …, window_start, window_end`").into());
    }
    if group.is_empty() {
        let error = SqlError::unplaced("an aggregate without `GROUP BY` has no key by which its row is known");
        return Err(error.hint("group by a column, or by `window_start` and `window_end` of `TUMBLE`").into());
    }
    let mut fields = group_fields;
    let mut calls = Vec::new();
    for (column, field) in implied.into_iter().zip(implied_fields) {
        if let GroupColumn::Expr(expr) = column {
            calls.push(only_value(&pre, expr, &field, info.changes)?);
            fields.push(field);
        }
    }
    for (expr, field) in aggregate.aggr_expr.iter().zip(aggregate.schema.fields().iter().skip(fields.len())) {
        let call = call_of(&mut pre, expr, field, info.changes)?;
        fields.push(Arc::new(Field::new(field.name(), call.data_type.clone(), true)));
        calls.push(call);
    }
    let revisions = scope.settings.puts_right() && window.is_some_and(|windows| !matches!(windows, Windows::Sessions { .. }));
    let mut rows = Rows::new(aggregate.schema.clone());
    if revisions {
        fields.push(Arc::new(Field::new(REVISION, DataType::Int64, true)));
        rows.carry(REVISION, DataType::Int64);
    }
    let schema = Arc::new(Schema::new(fields));
    let rows = rows.with_types(&schema);
    let grouped = Grouped { info, window, pre, group, group_origins, calls, schema, revisions };
    Ok(Planned { base: Base::Aggregate(Box::new(grouped)), rows })
}

/// From which group column on the others follow from the key of the view below: DataFusion adds them to `GROUP BY` by itself.
fn implied_from(info: &RelationInfo, origins: &[Option<usize>]) -> usize {
    // Rows that are appended have a key, and many rows of it, unless a window's bounds are part of it.
    let is_unique = info.changes || !info.window_columns.is_empty();
    if !info.part || info.key.is_empty() || !is_unique {
        return origins.len();
    }
    let known = (0..=origins.len()).find(|n| info.key.iter().all(|column| origins[..*n].contains(&Some(*column))));
    known.filter(|n| origins[*n..].iter().all(Option::is_some)).unwrap_or(origins.len())
}

/// The value of a column that is the same in all rows of a group.
fn only_value(pre: &Rows, expr: Compiled, field: &FieldRef, changes: bool) -> Result<AggregateCall> {
    let data_type = expr.data_type(&pre.schema())?;
    let function = if changes {
        let built = AggregateExprBuilder::new(first_value_udaf(), vec![expr.clone()]).schema(pre.schema()).alias(field.name()).build()?;
        AggregateFunction::DataFusion(Arc::new(built))
    } else {
        AggregateFunction::FirstValue
    };
    Ok(AggregateCall { function, args: vec![expr], arg_types: vec![data_type.clone()], order: Vec::new(), filter: None, data_type })
}

/// The column that counts how often the row of a closed window was put right.
const REVISION: &str = "revision";

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

/// `changes`: rows can be taken back.
fn call_of(pre: &mut Rows, expr: &Expr, field: &FieldRef, changes: bool) -> Result<AggregateCall> {
    let Some(function) = function_of(expr) else {
        return Err(SqlError::unplaced(format!("`{expr}` is no aggregate")).into());
    };
    let (name, params) = (function.func.name(), &function.params);
    let counts_rows = name == "count" && !params.distinct && params.args.iter().all(|a| matches!(a, Expr::Literal(value, _) if !value.is_null()));
    let mut args = if counts_rows { Vec::new() } else { params.args.iter().map(|arg| pre.compile(arg)).collect::<Result<Vec<_>>>()? };
    let filter = params.filter.as_ref().map(|filter| pre.compile(filter)).transpose()?;
    let plain = params.order_by.is_empty() && params.null_treatment.is_none();
    let own = if plain { own_function(name, params.distinct, args.first(), &pre.schema(), changes)? } else { None };
    let (function, order) = match own {
        Some(own) => (own, Vec::new()),
        None => foreign_function(pre, function, &mut args, field)?,
    };
    let mut data_type = field.data_type().clone();
    if matches!(function, AggregateFunction::Avg) && data_type != DataType::Float64 {
        // The mean of decimals is kept as floats; the type that the plan expects is put back after the aggregate.
        args = vec![Arc::new(CastExpr::new(args[0].clone(), DataType::Float64, None))];
        data_type = DataType::Float64;
    }
    let arg_types = args.iter().map(|arg| arg.data_type(&pre.schema())).collect::<Result<Vec<_>>>()?;
    Ok(AggregateCall { function, args, arg_types, order, filter, data_type })
}

/// Nulls are values nowhere unless `RESPECT NULLS` says so: `first_value` is the first value.
fn ignores_nulls(function: &logical::expr::AggregateFunction) -> bool {
    match function.params.null_treatment {
        Some(treatment) => treatment == NullTreatment::IgnoreNulls,
        None => matches!(function.func.name(), "first_value" | "last_value" | "nth_value"),
    }
}

/// A function that DataFusion serves. The columns of `ORDER BY` inside of the call join its arguments.
fn foreign_function(
    pre: &mut Rows,
    function: &logical::expr::AggregateFunction,
    args: &mut Vec<Compiled>,
    field: &FieldRef,
) -> Result<(AggregateFunction, Order)> {
    let params = &function.params;
    let mut sort = Vec::new();
    for by in &params.order_by {
        let options = SortOptions { descending: !by.asc, nulls_first: by.nulls_first };
        sort.push(PhysicalSortExpr::new(pre.compile(&by.expr)?, options));
    }
    let built = AggregateExprBuilder::new(function.func.clone(), args.clone())
        .schema(pre.schema())
        .alias(field.name())
        .order_by(sort.clone())
        .with_ignore_nulls(ignores_nulls(function))
        .with_distinct(params.distinct)
        .build()?;
    // What no accumulator can be made for would fail at work.
    built.create_accumulator().map_err(|error| {
        let why = plain_error(&error.strip_backtrace());
        SqlError::unplaced(format!("`{}` cannot be computed so: {}", function.func.name(), why.message))
    })?;
    let mut order = Order::new();
    for by in sort {
        order.push((args.len(), by.options));
        args.push(by.expr);
    }
    Ok((AggregateFunction::DataFusion(Arc::new(built)), order))
}

/// The functions that are columns of our own, where the type of their argument allows it.
fn own_function(name: &str, distinct: bool, arg: Option<&Compiled>, schema: &Schema, changes: bool) -> Result<Option<AggregateFunction>> {
    if distinct && !matches!(name, "min" | "max") || changes && !matches!(name, "count" | "sum" | "avg") {
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
    /// True where a group column is a bound of the closed windows below.
    pub fn closes_with(&self, column: usize) -> bool {
        self.group_origins[column].is_some_and(|origin| self.info.window_columns.contains(&origin))
    }

    fn spec(&self, window: Windows, time_column: usize, time_is_window_end: bool) -> WindowSpec {
        WindowSpec { time_column, time_is_window_end, windows: window }
    }

    /// The window over the rows after `pre`.
    fn input_spec(&self, window: Windows) -> Result<WindowSpec> {
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
            pane_of: None,
            revisions: self.revisions,
        })
    }

    /// The part that runs beside the rows: states of panes, in the layout that the operators define.
    pub fn partial(&self, window: Windows) -> Result<Aggregate> {
        // Sessions of the tasks stay sessions, and become one where they touch.
        let pane = if matches!(window, Windows::Sessions { .. }) { window } else { window.panes() };
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
            pane_of: None,
            revisions: false,
        };
        partial.pane_of = Some(window);
        partial.schema = partial_schema(&partial);
        Ok(partial)
    }

    /// The part that adds the states of `partial` up. Its arguments are the columns of the states.
    pub fn merging(&self, window: Windows, partial: &Aggregate, input: Relation) -> Aggregate {
        let column = |index: usize| Arc::new(PhysicalColumnExpr::new(partial.schema.field(index).name(), index)) as Compiled;
        let group = self.group.iter().enumerate().map(|(index, own)| match own {
            GroupColumn::Expr(_) => GroupColumn::Expr(column(index)),
            bound => bound.clone(),
        });
        let aggregates = self.calls.iter().enumerate().map(|(i, call)| {
            let prefix = format!("__s{i}_");
            let states = (0..partial.schema.fields().len()).filter(|c| partial.schema.field(*c).name().starts_with(&prefix));
            AggregateCall { args: states.map(column).collect(), filter: None, ..call.clone() }
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
            pane_of: None,
            revisions: false,
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
        let kept: Option<Vec<usize>> = self.info.key.iter().map(|origin| self.pre.column_of(*origin)).collect();
        for (column, origin) in kept.unwrap_or_default().into_iter().zip(&self.info.key) {
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

//! From DataFusion's logical plan to the three shapes that a view can have: map, aggregate, join.

use super::{
    aggregate::{self, Grouped},
    catalog::{Catalog, RelationInfo, Scan},
    error::{Result as SqlResult, SqlError, from_datafusion, list, place},
    functions::CHURN_MODEL,
    join::{self, Joined},
    keyed,
    rank::{self, Ranked},
    rows::{KeyedPolicy, Rows},
    scope::Scope,
    tokens::Tokens,
    two::Two,
    union, using,
};
use crate::windows::Windows;
use datafusion::{
    common::{
        DFSchemaRef, DataFusionError, Result,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{self as logical, Distinct, Expr, LogicalPlan, expr::ScalarFunction},
    sql::sqlparser::ast::{Expr as SqlExpr, Query, SelectItem, SetExpr, Spanned},
};
use std::{collections::BTreeSet, sync::Arc};

/// What the rows of a query are made from.
#[derive(Debug, Clone)]
pub(super) enum Base {
    Relation {
        info: Arc<RelationInfo>,
        window: Option<Windows>,
    },
    Aggregate(Box<Grouped>),
    Join(Joined),
    Two(Box<Two>),
    Rank(Box<Ranked>),
    /// What a part of a query leaves behind when it has become a view.
    Nothing,
}

/// A base and the filters and projections over it.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub base: Base,
    pub rows: Rows,
}

/// Plans a query; every error has its place.
pub(super) fn plan(query: Box<Query>, tokens: &Tokens, scope: &mut Scope<'_>) -> SqlResult<Planned> {
    check_names(&query)?;
    let mut query = query;
    using::settle(&mut query);
    let catalog = scope.catalog.clone();
    let plan = catalog.plan_query(query).and_then(|plan| {
        check_expressions(&plan, &catalog)?;
        catalog.analyze(plan)
    });
    plan.and_then(|plan| build(&plan, scope)).map_err(|error| error_of(error, tokens, &catalog))
}

pub(super) fn error_of(error: DataFusionError, tokens: &Tokens, catalog: &Catalog) -> SqlError {
    let message = error.strip_backtrace();
    if let Some(error) = catalog.unknown_function(&message, tokens) {
        return error;
    }
    place(from_datafusion(error, tokens), tokens)
}

/// Columns of a view are read by name, so every one has one, and no two the same.
fn check_names(query: &Query) -> SqlResult<()> {
    let mut body = query.body.as_ref();
    while let SetExpr::SetOperation { left, .. } = body {
        body = left;
    }
    let SetExpr::Select(select) = body else { return Ok(()) };
    let mut seen = BTreeSet::new();
    for item in &select.projection {
        let name = match item {
            SelectItem::UnnamedExpr(SqlExpr::Identifier(name)) | SelectItem::ExprWithAlias { alias: name, .. } => name,
            SelectItem::UnnamedExpr(SqlExpr::CompoundIdentifier(path)) if !path.is_empty() => &path[path.len() - 1],
            SelectItem::UnnamedExpr(expr) => {
                let error = SqlError::unplaced(format!("the column `{expr}` has no name")).hint(format!("write `{expr} AS name`"));
                return Err(error.placed(expr.span().start));
            }
            _ => continue,
        };
        let written = if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() };
        if !seen.insert(written) {
            let error = SqlError::at(name.span.start, format!("two columns are named `{}`", name.value));
            return Err(error.hint("give one of them another name with `AS`"));
        }
    }
    Ok(())
}

/// Checks what is plain to see before types are added: calls of the churn model, and keyed calls in one another.
fn check_expressions(plan: &LogicalPlan, catalog: &Catalog) -> Result<()> {
    plan.apply(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|inner| {
                if let Expr::ScalarFunction(call) = inner {
                    check_call(inner, call, catalog)?;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

fn check_call(expr: &Expr, call: &ScalarFunction, catalog: &Catalog) -> Result<()> {
    let name = call.func.name();
    if keyed::as_call(expr).is_some() {
        for arg in &call.args {
            if arg.exists(|inner| Ok(keyed::as_call(inner).is_some()))? {
                return Err(SqlError::unplaced(format!("`{name}` stands around another function of its kind"))
                    .hint("compute the inner one in a view of its own")
                    .into());
            }
        }
    }
    let Some(model) = catalog.functions.models.get(CHURN_MODEL).filter(|_| name.starts_with("churn_") && name != "churn_band") else {
        return Ok(());
    };
    if call.args.len() != model.features.len() {
        let message = format!("`{name}` takes the {} features of the model, got {}", model.features.len(), call.args.len());
        return Err(SqlError::unplaced(message).hint(format!("they are {}", list(&model.features))).into());
    }
    for (arg, feature) in call.args.iter().zip(&model.features) {
        if let Expr::Column(column) = arg
            && column.name != *feature
        {
            let message = format!("`{name}` expects the feature `{feature}` where `{}` stands", column.name);
            return Err(SqlError::unplaced(message).hint(format!("in order: {}", list(&model.features))).into());
        }
    }
    Ok(())
}

pub(super) fn build(plan: &LogicalPlan, scope: &mut Scope<'_>) -> Result<Planned> {
    match plan {
        LogicalPlan::TableScan(table) => {
            let scan = table.source.downcast_ref::<Scan>().ok_or_else(|| DataFusionError::Internal("a foreign table source".into()))?;
            Ok(scanned(scan, table.projected_schema.clone()))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let mut planned = build(&alias.input, scope)?;
            planned.rows.rename(alias.schema.clone());
            Ok(planned)
        }
        LogicalPlan::Projection(projection) => {
            let mut planned = build(&projection.input, scope)?;
            planned.rows.project(&projection.expr, &projection.schema)?;
            Ok(planned)
        }
        LogicalPlan::Filter(filter) if matches!(filter.input.as_ref(), LogicalPlan::Join(_)) => match filter.input.as_ref() {
            LogicalPlan::Join(join) => join::build(join, Some(&filter.predicate), scope),
            other => build(other, scope),
        },
        LogicalPlan::Filter(filter) => {
            let mut planned = build(&filter.input, scope)?;
            match &mut planned.base {
                Base::Rank(ranked) => ranked.filter(&mut planned.rows, &filter.predicate)?,
                _ => planned.rows.filter(&filter.predicate)?,
            }
            Ok(planned)
        }
        LogicalPlan::Aggregate(aggregate) => {
            let input = build(&aggregate.input, scope)?;
            aggregate::build(input, aggregate, scope)
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let columns = input.schema().columns().into_iter().map(Expr::Column).collect();
            let groups = logical::Aggregate::try_new(input.clone(), columns, Vec::new())?;
            let input = build(input, scope)?;
            aggregate::build(input, &groups, scope)
        }
        LogicalPlan::Join(join) => join::build(join, None, scope),
        LogicalPlan::Union(union) => union::build(union, scope),
        LogicalPlan::Window(window) => {
            let input = build(&window.input, scope)?;
            rank::build(input, window, scope)
        }
        other => Err(refused(other).into()),
    }
}

fn scanned(scan: &Scan, logical: DFSchemaRef) -> Planned {
    let info = &scan.info;
    let keyed = if scan.window.is_some() { KeyedPolicy::Refused } else { keyed_policy(info) };
    let rows = Rows::of_scan(logical, info, scan.window.is_some(), keyed);
    Planned { base: Base::Relation { info: info.clone(), window: scan.window }, rows }
}

/// Functions with a memory per key stand over rows that have a key and are never taken back.
pub(super) fn keyed_policy(info: &RelationInfo) -> KeyedPolicy {
    let key = info.table_key();
    if info.changes || key.is_empty() { KeyedPolicy::Refused } else { KeyedPolicy::Allowed { key, relation: info.name.clone() } }
}

/// What a plan may not hold, in a sentence.
fn refused(plan: &LogicalPlan) -> SqlError {
    let (what, instead) = match plan {
        LogicalPlan::Sort(_) => ("`ORDER BY` has no meaning over rows that never end", "sort where the rows are read"),
        LogicalPlan::Limit(_) => ("`LIMIT` and `OFFSET` have no meaning over rows that never end", "filter with `WHERE`"),
        LogicalPlan::Distinct(_) => {
            ("`DISTINCT ON` is not part of this version", "write `ROW_NUMBER() OVER (PARTITION BY … ORDER BY …)` in a subquery and `WHERE` it is 1")
        }
        LogicalPlan::RecursiveQuery(_) => ("`WITH RECURSIVE` has no meaning over rows that never end", "write the steps as views"),
        LogicalPlan::Unnest(_) => ("`UNNEST` is not part of this version", "send a row for each element"),
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => ("a query reads `FROM` a relation", "name a source, a table or a view before this one"),
        LogicalPlan::Subquery(_) => ("a query inside of an expression is not part of this version", "make it a view and join it"),
        other => return SqlError::unplaced(format!("this form of query is not part of this version: {}", list(&[other.display().to_string()]))),
    };
    SqlError::unplaced(what).hint(instead)
}

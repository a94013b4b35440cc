//! `USING`, where the planner below leaves a column of it open: over a full join it is the one that is there, and in a chain of joins it is
//! the first table's.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, JoinConstraint, JoinOperator, ObjectName,
    Query, Select, SelectItem, SetExpr, TableFactor,
};

/// Rewrites the selects of `query` so that every column of a `USING` says which one it is.
pub(super) fn settle(query: &mut Query) {
    if let Some(with) = &mut query.with {
        with.cte_tables.iter_mut().for_each(|table| settle(&mut table.query));
    }
    settle_body(&mut query.body);
}

fn settle_body(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => settle_select(select),
        SetExpr::Query(query) => settle(query),
        SetExpr::SetOperation { left, right, .. } => {
            settle_body(left);
            settle_body(right);
        }
        _ => {}
    }
}

fn settle_select(select: &mut Select) {
    for table in &mut select.from {
        settle_factor(&mut table.relation);
        table.joins.iter_mut().for_each(|join| settle_factor(&mut join.relation));
    }
    let [table] = select.from.as_mut_slice() else { return };
    let Some(first) = name_of(&table.relation) else { return };
    let is_full = matches!(table.joins.as_slice(), [join] if matches!(join.join_operator, JoinOperator::FullOuter(_)));
    if !is_full && table.joins.len() < 2 {
        return;
    }
    let mut settled: Vec<(String, Expr)> = Vec::new();
    for join in &mut table.joins {
        let Some(other) = name_of(&join.relation) else { return };
        let Some(constraint) = constraint_of(&mut join.join_operator) else { return };
        let JoinConstraint::Using(columns) = constraint else { continue };
        let columns: Vec<Ident> = columns.iter().filter_map(|name| name.0.last()?.as_ident().cloned()).collect();
        let mut condition: Option<Expr> = None;
        for column in columns {
            let of = |table: &Ident| Expr::CompoundIdentifier(vec![table.clone(), column.clone()]);
            let equal = Expr::BinaryOp { left: Box::new(of(&first)), op: BinaryOperator::Eq, right: Box::new(of(&other)) };
            condition = Some(match condition {
                Some(before) => Expr::BinaryOp { left: Box::new(before), op: BinaryOperator::And, right: Box::new(equal) },
                None => equal,
            });
            let value = if is_full { coalesce(of(&first), of(&other)) } else { of(&first) };
            if !settled.iter().any(|(name, _)| *name == column.value) {
                settled.push((column.value.clone(), value));
            }
        }
        if let Some(condition) = condition {
            *constraint = JoinConstraint::On(condition);
        }
    }
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(Expr::Identifier(name)) = item
            && let Some((_, value)) = settled.iter().find(|(settled, _)| *settled == name.value)
        {
            *item = SelectItem::ExprWithAlias { expr: value.clone(), alias: name.clone() };
        }
    }
}

fn settle_factor(factor: &mut TableFactor) {
    if let TableFactor::Derived { subquery, .. } = factor {
        settle(subquery);
    }
}

fn name_of(factor: &TableFactor) -> Option<Ident> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => Some(alias.name.clone()),
        TableFactor::Table { name, args: None, .. } => name.0.last()?.as_ident().cloned(),
        _ => None,
    }
}

fn constraint_of(operator: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::FullOuter(constraint) => Some(constraint),
        _ => None,
    }
}

fn coalesce(left: Expr, right: Expr) -> Expr {
    let args = [left, right].map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).to_vec();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new("coalesce")]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

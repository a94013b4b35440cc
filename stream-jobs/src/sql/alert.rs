//! `CREATE ALERT`: conditions over a view's columns, and texts with places for them.

use super::{
    catalog::Catalog,
    error::{Result, SqlError, list, nearest},
    hash,
    options::Options,
    query::error_of,
    rows::Rows,
    statement::AlertStatement,
    tokens::Tokens,
};
use crate::plan::{AlertSpec, Expr as Compiled, ViewSpec};
use arrow_schema::{DataType, Schema};
use datafusion::{
    logical_expr::LogicalPlan,
    sql::sqlparser::{ast::Expr as SqlExpr, tokenizer::Location},
};

const SEVERITIES: [&str; 4] = ["critical", "error", "warning", "info"];
const OPTIONS: [&str; 7] = ["severity", "for", "min_hold", "rooms", "summary", "score", "kind"];

pub(super) fn plan(statement: AlertStatement, text: &str, view: usize, spec: &ViewSpec, catalog: &Catalog) -> Result<AlertSpec> {
    let AlertStatement { name, view: view_name, raise, clear, mut options } = statement;
    if spec.key.is_empty() {
        let error = SqlError::at(view_name.place, format!("`{}` has no key: an alert is about one key of a view", view_name.text));
        return Err(error.hint("select the key of its input in the view"));
    }
    let (raise, raise_sql) = condition(raise, &spec.name, catalog)?;
    let clear = clear.map(|clear| condition(clear, &spec.name, catalog)).transpose()?;
    let (clear, clear_sql) = clear.unzip();
    let rooms = texts(&mut options, "rooms", &spec.schema)?.map(|text| text.split(',').map(|room| room.trim().to_string()).filter(|r| !r.is_empty()).collect());
    let summary = texts(&mut options, "summary", &spec.schema)?;
    let score_column = score_column(&mut options, &spec.schema)?;
    let text_column = |name: &str| spec.schema.index_of(name).ok().filter(|c| *spec.schema.field(*c).data_type() == DataType::Utf8);
    let alert = AlertSpec {
        view,
        raise,
        raise_sql,
        clear,
        clear_sql,
        severity: options.choice("severity", &SEVERITIES)?.unwrap_or_else(|| "warning".into()),
        for_us: options.duration_us("for")?.unwrap_or(0),
        min_hold_us: options.duration_us("min_hold")?.unwrap_or(0),
        rooms: rooms.unwrap_or_default(),
        summary: summary.unwrap_or_default(),
        kind: options.text("kind").unwrap_or_else(|| name.text.clone()),
        tenant_column: text_column("tenant"),
        score_column,
        reasons_column: text_column("reasons"),
        version: hash(text)[..16].to_string(),
        name: name.text,
    };
    options.finish(&OPTIONS)?;
    Ok(alert)
}

fn condition((expr, tokens): (SqlExpr, Tokens), view: &str, catalog: &Catalog) -> Result<(Compiled, String)> {
    let info = catalog.get(view).ok_or_else(|| catalog.unknown_relation(view).placed(tokens.start()))?;
    let planned = catalog.plan_condition(expr, info).and_then(|plan| catalog.analyze(plan));
    let compiled = planned.and_then(|plan| {
        let LogicalPlan::Filter(filter) = plan else { return Err(SqlError::unplaced("expected a condition").into()) };
        let mut rows = Rows::new(filter.input.schema().clone());
        let expr = rows.compile(&filter.predicate)?;
        if rows.uses_now {
            return Err(SqlError::unplaced("`now()` cannot stand in an alert").hint("compute with it in the view").into());
        }
        Ok(expr)
    });
    Ok((compiled.map_err(|e| error_of(e, &tokens, catalog))?, tokens.text))
}

/// An option whose `{column}`s are columns of the view.
fn texts(options: &mut Options, option: &str, schema: &Schema) -> Result<Option<String>> {
    let Some((text, place)) = options.take(option) else { return Ok(None) };
    for part in text.split('{').skip(1) {
        let name = part.split_once('}').map(|(name, _)| name).ok_or_else(|| SqlError::at(place, format!("a `{{` of option `{option}` is not closed")))?;
        column(name, place, schema)?;
    }
    Ok(Some(text))
}

fn column(name: &str, place: Location, schema: &Schema) -> Result<usize> {
    schema.index_of(name).map_err(|_| {
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        SqlError::at(place, format!("the view has no column `{name}`; columns are {}", list(&names))).hint_opt(nearest(name, names))
    })
}

fn score_column(options: &mut Options, schema: &Schema) -> Result<Option<usize>> {
    let Some((name, place)) = options.take("score") else { return Ok(schema.index_of("score").ok()) };
    Ok(Some(column(&name, place, schema)?))
}

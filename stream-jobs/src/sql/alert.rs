//! `CREATE ALERT`: conditions over a view's columns, and texts with places for them.
//!
//! A rule is a view of the planner's own beside the view it stands on. One that other rules inhibit, or that people acknowledge and silence,
//! has a second one a level above: its alert task.

use super::{
    catalog::Catalog,
    error::{Result, SqlError, list, nearest},
    hash,
    interval::parse_duration_us,
    options::Options,
    query::error_of,
    rows::Rows,
    statement::{AlertStatement, timestamp},
    tokens::Tokens,
    view::check_level,
};
use crate::{
    ops::alert::{candidates_schema, entity_of},
    plan::{AlertSpec, Alerts, Body, Emit, Expr as Compiled, Flapping, Inhibitor, Job, LatePolicy, Relation, ViewSpec},
};
use arrow_schema::{DataType, Schema};
use datafusion::{
    logical_expr::LogicalPlan,
    sql::sqlparser::{ast::Expr as SqlExpr, tokenizer::Location},
};

const SEVERITIES: [&str; 4] = ["critical", "error", "warning", "info"];
const OPTIONS: [&str; 10] = ["severity", "for", "min_hold", "flapping", "inhibited_by", "commands", "rooms", "summary", "score", "kind"];
/// Columns of commands that must be there, and those that may.
const COMMAND_COLUMNS: [&str; 2] = ["action", "tenant"];
const COMMAND_TEXTS: [&str; 5] = ["alert_id", "rule", "entity", "by", "comment"];

/// `view`: index of the view it stands on.
pub(super) fn plan(statement: AlertStatement, text: &str, view: usize, job: &Job, catalog: &Catalog) -> Result<AlertSpec> {
    let spec = &job.views[view];
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
        flapping: flapping(&mut options)?,
        inhibited_by: inhibitors(&mut options, spec, job)?,
        commands: commands(&mut options, catalog)?,
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

/// The rule as views of the planner's own: its candidates, and its alert task where it has one. `alert`: its index among the job's alerts.
pub(super) fn views(spec: &AlertSpec, alert: usize, text: &str, job: &Job, catalog: &Catalog, place: Location) -> Result<Vec<ViewSpec>> {
    let first = job.views.len();
    let has_task = !spec.inhibited_by.is_empty() || spec.commands.is_some();
    let level = job.views[spec.view].level;
    let made = |name: String, body: Body, level: u8| ViewSpec {
        name,
        body,
        emit: Emit::OnWindowClose,
        late: LatePolicy::Side,
        allowed_lateness_us: 0,
        schema: candidates_schema(),
        key: Vec::new(),
        time_column: None,
        partition_key: Vec::new(),
        level,
        uses_now: false,
        sql: text.to_string(),
        visible: false,
    };
    let candidates = Body::Candidates { input: Relation::View(spec.view), alert, tells: !has_task };
    let mut views = vec![made(candidates_of(&spec.name), candidates, level)];
    if !has_task {
        return Ok(views);
    }
    let commands = match spec.commands.as_ref().and_then(|name| catalog.get(name)).map(|info| (info.relation, info)) {
        None => None,
        Some((Relation::View(index), _)) => Some((Relation::View(index), job.views[index].level)),
        Some((source, info)) => {
            let name = format!("{}$commands", spec.name);
            let schema = info.schema.clone();
            let body = Body::Map { input: source, steps: Vec::new(), as_they_come: false };
            views.push(ViewSpec { schema, time_column: info.time_column, ..made(name, body, 1) });
            Some((Relation::View(first + 1), 1))
        }
    };
    let incidents: Vec<usize> = spec.inhibited_by.iter().filter_map(|by| job.views.iter().position(|v| v.name == candidates_of(&by.rule))).collect();
    let below = incidents.iter().map(|view| job.views[*view].level).chain(commands.map(|(_, level)| level)).chain([level]).max();
    let above = below.unwrap_or(level) + 1;
    check_level(above, &job.views[spec.view].name).map_err(|error| error.placed(place))?;
    let body = Body::Alerts(Alerts {
        alert,
        candidates: Relation::View(first),
        incidents: incidents.into_iter().map(Relation::View).collect(),
        commands: commands.map(|(relation, _)| relation),
        in_order: waits_for_watermark(job, spec.view),
    });
    views.push(made(format!("{}$alerts", spec.name), body, above));
    Ok(views)
}

fn candidates_of(rule: &str) -> String {
    format!("{rule}$candidates")
}

/// True where the rows of a view come when the watermark says so, and not at once.
fn waits_for_watermark(job: &Job, view: usize) -> bool {
    let spec = &job.views[view];
    let of_input = |relation: Relation| matches!(relation, Relation::View(below) if waits_for_watermark(job, below));
    match &spec.body {
        Body::Map { .. } | Body::Union(_) => spec.body.inputs().into_iter().all(of_input),
        Body::Aggregate(_) | Body::Rank(_) | Body::Join(_) | Body::PairJoin(_) => spec.emit != Emit::Changes,
        Body::AsOfJoin(_) => true,
        Body::IntervalJoin(_) | Body::Candidates { .. } | Body::Alerts(_) => false,
    }
}

/// `N in W`.
fn flapping(options: &mut Options) -> Result<Option<Flapping>> {
    let Some((text, place)) = options.take("flapping") else { return Ok(None) };
    let parsed = text.split_once(" in ").and_then(|(times, within)| Some((times.trim().parse().ok()?, parse_duration_us(within)?)));
    match parsed {
        Some((times, within_us)) if times >= 2 && within_us > 0 => Ok(Some(Flapping { times, within_us })),
        _ => {
            let error = SqlError::at(place, format!("option `flapping` is `{text}`, expected how often (2 or more) in what time"));
            Err(error.hint("for example `'4 in 1 hour'`"))
        }
    }
}

/// The rules named, and where their keys stand among the columns of `spec`.
fn inhibitors(options: &mut Options, spec: &ViewSpec, job: &Job) -> Result<Vec<Inhibitor>> {
    let Some((text, place)) = options.take("inhibited_by") else { return Ok(Vec::new()) };
    let inhibitor = |rule: &str| {
        let known: Vec<&str> = job.alerts.iter().map(|alert| alert.name.as_str()).collect();
        let other = job.alerts.iter().find(|alert| alert.name == rule).ok_or_else(|| {
            let before = if known.is_empty() { "none stands before".to_string() } else { format!("before it stand {}", list(&known)) };
            SqlError::at(place, format!("there is no alert `{rule}`; {before}")).hint_opt(nearest(rule, known))
        })?;
        let view = &job.views[other.view];
        let column = |key: usize| {
            let name = view.schema.field(key).name();
            spec.schema.index_of(name).map_err(|_| {
                let error = SqlError::at(place, format!("alerts of `{rule}` are known by `{name}`, and the view `{}` has no column `{name}`", spec.name));
                error.hint(format!("select `{name}` in the view: it says which alert of `{rule}` explains one of its rows"))
            })
        };
        Ok(Inhibitor { rule: rule.to_string(), columns: entity_of(view).into_iter().map(column).collect::<Result<_>>()? })
    };
    text.split(',').map(str::trim).filter(|rule| !rule.is_empty()).map(inhibitor).collect()
}

/// The name of a relation whose rows acknowledge and silence.
fn commands(options: &mut Options, catalog: &Catalog) -> Result<Option<String>> {
    let Some((name, place)) = options.take("commands") else { return Ok(None) };
    let info = catalog.get(&name).ok_or_else(|| catalog.unknown_relation(&name).placed(place))?;
    if info.changes {
        let error = SqlError::at(place, format!("commands are rows that are never taken back, and `{name}` emits changes"));
        return Err(error.hint("declare them with `CREATE SOURCE`"));
    }
    let wrong = |column: &str, wanted: &str| {
        let error = SqlError::at(place, format!("commands have a column `{column}` of type `{wanted}`, and `{name}` has none"));
        error.hint("the columns are action, tenant, and those of alert_id, rule, entity, until, by and comment that are needed")
    };
    for column in COMMAND_COLUMNS {
        if info.schema.field_with_name(column).is_ok_and(|field| *field.data_type() == DataType::Utf8) {
            continue;
        }
        return Err(wrong(column, "TEXT"));
    }
    let texts = COMMAND_TEXTS.iter().map(|column| (*column, DataType::Utf8, "TEXT"));
    for (column, data_type, wanted) in texts.chain([("until", timestamp(), "TIMESTAMPTZ")]) {
        if info.schema.field_with_name(column).is_ok_and(|field| *field.data_type() != data_type) {
            return Err(wrong(column, wanted));
        }
    }
    Ok(Some(name))
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

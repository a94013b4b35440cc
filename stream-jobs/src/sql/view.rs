//! From a planned query to views: key, time, task key, level and emission, and what a view may not be.

use super::{
    aggregate::{Grouped, is_bound},
    catalog::{Catalog, RelationInfo, WindowCall},
    error::{Result, SqlError, from_datafusion, list, place},
    join::Joined,
    query::{self, Base},
    rows::Rows,
    statement::ViewStatement,
    tokens::Tokens,
};
use crate::plan::{Aggregate, Body, Emit, GroupColumn, Join, LatePolicy, Relation, ViewSpec};
use arrow_schema::SchemaRef;
use datafusion::sql::sqlparser::tokenizer::Location;

/// Views above this level are refused.
const LEVEL_MAX: u8 = 2;

/// The views that one statement makes: the user's last, before it those that the planner needs.
pub(super) struct Views {
    pub specs: Vec<ViewSpec>,
    pub info: RelationInfo,
}

struct Settings<'a> {
    name: &'a str,
    sql: &'a str,
    emit: Option<(Emit, Location)>,
    late: LatePolicy,
    late_written: Option<Location>,
    allowed_lateness_us: i64,
    tokens: &'a Tokens,
}

impl Settings<'_> {
    fn emit(&self) -> Emit {
        self.emit.map_or(Emit::Changes, |(emit, _)| emit)
    }

    /// An error at the `EMIT` clause, or without one at the start of the query.
    fn at_emit(&self, message: impl Into<String>) -> SqlError {
        SqlError::at(self.emit.map_or_else(|| self.tokens.start(), |(_, place)| place), message)
    }

    fn refuse_late(&self) -> Result<()> {
        match self.late_written {
            Some(place) => Err(SqlError::at(place, "rows are late for windows only").hint("leave `late` and `allowed_lateness` out")),
            None => Ok(()),
        }
    }
}

/// `first_view`: the index that the first new view will have.
pub(super) fn plan(statement: ViewStatement, text: &str, catalog: &Catalog, first_view: usize) -> Result<Views> {
    let ViewStatement { name, query, query_tokens: tokens, emit, mut options } = statement;
    let late_written = ["late", "allowed_lateness"].iter().find_map(|option| options.place(option));
    let late = if options.choice("late", &["side", "drop"])?.as_deref() == Some("drop") { LatePolicy::Drop } else { LatePolicy::Side };
    let allowed_lateness_us = options.duration_us("allowed_lateness")?.unwrap_or(0);
    options.finish(&["late", "allowed_lateness"])?;
    let planned = query::plan(query, &tokens, catalog)?;
    let mut rows = planned.rows;
    let schema = rows.finish().map_err(|e| from_datafusion(e, &tokens))?;
    let settings = Settings { name: &name.text, sql: text, emit, late, late_written, allowed_lateness_us, tokens: &tokens };
    let views = match planned.base {
        Base::Relation { info, window: None } => map(&settings, &info, rows, schema, first_view),
        Base::Relation { .. } => Err(SqlError::unplaced("a window function needs `GROUP BY`").hint("write `GROUP BY …, window_start, window_end`")),
        Base::Aggregate(grouped) => aggregate(&settings, *grouped, rows, schema, first_view),
        Base::Join(joined) => join(&settings, joined, rows, schema, first_view),
    };
    views.map_err(|error| place(error, &tokens))
}

/// The view's columns that still are the base's columns `wanted`, all of them.
fn projected(rows: &Rows, wanted: &[usize]) -> Option<Vec<usize>> {
    wanted.iter().map(|origin| rows.column_of(*origin)).collect()
}

fn map(settings: &Settings<'_>, info: &RelationInfo, rows: Rows, schema: SchemaRef, index: usize) -> Result<Views> {
    if settings.emit.is_some() {
        return Err(settings.at_emit("a view without aggregation or join emits each row at once").hint("leave `EMIT` out"));
    }
    settings.refuse_late()?;
    refuse_broadcast(info)?;
    let key = projected(&rows, &info.key);
    if info.changes && key.is_none() {
        return Err(missing_key(info.key.iter().map(|c| info.column_name(*c)), &info.name));
    }
    let key = key.unwrap_or_default();
    let time_column = info.time_column.and_then(|time| rows.column_of(time));
    let partition = info.partition.as_ref().and_then(|columns| projected(&rows, columns));
    let new_info = RelationInfo {
        name: settings.name.to_string(),
        relation: Relation::View(index),
        schema: schema.clone(),
        window_columns: if key.is_empty() { Vec::new() } else { projected(&rows, &info.window_columns).unwrap_or_default() },
        key,
        time_column,
        time_is_window_end: info.time_is_window_end,
        partition,
        level: info.level,
        changes: info.changes,
        stream: false,
        broadcast: false,
    };
    let emit = if info.changes { Emit::Changes } else { Emit::OnWindowClose };
    let body = Body::Map { input: info.relation, steps: rows.steps };
    let spec = spec_of(settings, body, emit, &new_info, rows.uses_now);
    Ok(Views { specs: vec![spec], info: new_info })
}

fn refuse_broadcast(info: &RelationInfo) -> Result<()> {
    if !info.broadcast {
        return Ok(());
    }
    Err(SqlError::unplaced(format!("`{}` is broadcast: a view over it would come out once for each task", info.name))
        .hint("broadcast tables can only be joined"))
}

fn missing_key<'a>(names: impl Iterator<Item = &'a str>, of: &str) -> SqlError {
    let names: Vec<&str> = names.collect();
    SqlError::unplaced(format!("the view must select the key of `{of}`, by which its rows are known: {}", list(&names)))
}

fn spec_of(settings: &Settings<'_>, body: Body, emit: Emit, info: &RelationInfo, uses_now: bool) -> ViewSpec {
    ViewSpec {
        name: settings.name.to_string(),
        body,
        emit,
        late: settings.late,
        allowed_lateness_us: settings.allowed_lateness_us,
        schema: info.schema.clone(),
        key: info.key.clone(),
        time_column: info.time_column,
        partition_key: info.partition.clone().unwrap_or_default(),
        level: info.level,
        uses_now,
        sql: settings.sql.to_string(),
        visible: true,
    }
}

fn aggregate(settings: &Settings<'_>, grouped: Grouped, rows: Rows, schema: SchemaRef, first_view: usize) -> Result<Views> {
    let info = grouped.info.clone();
    refuse_broadcast(&info)?;
    check_aggregate(settings, &grouped)?;
    let output = group_output(&grouped, &rows)?;
    let stays = info.partition.as_ref().and_then(|partition| {
        let group_of = |column: &usize| grouped.group_origins.iter().position(|origin| *origin == Some(*column));
        partition.iter().map(|column| output[group_of(column)?]).collect::<Option<Vec<usize>>>()
    });
    let level = if stays.is_some() { info.level } else { info.level + 1 };
    if level > LEVEL_MAX {
        let message = format!("the view is grouped by another key than `{}`, which is already at level {LEVEL_MAX}", info.name);
        return Err(SqlError::unplaced(message).hint("group a view that is kept by the key of its source"));
    }
    let bounds: Vec<usize> = grouped.group.iter().zip(&output).filter(|(column, _)| is_bound(column)).filter_map(|(_, out)| *out).collect();
    let own: Vec<usize> = grouped.group.iter().zip(&output).filter(|(column, _)| !is_bound(column)).filter_map(|(_, out)| *out).collect();
    let end = grouped.group.iter().position(|column| matches!(column, GroupColumn::WindowEnd)).and_then(|i| output[i]);
    let new_info = RelationInfo {
        name: settings.name.to_string(),
        relation: Relation::View(first_view),
        schema,
        key: output.iter().flatten().copied().collect(),
        window_columns: bounds,
        time_column: end,
        time_is_window_end: end.is_some(),
        partition: Some(stays.clone().unwrap_or(own)),
        level,
        changes: settings.emit() != Emit::OnWindowClose,
        stream: false,
        broadcast: false,
    };
    match (stays, grouped.window) {
        (Some(_), _) => one_view(settings, &grouped, rows, new_info),
        (None, Some(window)) => split(settings, &grouped, window, rows, new_info, first_view),
        (None, None) => crossing(settings, grouped, rows, new_info, first_view),
    }
}

fn check_aggregate(settings: &Settings<'_>, grouped: &Grouped) -> Result<()> {
    let emit = settings.emit();
    if grouped.window.is_none() {
        settings.refuse_late()?;
        if emit == Emit::OnWindowClose {
            return Err(settings.at_emit("`EMIT ON WINDOW CLOSE` needs a window").hint("read `FROM TUMBLE(…)` or `HOP(…)`, or write `EMIT CHANGES`"));
        }
    }
    if grouped.info.changes
        && let Some(name) = grouped.first_unretractable()
    {
        let message = format!("`{name}` over `{}`, whose rows can be taken back, is not part of this version", grouped.info.name);
        return Err(SqlError::unplaced(message).hint("use `count`, `sum` or `avg`"));
    }
    if let Some(name) = grouped.first_foreign()
        && (grouped.window.is_none() || emit != Emit::OnWindowClose)
    {
        let message = format!("`{name}` needs a window and `EMIT ON WINDOW CLOSE` in this version");
        return Err(SqlError::unplaced(message).hint("`count`, `sum`, `min`, `max`, `avg`, `first_value` and `last_value` work everywhere"));
    }
    Ok(())
}

/// Where each group column stands in the view; every one of them but one bound of the window must.
fn group_output(grouped: &Grouped, rows: &Rows) -> Result<Vec<Option<usize>>> {
    let output: Vec<Option<usize>> = (0..grouped.group.len()).map(|column| rows.column_of(column)).collect();
    let bound_selected = grouped.group.iter().zip(&output).any(|(column, out)| is_bound(column) && out.is_some());
    for (index, (column, out)) in grouped.group.iter().zip(&output).enumerate() {
        if out.is_none() && !(is_bound(column) && bound_selected) {
            let name = grouped.schema.field(index).name();
            let message = format!("the view must select `{name}` unchanged: it is part of the key by which its rows are known");
            return Err(SqlError::unplaced(message));
        }
    }
    Ok(output)
}

fn with_post(mut aggregate: Aggregate, rows: Rows) -> Body {
    aggregate.post = rows.steps;
    Body::Aggregate(aggregate)
}

fn placed<T>(result: datafusion::common::Result<T>, settings: &Settings<'_>) -> Result<T> {
    result.map_err(|e| from_datafusion(e, settings.tokens))
}

fn one_view(settings: &Settings<'_>, grouped: &Grouped, rows: Rows, info: RelationInfo) -> Result<Views> {
    let key = grouped.info.key.iter().copied().map(Some);
    let group = grouped.group.iter().zip(&grouped.group_origins).filter(|(column, _)| !is_bound(column)).map(|(_, origin)| *origin);
    // In the order of the record's key, because the columns are read out of its bytes.
    let by_record_key = matches!(grouped.info.relation, Relation::Source(_)) && key.eq(group);
    let aggregate = placed(grouped.single(by_record_key), settings)?;
    let uses_now = rows.uses_now || grouped.pre.uses_now;
    let spec = spec_of(settings, with_post(aggregate, rows), settings.emit(), &info, uses_now);
    Ok(Views { specs: vec![spec], info })
}

/// A windowed aggregate whose groups lie across tasks: states of panes beside the rows, results above.
fn split(settings: &Settings<'_>, grouped: &Grouped, window: WindowCall, rows: Rows, mut info: RelationInfo, first_view: usize) -> Result<Views> {
    if settings.emit() != Emit::OnWindowClose {
        let message = "a windowed view by another key than its input's is complete when the window closes".to_string();
        return Err(settings.at_emit(message).hint("write `EMIT ON WINDOW CLOSE`"));
    }
    if settings.allowed_lateness_us > 0 {
        let place = settings.late_written.unwrap_or_else(|| settings.tokens.start());
        let error = SqlError::at(place, "`allowed_lateness` is not part of this version for a view by another key than its input's");
        return Err(error.hint("correct late rows in a view by the key of the source"));
    }
    let partial = placed(grouped.partial(window), settings)?;
    let groups = partial.group.len();
    let partial_spec = ViewSpec {
        name: format!("{}$partial", settings.name),
        emit: Emit::OnWindowClose,
        late: settings.late,
        allowed_lateness_us: 0,
        schema: partial.schema.clone(),
        key: (0..groups + 2).filter(|column| *column >= groups || !is_bound(&partial.group[*column])).collect(),
        time_column: Some(groups + 1),
        partition_key: Vec::new(),
        level: grouped.info.level,
        uses_now: grouped.pre.uses_now,
        sql: settings.sql.to_string(),
        visible: false,
        body: Body::Aggregate(partial.clone()),
    };
    let merging = grouped.merging(window, &partial, Relation::View(first_view));
    let uses_now = rows.uses_now;
    info.relation = Relation::View(first_view + 1);
    let spec = spec_of(settings, with_post(merging, rows), Emit::OnWindowClose, &info, uses_now);
    Ok(Views { specs: vec![partial_spec, spec], info })
}

/// An aggregate without a window whose groups lie across tasks: it reads the epoch log of the level below, so that what it reads
/// must be a view.
fn crossing(settings: &Settings<'_>, mut grouped: Grouped, rows: Rows, mut info: RelationInfo, first_view: usize) -> Result<Views> {
    let mut specs = Vec::new();
    let below_uses_now = grouped.pre.uses_now;
    if matches!(grouped.info.relation, Relation::Source(_)) {
        let crossing = placed(grouped.cross(), settings)?;
        let below = RelationInfo {
            schema: crossing.schema,
            key: crossing.key.clone(),
            time_column: crossing.time_column,
            partition: Some(crossing.key),
            ..RelationInfo::clone(&grouped.info)
        };
        let emit = if below.changes { Emit::Changes } else { Emit::OnWindowClose };
        let body = Body::Map { input: below.relation, steps: crossing.steps };
        let mut spec = spec_of(settings, body, emit, &below, below_uses_now);
        spec.name = format!("{}$rows", settings.name);
        spec.visible = false;
        specs.push(spec);
    }
    let mut aggregate = placed(grouped.single(false), settings)?;
    if !specs.is_empty() {
        aggregate.input = Relation::View(first_view);
        info.relation = Relation::View(first_view + 1);
    }
    let uses_now = rows.uses_now || below_uses_now;
    specs.push(spec_of(settings, with_post(aggregate, rows), settings.emit(), &info, uses_now));
    Ok(Views { specs, info })
}

fn join(settings: &Settings<'_>, joined: Joined, rows: Rows, schema: SchemaRef, index: usize) -> Result<Views> {
    settings.refuse_late()?;
    if settings.emit() == Emit::OnWindowClose {
        return Err(settings.at_emit("a join of tables has no window that closes").hint("write `EMIT CHANGES` or `EMIT CHANGES EVERY INTERVAL '…'`"));
    }
    let mut key = Vec::new();
    for position in 0..joined.sides[0].on.len() {
        let output = joined.key_columns(position).into_iter().find_map(|column| rows.column_of(column));
        let first = &joined.sides[0];
        let name = first.schema.field(first.on[position]).name();
        key.push(output.ok_or_else(|| missing_key(std::iter::once(name.as_str()), &joined.infos[0].name))?);
    }
    let partition = joined.partition_positions().into_iter().map(|position| key[position]).collect();
    let info = RelationInfo {
        name: settings.name.to_string(),
        relation: Relation::View(index),
        schema,
        key,
        window_columns: Vec::new(),
        time_column: None,
        time_is_window_end: false,
        partition: Some(partition),
        level: joined.infos[0].level,
        changes: true,
        stream: false,
        broadcast: false,
    };
    let uses_now = rows.uses_now || joined.uses_now;
    let body = Body::Join(Join { sides: joined.sides, schema: joined.schema, post: rows.steps });
    let spec = spec_of(settings, body, settings.emit(), &info, uses_now);
    Ok(Views { specs: vec![spec], info })
}

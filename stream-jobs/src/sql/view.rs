//! From a planned query to views: key, time, task key, level and emission, and what a view may not be.

mod joins;
mod rank;

use super::{
    aggregate::{Grouped, is_bound},
    catalog::{Catalog, RelationInfo},
    error::{Result, SqlError, from_datafusion, list, place},
    query::{self, Base},
    rows::Rows,
    scope::Scope,
    statement::{Name, ViewStatement},
    tokens::Tokens,
};
use crate::{
    plan::{Aggregate, Body, Emit, GroupColumn, LatePolicy, Relation, ViewSpec},
    windows::Windows,
};
use arrow_schema::SchemaRef;
use datafusion::{common::DFSchema, sql::sqlparser::tokenizer::Location};
use std::{cell::Cell, rc::Rc, sync::Arc};

/// Views above this level are refused.
const LEVEL_MAX: u8 = 6;

/// The views that one statement makes: the user's last, before it those that the planner needs.
pub(super) struct Views {
    pub specs: Vec<ViewSpec>,
    pub info: RelationInfo,
}

#[derive(Clone)]
pub(super) struct Settings<'a> {
    pub name: String,
    sql: &'a str,
    emit: Option<(Emit, Location)>,
    late: LatePolicy,
    late_written: Option<Location>,
    /// A window of the statement takes what is written about late rows.
    late_used: Rc<Cell<bool>>,
    allowed_lateness_us: i64,
    tokens: &'a Tokens,
    /// Columns of `FOR SYSTEM_TIME AS OF`.
    pub as_of: Rc<[Name]>,
    /// The view is one that the planner makes for a part of the query.
    inner: bool,
}

impl<'a> Settings<'a> {
    /// For a query that is no view.
    pub fn plain(tokens: &'a Tokens) -> Self {
        Self {
            name: String::new(),
            sql: "",
            emit: None,
            late: LatePolicy::Side,
            late_written: None,
            late_used: Rc::default(),
            allowed_lateness_us: 0,
            tokens,
            as_of: Rc::new([]),
            inner: false,
        }
    }

    fn emit(&self) -> Emit {
        self.emit.map_or(Emit::Changes, |(emit, _)| emit)
    }

    /// For a view of a part of the query.
    pub fn inner(&self, name: String) -> Self {
        Self { name, inner: true, ..self.clone() }
    }

    /// Closed windows are put right for a while.
    pub fn puts_right(&self) -> bool {
        self.allowed_lateness_us > 0 && self.emit() == Emit::OnWindowClose
    }

    /// An error at the `EMIT` clause, or without one at the start of the query.
    fn at_emit(&self, message: impl Into<String>) -> SqlError {
        SqlError::at(self.emit.map_or_else(|| self.tokens.start(), |(_, place)| place), message)
    }

    fn refuse_late(&self) -> Result<()> {
        match self.late_written.filter(|_| !self.inner && !self.late_used.get()) {
            Some(place) => Err(SqlError::at(place, "rows are late for windows only").hint("leave `late` and `allowed_lateness` out")),
            None => Ok(()),
        }
    }
}

/// `first_view`: the index that the first new view will have.
pub(super) fn plan(statement: ViewStatement, text: &str, catalog: &Arc<Catalog>, first_view: usize) -> Result<Views> {
    let ViewStatement { name, query, query_tokens: tokens, as_of, emit, mut options } = statement;
    let late_written = ["late", "allowed_lateness"].iter().find_map(|option| options.place(option));
    let late = if options.choice("late", &["side", "drop"])?.as_deref() == Some("drop") { LatePolicy::Drop } else { LatePolicy::Side };
    let allowed_lateness_us = options.duration_us("allowed_lateness")?.unwrap_or(0);
    options.finish(&["late", "allowed_lateness"])?;
    let settings = Settings {
        name: name.text,
        sql: text,
        emit,
        late,
        late_written,
        late_used: Rc::default(),
        allowed_lateness_us,
        tokens: &tokens,
        as_of: as_of.into(),
        inner: false,
    };
    let mut scope = Scope::new(Arc::clone(catalog), settings.clone(), first_view);
    let mut query = query;
    if let Some(with) = query.with.take() {
        query.with = scope.add_queries(with, &tokens)?;
    }
    let mut planned = query::plan(query, &tokens, &mut scope)?;
    let schema = planned.rows.finish().map_err(|e| from_datafusion(e, &tokens))?;
    let made = views(&settings, planned.base, planned.rows, schema, scope.next_view()).map_err(|e| from_datafusion(e, &tokens));
    let made = made.map_err(|error| place(error, &tokens))?;
    let specs = scope.specs.into_iter().chain(made.specs).collect();
    Ok(Views { specs, info: made.info })
}

/// The views of a planned query; the first has the index `first_view`.
pub(super) fn views(settings: &Settings<'_>, base: Base, rows: Rows, schema: SchemaRef, first_view: usize) -> datafusion::common::Result<Views> {
    Ok(match base {
        Base::Relation { info, window: None } => map(settings, &info, rows, schema, first_view),
        Base::Relation { .. } => Err(SqlError::unplaced("a window function needs `GROUP BY`").hint("write `GROUP BY …, window_start, window_end`")),
        Base::Aggregate(grouped) if rows.uses_now && settings.emit() != Emit::OnWindowClose => {
            return over_clock(settings, *grouped, rows, schema, first_view);
        }
        Base::Aggregate(grouped) => aggregate(settings, *grouped, rows, schema, first_view),
        Base::Join(joined) => joins::join(settings, joined, rows, schema, first_view),
        Base::Two(two) => joins::meeting(settings, *two, rows, schema, first_view),
        Base::Rank(ranked) => rank::rank(settings, *ranked, rows, schema, first_view),
        Base::Nothing => Err(SqlError::unplaced("a query reads `FROM` a relation")),
    }?)
}

/// An aggregate whose results are shown by the clock: the results as they are, and over them a view that is evaluated again at each tick.
fn over_clock(settings: &Settings<'_>, grouped: Grouped, rows: Rows, schema: SchemaRef, first_view: usize) -> datafusion::common::Result<Views> {
    let mut whole = Rows::new(Arc::new(DFSchema::try_from(grouped.schema.as_ref().clone())?));
    let below = whole.finish_inner()?;
    let rows = rows.over(&below, &grouped.schema);
    let inner = settings.inner(format!("{}$results", settings.name));
    let mut views = aggregate(&inner, grouped, whole, below, first_view)?;
    let info = RelationInfo { part: true, ..views.info };
    let above = map(settings, &info, rows, schema, first_view + views.specs.len())?;
    for spec in &mut views.specs {
        spec.visible = false;
    }
    views.specs.extend(above.specs);
    Ok(Views { specs: views.specs, info: above.info })
}

/// The view's columns that still are the base's columns `wanted`, all of them.
fn projected(rows: &Rows, wanted: &[usize]) -> Option<Vec<usize>> {
    wanted.iter().map(|origin| rows.column_of(*origin)).collect()
}

fn map(settings: &Settings<'_>, info: &RelationInfo, rows: Rows, schema: SchemaRef, index: usize) -> Result<Views> {
    if settings.emit.is_some() && !settings.inner && !info.part {
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
        name: settings.name.clone(),
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
        part: false,
    };
    let emit = match settings.emit() {
        _ if !info.changes => Emit::OnWindowClose,
        Emit::ChangesEvery { interval_us } => Emit::ChangesEvery { interval_us },
        _ => Emit::Changes,
    };
    let body = Body::Map { input: info.relation, steps: rows.steps, as_they_come: false };
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

pub(super) fn spec_of(settings: &Settings<'_>, body: Body, emit: Emit, info: &RelationInfo, uses_now: bool) -> ViewSpec {
    ViewSpec {
        name: settings.name.clone(),
        emit,
        late: settings.late,
        allowed_lateness_us: if settings.inner && !matches!(body, Body::Aggregate(_)) { 0 } else { settings.allowed_lateness_us },
        schema: info.schema.clone(),
        key: info.key.clone(),
        time_column: info.time_column,
        partition_key: info.partition.clone().unwrap_or_default(),
        level: info.level,
        uses_now,
        sql: settings.sql.to_string(),
        visible: !settings.inner,
        body,
    }
}

fn aggregate(settings: &Settings<'_>, grouped: Grouped, rows: Rows, schema: SchemaRef, first_view: usize) -> Result<Views> {
    let info = grouped.info.clone();
    refuse_broadcast(&info)?;
    let emit = aggregate_emit(settings, &grouped)?;
    let output = group_output(settings, &grouped, &rows)?;
    let group_of = |column: &usize| grouped.group_origins.iter().position(|origin| *origin == Some(*column));
    let held_by: Option<Vec<usize>> = info.partition.as_ref().and_then(|partition| partition.iter().map(group_of).collect());
    let stays = held_by.is_some();
    let level = info.level + u8::from(!stays);
    check_level(level, &info.name)?;
    // The bounds of a window: the window's own here, or those of the closed windows below.
    let bound_of = |column: usize| is_bound(&grouped.group[column]) || grouped.window.is_none() && grouped.closes_with(column);
    let columns = |bound: bool| (0..grouped.group.len()).filter(|c| bound_of(*c) == bound).filter_map(|c| output[c]).collect::<Vec<usize>>();
    let (bounds, own) = (columns(true), columns(false));
    let is_end = |column: &usize| match grouped.group[*column] {
        GroupColumn::WindowEnd => true,
        _ => {
            grouped.window.is_none()
                && info.time_is_window_end
                && grouped.group_origins[*column].is_some()
                && grouped.group_origins[*column] == info.time_column
        }
    };
    let end = (0..grouped.group.len()).find(is_end).filter(|_| emit == Emit::OnWindowClose || grouped.window.is_some()).and_then(|column| output[column]);
    let new_info = RelationInfo {
        name: settings.name.clone(),
        relation: Relation::View(first_view),
        schema,
        key: if settings.inner && !is_known_by(&grouped, &output) { Vec::new() } else { output.iter().flatten().copied().collect() },
        window_columns: bounds,
        time_column: end,
        time_is_window_end: end.is_some(),
        partition: match held_by {
            Some(groups) => groups.into_iter().map(|group| output[group]).collect(),
            None => Some(own),
        },
        level,
        changes: emit != Emit::OnWindowClose || grouped.revisions,
        stream: false,
        broadcast: false,
        part: false,
    };
    match (stays, grouped.window) {
        (true, _) => one_view(settings, &grouped, rows, emit, new_info),
        (false, Some(window)) => split(settings, &grouped, window, rows, new_info, first_view),
        (false, None) => crossing(settings, grouped, rows, emit, new_info, first_view),
    }
}

/// How the view is emitted. Without a window of its own it closes with the windows that are grouped by.
fn aggregate_emit(settings: &Settings<'_>, grouped: &Grouped) -> Result<Emit> {
    let emit = settings.emit();
    if let Some(windows) = grouped.window {
        settings.late_used.set(true);
        let session = matches!(windows, Windows::Sessions { .. });
        if session && matches!(emit, Emit::ChangesEvery { .. }) {
            return Err(settings.at_emit("sessions are not emitted at an interval in this version").hint("write `EMIT CHANGES` or `EMIT ON WINDOW CLOSE`"));
        }
        if session && settings.allowed_lateness_us > 0 {
            let place = settings.late_written.unwrap_or_else(|| settings.tokens.start());
            let message = "`allowed_lateness` corrects windows of `TUMBLE`, `HOP` and `CUMULATE`, and a session that has ended is not opened again";
            return Err(SqlError::at(place, message).hint("choose a longer gap, or a larger bound of the watermark"));
        }
        return Ok(emit);
    }
    if emit != Emit::OnWindowClose {
        settings.refuse_late()?;
        return Ok(emit);
    }
    let closes = !grouped.info.changes && grouped.info.time_is_window_end && (0..grouped.group.len()).any(|column| grouped.closes_with(column));
    match (closes, settings.inner) {
        (true, _) => Ok(Emit::OnWindowClose),
        (false, true) => Ok(Emit::Changes),
        (false, false) => Err(settings
            .at_emit("`EMIT ON WINDOW CLOSE` needs a window")
            .hint("read `FROM TUMBLE(…)` or another window, group by the window of a view that closes, or write `EMIT CHANGES`")),
    }
}

/// Where each group column stands in the view; every one of them but one bound of the window must.
fn group_output(settings: &Settings<'_>, grouped: &Grouped, rows: &Rows) -> Result<Vec<Option<usize>>> {
    let output: Vec<Option<usize>> = (0..grouped.group.len()).map(|column| rows.column_of(column)).collect();
    if settings.inner {
        return Ok(output);
    }
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

/// True where the view shows every column of its group, or of a window's bounds one.
fn is_known_by(grouped: &Grouped, output: &[Option<usize>]) -> bool {
    let bound_shown = grouped.group.iter().zip(output).any(|(column, out)| is_bound(column) && out.is_some());
    grouped.group.iter().zip(output).all(|(column, out)| out.is_some() || is_bound(column) && bound_shown)
}

fn with_post(mut aggregate: Aggregate, rows: Rows) -> Body {
    aggregate.post = rows.steps;
    Body::Aggregate(aggregate)
}

fn placed<T>(result: datafusion::common::Result<T>, settings: &Settings<'_>) -> Result<T> {
    result.map_err(|e| from_datafusion(e, settings.tokens))
}

fn one_view(settings: &Settings<'_>, grouped: &Grouped, rows: Rows, emit: Emit, info: RelationInfo) -> Result<Views> {
    let key = grouped.info.key.iter().copied().map(Some);
    let group = grouped.group.iter().zip(&grouped.group_origins).filter(|(column, _)| !is_bound(column)).map(|(_, origin)| *origin);
    // In the order of the record's key, because the columns are read out of its bytes.
    let by_record_key = matches!(grouped.info.relation, Relation::Source(_)) && key.eq(group);
    let aggregate = placed(grouped.single(by_record_key), settings)?;
    let uses_now = rows.uses_now || grouped.pre.uses_now;
    let spec = spec_of(settings, with_post(aggregate, rows), emit, &info, uses_now);
    Ok(Views { specs: vec![spec], info })
}

/// A windowed aggregate whose groups lie across tasks: states of panes beside the rows, results above.
fn split(settings: &Settings<'_>, grouped: &Grouped, window: Windows, rows: Rows, mut info: RelationInfo, first_view: usize) -> Result<Views> {
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
fn crossing(settings: &Settings<'_>, mut grouped: Grouped, rows: Rows, emit: Emit, mut info: RelationInfo, first_view: usize) -> Result<Views> {
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
        let below_emit = if below.changes { Emit::Changes } else { Emit::OnWindowClose };
        let body = Body::Map { input: below.relation, steps: crossing.steps, as_they_come: false };
        let mut spec = spec_of(settings, body, below_emit, &below, below_uses_now);
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
    specs.push(spec_of(settings, with_post(aggregate, rows), emit, &info, uses_now));
    Ok(Views { specs, info })
}

pub(super) fn check_level(level: u8, below: &str) -> Result<()> {
    if level <= LEVEL_MAX {
        return Ok(());
    }
    Err(SqlError::unplaced(format!("the view stands by another key than `{below}`, which is already at level {LEVEL_MAX}")).hint("use fewer changes of key"))
}

/// The rows of `info`, which is what a relation is after `rows`, as a view of the planner's own: the level above reads it out of the epoch log.
pub(super) fn rows_below(settings: &Settings<'_>, info: &RelationInfo, rows: &Rows, as_they_come: bool) -> ViewSpec {
    let emit = if info.changes { Emit::Changes } else { Emit::OnWindowClose };
    let body = Body::Map { input: info.relation, steps: rows.steps.clone(), as_they_come };
    let mut spec = spec_of(settings, body, emit, info, rows.uses_now);
    spec.name = format!("{}$rows", settings.name);
    spec.visible = false;
    spec
}

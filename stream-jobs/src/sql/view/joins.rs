//! The views of joins: by what a joined row is known, and when it comes.

use super::{
    super::{
        catalog::RelationInfo,
        error::{Result, SqlError},
        join::Joined,
        rows::Rows,
        two::{Meeting, Two},
    },
    Settings, Views, check_level, missing_key, spec_of,
};
use crate::plan::{AsOfJoin, Body, Emit, Expr as Compiled, IntervalJoin, Join, JoinKind, PairJoin, Rank, Relation, Step, ViewSpec};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::expressions::Column;
use std::sync::Arc;

pub(super) fn join(settings: &Settings<'_>, joined: Joined, rows: Rows, schema: SchemaRef, index: usize) -> Result<Views> {
    settings.refuse_late()?;
    if settings.emit() == Emit::OnWindowClose && !settings.inner {
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
        name: settings.name.clone(),
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
        part: false,
    };
    let uses_now = rows.uses_now || joined.uses_now;
    let body = Body::Join(Join { sides: joined.sides, schema: joined.schema, post: rows.steps });
    let emit = if settings.emit() == Emit::OnWindowClose { Emit::Changes } else { settings.emit() };
    let spec = spec_of(settings, body, emit, &info, uses_now);
    Ok(Views { specs: vec![spec], info })
}

/// A join of two inputs.
pub(super) fn meeting(settings: &Settings<'_>, two: Two, rows: Rows, schema: SchemaRef, index: usize) -> Result<Views> {
    check_level(two.level, &two.infos[0].name)?;
    let tables = matches!(two.meeting, Meeting::Tables);
    if matches!(two.meeting, Meeting::Within { .. }) {
        settings.late_used.set(true)
    } else {
        settings.refuse_late()?
    }
    let emit = match (tables, settings.emit()) {
        (true, Emit::OnWindowClose) if settings.inner => Emit::Changes,
        (true, Emit::OnWindowClose) => {
            return Err(settings.at_emit("a join of tables has no window that closes").hint("write `EMIT CHANGES` or `EMIT CHANGES EVERY INTERVAL '…'`"));
        }
        (true, emit) => emit,
        (false, Emit::ChangesEvery { .. }) if !settings.inner => {
            return Err(settings.at_emit("a join of rows that are appended emits each row once").hint("leave `EMIT` out"));
        }
        (false, _) => Emit::OnWindowClose,
    };
    let key = if tables { pair_key(&two, &rows)? } else { Vec::new() };
    let time = |side: usize| two.infos[side].time_column.and_then(|time| rows.column_of(two.column(side, time)));
    let left_time = time(0);
    let time_of_right = left_time.is_none() && matches!(two.meeting, Meeting::Within { .. }) && !two.fills_up(1) && time(1).is_some();
    let merged_time = || two.compared_time().and_then(|position| rows.column_of(Rows::merged(position)));
    let time_column = if tables {
        None
    } else if two.kind == JoinKind::Full {
        merged_time()
    } else {
        left_time.or_else(|| time(1).filter(|_| time_of_right))
    };
    let compared = |position: &usize| two.compared(*position).into_iter().find_map(|column| rows.column_of(column));
    let window_columns = (0..2).flat_map(|side| two.infos[side].window_columns.iter().map(move |column| (side, *column)));
    let window_columns = window_columns.filter(|_| !tables).filter_map(|(side, column)| rows.column_of(two.column(side, column))).collect();
    let info = RelationInfo {
        name: settings.name.clone(),
        relation: Relation::View(index),
        schema,
        key,
        window_columns,
        time_column,
        time_is_window_end: two.infos[usize::from(time_of_right)].time_is_window_end,
        partition: two.partition.iter().map(compared).collect(),
        level: two.level,
        changes: tables,
        stream: false,
        broadcast: false,
        part: false,
    };
    let uses_now = rows.uses_now || two.uses_now;
    let Two { meeting, kind, sides: [left, right], schema, .. } = two;
    let post = rows.steps;
    let body = match meeting {
        Meeting::Tables => Body::PairJoin(PairJoin { left, right, kind, schema, post }),
        Meeting::Within { lower_us, upper_us, filter } => {
            Body::IntervalJoin(IntervalJoin { left, right, kind, lower_us, upper_us, filter, time_of_right, schema, post })
        }
        Meeting::AsOf { timed } => Body::AsOfJoin(AsOfJoin { stream: left, table: right, kind, timed, schema, post }),
    };
    let spec = spec_of(settings, body, emit, &info, uses_now);
    let moves = info.partition.as_ref().is_none_or(|columns| columns.iter().any(|column| !info.key.contains(column)));
    if tables && moves && !settings.inner {
        return by_its_key(settings, spec, info, emit);
    }
    Ok(Views { specs: vec![spec], info })
}

/// A joined row stands in the task of the columns that were compared. Where these are not part of its key, a row moves from task to task, and
/// a reader could see it gone after it has come again: so a view above holds the rows by their key, as a rank of one.
fn by_its_key(settings: &Settings<'_>, joined: ViewSpec, info: RelationInfo, emit: Emit) -> Result<Views> {
    check_level(info.level + 1, &joined.name)?;
    let Relation::View(index) = info.relation else { return Err(SqlError::unplaced("a join that is no view")) };
    let joined = ViewSpec { name: format!("{}$joined", settings.name), visible: false, ..joined };
    let column = |index: usize| Arc::new(Column::new(info.column_name(index), index)) as Compiled;
    let place = Arc::new(Field::new("__place", DataType::UInt64, true));
    let all = (0..info.schema.fields().len()).map(column).collect();
    let body = Body::Rank(Rank {
        input: info.relation,
        pre: Vec::new(),
        partition: info.key.iter().copied().map(column).collect(),
        order: Vec::new(),
        limit: 1,
        by_place: true,
        told_at_ticks: true,
        schema: Arc::new(Schema::new(info.schema.fields().iter().cloned().chain([place]).collect::<Vec<_>>())),
        post: vec![Step::Project { exprs: all, schema: info.schema.clone() }],
    });
    let info = RelationInfo { relation: Relation::View(index + 1), partition: Some(info.key.clone()), level: info.level + 1, ..info };
    let spec = spec_of(settings, body, emit, &info, false);
    Ok(Views { specs: vec![joined, spec], info })
}

/// By what a joined row of two tables is known: the key of the side whose row has one partner at most, or those of both.
fn pair_key(two: &Two, rows: &Rows) -> Result<Vec<usize>> {
    let of_side = |side: usize| -> Option<Vec<usize>> { two.sides[side].key.iter().map(|column| rows.column_of(two.column(side, *column))).collect() };
    let compared = || -> Option<Vec<usize>> {
        (0..two.sides[0].on.len()).map(|position| two.compared(position).into_iter().find_map(|column| rows.column_of(column))).collect()
    };
    let unique = [two.is_unique(0), two.is_unique(1)];
    if unique == [true, true]
        && let Some(key) = compared()
    {
        return Ok(key);
    }
    let whole = [unique[1] && two.kind != JoinKind::Full, unique[0] && two.kind == JoinKind::Inner];
    for side in (0..2).filter(|side| whole[*side]) {
        if let Some(key) = of_side(side) {
            return Ok(key);
        }
    }
    let (left, right) = (of_side(0), of_side(1));
    if let (Some(mut key), Some(more)) = (left.clone(), right) {
        more.into_iter().for_each(|column| {
            if !key.contains(&column) {
                key.push(column)
            }
        });
        return Ok(key);
    }
    let side = if left.is_none() { 0 } else { 1 };
    let info = &two.infos[side];
    let names: Vec<&str> = two.sides[side].key.iter().map(|column| info.column_name(*column)).collect();
    let error = missing_key(names.into_iter(), &info.name);
    Err(if two.kind == JoinKind::Full && unique == [true, true] { error.hint("of both sides together: `COALESCE(a.k, b.k) AS k`") } else { error })
}

//! The view of a rank: its key, and where it runs.

use super::{
    super::{
        catalog::RelationInfo,
        error::{Result, SqlError},
        rank::Ranked,
        rows::Rows,
    },
    Settings, Views, check_level, projected, refuse_broadcast, rows_below, spec_of,
};
use crate::plan::{Body, Emit, Rank, Relation};
use arrow_schema::SchemaRef;

/// The best rows of each partition.
pub(super) fn rank(settings: &Settings<'_>, ranked: Ranked, rows: Rows, schema: SchemaRef, first_view: usize) -> Result<Views> {
    let info = ranked.info.clone();
    refuse_broadcast(&info)?;
    settings.refuse_late()?;
    let Some(limit) = ranked.limit else {
        let error = SqlError::unplaced("`ROW_NUMBER()` without a bound keeps every row of its partition, expected `WHERE rn <= n` around it");
        let form = "SELECT … FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) AS rn FROM …) x WHERE rn <= 10";
        return Err(error.hint(format!("write `{form}`")));
    };
    let closes = ranked.partition_origins.iter().flatten().any(|origin| info.window_columns.contains(origin)) && !info.changes && info.time_is_window_end;
    let emit = match settings.emit() {
        Emit::OnWindowClose if closes => Emit::OnWindowClose,
        Emit::Changes if closes && settings.emit.is_none() => Emit::OnWindowClose,
        Emit::OnWindowClose if settings.inner => Emit::Changes,
        Emit::OnWindowClose => {
            return Err(settings.at_emit("`EMIT ON WINDOW CLOSE` needs the window of a view that closes in `PARTITION BY`").hint("write `EMIT CHANGES`"));
        }
        other => other,
    };
    let place = rows.column_of(ranked.place());
    let partition: Option<Vec<usize>> = ranked.partition_origins.iter().map(|origin| rows.column_of((*origin)?)).collect();
    let own_key = projected(&rows, &info.key).filter(|key| !key.is_empty());
    let key = match (place, partition) {
        (Some(place), Some(partition)) => partition.into_iter().chain([place]).collect(),
        (None, Some(partition)) if limit == 1 && !partition.is_empty() => partition,
        (_, partition) => own_key.ok_or_else(|| {
            let what = if partition.is_none() { "the columns of `PARTITION BY`".to_string() } else { format!("`{}`", ranked.name) };
            SqlError::unplaced(format!("the view must select {what}: it is part of the key by which its rows are known"))
        })?,
    };
    let by_place = place.is_some() || limit == 1;
    let partition = info.partition.as_ref().filter(|columns| columns.iter().all(|c| ranked.partition_origins.contains(&Some(*c))));
    let mut specs = Vec::new();
    let (mut input, mut pre, level) = (info.relation, ranked.pre.steps.clone(), info.level + u8::from(partition.is_none()));
    if partition.is_none() {
        check_level(level, &info.name)?;
        if matches!(input, Relation::Source(_)) || !pre.is_empty() {
            let spec = rows_below(settings, &info, &ranked.pre, false);
            specs.push(spec);
            (input, pre) = (Relation::View(first_view), Vec::new());
        }
    }
    let partition = match partition {
        Some(columns) => projected(&rows, columns),
        None => ranked.partition_origins.iter().map(|origin| rows.column_of((*origin)?)).collect(),
    };
    let new_info = RelationInfo {
        name: settings.name.clone(),
        relation: Relation::View(first_view + specs.len()),
        schema,
        window_columns: projected(&rows, &info.window_columns).unwrap_or_default(),
        time_column: info.time_column.and_then(|time| rows.column_of(time)),
        time_is_window_end: info.time_is_window_end,
        key,
        partition,
        level,
        changes: emit != Emit::OnWindowClose,
        stream: false,
        broadcast: false,
        part: false,
    };
    let uses_now = rows.uses_now || ranked.pre.uses_now;
    let body = Body::Rank(Rank {
        input,
        pre,
        partition: ranked.partition,
        order: ranked.order,
        limit,
        by_place,
        told_at_ticks: false,
        schema: ranked.schema,
        post: rows.steps,
    });
    specs.push(spec_of(settings, body, emit, &new_info, uses_now));
    Ok(Views { specs, info: new_info })
}

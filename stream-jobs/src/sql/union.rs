//! `UNION ALL`: the rows of all inputs as those of one view.

use super::{
    catalog::RelationInfo,
    error::SqlError,
    query::{self, Base, Planned},
    scope::Scope,
    view::{self, Views},
};
use crate::plan::{Body, Emit, Relation, UnionInput};
use datafusion::{common::Result, logical_expr as logical};
use std::sync::Arc;

pub(super) fn build(union: &logical::Union, scope: &mut Scope<'_>) -> Result<Planned> {
    let mut parts = Vec::new();
    for input in &union.inputs {
        let planned = query::build(input, scope)?;
        parts.push(match planned.base {
            Base::Relation { window: None, .. } if !planned.rows.has_keyed_step() => planned,
            _ => scope.as_view(planned)?,
        });
    }
    let (mut inputs, mut infos, mut rows_of) = (Vec::new(), Vec::new(), Vec::new());
    let mut schema = None;
    let mut uses_now = false;
    for Planned { base, mut rows } in parts {
        let Base::Relation { info, .. } = base else { return Err(SqlError::unplaced("`UNION ALL` over this query is not part of this version").into()) };
        if info.changes {
            let error = SqlError::unplaced(format!("`UNION ALL` needs rows that are never taken back, and `{}` emits changes", info.name));
            return Err(error.hint("unite its input, or let it `EMIT ON WINDOW CLOSE`").into());
        }
        rows.relabel(&union.schema);
        let of_input = rows.finish_inner()?;
        schema.get_or_insert(of_input);
        uses_now |= rows.uses_now;
        inputs.push(UnionInput { input: info.relation, steps: rows.steps.clone() });
        infos.push(info);
        rows_of.push(rows);
    }
    let Some(schema) = schema else { return Err(SqlError::unplaced("a union of nothing").into()) };
    let level = infos[0].level;
    if let Some(other) = infos.iter().find(|info| info.level != level) {
        let message = format!("`{}` is kept at level {level} and `{}` at level {}: they cannot be united", infos[0].name, other.name, other.level);
        return Err(SqlError::unplaced(message).hint("unite the sources, and group what comes out").into());
    }
    // What is one column of all inputs.
    let same = |column: &dyn Fn(&RelationInfo) -> Option<usize>| {
        let mut places = infos.iter().zip(&rows_of).map(|(info, rows)| rows.column_of(column(info)?));
        let first = places.next().flatten()?;
        places.all(|place| place == Some(first)).then_some(first)
    };
    let same_all = |columns: &dyn Fn(&RelationInfo) -> Option<Vec<usize>>| {
        let count = columns(&infos[0])?.len();
        (0..count).map(|i| same(&|info: &RelationInfo| columns(info)?.get(i).copied())).collect::<Option<Vec<usize>>>()
    };
    let ends_alike = infos.iter().all(|info| info.time_is_window_end == infos[0].time_is_window_end);
    let time_column = same(&|info: &RelationInfo| info.time_column).filter(|_| ends_alike);
    let partition = same_all(&|info: &RelationInfo| info.partition.clone())
        .filter(|_| infos.iter().all(|info| info.partition.as_ref().map(Vec::len) == infos[0].partition.as_ref().map(Vec::len)));
    let info = RelationInfo {
        name: format!("{}${}", scope.settings.name, scope.specs.len() + 1),
        relation: Relation::View(scope.next_view()),
        schema: schema.clone(),
        key: Vec::new(),
        window_columns: Vec::new(),
        time_column,
        time_is_window_end: infos[0].time_is_window_end,
        partition,
        level,
        changes: false,
        stream: false,
        broadcast: false,
        part: false,
    };
    let settings = scope.settings.inner(info.name.clone());
    let spec = view::spec_of(&settings, Body::Union(inputs), Emit::OnWindowClose, &info, uses_now);
    let logical = Arc::clone(&union.schema);
    Ok(scope.add(Views { specs: vec![spec], info }, logical))
}

//! A view without a window of its own: one row per key for as long as the job runs, kept up to date by appended rows and by changes.
//!
//! Grouped by the window of a view that closes, a row leaves once, when that window has closed.

use super::{Context, Effects, Flow, OpError, Operator, fold_rows, key_columns, keys_of, nullable, values_of};
use crate::{
    delta::{ChangeBuilder, Delta, same_row},
    gate::Gate,
    plan::{Aggregate, Emit, GroupColumn, ViewSpec},
    state::{Frozen, Groups, KeyCodec, KeyDictionary, Pieces, StateError},
};
use arrow_array::{RecordBatch, cast::AsArray};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{DataType, SchemaRef};
use datafusion::physical_expr::expressions::Column;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Which rows of another level's epochs belong to this task.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    pub partition: u32,
    pub partitions: u32,
}

pub struct GroupOperator {
    plan: Aggregate,
    codec: KeyCodec,
    dictionary: KeyDictionary,
    groups: Groups,
    gate: Option<Gate>,
    /// Keys whose window closes, by its end.
    due: Option<BTreeMap<i64, BTreeSet<u32>>>,
    route: Option<Route>,
    raw_schema: SchemaRef,
}

impl GroupOperator {
    pub fn new(view: &ViewSpec, plan: Aggregate, route: Option<Route>) -> Result<Self, OpError> {
        let types: Vec<DataType> = plan.schema.fields()[..plan.group.len()].iter().map(|f| f.data_type().clone()).collect();
        let gate = match view.emit {
            Emit::ChangesEvery { interval_us } => Some(Gate::new(interval_us)),
            _ => None,
        };
        Ok(Self {
            codec: KeyCodec::new(&types, plan.by_record_key)?,
            dictionary: KeyDictionary::default(),
            groups: Groups::new(&plan.aggregates),
            gate,
            due: (view.emit == Emit::OnWindowClose).then(BTreeMap::new),
            route,
            raw_schema: Arc::new(nullable(&plan.schema)),
            plan,
        })
    }

    /// Folds rows in and gives the changes of the keys they touch.
    fn absorb(&mut self, delta: &Delta) -> Result<Delta, OpError> {
        if delta.is_empty() {
            return Ok(Delta::empty(Arc::clone(&self.raw_schema)));
        }
        let record_keys = delta.origin.as_ref().map(|o| &o.keys);
        let ids = keys_of(&self.plan.group, &self.codec, &mut self.dictionary, &delta.batch, record_keys)?;
        let values = values_of(&self.plan.aggregates, &delta.batch)?;
        if let Some(due) = &mut self.due {
            for (id, time) in ids.iter().zip(&delta.times) {
                due.entry(time.saturating_add(1)).or_default().insert(*id);
            }
            fold_rows(&mut self.groups, None, &ids, &values, &delta.times, false)?;
            return Ok(Delta::empty(Arc::clone(&self.raw_schema)));
        }
        let mut touched: Vec<u32> = ids.iter().copied().collect::<BTreeSet<u32>>().into_iter().collect();
        self.dictionary.sort(&mut touched);
        let (index_before, before) = self.rows_of(&touched)?;
        if delta.ops.is_none() {
            fold_rows(&mut self.groups, None, &ids, &values, &delta.times, false)?;
        } else {
            let (adds, takes): (Vec<u32>, Vec<u32>) = (0..delta.len() as u32).partition(|r| delta.op(*r as usize).adds());
            // A row that came and went is there before it is taken back.
            fold_rows(&mut self.groups, Some(&adds), &ids, &values, &delta.times, false)?;
            fold_rows(&mut self.groups, Some(&takes), &ids, &values, &delta.times, true)?;
        }
        let (index_after, after) = self.rows_of(&touched)?;
        let time = delta.times.iter().copied().max().unwrap_or(i64::MIN);
        let mut builder = ChangeBuilder::new();
        for (b, a) in index_before.into_iter().zip(index_after) {
            match (b, a) {
                (Some(b), Some(a)) if same_row(&before, b, &after, a) => {}
                (b, a) => builder.push(b, a, time),
            }
        }
        Ok(builder.finish(&before, &after)?)
    }

    /// Rows of the windows that end at or before `watermark`, once and for all.
    fn close(&mut self, watermark: i64) -> Result<Delta, OpError> {
        let mut out = Vec::new();
        while let Some((end, ids)) = self.due.as_mut().and_then(|due| due.first_entry().filter(|e| *e.key() <= watermark).map(|e| e.remove_entry())) {
            let mut ids: Vec<u32> = ids.into_iter().collect();
            self.dictionary.sort(&mut ids);
            let (_, batch) = self.rows_of(&ids)?;
            let rows = batch.num_rows();
            out.push(Delta::rows(batch, vec![end - 1; rows]));
            ids.iter().for_each(|id| self.groups.clear(*id));
        }
        self.compact()?;
        Ok(Delta::concat(&self.raw_schema, out)?)
    }

    /// Forgets the keys of closed windows, when they are most of all.
    fn compact(&mut self) -> Result<(), OpError> {
        let Some(due) = self.due.as_mut().filter(|_| self.groups.len() >= 1024) else { return Ok(()) };
        let live: Vec<u32> = due.values().flatten().copied().collect::<BTreeSet<u32>>().into_iter().collect();
        if live.len() * 2 > self.groups.len() {
            return Ok(());
        }
        let mut dictionary = KeyDictionary::default();
        let mut groups = self.groups.only(&live)?;
        let moved: BTreeMap<u32, u32> = live.iter().map(|id| (*id, dictionary.intern(self.dictionary.key(*id)))).collect();
        groups.renumber_by(|id| moved.get(&id).copied().unwrap_or_default());
        due.values_mut().for_each(|ids| *ids = ids.iter().map(|id| moved[id]).collect());
        (self.dictionary, self.groups) = (dictionary, groups);
        Ok(())
    }

    /// For each key its row's index, when it has one, and the rows.
    fn rows_of(&self, ids: &[u32]) -> Result<(Vec<Option<usize>>, RecordBatch), OpError> {
        let (held, index) = self.groups.held(ids);
        let mut columns = self.codec.decode(held.iter().map(|id| self.dictionary.key(*id)))?;
        columns.extend(self.groups.evaluate(&held)?);
        Ok((index, super::batch_of(&self.raw_schema, columns, held.len())?))
    }

    fn mine(&self, delta: Delta) -> Result<Delta, OpError> {
        match self.route {
            Some(route) => rows_of_route(&delta, &self.plan.group, route),
            None => Ok(delta),
        }
    }
}

/// The rows whose group key belongs to the task.
pub fn rows_of_route(delta: &Delta, group: &[GroupColumn], route: Route) -> Result<Delta, OpError> {
    if route.partitions == 1 || delta.is_empty() {
        return Ok(delta.clone());
    }
    let columns = key_columns(group, &delta.batch)?;
    if columns.is_empty() {
        return Ok(if route.partition == 0 { delta.clone() } else { delta.take(&[])? });
    }
    let converter = RowConverter::new(columns.iter().map(|c| SortField::new(c.data_type().clone())).collect())?;
    let rows = converter.convert_columns(&columns)?;
    let mine: Vec<usize> = (0..delta.len()).filter(|i| schemas::partition::partition_of(rows.row(*i).data(), route.partitions) == route.partition).collect();
    Ok(delta.take(&mine)?)
}

/// The rows whose columns `columns` belong to the task.
pub fn rows_of_columns_at(delta: &Delta, columns: &[usize], route: Route) -> Result<Delta, OpError> {
    let schema = delta.batch.schema();
    let column = |index: &usize| GroupColumn::Expr(Arc::new(Column::new(schema.field(*index).name(), *index)));
    let mut mine = rows_of_route(delta, &columns.iter().map(column).collect::<Vec<_>>(), route)?;
    mine.gone = delta.gone.clone();
    Ok(mine)
}

impl Operator for GroupOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], effects: &mut Effects) -> Result<Delta, OpError> {
        let delta = inputs[0].delta.clone().through(&self.plan.pre)?;
        effects.filtered += (inputs[0].delta.len() - delta.len()) as u64;
        let delta = self.mine(delta)?;
        let mut out = Vec::new();
        for delta in Gate::pass(&mut self.gate, delta, context.watermark)? {
            out.push(self.absorb(&delta)?);
        }
        if let Some(watermark) = context.watermark.filter(|_| self.due.is_some()) {
            out.push(self.close(watermark)?);
        }
        Ok(Delta::concat(&self.raw_schema, out)?.through(&self.plan.post)?)
    }

    fn freeze(&mut self) -> Frozen {
        let keys = self.dictionary.freeze();
        let groups = self.groups.freeze();
        let gate = self.gate.as_ref().map(Gate::pieces);
        let due = serde_json::json!(self.due);
        Box::new(move || {
            let mut pieces = Pieces { meta: due, batches: groups.to_batches("groups")? };
            pieces.batches.push(("keys".to_owned(), super::single_column("key", Arc::new(keys.to_array()))?));
            if let Some(gate) = gate {
                gate.add_to(&mut pieces)?;
            }
            Ok(pieces)
        })
    }

    fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        self.dictionary = KeyDictionary::restore(pieces.take("keys")?.column(0).as_binary());
        self.groups = Groups::restore(&self.plan.aggregates, "groups", &mut pieces)?;
        self.due = pieces.meta()?;
        match &mut self.gate {
            Some(gate) => gate.restore(&mut pieces),
            None => Ok(()),
        }
    }
}

//! A view without a window: one row per key for as long as the job runs, kept up to date by appended rows and by changes.

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
use std::{collections::BTreeSet, sync::Arc};

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
        let mut touched: Vec<u32> = ids.iter().copied().collect::<BTreeSet<u32>>().into_iter().collect();
        self.dictionary.sort(&mut touched);
        let (index_before, before) = self.rows_of(&touched)?;
        if delta.ops.is_none() {
            fold_rows(&mut self.groups, None, &ids, &values, &delta.times, false)?;
        } else {
            let (adds, takes): (Vec<u32>, Vec<u32>) = (0..delta.len() as u32).partition(|r| delta.op(*r as usize).adds());
            fold_rows(&mut self.groups, Some(&takes), &ids, &values, &delta.times, true)?;
            fold_rows(&mut self.groups, Some(&adds), &ids, &values, &delta.times, false)?;
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

impl Operator for GroupOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], _effects: &mut Effects) -> Result<Delta, OpError> {
        let delta = self.mine(inputs[0].delta.clone().through(&self.plan.pre)?)?;
        let mut out = Vec::new();
        match &mut self.gate {
            None => out.push(self.absorb(&delta)?),
            Some(gate) => {
                gate.push(0, &delta)?;
                for (_, tick) in gate.release(context.watermark)? {
                    for (_, delta) in tick {
                        out.push(self.absorb(&delta)?);
                    }
                }
            }
        }
        Ok(Delta::concat(&self.raw_schema, out)?.through(&self.plan.post)?)
    }

    fn freeze(&mut self) -> Frozen {
        let keys = self.dictionary.freeze();
        let groups = self.groups.freeze();
        let gate = self.gate.as_ref().map(Gate::pieces);
        Box::new(move || {
            let mut pieces = Pieces { meta: serde_json::Value::Null, batches: groups.to_batches("groups")? };
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
        match &mut self.gate {
            Some(gate) => gate.restore(&mut pieces),
            None => Ok(()),
        }
    }
}

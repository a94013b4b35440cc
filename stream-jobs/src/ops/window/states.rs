//! [`Phase::Final`]: states of panes from other tasks.
//!
//! [`Phase::Final`]: crate::plan::Phase::Final

use super::WindowOperator;
use crate::{
    delta::Delta,
    ops::{
        Flow, OpError,
        group::{Route, rows_of_columns_at},
    },
    plan::{Aggregate, GroupColumn},
    state::{Accumulator, Groups},
};
use arrow_array::{Array, ArrayRef, RecordBatch, cast::AsArray, types::TimestampMicrosecondType};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use std::{collections::BTreeMap, sync::Arc};

impl WindowOperator {
    pub(super) fn states_in(&mut self, flow: &Flow) -> Result<(), OpError> {
        let pane_end = self.plan.group.len() + 1;
        for (partition, delta) in &flow.by_partition {
            let delta = match self.route {
                Some(route) => rows_of_columns(delta, &self.plan.group, route)?,
                None => delta.clone(),
            };
            if delta.is_empty() {
                continue;
            }
            let (ends, missed) = (delta.batch.column(pane_end).as_primitive::<TimestampMicrosecondType>(), delta.batch.column(pane_end + 1));
            let missed = missed.as_primitive::<TimestampMicrosecondType>();
            let mut by_pane: BTreeMap<(i64, Option<i64>), Vec<usize>> = BTreeMap::new();
            for row in 0..delta.len() {
                by_pane.entry((ends.value(row), missed.is_valid(row).then(|| missed.value(row)))).or_default().push(row);
            }
            for ((end, missed), rows) in by_pane {
                self.pending
                    .entry(missed.map_or((end, false), |missed| (missed, true)))
                    .or_default()
                    .entry(*partition)
                    .or_default()
                    .push(delta.take(&rows)?.batch);
            }
        }
        Ok(())
    }

    /// Panes that every task has sent: their states are folded in the order of the tasks, so that floats come out the same.
    /// Those of rows that missed windows come after these have closed.
    pub(super) fn settle_panes(&mut self, watermark: i64) -> Result<Delta, OpError> {
        let mut out = Vec::new();
        while let Some(entry) = self.pending.first_entry() {
            let (at, missed) = *entry.key();
            if at > watermark {
                break;
            }
            let states = entry.remove();
            if missed {
                out.push(self.close_windows(at)?);
            }
            for batch in states.into_values().flatten() {
                self.fold_states(&batch)?;
            }
        }
        Ok(Delta::concat(&self.raw_schema, out)?)
    }

    fn fold_states(&mut self, batch: &RecordBatch) -> Result<(), OpError> {
        let start = batch.column(self.plan.group.len()).as_primitive::<TimestampMicrosecondType>().value(0);
        let key_columns: Vec<ArrayRef> =
            self.plan.group.iter().zip(batch.columns()).filter(|(g, _)| matches!(g, GroupColumn::Expr(_))).map(|(_, c)| Arc::clone(c)).collect();
        let ids = self.codec.intern(&mut self.dictionary, &key_columns, None, batch.num_rows())?;
        // What was put together out of the pane before is put together anew.
        self.sliding.forget_if_it_holds(start);
        let pane = self.panes.entry(start).or_insert_with(|| Groups::new(&self.plan.aggregates));
        let slots = pane.slots_for(&ids);
        Ok(pane.add_states(&slots, &self.plan.aggregates, &batch.columns()[self.plan.group.len() + 3..])?)
    }
}

/// The rows of a partial view whose group columns, which stand first in it, belong to the task.
pub fn rows_of_columns(delta: &Delta, group: &[GroupColumn], route: Route) -> Result<Delta, OpError> {
    let columns: Vec<usize> = (0..group.len()).filter(|i| matches!(group[*i], GroupColumn::Expr(_))).collect();
    rows_of_columns_at(delta, &columns, route)
}

/// What a partial view sends: group columns, the pane's bounds, the end of the last window that its rows missed, state columns.
pub fn partial_schema(plan: &Aggregate) -> SchemaRef {
    let time = |name: &str| Field::new(name, DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some("UTC".into())), false);
    let mut fields: Vec<Field> = plan.schema.fields()[..plan.group.len()].iter().map(|f| f.as_ref().clone()).collect();
    fields.extend([time("__pane_start"), time("__pane_end"), time("__missed").with_nullable(true)]);
    for (i, call) in plan.aggregates.iter().enumerate() {
        fields.extend(Accumulator::state_fields(call, i));
    }
    Arc::new(Schema::new(fields))
}

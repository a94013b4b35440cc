//! Rows that come too late: set aside, or put right where the view allows it.

use super::{CallValues, Mode, WindowOperator};
use crate::{
    delta::{ChangeBuilder, Delta},
    ops::{Effects, OpError, fold_rows, keys_of, values_of},
    plan::Phase,
    state::Groups,
    windows::Windows,
};
use std::{collections::BTreeMap, sync::Arc};

impl WindowOperator {
    /// The watermark up to which windows are closed: changes are taken in for as long as lateness is allowed.
    pub(super) fn due(&self, watermark: i64) -> i64 {
        let shift = if self.mode == Mode::Close || watermark == i64::MAX { 0 } else { self.allowed_us };
        watermark.saturating_sub(shift)
    }

    /// Up to where windows are closed for a row: by the watermark that its own partition had before it, or by what has closed already.
    fn closed_before(&self, delta: &Delta, row: usize) -> i64 {
        self.due(delta.origin.as_ref().map_or(i64::MIN, |o| o.watermarks[row])).max(self.closed_through)
    }

    /// Up to where nothing is put right any more for a row.
    fn settled_before(&self, delta: &Delta, row: usize) -> i64 {
        let closed = self.closed_before(delta, row);
        if self.plan.revisions { closed.saturating_sub(self.allowed_us) } else { closed }
    }

    /// Rows through `pre`, each with its window time, those that come too late set aside.
    pub(super) fn prepare(&mut self, delta: &Delta, effects: &mut Effects) -> Result<Delta, OpError> {
        let rows = delta.len();
        let mut delta = delta.clone().through(&self.plan.pre)?;
        effects.filtered += (rows - delta.len()) as u64;
        delta.times = self.times(&delta);
        if delta.is_empty() {
            return Ok(delta);
        }
        let delta = self.set_late_aside(delta, effects)?;
        if self.plan.phase == Phase::Partial { self.set_late_for_panes_aside(delta) } else { Ok(delta) }
    }

    /// Rows whose pane has gone up already, and that still count in windows above: they go up by themselves, with the end of the last
    /// window that they are late for.
    fn set_late_for_panes_aside(&mut self, delta: Delta) -> Result<Delta, OpError> {
        if self.are_in_time(&delta, self.windows) {
            return Ok(delta);
        }
        let late = |row: &usize| self.windows.last_end_of(delta.times[*row]) <= self.closed_before(&delta, *row);
        let late: Vec<usize> = (0..delta.len()).filter(late).collect();
        if late.is_empty() {
            return Ok(delta);
        }
        for row in &late {
            let (time, before) = (delta.times[*row], self.closed_before(&delta, *row));
            let missed = self.whole.ends_of(time).take_while(|end| *end <= before).last();
            let ids = self.ids_of(&delta, *row)?;
            let args = values_of(&self.plan.aggregates, &delta.batch.slice(*row, 1))?;
            let groups = self.late_panes.entry((self.windows.pane_of(time), missed)).or_insert_with(|| Groups::new(&self.plan.aggregates));
            fold_rows(groups, None, &ids, &args, &[time], false)?;
        }
        Ok(delta.without(&late)?)
    }

    fn ids_of(&mut self, delta: &Delta, row: usize) -> Result<Vec<u32>, OpError> {
        let record_key = delta.origin.as_ref().map(|o| o.keys.slice(row, 1));
        keys_of(&self.plan.group, &self.codec, &mut self.dictionary, &delta.batch.slice(row, 1), record_key.as_ref())
    }

    /// States of the rows that were late for their panes.
    pub(super) fn late_panes_up(&mut self) -> Result<Delta, OpError> {
        let mut out = Vec::new();
        for ((start, missed), groups) in std::mem::take(&mut self.late_panes) {
            let ids = self.sorted(groups.live_ids().collect());
            let end = start + self.windows.pane_us();
            let batch = self.pane_rows(&groups, &ids, end, missed)?;
            let rows = batch.num_rows();
            out.push(Delta::rows(batch, vec![end - 1; rows]));
        }
        Ok(Delta::concat(&self.raw_schema, out)?)
    }

    /// Mostly the earliest row is in time for the latest watermark, and then all are.
    fn are_in_time(&self, delta: &Delta, windows: Windows) -> bool {
        let latest = delta.origin.as_ref().and_then(|o| o.watermarks.iter().max().copied()).unwrap_or(i64::MIN).max(self.closed_through);
        delta.times.iter().min().is_none_or(|least| windows.last_end_of(*least) > latest)
    }

    /// Rows for whose every window it is too late go to the `late` output.
    fn set_late_aside(&self, delta: Delta, effects: &mut Effects) -> Result<Delta, OpError> {
        if self.are_in_time(&delta, self.whole) {
            return Ok(delta);
        }
        let times = &delta.times;
        let late = |row: usize| self.whole.last_end_of(times[row]) <= self.settled_before(&delta, row);
        let late_rows: Vec<usize> = (0..times.len()).filter(|row| late(*row)).collect();
        if late_rows.is_empty() {
            return Ok(delta);
        }
        let ends: Vec<i64> = late_rows.iter().map(|row| self.whole.last_end_of(times[*row])).collect();
        effects.late_rows(&self.view, &delta.take(&late_rows)?, &ends, self.closed_through)?;
        Ok(delta.without(&late_rows)?)
    }

    /// Prepared rows in; returns the changes of this batch (nothing when rows leave on close).
    pub(super) fn absorb(&mut self, delta: &Delta) -> Result<Delta, OpError> {
        if self.windows.are_panes() && !self.plan.revisions {
            return self.fold(delta, 0, delta.len());
        }
        let mut out = Vec::new();
        let mut from = 0;
        // What one input is late for, rows of another that stand behind in the batch may still be in time for.
        let several = delta.origin.as_ref().is_some_and(|origin| origin.places.len() > 1);
        let closable = if several { self.closed_through } else { self.closable };
        // Partly late rows: the windows they are late for close before they are folded.
        for (row, time) in delta.times.iter().enumerate() {
            let before = self.closed_before(delta, row);
            let first_end = self.windows.first_end_after(*time);
            if first_end > before {
                continue;
            }
            let missed = self.windows.ends_of(*time).take_while(|end| *end <= before).last().unwrap_or(first_end);
            if missed > self.closed_through.max(closable) && self.mode != Mode::Current {
                out.push(self.fold(delta, from, row)?);
                from = row + 1;
                self.held.entry(missed).or_default().push(delta.take(&[row])?);
                continue;
            }
            if self.windows.first_end_after((*time).max(self.closed_through)) <= before {
                out.push(self.fold(delta, from, row)?);
                from = row;
                out.push(self.close_windows(before)?);
            }
            if self.plan.revisions {
                out.push(self.fold(delta, from, row)?);
                from = row + 1;
                out.push(self.correct(delta, row)?);
            }
        }
        out.push(self.fold(delta, from, delta.len())?);
        Ok(Delta::concat(&self.raw_schema, out)?)
    }

    /// Takes in the rows that waited for windows which end at or before `closed_through` to close.
    pub(super) fn take_held(&mut self) -> Result<Delta, OpError> {
        let mut out = Vec::new();
        while let Some(entry) = self.held.first_entry().filter(|entry| *entry.key() <= self.closed_through) {
            for row in entry.remove() {
                out.push(if self.plan.revisions { self.correct(&row, 0)? } else { self.fold(&row, 0, row.len())? });
            }
        }
        Ok(Delta::concat(&self.raw_schema, out)?)
    }

    /// Folds a row that is late and allowed, and gives the rows of the closed windows that it changes once more.
    fn correct(&mut self, delta: &Delta, row: usize) -> Result<Delta, OpError> {
        let (closed, settled) = (self.closed_before(delta, row), self.settled_before(delta, row));
        let time = delta.times[row];
        let batch = delta.batch.slice(row, 1);
        let ids = self.ids_of(delta, row)?;
        let args: Vec<CallValues> = values_of(&self.plan.aggregates, &batch)?;
        let ends: Vec<i64> = self.windows.ends_of(time).filter(|end| *end <= closed && *end > settled.max(self.begins_after)).collect();
        let touched: BTreeMap<i64, Vec<u32>> = ends.iter().map(|end| (*end, ids.clone())).collect();
        let before = self.window_rows(&touched)?;
        self.apply(&BTreeMap::from([(self.windows.pane_of(time), None)]), &ids, &args, &[time])?;
        for (end, index) in ends.iter().zip(&before.index) {
            if index.is_some() {
                *self.revisions.entry(*end).or_default().entry(ids[0]).or_default() += 1;
            }
        }
        let after = self.window_rows(&touched)?;
        let mut builder = ChangeBuilder::new();
        for (i, end) in ends.iter().enumerate() {
            builder.push(before.index[i], after.index[i], end - 1);
        }
        Ok(builder.finish(&before.batch, &after.batch)?)
    }

    pub(super) fn none(&self) -> Delta {
        Delta::empty(Arc::clone(&self.raw_schema))
    }
}

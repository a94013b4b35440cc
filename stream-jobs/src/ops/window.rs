//! Windows: panes of one greatest common divisor, keyed columns in each, rows out when the watermark says so.
//!
//! A row is folded into the pane of its time. A window is the run of panes between its start and its end; it is put together
//! when it closes (or, for changes, for the keys that were touched). What a row is late for is decided by the
//! watermark that its own input partition had before the row, so the cut does not show: where a row is late for some of
//! its hopping windows only, those are closed first, in the middle of the batch.

use super::{
    Context, Effects, Flow, OpError, Operator,
    group::{Route, rows_of_route},
    keys_of, values_of,
};
use crate::{
    delta::{ChangeBuilder, Delta, Gone, same_row},
    gate::Gate,
    plan::{Aggregate, Emit, GroupColumn, LatePolicy, Phase, ViewSpec},
    state::{Accumulator, Frozen, Groups, KeyCodec, KeyDictionary, Pieces, StateError},
};
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray, cast::AsArray, types::TimestampMicrosecondType};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// When a windowed view's rows leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Close,
    Changes,
    /// Changes of the one window that ends next: a sliding table, for joins that know no window.
    Current,
}

pub struct WindowOperator {
    view: Arc<ViewSpec>,
    plan: Aggregate,
    mode: Mode,
    pane_us: i64,
    codec: KeyCodec,
    dictionary: KeyDictionary,
    panes: BTreeMap<i64, Groups>,
    /// Windows that end at or before this are closed.
    closed_through: i64,
    /// The window that [`Mode::Current`] shows: its end and its groups.
    current: Option<(i64, Groups)>,
    /// Keys of the last window that closed, and its end: kept when a table must learn who fell silent.
    present: Option<(i64, BTreeSet<u32>)>,
    tracks_silence: bool,
    /// States from other tasks that wait for their pane to be complete: end of the pane → origin partition → rows.
    pending: BTreeMap<i64, BTreeMap<u32, Vec<RecordBatch>>>,
    gate: Option<Gate>,
    /// Which rows of another level are this task's.
    route: Option<Route>,
    raw_schema: SchemaRef,
}

impl WindowOperator {
    pub fn new(view: Arc<ViewSpec>, plan: Aggregate, feeds_tables: bool, route: Option<Route>) -> Result<Self, OpError> {
        let window = plan.window.ok_or_else(|| OpError::Broken(format!("view `{}` has no window", view.name)))?;
        let mode = match view.emit {
            Emit::OnWindowClose => Mode::Close,
            _ if feeds_tables => Mode::Current,
            _ => Mode::Changes,
        };
        let pane_us = gcd(window.size_us, window.slide_us);
        let types: Vec<DataType> =
            plan.group.iter().zip(plan.schema.fields()).filter(|(g, _)| matches!(g, GroupColumn::Expr(_))).map(|(_, f)| f.data_type().clone()).collect();
        let codec = KeyCodec::new(&types, plan.by_record_key)?;
        let gate = match view.emit {
            Emit::ChangesEvery { interval_us } => Some(Gate::new(interval_us)),
            _ => None,
        };
        let raw_schema = Arc::new(super::nullable(if plan.phase == Phase::Partial { partial_schema(&plan) } else { Arc::clone(&plan.schema) }.as_ref()));
        let tracks_silence = feeds_tables && mode == Mode::Close && window.slide_us < window.size_us;
        Ok(Self {
            view,
            mode,
            pane_us,
            codec,
            gate,
            route,
            raw_schema,
            tracks_silence,
            plan,
            dictionary: KeyDictionary::default(),
            panes: BTreeMap::new(),
            closed_through: i64::MIN,
            current: None,
            present: None,
            pending: BTreeMap::new(),
        })
    }

    fn size(&self) -> i64 {
        self.plan.window.map_or(1, |w| w.size_us)
    }
    fn slide(&self) -> i64 {
        self.plan.window.map_or(1, |w| w.slide_us)
    }
    fn offset(&self) -> i64 {
        self.plan.window.map_or(0, |w| w.offset_us)
    }

    fn pane_of(&self, time: i64) -> i64 {
        (time - self.offset()).div_euclid(self.pane_us) * self.pane_us + self.offset()
    }

    /// The least window end after `time`: that of the first window in which `time` stands (or that comes after it).
    fn first_end_after(&self, time: i64) -> i64 {
        let base = self.offset() + self.size();
        // Before the first close `time` is the least there is.
        time.saturating_sub(base).div_euclid(self.slide()).saturating_add(1).saturating_mul(self.slide()).saturating_add(base)
    }

    /// The end of the last window that holds `time`.
    fn last_end_of(&self, time: i64) -> i64 {
        (time - self.offset()).div_euclid(self.slide()) * self.slide() + self.offset() + self.size()
    }

    fn times(&self, delta: &Delta) -> Vec<i64> {
        let Some(window) = self.plan.window else { return Vec::new() };
        let column = delta.batch.column(window.time_column);
        let shift = i64::from(window.time_is_window_end);
        match column.as_primitive_opt::<TimestampMicrosecondType>() {
            Some(times) if times.null_count() == 0 => times.values().iter().map(|t| t - shift).collect(),
            Some(times) => times.iter().zip(&delta.times).map(|(t, row)| t.map_or(*row, |t| t - shift)).collect(),
            None => delta.times.clone(),
        }
    }

    /// Rows through `pre`, each with its window time, those that come too late set aside.
    fn prepare(&self, delta: &Delta, effects: &mut Effects) -> Result<Delta, OpError> {
        let mut delta = delta.clone().through(&self.plan.pre)?;
        delta.times = self.times(&delta);
        if delta.is_empty() { Ok(delta) } else { self.set_late_aside(delta, effects) }
    }

    /// Prepared rows in; returns the changes of this batch (nothing when rows leave on close).
    fn absorb(&mut self, delta: &Delta) -> Result<Delta, OpError> {
        let times = &delta.times;
        let mut out = Vec::new();
        let mut from = 0;
        if self.slide() == self.size() {
            return self.fold(delta, 0, delta.len());
        }
        // Partly late rows: the windows they are late for close before they are folded.
        for (row, time) in times.iter().enumerate() {
            let before = delta.origin.as_ref().map_or(i64::MIN, |o| o.watermarks[row]);
            let first_end = self.first_end_after(*time);
            if first_end <= before && first_end > self.closed_through {
                out.push(self.fold(delta, from, row)?);
                out.push(self.close_windows(before)?);
                from = row;
            }
        }
        out.push(self.fold(delta, from, delta.len())?);
        Ok(Delta::concat(&self.raw_schema, out)?)
    }

    /// Rows for whose every window it is too late go to the `late` output.
    fn set_late_aside(&self, delta: Delta, effects: &mut Effects) -> Result<Delta, OpError> {
        let times = &delta.times;
        // Mostly the earliest row is in time for the latest watermark, and then all are.
        let latest = delta.origin.as_ref().and_then(|o| o.watermarks.iter().max().copied()).unwrap_or(i64::MIN).max(self.closed_through);
        if times.iter().min().is_none_or(|least| self.last_end_of(*least) > latest) {
            return Ok(delta);
        }
        let late = |row: usize| {
            let before = delta.origin.as_ref().map_or(i64::MIN, |o| o.watermarks[row]);
            self.last_end_of(times[row]) <= before.max(self.closed_through)
        };
        let mask: Vec<bool> = (0..times.len()).map(|row| !late(row)).collect();
        if mask.iter().all(|on_time| *on_time) {
            return Ok(delta);
        }
        let late_rows: Vec<usize> = (0..times.len()).filter(|i| !mask[*i]).collect();
        effects.counters.late += late_rows.len() as u64;
        if self.view.late == LatePolicy::Side {
            let ends: Vec<i64> = late_rows.iter().map(|i| self.last_end_of(times[*i])).collect();
            effects.late(&self.view.name, &delta.take(&late_rows)?, &ends, self.closed_through)?;
        }
        metrics::counter!("headend_late_rows_total", "view" => self.view.name.clone(), "reason" => "window_closed").increment(late_rows.len() as u64);
        Ok(delta.filter(&BooleanArray::from(mask))?)
    }

    /// Folds rows `[from, to)` into their panes.
    fn fold(&mut self, delta: &Delta, from: usize, to: usize) -> Result<Delta, OpError> {
        let empty = Delta::empty(Arc::clone(&self.raw_schema));
        if from == to {
            return Ok(empty);
        }
        let batch = delta.batch.slice(from, to - from);
        let times = &delta.times[from..to];
        let record_keys = delta.origin.as_ref().map(|o| o.keys.slice(from, to - from));
        let ids = keys_of(&self.plan.group, &self.codec, &mut self.dictionary, &batch, record_keys.as_ref())?;
        let args = values_of(&self.plan.aggregates, &batch)?;
        let by_pane = self.rows_by_pane(times);
        match self.mode {
            Mode::Close => {
                self.apply(&by_pane, &ids, &args, times)?;
                Ok(empty)
            }
            Mode::Changes => {
                let touched = self.touched(&by_pane, &ids);
                let before = self.window_rows(&touched)?;
                self.apply(&by_pane, &ids, &args, times)?;
                let after = self.window_rows(&touched)?;
                changes(&touched, &before, &after)
            }
            Mode::Current => self.fold_current(&by_pane, &ids, &args, times),
        }
    }

    fn rows_by_pane(&self, times: &[i64]) -> BTreeMap<i64, Option<Vec<u32>>> {
        let (least, greatest) = times.iter().fold((i64::MAX, i64::MIN), |(a, b), t| (a.min(*t), b.max(*t)));
        if self.pane_of(least) == self.pane_of(greatest) {
            return BTreeMap::from([(self.pane_of(least), None)]);
        }
        let mut panes: BTreeMap<i64, Option<Vec<u32>>> = BTreeMap::new();
        for (row, time) in times.iter().enumerate() {
            panes.entry(self.pane_of(*time)).or_insert_with(|| Some(Vec::new())).get_or_insert_default().push(row as u32);
        }
        panes
    }

    fn apply(&mut self, by_pane: &BTreeMap<i64, Option<Vec<u32>>>, ids: &[u32], args: &[super::CallValues], times: &[i64]) -> Result<(), OpError> {
        for (start, rows) in by_pane {
            let pane = self.panes.entry(*start).or_insert_with(|| Groups::new(&self.plan.aggregates));
            super::fold_rows(pane, rows.as_deref(), ids, args, times, false)?;
        }
        Ok(())
    }

    /// The (window end, key) pairs that rows of these panes touch, in order.
    fn touched(&self, by_pane: &BTreeMap<i64, Option<Vec<u32>>>, ids: &[u32]) -> BTreeMap<i64, Vec<u32>> {
        let mut touched: BTreeMap<i64, BTreeSet<u32>> = BTreeMap::new();
        for (start, rows) in by_pane {
            let of_pane: BTreeSet<u32> = match rows {
                None => ids.iter().copied().collect(),
                Some(rows) => rows.iter().map(|r| ids[*r as usize]).collect(),
            };
            let mut end = self.first_end_after(*start).max(self.first_end_after(self.closed_through));
            while end - self.size() <= *start {
                touched.entry(end).or_default().extend(&of_pane);
                end += self.slide();
            }
        }
        touched.into_iter().map(|(end, ids)| (end, self.sorted(ids.into_iter().collect()))).collect()
    }

    fn sorted(&self, mut ids: Vec<u32>) -> Vec<u32> {
        self.dictionary.sort(&mut ids);
        ids
    }

    /// The groups of the window that ends at `end`, for `ids` or for all keys.
    fn window(&self, end: i64, ids: Option<&[u32]>) -> Result<Groups, StateError> {
        let mut groups = Groups::new(&self.plan.aggregates);
        for (_, pane) in self.panes.range(end - self.size()..end) {
            match ids {
                Some(ids) => groups.merge_ids(pane, ids)?,
                None => groups.merge(pane)?,
            }
        }
        Ok(groups)
    }

    /// Rows of the touched windows as they stand: per pair the row's index, and the rows.
    fn window_rows(&self, touched: &BTreeMap<i64, Vec<u32>>) -> Result<WindowRows, OpError> {
        let mut rows = WindowRows { index: Vec::new(), batch: RecordBatch::new_empty(Arc::clone(&self.raw_schema)) };
        let mut n = 0;
        let mut batches = Vec::new();
        for (end, ids) in touched {
            let groups = self.window(*end, Some(ids))?;
            let (held, places) = groups.held(ids);
            rows.index.extend(places.into_iter().map(|place| place.map(|p| p + n)));
            n += held.len();
            batches.push(self.raw_rows(&groups, &held, end - self.size(), *end)?);
        }
        if !batches.is_empty() {
            rows.batch = arrow_select::concat::concat_batches(&self.raw_schema, &batches)?;
        }
        Ok(rows)
    }

    /// Group columns, window columns and results of `ids`, which `groups` holds.
    fn raw_rows(&self, groups: &Groups, ids: &[u32], start: i64, end: i64) -> Result<RecordBatch, OpError> {
        let keys = self.codec.decode(ids.iter().map(|id| self.dictionary.key(*id)))?;
        let results = if self.plan.phase == Phase::Partial { groups.states(ids)? } else { groups.evaluate(ids)? };
        self.assemble(keys, results, ids.len(), start, end)
    }

    fn assemble(&self, keys: Vec<ArrayRef>, results: Vec<ArrayRef>, rows: usize, start: i64, end: i64) -> Result<RecordBatch, OpError> {
        let time = |t: i64| Arc::new(TimestampMicrosecondArray::from_value(t, rows).with_timezone("UTC")) as ArrayRef;
        let mut keys = keys.into_iter();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for group in &self.plan.group {
            columns.push(match group {
                GroupColumn::Expr(_) => keys.next().ok_or_else(|| OpError::Broken("a key has fewer columns than its view".to_owned()))?,
                GroupColumn::WindowStart => time(start),
                GroupColumn::WindowEnd => time(end),
            });
        }
        if self.plan.phase == Phase::Partial {
            columns.extend([time(start), time(end)]);
        }
        columns.extend(results);
        super::batch_of(&self.raw_schema, columns, rows)
    }

    /// Closes the windows that end at or before `watermark`, in order of their ends.
    fn close_windows(&mut self, watermark: i64) -> Result<Delta, OpError> {
        let mut out = Vec::new();
        while let Some((&first, _)) = self.panes.first_key_value() {
            let end = self.first_end_after(first.max(self.closed_through));
            let silent_end = self.present.as_ref().map(|(e, _)| e + self.slide());
            if let Some(silent) = silent_end.filter(|s| *s < end && *s <= watermark) {
                out.push(self.all_gone(silent)?);
            }
            if end > watermark {
                break;
            }
            if self.mode == Mode::Close {
                out.push(self.close(end)?);
            }
            self.closed_through = end;
            self.drop_panes_before(end + self.slide() - self.size());
        }
        if let Some(silent) = self.present.as_ref().map(|(e, _)| e + self.slide()).filter(|s| self.panes.is_empty() && *s <= watermark && watermark != i64::MAX)
        {
            out.push(self.all_gone(silent)?);
        }
        self.closed_through = self.closed_through.max(watermark);
        self.compact_keys();
        Ok(Delta::concat(&self.raw_schema, out)?)
    }

    fn drop_panes_before(&mut self, start: i64) {
        while self.panes.first_key_value().is_some_and(|(pane, _)| *pane < start) {
            self.panes.pop_first();
        }
    }

    /// The rows of the window that ends at `end`, sorted by key.
    fn close(&mut self, end: i64) -> Result<Delta, OpError> {
        let start = end - self.size();
        let merged;
        let groups = if self.pane_us == self.size() {
            match self.panes.get(&start) {
                Some(pane) => pane,
                None => return Ok(Delta::empty(Arc::clone(&self.raw_schema))),
            }
        } else {
            merged = self.window(end, None)?;
            &merged
        };
        let ids = self.sorted(groups.live_ids().collect());
        let batch = self.raw_rows(groups, &ids, start, end)?;
        let rows = batch.num_rows();
        let mut delta = Delta::rows(batch, vec![end - 1; rows]);
        if self.tracks_silence {
            let now: BTreeSet<u32> = ids.into_iter().collect();
            if let Some((_, before)) = self.present.replace((end, now)) {
                let gone: Vec<u32> = before.into_iter().filter(|id| !self.present.as_ref().is_some_and(|(_, p)| p.contains(id))).collect();
                delta.gone = Some(self.silent(&gone, end)?);
            }
        }
        Ok(delta)
    }

    /// The window after the last one is empty: whoever was present is gone.
    fn all_gone(&mut self, end: i64) -> Result<Delta, OpError> {
        let mut delta = Delta::empty(Arc::clone(&self.raw_schema));
        if let Some((_, ids)) = self.present.take() {
            delta.gone = Some(self.silent(&self.sorted(ids.into_iter().collect()), end)?);
        }
        Ok(delta)
    }

    /// Rows of the keys `ids` that fell silent in the window that ends at `end`.
    fn silent(&self, ids: &[u32], end: i64) -> Result<Gone, OpError> {
        let keys = self.codec.decode(ids.iter().map(|id| self.dictionary.key(*id)))?;
        let groups = self.plan.group.len();
        let nulls = self.raw_schema.fields()[groups..].iter().map(|f| arrow_array::new_null_array(f.data_type(), ids.len())).collect();
        Ok(Gone { batch: self.assemble(keys, nulls, ids.len(), end - self.size(), end)?, times: vec![end; ids.len()] })
    }

    /// Forgets keys that no pane holds, when they are most of the dictionary.
    fn compact_keys(&mut self) {
        if self.dictionary.len() < 65_536 || self.current.is_some() || self.present.is_some() {
            return;
        }
        let mut live = vec![false; self.dictionary.len()];
        let mut n = 0;
        for pane in self.panes.values() {
            for id in pane.live_ids() {
                n += usize::from(!std::mem::replace(&mut live[id as usize], true));
            }
        }
        if n * 4 > self.dictionary.len() {
            return;
        }
        let mut fresh = KeyDictionary::default();
        let moved: Vec<u32> = live.iter().enumerate().map(|(id, live)| if *live { fresh.intern(self.dictionary.key(id as u32)) } else { 0 }).collect();
        self.panes.values_mut().for_each(|pane| pane.renumber(&moved));
        self.dictionary = fresh;
    }
}

/// [`Mode::Current`]: the window that ends next.
impl WindowOperator {
    fn fold_current(&mut self, by_pane: &BTreeMap<i64, Option<Vec<u32>>>, ids: &[u32], args: &[super::CallValues], times: &[i64]) -> Result<Delta, OpError> {
        let Some((end, groups)) = &self.current else {
            self.apply(by_pane, ids, args, times)?;
            return Ok(Delta::empty(Arc::clone(&self.raw_schema)));
        };
        let (end, start) = (*end, end - self.size());
        let rows: Vec<u32> = (0..times.len() as u32).filter(|r| (start..end).contains(&times[*r as usize])).collect();
        let touched = self.sorted(rows.iter().map(|r| ids[*r as usize]).collect::<BTreeSet<u32>>().into_iter().collect());
        let before = self.current_rows(groups, &touched, end)?;
        self.apply(by_pane, ids, args, times)?;
        if let Some((_, groups)) = &mut self.current {
            super::fold_rows(groups, Some(&rows), ids, args, times, false)?;
        }
        let Some((_, groups)) = &self.current else { return Ok(Delta::empty(Arc::clone(&self.raw_schema))) };
        let after = self.current_rows(groups, &touched, end)?;
        changes(&BTreeMap::from([(end, touched)]), &before, &after)
    }

    fn current_rows(&self, groups: &Groups, ids: &[u32], end: i64) -> Result<WindowRows, OpError> {
        let (held, index) = groups.held(ids);
        Ok(WindowRows { index, batch: self.raw_rows(groups, &held, end - self.size(), end)? })
    }

    /// Moves the shown window to the one that ends next after `watermark`; every key whose row moves with it is a change,
    /// those that fell silent too.
    fn slide_current(&mut self, watermark: i64) -> Result<Delta, OpError> {
        let end = match &self.current {
            Some((end, _)) if watermark == i64::MAX => *end,
            None if watermark == i64::MAX => self.panes.last_key_value().map_or(i64::MAX, |(start, _)| self.first_end_after(*start)),
            _ => self.first_end_after(watermark),
        };
        if self.current.as_ref().is_some_and(|(shown, _)| *shown >= end) || end == i64::MAX {
            return Ok(Delta::empty(Arc::clone(&self.raw_schema)));
        }
        let moved = self.window(end, None)?;
        let (old_end, old) = self.current.take().unwrap_or_else(|| (end, Groups::new(&self.plan.aggregates)));
        let ids = self.sorted(old.live_ids().chain(moved.live_ids()).collect::<BTreeSet<u32>>().into_iter().collect());
        let before = self.current_rows(&old, &ids, old_end)?;
        let after = self.current_rows(&moved, &ids, end)?;
        self.current = Some((end, moved));
        self.closed_through = self.closed_through.max(end - self.slide());
        self.drop_panes_before(end - self.size());
        changes(&BTreeMap::from([(end, ids)]), &before, &after)
    }
}

/// [`Phase::Final`]: states of panes from other tasks.
impl WindowOperator {
    fn states_in(&mut self, flow: &Flow) -> Result<(), OpError> {
        let pane_end = self.plan.group.len() + 1;
        for (partition, delta) in &flow.by_partition {
            let delta = match self.route {
                Some(route) => rows_of_columns(delta, &self.plan.group, route)?,
                None => delta.clone(),
            };
            if delta.is_empty() {
                continue;
            }
            let ends = delta.batch.column(pane_end).as_primitive::<TimestampMicrosecondType>().values().to_vec();
            let panes: BTreeSet<i64> = ends.iter().copied().collect();
            for pane in panes {
                let rows: Vec<usize> = (0..ends.len()).filter(|r| ends[*r] == pane).collect();
                self.pending.entry(pane).or_default().entry(*partition).or_default().push(delta.take(&rows)?.batch);
            }
        }
        Ok(())
    }

    /// Panes that every task has sent: their states are folded in the order of the tasks, so that floats come out the same.
    fn settle_panes(&mut self, watermark: i64) -> Result<(), OpError> {
        while let Some(entry) = self.pending.first_entry() {
            if *entry.key() > watermark {
                break;
            }
            for batch in entry.remove().into_values().flatten() {
                self.fold_states(&batch)?;
            }
        }
        Ok(())
    }

    fn fold_states(&mut self, batch: &RecordBatch) -> Result<(), OpError> {
        let start = batch.column(self.plan.group.len()).as_primitive::<TimestampMicrosecondType>().value(0);
        let key_columns: Vec<ArrayRef> =
            self.plan.group.iter().zip(batch.columns()).filter(|(g, _)| matches!(g, GroupColumn::Expr(_))).map(|(_, c)| Arc::clone(c)).collect();
        let ids = self.codec.intern(&mut self.dictionary, &key_columns, None, batch.num_rows())?;
        let pane = self.panes.entry(start).or_insert_with(|| Groups::new(&self.plan.aggregates));
        let slots = pane.slots_for(&ids);
        pane.count_rows(&slots, 1);
        let mut at = self.plan.group.len() + 2;
        for (i, call) in self.plan.aggregates.iter().enumerate() {
            let n = Accumulator::state_fields(call, i).len();
            pane.update_from_states(i, &slots, &batch.columns()[at..at + n])?;
            at += n;
        }
        Ok(())
    }
}

impl WindowOperator {
    /// Closes or moves windows by a tick. The shown window goes through every end on its way, as it would if each tick were an epoch.
    fn advance_to_tick(&mut self, tick: i64) -> Result<Delta, OpError> {
        if self.mode != Mode::Current {
            return self.close_windows(tick);
        }
        let mut out = Vec::new();
        while let Some((end, groups)) = self.current.as_ref().filter(|(end, _)| tick != i64::MAX && *end <= tick) {
            // Where nothing is shown, the empty windows before the next pane are passed over.
            let shows = groups.live_ids().next().is_some();
            let next = if shows { *end } else { self.panes.range(*end..).next().map_or(tick, |(pane, _)| *pane).min(tick) };
            out.push(self.slide_current(next)?);
        }
        out.push(self.slide_current(tick)?);
        Ok(Delta::concat(&self.raw_schema, out)?)
    }

    /// Closes or moves windows by the watermark, after the rows of the epoch.
    fn advance(&mut self, mut out: Vec<Delta>, watermark: Option<i64>) -> Result<Delta, OpError> {
        if let Some(watermark) = watermark {
            out.push(match (self.mode, &self.gate) {
                (Mode::Current, None) => self.slide_current(watermark)?,
                // Rows that wait for their tick still count in windows that the watermark has passed.
                (_, Some(gate)) => self.advance_to_tick(gate.released_through(watermark))?,
                _ => self.close_windows(watermark)?,
            });
        }
        let out = Delta::concat(&self.raw_schema, out)?;
        if self.plan.phase == Phase::Partial { Ok(out) } else { Ok(out.through(&self.plan.post)?) }
    }
}

impl Operator for WindowOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], effects: &mut Effects) -> Result<Delta, OpError> {
        let flow = inputs[0];
        let watermark = context.watermark;
        let mut out = Vec::new();
        if self.plan.phase == Phase::Final {
            self.states_in(flow)?;
            if let Some(watermark) = watermark {
                self.settle_panes(watermark)?;
            }
            return self.advance(out, watermark);
        }
        let prepared = self.prepare(&flow.delta, effects)?;
        if let Some(gate) = &mut self.gate {
            gate.push(0, &prepared)?;
            let interval = gate.interval_us();
            for (tick, rows) in gate.release(watermark)? {
                // What the ticks before have closed is closed for these rows, whether one epoch brings all the ticks or each its own.
                out.push(self.advance_to_tick(tick - interval)?);
                for (_, delta) in rows {
                    out.push(self.absorb(&delta)?);
                }
            }
        } else {
            out.push(self.absorb(&prepared)?);
        }
        self.advance(out, watermark)
    }

    fn freeze(&mut self) -> Frozen {
        let keys = self.dictionary.freeze();
        let mut frozen: Vec<(String, Groups)> = self.panes.iter_mut().map(|(start, pane)| (format!("pane.{start}"), pane.freeze())).collect();
        frozen.extend(self.current.as_mut().map(|(_, groups)| ("current".to_owned(), groups.freeze())));
        let meta = serde_json::json!({
            "closed_through": self.closed_through,
            "panes": self.panes.keys().collect::<Vec<_>>(),
            "current": self.current.as_ref().map(|c| c.0),
            "present": self.present,
            "pending": self.pending.iter().flat_map(|(pane, of)| of.iter().flat_map(move |(partition, batches)| batches.iter().map(move |_| (*pane, *partition)))).collect::<Vec<_>>(),
        });
        let pending: Vec<RecordBatch> = self.pending.values().flat_map(|of| of.values().flatten().cloned()).collect();
        let gate = self.gate.as_ref().map(Gate::pieces);
        Box::new(move || {
            let mut pieces = Pieces { meta, batches: vec![("keys".to_owned(), super::single_column("key", Arc::new(keys.to_array()))?)] };
            for (name, groups) in frozen {
                pieces.batches.extend(groups.to_batches(&name)?);
            }
            pieces.batches.extend(pending.into_iter().map(|b| ("pending".to_owned(), b)));
            if let Some(gate) = gate {
                gate.add_to(&mut pieces)?;
            }
            Ok(pieces)
        })
    }

    fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        let meta: Meta = pieces.meta()?;
        self.closed_through = meta.closed_through;
        self.dictionary = KeyDictionary::restore(pieces.take("keys")?.column(0).as_binary());
        for start in meta.panes {
            self.panes.insert(start, Groups::restore(&self.plan.aggregates, &format!("pane.{start}"), &mut pieces)?);
        }
        if let Some(end) = meta.current {
            self.current = Some((end, Groups::restore(&self.plan.aggregates, "current", &mut pieces)?));
        }
        self.present = meta.present;
        for ((pane, partition), batch) in meta.pending.into_iter().zip(pieces.take_all("pending")) {
            self.pending.entry(pane).or_default().entry(partition).or_default().push(batch);
        }
        if let Some(gate) = &mut self.gate {
            gate.restore(&mut pieces)?;
        }
        Ok(())
    }
}

#[derive(serde::Deserialize)]
struct Meta {
    closed_through: i64,
    panes: Vec<i64>,
    current: Option<i64>,
    present: Option<(i64, BTreeSet<u32>)>,
    pending: Vec<(i64, u32)>,
}

struct WindowRows {
    /// For each touched pair: the row, when the pair has one.
    index: Vec<Option<usize>>,
    batch: RecordBatch,
}

fn changes(touched: &BTreeMap<i64, Vec<u32>>, before: &WindowRows, after: &WindowRows) -> Result<Delta, OpError> {
    let mut builder = ChangeBuilder::new();
    let pairs = touched.iter().flat_map(|(end, ids)| ids.iter().map(move |_| *end));
    for (i, end) in pairs.enumerate() {
        match (before.index[i], after.index[i]) {
            (Some(b), Some(a)) if same_row(&before.batch, b, &after.batch, a) => {}
            (b, a) => builder.push(b, a, end - 1),
        }
    }
    Ok(builder.finish(&before.batch, &after.batch)?)
}

/// The rows of a partial view whose group columns, which stand first in it, belong to the task.
fn rows_of_columns(delta: &Delta, group: &[GroupColumn], route: Route) -> Result<Delta, OpError> {
    let by_column: Vec<GroupColumn> = group
        .iter()
        .enumerate()
        .map(|(i, g)| match g {
            GroupColumn::Expr(_) => GroupColumn::Expr(Arc::new(datafusion::physical_expr::expressions::Column::new(delta.batch.schema().field(i).name(), i))),
            other => other.clone(),
        })
        .collect();
    rows_of_route(delta, &by_column, route)
}

/// What a partial view sends: group columns, the pane's window columns, state columns.
pub fn partial_schema(plan: &Aggregate) -> SchemaRef {
    let time = |name: &str| Field::new(name, DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some("UTC".into())), false);
    let mut fields: Vec<Field> = plan.schema.fields()[..plan.group.len()].iter().map(|f| f.as_ref().clone()).collect();
    fields.extend([time("__pane_start"), time("__pane_end")]);
    for (i, call) in plan.aggregates.iter().enumerate() {
        fields.extend(Accumulator::state_fields(call, i));
    }
    Arc::new(Schema::new(fields))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

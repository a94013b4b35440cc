//! Windows: panes of one greatest common divisor, keyed columns in each, rows out when the watermark says so.
//!
//! A row is folded into the pane of its time. A window is the run of panes between its start and its end; it is put together
//! when it closes (or, for changes, for the keys that were touched). What a row is late for is decided by the
//! watermark that its own input partition had before the row, so the cut does not show: where a row is late for some of
//! its windows only, those are closed first, in the middle of the batch.

mod close;
mod current;
mod late;
mod sliding;
mod states;

pub use states::{partial_schema, rows_of_columns};

use super::{CallValues, Context, Effects, Flow, OpError, Operator, group::Route, keys_of, values_of};
use crate::{
    change::is_same_call,
    delta::{ChangeBuilder, Delta, same_row},
    gate::Gate,
    plan::{Aggregate, AggregateCall, Emit, GroupColumn, Phase, ViewSpec},
    state::{Frozen, Groups, KeyCodec, KeyDictionary, Pieces, StateError},
    windows::Windows,
};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray, cast::AsArray, types::TimestampMicrosecondType};
use arrow_schema::{DataType, SchemaRef};
use sliding::Sliding;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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
    windows: Windows,
    /// Windows that decide what a row is late for: in [`Phase::Partial`] those above.
    whole: Windows,
    /// In [`Phase::Partial`]: rows that were late for their pane and not for every window above, by pane and the end of the last window missed.
    late_panes: BTreeMap<(i64, Option<i64>), Groups>,
    /// How long after its end a closed window is corrected, in microseconds.
    allowed_us: i64,
    codec: KeyCodec,
    dictionary: KeyDictionary,
    panes: BTreeMap<i64, Groups>,
    /// Windows that end at or before this are closed.
    closed_through: i64,
    /// Windows that end at or before this may hold rows that came before the view.
    begins_after: i64,
    /// Aggregates that were added to the view while it ran, each with the end of the last window for which it may lack rows.
    added: BTreeMap<usize, i64>,
    /// Up to where windows may close for the rows at hand.
    closable: i64,
    /// Rows that are late for windows which other inputs may still add to: they come in when the last of these has closed.
    held: BTreeMap<i64, Vec<Delta>>,
    /// The window that was put together last.
    sliding: Sliding,
    /// The end of the window that [`Mode::Current`] shows; `sliding` holds it.
    current: Option<i64>,
    /// How often the row of a window and key was corrected, by the window's end.
    revisions: BTreeMap<i64, HashMap<u32, i64>>,
    /// Keys of the last window that closed, and its end: kept when a table must learn who fell silent.
    present: Option<(i64, BTreeSet<u32>)>,
    tracks_silence: bool,
    /// States from other tasks that wait: for their pane to be complete, by its end, or for the last window that their rows missed, by its
    /// end and `true`; then by origin partition.
    pending: BTreeMap<(i64, bool), BTreeMap<u32, Vec<RecordBatch>>>,
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
        let types: Vec<DataType> =
            plan.group.iter().zip(plan.schema.fields()).filter(|(g, _)| matches!(g, GroupColumn::Expr(_))).map(|(_, f)| f.data_type().clone()).collect();
        let codec = KeyCodec::new(&types, plan.by_record_key)?;
        let gate = match view.emit {
            Emit::ChangesEvery { interval_us } => Some(Gate::new(interval_us)),
            _ => None,
        };
        let raw_schema = Arc::new(super::nullable(if plan.phase == Phase::Partial { partial_schema(&plan) } else { Arc::clone(&plan.schema) }.as_ref()));
        let tracks_silence = feeds_tables && mode == Mode::Close && matches!(window.windows, Windows::Sliding { .. }) && !window.windows.are_panes();
        Ok(Self {
            allowed_us: view.allowed_lateness_us,
            view,
            mode,
            windows: window.windows,
            whole: plan.pane_of.unwrap_or(window.windows),
            late_panes: BTreeMap::new(),
            closable: i64::MIN,
            held: BTreeMap::new(),
            sliding: Sliding::new(&plan.aggregates),
            revisions: BTreeMap::new(),
            codec,
            gate,
            route,
            raw_schema,
            tracks_silence,
            plan,
            dictionary: KeyDictionary::default(),
            panes: BTreeMap::new(),
            closed_through: i64::MIN,
            begins_after: i64::MIN,
            added: BTreeMap::new(),
            current: None,
            present: None,
            pending: BTreeMap::new(),
        })
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
        if self.windows.pane_of(least) == self.windows.pane_of(greatest) {
            return BTreeMap::from([(self.windows.pane_of(least), None)]);
        }
        let mut panes: BTreeMap<i64, Option<Vec<u32>>> = BTreeMap::new();
        for (row, time) in times.iter().enumerate() {
            panes.entry(self.windows.pane_of(*time)).or_insert_with(|| Some(Vec::new())).get_or_insert_default().push(row as u32);
        }
        panes
    }

    fn apply(&mut self, by_pane: &BTreeMap<i64, Option<Vec<u32>>>, ids: &[u32], args: &[CallValues], times: &[i64]) -> Result<(), OpError> {
        for (start, rows) in by_pane {
            let pane = self.panes.entry(*start).or_insert_with(|| Groups::new(&self.plan.aggregates));
            super::fold_rows(pane, rows.as_deref(), ids, args, times, false)?;
            match self.sliding.holding(*start) {
                Some(holders) => {
                    for groups in holders {
                        super::fold_rows(groups, rows.as_deref(), ids, args, times, false)?;
                    }
                }
                None => self.sliding.renew(&self.panes)?,
            }
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
            for end in self.windows.ends_of(*start).filter(|end| *end > self.closed_through.max(self.begins_after)) {
                touched.entry(end).or_default().extend(&of_pane);
            }
        }
        touched.into_iter().map(|(end, ids)| (end, self.sorted(ids.into_iter().collect()))).collect()
    }

    fn sorted(&self, mut ids: Vec<u32>) -> Vec<u32> {
        self.dictionary.sort(&mut ids);
        ids
    }

    /// The groups of the keys `ids` in the window that ends at `end`.
    fn groups_of(&self, end: i64, ids: &[u32]) -> Result<Groups, StateError> {
        let mut groups = Groups::new(&self.plan.aggregates);
        for (_, pane) in self.panes.range(self.windows.start_of(end)..end) {
            groups.merge_ids(pane, ids)?;
        }
        Ok(groups)
    }

    /// Rows of the touched windows as they stand: per pair the row's index, and the rows.
    fn window_rows(&self, touched: &BTreeMap<i64, Vec<u32>>) -> Result<WindowRows, OpError> {
        let mut rows = WindowRows { index: Vec::new(), batch: RecordBatch::new_empty(Arc::clone(&self.raw_schema)) };
        let mut n = 0;
        let mut batches = Vec::new();
        for (end, ids) in touched {
            let groups = self.groups_of(*end, ids)?;
            let (held, places) = groups.held(ids);
            rows.index.extend(places.into_iter().map(|place| place.map(|p| p + n)));
            n += held.len();
            batches.push(self.raw_rows(&groups, &held, *end)?);
        }
        if !batches.is_empty() {
            rows.batch = arrow_select::concat::concat_batches(&self.raw_schema, &batches)?;
        }
        Ok(rows)
    }

    /// Group columns, window columns and results of `ids`, which `groups` holds.
    fn raw_rows(&self, groups: &Groups, ids: &[u32], end: i64) -> Result<RecordBatch, OpError> {
        if self.plan.phase == Phase::Partial {
            return self.pane_rows(groups, ids, end, None);
        }
        let mut results = groups.evaluate(ids)?;
        for (call, _) in self.added.iter().filter(|(_, last)| end <= **last) {
            results[*call] = arrow_array::new_null_array(results[*call].data_type(), ids.len());
        }
        if self.plan.revisions {
            results.push(Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| self.revision(end, *id)))));
        }
        let keys = self.codec.decode(ids.iter().map(|id| self.dictionary.key(*id)))?;
        self.assemble(keys, results, ids.len(), self.windows.start_of(end), end)
    }

    /// The states of a pane, in the layout of [`partial_schema`].
    fn pane_rows(&self, groups: &Groups, ids: &[u32], end: i64, missed: Option<i64>) -> Result<RecordBatch, OpError> {
        let start = self.windows.start_of(end);
        let time = |t: Option<i64>| Arc::new(TimestampMicrosecondArray::from(vec![t; ids.len()]).with_timezone("UTC")) as ArrayRef;
        let mut columns = vec![time(Some(start)), time(Some(end)), time(missed)];
        columns.extend(groups.states(ids)?);
        let keys = self.codec.decode(ids.iter().map(|id| self.dictionary.key(*id)))?;
        self.assemble(keys, columns, ids.len(), start, end)
    }

    fn revision(&self, end: i64, id: u32) -> i64 {
        self.revisions.get(&end).and_then(|of_window| of_window.get(&id)).copied().unwrap_or(0)
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
        columns.extend(results);
        super::batch_of(&self.raw_schema, columns, rows)
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
                out.push(self.settle_panes(watermark)?);
            }
            return self.advance(out, watermark);
        }
        let prepared = self.prepare(&flow.delta, effects)?;
        self.closable = watermark.map_or(i64::MIN, |watermark| self.due(watermark));
        if let Some(gate) = &mut self.gate {
            gate.push(0, &prepared)?;
            let interval = gate.interval_us();
            for (tick, rows) in gate.release(watermark)? {
                // What the ticks before have closed is closed for these rows, whether one epoch brings all the ticks or each its own.
                let mut of_tick = vec![self.advance_to_tick(tick - interval)?];
                self.closable = self.due(tick - interval);
                for (_, delta) in rows {
                    of_tick.push(self.absorb(&delta)?);
                }
                if self.held.is_empty() {
                    out.extend(of_tick);
                } else {
                    of_tick.push(self.advance_to_tick(tick)?);
                    let columns: Vec<usize> = (0..self.plan.group.len()).collect();
                    out.push(Delta::concat(&self.raw_schema, of_tick)?.coalesced(&columns)?);
                }
            }
        } else {
            out.push(self.absorb(&prepared)?);
            out.push(self.late_panes_up()?);
        }
        self.advance(out, watermark)
    }

    fn begin(&mut self, newest: i64) {
        self.begins_after = self.begins_after.max(self.windows.last_end_of(newest));
    }

    fn restore_with_more(&mut self, pieces: Pieces, had: &[AggregateCall], newest: Option<i64>) -> Result<(), StateError> {
        let calls = std::mem::replace(&mut self.plan.aggregates, had.to_vec());
        self.restore(pieces)?;
        let from: Vec<Option<usize>> = calls.iter().map(|call| had.iter().position(|h| is_same_call(h, call))).collect();
        let added_before = std::mem::take(&mut self.added);
        for (call, from) in from.iter().enumerate() {
            let last = match from {
                Some(from) => added_before.get(from).copied(),
                None => newest.map(|newest| self.windows.last_end_of(newest)),
            };
            self.added.extend(last.map(|last| (call, last)));
        }
        let panes = std::mem::take(&mut self.panes);
        self.panes = panes.into_iter().map(|(start, pane)| (start, pane.with_calls(&calls, &from))).collect();
        self.sliding = Sliding::new(&calls);
        self.plan.aggregates = calls;
        Ok(())
    }

    fn open_windows(&self) -> Option<(i64, i64)> {
        let (last, _) = self.panes.last_key_value()?;
        Some((self.next_end()?, self.whole.last_end_of(*last)))
    }

    fn freeze(&mut self) -> Frozen {
        let keys = self.dictionary.freeze();
        let frozen: Vec<(String, Groups)> = self.panes.iter_mut().map(|(start, pane)| (format!("pane.{start}"), pane.freeze())).collect();
        let meta = serde_json::json!({
            "closed_through": self.closed_through,
            "begins_after": self.begins_after,
            "added": self.added,
            "panes": self.panes.keys().collect::<Vec<_>>(),
            "current": self.current,
            "revisions": self.revisions,
            "held": self.held.iter().flat_map(|(missed, rows)| std::iter::repeat_n(*missed, rows.len())).collect::<Vec<_>>(),
            "present": self.present,
            "pending": self.pending.iter().flat_map(|(pane, of)| of.iter().flat_map(move |(partition, batches)| batches.iter().map(move |_| (*pane, *partition)))).collect::<Vec<_>>(),
        });
        let pending: Vec<RecordBatch> = self.pending.values().flat_map(|of| of.values().flatten().cloned()).collect();
        let gate = self.gate.as_ref().map(Gate::pieces);
        let held: Vec<Delta> = self.held.values().flatten().cloned().collect();
        Box::new(move || {
            let mut pieces = Pieces { meta, batches: vec![("keys".to_owned(), super::single_column("key", Arc::new(keys.to_array()))?)] };
            for (name, groups) in frozen {
                pieces.batches.extend(groups.to_batches(&name)?);
            }
            pieces.batches.extend(pending.into_iter().map(|b| ("pending".to_owned(), b)));
            for delta in held {
                pieces.batches.push(("held".to_owned(), delta.to_kept()?));
            }
            if let Some(gate) = gate {
                gate.add_to(&mut pieces)?;
            }
            Ok(pieces)
        })
    }

    fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        let meta: Meta = pieces.meta()?;
        self.closed_through = meta.closed_through;
        (self.begins_after, self.added) = (meta.begins_after, meta.added);
        self.dictionary = KeyDictionary::restore(pieces.take("keys")?.column(0).as_binary());
        for start in meta.panes {
            self.panes.insert(start, Groups::restore(&self.plan.aggregates, &format!("pane.{start}"), &mut pieces)?);
        }
        self.revisions = meta.revisions;
        for (missed, batch) in meta.held.into_iter().zip(pieces.take_all("held")) {
            self.held.entry(missed).or_default().push(Delta::from_kept(&batch)?);
        }
        self.current = meta.current;
        if let Some(end) = meta.current {
            self.sliding.move_to(&self.panes, self.windows.start_of(end), end)?;
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
    begins_after: i64,
    added: BTreeMap<usize, i64>,
    panes: Vec<i64>,
    current: Option<i64>,
    revisions: BTreeMap<i64, HashMap<u32, i64>>,
    held: Vec<i64>,
    present: Option<(i64, BTreeSet<u32>)>,
    pending: Vec<((i64, bool), u32)>,
}

/// Rows of pairs of a window's end and a key.
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

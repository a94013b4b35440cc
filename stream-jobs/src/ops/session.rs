//! Sessions: rows of a key less than the gap apart.
//!
//! Each session has a number, and its aggregates stand in [`Groups`] under it. Two sessions that a row brings together become one. A
//! session is closed for a row when the watermark that the row's own partition had before it has passed its end, so that the cut
//! does not show. Over another key the tasks of the rows hand their closed sessions up, where those that touch become one.

use super::{
    CallValues, Context, Effects, Flow, OpError, Operator, fold_rows,
    group::Route,
    keys_of, nullable, values_of,
    window::{partial_schema, rows_of_columns},
};
use crate::{
    delta::{ChangeBuilder, Delta, same_row},
    plan::{Aggregate, Emit, GroupColumn, Phase, ViewSpec},
    state::{Frozen, Groups, KeyCodec, KeyDictionary, Pieces, StateError},
    windows::Windows,
};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array, cast::AsArray, types::*};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A session that is open: `[start, end)`, where the end is the last row's time and the gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    start: i64,
    end: i64,
    /// Its id among the groups.
    number: u32,
}

pub struct SessionOperator {
    view: Arc<ViewSpec>,
    plan: Aggregate,
    gap_us: i64,
    time_column: usize,
    shift_us: i64,
    codec: KeyCodec,
    dictionary: KeyDictionary,
    groups: Groups,
    /// Open sessions of each key, by their start.
    open: BTreeMap<u32, Vec<Session>>,
    /// End, key and start of every open session.
    by_end: BTreeSet<(i64, u32, i64)>,
    next_number: u32,
    closed_through: i64,
    /// A session that starts before this may have begun with rows that came before the view.
    begins: i64,
    /// Up to where sessions may close for the rows at hand.
    closable: i64,
    route: Option<Route>,
    raw_schema: SchemaRef,
}

impl SessionOperator {
    pub fn new(view: Arc<ViewSpec>, plan: Aggregate, route: Option<Route>) -> Result<Self, OpError> {
        let Some((window, Windows::Sessions { gap_us })) = plan.window.map(|w| (w, w.windows)) else {
            return Err(OpError::Broken(format!("view `{}` has no sessions", view.name)));
        };
        let keys = plan.group.iter().zip(plan.schema.fields()).filter(|(g, _)| matches!(g, GroupColumn::Expr(_)));
        let types: Vec<DataType> = keys.map(|(_, f)| f.data_type().clone()).collect();
        let raw_schema = if plan.phase == Phase::Partial { partial_schema(&plan) } else { Arc::clone(&plan.schema) };
        Ok(Self {
            gap_us,
            time_column: window.time_column,
            shift_us: i64::from(window.time_is_window_end),
            codec: KeyCodec::new(&types, plan.by_record_key)?,
            dictionary: KeyDictionary::default(),
            groups: Groups::new(&plan.aggregates),
            open: BTreeMap::new(),
            by_end: BTreeSet::new(),
            next_number: 0,
            closed_through: i64::MIN,
            begins: i64::MIN,
            closable: i64::MIN,
            route,
            raw_schema: Arc::new(nullable(&raw_schema)),
            view,
            plan,
        })
    }

    fn emits_changes(&self) -> bool {
        self.view.emit != Emit::OnWindowClose
    }

    fn times(&self, delta: &Delta) -> Vec<i64> {
        match delta.batch.column(self.time_column).as_primitive_opt::<TimestampMicrosecondType>() {
            Some(times) => times.iter().zip(&delta.times).map(|(t, row)| t.map_or(*row, |t| t - self.shift_us)).collect(),
            None => delta.times.clone(),
        }
    }

    /// The one open session that `[start, end)` of the key becomes part of; sessions that it brings together are folded into the first.
    fn place(&mut self, key: u32, start: i64, end: i64, closed: i64) -> Result<u32, OpError> {
        let of_key = self.open.entry(key).or_default();
        let touches = |s: &Session| s.start < end && start < s.end && s.end > closed;
        let touching: Vec<Session> = of_key.iter().copied().filter(touches).collect();
        of_key.retain(|s| !touches(s));
        let mut merged = Session { start, end, number: touching.first().map_or(self.next_number, |s| s.number) };
        if touching.is_empty() {
            self.next_number += 1;
        }
        for session in &touching {
            merged.start = merged.start.min(session.start);
            merged.end = merged.end.max(session.end);
            self.by_end.remove(&(session.end, key, session.start));
        }
        let at = of_key.partition_point(|s| s.start < merged.start);
        of_key.insert(at, merged);
        self.by_end.insert((merged.end, key, merged.start));
        for session in touching.iter().skip(1) {
            self.groups.move_into(merged.number, session.number)?;
        }
        Ok(merged.number)
    }

    /// Rows in; late ones are set aside. `out` takes the sessions that closed on the way.
    fn absorb(&mut self, delta: &Delta, out: &mut Vec<Delta>, effects: &mut Effects) -> Result<(), OpError> {
        if delta.is_empty() {
            return Ok(());
        }
        let record_keys = delta.origin.as_ref().map(|o| &o.keys);
        let keys = keys_of(&self.plan.group, &self.codec, &mut self.dictionary, &delta.batch, record_keys)?;
        let values = values_of(&self.plan.aggregates, &delta.batch)?;
        let times = self.times(delta);
        let before = if self.emits_changes() { Some(self.rows_of(&keys)?) } else { None };
        let mut rows = Pending { rows: Vec::new(), numbers: vec![0; delta.len()] };
        let (mut late, mut ends) = (Vec::new(), Vec::new());
        for (row, (key, time)) in keys.iter().zip(&times).enumerate() {
            let closed = delta.origin.as_ref().map_or(i64::MIN, |o| o.watermarks[row]).max(self.closed_through);
            // Other inputs may still add to what is over for this row.
            let closable = closed.min(self.closable);
            if self.by_end.first().is_some_and(|(end, ..)| *end <= closable) {
                self.fold(&mut rows, &values, &times)?;
                let closing = self.close(closable)?;
                out.extend((!self.emits_changes()).then_some(closing));
            }
            let (start, end) = (*time, time + self.gap_us);
            let touching = self.touching(*key, start, end, closed);
            if end <= closed && touching == 0 {
                late.push(row);
                ends.push(end);
                continue;
            }
            if touching > 1 {
                self.fold(&mut rows, &values, &times)?;
            }
            let number = self.place(*key, start, end, closed)?;
            rows.rows.push(row as u32);
            rows.numbers[row] = number;
        }
        self.fold(&mut rows, &values, &times)?;
        if let Some(before) = before {
            let after = self.rows_of(&keys)?;
            out.push(differences(before, after)?);
        }
        if !late.is_empty() {
            let mut delta = delta.take(&late)?;
            delta.times = late.iter().map(|row| times[*row]).collect();
            effects.late_rows(&self.view, &delta, &ends, self.closed_through)?;
        }
        Ok(())
    }

    /// Open sessions that `[start, end)` of the key touches, those that are over for the row apart.
    fn touching(&self, key: u32, start: i64, end: i64, closed: i64) -> usize {
        self.open.get(&key).map_or(0, |of_key| of_key.iter().filter(|s| s.start < end && start < s.end && s.end > closed).count())
    }

    fn fold(&mut self, pending: &mut Pending, values: &[CallValues], times: &[i64]) -> Result<(), OpError> {
        if pending.rows.is_empty() {
            return Ok(());
        }
        fold_rows(&mut self.groups, Some(&pending.rows), &pending.numbers, values, times, false)?;
        pending.rows.clear();
        Ok(())
    }

    /// Closes the sessions that end at or before `watermark`; their rows, by end and key.
    fn close(&mut self, watermark: i64) -> Result<Delta, OpError> {
        let mut closing: Vec<(u32, Session)> = Vec::new();
        while let Some((end, key, start)) = self.by_end.first().copied().filter(|(end, ..)| *end <= watermark) {
            self.by_end.pop_first();
            if let Some(of_key) = self.open.get_mut(&key) {
                closing.extend(of_key.iter().copied().filter(|s| (s.start, s.end) == (start, end)).map(|s| (key, s)));
                of_key.retain(|s| (s.start, s.end) != (start, end));
                if of_key.is_empty() {
                    self.open.remove(&key);
                }
            }
        }
        self.closed_through = self.closed_through.max(watermark);
        closing.retain(|(_, s)| {
            if s.start < self.begins {
                self.groups.clear(s.number);
            }
            s.start >= self.begins
        });
        closing.sort_by(|(a, s), (b, t)| (s.end, self.dictionary.key(*a), s.start).cmp(&(t.end, self.dictionary.key(*b), t.start)));
        let batch = self.raw_rows(&closing)?;
        let times = closing.iter().map(|(_, s)| s.end - 1).collect();
        for (_, session) in &closing {
            self.groups.clear(session.number);
        }
        Ok(Delta::rows(batch, times))
    }

    /// Forgets the numbers of closed sessions and keys without one, when they are most of all.
    fn compact(&mut self) -> Result<(), OpError> {
        let open = self.by_end.len();
        if self.groups.len() < 1024 || open * 2 > self.groups.len() {
            return Ok(());
        }
        let mut dictionary = KeyDictionary::default();
        let (mut fresh, mut by_end) = (BTreeMap::new(), BTreeSet::new());
        let numbers: Vec<u32> = self.open.values().flatten().map(|s| s.number).collect();
        let mut groups = self.groups.only(&numbers)?;
        let moved: BTreeMap<u32, u32> = numbers.iter().zip(0..).map(|(old, new)| (*old, new)).collect();
        groups.renumber_by(|old| moved.get(&old).copied().unwrap_or_default());
        for (key, of_key) in &self.open {
            let id = dictionary.intern(self.dictionary.key(*key));
            let sessions: Vec<Session> = of_key.iter().map(|s| Session { number: moved[&s.number], ..*s }).collect();
            by_end.extend(sessions.iter().map(|s| (s.end, id, s.start)));
            fresh.insert(id, sessions);
        }
        self.next_number = numbers.len() as u32;
        (self.dictionary, self.groups, self.open, self.by_end) = (dictionary, groups, fresh, by_end);
        Ok(())
    }

    /// Group columns, bounds and results of sessions.
    fn raw_rows(&self, sessions: &[(u32, Session)]) -> Result<RecordBatch, OpError> {
        let numbers: Vec<u32> = sessions.iter().map(|(_, s)| s.number).collect();
        let mut keys = self.codec.decode(sessions.iter().map(|(key, _)| self.dictionary.key(*key)))?.into_iter();
        let bounds = |bound: fn(&Session) -> i64| {
            let times = TimestampMicrosecondArray::from_iter_values(sessions.iter().map(|(_, s)| bound(s)));
            Arc::new(times.with_timezone("UTC")) as ArrayRef
        };
        let mut columns: Vec<ArrayRef> = Vec::new();
        for group in &self.plan.group {
            columns.push(match group {
                GroupColumn::Expr(_) => keys.next().ok_or_else(|| OpError::Broken("a key has fewer columns than its view".to_owned()))?,
                GroupColumn::WindowStart => bounds(|s| s.start),
                GroupColumn::WindowEnd => bounds(|s| s.end),
            });
        }
        if self.plan.phase == Phase::Partial {
            let missed = arrow_array::new_null_array(self.raw_schema.field(columns.len() + 2).data_type(), sessions.len());
            columns.extend([bounds(|s| s.start), bounds(|s| s.end), missed]);
            columns.extend(self.groups.states(&numbers)?);
        } else {
            columns.extend(self.groups.evaluate(&numbers)?);
        }
        super::batch_of(&self.raw_schema, columns, sessions.len())
    }

    /// Open sessions of `keys` and their rows.
    fn rows_of(&self, keys: &[u32]) -> Result<Standing, OpError> {
        let mut ids: Vec<u32> = keys.iter().copied().collect::<BTreeSet<u32>>().into_iter().collect();
        self.dictionary.sort(&mut ids);
        let sessions = ids.iter().flat_map(|id| self.open.get(id).into_iter().flatten().map(|s| (*id, *s)));
        let sessions: Vec<(u32, Session)> = sessions.filter(|(_, s)| s.start >= self.begins).collect();
        let batch = self.raw_rows(&sessions)?;
        Ok(Standing { sessions: sessions.into_iter().map(|(key, s)| (key, s.start, s.end)).collect(), batch })
    }

    /// Closed sessions of the tasks of the rows; those that touch become one.
    fn states_in(&mut self, flow: &Flow) -> Result<(), OpError> {
        let bounds = self.plan.group.len();
        for (_, delta) in &flow.by_partition {
            let delta = match self.route {
                Some(route) => rows_of_columns(delta, &self.plan.group, route)?,
                None => delta.clone(),
            };
            let columns = delta.batch.columns();
            let key_columns: Vec<ArrayRef> =
                self.plan.group.iter().zip(columns).filter(|(g, _)| matches!(g, GroupColumn::Expr(_))).map(|(_, c)| Arc::clone(c)).collect();
            let keys = self.codec.intern(&mut self.dictionary, &key_columns, None, delta.len())?;
            let (starts, ends) = (columns[bounds].as_primitive::<TimestampMicrosecondType>(), columns[bounds + 1].as_primitive::<TimestampMicrosecondType>());
            for (row, key) in keys.iter().enumerate() {
                let number = self.place(*key, starts.value(row), ends.value(row), i64::MIN)?;
                let slots = self.groups.slots_for(&[number]);
                let states: Vec<ArrayRef> = columns[bounds + 3..].iter().map(|c| c.slice(row, 1)).collect();
                self.groups.add_states(&slots, &self.plan.aggregates, &states)?;
            }
        }
        Ok(())
    }
}

/// Rows whose session is known and that are not folded yet.
struct Pending {
    rows: Vec<u32>,
    /// Of every row of the batch the number of its session, once it is known.
    numbers: Vec<u32>,
}

/// The rows of a session before and after, where it has one.
type Change = (Option<usize>, Option<usize>);

struct Standing {
    /// Key, start and end of each row.
    sessions: Vec<(u32, i64, i64)>,
    batch: RecordBatch,
}

/// A session whose bounds moved is another row.
fn differences(before: Standing, after: Standing) -> Result<Delta, OpError> {
    let mut pairs: BTreeMap<(u32, i64, i64), Change> = BTreeMap::new();
    for (i, session) in before.sessions.iter().enumerate() {
        pairs.entry(*session).or_default().0 = Some(i);
    }
    for (i, session) in after.sessions.iter().enumerate() {
        pairs.entry(*session).or_default().1 = Some(i);
    }
    let mut builder = ChangeBuilder::new();
    for ((_, _, end), (b, a)) in pairs {
        if let (Some(b), Some(a)) = (b, a)
            && same_row(&before.batch, b, &after.batch, a)
        {
            continue;
        }
        builder.push(b, a, end - 1);
    }
    Ok(builder.finish(&before.batch, &after.batch)?)
}

impl Operator for SessionOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], effects: &mut Effects) -> Result<Delta, OpError> {
        let mut out = Vec::new();
        if self.plan.phase == Phase::Final {
            self.states_in(inputs[0])?;
        } else {
            self.closable = context.watermark.unwrap_or(i64::MIN);
            let delta = inputs[0].delta.clone().through(&self.plan.pre)?;
            effects.filtered += (inputs[0].delta.len() - delta.len()) as u64;
            self.absorb(&delta, &mut out, effects)?;
        }
        if let Some(watermark) = context.watermark {
            let closing = self.close(watermark)?;
            out.extend((!self.emits_changes()).then_some(closing));
        }
        // Not before: rows of the epoch know their keys by their ids.
        self.compact()?;
        let out = Delta::concat(&self.raw_schema, out)?;
        if self.plan.phase == Phase::Partial { Ok(out) } else { Ok(out.through(&self.plan.post)?) }
    }

    /// An open session may still come, and its start with it.
    fn holds_back(&self) -> Option<i64> {
        if self.plan.phase != Phase::Partial {
            return None;
        }
        self.open.values().flatten().map(|s| s.start).min()
    }

    fn begin(&mut self, newest: i64) {
        self.begins = self.begins.max(newest.saturating_add(self.gap_us));
    }

    fn open_windows(&self) -> Option<(i64, i64)> {
        Some((self.by_end.first()?.0, self.by_end.last()?.0))
    }

    fn freeze(&mut self) -> Frozen {
        let keys = self.dictionary.freeze();
        let groups = self.groups.freeze();
        let open: Vec<(u32, Session)> = self.open.iter().flat_map(|(key, of_key)| of_key.iter().map(|s| (*key, *s))).collect();
        let meta = serde_json::json!({ "closed_through": self.closed_through, "begins": self.begins, "next_number": self.next_number });
        Box::new(move || {
            let mut pieces = Pieces { meta, batches: groups.to_batches("groups")? };
            pieces.batches.push(("keys".to_owned(), super::single_column("key", Arc::new(keys.to_array()))?));
            let ints = |of: fn(&(u32, Session)) -> i64| Arc::new(Int64Array::from_iter_values(open.iter().map(of))) as ArrayRef;
            let numbers = |of: fn(&(u32, Session)) -> u32| Arc::new(UInt32Array::from_iter_values(open.iter().map(of))) as ArrayRef;
            let columns = vec![numbers(|s| s.0), numbers(|s| s.1.number), ints(|s| s.1.start), ints(|s| s.1.end)];
            let fields: Vec<Field> =
                ["key", "number", "start", "end"].iter().zip(&columns).map(|(name, c)| Field::new(*name, c.data_type().clone(), false)).collect();
            pieces.batches.push(("open".to_owned(), RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?));
            Ok(pieces)
        })
    }

    fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        let number = |name: &str| pieces.meta[name].as_i64().ok_or_else(|| StateError::Missing(name.to_owned()));
        self.closed_through = number("closed_through")?;
        self.begins = number("begins")?;
        self.next_number = number("next_number")? as u32;
        self.dictionary = KeyDictionary::restore(pieces.take("keys")?.column(0).as_binary());
        self.groups = Groups::restore(&self.plan.aggregates, "groups", &mut pieces)?;
        let open = pieces.take("open")?;
        let (keys, numbers) = (open.column(0).as_primitive::<UInt32Type>(), open.column(1).as_primitive::<UInt32Type>());
        let (starts, ends) = (open.column(2).as_primitive::<Int64Type>(), open.column(3).as_primitive::<Int64Type>());
        for row in 0..open.num_rows() {
            let session = Session { start: starts.value(row), end: ends.value(row), number: numbers.value(row) };
            self.open.entry(keys.value(row)).or_default().push(session);
            self.by_end.insert((session.end, keys.value(row), session.start));
        }
        Ok(())
    }
}

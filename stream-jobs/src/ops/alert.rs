//! Alert rules: inactive → pending → firing → resolved, per rule and entity, with the hysteresis that the rule states.
//!
//! A rule stands on a view. Over keyed changes the condition of an entity holds while any row of it raises; rows of windows
//! count until the window has ended. Over appended rows a raise holds for `min_hold` after the last raising row, or until a row
//! clears it. `for` and `min_hold` run on the watermark, ids count episodes: all of it comes out the same on every replay.
//!
//! An entity whose condition has begun to hold `N` times within `W` (`flapping = 'N in W'`) keeps one open alert until none has begun for `W`.

use super::{Context, OpError};
use crate::{
    delta::{Delta, Op},
    plan::{AlertSpec, Flapping, ViewSpec},
    state::{Pieces, StateError},
    steps,
};
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array, cast::AsArray, types::*};
use arrow_cast::{
    cast,
    display::{ArrayFormatter, FormatOptions},
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use schemas::{
    Output, OutputKind,
    alert::{Action, AlertEvent, Entity, Reason, State as Standing, Threshold, Window},
    clock::rfc3339,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};
use xxhash_rust::xxh3::Xxh3;

/// How long a raise by an appended row holds when the rule names no `min_hold`.
const ROW_HOLD_US: i64 = 600_000_000;
/// A firing alert is told again when its score has moved by this share.
const UPDATE_SHARE: f64 = 0.1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Pending { since: i64 },
    Firing { fired_at: i64 },
}

/// What is known of one entity while its condition holds or its alert is open.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Episode {
    phase: Phase,
    number: u64,
    revision: u64,
    /// Rows that raise, and when each stops counting by itself.
    raising: BTreeMap<String, i64>,
    starts_at: i64,
    last_seen: i64,
    told_score: Option<f64>,
    alert_id: String,
    /// The rule's version that opened it.
    version: String,
    /// Until when it flaps, if its condition does not begin to hold again before.
    #[serde(default)]
    flaps_until: Option<i64>,
    facts: Facts,
}

/// The facts of the entity's newest raising row.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Facts {
    tenant: String,
    entity_kind: String,
    entity_id: String,
    score: Option<f64>,
    reasons: Vec<Reason>,
    window: Option<Window>,
    rooms: Vec<String>,
    summary: String,
    /// The keys by which the rules that inhibit this one would know an alert that explains it.
    behind: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    /// The rule's version under which this came about.
    version: String,
    open: BTreeMap<String, Episode>,
    /// Episodes that an entity has had.
    episodes: BTreeMap<String, u64>,
    /// When the condition of an entity has begun to hold of late, for rules that look for flapping.
    begun: BTreeMap<String, Vec<i64>>,
}

pub struct AlertOperator {
    rule: AlertSpec,
    appended_rows: bool,
    entity: Vec<usize>,
    key: Vec<usize>,
    window: Option<(usize, usize)>,
    state: State,
}

/// One revision of an alert, and what is told with it.
#[derive(Debug, Clone)]
pub struct Told {
    pub event: AlertEvent,
    pub rooms: Vec<String>,
    /// The entity's key as one text.
    pub entity: String,
    pub behind: Vec<String>,
    pub time: i64,
    /// A row caused it, and not the clock.
    pub by_event: bool,
}

/// Alert events of an epoch.
#[derive(Debug, Default)]
pub struct Raised {
    pub rows: Vec<Told>,
}

/// The columns by which alerts on a view are told apart: its key without windows.
pub fn entity_of(view: &ViewSpec) -> Vec<usize> {
    let named = |name: &str| view.schema.index_of(name).ok();
    let key = super::map::entity_columns(&view.key, &view.schema);
    if key.is_empty() { ["tenant", "subscriber_id", "node_id", "region"].into_iter().filter_map(named).collect() } else { key }
}

impl AlertOperator {
    pub fn new(rule: AlertSpec, view: &ViewSpec, appended_rows: bool) -> Self {
        let named = |name: &str| view.schema.index_of(name).ok();
        let window = named("window_start").zip(named("window_end"));
        let state = State { version: rule.version.clone(), ..State::default() };
        Self { rule, appended_rows, entity: entity_of(view), key: view.key.clone(), window, state }
    }

    pub fn process(&mut self, context: &Context<'_>, delta: &Delta, raised: &mut Raised) -> Result<(), OpError> {
        if self.state.version != self.rule.version {
            self.expire(context.watermark, raised);
        }
        if !delta.is_empty() {
            let raise = steps::filter_mask(&self.rule.raise, &delta.batch)?;
            let clear = self.rule.clear.as_ref().map(|c| steps::filter_mask(c, &delta.batch)).transpose()?;
            let rows = RowReader { watermark: context.watermark, ..RowReader::new(&delta.batch, self.rule.score_column, self.window)? };
            for row in 0..delta.len() {
                self.row(delta, row, &raise, clear.as_ref(), &rows, raised)?;
            }
        }
        if let Some(watermark) = context.watermark.filter(|w| *w != i64::MAX) {
            self.clock(watermark, raised);
        }
        Ok(())
    }

    /// The rule is another one than that which opened what is open, or is gone.
    pub fn expire(&mut self, watermark: Option<i64>, raised: &mut Raised) {
        let before = std::mem::replace(&mut self.state, State { version: self.rule.version.clone(), ..State::default() });
        for (entity, mut episode) in before.open {
            if matches!(episode.phase, Phase::Firing { .. }) {
                let time = watermark.filter(|w| *w != i64::MAX).map_or(episode.last_seen, |w| w.max(episode.last_seen));
                raised.tell(&self.rule, &entity, &mut episode, Action::Expire, time, false);
            }
        }
    }

    fn row(
        &mut self,
        delta: &Delta,
        row: usize,
        raise: &BooleanArray,
        clear: Option<&BooleanArray>,
        rows: &RowReader<'_>,
        raised: &mut Raised,
    ) -> Result<(), OpError> {
        let (op, time) = (delta.op(row), rows.time_of(delta, row));
        if op == Op::UpdateBefore {
            return Ok(());
        }
        let raises = op.adds() && raise.value(row);
        let clears = op == Op::Delete || clear.map_or(!raises && !self.appended_rows, |c| c.value(row)) && !raises;
        let entity = rows.joined(&self.entity, row)?;
        if !raises && !self.state.open.contains_key(&entity) {
            return Ok(());
        }
        // What is over before the row is over, whether an epoch ended in between or not.
        if let Some(watermark) = rows.watermark.filter(|w| *w != i64::MAX) {
            self.pass(&entity, watermark.min(time), raised);
        }
        let full_key = if self.appended_rows { String::new() } else { rows.joined(&self.key, row)? };
        if raises {
            let expires = self.expiry(time, rows.window_end(row));
            self.raise(entity, full_key, expires, time, self.facts(rows, row)?, raised);
        } else if clears {
            self.clear(&entity, &full_key, time, raised);
        }
        Ok(())
    }

    fn expiry(&self, time: i64, window_end: Option<i64>) -> i64 {
        if self.appended_rows {
            return time + if self.rule.min_hold_us > 0 { self.rule.min_hold_us } else { ROW_HOLD_US };
        }
        window_end.unwrap_or(i64::MAX)
    }

    fn raise(&mut self, entity: String, row: String, expires: i64, time: i64, facts: Facts, raised: &mut Raised) {
        if !self.state.open.contains_key(&entity) {
            let number = self.state.episodes.get(&entity).map_or(1, |n| n + 1);
            let phase = Phase::Pending { since: time };
            let episode = Episode {
                phase,
                number,
                revision: 0,
                raising: BTreeMap::new(),
                starts_at: time,
                last_seen: time,
                told_score: None,
                alert_id: alert_id(&facts.tenant, &self.rule, &entity, number),
                version: self.rule.version.clone(),
                flaps_until: None,
                facts: facts.clone(),
            };
            self.state.open.insert(entity.clone(), episode);
        }
        let Some(episode) = self.state.open.get_mut(&entity) else { return };
        if episode.raising.is_empty() && episode.flaps_until.is_some() {
            episode.flaps_until = self.rule.flapping.map(|f| time.saturating_add(f.within_us));
        }
        episode.raising.insert(row, expires);
        episode.last_seen = episode.last_seen.max(time);
        episode.facts = facts;
        match episode.phase {
            Phase::Pending { since } if time - since >= self.rule.for_us => self.fire(&entity, time, true, raised),
            Phase::Firing { .. } if score_moved(episode.told_score, episode.facts.score) => {
                raised.tell(&self.rule, &entity, episode, Action::Update, time, true)
            }
            Phase::Pending { .. } | Phase::Firing { .. } => {}
        }
    }

    fn fire(&mut self, entity: &str, time: i64, by_event: bool, raised: &mut Raised) {
        let flaps_until = self.flaps_until(entity, time);
        if let Some(episode) = self.state.open.get_mut(entity) {
            episode.phase = Phase::Firing { fired_at: time };
            episode.flaps_until = flaps_until;
            self.state.episodes.insert(entity.to_owned(), episode.number);
            raised.tell(&self.rule, entity, episode, Action::Raise, time, by_event);
        }
    }

    /// Counts that the condition has begun to hold; the time until which it flaps, if it has too often.
    fn flaps_until(&mut self, entity: &str, time: i64) -> Option<i64> {
        let Flapping { times, within_us } = self.rule.flapping?;
        let begun = self.state.begun.entry(entity.to_owned()).or_default();
        begun.retain(|at| *at > time.saturating_sub(within_us));
        begun.push(time);
        (begun.len() >= times as usize).then(|| time.saturating_add(within_us))
    }

    fn clear(&mut self, entity: &str, row: &str, time: i64, raised: &mut Raised) {
        let Some(episode) = self.state.open.get_mut(entity) else { return };
        if episode.raising.remove(row).is_some() {
            self.settle(entity, time, true, raised);
        }
    }

    /// Ends the episode when nothing raises any more and its hold is over.
    fn settle(&mut self, entity: &str, time: i64, by_event: bool, raised: &mut Raised) {
        let Some(episode) = self.state.open.get_mut(entity).filter(|e| e.raising.is_empty()) else { return };
        match episode.phase {
            Phase::Pending { .. } => {
                self.state.open.remove(entity);
            }
            Phase::Firing { .. } if episode.flaps_until.is_some_and(|until| time < until) => {}
            Phase::Firing { fired_at } if self.appended_rows || time - fired_at >= self.rule.min_hold_us => {
                raised.tell(&self.rule, entity, episode, Action::Resolve, time, by_event);
                self.state.open.remove(entity);
            }
            Phase::Firing { .. } => {}
        }
    }

    /// What the watermark alone brings about.
    fn clock(&mut self, watermark: i64, raised: &mut Raised) {
        let entities: Vec<String> = self.state.open.keys().cloned().collect();
        entities.iter().for_each(|entity| self.pass(entity, watermark, raised));
        if let Some(Flapping { within_us, .. }) = self.rule.flapping {
            self.state.begun.retain(|_, begun| begun.last().is_some_and(|at| *at > watermark.saturating_sub(within_us)));
        }
    }

    /// Time passes for an entity: rows that stop counting, `for` that is over, holds that end, calm after flapping.
    fn pass(&mut self, entity: &str, now: i64, raised: &mut Raised) {
        let Some(episode) = self.state.open.get_mut(entity) else { return };
        let ended = episode.raising.values().copied().filter(|expires| *expires <= now).max();
        episode.raising.retain(|_, expires| *expires > now);
        let calm = episode.flaps_until.filter(|until| *until <= now);
        match episode.phase {
            Phase::Pending { since } if !episode.raising.is_empty() && now - since >= self.rule.for_us => {
                self.fire(entity, since + self.rule.for_us, false, raised)
            }
            Phase::Firing { .. } if !episode.raising.is_empty() => {
                if let Some(time) = calm {
                    episode.flaps_until = None;
                    raised.tell(&self.rule, entity, episode, Action::Update, time, false);
                }
            }
            // The end itself, and not the watermark that happened to pass it.
            Phase::Firing { fired_at } => {
                let held_until = if self.appended_rows { None } else { Some(fired_at + self.rule.min_hold_us) };
                let end = [ended, held_until, calm].into_iter().flatten().max();
                self.settle(entity, end.map_or(now, |at| at.min(now)), false, raised);
            }
            Phase::Pending { .. } => self.settle(entity, ended.unwrap_or(now), false, raised),
        }
    }

    fn facts(&self, rows: &RowReader<'_>, row: usize) -> Result<Facts, OpError> {
        let named = |at: Option<usize>| at.map(|i| rows.text(i, row)).transpose();
        let last = self.entity.last().copied();
        let entity_kind = last.map_or_else(|| "entity".to_owned(), |i| rows.name(i).trim_end_matches("_id").to_owned());
        let reasons = named(self.rule.reasons_column)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Ok(Facts {
            tenant: named(self.rule.tenant_column)?.unwrap_or_default(),
            entity_kind,
            entity_id: named(last)?.unwrap_or_default(),
            score: rows.score(row),
            reasons,
            window: rows.window(row),
            rooms: self.rule.rooms.iter().map(|r| rows.fill(r, row)).collect::<Result<_, _>>()?,
            summary: rows.fill(&self.rule.summary, row)?,
            behind: self.rule.inhibited_by.iter().map(|by| rows.joined(&by.columns, row)).collect::<Result<_, _>>()?,
        })
    }

    pub fn pieces(&self) -> Result<Pieces, StateError> {
        Ok(Pieces { meta: serde_json::to_value(&self.state).map_err(StateError::Meta)?, batches: Vec::new() })
    }

    pub fn restore(&mut self, pieces: &Pieces) -> Result<(), StateError> {
        self.state = pieces.meta()?;
        Ok(())
    }
}

fn score_moved(told: Option<f64>, now: Option<f64>) -> bool {
    match (told, now) {
        (Some(told), Some(now)) => (now - told).abs() >= UPDATE_SHARE * told.abs().max(UPDATE_SHARE),
        _ => false,
    }
}

impl Raised {
    fn tell(&mut self, rule: &AlertSpec, entity: &str, episode: &mut Episode, action: Action, time: i64, by_event: bool) {
        episode.revision += 1;
        let previous = episode.told_score;
        episode.told_score = episode.facts.score;
        let facts = &episode.facts;
        let state = match action {
            Action::Resolve => Standing::Resolved,
            Action::Expire => Standing::Expired,
            _ if episode.flaps_until.is_some() => Standing::Flapping,
            _ => Standing::Firing,
        };
        let event = AlertEvent {
            alert_id: episode.alert_id.clone(),
            revision: episode.revision,
            rule: rule.name.clone(),
            rule_version: episode.version.clone(),
            tenant: facts.tenant.clone(),
            entity: Entity { kind: facts.entity_kind.clone(), id: facts.entity_id.clone() },
            kind: rule.kind.clone(),
            action,
            state,
            severity: rule.severity.clone(),
            score: facts.score,
            threshold: Threshold { raise: rule.raise_sql.clone(), clear: rule.clear_sql.clone() },
            previous,
            reasons: facts.reasons.clone(),
            starts_at: rfc3339(episode.starts_at),
            last_seen_at: rfc3339(episode.last_seen),
            resolved_at: matches!(action, Action::Resolve | Action::Expire).then(|| rfc3339(time)),
            window: facts.window.clone(),
            summary: facts.summary.clone(),
            acknowledged: None,
            silenced: None,
            inhibited_by: None,
        };
        let told = Told { event, rooms: facts.rooms.clone(), entity: entity.to_owned(), behind: facts.behind.clone(), time, by_event };
        self.rows.push(told);
    }

    /// The events as an output: id, revision, action, rule, tenant, rooms (one a line), the event as JSON, whether a row (and not
    /// the clock) caused it, and its time.
    pub fn into_output(self) -> Result<Option<Output>, OpError> {
        if self.rows.is_empty() {
            return Ok(None);
        }
        for Told { event, .. } in &self.rows {
            let (rule, action, state) = (event.rule.clone(), name_of(&event.action), name_of(&event.state));
            metrics::counter!("headend_alerts_total", "rule" => rule, "action" => action, "state" => state).increment(1);
        }
        let text = |f: &dyn Fn(&AlertEvent) -> String| Arc::new(StringArray::from_iter_values(self.rows.iter().map(|r| f(&r.event)))) as ArrayRef;
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("alert_id", text(&|e| e.alert_id.clone())),
            ("revision", Arc::new(UInt64Array::from_iter_values(self.rows.iter().map(|r| r.event.revision)))),
            ("action", text(&|e| name_of(&e.action))),
            ("rule", text(&|e| e.rule.clone())),
            ("tenant", text(&|e| e.tenant.clone())),
            ("rooms", Arc::new(StringArray::from_iter_values(self.rows.iter().map(|r| r.rooms.join("\n"))))),
            ("event", self.events()?),
            ("by_event", Arc::new(BooleanArray::from_iter(self.rows.iter().map(|r| Some(r.by_event))))),
            (schemas::TIME_COLUMN, Arc::new(Int64Array::from_iter_values(self.rows.iter().map(|r| r.time)))),
        ];
        let schema = Schema::new(columns.iter().map(|(n, c)| Field::new(*n, c.data_type().clone(), false)).collect::<Vec<_>>());
        let batch = RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, c)| c).collect())?;
        Ok(Some(Output { name: "alerts".to_owned(), kind: OutputKind::Alerts, batch }))
    }

    fn events(&self) -> Result<ArrayRef, OpError> {
        let json = self.rows.iter().map(|r| serde_json::to_string(&r.event)).collect::<Result<Vec<_>, _>>();
        Ok(Arc::new(StringArray::from(json.map_err(|e| OpError::Broken(format!("an alert cannot be written as JSON: {e}")))?)))
    }

    /// The events as rows for the task of the level above; [`Raised::from_candidates`] reads them.
    pub fn to_candidates(&self) -> Result<Delta, OpError> {
        let text = |f: &dyn Fn(&Told) -> String| Arc::new(StringArray::from_iter_values(self.rows.iter().map(f))) as ArrayRef;
        let columns: Vec<ArrayRef> = vec![
            text(&|r| r.event.alert_id.clone()),
            text(&|r| r.entity.clone()),
            text(&|r| r.behind.join("\n")),
            text(&|r| r.rooms.join("\n")),
            Arc::new(BooleanArray::from_iter(self.rows.iter().map(|r| Some(r.by_event)))),
            self.events()?,
        ];
        Ok(Delta::rows(RecordBatch::try_new(candidates_schema(), columns)?, self.rows.iter().map(|r| r.time).collect()))
    }

    pub fn from_candidates(delta: &Delta) -> Result<Self, OpError> {
        let text = |column: usize, row: usize| delta.batch.column(column).as_string::<i32>().value(row).to_owned();
        let lines = |text: String| if text.is_empty() { Vec::new() } else { text.split('\n').map(str::to_owned).collect() };
        let told = |row: usize| {
            let event = serde_json::from_str(&text(5, row)).map_err(|e| OpError::Broken(format!("an alert of the level below cannot be read: {e}")))?;
            let by_event = delta.batch.column(4).as_boolean().value(row);
            Ok(Told { event, rooms: lines(text(3, row)), entity: text(1, row), behind: lines(text(2, row)), time: delta.times[row], by_event })
        };
        Ok(Self { rows: (0..delta.len()).map(told).collect::<Result<_, OpError>>()? })
    }
}

/// The columns of [`Raised::to_candidates`].
pub fn candidates_schema() -> SchemaRef {
    let types = [DataType::Utf8, DataType::Utf8, DataType::Utf8, DataType::Utf8, DataType::Boolean, DataType::Utf8];
    let names = ["alert_id", "entity", "behind", "rooms", "by_event", "event"];
    Arc::new(Schema::new(names.into_iter().zip(types).map(|(name, t)| Field::new(name, t, true)).collect::<Vec<_>>()))
}

/// As the event says it.
fn name_of(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn alert_id(tenant: &str, rule: &AlertSpec, entity: &str, episode: u64) -> String {
    let mut hash = Xxh3::new();
    for part in [tenant, &rule.name, &rule.version, entity] {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    hash.update(&episode.to_le_bytes());
    format!("{:032x}", hash.digest128())
}

/// Reads single values of a batch as text and numbers.
struct RowReader<'a> {
    batch: &'a RecordBatch,
    score: Option<Float64Array>,
    window: Option<(usize, usize)>,
    watermark: Option<i64>,
}

impl<'a> RowReader<'a> {
    /// When a row was so: a window that is still open has it now, not at its end.
    fn time_of(&self, delta: &Delta, row: usize) -> i64 {
        let time = delta.times[row];
        match (self.window, self.watermark) {
            (Some(_), Some(watermark)) => time.min(watermark),
            _ => time,
        }
    }

    fn new(batch: &'a RecordBatch, score: Option<usize>, window: Option<(usize, usize)>) -> Result<Self, OpError> {
        let score = match score {
            Some(i) => Some(evaluate_number(batch.column(i))?),
            None => None,
        };
        Ok(Self { batch, score, window, watermark: None })
    }

    fn name(&self, column: usize) -> String {
        self.batch.schema().field(column).name().clone()
    }

    fn text(&self, column: usize, row: usize) -> Result<String, OpError> {
        let array = self.batch.column(column);
        if let Some(texts) = array.as_string_opt::<i32>() {
            return Ok(if texts.is_valid(row) { texts.value(row).to_owned() } else { String::new() });
        }
        let formatter = ArrayFormatter::try_new(array.as_ref(), &FormatOptions::default())?;
        Ok(formatter.value(row).to_string())
    }

    fn joined(&self, columns: &[usize], row: usize) -> Result<String, OpError> {
        let parts = columns.iter().map(|c| self.text(*c, row)).collect::<Result<Vec<_>, _>>()?;
        Ok(parts.join("|"))
    }

    fn score(&self, row: usize) -> Option<f64> {
        self.score.as_ref().filter(|s| s.is_valid(row)).map(|s| s.value(row))
    }

    fn time(&self, column: usize, row: usize) -> Option<i64> {
        self.batch.column(column).as_primitive_opt::<TimestampMicrosecondType>().filter(|a| a.is_valid(row)).map(|a| a.value(row))
    }

    fn window_end(&self, row: usize) -> Option<i64> {
        self.window.and_then(|(_, end)| self.time(end, row))
    }

    fn window(&self, row: usize) -> Option<Window> {
        let (start, end) = self.window?;
        Some(Window { start: rfc3339(self.time(start, row)?), end: rfc3339(self.time(end, row)?) })
    }

    /// `pattern` with every `{column}` replaced by the row's value.
    fn fill(&self, pattern: &str, row: usize) -> Result<String, OpError> {
        fill(pattern, self.batch, |column| self.text(column, row))
    }
}

/// Replaces every `{column}` of `pattern`; a name that is no column stays as it is written.
pub fn fill(pattern: &str, batch: &RecordBatch, value: impl Fn(usize) -> Result<String, OpError>) -> Result<String, OpError> {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((name, tail)) = after.split_once('}') else {
            out.push('{');
            rest = after;
            continue;
        };
        match batch.schema().index_of(name.trim()) {
            Ok(column) => out.push_str(&value(column)?),
            Err(_) => out.push_str(&format!("{{{name}}}")),
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

fn evaluate_number(array: &ArrayRef) -> Result<Float64Array, OpError> {
    Ok(cast(array, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
}

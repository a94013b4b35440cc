//! A source as a task sees it: event times checked, watermark kept per row, duplicates dropped.

use crate::{
    delta::{Delta, Op, Origin, Place},
    plan::SourceSpec,
    state::{Pieces, StateError},
    status::InputStatus,
};
use arrow_array::{Array, BooleanArray, Int64Array, RecordBatch, UInt64Array, cast::AsArray, types::*};
use datafusion::error::DataFusionError;
use schemas::clock::{EVENT_AHEAD_MAX_US, EVENT_TIME_MIN_US};
use schemas::{Counters, DeadLetter, DeadReason, Record, SourceBatch};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use xxhash_rust::xxh3::Xxh3;

const US_PER_MS: i64 = 1_000;
/// How near to the wall clock a watermark must stand to follow it when its input is silent.
const LIVE_WITHIN_US: i64 = 86_400_000_000;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Progress {
    /// Highest event time seen minus the bound, or what the clock made of it while the input was silent.
    watermark: Option<i64>,
    /// Event time of the newest row, those from the future too.
    #[serde(default)]
    newest: Option<i64>,
    ended: bool,
    /// `now_ms` of the last epoch that had rows of this source (of the first epoch, before any).
    last_rows_ms: Option<i64>,
    caught_up: bool,
}

pub struct SourceState {
    spec: SourceSpec,
    progress: Progress,
    seen: Option<Seen>,
    /// Since the task was taken over.
    counted: Counters,
}

/// Event ids seen within the horizon, as 64-bit hashes of (key, id).
#[derive(Default)]
struct Seen {
    ids: HashMap<u64, SeenId>,
    /// By the horizon in which they are forgotten.
    buckets: BTreeMap<i64, Vec<u64>>,
}

/// The last row of an id.
#[derive(Debug, Clone, Copy)]
struct SeenId {
    time: i64,
    /// Known while the watermark before a row is not past this: the horizon after the row, or after the watermark that it came behind.
    until: i64,
}

/// A row's fate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Taken,
    Dead,
    Duplicate,
}

impl SourceState {
    pub fn new(spec: SourceSpec) -> Self {
        let seen = spec.dedup.map(|_| Seen::default());
        Self { spec, progress: Progress::default(), seen, counted: Counters::default() }
    }

    pub fn is_table(&self) -> bool {
        self.spec.table
    }

    pub fn status(&self, partition: u32, now_ms: i64) -> InputStatus {
        InputStatus {
            name: format!("{}/{partition}", self.spec.topic),
            source: Some((self.spec.name.clone(), self.spec.bound_us)),
            watermark: self.watermark(),
            caught_up: self.progress.caught_up,
            idle: self.is_idle(now_ms),
            ended: self.progress.ended,
            counters: self.counted,
        }
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// No row so far has a later time, and no window that has closed ends later.
    pub fn newest(&self) -> Option<i64> {
        self.progress.newest.max(self.progress.watermark)
    }

    pub fn may_be_empty(&self) -> bool {
        self.spec.may_be_empty
    }

    /// Takes the decoded records of a cut. `records` are the raw ones, for the bytes of dead letters: at least
    /// those of [`needed_records`].
    pub fn absorb(
        &mut self,
        batch: SourceBatch,
        records: &[Record],
        now_ms: i64,
        caught_up: bool,
        counters: &mut Counters,
        dead: &mut Vec<DeadLetter>,
    ) -> Result<Delta, DataFusionError> {
        self.progress.caught_up = caught_up;
        let rows = batch.rows.num_rows();
        let mut of_batch = Counters {
            rows_in: rows as u64,
            dead: batch.dead.len() as u64,
            misplaced: batch.dead.iter().filter(|d| d.kind == DeadReason::Misplaced).count() as u64,
            ..Counters::default()
        };
        dead.extend(batch.dead.iter().cloned());
        if rows > 0 || self.progress.last_rows_ms.is_none() {
            self.progress.last_rows_ms = Some(now_ms);
        }
        let (times, watermarks, fates) = self.judge(&batch, &mut of_batch, dead, records);
        *counters += of_batch;
        self.counted += of_batch;
        if batch.end_of_source.is_some() {
            self.progress.ended = true;
        }
        let origin = Origin {
            places: vec![Place { topic: Arc::from(batch.topic.as_str()), partition: batch.partition }],
            of_row: None,
            keys: batch.keys,
            offsets: batch.offsets.values().to_vec(),
            watermarks,
        };
        let ops = self.spec.table.then(|| {
            let deleted = |i: usize| batch.tombstones.as_ref().is_some_and(|t| t.value(i));
            (0..rows).map(|i| if deleted(i) { Op::Delete } else { Op::Insert }).collect()
        });
        let schema = Arc::new(crate::ops::nullable(&batch.rows.schema()));
        let rows = RecordBatch::try_new(schema, batch.rows.columns().to_vec())?;
        let delta = Delta { batch: rows, ops, times, origin: Some(origin), gone: None };
        if fates.iter().all(|f| *f == Fate::Taken) {
            return Ok(delta);
        }
        let mask: BooleanArray = fates.iter().map(|f| Some(*f == Fate::Taken)).collect();
        // A table's rows are upserts on their own, not pairs, so the mask may not rewrite them.
        let ops = delta.ops.clone();
        let mut kept = Delta { ops: None, ..delta }.filter(&mask)?;
        kept.ops = ops.map(|ops| ops.into_iter().zip(&fates).filter(|(_, f)| **f == Fate::Taken).map(|(o, _)| o).collect());
        Ok(kept)
    }

    /// Event time, the watermark before the row, and the fate of each row, in offset order.
    fn judge(&mut self, batch: &SourceBatch, counters: &mut Counters, dead: &mut Vec<DeadLetter>, records: &[Record]) -> (Vec<i64>, Vec<i64>, Vec<Fate>) {
        let rows = batch.rows.num_rows();
        let Some(column) = self.spec.time_column else {
            return (batch.append_us.values().to_vec(), vec![i64::MIN; rows], vec![Fate::Taken; rows]);
        };
        let event_times = batch.rows.column(column).as_primitive::<TimestampMicrosecondType>().clone();
        let mut times = Vec::with_capacity(rows);
        let mut watermarks = Vec::with_capacity(rows);
        let mut fates = Vec::with_capacity(rows);
        let mut watermark = self.progress.watermark;
        for row in 0..rows {
            let append = batch.append_us.value(row);
            let tombstone = batch.tombstones.as_ref().is_some_and(|t| t.value(row));
            let time = if event_times.is_valid(row) { event_times.value(row) } else { append };
            times.push(time);
            watermarks.push(watermark.unwrap_or(i64::MIN));
            if !tombstone && let Some(reason) = bad_time(event_times.is_valid(row), time, append, self.name_of(column)) {
                counters.dead += 1;
                dead.push(dead_letter(batch, row, reason, records));
                fates.push(Fate::Dead);
                continue;
            }
            if self.is_duplicate(batch, row, time, watermark) {
                counters.duplicate += 1;
                fates.push(Fate::Duplicate);
                continue;
            }
            fates.push(Fate::Taken);
            self.progress.newest = self.progress.newest.max(Some(time));
            if time > append.saturating_add(self.spec.max_skew_us) {
                counters.future += 1;
            } else if !tombstone {
                watermark = watermark.max(Some(time - self.spec.bound_us));
            }
        }
        self.progress.watermark = watermark;
        self.forget_old_ids();
        (times, watermarks, fates)
    }

    fn name_of(&self, column: usize) -> &str {
        self.spec.schema.field(column).name()
    }

    /// Decided by the watermark before the row, so that the cut does not show.
    fn is_duplicate(&mut self, batch: &SourceBatch, row: usize, time: i64, watermark: Option<i64>) -> bool {
        let (Some((column, horizon)), Some(seen)) = (self.spec.dedup, self.seen.as_mut()) else { return false };
        let ids = batch.rows.column(column).as_string::<i32>();
        if ids.is_null(row) {
            return false;
        }
        let mut hash = Xxh3::new();
        hash.update(batch.keys.value(row));
        hash.update(&[0]);
        hash.update(ids.value(row).as_bytes());
        let hash = hash.digest();
        let watermark = watermark.unwrap_or(i64::MIN);
        if seen.ids.get(&hash).is_some_and(|id| id.until >= watermark && time.abs_diff(id.time) <= horizon.unsigned_abs()) {
            return true;
        }
        let until = time.max(watermark).saturating_add(horizon);
        seen.ids.insert(hash, SeenId { time, until });
        seen.buckets.entry(until.div_euclid(horizon.max(1))).or_default().push(hash);
        false
    }

    fn forget_old_ids(&mut self) {
        let (Some((_, horizon)), Some(seen), Some(watermark)) = (self.spec.dedup, self.seen.as_mut(), self.progress.watermark) else { return };
        let kept = seen.buckets.split_off(&watermark.div_euclid(horizon.max(1)));
        for hash in std::mem::replace(&mut seen.buckets, kept).into_values().flatten() {
            if seen.ids.get(&hash).is_some_and(|id| id.until < watermark) {
                seen.ids.remove(&hash);
            }
        }
    }

    /// Tells the source that an epoch took nothing from it.
    pub fn silent(&mut self, now_ms: i64, caught_up: bool) {
        self.progress.caught_up = caught_up;
        self.progress.last_rows_ms.get_or_insert(now_ms);
    }

    /// Caught up and without rows for the idle timeout: it holds no watermark back. Where nothing may ever come, nobody waits for it.
    pub fn is_idle(&self, now_ms: i64) -> bool {
        let quiet = || self.progress.last_rows_ms.is_some_and(|at| now_ms - at >= self.spec.idle_timeout_ms);
        self.progress.caught_up && (self.spec.may_be_empty || quiet())
    }

    /// For the pass over the views that goes before the end of the source.
    pub fn set_ended(&mut self, ended: bool) {
        self.progress.ended = ended;
    }

    pub fn ended(&self) -> bool {
        self.progress.ended
    }

    pub fn watermark(&self) -> Option<i64> {
        if self.progress.ended { Some(i64::MAX) } else { self.progress.watermark }
    }

    /// All inputs are silent: a live watermark follows the clock.
    pub fn follow_clock(&mut self, now_ms: i64) {
        let clock = now_ms * US_PER_MS - self.spec.bound_us;
        if let Some(watermark) = self.progress.watermark
            && watermark < clock
            && clock - watermark <= LIVE_WITHIN_US
        {
            self.progress.watermark = Some(clock);
        }
    }

    pub fn pieces(&self) -> Result<Pieces, StateError> {
        let meta = serde_json::to_value(&self.progress).map_err(StateError::Meta)?;
        let mut pieces = Pieces { meta, batches: Vec::new() };
        if let Some(seen) = &self.seen {
            let mut ids: Vec<(u64, i64, i64)> = seen.ids.iter().map(|(hash, id)| (*hash, id.time, id.until)).collect();
            ids.sort_unstable();
            let (hashes, times): (Vec<u64>, Vec<i64>) = ids.iter().map(|id| (id.0, id.1)).unzip();
            let until = Int64Array::from_iter_values(ids.iter().map(|id| id.2));
            pieces.batches.push(("seen.until".to_owned(), crate::ops::single_column("until", Arc::new(until))?));
            pieces.batches.push(("seen.hash".to_owned(), crate::ops::single_column("hash", Arc::new(UInt64Array::from(hashes)))?));
            pieces.batches.push(("seen.time".to_owned(), crate::ops::single_column("time", Arc::new(Int64Array::from(times)))?));
        }
        Ok(pieces)
    }

    pub fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        self.progress = pieces.meta()?;
        if let (Some((_, horizon)), Some(seen)) = (self.spec.dedup, self.seen.as_mut()) {
            let (hashes, times, until) = (pieces.take("seen.hash")?, pieces.take("seen.time")?, pieces.take("seen.until")?);
            let (times, until) = (times.column(0).as_primitive::<Int64Type>(), until.column(0).as_primitive::<Int64Type>());
            for (row, hash) in hashes.column(0).as_primitive::<UInt64Type>().values().iter().enumerate() {
                let id = SeenId { time: times.value(row), until: until.value(row) };
                seen.ids.insert(*hash, id);
                seen.buckets.entry(id.until.div_euclid(horizon.max(1))).or_default().push(*hash);
            }
        }
        Ok(())
    }
}

/// Those of `records` that [`SourceState::absorb`] needs for their bytes: rows whose time makes them dead letters, which each row tells by itself. The
/// others need not be kept until a task takes the batch.
pub fn needed_records(spec: &SourceSpec, batch: &SourceBatch, mut records: Vec<Record>) -> Vec<Record> {
    let Some(column) = spec.time_column else { return Vec::new() };
    let times = batch.rows.column(column).as_primitive::<TimestampMicrosecondType>();
    let field = spec.schema.field(column).name();
    let is_bad = |row: &usize| bad_time(times.is_valid(*row), times.value(*row), batch.append_us.value(*row), field).is_some();
    let bad: Vec<u64> = (0..times.len()).filter(is_bad).map(|row| batch.offsets.value(row)).collect();
    if bad.is_empty() {
        return Vec::new();
    }
    records.retain(|record| bad.binary_search(&record.offset).is_ok());
    records
}

fn bad_time(present: bool, time: i64, append: i64, field: &str) -> Option<String> {
    // Text is made for bad rows alone: this runs for every row.
    let shown = || schemas::clock::rfc3339(time);
    if !present {
        Some(format!("field `{field}` is missing, expected an RFC 3339 time"))
    } else if time < EVENT_TIME_MIN_US {
        Some(format!("field `{field}` is `{}`, before 1980-01-01", shown()))
    } else if time > append.saturating_add(EVENT_AHEAD_MAX_US) {
        Some(format!("field `{field}` is `{}`, more than a day ahead of its append at `{}`", shown(), schemas::clock::rfc3339(append)))
    } else {
        None
    }
}

fn dead_letter(batch: &SourceBatch, row: usize, reason: String, records: &[Record]) -> DeadLetter {
    let offset = batch.offsets.value(row);
    let raw = records.binary_search_by_key(&offset, |r| r.offset).ok().map(|i| &records[i]);
    DeadLetter {
        topic: batch.topic.clone(),
        partition: batch.partition,
        offset,
        append_us: batch.append_us.value(row),
        kind: DeadReason::BadTime,
        reason,
        key: raw.and_then(|r| r.key.clone()),
        value: raw.and_then(|r| r.value.clone()),
    }
}

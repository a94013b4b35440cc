//! Room tasks: every message of a room goes through the one task that owns the room and gets a dense offset there.
//!
//! Alerts go to the rooms that their rule names and to the state room `alerts:<tenant>`; sinks `WITH (connector = 'room')` turn a
//! view's rows into messages. Once a second of wall clock the task tells `stats:<tenant>` what the engine is doing.

use crate::{
    delta::Delta,
    ops::{OpError, alert::fill},
    plan::{Job, SinkSpec},
    state::{Frozen, Pieces, StateError},
    task::{Content, EpochInput, EpochOutput, InputSpec, Partitions, Task, level_group},
    upstream::read_rows,
};
use arrow_array::{Array, RecordBatch, cast::AsArray, types::*};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, Schema};
use schemas::{ChainPosition, Counters, EpochRecord, Output, OutputKind, RoomKind, RoomMessage, Verdict};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json, value::RawValue};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const STATS_EVERY_MS: i64 = 1_000;
/// Of one message; clients would not take more.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// The group of a job's room tasks.
pub fn rooms_group(job: &str) -> String {
    format!("{job}.rooms")
}

/// A sink whose rows become room messages.
#[derive(Debug, Clone)]
struct RoomSink {
    view: String,
    room: String,
    kind: RoomKind,
    key: String,
}

/// What is known of an upstream task: its place on the chain and what it counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Origin {
    position: ChainPosition,
    ignored: u64,
    epochs: u64,
    counters: [u64; 5],
    watermark: Option<i64>,
    level: u8,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    origins: BTreeMap<usize, Origin>,
    /// Last offset of each room.
    offsets: BTreeMap<String, u64>,
    tenants: BTreeSet<String>,
    last_stats_ms: i64,
    rows_at_last_stats: u64,
    /// Widest distance between the append of an event and the epoch that took it, since the last stats.
    lag_ms: i64,
}

pub struct RoomsTask {
    inputs: Vec<InputSpec>,
    levels: Vec<u8>,
    sinks: Vec<RoomSink>,
    partition: u32,
    partitions: u32,
    state: State,
    outbox: crate::outbox::Outbox,
}

impl RoomsTask {
    pub fn new(job: &Job, partition: u32, partitions: Partitions, room_partitions: u32) -> Result<Self, OpError> {
        let top = job.views.iter().map(|v| v.level).max().unwrap_or(1);
        let mut inputs = Vec::new();
        let mut levels = Vec::new();
        for level in 1..=top {
            for p in 0..partitions.of(level) {
                inputs.push(InputSpec::Epochs { group: level_group(&job.name, level), partition: p });
                levels.push(level);
            }
        }
        let sinks = job.sinks.iter().filter(|s| s.connector == "room").map(|s| room_sink(job, s)).collect::<Result<_, _>>()?;
        Ok(Self { inputs, levels, sinks, partition, partitions: room_partitions, state: State::default(), outbox: crate::outbox::Outbox::default() })
    }

    fn record(&mut self, input: usize, offset: u64, record: &EpochRecord, now_ms: i64, messages: &mut Vec<RoomMessage>) -> Result<(), OpError> {
        let origin = self.state.origins.entry(input).or_default();
        origin.level = self.levels[input];
        if origin.position.offer(offset, &record.header) == Verdict::Ignored {
            origin.ignored += 1;
            return Ok(());
        }
        origin.epochs += 1;
        let c = &record.header.counters;
        for (total, n) in origin.counters.iter_mut().zip([c.rows_in, c.late, c.dead, c.duplicate, c.misplaced]) {
            *total += n;
        }
        origin.watermark = origin.watermark.max(record.header.watermark);
        if let Some(appended_us) = record.header.appended_us {
            self.state.lag_ms = self.state.lag_ms.max(record.header.now_ms - appended_us / 1000);
        }
        let appended_us = record.header.appended_us;
        for output in &record.outputs {
            match output.kind {
                OutputKind::Alerts => self.alerts(&output.batch, now_ms, appended_us, messages)?,
                OutputKind::Rows | OutputKind::Changes => self.rows(output, now_ms, appended_us, messages)?,
                OutputKind::Late | OutputKind::Dead | OutputKind::Rooms | OutputKind::Table => {}
            }
        }
        Ok(())
    }

    fn rows(&mut self, output: &Output, now_ms: i64, appended_us: Option<i64>, messages: &mut Vec<RoomMessage>) -> Result<(), OpError> {
        let sinks: Vec<RoomSink> = self.sinks.iter().filter(|s| s.view == output.name).cloned().collect();
        if sinks.is_empty() {
            return Ok(());
        }
        let delta = read_rows(output)?;
        let rows = JsonRows::new(&delta.batch)?;
        for sink in sinks {
            for row in 0..delta.len() {
                self.row(&sink, &delta, &rows, row, now_ms, appended_us, messages)?;
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one row of one sink, with the facts of its epoch")]
    fn row(
        &mut self,
        sink: &RoomSink,
        delta: &Delta,
        rows: &JsonRows<'_>,
        row: usize,
        now_ms: i64,
        appended_us: Option<i64>,
        messages: &mut Vec<RoomMessage>,
    ) -> Result<(), OpError> {
        let op = delta.op(row);
        if op == crate::delta::Op::UpdateBefore {
            return Ok(());
        }
        let room = fill(&sink.room, &delta.batch, |c| rows.text(c, row))?;
        let key = match sink.kind {
            RoomKind::State => fill(&sink.key, &delta.batch, |c| rows.text(c, row))?,
            RoomKind::Stream => String::new(),
        };
        let removed = !op.adds();
        if removed && sink.kind == RoomKind::Stream {
            return Ok(());
        }
        let tenant = delta.batch.schema().index_of("tenant").ok().map(|c| rows.text(c, row)).transpose()?.unwrap_or_default();
        let data = if removed { "null".to_owned() } else { rows.line(row)? };
        self.message(Draft { room, tenant, kind: sink.kind, key, removed, data, appended_us }, now_ms, messages);
        Ok(())
    }

    fn alerts(&mut self, batch: &RecordBatch, now_ms: i64, appended_us: Option<i64>, messages: &mut Vec<RoomMessage>) -> Result<(), OpError> {
        let text = |name: &str| {
            batch.column_by_name(name).map(|c| c.as_string::<i32>().clone()).ok_or_else(|| OpError::Broken(format!("alerts have no column `{name}`")))
        };
        let (ids, actions, tenants, rooms, events) = (text("alert_id")?, text("action")?, text("tenant")?, text("rooms")?, text("event")?);
        let by_event = batch.column_by_name("by_event").map(|c| c.as_boolean().clone());
        for row in 0..batch.num_rows() {
            let tenant = tenants.value(row).to_owned();
            let caused = appended_us.filter(|_| by_event.as_ref().is_some_and(|b| b.value(row)));
            let data = events.value(row).to_owned();
            let over = matches!(actions.value(row), "resolve" | "expire");
            let state = if over { "null".to_owned() } else { data.clone() };
            let open = Draft {
                room: format!("alerts:{tenant}"),
                tenant: tenant.clone(),
                kind: RoomKind::State,
                key: ids.value(row).to_owned(),
                removed: over,
                data: state,
                appended_us: caused,
            };
            self.message(open, now_ms, messages);
            for room in rooms.value(row).split('\n').filter(|r| !r.is_empty()) {
                let told = Draft {
                    room: room.to_owned(),
                    tenant: tenant.clone(),
                    kind: RoomKind::Stream,
                    key: String::new(),
                    removed: false,
                    data: data.clone(),
                    appended_us: caused,
                };
                self.message(told, now_ms, messages);
            }
        }
        Ok(())
    }

    fn owns(&self, room: &str) -> bool {
        schemas::partition::partition_of(room.as_bytes(), self.partitions) == self.partition
    }

    fn message(&mut self, draft: Draft, now_ms: i64, messages: &mut Vec<RoomMessage>) {
        if !self.owns(&draft.room) {
            return;
        }
        if !self.state.tenants.contains(&draft.tenant) {
            self.state.tenants.insert(draft.tenant.clone());
        }
        let offset = self.state.offsets.entry(draft.room.clone()).or_default();
        *offset += 1;
        let Draft { room, tenant, kind, key, removed, mut data, appended_us } = draft;
        if data.len() > MESSAGE_BYTES_MAX {
            // Its place in the room is taken, so that nobody waits for it.
            data = json!({"too_large": {"bytes": data.len(), "limit": MESSAGE_BYTES_MAX}}).to_string();
        }
        messages.push(RoomMessage { room, tenant, kind, offset: *offset, key, removed, data, time_us: now_ms * 1000, appended_us });
    }

    fn stats(&mut self, now_ms: i64, messages: &mut Vec<RoomMessage>) {
        let elapsed = now_ms - self.state.last_stats_ms;
        let rooms: Vec<(String, String)> = self.state.tenants.iter().map(|t| (format!("stats:{t}"), t.clone())).filter(|(room, _)| self.owns(room)).collect();
        // An epoch that tells nothing is not written, so it may not leave a trace in the state either.
        if elapsed < STATS_EVERY_MS || rooms.is_empty() {
            return;
        }
        let level1 = || self.state.origins.values().filter(|o| o.level == 1);
        let total = |i: usize| level1().map(|o| o.counters[i]).sum::<u64>();
        let rows_in = total(0);
        let rate = if self.state.last_stats_ms == 0 { 0.0 } else { (rows_in - self.state.rows_at_last_stats) as f64 * 1000.0 / elapsed as f64 };
        let watermark = level1().filter_map(|o| o.watermark).min().filter(|w| *w != i64::MAX).map(schemas::clock::rfc3339);
        let data = json!({
            "events_per_s": (rate * 10.0).round() / 10.0, "lag_ms": self.state.lag_ms, "watermark": watermark, "rows_in": rows_in, "late": total(1), "dead": total(2),
            "duplicate": total(3), "misplaced": total(4), "epochs": self.state.origins.values().map(|o| o.epochs).sum::<u64>(),
        })
        .to_string();
        self.state.last_stats_ms = now_ms;
        self.state.rows_at_last_stats = rows_in;
        self.state.lag_ms = 0;
        for (room, tenant) in rooms {
            self.message(
                Draft { room, tenant, kind: RoomKind::State, key: "engine".to_owned(), removed: false, data: data.clone(), appended_us: None },
                now_ms,
                messages,
            );
        }
    }
}

/// A message before it has its offset.
struct Draft {
    room: String,
    tenant: String,
    kind: RoomKind,
    key: String,
    removed: bool,
    data: String,
    appended_us: Option<i64>,
}

impl Task for RoomsTask {
    fn inputs(&self) -> &[InputSpec] {
        &self.inputs
    }

    fn process(&mut self, input: EpochInput) -> Result<EpochOutput, OpError> {
        let mut messages = Vec::new();
        let now_ms = input.now_ms;
        let mut appended_us: Option<i64> = None;
        for (i, cut) in input.inputs.into_iter().enumerate() {
            if let Content::Epochs(records) = cut.content {
                for (offset, record) in records {
                    appended_us = appended_us.into_iter().chain(record.header.appended_us).min();
                    self.record(i, offset, &record, now_ms, &mut messages)?;
                }
            }
        }
        self.stats(now_ms, &mut messages);
        if !messages.is_empty() {
            let output = Output { name: "rooms".to_owned(), kind: OutputKind::Rooms, batch: RoomMessage::to_batch(&messages)? };
            self.outbox.push(output, (None, BTreeMap::new()))?;
        }
        let outputs = self.outbox.take();
        let counters = Counters { rows_out: outputs.iter().map(|o| o.batch.num_rows() as u64).sum(), ..Counters::default() };
        Ok(EpochOutput { watermark: None, watermarks: BTreeMap::new(), appended_us, counters, outputs })
    }

    fn input_watermarks(&self) -> Vec<Option<i64>> {
        vec![None; self.inputs.len()]
    }

    fn waiting_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    fn freeze(&mut self) -> Result<Vec<(String, Frozen)>, StateError> {
        let pieces = Pieces { meta: serde_json::to_value(&self.state).map_err(StateError::Meta)?, batches: Vec::new() };
        let outbox = self.outbox.pieces()?;
        Ok(vec![("rooms".to_owned(), Box::new(move || Ok(pieces))), ("outbox".to_owned(), Box::new(move || Ok(outbox)))])
    }

    fn restore(&mut self, mut parts: BTreeMap<String, Pieces>) -> Result<(), StateError> {
        let mut take = |name: &str| parts.remove(name).ok_or_else(|| StateError::Missing(name.to_owned()));
        self.state = take("rooms")?.meta()?;
        self.outbox.restore(take("outbox")?)
    }

    fn ignored(&self) -> u64 {
        self.state.origins.values().map(|o| o.ignored).sum()
    }
}

fn room_sink(job: &Job, sink: &SinkSpec) -> Result<RoomSink, OpError> {
    let option = |name: &str| sink.options.get(name).cloned();
    let room = option("room").ok_or_else(|| OpError::Broken(format!("sink `{}` names no `room`", sink.name)))?;
    let kind = if option("type").as_deref() == Some("state") { RoomKind::State } else { RoomKind::Stream };
    let key = option("key").unwrap_or_default();
    // A bare column name is its own pattern.
    let key = if key.contains('{') { key } else { format!("{{{key}}}") };
    Ok(RoomSink { view: job.views[sink.view].name.clone(), room, kind, key })
}

/// Reads rows as JSON objects. Texts that hold JSON (columns called `reasons`) are put in as they are.
pub struct JsonRows<'a> {
    batch: &'a RecordBatch,
    formatters: Vec<ArrayFormatter<'a>>,
}

impl<'a> JsonRows<'a> {
    pub fn new(batch: &'a RecordBatch) -> Result<Self, OpError> {
        const OPTIONS: FormatOptions<'static> = FormatOptions::new();
        let formatters = batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &OPTIONS)).collect::<Result<_, _>>()?;
        Ok(Self { batch, formatters })
    }

    /// A value as text, as patterns and keys show it; null is the empty text.
    pub fn text(&self, column: usize, row: usize) -> Result<String, OpError> {
        let array = self.batch.column(column);
        if array.is_null(row) {
            return Ok(String::new());
        }
        Ok(match array.data_type() {
            DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, _) => schemas::clock::rfc3339(array.as_primitive::<TimestampMicrosecondType>().value(row)),
            _ => self.formatters[column].value(row).to_string(),
        })
    }

    pub fn object(&self, row: usize) -> Result<Value, OpError> {
        serde_json::to_value(JsonRow { rows: self, row }).map_err(|e| OpError::Broken(e.to_string()))
    }

    /// The row as one line of JSON.
    pub fn line(&self, row: usize) -> Result<String, OpError> {
        serde_json::to_string(&JsonRow { rows: self, row }).map_err(|e| OpError::Broken(e.to_string()))
    }
}

struct JsonRow<'a> {
    rows: &'a JsonRows<'a>,
    row: usize,
}

struct JsonCell<'a> {
    rows: &'a JsonRows<'a>,
    column: usize,
    row: usize,
    /// A text that holds JSON.
    embedded: bool,
}

impl Serialize for JsonRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let schema = self.rows.batch.schema_ref();
        let mut object = serializer.serialize_map(Some(schema.fields().len()))?;
        for (column, field) in schema.fields().iter().enumerate() {
            object.serialize_entry(field.name(), &JsonCell { rows: self.rows, column, row: self.row, embedded: field.name() == "reasons" })?;
        }
        object.end()
    }
}

impl Serialize for JsonCell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (array, row) = (self.rows.batch.column(self.column), self.row);
        if array.is_null(row) {
            return serializer.serialize_none();
        }
        let text = || self.rows.text(self.column, row).map_err(serde::ser::Error::custom);
        match array.data_type() {
            DataType::Int64 => serializer.serialize_i64(array.as_primitive::<Int64Type>().value(row)),
            DataType::Int32 => serializer.serialize_i32(array.as_primitive::<Int32Type>().value(row)),
            DataType::Int16 => serializer.serialize_i16(array.as_primitive::<Int16Type>().value(row)),
            DataType::UInt64 => serializer.serialize_u64(array.as_primitive::<UInt64Type>().value(row)),
            DataType::UInt32 => serializer.serialize_u32(array.as_primitive::<UInt32Type>().value(row)),
            DataType::Float64 => serializer.serialize_f64(array.as_primitive::<Float64Type>().value(row)),
            DataType::Boolean => serializer.serialize_bool(array.as_boolean().value(row)),
            // As its digits stand: no float has all of them.
            DataType::Decimal128(_, _) => RawValue::from_string(text()?).map_err(serde::ser::Error::custom)?.serialize(serializer),
            DataType::Utf8 if self.embedded => embedded(array.as_string::<i32>().value(row)).serialize(serializer),
            DataType::Utf8 => serializer.serialize_str(array.as_string::<i32>().value(row)),
            DataType::List(item) => {
                let items = RecordBatch::try_new(Arc::new(Schema::new(vec![item.as_ref().clone()])), vec![array.as_list::<i32>().value(row)]);
                let items = items.map_err(serde::ser::Error::custom)?;
                let rows = JsonRows::new(&items).map_err(serde::ser::Error::custom)?;
                serializer.collect_seq((0..items.num_rows()).map(|row| JsonCell { rows: &rows, column: 0, row, embedded: false }))
            }
            _ => serializer.serialize_str(&text()?),
        }
    }
}

/// A text as the JSON that it holds, if it does. It goes out as it is, unless it has line breaks: those separate rows.
fn embedded(text: &str) -> Option<Box<RawValue>> {
    let one_line = if text.contains('\n') { serde_json::from_str::<Value>(text).ok()?.to_string() } else { text.to_owned() };
    RawValue::from_string(one_line).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        sql::{FunctionContext, plan_job},
        task::InputCut,
    };
    use arrow_array::{ArrayRef, StringArray};
    use schemas::{EpochHeader, EpochId, EpochKind, Versions};

    const JOB: &str = "CREATE SOURCE usage (tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, WATERMARK FOR event_time AS event_time)
        WITH (topic = 'usage.v1', format = 'json', key = 'tenant, subscriber_id');
        CREATE MATERIALIZED VIEW seen AS SELECT tenant, subscriber_id FROM usage;
        CREATE SINK seen_room FROM seen WITH (connector = 'room', room = 'admin:{tenant}', type = 'stream');";

    fn task() -> RoomsTask {
        let job = Arc::new(plan_job("job", JOB, &FunctionContext::default()).unwrap());
        RoomsTask::new(&job, 0, Partitions { level1: 1, upper: 1 }, 1).unwrap()
    }

    #[test]
    fn a_decimal_is_told_with_all_its_digits() {
        let decimals = arrow_array::Decimal128Array::from(vec![1_234_567_890_123_456_789_012, -5, 330]).with_precision_and_scale(30, 2).unwrap();
        let batch = RecordBatch::try_from_iter([("d", Arc::new(decimals) as ArrayRef)]).unwrap();
        let rows = JsonRows::new(&batch).unwrap();
        let lines: Vec<String> = (0..3).map(|row| rows.line(row).unwrap()).collect();
        assert_eq!(lines, [r#"{"d":12345678901234567890.12}"#, r#"{"d":-0.05}"#, r#"{"d":3.30}"#]);
    }

    fn told(task: &mut RoomsTask, now_ms: i64, content: Content) -> Vec<Output> {
        let to = u64::from(!matches!(content, Content::Nothing));
        task.process(EpochInput { now_ms, inputs: vec![InputCut { from: 0, to, caught_up: true, content }] }).unwrap().outputs
    }

    /// The first epoch of level 1, with a row of the view.
    fn row() -> Content {
        let text = |value: &str| Arc::new(StringArray::from(vec![value])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("tenant", text("acme")), ("subscriber_id", text("s1"))]).unwrap();
        let header = EpochHeader {
            group: "job.l1".to_owned(),
            task: 0,
            epoch: 1,
            id: EpochId(7),
            parent: EpochId(0),
            owner: "one".to_owned(),
            kind: EpochKind::Work,
            cut: Vec::new(),
            now_ms: 0,
            watermark: None,
            watermarks: BTreeMap::new(),
            begins: BTreeMap::new(),
            appended_us: None,
            versions: Versions::default(),
            counters: Counters { rows_in: 1, ..Counters::default() },
            output_hash: String::new(),
            outputs: Vec::new(),
        };
        let outputs = vec![Output { name: "seen".to_owned(), kind: OutputKind::Rows, batch }];
        Content::Epochs(vec![(0, Arc::new(EpochRecord { header, outputs }))])
    }

    #[test]
    fn an_epoch_that_tells_nothing_leaves_no_trace_since_no_recovery_runs_it_again() {
        let (mut live, mut recovered) = (task(), task());
        for now_ms in [1_000, 2_000, 3_000] {
            assert!(told(&mut live, now_ms, Content::Nothing).is_empty());
        }
        for (now_ms, content) in [(4_000, row as fn() -> Content), (5_500, || Content::Nothing)] {
            let outputs = told(&mut live, now_ms, content());
            assert!(!outputs.is_empty());
            assert_eq!(outputs, told(&mut recovered, now_ms, content()));
        }
    }

    #[test]
    fn a_message_that_is_too_large_keeps_its_place_and_says_its_size() {
        let mut task = task();
        let draft = Draft {
            room: "admin:acme".to_owned(),
            tenant: "acme".to_owned(),
            kind: RoomKind::Stream,
            key: String::new(),
            removed: false,
            data: format!("\"{}\"", "x".repeat(MESSAGE_BYTES_MAX)),
            appended_us: None,
        };
        let mut messages = Vec::new();
        task.message(draft, 1, &mut messages);
        assert_eq!(messages[0].data, format!("{{\"too_large\":{{\"bytes\":{},\"limit\":{MESSAGE_BYTES_MAX}}}}}", MESSAGE_BYTES_MAX + 2));
        assert_eq!(messages[0].offset, 1);
    }
}

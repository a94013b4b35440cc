//! Rows become payloads: JSON by the event type's fields or by a source's columns, through a mapping where there is one.
//!
//! For an event type every payload is checked and its time is bounded; what does not pass is a [`RowError`] and its neighbours
//! are untouched. For the columns of a job's source only what cannot become a payload is one: the rest is the chain's to judge.

use super::{
    csv::Fields,
    mapped::Mapped,
    rows::{Format, Row, RowReader},
};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use ingest::log::SOURCE_RECORD_BYTES_MAX;
use schemas::{
    clock,
    event::{EventType, FieldType},
};
use serde_json::{Map, Value};
use stream_jobs::sql::{Mapping, SqlError};

/// A row on its way into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    pub line: u64,
    /// The record key; empty where the payload does not tell it.
    pub key: String,
    pub payload: Vec<u8>,
    /// UTC microseconds; 0 where the payload does not tell it.
    pub event_time_us: i64,
}

/// A row that cannot be taken, as the error file shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    pub line: u64,
    pub reason: String,
    pub text: String,
}

/// What became of some rows, both parts in the order of the file.
#[derive(Debug, Default)]
pub struct ConvertedBatch {
    pub rows: Vec<Converted>,
    pub errors: Vec<RowError>,
    /// Rows that the mapping's `WHERE` left out.
    pub filtered: u64,
    /// The last line that was looked at.
    pub last_line: u64,
}

enum Target {
    Event { event: &'static EventType, tenant: String, time_max_us: i64 },
    Columns { fields: Vec<(String, FieldType)>, key: Vec<String>, time: Option<String> },
}

enum Shape {
    Json,
    /// Per column of the file its name as a JSON text, and its type.
    Csv(Vec<(String, FieldType)>),
    Mapped(Box<Mapped>),
}

pub struct Converter {
    target: Target,
    shape: Shape,
    file: String,
    gives_event_id: bool,
    fields: Fields,
}

impl Converter {
    /// Payloads of an event type. Rows without a tenant get `tenant`; `now_us` bounds the time of events.
    pub fn for_event(reader: &RowReader, event: &'static EventType, tenant: &str, now_us: i64) -> Self {
        let types = event.all_fields().into_iter().map(|f| (f.name.to_owned(), f.kind)).collect::<Vec<_>>();
        let target = Target::Event { event, tenant: tenant.to_owned(), time_max_us: now_us.saturating_add(clock::EVENT_AHEAD_MAX_US) };
        Self::new(reader, target, &types, true)
    }

    /// Payloads with the columns of a job's source. `key` and `time` are indices into `schema`.
    pub fn for_columns(reader: &RowReader, schema: &SchemaRef, key: &[usize], time: Option<usize>) -> Self {
        let name = |i: usize| schema.field(i).name().clone();
        let fields: Vec<_> = schema.fields().iter().map(|f| (f.name().clone(), field_type(f.data_type()))).collect();
        let gives_event_id = fields.iter().any(|(n, _)| n == "event_id");
        let target = Target::Columns { fields: fields.clone(), key: key.iter().map(|i| name(*i)).collect(), time: time.map(name) };
        Self::new(reader, target, &fields, gives_event_id)
    }

    fn new(reader: &RowReader, target: Target, types: &[(String, FieldType)], gives_event_id: bool) -> Self {
        let of = |column: &String| types.iter().find(|(n, _)| n == column).map_or(FieldType::Text, |(_, t)| *t);
        let shape = match reader.format() {
            Format::JsonLines => Shape::Json,
            Format::Csv => Shape::Csv(reader.columns().iter().map(|c| (Value::from(c.as_str()).to_string(), of(c))).collect()),
        };
        let file = reader.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Self { target, shape, file, gives_event_id, fields: Fields::default() }
    }

    /// Puts a mapping (`SELECT … FROM input`) between the file and the payload.
    pub fn with_mapping(mut self, reader: &mut RowReader, sql: &str) -> Result<Self, MappingError> {
        let schema = reader.input_schema()?;
        let mapping = Mapping::new(sql, schema.clone())?;
        self.shape = Shape::Mapped(Box::new(Mapped::new(mapping, schema, reader.format())));
        Ok(self)
    }

    /// Converts some rows of the file. The error is a broken invariant, never a row's fault.
    pub fn convert(&mut self, rows: Vec<Row>) -> Result<ConvertedBatch, ArrowError> {
        let mut out = ConvertedBatch { last_line: rows.last().map_or(0, |r| r.line), ..Default::default() };
        let mut whole = Vec::with_capacity(rows.len());
        for row in rows {
            match row.fault {
                Some(reason) => out.errors.push(RowError { line: row.line, reason, text: row.text }),
                None => whole.push(row),
            }
        }
        match &mut self.shape {
            Shape::Mapped(mapped) => {
                let payloads = mapped.apply(&whole)?;
                let refused = payloads.errors.into_iter().map(|(row, reason)| RowError { line: whole[row].line, reason, text: whole[row].text.clone() });
                out.errors.extend(refused);
                out.filtered = payloads.filtered;
                for (row, payload) in payloads.rows {
                    self.finish(&whole[row], payload, &mut out);
                }
            }
            Shape::Json => {
                for row in &whole {
                    self.finish(row, row.text.clone().into_bytes(), &mut out);
                }
            }
            Shape::Csv(columns) => {
                let columns = std::mem::take(columns);
                for row in &whole {
                    self.fields.split(&row.text);
                    self.finish(row, json_of_csv(&columns, &self.fields), &mut out);
                }
                self.shape = Shape::Csv(columns);
            }
        }
        out.errors.sort_by_key(|e| e.line);
        Ok(out)
    }

    fn finish(&self, row: &Row, payload: Vec<u8>, out: &mut ConvertedBatch) {
        let finished = match &self.target {
            Target::Event { event, tenant, time_max_us } => self.event(row.line, payload, event, tenant, *time_max_us),
            Target::Columns { fields, key, time } => Ok(self.columns(row.line, payload, fields, key, time.as_deref())),
        };
        match finished {
            Ok(converted) => out.rows.push(converted),
            Err(reason) => out.errors.push(RowError { line: row.line, reason, text: row.text.clone() }),
        }
    }

    fn event(&self, line: u64, payload: Vec<u8>, event: &EventType, tenant: &str, time_max_us: i64) -> Result<Converted, String> {
        let mut value: Value = serde_json::from_slice(&payload).map_err(|e| format!("is not JSON: {e}"))?;
        let payload = match value.as_object_mut() {
            Some(object) => {
                let id = self.event_id(line);
                with_missing(object, payload, &[("event_id", &id), ("tenant", tenant)])
            }
            None => payload,
        };
        event.check(&value)?;
        if payload.len() > SOURCE_RECORD_BYTES_MAX {
            return Err(format!("becomes an event of {} bytes, the limit is {SOURCE_RECORD_BYTES_MAX}", payload.len()));
        }
        let time = value.get("event_time").and_then(Value::as_str).unwrap_or_default();
        let event_time_us = clock::parse_rfc3339(time).map_err(|e| format!("field `event_time` is `{time}`: {e}"))?;
        if event_time_us < clock::EVENT_TIME_MIN_US {
            return Err(format!("field `event_time` is `{time}`, before 1980-01-01"));
        }
        if event_time_us > time_max_us {
            return Err(format!("field `event_time` is `{time}`, more than a day ahead"));
        }
        let key = event.record_key(&value).ok_or_else(|| format!("has no key: {}", event.key.join(", ")))?;
        Ok(Converted { line, key, payload, event_time_us })
    }

    fn columns(&self, line: u64, payload: Vec<u8>, fields: &[(String, FieldType)], key: &[String], time: Option<&str>) -> Converted {
        debug_assert!(key.iter().all(|k| fields.iter().any(|(n, _)| n == k)));
        let Ok(Value::Object(mut object)) = serde_json::from_slice(&payload) else {
            return Converted { line, key: String::new(), payload, event_time_us: 0 };
        };
        let id = self.event_id(line);
        let payload = if self.gives_event_id { with_missing(&mut object, payload, &[("event_id", &id)]) } else { payload };
        let parts: Option<Vec<String>> = key.iter().map(|k| object.get(k).and_then(key_text)).collect();
        let event_time_us = time.and_then(|t| object.get(t)).and_then(Value::as_str).and_then(|t| clock::parse_rfc3339(t).ok()).unwrap_or(0);
        Converted { line, key: parts.map(|p| p.join("|")).unwrap_or_default(), payload, event_time_us }
    }

    /// Lines that are equal are still two events; the same line of the same file is always the same one.
    fn event_id(&self, line: u64) -> String {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        hash.update(self.file.as_bytes());
        hash.update(&[0]);
        hash.update(&line.to_le_bytes());
        format!("{:016x}", hash.digest())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    #[error(transparent)]
    Read(#[from] super::rows::ReadError),
    #[error(transparent)]
    Sql(#[from] SqlError),
}

/// Adds the fields that `object` lacks to it and to its text. The sender's own text stays as it was written, numbers included.
fn with_missing(object: &mut Map<String, Value>, payload: Vec<u8>, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut front = Vec::new();
    let empty = object.is_empty();
    let mut rewrite = false;
    for (name, text) in fields.iter().filter(|(name, _)| object.get(*name).is_none_or(Value::is_null)).collect::<Vec<_>>() {
        let json = Value::from(*text);
        front.extend_from_slice(if front.is_empty() { b"{" } else { b"," });
        front.extend_from_slice(format!("\"{name}\":{json}").as_bytes());
        rewrite |= object.insert((*name).to_owned(), json).is_some();
    }
    if front.is_empty() {
        return payload;
    }
    let body = payload.trim_ascii_start().strip_prefix(b"{");
    match body {
        Some(body) if !rewrite => {
            if !empty {
                front.push(b',');
            }
            front.extend_from_slice(body);
            front
        }
        // A field that was null: there must not be two of its name.
        _ => serde_json::to_vec(&*object).unwrap_or(payload),
    }
}

fn field_type(data_type: &DataType) -> FieldType {
    match data_type {
        t if t.is_integer() => FieldType::Integer,
        t if t.is_numeric() => FieldType::Number,
        DataType::Timestamp(..) => FieldType::Time,
        _ => FieldType::Text,
    }
}

fn key_text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

/// A CSV record as a JSON object: numbers where the type says so and the text is one, else texts; empty values are absent.
fn json_of_csv(columns: &[(String, FieldType)], fields: &Fields) -> Vec<u8> {
    let mut json = Vec::with_capacity(256);
    for ((name, kind), value) in columns.iter().zip(fields.iter()).filter(|(_, v)| !v.is_empty()) {
        json.push(if json.is_empty() { b'{' } else { b',' });
        json.extend_from_slice(name.as_bytes());
        json.push(b':');
        json.extend_from_slice(json_value(*kind, value).to_string().as_bytes());
    }
    if json.is_empty() {
        json.push(b'{');
    }
    json.push(b'}');
    json
}

fn json_value(kind: FieldType, value: &str) -> Value {
    let number = match kind {
        FieldType::Integer => value.trim().parse::<i64>().ok().map(Value::from),
        FieldType::Number => value.trim().parse::<f64>().ok().filter(|v| v.is_finite()).map(Value::from),
        FieldType::Text | FieldType::Time => None,
    };
    number.unwrap_or_else(|| Value::from(value))
}

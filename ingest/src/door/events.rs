//! What a request says: its events, each checked, with the topic and the record that it becomes.
//!
//! The payload goes into the log as it was written, byte for byte; what it lacks (`event_id`, a CloudEvent's time) is put in
//! front of its first field. Parsing and printing it again would change numbers in their last digit.

use super::DoorLimits;
use crate::decode::not_json;
use axum::http::StatusCode;
use schemas::{
    NewRecord,
    clock::{self, EVENT_AHEAD_MAX_US, EVENT_TIME_MIN_US},
    event::{EVENT_TYPES, EventType, event_type, shown},
};
use serde_json::{Value, value::RawValue};
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a request is not taken.
#[derive(Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    /// Which event of the request, from 0.
    pub index: Option<usize>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: String) -> Self {
        Self { status, code, message, index: None }
    }

    fn invalid(code: &'static str, message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }
}

/// Ids for events that came without one.
pub struct Ids {
    prefix: String,
    next: AtomicU64,
}

impl Ids {
    pub fn new(start_us: i64) -> Self {
        Self { prefix: format!("http-{start_us:x}-{:x}", std::process::id()), next: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// All events of a body as (topic, record), or the first fault.
pub fn read(
    body: &[u8],
    content_type: &str,
    path_event: Option<&str>,
    limits: &DoorLimits,
    now_us: i64,
    ids: &Ids,
) -> Result<Vec<(&'static str, NewRecord)>, Refusal> {
    let raw = split(body, content_type)?;
    let cloud_events = content_type.starts_with("application/cloudevents");
    let one = |raw: &RawValue| {
        if raw.get().len() > limits.event_bytes_max {
            let message = format!("event has {} bytes, the limit is {}", raw.get().len(), limits.event_bytes_max);
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "event_too_large", message));
        }
        Event::read(raw, cloud_events, path_event)?.into_record(now_us, ids)
    };
    raw.into_iter().enumerate().map(|(index, raw)| one(raw).map_err(|refusal| Refusal { index: Some(index), ..refusal })).collect()
}

fn split<'a>(body: &'a [u8], content_type: &str) -> Result<Vec<&'a RawValue>, Refusal> {
    let bad = |index, error: &serde_json::Error| Refusal { index, ..Refusal::invalid("not_json", not_json(error)) };
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    if matches!(content_type, "application/x-ndjson" | "application/ndjson" | "application/jsonl") {
        let lines = body.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty());
        return lines.enumerate().map(|(index, line)| serde_json::from_slice(line).map_err(|e| bad(Some(index), &e))).collect();
    }
    if body.trim_ascii_start().starts_with(b"[") {
        return serde_json::from_slice(body).map_err(|e| bad(None, &e));
    }
    serde_json::from_slice(body).map(|one| vec![one]).map_err(|e| bad(None, &e))
}

/// One event, not checked yet.
struct Event<'a> {
    kind: &'static EventType,
    payload: &'a RawValue,
    fields: Value,
    /// A CloudEvent's `id` and `time`.
    id: Option<String>,
    time: Option<String>,
}

#[derive(serde::Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    time: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl<'a> Event<'a> {
    fn read(raw: &'a RawValue, cloud_event: bool, path_event: Option<&str>) -> Result<Self, Refusal> {
        let parse = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).map_err(|e| Refusal::invalid("not_json", not_json(&e)));
        let fields = parse(raw)?;
        if !cloud_event && (fields.get("specversion").is_none() || fields.get("data").is_none()) {
            let name = path_event.or_else(|| fields.get("type").and_then(Value::as_str));
            let Some(name) = name else {
                let message = "the event has no name: POST to /v1/events/{event} or send a field `type`";
                return Err(Refusal::invalid("event_unnamed", message.to_owned()));
            };
            return Ok(Self { kind: known(name)?, payload: raw, fields, id: None, time: None });
        }
        let envelope: Envelope<'a> = serde_json::from_str(raw.get()).map_err(|e| Refusal::invalid("bad_cloud_event", format!("not a CloudEvent: {e}")))?;
        let missing = |attribute| Refusal::invalid("bad_cloud_event", format!("field `{attribute}` of a CloudEvent is missing"));
        let name = path_event.map(str::to_owned).or(envelope.kind).ok_or_else(|| missing("type"))?;
        let payload = envelope.data.ok_or_else(|| missing("data"))?;
        Ok(Self { kind: known(&name)?, fields: parse(payload)?, payload, id: envelope.id, time: envelope.time })
    }

    fn into_record(self, now_us: i64, ids: &Ids) -> Result<(&'static str, NewRecord), Refusal> {
        let Self { kind, payload, mut fields, id, time } = self;
        let mut added = Vec::new();
        if let Some(object) = fields.as_object_mut() {
            for (name, text) in [("event_id", id), ("event_time", time)] {
                if object.get(name).is_some_and(|v| !v.is_null()) {
                    continue;
                }
                let Some(text) = text.or_else(|| (name == "event_id").then(|| ids.next())) else { continue };
                let was_null = object.insert(name.to_owned(), text.clone().into()).is_some();
                added.push(Added { name, text, was_null });
            }
        }
        kind.check(&fields).map_err(|message| Refusal::invalid("invalid_event", message))?;
        check_time(&fields, now_us)?;
        let value = if added.iter().any(|a| a.was_null) { fields.to_string() } else { with_fields(payload.get(), &added) };
        let key = kind.record_key(&fields).unwrap_or_default();
        Ok((kind.topic, NewRecord::new(key, value)))
    }
}

/// A field that the payload lacked.
struct Added {
    name: &'static str,
    text: String,
    /// It was there as `null`, which would win over one put in front.
    was_null: bool,
}

/// `object` with `added` before its first field.
fn with_fields(object: &str, added: &[Added]) -> String {
    let mut out = String::with_capacity(object.len() + 64 * added.len());
    let rest = object.trim_start().strip_prefix('{').unwrap_or_default().trim_start();
    out.push('{');
    for (n, field) in added.iter().enumerate() {
        let last = n + 1 == added.len() && rest.starts_with('}');
        out.push_str(&format!("\"{}\":{}{}", field.name, Value::from(field.text.as_str()), if last { "" } else { "," }));
    }
    out.push_str(rest);
    out
}

/// `usage`, `usage.v1`, and a CloudEvent's `com.example.usage` or `com.example.usage.v1`.
fn known(name: &str) -> Result<&'static EventType, Refusal> {
    let short = name.strip_suffix(".v1").unwrap_or(name);
    let last = short.rsplit('.').next().unwrap_or(short);
    event_type(last).ok_or_else(|| {
        let names: Vec<&str> = EVENT_TYPES.iter().map(|e| e.name).collect();
        Refusal::invalid("unknown_event", format!("event {} is not known, expected one of {}", shown(&name.into()), names.join(", ")))
    })
}

fn check_time(fields: &Value, now_us: i64) -> Result<(), Refusal> {
    let Some(text) = fields.get("event_time").and_then(Value::as_str) else { return Ok(()) };
    let what = match clock::parse_rfc3339(text) {
        Ok(us) if us < EVENT_TIME_MIN_US => "before 1980",
        Ok(us) if us > now_us + EVENT_AHEAD_MAX_US => "more than a day ahead",
        _ => return Ok(()),
    };
    Err(Refusal::invalid("bad_time", format!("field `event_time` is {}, {what}", shown(&text.into()))))
}

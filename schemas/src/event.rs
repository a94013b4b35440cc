//! The operator's events: for each its topic, its fields, and a sample.
//!
//! A field list here is the contract of the HTTP door and of `headend schema EVENT`; a job's `CREATE SOURCE` names
//! the columns that it reads and may name fewer.

use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    Text,
    Integer,
    Number,
    /// RFC 3339.
    Time,
}

impl FieldType {
    /// The words that an error message uses for what was expected.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Time => "an RFC 3339 time",
        }
    }

    pub fn sql(self) -> &'static str {
        match self {
            Self::Text => "TEXT",
            Self::Integer => "BIGINT",
            Self::Number => "DOUBLE",
            Self::Time => "TIMESTAMPTZ",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct EventField {
    pub name: &'static str,
    pub kind: FieldType,
    pub required: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct EventType {
    pub name: &'static str,
    pub topic: &'static str,
    /// The fields whose values, joined by `|`, are the record key.
    pub key: &'static [&'static str],
    pub compacted: bool,
    /// Fields beside the envelope.
    pub fields: &'static [EventField],
}

use FieldType::{Integer, Number, Text, Time};

const fn field(name: &'static str, kind: FieldType) -> EventField {
    EventField { name, kind, required: false }
}
const fn needed(name: &'static str, kind: FieldType) -> EventField {
    EventField { name, kind, required: true }
}

const SUBSCRIBER: &[&str] = &["tenant", "subscriber_id"];
const NODE: &[&str] = &["tenant", "node_id"];

/// Every event type that Headend knows by name.
pub const EVENT_TYPES: &[EventType] = &[
    EventType {
        name: "usage",
        topic: "usage.v1",
        key: SUBSCRIBER,
        compacted: false,
        fields: &[
            needed("bytes_down", Integer),
            field("bytes_up", Integer),
            field("session_id", Text),
            field("plan_id", Text),
            field("region", Text),
            field("node_id", Text),
            field("ip", Text),
            field("device_id", Text),
            field("service", Text),
        ],
    },
    EventType {
        name: "login",
        topic: "login.v1",
        key: SUBSCRIBER,
        compacted: false,
        fields: &[
            needed("outcome", Text),
            field("ip", Text),
            field("country", Text),
            field("city", Text),
            field("latitude", Number),
            field("longitude", Number),
            field("device_id", Text),
            field("channel", Text),
        ],
    },
    EventType {
        name: "payment",
        topic: "payment.v1",
        key: SUBSCRIBER,
        compacted: false,
        fields: &[
            needed("outcome", Text),
            needed("amount_minor", Integer),
            field("currency", Text),
            field("method", Text),
            field("failure_code", Text),
            field("invoice_id", Text),
        ],
    },
    EventType {
        name: "ticket",
        topic: "ticket.v1",
        key: SUBSCRIBER,
        compacted: false,
        fields: &[
            field("ticket_id", Text),
            needed("action", Text),
            field("priority", Text),
            field("category", Text),
            field("due_at", Time),
            field("csat", Integer),
        ],
    },
    EventType {
        name: "session",
        topic: "session.v1",
        key: SUBSCRIBER,
        compacted: false,
        fields: &[
            needed("action", Text),
            field("session_id", Text),
            field("nas_id", Text),
            field("node_id", Text),
            field("framed_ip", Text),
            field("mac", Text),
            field("input_octets", Integer),
            field("output_octets", Integer),
            field("terminate_cause", Text),
        ],
    },
    EventType {
        name: "subscription",
        topic: "subscription.v1",
        key: SUBSCRIBER,
        compacted: false,
        fields: &[needed("action", Text), field("plan_id", Text), field("price_minor", Integer), field("currency", Text), field("reason", Text)],
    },
    EventType {
        name: "network",
        topic: "network.v1",
        key: NODE,
        compacted: false,
        fields: &[field("region", Text), needed("metric", Text), needed("value", Number)],
    },
    EventType {
        name: "alert_command",
        topic: "alert-command.v1",
        key: &["tenant"],
        compacted: false,
        fields: &[
            needed("action", Text),
            field("alert_id", Text),
            field("rule", Text),
            field("entity", Text),
            field("until", Time),
            field("by", Text),
            field("comment", Text),
        ],
    },
    EventType {
        name: "subscriber",
        topic: "subscriber.v1",
        key: SUBSCRIBER,
        compacted: true,
        fields: &[
            field("plan_type", Text),
            field("speed_mbps", Integer),
            field("price_minor", Integer),
            field("billing_cycle", Text),
            field("customer_since", Time),
            field("region", Text),
            field("node_id", Text),
            field("segment", Text),
            field("nps", Integer),
            field("satisfaction", Integer),
            field("outstanding_minor", Integer),
            field("language", Text),
            field("currency", Text),
        ],
    },
];

/// The event type called `name`.
pub fn event_type(name: &str) -> Option<&'static EventType> {
    EVENT_TYPES.iter().find(|e| e.name == name)
}

impl EventType {
    /// Envelope and fields, in order.
    pub fn all_fields(&self) -> Vec<EventField> {
        let mut all = vec![field("event_id", Text), needed("event_time", Time)];
        all.extend(self.key.iter().map(|k| needed(k, Text)));
        all.extend_from_slice(self.fields);
        all
    }

    /// Checks a payload against the fields; the first fault as a sentence. Unknown fields pass: they belong to the sender.
    pub fn check(&self, payload: &Value) -> Result<(), String> {
        let Some(object) = payload.as_object() else {
            return Err(format!("an event is a JSON object, this is {}", shown(payload)));
        };
        for f in self.all_fields() {
            let value = object.get(f.name).filter(|v| !v.is_null());
            match value {
                None if f.required => return Err(format!("field `{}` is missing, expected {}", f.name, f.kind.expected())),
                None => {}
                Some(v) if !fits(f.kind, v) => return Err(format!("field `{}` is {}, expected {}", f.name, shown(v), f.kind.expected())),
                Some(v) if self.key.contains(&f.name) && v.as_str().is_some_and(|s| s.is_empty() || s.contains(['|', ':'])) => {
                    return Err(format!("field `{}` is {}; a key field may not be empty or hold `|` or `:`", f.name, shown(v)));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The record key of a payload that passed [`EventType::check`].
    pub fn record_key(&self, payload: &Value) -> Option<String> {
        let parts: Option<Vec<&str>> = self.key.iter().map(|k| payload.get(k).and_then(Value::as_str)).collect();
        parts.map(|p| p.join("|"))
    }

    /// JSON Schema (2020-12) of the payload.
    pub fn json_schema(&self) -> Value {
        let mut properties = serde_json::Map::new();
        let mut required = Vec::new();
        for f in self.all_fields() {
            let t = match f.kind {
                Text => json!({"type": "string"}),
                Integer => json!({"type": "integer"}),
                Number => json!({"type": "number"}),
                Time => json!({"type": "string", "format": "date-time"}),
            };
            properties.insert(f.name.to_owned(), t);
            if f.required {
                required.push(f.name);
            }
        }
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": self.name, "type": "object", "properties": properties, "required": required})
    }
}

fn fits(kind: FieldType, value: &Value) -> bool {
    match kind {
        Text => value.is_string(),
        Integer => value.is_i64(),
        Number => value.is_number(),
        Time => value.as_str().is_some_and(|s| crate::clock::parse_rfc3339(s).is_ok()),
    }
}

/// A JSON value as an error message shows it: in backticks, cut after 60 characters.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { format!("`{}…`", text.chars().take(60).collect::<String>()) } else { format!("`{text}`") }
}

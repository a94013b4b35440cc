//! `headend schema EVENT`: the fields of an event type, as a table, as SQL, as JSON Schema, as a sample.

use crate::{cli::SchemaArgs, config::settings::nearest, exit::Usage};
use schemas::event::{EVENT_TYPES, EventField, EventType, FieldType, event_type};
use serde_json::{Map, Value, json};

pub fn run(args: &SchemaArgs) -> anyhow::Result<()> {
    let Some(name) = &args.event else { return super::print(list().trim_end()) };
    let event = known(name)?;
    match (args.json, args.sql, args.sample) {
        (true, ..) => super::print(super::pretty(&event.json_schema())),
        (_, true, _) => super::print(sql(event)),
        (_, _, true) => super::print(sample(event)),
        _ => super::print(table(event).trim_end()),
    }
}

/// The event type called `name`, or the error that there is none, with the nearest.
pub fn known(name: &str) -> Result<&'static EventType, Usage> {
    event_type(name).ok_or_else(|| {
        let names = EVENT_TYPES.iter().map(|e| e.name);
        let close = nearest(name, names.clone()).map(|n| format!(", did you mean `{n}`?"));
        Usage(format!("no event type is called `{name}`{}", close.unwrap_or_else(|| format!(", there are {}", names.collect::<Vec<_>>().join(", ")))))
    })
}

fn list() -> String {
    EVENT_TYPES.iter().map(|e| format!("{:<14} {:<18} key {}{}\n", e.name, e.topic, e.key.join("|"), if e.compacted { ", compacted" } else { "" })).collect()
}

fn table(event: &EventType) -> String {
    let head = format!("{}, topic {}, key {}\n\n", event.name, event.topic, event.key.join("|"));
    event.all_fields().iter().fold(head, |text, f| text + &format!("{:<20} {:<12} {}\n", f.name, f.kind.sql(), if f.required { "required" } else { "" }))
}

/// The statement with which a job reads the event: a table where the topic is compacted.
pub fn sql(event: &EventType) -> String {
    let mut columns: Vec<String> = event.all_fields().iter().map(|f| format!("  {} {}", f.name, f.kind.sql())).collect();
    let what = if event.compacted { "TABLE" } else { "SOURCE" };
    columns.push("  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'".to_owned());
    format!("CREATE {what} {} (\n{}\n) WITH (topic = '{}', format = 'json', key = '{}');", event.name, columns.join(",\n"), event.topic, event.key.join(", "))
}

/// One event that the door accepts.
pub fn sample(event: &EventType) -> Value {
    event.all_fields().iter().map(|f| (f.name.to_owned(), sample_value(f))).collect::<Map<_, _>>().into()
}

fn sample_value(field: &EventField) -> Value {
    match (field.name, field.kind) {
        ("tenant", _) => json!("acme"),
        ("subscriber_id", _) => json!("s-17"),
        ("node_id", _) => json!("olt-3"),
        ("region", _) => json!("north"),
        ("outcome", _) => json!("ok"),
        ("currency", _) => json!("EUR"),
        ("metric", _) => json!("latency_ms"),
        ("ip", _) => json!("203.0.113.9"),
        ("latitude", _) => json!(52.52),
        ("longitude", _) => json!(13.4),
        ("nps" | "csat" | "satisfaction", _) => json!(4),
        (name, FieldType::Text) => json!(format!("{name}-1")),
        (_, FieldType::Integer) => json!(1250),
        (_, FieldType::Number) => json!(12.5),
        (_, FieldType::Time) => json!("2026-01-31T12:00:00Z"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use stream_jobs::sql::{FunctionContext, plan_job};

    #[test]
    fn every_sample_passes_its_own_check_and_every_statement_plans() {
        for event in EVENT_TYPES {
            event.check(&sample(event)).unwrap();
            let job = plan_job("schema", &sql(event), &FunctionContext::default()).unwrap();
            assert_eq!(job.sources[0].schema.fields().len(), event.all_fields().len(), "{}", event.name);
        }
    }

    #[test]
    fn a_name_that_is_nearly_right_is_named() {
        assert_eq!(known("paymnt").unwrap_err().to_string(), "no event type is called `paymnt`, did you mean `payment`?");
    }
}

//! The exact check of one record, for what the scan did not pass: parsed as a whole, unwrapped where it is a CloudEvent, each
//! column held against its type. It ends with the fields as arrow-json takes them, or with one sentence on what is wrong.

use super::scan::{Column, Wants};
use schemas::{clock, event::shown};
use serde_json::{Map, Value, value::RawValue};
use std::collections::BTreeMap;

/// Appends the fields of `payload` that are columns to `out`, as one JSON object.
pub fn rewrite(payload: &[u8], cloud_event: bool, columns: &[Column], extra: &[(usize, &str)], out: &mut Vec<u8>) -> Result<(), String> {
    let value: Value = serde_json::from_slice(payload).map_err(|e| not_json(&e))?;
    let Value::Object(object) = value else {
        return Err(format!("an event is a JSON object, this is {}", shown(&value)));
    };
    let (mut fields, unwrapped) = unwrap_cloud_event(object, cloud_event)?;
    let mut written: Option<BTreeMap<String, &RawValue>> = None;
    for (column, text) in extra {
        let name = &columns[*column].name;
        if fields.get(name).is_none_or(Value::is_null) {
            fields.insert(name.clone(), Value::from(*text));
        }
    }
    let start = out.len();
    out.push(b'{');
    for column in columns {
        match fields.get(&column.name) {
            None | Some(Value::Null) => {}
            Some(value) => {
                separate(out, start);
                out.extend_from_slice(&column.prefix);
                let holds_digits = match column.wants {
                    Wants::Number => value.is_f64(),
                    Wants::Other => !value.is_string(),
                    _ => false,
                };
                // A fraction was read as a float: all of its digits stand in the payload.
                if holds_digits {
                    let digits = written.get_or_insert_with(|| as_written(payload, unwrapped)).get(&column.name);
                    out.extend_from_slice(digits.map_or_else(|| value.to_string(), |digits| digits.get().to_owned()).as_bytes());
                    continue;
                }
                write_value(value, column, out).inspect_err(|_| out.truncate(start))?;
            }
        }
    }
    out.push(b'}');
    Ok(())
}

/// The fields of a payload that has been read before, or of its `data`, letter by letter.
fn as_written(payload: &[u8], unwrapped: bool) -> BTreeMap<String, &RawValue> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(payload).unwrap_or_default();
    if !unwrapped {
        return fields;
    }
    fields.get("data").and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default()
}

/// A comma, unless the object that began at `start` has no field yet.
pub fn separate(out: &mut Vec<u8>, start: usize) {
    if out.len() > start + 1 {
        out.push(b',');
    }
}

/// `value` as JSON.
pub fn write_json(value: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(value.to_string().as_bytes());
}

fn write_value(value: &Value, column: &Column, out: &mut Vec<u8>) -> Result<(), String> {
    let fits = match column.wants {
        Wants::Integer { min, max } => value.as_i64().is_some_and(|v| (min..=max).contains(&v)),
        Wants::Number => value.is_number(),
        Wants::Text => value.is_string(),
        Wants::Bool => value.is_boolean(),
        Wants::Other => true,
        // Written anew, because arrow reads fewer spellings of RFC 3339 than chrono.
        Wants::Time => match value.as_str().and_then(|s| clock::parse_rfc3339(s).ok()) {
            Some(us) => {
                write_json(&Value::from(clock::rfc3339(us)), out);
                return Ok(());
            }
            None => false,
        },
    };
    if !fits {
        return Err(format!("field `{}` is {}, expected {}", column.name, shown(value), column.wants.expected()));
    }
    write_json(value, out);
    Ok(())
}

/// The payload of a CloudEvent in structured mode, with the envelope's `id` and `time` where the payload has none; and whether it was one.
fn unwrap_cloud_event(mut object: Map<String, Value>, announced: bool) -> Result<(Map<String, Value>, bool), String> {
    let recognised = object.contains_key("specversion") && object.contains_key("data");
    if !announced && !recognised {
        return Ok((object, false));
    }
    let mut fields = match object.remove("data") {
        Some(Value::Object(fields)) => fields,
        Some(other) => return Err(format!("field `data` of a CloudEvent is {}, expected an object", shown(&other))),
        None => return Err("field `data` of a CloudEvent is missing".to_owned()),
    };
    for (attribute, field) in [("id", "event_id"), ("time", "event_time")] {
        if fields.get(field).is_none_or(Value::is_null)
            && let Some(value) = object.remove(attribute)
        {
            fields.insert(field.to_owned(), value);
        }
    }
    Ok((fields, true))
}

/// serde_json's finding, with the place in the house's words.
pub fn not_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    match error.line() {
        0 | 1 => format!("not JSON: {what} at column {}", error.column()),
        line => format!("not JSON: {what} at line {line}, column {}", error.column()),
    }
}

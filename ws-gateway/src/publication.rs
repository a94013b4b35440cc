//! A room message as clients see it, encoded once and shared by everyone who gets it.

use schemas::{RoomKind, RoomMessage};
use serde_json::value::RawValue;
use std::sync::Arc;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// One publication: its whole push frame, of which the publication object is a part.
#[derive(Debug)]
pub(crate) struct Publication {
    pub offset: u64,
    pub time_us: i64,
    pub key: Arc<str>,
    pub removed: bool,
    frame: Utf8Bytes,
    body_from: usize,
}

/// What of a publication object is held nowhere else.
#[derive(serde::Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    tags: Option<Tags<'a>>,
}

#[derive(serde::Deserialize)]
struct Tags<'a> {
    appended_us: &'a str,
}

/// Closes `{"push":{...,"pub":{...}` after the publication object.
const FRAME_END: &str = "}}";

impl Publication {
    /// Encodes `message`. The first publication of a room carries the room's epoch, because a client that subscribed
    /// to an empty position takes it from there.
    pub fn encode(message: &RoomMessage, epoch: &str) -> Result<Self, serde_json::Error> {
        let mut frame = String::with_capacity(message.room.len() + message.data.len() + 128);
        frame.push_str("{\"push\":{\"channel\":");
        push_text(&mut frame, &message.room);
        frame.push_str(",\"pub\":");
        let body_from = frame.len();
        frame.push('{');
        if !message.key.is_empty() {
            frame.push_str("\"key\":");
            push_text(&mut frame, &message.key);
            frame.push(',');
        }
        if message.removed {
            frame.push_str("\"removed\":true,");
        } else {
            frame.push_str("\"data\":");
            push_json(&mut frame, &message.data)?;
            frame.push(',');
        }
        frame.push_str(&format!("\"offset\":{},\"time\":{}", message.offset, message.time_us.div_euclid(1_000)));
        if let Some(appended_us) = message.appended_us {
            frame.push_str(&format!(",\"tags\":{{\"appended_us\":\"{appended_us}\"}}"));
        }
        if message.offset == 1 {
            frame.push_str(",\"epoch\":");
            push_text(&mut frame, epoch);
        }
        frame.push('}');
        frame.push_str(FRAME_END);
        Ok(Self {
            offset: message.offset,
            time_us: message.time_us,
            key: message.key.as_str().into(),
            removed: message.removed,
            frame: frame.into(),
            body_from,
        })
    }

    /// The push, ready for the socket.
    pub fn frame(&self) -> &Utf8Bytes {
        &self.frame
    }

    /// The message that was encoded, but for white space in its data.
    pub fn decode(&self, room: &str, tenant: &str, kind: RoomKind) -> Result<RoomMessage, serde_json::Error> {
        let body: Body<'_> = serde_json::from_str(self.body())?;
        Ok(RoomMessage {
            room: room.to_owned(),
            tenant: tenant.to_owned(),
            kind,
            offset: self.offset,
            key: self.key.to_string(),
            removed: self.removed,
            data: body.data.map_or("null", RawValue::get).to_owned(),
            time_us: self.time_us,
            appended_us: body.tags.and_then(|t| t.appended_us.parse().ok()),
        })
    }

    /// The publication object alone, for replies.
    pub fn body(&self) -> &str {
        &self.frame.as_str()[self.body_from..self.frame.len() - FRAME_END.len()]
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn push_text(out: &mut String, text: &str) {
    // `Display` of a JSON value is its compact form and cannot fail on a string.
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// Appends a JSON value as it was written. A line break would end the object for a client, which splits frames at
/// it; in JSON it can only be white space, so a blank says the same.
fn push_json(out: &mut String, json: &str) -> Result<(), serde_json::Error> {
    let raw: &RawValue = serde_json::from_str(json)?;
    match raw.get() {
        text if text.contains(['\n', '\r']) => out.push_str(&text.replace(['\n', '\r'], " ")),
        text => out.push_str(text),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(data: &str) -> RoomMessage {
        RoomMessage {
            room: "risk:a".into(),
            tenant: "a".into(),
            kind: RoomKind::State,
            offset: 1,
            key: "s\"1".into(),
            removed: false,
            data: data.into(),
            time_us: 2_500,
            appended_us: Some(7),
        }
    }

    #[test]
    fn publication_is_one_line_with_everything_a_client_needs() {
        let publication = Publication::encode(&message("{\n\"a\": \"x\\ny\"\n}"), "e1").unwrap();
        assert_eq!(
            publication.frame().as_str(),
            r#"{"push":{"channel":"risk:a","pub":{"key":"s\"1","data":{ "a": "x\ny" },"offset":1,"time":2,"tags":{"appended_us":"7"},"epoch":"e1"}}}"#
        );
        assert_eq!(publication.body(), r#"{"key":"s\"1","data":{ "a": "x\ny" },"offset":1,"time":2,"tags":{"appended_us":"7"},"epoch":"e1"}"#);
    }

    #[test]
    fn publication_gives_its_message_back() {
        for message in [message("{\"a\":[1,\"x\"]}"), RoomMessage { removed: true, appended_us: None, offset: 9, ..message("null") }] {
            let publication = Publication::encode(&message, "e1").unwrap();
            assert_eq!(publication.decode("risk:a", "a", RoomKind::State).unwrap(), message);
        }
    }

    #[test]
    fn data_that_is_not_one_json_value_is_refused() {
        for data in ["", "{", "1 2", "{}}"] {
            assert!(Publication::encode(&message(data), "e1").is_err(), "{data}");
        }
    }
}

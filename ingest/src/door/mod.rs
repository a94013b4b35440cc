//! The HTTP door: `POST /v1/events` and `POST /v1/events/{event}`.
//!
//! A body is one JSON event, an array of them, JSON Lines (`application/x-ndjson`), or CloudEvents in structured mode. `200
//! {"accepted": n}` says that the log has all n, durably. Where one event of a request is wrong, none is appended and the
//! answer names it. A request with events of several types is one commit per type: when the log fails between them the answer
//! is 503, and a sender who repeats the request is protected by its `event_id`s.
//!
//! An event without `event_id` gets one that no other event of this door has: the door's start in microseconds, its
//! process, and a running number. It is no hash of the payload, because two equal events are still two. It is therefore new
//! when a sender repeats the request; one who wants repeats to be found sends ids.

mod events;

use crate::{
    log::{self, ErrorKind, Log, LogError, SOURCE_RECORD_BYTES_MAX},
    observations,
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use events::{Ids, Refusal};
use futures_util::StreamExt;
use schemas::NewRecord;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Seconds after which a sender should try again when the log could not take its events.
const RETRY_AFTER_S: &str = "1";
/// So much of a body that is too large is still read, so that the sender gets to read the answer.
const DRAINED_BODIES_MAX: usize = 8;

#[derive(Clone, Copy, Debug)]
pub struct DoorLimits {
    pub body_bytes_max: usize,
    pub event_bytes_max: usize,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self { body_bytes_max: 16 * 1024 * 1024, event_bytes_max: SOURCE_RECORD_BYTES_MAX }
    }
}

struct Door {
    log: Arc<dyn Log>,
    limits: DoorLimits,
    ids: Ids,
}

/// The routes of the door, to be merged into a server's.
pub fn router(log: Arc<dyn Log>, limits: DoorLimits) -> Router {
    let door = Arc::new(Door { log, limits, ids: Ids::new(now_us()) });
    Router::new()
        .route("/v1/events", post(any_event))
        .route("/v1/events/{event}", post(named_event))
        .route("/v1/events/{event}/close", post(close))
        .with_state(door)
}

async fn any_event(State(door): State<Arc<Door>>, headers: HeaderMap, body: Body) -> Response {
    door.answer(None, &headers, body).await
}

async fn named_event(State(door): State<Arc<Door>>, Path(event): Path<String>, headers: HeaderMap, body: Body) -> Response {
    door.answer(Some(&event), &headers, body).await
}

/// Marks the end of a bounded source in every partition of the event's topic: what `import --close` asks for.
async fn close(State(door): State<Arc<Door>>, Path(event): Path<String>) -> Response {
    match door.close(&event).await {
        Ok(partitions) => Json(json!({"closed": partitions})).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

impl Door {
    async fn close(&self, event: &str) -> Result<u32, Refusal> {
        let unknown = || Refusal::new(StatusCode::NOT_FOUND, "unknown_event", format!("there is no event `{event}`"));
        let topic = schemas::event::event_type(event).ok_or_else(unknown)?.topic;
        let partitions = self.log.topics().await?.into_iter().find(|t| t.name == topic).map_or(0, |t| t.partitions);
        log::end_source(self.log.as_ref(), topic, partitions).await?;
        Ok(partitions)
    }

    async fn answer(&self, event: Option<&str>, headers: &HeaderMap, body: Body) -> Response {
        let (response, accepted) = match self.take(event, headers, body).await {
            Ok(accepted) => (Json(json!({"accepted": accepted})).into_response(), accepted),
            Err(refusal) => (refusal.into_response(), 0),
        };
        observations::door_answered(response.status().as_u16(), accepted as u64);
        response
    }

    async fn take(&self, event: Option<&str>, headers: &HeaderMap, body: Body) -> Result<usize, Refusal> {
        let body = self.read_body(body).await?;
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
        let accepted = events::read(&body, content_type, event, &self.limits, now_us(), &self.ids)?;
        let count = accepted.len();
        let mut topics: BTreeMap<&'static str, Vec<NewRecord>> = BTreeMap::new();
        for (topic, record) in accepted {
            topics.entry(topic).or_default().push(record);
        }
        // A topic that does not exist must be found before anything is appended.
        for topic in topics.keys() {
            self.log.end(topic, 0).await?;
        }
        for (topic, records) in topics {
            self.log.append_keyed(topic, records).await?;
        }
        Ok(count)
    }

    async fn read_body(&self, body: Body) -> Result<Vec<u8>, Refusal> {
        let limit = self.limits.body_bytes_max;
        let mut stream = body.into_data_stream();
        let (mut bytes, mut seen) = (Vec::new(), 0);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, "unreadable_body", format!("body cannot be read: {e}")))?;
            seen += chunk.len();
            if seen <= limit {
                bytes.extend_from_slice(&chunk);
            } else if seen > limit.saturating_mul(DRAINED_BODIES_MAX) {
                break;
            } else {
                bytes = Vec::new();
            }
        }
        if seen > limit {
            let message = format!("body has more than {limit} bytes, the limit of a request");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
        }
        Ok(bytes)
    }
}

impl From<LogError> for Refusal {
    fn from(error: LogError) -> Self {
        let (status, code) = match (&error, error.kind()) {
            (LogError::UnknownTopic { .. }, _) => (StatusCode::NOT_FOUND, "unknown_topic"),
            (LogError::RecordTooLarge { .. }, _) => (StatusCode::PAYLOAD_TOO_LARGE, "event_too_large"),
            (_, ErrorKind::Reject) => (StatusCode::BAD_REQUEST, "rejected"),
            (_, ErrorKind::Retry | ErrorKind::Stop) => (StatusCode::SERVICE_UNAVAILABLE, "log_unavailable"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({"error": {"code": self.code, "message": self.message, "index": self.index}}));
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => (self.status, [(header::RETRY_AFTER, RETRY_AFTER_S)], body).into_response(),
            status => (status, body).into_response(),
        }
    }
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

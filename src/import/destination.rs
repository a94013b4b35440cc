//! Where imported events go: straight into a log, or to the HTTP door of a running engine.

use super::payload::Converted;
use ingest::log::{Log, LogError, TopicSpec, end_source};
use schemas::{NewRecord, event::EventType};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How long a batch is sent again to an engine that is away.
const RETRY_FOR: Duration = Duration::from_secs(600);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Of an answer that refuses, as much is shown.
const ANSWER_BYTES_SHOWN: u64 = 500;

pub enum Destination {
    Log(LogTopic),
    Http(Door),
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("`{url}` answered {status}: {body}")]
    Refused { url: String, status: u16, body: String },
    #[error("`{url}` is away for {} s: {last}", RETRY_FOR.as_secs())]
    Away { url: String, last: String },
    #[error("stopped")]
    Stopped,
}

impl Destination {
    /// Appends rows in order. What was refused is not in the log; after [`AppendError::Stopped`] and [`AppendError::Away`] it may be.
    pub async fn append(&self, rows: Vec<Converted>, stop: &CancellationToken) -> Result<(), AppendError> {
        match self {
            Self::Log(topic) => topic.append(rows).await,
            Self::Http(door) => door.append(rows, stop).await,
        }
    }

    /// Marks the end of the source in every partition.
    pub async fn close(&self) -> Result<(), AppendError> {
        match self {
            Self::Log(topic) => topic.close().await,
            Self::Http(door) => door.close().await,
        }
    }
}

/// A topic of a log in this process.
pub struct LogTopic {
    log: Arc<dyn Log>,
    topic: TopicSpec,
}

impl LogTopic {
    /// The event's topic, created with `partitions` where the log has none. With `None` an existing topic has as many as it has, a
    /// new one `partitions_default`.
    pub async fn open(log: Arc<dyn Log>, event: &EventType, partitions: Option<u32>, partitions_default: u32) -> Result<Self, LogError> {
        let existing = log.topics().await?.into_iter().find(|t| t.name == event.topic);
        let partitions = partitions.or(existing.map(|t| t.partitions)).unwrap_or(partitions_default);
        let topic = TopicSpec { name: event.topic.to_owned(), partitions, compacted: event.compacted };
        log.create_topic(&topic).await?;
        Ok(Self { log, topic })
    }

    async fn append(&self, rows: Vec<Converted>) -> Result<(), AppendError> {
        let records = rows.into_iter().map(|r| NewRecord::new(r.key.into_bytes(), r.payload)).collect();
        Ok(self.log.append_keyed(&self.topic.name, records).await?)
    }

    async fn close(&self) -> Result<(), AppendError> {
        Ok(end_source(self.log.as_ref(), &self.topic.name, self.topic.partitions).await?)
    }
}

/// `POST /v1/events/{event}` of a running engine, as JSON Lines.
pub struct Door {
    agent: ureq::Agent,
    url: String,
    authorization: Option<String>,
}

impl Door {
    pub fn new(address: &str, event: &EventType, token: Option<&str>) -> Self {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(REQUEST_TIMEOUT)).build().into();
        Self { agent, url: format!("{address}/v1/events/{}", event.name), authorization: token.map(|t| format!("Bearer {t}")) }
    }

    /// Sends until the engine says that the log has it. An engine that is away, is starting or is full is asked again.
    async fn append(&self, rows: Vec<Converted>, stop: &CancellationToken) -> Result<(), AppendError> {
        let mut body = Vec::new();
        for row in &rows {
            // A payload is one JSON value, but its sender may have broken it into lines; a line of ours is one event.
            body.extend(row.payload.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }));
            body.push(b'\n');
        }
        let body = bytes::Bytes::from(body);
        let (started, mut backoff) = (Instant::now(), BACKOFF_FIRST);
        loop {
            let last = match self.post(&self.url, body.clone()).await {
                Ok(answer) if answer.accepted() => return Ok(()),
                Ok(answer) if !answer.retry() => return Err(AppendError::Refused { url: self.url.clone(), status: answer.status, body: answer.body }),
                Ok(answer) => format!("answered {}: {}", answer.status, answer.body),
                Err(e) => e,
            };
            if started.elapsed() > RETRY_FOR {
                return Err(AppendError::Away { url: self.url.clone(), last });
            }
            tracing::warn!(url = self.url, reason = last, "engine is away, will send the batch again");
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(AppendError::Stopped),
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
            }
        }
    }

    async fn close(&self) -> Result<(), AppendError> {
        let url = format!("{}/close", self.url);
        match self.post(&url, bytes::Bytes::new()).await {
            Ok(answer) if answer.accepted() => Ok(()),
            Ok(answer) => Err(AppendError::Refused { url, status: answer.status, body: answer.body }),
            Err(last) => Err(AppendError::Away { url, last }),
        }
    }

    /// The answer, or why there is none.
    async fn post(&self, url: &str, body: bytes::Bytes) -> Result<Answer, String> {
        let mut request = self.agent.post(url).header("content-type", "application/x-ndjson");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let sent = tokio::task::spawn_blocking(move || {
            let mut response = request.send(&body[..]).map_err(|e| e.to_string())?;
            let body = response.body_mut().with_config().limit(ANSWER_BYTES_SHOWN).lossy_utf8(true).read_to_string().unwrap_or_default();
            Ok(Answer { status: response.status().as_u16(), body: body.trim().to_owned() })
        });
        sent.await.map_err(|e| e.to_string())?
    }
}

struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn accepted(&self) -> bool {
        (200..300).contains(&self.status)
    }

    fn retry(&self) -> bool {
        matches!(self.status, 408 | 429 | 502 | 503 | 504)
    }
}

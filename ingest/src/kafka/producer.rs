//! A producer: idempotent, in order within a partition. A process has one for epochs and one for events.
//!
//! An append goes into the producer's queue as a whole before the next one does, so its records stand side by side unless another
//! process writes to the same partition; then the append is an error, and whoever sent it reads what stands there. A producer
//! that librdkafka gives up for good is replaced.

use super::fault;
use crate::log::{Appended, LogError, SOURCE_RECORD_BYTES_MAX, payload_bytes};
use rdkafka::{
    ClientConfig, ClientContext, Message, Statistics,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use schemas::NewRecord;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long a full queue is given before it is tried again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(2);

/// An outage is said so often while it lasts; librdkafka says it with every attempt to connect.
const SAID_EVERY_MS: i64 = 10_000;

#[derive(Default)]
pub(super) struct Context {
    said_ms: AtomicI64,
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::note(facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        metrics::gauge!("headend_kafka_producer_waiting_records", "client" => statistics.client_id.clone()).set(statistics.msg_cnt as f64);
        metrics::gauge!("headend_kafka_producer_waiting_bytes", "client" => statistics.client_id.clone()).set(statistics.msg_size as f64);
        for broker in statistics.brokers.values().filter(|b| b.nodeid >= 0) {
            if let Some(rtt) = &broker.rtt {
                metrics::gauge!("headend_kafka_round_trip_seconds", "broker" => broker.nodeid.to_string(), "quantile" => "0.99").set(rtt.p99 as f64 / 1e6);
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        metrics::counter!("headend_kafka_errors_total", "client" => "producer").increment(1);
        let now_ms = chrono::Utc::now().timestamp_millis();
        if now_ms - self.said_ms.load(Ordering::Relaxed) >= SAID_EVERY_MS {
            self.said_ms.store(now_ms, Ordering::Relaxed);
            tracing::warn!(%error, reason, "Kafka producer");
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Arc<Flight>;

    fn delivery(&self, result: &DeliveryResult<'_>, flight: Arc<Flight>) {
        match result {
            // Answered as a repeat of something that the broker does not remember: nobody knows that it stands in the log.
            Ok(message) if message.offset() < 0 => flight.failed(RDKafkaErrorCode::DuplicateSequenceNumber),
            Ok(message) => flight.landed(message.offset(), message.timestamp().to_millis().unwrap_or(-1)),
            Err((error, _)) => flight.failed(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        }
    }
}

/// An append on its way.
pub(super) struct Flight {
    state: Mutex<State>,
}

struct State {
    left: usize,
    first: i64,
    last: i64,
    append_ms: i64,
    error: Option<RDKafkaErrorCode>,
    done: Option<oneshot::Sender<Result<Landed, RDKafkaErrorCode>>>,
}

struct Landed {
    first: i64,
    last: i64,
    append_ms: i64,
}

impl Flight {
    fn new(records: usize) -> (Arc<Self>, oneshot::Receiver<Result<Landed, RDKafkaErrorCode>>) {
        let (done, landed) = oneshot::channel();
        let state = State { left: records, first: i64::MAX, last: i64::MIN, append_ms: 0, error: None, done: Some(done) };
        (Arc::new(Self { state: Mutex::new(state) }), landed)
    }

    fn landed(&self, offset: i64, append_ms: i64) {
        self.one(|state| {
            if offset < state.first {
                (state.first, state.append_ms) = (offset, append_ms);
            }
            state.last = state.last.max(offset);
        });
    }

    fn failed(&self, error: RDKafkaErrorCode) {
        self.one(|state| state.error = state.error.or(Some(error)));
    }

    fn one(&self, note: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        note(&mut state);
        state.left -= 1;
        if state.left == 0
            && let Some(done) = state.done.take()
        {
            let landed = Landed { first: state.first, last: state.last, append_ms: state.append_ms };
            // Whoever gave up waiting does not need the answer; the records stand all the same.
            let _ = done.send(state.error.map_or(Ok(landed), Err));
        }
    }
}

type Client = ThreadedProducer<Context>;

/// A broker forgets a producer that it has not heard of for a day. Long before that the producer counts as one that it does not know.
const KNOWN_FOR: Duration = Duration::from_secs(600);

pub(super) struct Producer {
    config: ClientConfig,
    client: RwLock<Arc<Client>>,
    turns: Mutex<HashMap<(String, u32), Arc<Turn>>>,
}

/// Held while an append to one partition goes into the queue. Inside: when the partition's broker last took something from this client.
///
/// A broker that knows nothing of a producer takes whatever number its first batch has. Were two batches on their way and the first
/// refused for a moment, as happens while a topic is new or a leader moves, the second would be taken, and the first, sent again, would be
/// answered as a repeat: acknowledged, and nowhere. So the first record goes alone, until the broker has answered.
type Turn = tokio::sync::Mutex<Option<Instant>>;

impl Producer {
    pub fn new(config: ClientConfig) -> Result<Self, LogError> {
        let client = RwLock::new(Arc::new(client(&config)?));
        Ok(Self { config, client, turns: Mutex::default() })
    }

    pub fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// `records` is not empty.
    pub async fn append(&self, topic: &str, partition: u32, mut records: Vec<NewRecord>) -> Result<Appended, LogError> {
        let n = records.len();
        let largest = records.iter().map(payload_bytes).max().unwrap_or_default();
        let failed = |error| refused(topic, partition, largest, error);
        let client = self.usable()?;
        let turn = self.turn(topic, partition);
        let mut known_at = turn.lock().await;
        let mut first = None;
        if known_at.is_none_or(|at| at.elapsed() > KNOWN_FOR) {
            let rest = records.split_off(1);
            let alone = send(&client, topic, partition, std::mem::replace(&mut records, rest)).await.map_err(failed)?;
            first = Some(alone.await.map_err(|_| LogError::Closed)?.map_err(failed)?);
        }
        *known_at = Some(Instant::now());
        let rest = if records.is_empty() { None } else { Some(send(&client, topic, partition, records).await.map_err(failed)?) };
        drop(known_at);
        let rest = match rest {
            Some(landed) => Some(landed.await.map_err(|_| LogError::Closed)?.map_err(failed)?),
            None => None,
        };
        let (Some(start), Some(end)) = (first.as_ref().or(rest.as_ref()), rest.as_ref().or(first.as_ref())) else { return Err(LogError::Closed) };
        if end.last - start.first + 1 == n as i64 {
            return Ok(Appended { base_offset: start.first as u64, append_us: start.append_ms.saturating_mul(1_000) });
        }
        Err(LogError::Interleaved { topic: topic.to_owned(), partition, from: start.first as u64, to: end.last as u64 + 1 })
    }

    fn turn(&self, topic: &str, partition: u32) -> Arc<Turn> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry((topic.to_owned(), partition)).or_default())
    }

    /// The producer, a new one when the old one is beyond repair.
    fn usable(&self) -> Result<Arc<Client>, LogError> {
        let held = self.client();
        let Some((error, reason)) = held.client().fatal_error() else { return Ok(held) };
        let mut place = self.client.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&held, &place) {
            metrics::counter!("headend_kafka_producers_replaced_total").increment(1);
            tracing::error!(%error, reason, "Kafka gave the producer up, starting another");
            *place = Arc::new(client(&self.config)?);
            self.turns.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        Ok(Arc::clone(&place))
    }
}

fn refused(topic: &str, partition: u32, largest: usize, error: RDKafkaErrorCode) -> LogError {
    match error {
        RDKafkaErrorCode::MessageSizeTooLarge => LogError::RecordTooLarge { topic: topic.to_owned(), bytes: largest, limit: SOURCE_RECORD_BYTES_MAX },
        RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition => LogError::UnknownTopic { topic: topic.to_owned() },
        error => LogError::Unavailable { what: format!("append to `{topic}/{partition}`"), reason: error.to_string() },
    }
}

fn client(config: &ClientConfig) -> Result<Client, LogError> {
    config.create_with_context(Context::default()).map_err(|e| fault("producer", e))
}

/// Puts records into the queue, in order; what is given back tells when all of them have landed.
async fn send(
    client: &Client,
    topic: &str,
    partition: u32,
    records: Vec<NewRecord>,
) -> Result<oneshot::Receiver<Result<Landed, RDKafkaErrorCode>>, RDKafkaErrorCode> {
    let n = records.len();
    let (flight, landed) = Flight::new(n);
    for (index, record) in records.into_iter().enumerate() {
        if let Err(error) = enqueue(client, topic, partition, &record, &flight).await {
            if index == 0 {
                return Err(error);
            }
            // What went before is on its way; the append as a whole has failed.
            (index..n).for_each(|_| flight.failed(error));
            break;
        }
    }
    Ok(landed)
}

async fn enqueue(client: &Client, topic: &str, partition: u32, record: &NewRecord, flight: &Arc<Flight>) -> Result<(), RDKafkaErrorCode> {
    loop {
        let mut next: BaseRecord<'_, [u8], [u8], Arc<Flight>> = BaseRecord::with_opaque_to(topic, Arc::clone(flight)).partition(partition as i32);
        if let Some(key) = &record.key {
            next = next.key(&key[..]);
        }
        if let Some(value) = &record.value {
            next = next.payload(&value[..]);
        }
        if !record.headers.is_empty() {
            let headers = record
                .headers
                .iter()
                .fold(OwnedHeaders::new_with_capacity(record.headers.len()), |all, (name, value)| all.insert(Header { key: name, value: Some(&value[..]) }));
            next = next.headers(headers);
        }
        // The record comes back with the error, and with it the count of the flight; neither is needed.
        let sent = client.send(next).map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail));
        match sent {
            Ok(()) => return Ok(()),
            Err(RDKafkaErrorCode::QueueFull) => tokio::time::sleep(QUEUE_FULL_WAIT).await,
            Err(error) => return Err(error),
        }
    }
}

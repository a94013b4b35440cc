//! The sink's producer: a batch goes out as a whole and is waited for.

use super::KafkaSinkConfig;
use crate::SinkError;
use rdkafka::{
    ClientConfig, ClientContext, Message,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// A broker forgets a producer that it has not heard of for a day. Long before that the producer counts as one that it does not know.
const KNOWN_FOR: Duration = Duration::from_secs(600);
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a full queue is given before it is tried again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(2);

/// A record on its way.
pub(super) struct Outgoing {
    pub partition: u32,
    pub key: Option<String>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, String)>,
}

struct Context;

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka sink");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Arc<Batch>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Arc<Batch>) {
        let error = match result {
            Err((error, _)) => Some(error.clone()),
            // Answered as a repeat of something that the broker does not remember: nobody knows that it stands in the topic.
            Ok(message) if message.offset() < 0 => Some(KafkaError::MessageProduction(RDKafkaErrorCode::DuplicateSequenceNumber)),
            Ok(_) => None,
        };
        batch.one(error);
    }
}

/// What of a batch is still on its way.
struct Batch {
    state: Mutex<State>,
}

struct State {
    left: usize,
    error: Option<KafkaError>,
    done: Option<oneshot::Sender<Result<(), KafkaError>>>,
}

impl Batch {
    fn one(&self, error: Option<KafkaError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.left -= 1;
        state.error = state.error.take().or(error);
        if state.left == 0
            && let Some(done) = state.done.take()
        {
            let _ = done.send(state.error.take().map_or(Ok(()), Err));
        }
    }
}

pub(super) struct Producer {
    client: ThreadedProducer<Context>,
    sink: String,
    brokers: String,
    topic: String,
    partitions: u32,
    /// When each partition's broker last took something from this producer.
    known_at: BTreeMap<u32, Instant>,
}

impl Producer {
    /// Connects and creates the topic where it is not there.
    pub async fn connect(config: &KafkaSinkConfig) -> Result<Self, SinkError> {
        let failed = |action: &str, reason: String| SinkError::Kafka { action: action.to_owned(), brokers: config.brokers.clone(), reason };
        let mut settings = ClientConfig::new();
        settings
            .set("bootstrap.servers", &config.brokers)
            .set("client.id", format!("headend-sink-{}", config.name))
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            .set("delivery.timeout.ms", "30000")
            .set("reconnect.backoff.max.ms", "1000")
            .set("allow.auto.create.topics", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        let client: ThreadedProducer<Context> = settings.create_with_context(Context).map_err(|e| failed("use", e.to_string()))?;
        let admin: AdminClient<Context> = settings.create_with_context(Context).map_err(|e| failed("use", e.to_string()))?;
        let topic = NewTopic::new(&config.topic, config.partitions as i32, TopicReplication::Fixed(-1))
            .set("cleanup.policy", if config.key.is_some() { "compact" } else { "delete" });
        let created = admin.create_topics([&topic], &AdminOptions::new().request_timeout(Some(TIMEOUT))).await;
        match created.map_err(|e| failed("reach", e.to_string()))?.into_iter().next() {
            Some(Err((_, error))) if error != RDKafkaErrorCode::TopicAlreadyExists => return Err(failed("create a topic in", error.to_string())),
            _ => {}
        }
        let name = config.topic.clone();
        // A call that waits for the network: on a thread of its own.
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = admin.inner().fetch_metadata(Some(&name), TIMEOUT);
            metadata.map(|m| m.topics().iter().find(|t| t.name() == name && t.error().is_none()).map_or(0, |t| t.partitions().len() as u32))
        });
        let partitions = match asked.await.map_err(|e| failed("use", e.to_string()))?.map_err(|e| failed("reach", e.to_string()))? {
            0 => return Err(failed("find a topic in", format!("`{}` is not there yet", config.topic))),
            n => n,
        };
        Ok(Self { client, sink: config.name.clone(), brokers: config.brokers.clone(), topic: config.topic.clone(), partitions, known_at: BTreeMap::new() })
    }

    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// All of them are on the brokers when it returns. After an error some may be.
    ///
    /// The first record of a partition goes before the others: a broker that knows nothing of a producer takes whatever number its first
    /// batch has, and of two on their way the first could be refused for a moment, sent again, and answered as a repeat.
    pub async fn send(&mut self, records: Vec<Outgoing>) -> Result<(), SinkError> {
        let now = Instant::now();
        let mut known: BTreeMap<u32, Instant> = self.known_at.iter().filter(|(_, at)| at.elapsed() < KNOWN_FOR).map(|(p, at)| (*p, *at)).collect();
        let (first, rest): (Vec<Outgoing>, Vec<Outgoing>) = records.into_iter().partition(|r| known.insert(r.partition, now).is_none());
        self.send_batch(first).await?;
        self.known_at = known;
        self.send_batch(rest).await
    }

    async fn send_batch(&self, records: Vec<Outgoing>) -> Result<(), SinkError> {
        if records.is_empty() {
            return Ok(());
        }
        let (done, sent) = oneshot::channel();
        let n = records.len();
        let batch = Arc::new(Batch { state: Mutex::new(State { left: n, error: None, done: Some(done) }) });
        for (index, record) in records.iter().enumerate() {
            if let Err(error) = self.enqueue(record, &batch).await {
                // Counted as failed, so that the others are waited for before anything is sent again.
                (index..n).for_each(|_| batch.one(Some(error.clone())));
                break;
            }
        }
        sent.await.map_err(|e| SinkError::Worker { sink: self.sink.clone(), reason: e.to_string() })?.map_err(|e| self.error(e))
    }

    async fn enqueue(&self, record: &Outgoing, batch: &Arc<Batch>) -> Result<(), KafkaError> {
        loop {
            let headers = record
                .headers
                .iter()
                .fold(OwnedHeaders::new_with_capacity(record.headers.len()), |all, (name, value)| all.insert(Header { key: name, value: Some(value) }));
            let mut next: BaseRecord<'_, str, [u8], Arc<Batch>> =
                BaseRecord::with_opaque_to(&self.topic, Arc::clone(batch)).partition(record.partition as i32).headers(headers);
            if let Some(key) = &record.key {
                next = next.key(key.as_str());
            }
            if let Some(value) = &record.value {
                next = next.payload(&value[..]);
            }
            match self.client.send(next).map_err(|(error, _)| error) {
                Ok(()) => return Ok(()),
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => tokio::time::sleep(QUEUE_FULL_WAIT).await,
                Err(error) => return Err(error),
            }
        }
    }

    fn error(&self, error: KafkaError) -> SinkError {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidRecord) => {
                SinkError::KafkaRow { sink: self.sink.clone(), topic: self.topic.clone(), reason: error.to_string() }
            }
            _ => SinkError::Kafka { action: format!("write `{}` to", self.topic), brokers: self.brokers.clone(), reason: error.to_string() },
        }
    }
}

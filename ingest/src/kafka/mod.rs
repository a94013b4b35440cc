//! The log on Apache Kafka: many processes, one truth.
//!
//! An append returns when all replicas in sync have it. Records stand where murmur2 of their key says, as Kafka's own clients place
//! them; append times are the broker's (`LogAppendTime`), in whole milliseconds. What cannot be reached is an error of kind
//! [`crate::ErrorKind::Retry`] and goes on by itself; an append whose outcome is unknown may stand in the log.
//!
//! An append of many records is not all or none here: they go side by side, but a failure in the middle leaves the first of them.

mod batch;
mod config;
mod group;
mod producer;
mod reader;

use config::OVERHEAD_BYTES;
pub use config::{KafkaConfig, parse_properties};

use crate::log::{Appended, Log, LogError, LogReader, Misfit, Ownership, SOURCE_RECORD_BYTES_MAX, TopicSpec, by_partition, check_sizes};
use async_trait::async_trait;
use futures_util::future::join_all;
use producer::Producer;
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::{Client, ClientContext},
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::Producer as _,
};
use schemas::NewRecord;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

/// Topics of epochs keep their records until Headend deletes them.
const EPOCH_TOPICS: &str = "epochs.";
const REPLICAS: usize = 3;

pub struct KafkaLog {
    config: KafkaConfig,
    /// Of single appends, an epoch's among them: sent at once.
    producer: Arc<Producer>,
    /// Of keyed ones, which are events.
    events: Producer,
    admin: AdminClient<Admin>,
    /// Partitions by topic, as far as they were asked for.
    topics: RwLock<HashMap<String, u32>>,
}

impl KafkaLog {
    /// Connects; a broker that does not answer within [`KafkaConfig::timeout`] is an error with its address.
    pub async fn open(config: KafkaConfig) -> Result<Arc<Self>, LogError> {
        let producer = Arc::new(Producer::new(config.producer())?);
        let events = Producer::new(config.events_producer())?;
        let admin = config.producer().create_with_context(Admin).map_err(|e| fault("admin client", e))?;
        let log = Arc::new(Self { producer, events, admin, topics: RwLock::default(), config });
        log.topics().await?;
        Ok(log)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Client<producer::Context>, Duration) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let (client, timeout) = (self.producer.client(), self.config.timeout);
        tokio::task::spawn_blocking(move || work(client.client(), timeout)).await.map_err(|_| LogError::Closed)?
    }

    fn known(&self, topic: &str) -> Option<u32> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(topic).copied()
    }

    fn learn(&self, topic: &str, partitions: u32) {
        self.topics.write().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned(), partitions);
    }

    async fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        if let Some(known) = self.known(topic) {
            return Ok(known);
        }
        let name = topic.to_owned();
        let found = self.blocking(move |client, timeout| partitions_of(client, &name, timeout)).await?;
        self.learn(topic, found);
        Ok(found)
    }

    async fn check(&self, topic: &str, partition: u32) -> Result<(), LogError> {
        check_partition(topic, partition, self.partitions(topic).await?)
    }

    /// Start and end of a partition.
    async fn range(&self, topic: &str, partition: u32) -> Result<(u64, u64), LogError> {
        self.check(topic, partition).await?;
        let name = topic.to_owned();
        self.blocking(move |client, timeout| range(client, &name, partition, timeout)).await
    }

    /// Waits until every partition of a new topic has a leader.
    async fn settled(&self, topic: &str) -> Result<(), LogError> {
        let give_up = Instant::now() + self.config.timeout;
        loop {
            let name = topic.to_owned();
            match self.blocking(move |client, timeout| partitions_of(client, &name, timeout)).await {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() > give_up => return Err(e),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn replication(&self) -> Result<i32, LogError> {
        if let Some(given) = self.config.replication {
            return Ok(i32::from(given));
        }
        let brokers = self.blocking(|client, timeout| Ok(client.fetch_metadata(None, timeout).map_err(no_answer)?.brokers().len())).await?;
        Ok(if brokers >= REPLICAS { REPLICAS as i32 } else { 1 })
    }
}

#[async_trait]
impl Log for KafkaLog {
    async fn create_topic(&self, spec: &TopicSpec) -> Result<bool, LogError> {
        spec.check()?;
        let replication = self.replication().await?;
        let max_bytes = (SOURCE_RECORD_BYTES_MAX + OVERHEAD_BYTES).to_string();
        let topic = NewTopic::new(&spec.name, spec.partitions as i32, TopicReplication::Fixed(replication)).set("max.message.bytes", &max_bytes);
        let topic = settings(spec, replication).into_iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        let done = self.admin.create_topics([&topic], &self.options()).await.map_err(|e| fault("topic", e))?;
        match done.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
                // Another process may be making it at this moment.
                self.settled(&spec.name).await?;
                spec.refuse(self.misfits(spec).await?)?;
                Ok(false)
            }
            Some(Err((_, error))) => Err(LogError::Unavailable { what: format!("create topic `{}`", spec.name), reason: error.to_string() }),
            _ => {
                self.settled(&spec.name).await?;
                self.learn(&spec.name, spec.partitions);
                Ok(true)
            }
        }
    }

    async fn misfits(&self, spec: &TopicSpec) -> Result<Vec<Misfit>, LogError> {
        let name = spec.name.clone();
        let (partitions, replicas) = self.blocking(move |client, timeout| shape_of(client, &name, timeout)).await?;
        self.learn(&spec.name, partitions);
        let configs = self.admin.describe_configs([&ResourceSpecifier::Topic(&spec.name)], &self.options()).await.map_err(|e| fault("topic", e))?;
        let unanswered = |reason: String| LogError::Unavailable { what: format!("read the settings of topic `{}`", spec.name), reason };
        let config = match configs.first() {
            Some(config) => config.as_ref().map_err(|e| unanswered(e.to_string()))?,
            None => return Err(unanswered("no answer".to_owned())),
        };
        let found = |name: &str| config.get(name).and_then(|c| c.value.clone()).unwrap_or_default();
        let other = settings(spec, replicas).into_iter().filter_map(|(setting, wanted)| {
            let existing = found(setting);
            (existing != wanted).then(|| Misfit { setting, existing, wanted: wanted.to_owned() })
        });
        Ok(spec.partitions_misfit(partitions).into_iter().chain(other).collect())
    }

    async fn partition_count(&self, topic: &str) -> Result<u32, LogError> {
        let name = topic.to_owned();
        self.blocking(move |client, timeout| partitions_of(client, &name, timeout)).await
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>, LogError> {
        let found: BTreeMap<String, u32> = self
            .blocking(|client, timeout| {
                let metadata = client.fetch_metadata(None, timeout).map_err(no_answer)?;
                Ok(metadata.topics().iter().filter(|t| t.error().is_none()).map(|t| (t.name().to_owned(), t.partitions().len() as u32)).collect())
            })
            .await?;
        let names: Vec<ResourceSpecifier<'_>> = found.keys().map(|name| ResourceSpecifier::Topic(name)).collect();
        let configs = if names.is_empty() { Vec::new() } else { self.admin.describe_configs(&names, &self.options()).await.map_err(|e| fault("topics", e))? };
        let compacted = configs.iter().map(|c| c.as_ref().ok().and_then(|c| c.get("cleanup.policy")?.value.clone()).is_some_and(|v| v.contains("compact")));
        Ok(found
            .iter()
            .zip(compacted.chain(std::iter::repeat(false)))
            .map(|((name, n), compacted)| TopicSpec { name: name.clone(), partitions: *n, compacted })
            .collect())
    }

    async fn append(&self, topic: &str, partition: u32, records: Vec<NewRecord>) -> Result<Appended, LogError> {
        self.check(topic, partition).await?;
        check_sizes(topic, &records)?;
        if records.is_empty() {
            return Ok(Appended { base_offset: self.end(topic, partition).await?, append_us: 0 });
        }
        self.producer.append(topic, partition, records).await
    }

    async fn append_keyed(&self, topic: &str, records: Vec<NewRecord>) -> Result<(), LogError> {
        let partitions = self.partitions(topic).await?;
        check_sizes(topic, &records)?;
        let parts = by_partition(topic, partitions, records)?;
        // All of them are tried, so that an error of one does not decide about the others.
        let sent = parts.into_iter().map(|(partition, records)| self.events.append(topic, partition, records));
        join_all(sent).await.into_iter().try_for_each(|appended| match appended {
            // Other writers are usual in a source's topic, and nobody asked where the records stand.
            Ok(_) | Err(LogError::Interleaved { .. }) => Ok(()),
            Err(e) => Err(e),
        })
    }

    async fn start(&self, topic: &str, partition: u32) -> Result<u64, LogError> {
        Ok(self.range(topic, partition).await?.0)
    }

    async fn end(&self, topic: &str, partition: u32) -> Result<u64, LogError> {
        Ok(self.range(topic, partition).await?.1)
    }

    fn reader(&self, topic: &str, partition: u32, from: u64) -> Result<Box<dyn LogReader>, LogError> {
        let partitions = match self.known(topic) {
            Some(known) => known,
            None => partitions_of(self.producer.client().client(), topic, self.config.timeout)?,
        };
        check_partition(topic, partition, partitions)?;
        self.learn(topic, partitions);
        Ok(Box::new(reader::KafkaReader::new(&self.config, Arc::clone(&self.producer), topic, partition, from)?))
    }

    async fn delete_before(&self, topic: &str, partition: u32, offset: u64) -> Result<(), LogError> {
        let (start, end) = self.range(topic, partition).await?;
        if offset <= start {
            return Ok(());
        }
        if offset > end {
            return Err(LogError::OffsetOutOfRange { topic: topic.to_owned(), partition, offset, start, end });
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition as i32, Offset::Offset(offset as i64)).map_err(|e| fault("delete", e))?;
        let done = self.admin.delete_records(&list, &self.options()).await.map_err(|e| fault("delete", e))?;
        done.elements().iter().try_for_each(|e| e.error()).map_err(|e| fault("delete", e))
    }

    async fn ownership(&self, topic: &str) -> Result<Arc<dyn Ownership>, LogError> {
        self.partitions(topic).await?;
        Ok(Arc::new(group::Member::join(&self.config.member(topic), topic)?))
    }

    /// Waits for what is on its way. Readers and members end with whoever holds them.
    async fn close(&self) {
        let (clients, timeout) = ([self.producer.client(), self.events.client()], self.config.timeout);
        let _ = tokio::task::spawn_blocking(move || clients.iter().try_for_each(|client| client.flush(timeout))).await;
    }
}

impl KafkaLog {
    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.config.timeout)).operation_timeout(Some(self.config.timeout))
    }
}

struct Admin;

impl ClientContext for Admin {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        note(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka admin client");
    }
}

/// librdkafka says of every attempt to connect that it failed, each client for itself. The producer says it once for all.
fn note(facility: &str, message: &str) {
    tracing::debug!(target: "librdkafka", facility, message);
}

fn check_partition(topic: &str, partition: u32, partitions: u32) -> Result<(), LogError> {
    if partition < partitions { Ok(()) } else { Err(LogError::UnknownPartition { topic: topic.to_owned(), partition, partitions }) }
}

/// The settings that a topic must have.
fn settings(spec: &TopicSpec, replicas: i32) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![("message.timestamp.type", "LogAppendTime"), ("cleanup.policy", if spec.compacted { "compact" } else { "delete" })];
    if spec.name.starts_with(EPOCH_TOPICS) {
        settings.extend([("retention.ms", "-1"), ("retention.bytes", "-1")]);
    }
    if replicas >= REPLICAS as i32 {
        settings.push(("min.insync.replicas", "2"));
    }
    settings
}

fn partitions_of<C: ClientContext>(client: &Client<C>, topic: &str, timeout: Duration) -> Result<u32, LogError> {
    Ok(shape_of(client, topic, timeout)?.0)
}

/// Partitions of a topic, which all have a leader, and replicas of the first.
fn shape_of<C: ClientContext>(client: &Client<C>, topic: &str, timeout: Duration) -> Result<(u32, i32), LogError> {
    let metadata = client.fetch_metadata(Some(topic), timeout).map_err(no_answer)?;
    let unknown = || LogError::UnknownTopic { topic: topic.to_owned() };
    let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none()).ok_or_else(unknown)?;
    if found.partitions().is_empty() {
        return Err(unknown());
    }
    match found.partitions().iter().find(|p| p.leader() < 0) {
        Some(p) => Err(LogError::Unavailable { what: format!("use `{topic}/{}`", p.id()), reason: "it has no leader".to_owned() }),
        None => Ok((found.partitions().len() as u32, found.partitions()[0].replicas().len() as i32)),
    }
}

/// A leader that has just changed is asked for again so long.
const LEADER_WAIT: Duration = Duration::from_secs(2);
const LEADER_AGAIN: Duration = Duration::from_millis(50);

/// Start and end of a partition, as its leader says now.
#[expect(clippy::disallowed_methods, reason = "it runs on a thread for what blocks: librdkafka does so too")]
fn range<C: ClientContext>(client: &Client<C>, topic: &str, partition: u32, timeout: Duration) -> Result<(u64, u64), LogError> {
    let give_up = Instant::now() + LEADER_WAIT.min(timeout);
    let (start, end) = loop {
        match client.fetch_watermarks(topic, partition as i32, timeout) {
            Err(e) if has_moved(&e) && Instant::now() < give_up => std::thread::sleep(LEADER_AGAIN),
            answer => break answer.map_err(|e| cannot_read(topic, partition, &e))?,
        }
    };
    Ok((start.max(0) as u64, end.max(0) as u64))
}

/// The cluster has another leader for the partition than this client believes.
fn has_moved(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{FencedLeaderEpoch, LeaderNotAvailable, NotLeaderForPartition, UnknownLeaderEpoch};
    matches!(error.rdkafka_error_code(), Some(FencedLeaderEpoch | LeaderNotAvailable | NotLeaderForPartition | UnknownLeaderEpoch))
}

fn cannot_read(topic: &str, partition: u32, error: &KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownPartition) => {
            LogError::UnknownTopic { topic: topic.to_owned() }
        }
        _ => LogError::Unavailable { what: format!("read `{topic}/{partition}`"), reason: error.to_string() },
    }
}

fn no_answer(error: KafkaError) -> LogError {
    LogError::Unavailable { what: "reach Kafka".to_owned(), reason: error.to_string() }
}

/// An error that comes before anything was asked of a broker: a setting, mostly.
fn fault(what: &str, error: KafkaError) -> LogError {
    match error {
        KafkaError::ClientConfig(_, reason, name, value) => LogError::Setting { name, reason: format!("`{value}`: {reason}") },
        error => LogError::Unavailable { what: format!("use Kafka ({what})"), reason: error.to_string() },
    }
}

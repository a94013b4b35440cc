//! Reads a partition through a consumer of its own, which is assigned that partition and nothing else.
//!
//! Positions are our own: they go by the offsets of the messages, never by what librdkafka believes. Back-pressure is the bound of
//! the consumer's queue: who does not take, is not sent more.

use super::{
    KafkaConfig,
    batch::{Batches, Taken, c_name},
    fault,
};
use crate::log::{Fetch, LogError, LogReader};
use async_trait::async_trait;
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    producer::Producer as _,
};
use schemas::Record;
use std::{collections::VecDeque, ffi::CString, sync::Arc, time::Duration};
use tokio::{sync::Notify, time::Instant};

/// Messages taken out of librdkafka at a time.
const TAKEN_MAX: usize = 1_024;
/// Records that the broker has and has not sent are waited for so long before it is asked again.
const COMING_WAIT: Duration = Duration::from_millis(200);
/// After so many of these waits in vain the fetch starts again.
const ASKED_MAX: u32 = 10;
/// A longer wait is this one; the caller asks again.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

pub(super) struct Context;

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        metrics::counter!("headend_kafka_errors_total", "client" => "reader").increment(1);
        tracing::debug!(%error, reason, "Kafka reader");
    }
}

impl ConsumerContext for Context {}

pub(super) struct KafkaReader {
    topic: String,
    topic_c: CString,
    partition: u32,
    position: u64,
    batches: Batches<Context>,
    /// Taken from librdkafka and not yet asked for.
    held: VecDeque<Record>,
    held_bytes: usize,
    /// librdkafka has stopped fetching; what it had sent before is given first.
    failed: Option<RDKafkaErrorCode>,
    /// Where the broker last said that the partition ends.
    end: Option<u64>,
    arrived: Arc<Notify>,
    producer: Arc<super::producer::Producer>,
    timeout: Duration,
}

impl KafkaReader {
    pub fn new(config: &KafkaConfig, producer: Arc<super::producer::Producer>, topic: &str, partition: u32, from: u64) -> Result<Self, LogError> {
        let mut consumer: BaseConsumer<Context> = config.reader().create_with_context(Context).map_err(|e| fault("reader", e))?;
        let arrived = Arc::new(Notify::new());
        let bell = Arc::clone(&arrived);
        consumer.set_nonempty_callback(move || bell.notify_one());
        let unknown = || LogError::UnknownTopic { topic: topic.to_owned() };
        let batches = Batches::new(Arc::new(consumer)).ok_or_else(unknown)?;
        let topic_c = c_name(topic).ok_or_else(unknown)?;
        let mut reader = Self {
            topic: topic.to_owned(),
            topic_c,
            partition,
            position: from,
            batches,
            held: VecDeque::new(),
            held_bytes: 0,
            failed: None,
            end: None,
            arrived,
            producer,
            timeout: config.timeout,
        };
        reader.assign()?;
        Ok(reader)
    }

    /// Starts fetching at the position; what was on its way from another is dropped by librdkafka.
    fn assign(&mut self) -> Result<(), LogError> {
        self.end = None;
        let mut list = TopicPartitionList::new();
        let offset = Offset::Offset(self.position as i64);
        list.add_partition_offset(&self.topic, self.partition as i32, offset).map_err(|e| fault("reader", e))?;
        self.batches.consumer().ok_or(LogError::Closed)?.assign(&list).map_err(|e| fault("reader", e))
    }

    /// Takes what has arrived into `held`, so much at a time; true when there may be more.
    fn take(&mut self) -> Result<bool, RDKafkaErrorCode> {
        let mut expected = self.expected();
        let mut stopped = None;
        let Self { batches, held, held_bytes, end, .. } = self;
        let n = batches.take(TAKEN_MAX, |taken| match taken {
            // Behind what has stopped nothing counts.
            _ if stopped.is_some() => {}
            // Before the position: of an assignment that is over.
            Taken::Record(record) if record.offset >= expected => {
                expected = record.offset + 1;
                *held_bytes += bytes_of(&record);
                held.push_back(record);
            }
            Taken::Record(_) => {}
            Taken::End(seen) => *end = (*end).max(Some(seen)),
            Taken::Failed(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange, _) => stopped = Some(RDKafkaErrorCode::OffsetOutOfRange),
            Taken::Failed(error, _) if stops_fetching(error) => stopped = Some(error),
            // Weather: librdkafka goes on by itself.
            Taken::Failed(error, reason) => tracing::debug!(topic = self.topic, partition = self.partition, %error, reason, "Kafka reader"),
        });
        stopped.map_or(Ok(n == TAKEN_MAX), Err)
    }

    /// Takes as much as a fetch may give, where it has arrived.
    fn fill(&mut self, max_records: usize, max_bytes: usize) {
        while self.failed.is_none() && self.held.len() < max_records && self.held_bytes < max_bytes {
            match self.take() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => self.failed = Some(error),
            }
        }
    }

    fn expected(&self) -> u64 {
        self.held.back().map_or(self.position, |r| r.offset + 1)
    }

    fn give(&mut self, max_records: usize, max_bytes: usize) -> Fetch {
        let mut records = Vec::with_capacity(self.held.len().min(max_records));
        let mut bytes = 0;
        while let Some(record) = self.held.front() {
            let size = bytes_of(record);
            bytes += size;
            if !records.is_empty() && (records.len() >= max_records || bytes > max_bytes) {
                break;
            }
            self.position = record.offset + 1;
            self.held_bytes -= size;
            records.extend(self.held.pop_front());
        }
        let behind = self.known_end().map(|end| end.saturating_sub(self.position));
        Fetch { records, caught_up: self.held.is_empty() && behind == Some(0), behind: behind.unwrap_or(self.held.len() as u64) }
    }

    /// What the last fetch told; a mark of a transaction may stand between the last record and it.
    fn known_end(&mut self) -> Option<u64> {
        self.pass_marks();
        self.batches.known_end(&self.topic_c, self.partition as i32)
    }

    /// Behind what is no record, where nothing but that is left.
    fn pass_marks(&mut self) {
        if self.held.is_empty() {
            self.position = self.end.map_or(self.position, |end| end.max(self.position));
        }
    }

    /// Start and end of the partition, as its leader says now. Asked through the producer: on the reader's own connection the answer would
    /// wait until the broker has answered its fetch.
    fn ask_range(&self) -> impl Future<Output = Result<(u64, u64), LogError>> + Send + use<> {
        let (producer, topic, partition, timeout) = (self.producer.client(), self.topic.clone(), self.partition, self.timeout);
        async move {
            let asked = tokio::task::spawn_blocking(move || super::range(producer.client(), &topic, partition, timeout));
            asked.await.map_err(|_| LogError::Closed)?
        }
    }

    fn out_of_range(&self, (start, end): (u64, u64)) -> LogError {
        LogError::OffsetOutOfRange { topic: self.topic.clone(), partition: self.partition, offset: self.position, start, end }
    }

    /// What a failure of the assignment means; librdkafka has stopped fetching, so that the next fetch starts again.
    async fn failure(&mut self, error: RDKafkaErrorCode) -> LogError {
        let range = match self.ask_range().await {
            Ok(range) => range,
            Err(e) => return e,
        };
        if (range.0..=range.1).contains(&self.position) {
            if let Err(e) = self.assign() {
                return e;
            }
            return LogError::Unavailable { what: format!("read `{}/{}`", self.topic, self.partition), reason: error.to_string() };
        }
        self.out_of_range(range)
    }
}

#[async_trait]
impl LogReader for KafkaReader {
    async fn fetch(&mut self, max_records: usize, max_bytes: usize, wait: Duration) -> Result<Fetch, LogError> {
        let mut deadline = Instant::now() + wait.min(WAIT_MAX);
        let mut asked: u32 = 0;
        loop {
            self.fill(max_records, max_bytes);
            if !self.held.is_empty() {
                return Ok(self.give(max_records, max_bytes));
            }
            if let Some(error) = self.failed.take() {
                return Err(self.failure(error).await);
            }
            if tokio::time::timeout_at(deadline, self.arrived.notified()).await.is_ok() {
                continue;
            }
            let range = self.ask_range().await?;
            // Asking took a while: what arrived in it comes first.
            self.fill(max_records, max_bytes);
            if !self.held.is_empty() || self.failed.is_some() {
                continue;
            }
            self.pass_marks();
            if !(range.0..=range.1).contains(&self.position) {
                return Err(self.out_of_range(range));
            }
            if range.1 == self.position {
                return Ok(Fetch { records: Vec::new(), caught_up: true, behind: 0 });
            }
            // Records are there and do not come: after a failure that nobody could look into, librdkafka stands still.
            asked += 1;
            if asked.is_multiple_of(ASKED_MAX) {
                self.assign()?;
            }
            deadline = Instant::now() + COMING_WAIT;
        }
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn seek(&mut self, offset: u64) {
        if offset == self.position {
            return;
        }
        if let Some(ahead) = self.held.iter().position(|r| r.offset == offset) {
            self.held_bytes -= self.held.drain(..ahead).map(|r| bytes_of(&r)).sum::<usize>();
            self.position = offset;
            return;
        }
        self.held.clear();
        (self.held_bytes, self.failed, self.position) = (0, None, offset);
        // An assignment that fails shows in the next fetch: nothing comes, and the range is asked for.
        if let Err(error) = self.assign() {
            tracing::warn!(topic = self.topic, partition = self.partition, %error, "cannot move the reader");
        }
    }
}

/// Errors that a person must hear of, or after which librdkafka asks for no more of the partition.
fn stops_fetching(error: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{BadMessage, InvalidMessage, TopicAuthorizationFailed, UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    matches!(error, BadMessage | InvalidMessage | TopicAuthorizationFailed | UnknownPartition | UnknownTopic | UnknownTopicOrPartition)
}

fn bytes_of(record: &Record) -> usize {
    record.key.as_ref().map_or(0, bytes::Bytes::len) + record.value.as_ref().map_or(0, bytes::Bytes::len)
}

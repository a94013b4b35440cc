//! The log: an ordered, durable, partitioned sequence of records, and the only place where an event is accepted.
//!
//! What stands here is the contract, shaped for Apache Kafka and for the embedded log alike; `contract` tests it.
//! It knows nothing of what a record means: no JSON, no key columns, no epochs.

use async_trait::async_trait;
use bytes::Bytes;
use schemas::{NewRecord, Record, partition::partition_of};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;

/// The largest record (key, value and headers) that any topic takes.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The setting's name in [`Misfit`].
const PARTITIONS: &str = "partitions";
/// The largest record that a source topic takes unless it is configured otherwise.
pub const SOURCE_RECORD_BYTES_MAX: usize = 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: u32,
    /// The newest record per key is what counts; a log may forget the others. The embedded log keeps them all.
    pub compacted: bool,
}

/// A setting of a topic that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub setting: &'static str,
    pub existing: String,
    pub wanted: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record; the others follow without a gap.
    pub base_offset: u64,
    /// Append time of the first record in UTC microseconds, as readers will see it.
    pub append_us: i64,
}

#[derive(Debug)]
pub struct Fetch {
    /// In offset order, the first one at the reader's position.
    pub records: Vec<Record>,
    /// The log's own word that nothing stood after these records: as it was when they came, and fresh where there are none.
    pub caught_up: bool,
    /// Offsets after these records that the log was last known to have: for eyes, and never for a decision.
    pub behind: u64,
}

/// A durable log of topics and partitions.
///
/// An append that returned is durable, stands at contiguous offsets and is seen by every reader from then on. An append that
/// failed is not acknowledged; after an error of kind [`ErrorKind::Retry`] it may stand in the log all the same, so one who
/// sends it again must be able to tell. Append times never go back within a partition; two appends may share one.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// True when the topic was created now. One that exists and does not fit is an error with what it has and what it should have.
    async fn create_topic(&self, spec: &TopicSpec) -> Result<bool, LogError>;

    /// What of an existing topic is not as `spec` needs it; empty when it fits. A topic that is not there is an error.
    async fn misfits(&self, spec: &TopicSpec) -> Result<Vec<Misfit>, LogError>;

    /// How many partitions an existing topic has now.
    async fn partition_count(&self, topic: &str) -> Result<u32, LogError>;

    /// All topics, by name.
    async fn topics(&self) -> Result<Vec<TopicSpec>, LogError>;

    /// All of them or none, durable when it returns, in order, contiguous offsets.
    async fn append(&self, topic: &str, partition: u32, records: Vec<NewRecord>) -> Result<Appended, LogError>;

    /// Records for several partitions of a topic in one durable commit; each goes where murmur2 of its key says. A null key is
    /// an error.
    async fn append_keyed(&self, topic: &str, records: Vec<NewRecord>) -> Result<(), LogError>;

    /// The first offset that can still be read.
    async fn start(&self, topic: &str, partition: u32) -> Result<u64, LogError>;

    /// The offset that the next record will have.
    async fn end(&self, topic: &str, partition: u32) -> Result<u64, LogError>;

    /// A reader at `from`; whether the log holds that offset is found by its first fetch.
    fn reader(&self, topic: &str, partition: u32, from: u64) -> Result<Box<dyn LogReader>, LogError>;

    /// Lets the log forget what stands before `offset`.
    async fn delete_before(&self, topic: &str, partition: u32, offset: u64) -> Result<(), LogError>;

    /// Joins the group that shares the partitions of `topic`, an epoch topic. Embedded: all of them are owned at once.
    async fn ownership(&self, topic: &str) -> Result<Arc<dyn Ownership>, LogError>;

    /// Waits for what was accepted and lets go of everything.
    async fn close(&self);
}

/// Reads one partition in offset order.
#[async_trait]
pub trait LogReader: Send {
    /// Returns as soon as there is at least one record, or when the end is reached and `wait` has passed (then empty and caught
    /// up). One record is returned even where it is larger than `max_bytes`. After an error the position is unchanged.
    async fn fetch(&mut self, max_records: usize, max_bytes: usize, wait: Duration) -> Result<Fetch, LogError>;

    /// The offset of the next record.
    fn position(&self) -> u64;

    fn seek(&mut self, offset: u64);
}

/// Membership in the group that shares the partitions of an epoch topic.
#[async_trait]
pub trait Ownership: Send + Sync {
    /// What is owned now, in order, and every change of it. Empty before the first assignment.
    fn owned(&self) -> watch::Receiver<Vec<u32>>;

    /// Commits `offset` synchronously through the membership, before a claim. False: this generation is over, give the task up.
    async fn confirm(&self, partition: u32, offset: u64) -> Result<bool, LogError>;

    /// Why the membership has ended for good; `None` while it lasts. Told with a change of what is owned.
    fn ended(&self) -> Option<LogError> {
        None
    }

    /// Gives everything back, so that others may take it over at once. Nothing is owned from here on.
    async fn leave(&self);
}

/// What the caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Weather: the same call may succeed later.
    Retry,
    /// The call is wrong and will stay wrong.
    Reject,
    /// The log cannot go on; a person must act.
    Stop,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    #[error("topic `{topic}` does not exist")]
    UnknownTopic { topic: String },
    #[error("topic `{topic}` has no partition {partition}, it has {partitions} of them from 0 on")]
    UnknownPartition { topic: String, partition: u32, partitions: u32 },
    #[error("offset {offset} of `{topic}/{partition}` is not in the log, which holds {start} to {end}")]
    OffsetOutOfRange { topic: String, partition: u32, offset: u64, start: u64, end: u64 },
    #[error("topic `{topic}` has {existing} partitions, expected {wanted}")]
    PartitionsDiffer { topic: String, existing: u32, wanted: u32 },
    #[error("topic `{topic}` has `{setting}` = `{existing}`, expected `{wanted}`")]
    TopicDiffers { topic: String, setting: &'static str, existing: String, wanted: String },
    #[error("topic `{topic}` cannot be created: {reason}")]
    InvalidTopic { topic: String, reason: &'static str },
    #[error("record {index} for topic `{topic}` has no key, so no partition")]
    NullKey { topic: String, index: usize },
    #[error("record for topic `{topic}` has {bytes} bytes, the limit is {limit}")]
    RecordTooLarge { topic: String, bytes: usize, limit: usize },
    #[error("disk is full: cannot write `{file}`")]
    DiskFull { file: String },
    #[error("log `{dir}` is in use by another process")]
    Locked { dir: String },
    #[error("log is damaged at `{topic}/{partition}@{offset}` in `{file}`: {what}")]
    Damaged { topic: String, partition: u32, offset: u64, file: String, what: String },
    #[error("log is damaged: `{file}`: {what}")]
    DamagedFile { file: String, what: String },
    #[error("cannot {what}: {reason}")]
    Unavailable { what: String, reason: String },
    #[error("records {from} to {to} of `{topic}/{partition}` were written by more than one process")]
    Interleaved { topic: String, partition: u32, from: u64, to: u64 },
    #[error("Kafka ended this process's membership `{instance}` in the group of `{topic}`: {reason}")]
    MembershipEnded { instance: String, topic: String, reason: String },
    #[error("setting `{name}`: {reason}")]
    Setting { name: String, reason: String },
    #[error("log is closed")]
    Closed,
    #[error("cannot access log `{file}`: {source}")]
    Io { file: String, source: Arc<std::io::Error> },
}

impl LogError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::DiskFull { .. } | Self::Io { .. } | Self::Unavailable { .. } | Self::Interleaved { .. } => ErrorKind::Retry,
            Self::UnknownTopic { .. }
            | Self::UnknownPartition { .. }
            | Self::PartitionsDiffer { .. }
            | Self::TopicDiffers { .. }
            | Self::InvalidTopic { .. }
            | Self::NullKey { .. }
            | Self::Setting { .. }
            | Self::RecordTooLarge { .. } => ErrorKind::Reject,
            Self::MembershipEnded { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::Locked { .. }
            | Self::Damaged { .. }
            | Self::DamagedFile { .. }
            | Self::Closed => ErrorKind::Stop,
        }
    }

    /// An error of the operating system; a full disk is told from the others.
    pub fn io(file: &str, error: std::io::Error) -> Self {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::DiskFull { file: file.to_owned() },
            _ => Self::Io { file: file.to_owned(), source: Arc::new(error) },
        }
    }
}

/// Marks the end of a bounded source in every partition of its topic.
pub async fn end_source(log: &dyn Log, topic: &str, partitions: u32) -> Result<(), LogError> {
    for partition in 0..partitions {
        log.append(topic, partition, vec![NewRecord::end_of_source()]).await?;
    }
    Ok(())
}

/// Bytes that `record` takes in the log, framing aside.
pub(crate) fn payload_bytes(record: &NewRecord) -> usize {
    let headers: usize = record.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
    record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + headers
}

pub(crate) fn check_sizes(topic: &str, records: &[NewRecord]) -> Result<(), LogError> {
    match records.iter().map(payload_bytes).find(|b| *b > RECORD_BYTES_MAX) {
        Some(bytes) => Err(LogError::RecordTooLarge { topic: topic.to_owned(), bytes, limit: RECORD_BYTES_MAX }),
        None => Ok(()),
    }
}

/// Records by the partition of their keys, in order within each. A null key is an error.
pub(crate) fn by_partition(topic: &str, partitions: u32, records: Vec<NewRecord>) -> Result<BTreeMap<u32, Vec<NewRecord>>, LogError> {
    let mut parts: BTreeMap<u32, Vec<NewRecord>> = BTreeMap::new();
    for (index, record) in records.into_iter().enumerate() {
        let Some(key) = &record.key else {
            return Err(LogError::NullKey { topic: topic.to_owned(), index });
        };
        parts.entry(partition_of(key, partitions)).or_default().push(record);
    }
    Ok(parts)
}

impl TopicSpec {
    /// What no log takes.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        let invalid = |reason| Err(LogError::InvalidTopic { topic: self.name.clone(), reason });
        match (self.partitions, self.name.as_str()) {
            (0, _) => invalid("it needs at least one partition"),
            (_, "") => invalid("it needs a name"),
            _ => Ok(()),
        }
    }

    /// The first thing that does not fit, as an error.
    pub(crate) fn refuse(&self, misfits: impl IntoIterator<Item = Misfit>) -> Result<(), LogError> {
        let topic = self.name.clone();
        match misfits.into_iter().next() {
            None => Ok(()),
            Some(Misfit { setting: PARTITIONS, existing, .. }) => {
                Err(LogError::PartitionsDiffer { topic, existing: existing.parse().unwrap_or_default(), wanted: self.partitions })
            }
            Some(Misfit { setting, existing, wanted }) => Err(LogError::TopicDiffers { topic, setting, existing, wanted }),
        }
    }

    pub(crate) fn partitions_misfit(&self, existing: u32) -> Option<Misfit> {
        (existing != self.partitions).then(|| Misfit { setting: PARTITIONS, existing: existing.to_string(), wanted: self.partitions.to_string() })
    }
}

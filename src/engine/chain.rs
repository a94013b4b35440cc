//! Follows the accepted chain of one task: what sinks, gateways and `try` read.

use async_trait::async_trait;
use ingest::log::{Log, LogError, LogReader};
use schemas::{AcceptedEpoch, ChainPosition, EpochHeader, EpochRecord, Verdict, epoch::EpochDecodeError};
use std::{sync::Arc, time::Duration};

/// Bytes of epoch records that are read at a time.
const FETCH_BYTES: usize = 8 * 1024 * 1024;
/// Epochs that are read at a time on the way to the end.
pub const EPOCHS_AT_ONCE: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("epoch record at `{topic}/{partition}@{offset}`: {source}")]
    Record { topic: String, partition: u32, offset: u64, source: EpochDecodeError },
}

impl ChainError {
    /// Weather, or a topic that is not known now: one that is gone ends the task that owns it, and with it whoever follows.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Log(e) if e.kind() == ingest::ErrorKind::Retry || matches!(e, LogError::UnknownTopic { .. }))
    }
}

pub struct ChainFollower {
    topic: String,
    partition: u32,
    reader: Box<dyn LogReader>,
    position: ChainPosition,
    /// Where the chain is followed from when nothing else is known.
    anchor: ChainPosition,
    ignored: u64,
}

/// True when the record before `position` is the one that it stands on; false too where that is deleted.
pub async fn is_on_chain(log: &Arc<dyn Log>, topic: &str, partition: u32, position: &ChainPosition) -> Result<bool, LogError> {
    let Some(offset) = position.next_offset.checked_sub(1) else { return Ok(false) };
    if !(log.start(topic, partition).await?..log.end(topic, partition).await?).contains(&offset) {
        return Ok(false);
    }
    let fetched = log.reader(topic, partition, offset)?.fetch(1, FETCH_BYTES, Duration::ZERO).await?;
    let header = fetched.records.first().and_then(|r| EpochRecord::decode_header(r.value.as_deref().unwrap_or_default()).ok());
    Ok(header.is_some_and(|h| h.id == position.id && h.epoch == position.epoch))
}

impl ChainFollower {
    /// Follows `topic/partition` from `position`; the default position is the start.
    pub fn new(log: &Arc<dyn Log>, topic: &str, partition: u32, position: ChainPosition) -> Result<Self, ChainError> {
        let reader = log.reader(topic, partition, position.next_offset)?;
        Ok(Self { topic: topic.to_owned(), partition, reader, position, anchor: ChainPosition::default(), ignored: 0 })
    }

    /// The start for a sink that knows of nothing: where the log has forgotten the first epochs.
    pub fn anchored(self, anchor: ChainPosition) -> Self {
        Self { anchor, ..self }
    }

    /// The headers of all accepted epochs up to the end of the log, one after the other.
    pub async fn headers_to_end(&mut self, mut each: impl FnMut(&EpochHeader)) -> Result<(), ChainError> {
        loop {
            let (epochs, caught_up) = self.next_epochs(EPOCHS_AT_ONCE, Duration::ZERO).await?;
            epochs.iter().for_each(|epoch| each(&epoch.record.header));
            if caught_up && epochs.is_empty() {
                return Ok(());
            }
        }
    }

    pub fn position(&self) -> ChainPosition {
        self.position
    }

    /// Records that lost against an earlier one.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// The next accepted epochs, at least one unless `wait` passes first; the flag says that the log holds no more.
    pub async fn next_epochs(&mut self, max: usize, wait: Duration) -> Result<(Vec<AcceptedEpoch>, bool), ChainError> {
        let fetched = self.reader.fetch(max, FETCH_BYTES, wait).await?;
        let mut accepted = Vec::with_capacity(fetched.records.len());
        for record in &fetched.records {
            let bytes = record.value.as_deref().unwrap_or_default();
            let fault = |source| ChainError::Record { topic: self.topic.clone(), partition: self.partition, offset: record.offset, source };
            let epoch = EpochRecord::decode(bytes).map_err(fault)?;
            match self.position.offer(record.offset, &epoch.header) {
                Verdict::Accepted => accepted.push(AcceptedEpoch { offset: record.offset, record: epoch }),
                Verdict::Ignored => self.ignored += 1,
            }
        }
        Ok((accepted, fetched.caught_up))
    }
}

#[async_trait]
impl sinks::EpochSource for ChainFollower {
    async fn seek(&mut self, position: ChainPosition) -> Result<(), sinks::SourceError> {
        let position = if position.epoch == 0 { self.anchor } else { position };
        self.reader.seek(position.next_offset);
        self.position = position;
        Ok(())
    }

    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Arc<AcceptedEpoch>>, sinks::SourceError> {
        let (epochs, _) = self.next_epochs(max, wait).await.map_err(source_error)?;
        Ok(epochs.into_iter().map(Arc::new).collect())
    }
}

fn source_error(error: ChainError) -> sinks::SourceError {
    if error.may_pass() { sinks::SourceError::Unavailable(Box::new(error)) } else { sinks::SourceError::Lost(Box::new(error)) }
}

//! Feeds: one per input of a task. A feed reads and decodes ahead of the cut, at most two batches, so that decoding and
//! processing overlap and a slow task holds its reader back.

use super::TaskError;
use ingest::{
    SourceDecoder,
    log::{Log, LogReader},
};
use schemas::{EpochRecord, Record};
use std::{sync::Arc, time::Duration};
use stream_jobs::{
    plan::SourceSpec,
    task::{Content, InputSpec, epoch_topic},
};
use tokio::sync::{Notify, mpsc};

/// Bytes read at a time: enough for a full cut of small events.
const FETCH_BYTES: usize = 8 * 1024 * 1024;
/// Batches that wait for the cut, per input.
const FED_AHEAD: usize = 2;
/// How long a read waits at the end of the log before it says again that it is caught up.
const END_WAIT: Duration = Duration::from_millis(500);

/// What was read from an input: offsets `[from, to)`, decoded.
pub struct Fed {
    pub from: u64,
    pub to: u64,
    pub caught_up: bool,
    pub rows: usize,
    pub content: Content,
}

/// Reads one input and makes what a task takes out of it. Used by the feed and, for exact ranges, by recovery.
pub struct InputReader {
    reader: Box<dyn LogReader>,
    decode: Decode,
    /// In `try`, records count as appended at one given time.
    appended_us: Option<i64>,
}

enum Decode {
    Source(Box<SourceDecoder>, u32),
    Epochs(String, u32),
}

impl InputReader {
    pub fn new(log: &Arc<dyn Log>, input: &InputSpec, sources: &[SourceSpec], partitions: u32, from: u64, appended_us: Option<i64>) -> Result<Self, TaskError> {
        let (reader, decode) = match input {
            InputSpec::Source { source, topic, partition } => {
                let decoder = SourceDecoder::new(decoder_spec(&sources[*source], partitions))?;
                (log.reader(topic, *partition, from)?, Decode::Source(Box::new(decoder), *partition))
            }
            InputSpec::Epochs { group, partition } => (log.reader(&epoch_topic(group), *partition, from)?, Decode::Epochs(epoch_topic(group), *partition)),
        };
        Ok(Self { reader, decode, appended_us })
    }

    pub async fn read(&mut self, max_records: usize, wait: Duration) -> Result<Fed, TaskError> {
        let from = self.reader.position();
        let fetched = self.reader.fetch(max_records, FETCH_BYTES, wait).await?;
        let mut records = fetched.records;
        let to = records.last().map_or(from, |r| r.offset + 1);
        if let Some(us) = self.appended_us {
            records.iter_mut().for_each(|r| r.append_us = us);
        }
        let rows = records.len();
        Ok(Fed { from, to, caught_up: fetched.caught_up, rows, content: self.decode(from, to, records)? })
    }

    /// Exactly the records `[from, to)`, however many reads it takes.
    pub async fn read_range(&mut self, from: u64, to: u64) -> Result<Fed, TaskError> {
        self.reader.seek(from);
        let mut records: Vec<Record> = Vec::new();
        while records.last().map_or(from, |r| r.offset + 1) < to {
            let at = records.last().map_or(from, |r| r.offset + 1);
            let fetched = self.reader.fetch((to - at) as usize, FETCH_BYTES, END_WAIT).await?;
            if fetched.records.is_empty() {
                return Err(TaskError::InputGone { from, to, end: at });
            }
            records.extend(fetched.records.into_iter().take_while(|r| r.offset < to));
        }
        if let Some(us) = self.appended_us {
            records.iter_mut().for_each(|r| r.append_us = us);
        }
        let rows = records.len();
        Ok(Fed { from, to, caught_up: false, rows, content: self.decode(from, to, records)? })
    }

    fn decode(&mut self, from: u64, to: u64, records: Vec<Record>) -> Result<Content, TaskError> {
        if records.is_empty() {
            return Ok(Content::Nothing);
        }
        match &mut self.decode {
            Decode::Source(decoder, partition) => {
                let batch = decoder.decode(*partition, from, to, &records)?;
                Ok(Content::Source(batch, Arc::new(records)))
            }
            Decode::Epochs(topic, partition) => {
                let decode = |r: &Record| {
                    let fault = |source| TaskError::Epoch { topic: topic.clone(), partition: *partition, offset: r.offset, source };
                    Ok((r.offset, Arc::new(EpochRecord::decode(r.value.as_deref().unwrap_or_default()).map_err(fault)?)))
                };
                Ok(Content::Epochs(records.iter().map(decode).collect::<Result<_, TaskError>>()?))
            }
        }
    }
}

pub fn decoder_spec(source: &SourceSpec, partitions: u32) -> ingest::DecoderSpec {
    let nullable: Vec<_> = source.schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    ingest::DecoderSpec {
        topic: source.topic.clone(),
        schema: Arc::new(arrow_schema::Schema::new(nullable)),
        key: source.key.clone(),
        partitions,
        trust_partition: source.trust_partition,
        table: source.table,
    }
}

/// The receiving end of a feed.
pub struct Feed {
    pub fed: mpsc::Receiver<Result<Fed, TaskError>>,
    task: tokio::task::JoinHandle<()>,
}

impl Feed {
    /// `bell` rings whenever something is there to take.
    pub fn start(mut reader: InputReader, max_records: usize, bell: Arc<Notify>) -> Self {
        let (tx, fed) = mpsc::channel(FED_AHEAD);
        let task = tokio::spawn(async move {
            loop {
                let read = reader.read(max_records, END_WAIT).await;
                let failed = read.is_err();
                if tx.send(read).await.is_err() {
                    return;
                }
                bell.notify_one();
                if failed {
                    return;
                }
            }
        });
        Self { fed, task }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

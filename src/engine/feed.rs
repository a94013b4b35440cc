//! Feeds: one per input of a task. A feed reads and decodes ahead of the cut, at most two batches, so that decoding and
//! processing overlap and a slow task holds its reader back.

use super::TaskError;
use ingest::{
    SourceDecoder,
    log::{Log, LogReader},
};
use schemas::{EpochRecord, Output, OutputKind, Record};
use std::{sync::Arc, time::Duration};
use stream_jobs::{
    plan::SourceSpec,
    source::needed_records,
    task::{Content, InputSpec, epoch_topic},
};
use tokio::sync::{Notify, mpsc};

/// Bytes read at a time: enough for a full cut of small events.
const FETCH_BYTES: usize = 8 * 1024 * 1024;
/// Batches that wait for the cut, per input.
const FED_AHEAD: usize = 2;
/// How long a read waits at the end of the log before it says again that it is caught up.
const END_WAIT: Duration = Duration::from_millis(500);

/// Records and bytes of a table that are read at a time: they are copied into the epoch record.
const TABLE_RECORDS: usize = 1_024;
const TABLE_BYTES: usize = 128 * 1024;

/// What was read from an input: offsets `[from, to)`, decoded.
pub struct Fed {
    pub from: u64,
    pub to: u64,
    pub caught_up: bool,
    /// Offsets after `to` that the log is known to have.
    pub behind: u64,
    pub rows: usize,
    pub content: Content,
    /// Of a table: its records, for the epoch record.
    pub copy: Option<Copied>,
}

/// The records of a table that an epoch takes. Its topic is compacted, so the log will not keep them for a recovery.
pub struct Copied {
    pub output: Output,
    pub bytes: usize,
}

/// Reads one input and makes what a task takes out of it. Used by the feed and, for exact ranges, by recovery.
pub struct InputReader {
    reader: Box<dyn LogReader>,
    decoder: InputDecoder,
    /// In `try`, records count as appended at one given time.
    appended_us: Option<i64>,
}

impl InputReader {
    pub fn new(log: &Arc<dyn Log>, input: &InputSpec, sources: &[SourceSpec], partitions: u32, from: u64, appended_us: Option<i64>) -> Result<Self, TaskError> {
        let decoder = InputDecoder::new(input, sources, partitions)?;
        let reader = match input {
            InputSpec::Source { topic, partition, .. } => log.reader(topic, *partition, from)?,
            InputSpec::Epochs { group, partition } => log.reader(&epoch_topic(group), *partition, from)?,
        };
        Ok(Self { reader, decoder, appended_us })
    }

    pub async fn read(&mut self, max_records: usize, wait: Duration) -> Result<Fed, TaskError> {
        let from = self.reader.position();
        let (max_records, max_bytes) = if self.decoder.is_table() { (max_records.min(TABLE_RECORDS), TABLE_BYTES) } else { (max_records, FETCH_BYTES) };
        let fetched = self.reader.fetch(max_records, max_bytes, wait).await?;
        let to = fetched.records.last().map_or(from, |r| r.offset + 1);
        let fed = self.fed(from, to, fetched.records)?;
        Ok(Fed { caught_up: fetched.caught_up, behind: fetched.behind, ..fed })
    }

    /// Exactly the records `[from, to)`, however many reads it takes.
    pub async fn read_range(&mut self, from: u64, to: u64) -> Result<Fed, TaskError> {
        self.reader.seek(from);
        let mut records: Vec<Record> = Vec::new();
        while records.last().map_or(from, |r| r.offset + 1) < to {
            let at = records.last().map_or(from, |r| r.offset + 1);
            let fetched = self.reader.fetch((to - at) as usize, FETCH_BYTES, END_WAIT).await?;
            if fetched.records.first().is_none_or(|r| r.offset >= to) {
                return Err(TaskError::InputGone { topic: self.decoder.topic.clone(), partition: self.decoder.partition, from: at, to });
            }
            records.extend(fetched.records.into_iter().take_while(|r| r.offset < to));
        }
        self.fed(from, to, records)
    }

    fn fed(&mut self, from: u64, to: u64, mut records: Vec<Record>) -> Result<Fed, TaskError> {
        if let Some(us) = self.appended_us {
            records.iter_mut().for_each(|r| r.append_us = us);
        }
        if self.decoder.is_table() {
            records.iter_mut().for_each(Record::shorten);
        }
        let copy = self.decoder.copy(&records)?;
        let rows = records.len();
        Ok(Fed { from, to, caught_up: false, behind: 0, rows, content: self.decoder.decode(from, to, records)?, copy })
    }
}

/// Makes what a task takes out of the records of one input.
pub struct InputDecoder {
    topic: String,
    partition: u32,
    decode: Decode,
}

enum Decode {
    Source(Box<SourceDecoder>, Box<SourceSpec>),
    Epochs,
}

impl InputDecoder {
    pub fn new(input: &InputSpec, sources: &[SourceSpec], partitions: u32) -> Result<Self, TaskError> {
        Ok(match input {
            InputSpec::Source { source, topic, partition } => {
                let source = &sources[*source];
                let decoder = SourceDecoder::new(decoder_spec(source, partitions))?;
                Self { topic: topic.clone(), partition: *partition, decode: Decode::Source(Box::new(decoder), Box::new(source.clone())) }
            }
            InputSpec::Epochs { group, partition } => Self { topic: epoch_topic(group), partition: *partition, decode: Decode::Epochs },
        })
    }

    fn is_table(&self) -> bool {
        matches!(&self.decode, Decode::Source(_, source) if source.table)
    }

    /// The records of a table as an output of the epoch that takes them.
    fn copy(&self, records: &[Record]) -> Result<Option<Copied>, TaskError> {
        if !self.is_table() || records.is_empty() {
            return Ok(None);
        }
        let output = Output { name: self.topic.clone(), kind: OutputKind::Table, batch: Record::to_batch(records)? };
        Ok(Some(Copied { output, bytes: records.iter().map(Record::copied_bytes).sum() }))
    }

    /// What `epoch` took from a table: the records that it holds. `None` for any other input.
    pub fn copied(&mut self, epoch: &EpochRecord, from: u64, to: u64) -> Result<Option<Content>, TaskError> {
        if !self.is_table() {
            return Ok(None);
        }
        for copy in epoch.outputs.iter().filter(|o| o.kind == OutputKind::Table && o.name == self.topic) {
            let records = Record::from_batch(&copy.batch)?;
            // Two tables over one topic may stand at different places.
            if records.first().is_some_and(|r| r.offset >= from) && records.last().is_some_and(|r| r.offset + 1 == to) {
                return self.decode(from, to, records).map(Some);
            }
        }
        Ok(None)
    }

    fn decode(&mut self, from: u64, to: u64, records: Vec<Record>) -> Result<Content, TaskError> {
        if records.is_empty() {
            return Ok(Content::Nothing);
        }
        match &mut self.decode {
            Decode::Source(decoder, source) => {
                let batch = decoder.decode(self.partition, from, to, &records)?;
                let needed = needed_records(source, &batch, records);
                Ok(Content::Source(batch, Arc::new(needed)))
            }
            Decode::Epochs => {
                let decode = |r: &Record| {
                    let fault = |source| TaskError::Epoch { topic: self.topic.clone(), partition: self.partition, offset: r.offset, source };
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

/// How far an input is behind its log, for `/metrics`. A feed that ends is behind no more: whoever reads the input now tells it.
struct Lag {
    group: String,
    topic: String,
    partition: u32,
}

impl Lag {
    fn tell(&self, records: u64) {
        let partition = self.partition.to_string();
        metrics::gauge!("headend_input_lag_records", "group" => self.group.clone(), "topic" => self.topic.clone(), "partition" => partition)
            .set(records as f64);
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.tell(0);
    }
}

impl Feed {
    /// `bell` rings whenever something is there to take.
    pub fn start(mut reader: InputReader, group: &str, max_records: usize, bell: Arc<Notify>) -> Self {
        let lag = Lag { group: group.to_owned(), topic: reader.decoder.topic.clone(), partition: reader.decoder.partition };
        let (tx, fed) = mpsc::channel(FED_AHEAD);
        let task = tokio::spawn(async move {
            loop {
                let read = reader.read(max_records, END_WAIT).await;
                let failed = read.is_err();
                if let Ok(fed) = &read {
                    lag.tell(fed.behind);
                }
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

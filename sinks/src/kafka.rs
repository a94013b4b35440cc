//! Rows as JSON records of a Kafka topic, for other programs.
//!
//! Effectively once: every record has the headers `headend-incarnation`, `headend-task`, `headend-epoch` and `headend-seq`, where `seq`
//! counts from 1 for each task and partition of the topic. The same row always has the same numbers, so a reader that drops
//! `seq <= last` of its incarnation, task and partition sees each row once and in order, whatever was sent twice. A reader of
//! upserts needs nothing: with `key` a record replaces the one before it under its key, and a row that is gone is a null value.
//!
//! The cursor is a file beside the engine's state, moved after the brokers have everything before it. Where it is lost, the sink
//! starts again from the beginning of what the epoch log has, with the same numbers.

mod producer;

use crate::{
    Limits, Sink, SinkError,
    keys::{KeyPattern, Texts, columns_of},
    metrics, output,
};
use arrow_array::{RecordBatch, cast::AsArray};
use arrow_json::writer::{LineDelimited, WriterBuilder};
use async_trait::async_trait;
use producer::{Outgoing, Producer};
use schemas::{AcceptedEpoch, ChainPosition, EpochId, OP_COLUMN, op, partition::partition_of};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub const INCARNATION_HEADER: &str = "headend-incarnation";
pub const TASK_HEADER: &str = "headend-task";
pub const EPOCH_HEADER: &str = "headend-epoch";
pub const SEQ_HEADER: &str = "headend-seq";
/// What the record does, where the view changes: `insert`, `update_after` or `delete`.
pub const OP_HEADER: &str = "headend-op";

#[derive(Clone, Debug)]
pub struct KafkaSinkConfig {
    pub name: String,
    /// The output to take.
    pub view: String,
    pub brokers: String,
    pub topic: String,
    /// Partitions of a topic that has to be created.
    pub partitions: u32,
    /// Key of a record, with columns in braces. `None`: records have no key, stand in the partition of their task, and changes are
    /// told as they are, the rows before them too.
    pub key: Option<String>,
    /// Folder of the cursors, a file a task.
    pub cursors: PathBuf,
    pub flush_interval: Duration,
}

impl KafkaSinkConfig {
    pub fn new(name: impl Into<String>, view: impl Into<String>, brokers: impl Into<String>, topic: impl Into<String>, cursors: PathBuf) -> Self {
        Self {
            name: name.into(),
            view: view.into(),
            brokers: brokers.into(),
            topic: topic.into(),
            partitions: 4,
            key: None,
            cursors,
            flush_interval: Duration::from_millis(10),
        }
    }
}

pub struct KafkaSink {
    config: KafkaSinkConfig,
    key: Option<KeyPattern>,
    producer: Option<Producer>,
    cursors: BTreeMap<u32, Cursor>,
}

/// Where a task's rows stand in the topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    position: ChainPosition,
    /// The id of the first epoch that the sink has seen of its chain.
    incarnation: EpochId,
    /// The last number of each partition of the topic.
    seqs: BTreeMap<u32, u64>,
}

impl KafkaSink {
    /// Checks the options; connects when it is first used.
    pub fn new(config: KafkaSinkConfig) -> Result<Self, SinkError> {
        let pattern = |text: &String| {
            KeyPattern::parse(text).ok_or_else(|| SinkError::BadOption {
                sink: config.name.clone(),
                option: "key",
                value: text.clone(),
                expected: "a pattern with columns in braces, such as `{tenant}|{subscriber_id}`".to_owned(),
            })
        };
        let key = config.key.as_ref().map(pattern).transpose()?;
        Ok(Self { config, key, producer: None, cursors: BTreeMap::new() })
    }

    pub(crate) fn key_columns(&self) -> impl Iterator<Item = &str> {
        self.key.iter().flat_map(KeyPattern::columns)
    }

    fn file(&self, task: u32) -> PathBuf {
        self.config.cursors.join(format!("{task}.json"))
    }

    async fn producer(&mut self) -> Result<&mut Producer, SinkError> {
        if self.producer.is_none() {
            self.producer = Some(Producer::connect(&self.config).await?);
        }
        self.producer.as_mut().ok_or_else(|| SinkError::Worker { sink: self.config.name.clone(), reason: "it has no producer".to_owned() })
    }

    /// The records of an epoch's rows, numbered on from `cursor`.
    fn records(&self, epoch: &AcceptedEpoch, partitions: u32, cursor: &mut Cursor, out: &mut Vec<Outgoing>) -> Result<usize, SinkError> {
        let encode = |reason: String| SinkError::Encode { sink: self.config.name.clone(), view: self.config.view.clone(), reason };
        let header = &epoch.record.header;
        let Some((_, batch)) = output::rows_of(&epoch.record, &self.config.view).map_err(|e| encode(e.to_string()))? else { return Ok(0) };
        let columns = columns_of(&batch).map_err(|e| encode(e.to_string()))?;
        let at: Vec<usize> = self
            .key_columns()
            .map(|name| {
                let missing = || SinkError::NoColumn { sink: self.config.name.clone(), view: self.config.view.clone(), column: name.to_owned(), option: "key" };
                columns.iter().position(|(n, _)| n == name).ok_or_else(missing)
            })
            .collect::<Result<_, _>>()?;
        let lines = lines(&batch).map_err(|e| encode(e.to_string()))?;
        let ops = batch.column_by_name(OP_COLUMN).map(|c| c.as_string::<i32>());
        let mut keyless = 0;
        for (row, line) in lines.into_iter().enumerate() {
            let change = ops.map(|ops| ops.value(row));
            let (key, partition) = match &self.key {
                // The row after it, or its deletion, says all.
                Some(_) if change == Some(op::UPDATE_BEFORE) && self.key_stays(&columns, &at, row, batch.num_rows()) => continue,
                Some(pattern) => match pattern.fill(&columns, &at, row) {
                    Some(key) => (Some(key.clone()), partition_of(key.as_bytes(), partitions)),
                    None => {
                        keyless += 1;
                        continue;
                    }
                },
                None => (None, header.task % partitions),
            };
            let gone = self.key.is_some() && matches!(change, Some(op::DELETE | op::UPDATE_BEFORE));
            let seq = cursor.seqs.entry(partition).or_default();
            *seq += 1;
            let mut headers = vec![
                (INCARNATION_HEADER, cursor.incarnation.to_string()),
                (TASK_HEADER, header.task.to_string()),
                (EPOCH_HEADER, header.epoch.to_string()),
                (SEQ_HEADER, seq.to_string()),
            ];
            headers.extend(change.map(|op| (OP_HEADER, if gone { op::DELETE.to_owned() } else { op.to_owned() })));
            out.push(Outgoing { partition, key, value: (!gone).then_some(line), headers });
        }
        Ok(keyless)
    }

    /// True when the row after `row` has the same key: then nothing need be said of this one.
    fn key_stays(&self, columns: &[(String, Texts<'_>)], at: &[usize], row: usize, rows: usize) -> bool {
        let has_next = row + 1 < rows;
        has_next && self.key.as_ref().is_some_and(|pattern| pattern.fill(columns, at, row) == pattern.fill(columns, at, row + 1))
    }
}

#[async_trait]
impl Sink for KafkaSink {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn limits(&self) -> Limits {
        Limits { flush_interval: self.config.flush_interval, ..Limits::default() }
    }

    async fn cursor(&mut self, task: u32) -> Result<ChainPosition, SinkError> {
        let file = self.file(task);
        let cursor = read_cursor(&file)?;
        let position = cursor.position;
        self.cursors.insert(task, cursor);
        Ok(position)
    }

    async fn write(&mut self, task: u32, epochs: &[Arc<AcceptedEpoch>]) -> Result<(), SinkError> {
        if !self.cursors.contains_key(&task) {
            self.cursor(task).await?;
        }
        // Taken out while it is used: after a failure it is read again.
        let mut cursor = self.cursors.remove(&task).unwrap_or_default();
        let partitions = self.producer().await?.partitions();
        let before = cursor.position;
        let (mut records, mut keyless) = (Vec::new(), 0);
        for epoch in epochs {
            if !output::is_next(&self.config.name, &cursor.position, epoch)? {
                continue;
            }
            if cursor.position.epoch == 0 {
                cursor.incarnation = epoch.record.header.id;
            }
            keyless += self.records(epoch, partitions, &mut cursor, &mut records)?;
            cursor.position = output::after(epoch);
        }
        let rows = records.len();
        if rows > 0 {
            let sent = self.producer().await?.send(records).await;
            if sent.is_err() {
                // The next attempt has a producer of its own, whatever this one's trouble is.
                self.producer = None;
            }
            sent?;
        }
        // Epochs without rows move the cursor with the next one that has some; it stays a bounded way behind.
        if rows > 0 || cursor.position.epoch - before.epoch >= IDLE_EPOCHS_MAX {
            write_cursor(&self.file(task), &cursor)?;
        }
        self.cursors.insert(task, cursor);
        metrics::rows_written(&self.config.name, rows);
        if keyless > 0 {
            metrics::rows_rejected(&self.config.name, keyless);
            tracing::warn!(sink = self.config.name, task, rows = keyless, "rows without a value for a column of the key are left out");
        }
        Ok(())
    }
}

/// Epochs without rows after which the cursor is written all the same.
const IDLE_EPOCHS_MAX: u64 = 1_000;

/// Each row as one JSON object without the hidden columns; nulls are told.
fn lines(batch: &RecordBatch) -> Result<Vec<Vec<u8>>, arrow_schema::ArrowError> {
    let shown: Vec<usize> = (0..batch.num_columns()).filter(|i| batch.schema().field(*i).name() != OP_COLUMN).collect();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(&batch.project(&shown)?)?;
    writer.finish()?;
    let text = writer.into_inner();
    Ok(text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
}

fn file_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> SinkError + use<> {
    let path = path.display().to_string();
    move |source| SinkError::File { action, path: path.clone(), source }
}

/// No file is the start.
fn read_cursor(file: &Path) -> Result<Cursor, SinkError> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| SinkError::Damaged { path: file.display().to_string(), reason: e.to_string() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Cursor::default()),
        Err(e) => Err(file_error("read", file)(e)),
    }
}

/// Synced and renamed: a cursor is there whole or not at all.
fn write_cursor(file: &Path, cursor: &Cursor) -> Result<(), SinkError> {
    let failed = file_error("write", file);
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(&failed)?;
    let text = serde_json::to_vec(cursor).map_err(|e| SinkError::Damaged { path: file.display().to_string(), reason: e.to_string() })?;
    // Two owners of a task may write at once for a moment.
    let next = file.with_extension(format!("{}.next", std::process::id()));
    let write = || {
        let mut out = std::fs::File::create(&next)?;
        out.write_all(&text)?;
        out.sync_data()?;
        std::fs::rename(&next, file)
    };
    write().map_err(failed)
}

//! Rows as Parquet files, exactly once.
//!
//! Every file covers a run of epochs of one task and says so in its metadata; the next one starts right after it. The
//! newest file *is* the cursor: there is no other state that could disagree with it. A file gets its name whole and
//! synced, or not at all, and a name is given once, so a crash or a second sink at work cannot write a row twice. How
//! files are named and created is in `files`.
//!
//! Text, `BIGINT`, `DOUBLE`, `DECIMAL`, `TIMESTAMPTZ` (microseconds, UTC) and `BOOLEAN` become the Parquet types of the
//! same meaning; rows of an `EMIT CHANGES` view keep `_op`. All rows of a file have one schema; a later file of the same
//! view may have another one, when the job was changed between them. An epoch is never split between files.

mod files;

use crate::{Limits, Sink, SinkError, metrics, output};
use ::parquet::{
    arrow::ArrowWriter,
    basic::Compression,
    errors::ParquetError,
    file::{metadata::KeyValue, properties::WriterProperties},
};
use arrow_array::RecordBatch;
use async_trait::async_trait;
use files::{FileKind, Files, SPAN_KEY, Span};
use object_store::{ObjectStore, local::LocalFileSystem, path::Path};
use schemas::{AcceptedEpoch, ChainPosition};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

#[derive(Clone, Debug)]
pub struct ParquetSinkConfig {
    pub name: String,
    /// The output to take, and the name of its directory.
    pub view: String,
    /// Rows wait this long for more before a file is written.
    pub flush_interval: Duration,
    /// A file ends before the epoch that would take it over one of these.
    pub file_rows_max: usize,
    pub file_bytes_max: usize,
    /// So many epochs without a row after a file make an empty marker, so that the cursor follows. Sinks that may work
    /// on the same directory at once need the same number: it decides which names hold markers.
    pub marker_epochs: u64,
}

impl ParquetSinkConfig {
    pub fn new(name: impl Into<String>, view: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            view: view.into(),
            flush_interval: Duration::from_secs(1),
            file_rows_max: 100_000,
            file_bytes_max: 64 << 20,
            marker_epochs: 10_000,
        }
    }
}

pub struct ParquetSink {
    config: ParquetSinkConfig,
    files: Files,
    tasks: BTreeMap<u32, Progress>,
}

/// How far one task came: what is durable, and what was taken since then.
#[derive(Default)]
struct Progress {
    taken: ChainPosition,
    pending: Option<Pending>,
}

/// The file that is being filled. Between two writes it has no rows.
struct Pending {
    span: Span,
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl ParquetSink {
    /// Files under `prefix` of `store`, which creates objects whole and durable (S3, or memory in tests).
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path, config: ParquetSinkConfig) -> Self {
        let files = Files { store, local: None, prefix, view: config.view.clone() };
        Self { config, files, tasks: BTreeMap::new() }
    }

    /// Files under a local directory, which need not exist yet.
    pub fn local(directory: &std::path::Path, config: ParquetSinkConfig) -> Result<Self, SinkError> {
        let bad = |reason: String| SinkError::BadOption {
            sink: config.name.clone(),
            option: "path",
            value: directory.display().to_string(),
            expected: format!("a directory: {reason}"),
        };
        let absolute = std::path::absolute(directory).map_err(|e| bad(e.to_string()))?;
        let prefix = Path::from_absolute_path(absolute).map_err(|e| bad(e.to_string()))?;
        let files = Files { store: Arc::new(LocalFileSystem::new()), local: Some(LocalFileSystem::new()), prefix, view: config.view.clone() };
        Ok(Self { config, files, tasks: BTreeMap::new() })
    }

    async fn take(&self, progress: &mut Progress, epochs: &[Arc<AcceptedEpoch>]) -> Result<(), SinkError> {
        for epoch in epochs {
            if !output::is_next(&self.config.name, &progress.taken, epoch)? {
                continue;
            }
            let rows = output::rows_of(&epoch.record, &self.config.view).map_err(|e| self.encode_error(&e))?.map(|(_, rows)| rows);
            if let (Some(pending), Some(rows)) = (&progress.pending, &rows)
                && self.is_full(pending, rows)
            {
                self.close(progress).await?;
            }
            progress.take(&self.config.view, epoch, rows);
            // Whether a name holds rows or a marker follows from the chain alone, never from how it was batched: two
            // sinks at once would else create both.
            if progress.pending.as_ref().is_some_and(|p| p.rows == 0 && p.span.epochs() == self.config.marker_epochs) {
                self.close(progress).await?;
            }
        }
        if progress.pending.as_ref().is_some_and(|p| p.rows > 0) {
            self.close(progress).await?;
        }
        Ok(())
    }

    fn is_full(&self, pending: &Pending, more: &RecordBatch) -> bool {
        let other_schema = pending.batches.last().is_some_and(|b| b.schema() != more.schema());
        let too_large = pending.rows + more.num_rows() > self.config.file_rows_max || pending.bytes + more.get_array_memory_size() > self.config.file_bytes_max;
        pending.rows > 0 && (other_schema || too_large)
    }

    /// Writes the pending file.
    async fn close(&self, progress: &mut Progress) -> Result<(), SinkError> {
        let Some(pending) = progress.pending.take() else { return Ok(()) };
        let (span, rows) = (pending.span.clone(), pending.rows);
        let path = self.files.path(&span, if rows > 0 { FileKind::Rows } else { FileKind::Empty });
        let body = tokio::task::spawn_blocking(move || pending.encode()).await;
        let body = body.map_err(|e| SinkError::Worker { sink: self.config.name.clone(), reason: e.to_string() })?;
        let body = body.map_err(|e| self.encode_error(&e))?;
        if self.files.create(&path, body).await? {
            metrics::rows_written(&self.config.name, rows);
            return Ok(());
        }
        self.yield_to_existing(&span, &path).await
    }

    /// Another sink, or this one before a crash, created the file first. What it covers is durable; if that is not just
    /// what was to be written, reading on from the cursor leaves out what is there.
    async fn yield_to_existing(&self, span: &Span, path: &Path) -> Result<(), SinkError> {
        let existing = self.files.existing(span.task, path).await?;
        if (existing.parent, existing.first_id) != (span.parent, span.first_id) {
            return Err(SinkError::OtherChain { path: self.files.shown(path), epoch: span.first_epoch, found: existing.first_id, expected: span.first_id });
        }
        if existing.end() == span.end() {
            return Ok(());
        }
        Err(SinkError::CursorMoved { sink: self.config.name.clone(), task: span.task, found: existing.last_epoch, expected: span.last_epoch })
    }

    fn encode_error(&self, reason: &dyn std::fmt::Display) -> SinkError {
        SinkError::Encode { sink: self.config.name.clone(), view: self.config.view.clone(), reason: reason.to_string() }
    }
}

#[async_trait]
impl Sink for ParquetSink {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn limits(&self) -> Limits {
        Limits { flush_interval: self.config.flush_interval, ..Limits::default() }
    }

    async fn cursor(&mut self, task: u32) -> Result<ChainPosition, SinkError> {
        self.tasks.remove(&task);
        let taken = self.files.newest(task).await?.map_or_else(ChainPosition::default, |span| span.end());
        self.tasks.insert(task, Progress { taken, pending: None });
        Ok(taken)
    }

    async fn write(&mut self, task: u32, epochs: &[Arc<AcceptedEpoch>]) -> Result<(), SinkError> {
        if !self.tasks.contains_key(&task) {
            self.cursor(task).await?;
        }
        // Taken out while it works: after an error or a dropped future nothing half done is left, and the next write
        // begins with the listing.
        let mut progress = self.tasks.remove(&task).unwrap_or_default();
        self.take(&mut progress, epochs).await?;
        self.tasks.insert(task, progress);
        Ok(())
    }
}

impl Progress {
    fn take(&mut self, view: &str, epoch: &AcceptedEpoch, rows: Option<RecordBatch>) {
        let header = &epoch.record.header;
        let pending = self.pending.get_or_insert_with(|| Pending {
            span: Span {
                view: view.to_owned(),
                task: header.task,
                first_epoch: header.epoch,
                first_id: header.id,
                parent: header.parent,
                last_epoch: header.epoch,
                last_id: header.id,
                next_offset: epoch.offset + 1,
            },
            batches: Vec::new(),
            rows: 0,
            bytes: 0,
        });
        self.taken = output::after(epoch);
        pending.span = Span { last_epoch: header.epoch, last_id: header.id, next_offset: epoch.offset + 1, ..pending.span.clone() };
        if let Some(rows) = rows {
            pending.rows += rows.num_rows();
            pending.bytes += rows.get_array_memory_size();
            pending.batches.push(rows);
        }
    }
}

impl Pending {
    /// A Parquet file, or the span alone where there are no rows.
    fn encode(self) -> Result<Vec<u8>, ParquetError> {
        let span = serde_json::to_string(&self.span).map_err(|e| ParquetError::External(Box::new(e)))?;
        let Some(first) = self.batches.first() else { return Ok(span.into_bytes()) };
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("headend ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(vec![KeyValue::new(SPAN_KEY.to_owned(), span)]))
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), first.schema(), Some(properties))?;
        for batch in &self.batches {
            writer.write(batch)?;
        }
        writer.into_inner()
    }
}

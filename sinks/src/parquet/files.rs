//! The files of a Parquet sink: their names, what a file says about its place on the chain, and how one is created.
//!
//! A file is named by the first epoch that it covers: `<view>/task=<t>/<first epoch, 12 digits>.parquet`. Where it ends
//! stands inside it. The name leaves the end out on purpose: every file starts right after the end of the one before,
//! so two sinks that write at once try to create the *same* name, and create-if-absent lets one of them win whatever
//! their batches are. With the end in the name both would succeed, and rows would stand in two files.

use crate::SinkError;
use ::parquet::{
    errors::ParquetError,
    file::metadata::{ParquetMetaData, ParquetMetaDataReader},
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, local::LocalFileSystem, path::Path};
use schemas::{ChainPosition, EpochId};
use serde::{Deserialize, Serialize};
use std::{
    io,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

/// Key of the file's metadata under which its [`Span`] stands as JSON.
pub(super) const SPAN_KEY: &str = "headend.span";
/// The end of a file that is read at first; a footer that is larger is read again.
const FOOTER_BYTES: u64 = 64 * 1024;
/// A staged file this old belongs to a process that is gone.
const STAGED_AGE_MAX: Duration = Duration::from_secs(3600);
const STAGED: &str = ".staged";

/// The epochs that a file covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Span {
    pub(super) view: String,
    pub(super) task: u32,
    pub(super) first_epoch: u64,
    pub(super) first_id: EpochId,
    /// Id of the epoch before the first.
    pub(super) parent: EpochId,
    pub(super) last_epoch: u64,
    pub(super) last_id: EpochId,
    /// Offset in the epoch topic after the last epoch.
    pub(super) next_offset: u64,
}

impl Span {
    pub(super) fn end(&self) -> ChainPosition {
        ChainPosition { next_offset: self.next_offset, epoch: self.last_epoch, id: self.last_id }
    }

    pub(super) fn epochs(&self) -> u64 {
        self.last_epoch - self.first_epoch + 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Rows,
    /// Covers epochs that have no row for the view: JSON, not Parquet, so that `*.parquet` does not match it.
    Empty,
}

impl FileKind {
    fn extension(self) -> &'static str {
        match self {
            Self::Rows => "parquet",
            Self::Empty => "empty",
        }
    }
}

/// The directory of one view in a store.
pub(super) struct Files {
    pub(super) store: Arc<dyn ObjectStore>,
    /// Set when the store is the local file system, which has to be synced by hand.
    pub(super) local: Option<LocalFileSystem>,
    pub(super) prefix: Path,
    pub(super) view: String,
}

impl Files {
    pub(super) fn directory(&self, task: u32) -> Path {
        self.prefix.clone().join(self.view.as_str()).join(format!("task={task}"))
    }

    pub(super) fn path(&self, span: &Span, kind: FileKind) -> Path {
        self.directory(span.task).join(format!("{:012}.{}", span.first_epoch, kind.extension()))
    }

    /// The path as a person would type it.
    pub(super) fn shown(&self, path: &Path) -> String {
        let local = self.local.as_ref().and_then(|l| l.path_to_filesystem(path).ok());
        local.map_or_else(|| path.to_string(), |p| p.display().to_string())
    }

    fn store_error(&self, action: &'static str, path: &Path, source: object_store::Error) -> SinkError {
        SinkError::Store { action, path: self.shown(path), source }
    }

    /// The newest file of `task`, after a look at the one before it: files that overlap are refused.
    pub(super) async fn newest(&self, task: u32) -> Result<Option<Span>, SinkError> {
        let mut files = self.list(task).await?;
        files.sort_by(|a, b| b.location.cmp(&a.location));
        let Some(newest) = files.first() else { return Ok(None) };
        let span = self.read_span(task, newest).await?;
        let Some(previous) = files.get(1) else { return Ok(Some(span)) };
        let before = self.read_span(task, previous).await?;
        if before.last_epoch >= span.first_epoch {
            return Err(SinkError::Overlap { first: self.shown(&previous.location), second: self.shown(&newest.location), task, epoch: span.first_epoch });
        }
        if before.last_epoch + 1 == span.first_epoch && before.last_id != span.parent {
            return Err(SinkError::OtherChain { path: self.shown(&previous.location), epoch: before.last_epoch, found: before.last_id, expected: span.parent });
        }
        Ok(Some(span))
    }

    /// Files whose names are of this sink; whatever else lies there is left alone, except what a dead process staged.
    async fn list(&self, task: u32) -> Result<Vec<ObjectMeta>, SinkError> {
        let directory = self.directory(task);
        let all: Vec<ObjectMeta> = self.store.list(Some(&directory)).try_collect().await.map_err(|e| self.store_error("list", &directory, e))?;
        for staged in all.iter().filter(|f| f.location.as_ref().ends_with(STAGED)) {
            let age = SystemTime::now().duration_since(SystemTime::from(staged.last_modified)).unwrap_or_default();
            if age > STAGED_AGE_MAX {
                // Another sink may have removed it; what stays is only in the way.
                let _ = self.store.delete(&staged.location).await;
            }
        }
        Ok(all.into_iter().filter(|f| first_epoch_of(&f.location).is_some()).collect())
    }

    /// The span of the file that is in the way of `path`.
    pub(super) async fn existing(&self, task: u32, path: &Path) -> Result<Span, SinkError> {
        let meta = self.store.head(path).await.map_err(|e| self.store_error("read", path, e))?;
        self.read_span(task, &meta).await
    }

    async fn read_span(&self, task: u32, file: &ObjectMeta) -> Result<Span, SinkError> {
        let damaged = |reason: String| SinkError::Damaged { path: self.shown(&file.location), reason };
        let json = if file.location.extension() == Some(FileKind::Empty.extension()) {
            let body = self.store.get(&file.location).await.map_err(|e| self.store_error("read", &file.location, e))?;
            let body = body.bytes().await.map_err(|e| self.store_error("read", &file.location, e))?;
            String::from_utf8(body.to_vec()).map_err(|e| damaged(e.to_string()))?
        } else {
            let footer = self.read_footer(file).await?;
            let pairs = footer.file_metadata().key_value_metadata().map_or(&[][..], Vec::as_slice);
            let span = pairs.iter().find(|kv| kv.key == SPAN_KEY).and_then(|kv| kv.value.clone());
            span.ok_or_else(|| damaged(format!("its metadata has no `{SPAN_KEY}`")))?
        };
        let span: Span = serde_json::from_str(&json).map_err(|e| damaged(e.to_string()))?;
        if span.view != self.view || span.task != task || Some(span.first_epoch) != first_epoch_of(&file.location) || span.last_epoch < span.first_epoch {
            return Err(damaged(format!("it says view `{}`, task {}, epochs {} to {}", span.view, span.task, span.first_epoch, span.last_epoch)));
        }
        Ok(span)
    }

    async fn read_footer(&self, file: &ObjectMeta) -> Result<ParquetMetaData, SinkError> {
        let damaged = |e: ParquetError| SinkError::Damaged { path: self.shown(&file.location), reason: e.to_string() };
        let mut wanted = FOOTER_BYTES;
        loop {
            let from = file.size.saturating_sub(wanted);
            let tail: Bytes = match file.size {
                0 => Bytes::new(),
                size => self.store.get_range(&file.location, from..size).await.map_err(|e| self.store_error("read", &file.location, e))?,
            };
            let mut reader = ParquetMetaDataReader::new();
            match reader.try_parse_sized(&tail, file.size) {
                Ok(()) => return reader.finish().map_err(damaged),
                Err(ParquetError::NeedMoreData(needed)) if from > 0 && needed as u64 > wanted => wanted = needed as u64,
                Err(e) => return Err(damaged(e)),
            }
        }
    }

    /// Creates the file whole and durable, unless it is there. `false`: it is there already.
    pub(super) async fn create(&self, path: &Path, body: Vec<u8>) -> Result<bool, SinkError> {
        let Some(local) = &self.local else {
            let options = PutOptions::from(PutMode::Create);
            return match self.store.put_opts(path, body.into(), options).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
                Err(e) => Err(self.store_error("write", path, e)),
            };
        };
        let file = local.path_to_filesystem(path).map_err(|e| self.store_error("write", path, e))?;
        let shown = self.shown(path);
        let created = tokio::task::spawn_blocking(move || create_synced(&file, &body)).await;
        let created = created.map_err(|e| SinkError::Worker { sink: self.view.clone(), reason: e.to_string() })?;
        match created {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(SinkError::File { action: "write", path: shown, source }),
        }
    }
}

/// `000000000017.parquet` and `000000000017.empty` are 17; any other name is not of this sink.
fn first_epoch_of(path: &Path) -> Option<u64> {
    let (digits, extension) = path.filename()?.split_once('.')?;
    let ours = digits.len() >= 12 && digits.bytes().all(|b| b.is_ascii_digit()) && [FileKind::Rows, FileKind::Empty].iter().any(|k| k.extension() == extension);
    if ours { digits.parse().ok() } else { None }
}

/// object_store's own local create links the file into place without syncing it, so that after a loss of power a torn
/// file can stand under the final name. The order here is what matters: bytes synced, then the name, then the
/// directories that hold the name.
fn create_synced(file: &std::path::Path, body: &[u8]) -> io::Result<()> {
    static STAGED_FILES: AtomicU64 = AtomicU64::new(0);
    let directory = file.parent().unwrap_or(file);
    let new_directory = !directory.is_dir();
    std::fs::create_dir_all(directory)?;
    let staged = file.with_extension(format!("{}-{}{STAGED}", std::process::id(), STAGED_FILES.fetch_add(1, Ordering::Relaxed)));
    let linked = write_synced(&staged, body).and_then(|()| std::fs::hard_link(&staged, file));
    let _ = std::fs::remove_file(&staged);
    // Also when another sink's file was there first: it is about to be relied on.
    if linked.as_ref().err().is_none_or(|e| e.kind() == io::ErrorKind::AlreadyExists) {
        // `task=<t>`, the view, the prefix and what holds it may all be new.
        let depth = if new_directory { 4 } else { 1 };
        for holder in directory.ancestors().take(depth) {
            std::fs::File::open(holder)?.sync_all()?;
        }
    }
    linked
}

fn write_synced(file: &std::path::Path, body: &[u8]) -> io::Result<()> {
    let mut out = std::fs::File::create(file)?;
    io::Write::write_all(&mut out, body)?;
    out.sync_all()
}

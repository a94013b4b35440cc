//! Snapshots: a task's state at an epoch of the accepted chain, as Arrow IPC files and a manifest with their checksums.
//!
//! A snapshot is a cache: recovery takes the newest one that verifies, and the log gives the rest. Files are created if absent and the
//! manifest is written last, so a snapshot that was cut off has no manifest and does not exist.

use crate::state::{Frozen, Pieces, StateError};
use arrow_array::RecordBatch;
use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};
use schemas::{ChainPosition, Versions, ipc};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};
use xxhash_rust::xxh3::xxh3_64;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("snapshot store: {0}")]
    Store(#[from] object_store::Error),
    #[error("{0}")]
    State(#[from] StateError),
    #[error("snapshot `{file}` is damaged: {reason}")]
    Damaged { file: String, reason: String },
}

/// What a snapshot stands for, and its files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub group: String,
    pub task: u32,
    /// The epoch, its id and the next offset of the epoch topic.
    pub position: ChainPosition,
    /// Next offset of each input, in the task's order.
    pub inputs: Vec<u64>,
    pub versions: Versions,
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    pub name: String,
    pub meta: serde_json::Value,
    pub files: Vec<PartFile>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartFile {
    pub batch: String,
    pub file: String,
    pub bytes: u64,
    pub xxh3: String,
}

/// Snapshots of one task.
#[derive(Clone)]
pub struct SnapshotStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl SnapshotStore {
    pub fn new(store: Arc<dyn ObjectStore>, group: &str, task: u32) -> Self {
        Self { store, prefix: Path::from(format!("snapshots/{group}/{task}")) }
    }

    /// Writes a frozen state. Blocking work (encoding) happens here, away from the task.
    pub async fn write(&self, mut manifest: Manifest, parts: Vec<(String, Frozen)>) -> Result<Manifest, SnapshotError> {
        let dir = format!("{}/{:012}-{}", self.prefix, manifest.position.epoch, manifest.position.id);
        let mut number = 0;
        for (name, frozen) in parts {
            let Pieces { meta, batches } = frozen()?;
            let mut files = Vec::new();
            for (batch_name, batch) in batches {
                let bytes = ipc::encode(&batch).map_err(StateError::Arrow)?;
                let file = format!("{dir}/{number:04}.arrow");
                number += 1;
                files.push(PartFile { batch: batch_name, file: file.clone(), bytes: bytes.len() as u64, xxh3: format!("{:016x}", xxh3_64(&bytes)) });
                self.put(&file, bytes).await?;
            }
            manifest.parts.push(Part { name, meta, files });
        }
        let body = serde_json::to_vec(&manifest).map_err(StateError::Meta)?;
        let mut sealed = format!("{:016x}\n", xxh3_64(&body)).into_bytes();
        sealed.extend_from_slice(&body);
        self.put(&format!("{dir}/manifest.json"), sealed).await?;
        Ok(manifest)
    }

    async fn put(&self, file: &str, bytes: Vec<u8>) -> Result<(), SnapshotError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&Path::from(file), bytes.into(), options).await {
            // The same epoch id was snapshotted before: its bytes are there.
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Manifests' paths, newest epoch first.
    pub async fn list(&self) -> Result<Vec<Path>, SnapshotError> {
        let objects: Vec<_> = self.store.list(Some(&self.prefix)).try_collect().await?;
        let mut manifests: Vec<Path> = objects.into_iter().map(|o| o.location).filter(|p| p.filename() == Some("manifest.json")).collect();
        manifests.sort_unstable_by(|a, b| b.as_ref().cmp(a.as_ref()));
        Ok(manifests)
    }

    /// True while the snapshot is there: two owners of a task may both delete old ones for a moment.
    pub async fn stands(&self, manifest: &Path) -> Result<bool, SnapshotError> {
        match self.store.head(manifest).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Reads a manifest and verifies it, not the files that it names.
    pub async fn manifest(&self, manifest: &Path) -> Result<Manifest, SnapshotError> {
        let damaged = |file: &str, reason: String| SnapshotError::Damaged { file: file.to_owned(), reason };
        let sealed = self.store.get(manifest).await?.bytes().await?;
        let name = manifest.as_ref();
        let (sum, body) = sealed.split_at_checked(17).ok_or_else(|| damaged(name, "it is cut off".to_owned()))?;
        let found = format!("{:016x}\n", xxh3_64(body));
        if found.as_bytes() != sum {
            return Err(damaged(name, format!("its checksum is `{}`", found.trim_end())));
        }
        serde_json::from_slice(body).map_err(|e| damaged(name, e.to_string()))
    }

    /// Reads a snapshot whole and verifies every byte of it.
    pub async fn read(&self, manifest: &Path) -> Result<(Manifest, BTreeMap<String, Pieces>), SnapshotError> {
        let read = self.manifest(manifest).await?;
        let mut parts = BTreeMap::new();
        for part in &read.parts {
            let mut pieces = Pieces { meta: part.meta.clone(), batches: Vec::new() };
            for file in &part.files {
                pieces.batches.push((file.batch.clone(), self.read_file(file).await?));
            }
            parts.insert(part.name.clone(), pieces);
        }
        Ok((read, parts))
    }

    async fn read_file(&self, file: &PartFile) -> Result<RecordBatch, SnapshotError> {
        let damaged = |reason: String| SnapshotError::Damaged { file: file.file.clone(), reason };
        let bytes = match self.store.get(&Path::from(file.file.as_str())).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Err(damaged("it is missing".to_owned())),
            Err(e) => return Err(e.into()),
        };
        let found = format!("{:016x}", xxh3_64(&bytes));
        if found != file.xxh3 {
            return Err(damaged(format!("its checksum is `{found}`, the manifest says `{}`", file.xxh3)));
        }
        ipc::decode(&bytes).map_err(|e| damaged(e.to_string()))
    }

    /// Deletes all but the `keep` newest snapshots, manifests first.
    pub async fn prune(&self, keep: usize) -> Result<(), SnapshotError> {
        for manifest in self.list().await?.into_iter().skip(keep) {
            self.store.delete(&manifest).await?;
            let dir = manifest.as_ref().trim_end_matches("/manifest.json").to_owned();
            let files: Vec<_> = self.store.list(Some(&Path::from(dir))).try_collect().await?;
            for file in files {
                self.store.delete(&file.location).await?;
            }
        }
        Ok(())
    }
}

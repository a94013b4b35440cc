//! Upkeep of epoch topics: records that nobody needs any more are deleted, by whoever owns the task.
//!
//! A record is needed by the task's own recovery (from its oldest kept snapshot on), by every sink that has not written it, by every task
//! of another level whose recovery would read it, and, where it is a room task's, by a gateway that starts. The least of these is where
//! the topic may begin. Who has fewer than two snapshots is not safe yet and holds everything.

use super::{EngineConfig, TaskError, runner::sinks_of, task_loop::BuildTask};
use ingest::{ErrorKind, log::Log};
use object_store::ObjectStore;
use schemas::ChainPosition;
use std::{sync::Arc, time::Duration};
use stream_jobs::{
    plan::Job,
    rooms::rooms_group,
    snapshot::{Manifest, SnapshotError, SnapshotStore},
    task::{InputSpec, epoch_topic},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// Below this many a snapshot that turns out damaged could not be replaced by an older one.
const SNAPSHOTS_MIN: usize = 2;
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// A task of another level that reads this one's epochs.
pub struct Reader {
    pub group: String,
    pub task: u32,
    pub build: BuildTask,
}

/// The upkeep of one partition of an epoch topic.
pub struct Upkeep {
    pub group: String,
    pub level: Option<u8>,
    pub partition: u32,
    pub job: Arc<Job>,
    pub log: Arc<dyn Log>,
    pub snapshots: Arc<dyn ObjectStore>,
    pub readers: Vec<Reader>,
    pub config: EngineConfig,
    pub interval: Duration,
}

/// Snapshots of the rooms as gateways serve them.
pub fn rooms_snapshots(snapshots: &Arc<dyn ObjectStore>, job: &str) -> SnapshotStore {
    SnapshotStore::new(Arc::clone(snapshots), &rooms_snapshots_group(job), 0)
}

pub fn rooms_snapshots_group(job: &str) -> String {
    format!("{}.served", rooms_group(job))
}

/// The oldest snapshot that is kept of a task.
pub async fn oldest(snapshots: &SnapshotStore) -> Result<Option<(Manifest, usize)>, SnapshotError> {
    let kept = snapshots.list().await?;
    let Some(path) = kept.last() else { return Ok(None) };
    Ok(Some((snapshots.manifest(path).await?, kept.len())))
}

/// Where a reader that knows of nothing begins: at the start of the log, or at the oldest snapshot where that is deleted. Waits for a log
/// that does not answer.
pub async fn first_known(log: &Arc<dyn Log>, topic: &str, partition: u32, snapshots: &SnapshotStore) -> Result<ChainPosition, TaskError> {
    let start = loop {
        match log.start(topic, partition).await {
            Err(e) if e.kind() == ErrorKind::Retry => tokio::time::sleep(RETRY_WAIT).await,
            start => break start?,
        }
    };
    let oldest = if start > 0 { oldest(snapshots).await? } else { None };
    Ok(oldest.map_or_else(ChainPosition::default, |(manifest, _)| manifest.position))
}

#[derive(Debug, thiserror::Error)]
enum UpkeepError {
    #[error("{0}")]
    Log(#[from] ingest::LogError),
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error("{0}")]
    Sink(#[from] sinks::SinkError),
    #[error("{0}")]
    Task(#[from] TaskError),
}

impl Upkeep {
    /// Until `stop`. What fails is tried again the next time: nothing is lost by keeping more.
    pub async fn run(self, stop: CancellationToken) {
        let topic = epoch_topic(&self.group);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.interval) => {}
            }
            match self.delete().await {
                Ok(None) => {}
                Ok(Some((before, deleted))) => {
                    metrics::counter!("headend_epochs_deleted_total", "group" => self.group.clone()).increment(deleted);
                    info!(topic, partition = self.partition, before, deleted, "deleted epoch records that nobody needs any more");
                }
                Err(error) => debug!(topic, partition = self.partition, %error, "epoch records are not deleted"),
            }
        }
    }

    async fn delete(&self) -> Result<Option<(u64, u64)>, UpkeepError> {
        let topic = epoch_topic(&self.group);
        let start = self.log.start(&topic, self.partition).await?;
        let Some(before) = self.needed_from().await?.filter(|before| *before > start) else { return Ok(None) };
        self.log.delete_before(&topic, self.partition, before).await?;
        Ok(Some((before, before - start)))
    }

    /// The first offset that somebody may read again; `None` while somebody may need all of them.
    async fn needed_from(&self) -> Result<Option<u64>, UpkeepError> {
        let Some(own) = self.snapshot_of(&self.group, self.partition).await? else { return Ok(None) };
        let mut least = stands_on(&own.position);
        for reader in &self.readers {
            let inputs = (reader.build)(&self.config).map_err(TaskError::from)?.inputs().to_vec();
            let of_this = |spec: &InputSpec| matches!(spec, InputSpec::Epochs { group, partition } if *group == self.group && *partition == self.partition);
            let Some(input) = inputs.iter().position(of_this) else { continue };
            let Some(snapshot) = self.snapshot_of(&reader.group, reader.task).await? else { return Ok(None) };
            least = least.min(snapshot.inputs.get(input).copied().unwrap_or(0));
        }
        for mut sink in sinks_of(&self.config, &self.job, self.level)? {
            least = least.min(sink.cursor(self.partition).await?.next_offset);
        }
        if self.level.is_none() {
            let Some(served) = self.snapshot_of(&rooms_snapshots_group(&self.job.name), 0).await? else { return Ok(None) };
            least = least.min(stands_on(&served.position));
        }
        Ok(Some(least))
    }

    /// The oldest of a task's snapshots, where there are enough of them.
    async fn snapshot_of(&self, group: &str, task: u32) -> Result<Option<Manifest>, UpkeepError> {
        let kept = oldest(&SnapshotStore::new(Arc::clone(&self.snapshots), group, task)).await?;
        Ok(kept.filter(|(_, n)| *n >= SNAPSHOTS_MIN).map(|(manifest, _)| manifest))
    }
}

/// The record that a position stands on is kept: it shows that the position is on the chain.
fn stands_on(position: &ChainPosition) -> u64 {
    position.next_offset.saturating_sub(1)
}

//! An engine over a log that holds all its events, from its start until the tasks of a view have told the end of their sources.

use crate::machine::{Clock, Probe, Took, Watched};
use anyhow::{Context, bail};
use headend::engine::{Engine, EngineConfig, Totals, chain::ChainFollower, runner::skippers};
use ingest::Log;
use object_store::{ObjectStore, local::LocalFileSystem};
use schemas::{AcceptedEpoch, ChainPosition, EpochRecord};
use std::{path::Path, sync::Arc, time::Duration};
use stream_jobs::{
    snapshot::SnapshotStore,
    task::{InputSpec, epoch_topic, level_group},
};
use tokio_util::sync::CancellationToken;

/// How often a running engine is asked whether it has come to the end.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// One that has not come to the end by then will not.
const RUN_MAX: Duration = Duration::from_secs(3600);
const LAST_RECORD_BYTES: usize = 1024 * 1024;

pub struct Timed {
    pub took: Took,
    pub watched: Watched,
    pub totals: Arc<Totals>,
    pub tasks: Tasks,
    pub snapshots_kept: usize,
    /// Of the newest snapshot of each task.
    pub snapshot_bytes: u64,
}

/// The tasks of a view's level: their end is the end of the run.
pub struct Tasks {
    group: String,
    count: u32,
    /// Rows that level 1 takes in.
    rows: u64,
}

/// Runs the job over what the log holds. Snapshots go to the folder.
pub async fn run(config: EngineConfig, log: &Arc<dyn Log>, view: &str, snapshots: &Path) -> anyhow::Result<Timed> {
    std::fs::create_dir_all(snapshots)?;
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(snapshots)?);
    let tasks = Tasks::of(&config, log.as_ref(), view).await?;
    let stop = CancellationToken::new();
    let probe = Probe::start()?;
    let clock = Clock::start();
    let engine = Engine::start(config, Arc::clone(log), Arc::clone(&store), stop.clone()).await?;
    let totals = Arc::clone(&engine.totals);
    let mut running = tokio::spawn(engine.join());
    tokio::select! {
        ended = tokio::time::timeout(RUN_MAX, tasks.until_ended(log, &totals)) => ended.context("the engine does not come to the end of the events")??,
        stopped = &mut running => {
            stopped.context("the engine broke")??;
            bail!("the engine stopped before the end of the events");
        }
    }
    let took = clock.took();
    let watched = probe.stop().await?;
    let (snapshots_kept, snapshot_bytes) = tasks.snapshots(&store).await?;
    stop.cancel();
    running.await.context("the engine broke")??;
    Ok(Timed { took, watched, totals, tasks, snapshots_kept, snapshot_bytes })
}

impl Tasks {
    async fn of(config: &EngineConfig, log: &dyn Log, view: &str) -> anyhow::Result<Self> {
        let (job, _) = config.plan()?;
        let level = job.views.iter().find(|v| v.name == view).with_context(|| format!("the job has no view `{view}`"))?.level;
        let count = if level == 1 { config.partitions } else { config.upper_partitions };
        let level1 = level_group(&job.name, 1);
        let mut rows = 0;
        for task in skippers(config, &job)?.iter().filter(|t| t.group == level1) {
            for input in &task.inputs {
                if let InputSpec::Source { topic, partition, .. } = input {
                    // The last record is the marker of the end.
                    rows += log.end(topic, *partition).await?.saturating_sub(1);
                }
            }
        }
        Ok(Self { group: level_group(&job.name, level), count, rows })
    }

    /// Waits until every task has an epoch that tells the end of its sources. It looks at one record now and then, and only once all
    /// events are in, so that watching costs the engine next to nothing.
    async fn until_ended(&self, log: &Arc<dyn Log>, totals: &Totals) -> anyhow::Result<()> {
        while Totals::get(&totals.rows_in) < self.rows {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let topic = epoch_topic(&self.group);
        for task in 0..self.count {
            let (mut seen, mut looked_at) = (0, 0);
            loop {
                let end = log.end(&topic, task).await?;
                // A topic that has just grown grows on.
                if end == seen && end > looked_at {
                    if tells_the_end(log, &topic, task, end - 1).await? {
                        break;
                    }
                    looked_at = end;
                }
                seen = end;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// How many snapshots are there, and the bytes of the newest of each task.
    async fn snapshots(&self, store: &Arc<dyn ObjectStore>) -> anyhow::Result<(usize, u64)> {
        let (mut kept, mut bytes) = (0, 0);
        for task in 0..self.count {
            let of_task = SnapshotStore::new(Arc::clone(store), &self.group, task);
            let manifests = of_task.list().await?;
            kept += manifests.len();
            if let Some(newest) = manifests.first() {
                bytes += of_task.manifest(newest).await?.parts.iter().flat_map(|part| &part.files).map(|file| file.bytes).sum::<u64>();
            }
        }
        Ok((kept, bytes))
    }

    /// Hands on every accepted epoch, task by task.
    pub async fn epochs(&self, log: &Arc<dyn Log>, mut take: impl FnMut(&AcceptedEpoch) -> anyhow::Result<()>) -> anyhow::Result<()> {
        for task in 0..self.count {
            let mut follower = ChainFollower::new(log, &epoch_topic(&self.group), task, ChainPosition::default())?;
            loop {
                let (epochs, caught_up) = follower.next_epochs(64, Duration::ZERO).await?;
                epochs.iter().try_for_each(&mut take)?;
                if caught_up {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Whether the epoch that stands at `offset` tells the end of its task's sources.
async fn tells_the_end(log: &Arc<dyn Log>, topic: &str, task: u32, offset: u64) -> anyhow::Result<bool> {
    let fetched = log.reader(topic, task, offset)?.fetch(1, LAST_RECORD_BYTES, Duration::from_secs(1)).await?;
    let Some(record) = fetched.records.first() else { return Ok(false) };
    Ok(EpochRecord::decode_header(record.value.as_deref().unwrap_or_default())?.watermark == Some(i64::MAX))
}

/// Lets the log forget the epochs of a job: a bench runs many over one log.
pub async fn forget(config: &EngineConfig, log: &dyn Log) -> anyhow::Result<()> {
    let (job, _) = config.plan()?;
    for topic in config.topics(&job).iter().filter(|t| t.name.starts_with("epochs.")) {
        for partition in 0..topic.partitions {
            // The room tasks' topic is created with the others.
            let end = log.end(&topic.name, partition).await?;
            log.delete_before(&topic.name, partition, end).await?;
        }
    }
    Ok(())
}

//! `headend tasks`: who works on what, and how far it is, as the epoch topics and the snapshots say.

use super::topics::open_log;
use crate::{
    cli::TasksArgs,
    config::Config,
    engine::{
        chain::{ChainFollower, EPOCHS_AT_ONCE},
        runner,
    },
};
use anyhow::Context;
use ingest::{Log, LogError};
use object_store::local::LocalFileSystem;
use schemas::{ChainPosition, EpochHeader, EpochKind, clock::rfc3339};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use stream_jobs::{snapshot::SnapshotStore, task::epoch_topic};

#[derive(Serialize)]
struct TaskRow {
    group: String,
    task: u32,
    /// Who appended the newest accepted epoch; none before the first.
    owner: Option<String>,
    epoch: u64,
    watermark: Option<String>,
    /// Records of the inputs that no accepted epoch has taken yet.
    lag: u64,
    /// Bytes of the newest snapshot, and its epoch.
    state_bytes: Option<u64>,
    snapshot_epoch: Option<u64>,
    /// Records of the epoch topic that lost against an earlier one, since the snapshot.
    ignored: u64,
}

pub async fn run(args: &TasksArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config.config)?;
    let engine = super::run::engine_config(&config)?;
    let (job, _) = engine.plan()?;
    let log = open_log(&config).await?;
    let mut rows = Vec::new();
    for (group, partitions) in runner::tasks(&engine, &job) {
        for task in 0..partitions {
            match row(&log, &config, &group, task).await {
                Ok(row) => rows.push(row),
                Err(e) => {
                    log.close().await;
                    return Err(e);
                }
            }
        }
    }
    log.close().await;
    if args.json {
        return super::print(serde_json::to_string_pretty(&rows)?);
    }
    super::print(format!(
        "{:<28} {:>4} {:<16} {:>9} {:<28} {:>10} {:>12} {:>8}",
        "group", "task", "owner", "epoch", "watermark", "lag", "state bytes", "ignored"
    ))?;
    rows.iter().try_for_each(|r| {
        let (owner, watermark) = (r.owner.as_deref().unwrap_or("-"), r.watermark.as_deref().unwrap_or("-"));
        let state = r.state_bytes.map_or_else(|| "-".to_owned(), |b| b.to_string());
        super::print(format!("{:<28} {:>4} {owner:<16} {:>9} {watermark:<28} {:>10} {state:>12} {:>8}", r.group, r.task, r.epoch, r.lag, r.ignored))
    })
}

async fn row(log: &Arc<dyn Log>, config: &Config, group: &str, task: u32) -> anyhow::Result<TaskRow> {
    let (position, snapshot) = snapshots(config, group, task).await?;
    let topic = epoch_topic(group);
    let mut row = TaskRow {
        group: group.to_owned(),
        task,
        owner: None,
        epoch: position.epoch,
        watermark: None,
        lag: 0,
        state_bytes: snapshot.map(|s| s.0),
        snapshot_epoch: snapshot.map(|s| s.1),
        ignored: 0,
    };
    let mut follower = match ChainFollower::new(log, &topic, task, position) {
        Ok(follower) => follower,
        Err(crate::engine::chain::ChainError::Log(LogError::UnknownTopic { .. })) => return Ok(row),
        Err(e) => return Err(e.into()),
    };
    // Epochs that come meanwhile are not waited for.
    let end = log.end(&topic, task).await?;
    let mut newest: Option<EpochHeader> = None;
    let mut cut: BTreeMap<(String, u32), u64> = BTreeMap::new();
    while follower.position().next_offset < end {
        let (epochs, _) = follower.next_epochs(EPOCHS_AT_ONCE, Duration::ZERO).await.with_context(|| format!("cannot read `{topic}/{task}`"))?;
        for epoch in &epochs {
            let header = &epoch.record.header;
            if header.kind != EpochKind::Claim {
                cut.extend(header.cut.iter().map(|c| ((c.topic.clone(), c.partition), c.to)));
                row.watermark = header.watermark.filter(|w| *w != i64::MAX).map(rfc3339).or(row.watermark);
            }
            newest = Some(header.clone());
        }
    }
    row.ignored = follower.ignored();
    if let Some(header) = newest {
        (row.owner, row.epoch) = (Some(header.owner), header.epoch);
    }
    for ((topic, partition), to) in cut {
        row.lag += log.end(&topic, partition).await?.saturating_sub(to);
    }
    Ok(row)
}

/// Where the snapshot before the newest stands (at the newest one's epoch nothing may have come after it, and nothing would be there to
/// show), and the newest one's bytes and epoch. Damaged ones are passed over, as recovery does.
async fn snapshots(config: &Config, group: &str, task: u32) -> anyhow::Result<(ChainPosition, Option<(u64, u64)>)> {
    if !config.engine.dir.exists() {
        return Ok((ChainPosition::default(), None));
    }
    let files = Arc::new(LocalFileSystem::new_with_prefix(&config.engine.dir).with_context(|| format!("cannot read `{}`", config.engine.dir.display()))?);
    let store = SnapshotStore::new(files, group, task);
    let mut newest = None;
    for path in store.list().await? {
        let Ok(manifest) = store.manifest(&path).await else { continue };
        if newest.is_some() {
            return Ok((manifest.position, newest));
        }
        newest = Some((manifest.parts.iter().flat_map(|p| &p.files).map(|f| f.bytes).sum(), manifest.position.epoch));
    }
    Ok((ChainPosition::default(), newest))
}

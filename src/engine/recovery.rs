//! Recovery: the newest snapshot that verifies, then every accepted epoch after it, run again and compared.

use super::{
    TaskError, Totals,
    feed::InputReader,
    task_loop::{Counted, TaskSetup},
};
use ingest::log::Log;
use schemas::{AcceptedEpoch, ChainPosition, EpochKind, Versions, epoch::output_hash};
use std::{sync::Arc, time::Duration};
use stream_jobs::{
    snapshot::{SnapshotError, SnapshotStore},
    task::{EpochInput, InputCut, Task, epoch_topic},
};
use tracing::{error, info, warn};

/// A task as it stood after the last accepted epoch.
pub struct Recovered {
    pub task: Box<dyn Task>,
    pub position: ChainPosition,
    /// Next offset of each input.
    pub inputs: Vec<u64>,
    /// What the last epoch told as the task's watermarks.
    pub told: super::task_loop::Told,
}

pub async fn recover(setup: &TaskSetup, counted: &Counted) -> Result<Recovered, TaskError> {
    let totals = &counted.totals;
    let mut recovered = from_snapshot(setup, totals).await?;
    let topic = epoch_topic(&setup.group);
    let mut follower = super::chain::ChainFollower::new(&setup.log, &topic, setup.partition, recovered.position)?;
    let mut rerun = 0;
    loop {
        let (epochs, caught_up) = follower.next_epochs(256, Duration::ZERO).await?;
        for epoch in &epochs {
            if epoch.record.header.kind == EpochKind::Work {
                run_again(setup, &mut recovered, epoch, totals).await?;
                counted.found(epoch.record.header.epoch, &epoch.record.header.counters);
                rerun += 1;
            }
        }
        if caught_up && epochs.is_empty() {
            break;
        }
    }
    recovered.position = follower.position();
    Totals::add(&totals.ignored, follower.ignored());
    if recovered.position.epoch > 0 {
        Totals::add(&totals.recoveries, 1);
        info!(group = setup.group, task = setup.partition, epoch = recovered.position.epoch, rerun, "recovered");
    }
    Ok(recovered)
}

impl From<super::chain::ChainError> for TaskError {
    fn from(e: super::chain::ChainError) -> Self {
        match e {
            super::chain::ChainError::Log(e) => Self::Log(e),
            super::chain::ChainError::Record { topic, partition, offset, source } => Self::Epoch { topic, partition, offset, source },
        }
    }
}

/// The newest snapshot that verifies, or the empty state.
async fn from_snapshot(setup: &TaskSetup, totals: &Totals) -> Result<Recovered, TaskError> {
    let store = SnapshotStore::new(Arc::clone(&setup.snapshots), &setup.group, setup.partition);
    'listed: loop {
        for path in store.list().await? {
            match store.read(&path).await {
                Ok((manifest, parts)) if is_on_chain(&setup.log, setup, &manifest.position).await? => {
                    if manifest.versions != setup.versions {
                        return Err(other_version(setup, &manifest.versions));
                    }
                    let mut task = (setup.build)()?;
                    task.restore(parts)?;
                    return Ok(Recovered { task, position: manifest.position, inputs: manifest.inputs, told: super::task_loop::Told::default() });
                }
                Ok((manifest, _)) => {
                    warn!(group = setup.group, task = setup.partition, epoch = manifest.position.epoch, "snapshot is not on the accepted chain, passed over")
                }
                // Deleted while it was read: whoever owned the task before has written newer ones.
                Err(_) if !store.stands(&path).await? => continue 'listed,
                Err(SnapshotError::Damaged { file, reason }) => {
                    Totals::add(&totals.damaged_snapshots, 1);
                    error!(
                        group = setup.group,
                        task = setup.partition,
                        file,
                        reason,
                        "snapshot is damaged, passed over: the one before it and the log fill the rest"
                    );
                }
                Err(e) => return Err(e.into()),
            }
        }
        break;
    }
    let task = (setup.build)()?;
    let inputs = vec![0; task.inputs().len()];
    Ok(Recovered { task, position: ChainPosition::default(), inputs, told: super::task_loop::Told::default() })
}

/// True when the record before the snapshot's offset is the one that the snapshot stands for.
async fn is_on_chain(log: &Arc<dyn Log>, setup: &TaskSetup, position: &ChainPosition) -> Result<bool, TaskError> {
    let topic = epoch_topic(&setup.group);
    let Some(offset) = position.next_offset.checked_sub(1) else { return Ok(false) };
    if offset >= log.end(&topic, setup.partition).await? {
        return Ok(false);
    }
    let fetched = log.reader(&topic, setup.partition, offset)?.fetch(1, 16 << 20, Duration::ZERO).await?;
    let header = fetched.records.first().and_then(|r| schemas::EpochRecord::decode_header(r.value.as_deref().unwrap_or_default()).ok());
    Ok(header.is_some_and(|h| h.id == position.id && h.epoch == position.epoch))
}

fn other_version(setup: &TaskSetup, recorded: &Versions) -> TaskError {
    TaskError::OtherVersion { group: setup.group.clone(), task: setup.partition, recorded: shown(recorded), running: shown(&setup.versions) }
}

fn shown(v: &Versions) -> String {
    format!("engine {}, sql {}, models [{}]", v.engine, v.sql, v.models.join(", "))
}

/// Runs one accepted epoch again and compares its outputs with what was recorded.
async fn run_again(setup: &TaskSetup, recovered: &mut Recovered, epoch: &AcceptedEpoch, totals: &Totals) -> Result<(), TaskError> {
    let header = &epoch.record.header;
    let specs = recovered.task.inputs().to_vec();
    let mut inputs = Vec::with_capacity(specs.len());
    for (i, (spec, range)) in specs.iter().zip(&header.cut).enumerate() {
        let content = if range.from == range.to {
            stream_jobs::task::Content::Nothing
        } else {
            let mut reader = InputReader::new(&setup.log, spec, &setup.sources, setup.partitions, range.from, setup.appended_us)?;
            reader.read_range(range.from, range.to).await?.content
        };
        recovered.inputs[i] = range.to;
        inputs.push(InputCut { from: range.from, to: range.to, caught_up: range.caught_up, content });
    }
    let output = recovered.task.process(EpochInput { now_ms: header.now_ms, inputs })?;
    let found = output_hash(&output.outputs);
    if found != header.output_hash {
        if header.versions != setup.versions {
            return Err(other_version(setup, &header.versions));
        }
        return Err(TaskError::Diverged {
            group: setup.group.clone(),
            task: setup.partition,
            epoch: header.epoch,
            found,
            recorded: header.output_hash.clone(),
        });
    }
    recovered.told = super::task_loop::Told { watermark: output.watermark, watermarks: output.watermarks };
    Totals::add(&totals.verified, 1);
    metrics::counter!("headend_epochs_verified_total", "group" => setup.group.clone()).increment(1);
    Ok(())
}

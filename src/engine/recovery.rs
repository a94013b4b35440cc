//! Recovery: the newest snapshot that verifies, then every accepted epoch after it, run again and compared.

use super::{
    TaskError, Totals,
    chain::is_on_chain,
    feed::{InputDecoder, InputReader},
    task_loop::{Counted, TaskSetup},
    versions::JobVersion,
};
use ingest::LogError;
use schemas::{AcceptedEpoch, ChainPosition, CutRange, EpochHeader, EpochKind, EpochRecord, Versions, epoch::output_hash};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use stream_jobs::{
    plan::SourceSpec,
    snapshot::{SnapshotError, SnapshotStore},
    task::{Content, EpochInput, InputCut, InputSpec, Task, epoch_topic},
};
use tracing::{error, info, warn};

/// An end waits no longer for counts.
const COUNT_MAX: Duration = Duration::from_secs(1);

/// A task as it stood after the last accepted epoch.
pub struct Recovered {
    pub task: Box<dyn Task>,
    pub position: ChainPosition,
    /// Next offset of each input.
    pub inputs: Vec<u64>,
    /// What the last epoch told as the task's watermarks.
    pub told: super::task_loop::Told,
    /// Some of what it took is lost, and was given up.
    pub by_skip: bool,
    /// The version of the job that the task is of.
    version: Arc<JobVersion>,
    /// The task has taken over from an older version, and no claim says so yet: what other levels must know of it.
    pub taken_over: Option<BTreeMap<String, i64>>,
}

pub async fn recover(setup: &TaskSetup, counted: &Counted) -> Result<Recovered, TaskError> {
    let mut lost = Lost::default();
    let mut recovered = loop {
        match replay(setup, counted, &mut lost).await {
            Ok(Some(recovered)) => break recovered,
            Ok(None) => {}
            // Other records may stand in the place of those that are gone.
            Err(TaskError::InputGone { .. } | TaskError::Log(LogError::OffsetOutOfRange { .. }) | TaskError::Diverged { .. }) if lost.learn(setup).await? => {}
            Err(error) => return Err(error),
        }
    };
    let totals = &counted.totals;
    if recovered.position.epoch > 0 {
        Totals::add(&totals.recoveries, 1);
    }
    recovered.by_skip = !lost.0.is_empty();
    Ok(recovered)
}

/// The newest snapshot, and the epochs after it. `None`: an input of theirs was given up, which was not known before.
async fn replay(setup: &TaskSetup, counted: &Counted, lost: &mut Lost) -> Result<Option<Recovered>, TaskError> {
    let totals = &counted.totals;
    let mut recovered = from_snapshot(setup, totals).await?;
    let topic = epoch_topic(&setup.group);
    let mut follower = super::chain::ChainFollower::new(&setup.log, &topic, setup.partition, recovered.position)?;
    let (mut rerun, mut unverified) = (0, 0);
    loop {
        let (epochs, caught_up) = follower.next_epochs(super::chain::EPOCHS_AT_ONCE, Duration::ZERO).await?;
        for epoch in &epochs {
            let header = &epoch.record.header;
            // What a person has appended is of no version.
            if header.kind != EpochKind::Skip && header.versions != recovered.version.versions {
                let version = setup.history.find(&header.versions).ok_or_else(|| other_version(setup, &header.versions))?;
                if header.epoch == 1 {
                    recovered = unused(setup, version).await?;
                } else {
                    take_over(setup, &mut recovered, version).await?;
                    recovered.taken_over = None;
                    recovered.inputs = header.cut.iter().map(|range| range.to).collect();
                }
            }
            match header.kind {
                EpochKind::Claim => {}
                EpochKind::Skip if lost.add(header) => return Ok(None),
                EpochKind::Skip => skip(recovered.task.inputs(), &mut recovered.inputs, &header.cut),
                EpochKind::Work => {
                    let is_verified = run_again(setup, &mut recovered, epoch, totals, lost).await?;
                    counted.found(header.epoch, &header.counters);
                    rerun += 1;
                    unverified += u64::from(!is_verified);
                }
            }
        }
        if caught_up && epochs.is_empty() {
            break;
        }
    }
    recovered.position = follower.position();
    if let Some(current) = setup.history.current().filter(|current| !Arc::ptr_eq(current, &recovered.version)) {
        if recovered.position.epoch == 0 {
            recovered = unused(setup, current).await?;
        } else {
            take_over(setup, &mut recovered, current).await?;
        }
    }
    Totals::add(&totals.ignored, follower.ignored());
    if unverified > 0 {
        warn!(group = setup.group, task = setup.partition, epochs = unverified, "ran again without offsets that are gone and were given up: not compared");
    }
    if recovered.position.epoch > 0 {
        info!(group = setup.group, task = setup.partition, epoch = recovered.position.epoch, rerun, "recovered");
    }
    Ok(Some(recovered))
}

/// Inputs whose offsets a person has given up, with the epoch that says so. Everything that was taken of such an input since the
/// snapshot counts as lost, so that it comes out the same however much of it is still there.
#[derive(Default)]
struct Lost(BTreeMap<(String, u32), u64>);

impl Lost {
    fn before(&self, range: &CutRange, epoch: u64) -> bool {
        self.0.get(&(range.topic.clone(), range.partition)).is_some_and(|skip| epoch < *skip)
    }

    /// True when it was not known yet.
    fn add(&mut self, skip: &EpochHeader) -> bool {
        let mut is_new = false;
        for range in &skip.cut {
            let known = self.0.entry((range.topic.clone(), range.partition)).or_default();
            is_new |= *known < skip.epoch;
            *known = skip.epoch.max(*known);
        }
        is_new
    }

    /// Looks through the chain; true when it says anything new.
    async fn learn(&mut self, setup: &TaskSetup) -> Result<bool, TaskError> {
        let mut is_new = false;
        known_headers(setup, |header| is_new |= header.kind == EpochKind::Skip && self.add(header)).await?;
        Ok(is_new)
    }
}

/// The headers of the task's chain, as far back as the log has them.
async fn known_headers(setup: &TaskSetup, each: impl FnMut(&EpochHeader)) -> Result<(), TaskError> {
    let topic = epoch_topic(&setup.group);
    let store = SnapshotStore::new(Arc::clone(&setup.snapshots), &setup.group, setup.partition);
    let from = super::upkeep::first_known(&setup.log, &topic, setup.partition, &store).await?;
    let mut follower = super::chain::ChainFollower::new(&setup.log, &topic, setup.partition, from)?;
    Ok(follower.headers_to_end(each).await?)
}

/// An end that comes before recovery does: counts what this process appended and has not seen landing.
pub async fn count_landed(setup: &TaskSetup, counted: &Counted) {
    let count = known_headers(setup, |header| {
        if header.kind == EpochKind::Work {
            counted.found(header.epoch, &header.counters);
        }
    });
    if counted.has_claimed() && !matches!(tokio::time::timeout(COUNT_MAX, count).await, Ok(Ok(()))) {
        warn!(group = setup.group, task = setup.partition, "the last epochs may be missing in the counts: the log does not answer");
    }
}

/// Moves inputs to where `ranges` go on.
pub fn skip(specs: &[InputSpec], inputs: &mut [u64], ranges: &[CutRange]) {
    for range in ranges {
        for (spec, next) in specs.iter().zip(inputs.iter_mut()) {
            if matches!(spec, InputSpec::Source { topic, partition, .. } if *topic == range.topic && *partition == range.partition) {
                *next = range.to;
            }
        }
    }
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
    let topic = epoch_topic(&setup.group);
    'listed: loop {
        for path in store.list().await? {
            match store.read(&path).await {
                Ok((manifest, parts)) if is_on_chain(&setup.log, &topic, setup.partition, &manifest.position).await? => {
                    let version = setup.history.find(&manifest.versions).ok_or_else(|| other_version(setup, &manifest.versions))?;
                    let mut task = (setup.build)(&version.config)?;
                    task.restore(parts)?;
                    return Ok(Recovered {
                        task,
                        position: manifest.position,
                        inputs: manifest.inputs,
                        told: super::task_loop::Told::default(),
                        by_skip: false,
                        version: Arc::clone(version),
                        taken_over: None,
                    });
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
    let current = setup.history.current().ok_or_else(|| TaskError::Version("no version of the job is known".to_owned()))?;
    unused(setup, current).await
}

/// A task that has taken nothing yet.
async fn unused(setup: &TaskSetup, version: &Arc<JobVersion>) -> Result<Recovered, TaskError> {
    let task = (setup.build)(&version.config)?;
    let mut inputs = Vec::new();
    for spec in task.inputs() {
        inputs.push(beginning(setup, spec).await?);
    }
    let (position, told) = (ChainPosition::default(), super::task_loop::Told::default());
    Ok(Recovered { task, position, inputs, told, by_skip: false, version: Arc::clone(version), taken_over: None })
}

/// Where an input begins that was not read before: at the first record that the log has. Of a chain whose first records are deleted it is
/// the one that the oldest snapshot stands on, which is known to be on the chain.
async fn beginning(setup: &TaskSetup, spec: &InputSpec) -> Result<u64, TaskError> {
    let (topic, partition) = spec.place();
    match spec {
        InputSpec::Source { .. } => Ok(setup.log.start(&topic, partition).await?),
        InputSpec::Epochs { group, .. } => {
            let store = SnapshotStore::new(Arc::clone(&setup.snapshots), group, partition);
            let known = super::upkeep::first_known(&setup.log, &topic, partition, &store).await?;
            Ok(known.next_offset.saturating_sub(1))
        }
    }
}

/// Hands the task's state over to that of a later version, step by step.
async fn take_over(setup: &TaskSetup, recovered: &mut Recovered, to: &Arc<JobVersion>) -> Result<(), TaskError> {
    let told = |e: super::runner::StartError| TaskError::Version(e.to_string());
    let mut begins = BTreeMap::new();
    for (version, change) in setup.history.steps(&recovered.version, to).map_err(told)? {
        let before = recovered.task.inputs().to_vec();
        let mut parts = BTreeMap::new();
        for (name, frozen) in recovered.task.freeze()? {
            parts.insert(name, frozen()?);
        }
        let ended = recovered.task.end(&change)?;
        let mut task = (setup.build)(&version.config)?;
        begins.extend(task.take_over(parts, ended, &change)?);
        let job = version.job().map_err(|e| TaskError::Version(e.to_string()))?;
        let job_before = recovered.version.job().map_err(|e| TaskError::Version(e.to_string()))?;
        let is_same = |was: &InputSpec, now: &InputSpec| match (was, now) {
            (InputSpec::Source { source: was, .. }, InputSpec::Source { source: now, .. }) => {
                let name = &job.sources[*now].name;
                job_before.sources[*was].name == *name && change.is_as_it_was(name)
            }
            _ => was == now,
        };
        let mut inputs = Vec::new();
        for spec in task.inputs() {
            let was = before.iter().position(|was| is_same(was, spec));
            inputs.push(match was {
                Some(was) => recovered.inputs[was],
                None => beginning(setup, spec).await?,
            });
        }
        (recovered.task, recovered.inputs, recovered.version) = (task, inputs, Arc::clone(&version));
        info!(group = setup.group, task = setup.partition, version = version.versions.sql, "took over from the version before");
    }
    recovered.taken_over = Some(begins);
    Ok(())
}

fn other_version(setup: &TaskSetup, recorded: &Versions) -> TaskError {
    TaskError::OtherVersion { group: setup.group.clone(), task: setup.partition, recorded: shown(recorded), running: shown(&setup.versions) }
}

fn shown(v: &Versions) -> String {
    format!("engine {}, sql {}, models [{}]", v.engine, v.sql, v.models.join(", "))
}

/// What `epoch` took from an input: out of its own record where that has it, else out of the log.
async fn taken(setup: &TaskSetup, sources: &[SourceSpec], spec: &InputSpec, range: &CutRange, epoch: &EpochRecord) -> Result<Content, TaskError> {
    if let Some(copied) = InputDecoder::new(spec, sources, setup.partitions)?.copied(epoch, range.from, range.to)? {
        return Ok(copied);
    }
    let mut reader = InputReader::new(&setup.log, spec, sources, setup.partitions, range.from, setup.appended_us)?;
    Ok(reader.read_range(range.from, range.to).await?.content)
}

/// Runs one accepted epoch again and compares its outputs with what was recorded. False: it is not to be compared, what it or one before
/// it took is lost.
async fn run_again(setup: &TaskSetup, recovered: &mut Recovered, epoch: &AcceptedEpoch, totals: &Totals, lost: &Lost) -> Result<bool, TaskError> {
    let header = &epoch.record.header;
    let specs = recovered.task.inputs().to_vec();
    let job = recovered.version.job().map_err(|e| TaskError::Version(e.to_string()))?;
    let mut inputs = Vec::with_capacity(specs.len());
    for (i, (spec, range)) in specs.iter().zip(&header.cut).enumerate() {
        let content = if range.from == range.to || lost.before(range, header.epoch) {
            Content::Nothing
        } else {
            taken(setup, &job.sources, spec, range, &epoch.record).await?
        };
        recovered.inputs[i] = range.to;
        inputs.push(InputCut { from: range.from, to: range.to, caught_up: range.caught_up, content });
    }
    let output = recovered.task.process(EpochInput { now_ms: header.now_ms, inputs })?;
    recovered.told = super::task_loop::Told { watermark: output.watermark, watermarks: output.watermarks };
    if lost.0.values().any(|skip| header.epoch < *skip) {
        return Ok(false);
    }
    let found = output_hash(&output.outputs);
    if found != header.output_hash {
        if header.versions.engine != setup.versions.engine {
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
    Totals::add(&totals.verified, 1);
    metrics::counter!("headend_epochs_verified_total", "group" => setup.group.clone()).increment(1);
    Ok(true)
}

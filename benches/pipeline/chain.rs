//! The chain of a task driven by hand, each step under its own clock: read, decode, process, encode, append, snapshot.
//!
//! The engine overlaps these steps, so they cannot be told apart while it runs. Here the same types do the same work one after
//! the other: four tasks in turn, cut by cut, snapshots by the engine's rule.

use crate::{
    machine::{Clock, Took, histogram, in_ms, per_event, round},
    pieces::Pieces,
    settings::{FETCH_BYTES, PARTITIONS, Settings, TOPIC},
};
use hdrhistogram::Histogram;
use headend::engine::feed::decoder_spec;
use ingest::{Log, SourceDecoder, TopicSpec, log::LogReader};
use object_store::{ObjectStore, local::LocalFileSystem};
use schemas::{ChainPosition, EpochHeader, EpochId, EpochKind, EpochRecord, NewRecord, Versions, epoch::output_hash};
use serde_json::{Value, json};
use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use stream_jobs::{
    snapshot::{Manifest, SnapshotStore},
    task::{Content, EpochInput, EpochOutput, InputCut, LevelTask, Partitions, Task},
};

const GROUP: &str = "stages.l1";
const EPOCHS: &str = "epochs.stages.l1";
/// Outputs that wait for room, beyond which the engine takes nothing more in.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Time by step.
pub struct Steps {
    pub read: Duration,
    pub decode: Duration,
    pub process: Duration,
    pub encode: Duration,
    append_wait: Duration,
    freeze: Duration,
    write: Duration,
    epochs: u64,
    epoch_bytes: u64,
    snapshots: u64,
    process_times: Histogram<u64>,
    took: Took,
}

struct Driven {
    partition: u32,
    reader: Box<dyn LogReader>,
    decoder: SourceDecoder,
    task: LevelTask,
    position: ChainPosition,
    next: u64,
    ended: bool,
    snapshot_at: Instant,
}

pub async fn drive(settings: &Settings, log: &Arc<dyn Log>, snapshots: &Path) -> anyhow::Result<Steps> {
    std::fs::create_dir_all(snapshots)?;
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(snapshots)?);
    log.create_topic(&TopicSpec { name: EPOCHS.to_owned(), partitions: PARTITIONS, compacted: false }).await?;
    let mut tasks = (0..PARTITIONS).map(|p| Driven::new(settings, log, p)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut steps = Steps::new()?;
    let clock = Clock::start();
    while tasks.iter().any(|t| !t.ended) {
        for task in tasks.iter_mut().filter(|t| !t.ended) {
            let input = task.cut(settings, &mut steps).await?;
            let took = input.inputs.iter().any(|i| i.to > i.from);
            let started = Instant::now();
            let output = task.task.process(input)?;
            steps.process += started.elapsed();
            steps.process_times.saturating_record(started.elapsed().as_micros() as u64);
            task.ended = output.watermark == Some(i64::MAX);
            if took || !output.outputs.is_empty() {
                task.append(log, output, &mut steps).await?;
            }
            if task.snapshot_at.elapsed() >= settings.snapshot_interval {
                task.snapshot(&store, &mut steps).await?;
            }
        }
    }
    steps.took = clock.took();
    Ok(steps)
}

impl Driven {
    fn new(settings: &Settings, log: &Arc<dyn Log>, partition: u32) -> anyhow::Result<Self> {
        let config = settings.engine();
        let (job, now_us) = config.plan()?;
        let partitions = Partitions { level1: PARTITIONS, upper: PARTITIONS };
        let set_now = Arc::new(move |us| now_us.store(us, Ordering::Relaxed));
        Ok(Self {
            partition,
            reader: log.reader(TOPIC, partition, 0)?,
            decoder: SourceDecoder::new(decoder_spec(&job.sources[0], PARTITIONS))?,
            task: LevelTask::new(&job, 1, partition, partitions, &config.wanted, set_now)?,
            position: ChainPosition::default(),
            next: 0,
            ended: false,
            snapshot_at: Instant::now(),
        })
    }

    /// The next cut; nothing is taken in while much waits to go out.
    async fn cut(&mut self, settings: &Settings, steps: &mut Steps) -> anyhow::Result<EpochInput> {
        let mut cut = InputCut { from: self.next, to: self.next, caught_up: false, content: Content::Nothing };
        if self.task.waiting_bytes() < WAITING_BYTES_MAX {
            let started = Instant::now();
            let fetched = self.reader.fetch(settings.engine().rows_max, FETCH_BYTES, Duration::ZERO).await?;
            steps.read += started.elapsed();
            cut.to = self.reader.position();
            cut.caught_up = fetched.caught_up;
            if cut.to > cut.from {
                let started = Instant::now();
                let batch = self.decoder.decode(self.partition, cut.from, cut.to, &fetched.records)?;
                steps.decode += started.elapsed();
                cut.content = Content::Source(batch, Arc::new(fetched.records));
            }
        }
        self.next = cut.to;
        Ok(EpochInput { now_ms: 0, inputs: vec![cut] })
    }

    async fn append(&mut self, log: &Arc<dyn Log>, output: EpochOutput, steps: &mut Steps) -> anyhow::Result<()> {
        let started = Instant::now();
        let epoch = self.position.epoch + 1;
        let id = EpochId(u128::from(epoch));
        let header = EpochHeader {
            group: GROUP.to_owned(),
            task: self.partition,
            epoch,
            id,
            parent: self.position.id,
            owner: "bench".to_owned(),
            kind: EpochKind::Work,
            cut: Vec::new(),
            now_ms: 0,
            watermark: output.watermark,
            watermarks: output.watermarks,
            begins: std::collections::BTreeMap::new(),
            appended_us: output.appended_us,
            versions: Versions::default(),
            counters: output.counters,
            output_hash: output_hash(&output.outputs),
            outputs: Vec::new(),
        };
        let bytes = EpochRecord { header, outputs: output.outputs }.encode()?;
        steps.encode += started.elapsed();
        steps.epochs += 1;
        steps.epoch_bytes += bytes.len() as u64;
        let started = Instant::now();
        let appended = log.append(EPOCHS, self.partition, vec![NewRecord { key: None, value: Some(bytes.into()), headers: Vec::new() }]).await?;
        steps.append_wait += started.elapsed();
        self.position = ChainPosition { next_offset: appended.base_offset + 1, epoch, id };
        Ok(())
    }

    async fn snapshot(&mut self, store: &Arc<dyn ObjectStore>, steps: &mut Steps) -> anyhow::Result<()> {
        let started = Instant::now();
        let frozen = self.task.freeze()?;
        steps.freeze += started.elapsed();
        let manifest = Manifest {
            group: GROUP.to_owned(),
            task: self.partition,
            position: self.position,
            inputs: vec![self.next],
            versions: Versions::default(),
            parts: Vec::new(),
        };
        let started = Instant::now();
        let store = SnapshotStore::new(Arc::clone(store), GROUP, self.partition);
        store.write(manifest, frozen).await?;
        store.prune(2).await?;
        steps.write += started.elapsed();
        steps.snapshots += 1;
        self.snapshot_at = Instant::now();
        Ok(())
    }
}

impl Steps {
    fn new() -> anyhow::Result<Self> {
        let zero = Duration::ZERO;
        Ok(Self {
            read: zero,
            decode: zero,
            process: zero,
            encode: zero,
            append_wait: zero,
            freeze: zero,
            write: zero,
            epochs: 0,
            epoch_bytes: 0,
            snapshots: 0,
            process_times: histogram()?,
            took: Took::default(),
        })
    }

    pub fn report(&self, n: u64) -> Value {
        let ns = |d: Duration| per_event(d, n);
        json!({
            "seconds": round(self.took.wall.as_secs_f64()),
            "process_ns": ns(self.process),
            "append_encode_ns": ns(self.encode),
            "append_committer_cpu_ns": ns(self.took.committer_cpu),
            "append_wait_ns": ns(self.append_wait),
            "snapshot_freeze_ns": ns(self.freeze),
            "snapshot_write_ns": ns(self.write),
            "snapshots": self.snapshots,
            "epochs": self.epochs,
            "epoch_bytes": self.epoch_bytes,
            "process_ms": in_ms(&self.process_times),
        })
    }
}

/// Nanoseconds an event by stage. `append` is hash and encoding in the task's thread and the CPU time of the committer: waiting for
/// the disk is not work of the core, and the engine overlaps it.
pub fn stages(steps: &Steps, pieces: &Pieces, n: u64) -> Value {
    let ns = |d: Duration| per_event(d, n);
    let told_apart = pieces.key + pieces.aggregate + pieces.emit;
    json!({
        "read": ns(steps.read),
        "decode": ns(steps.decode),
        "key": ns(pieces.key),
        "aggregate": ns(pieces.aggregate),
        "emit": ns(pieces.emit),
        "append": ns(steps.encode + steps.took.committer_cpu),
        "snapshot": ns(steps.freeze + steps.write),
        // A difference of two measurements: small, and negative where the machine was slower for the pieces.
        "rest_of_task": round(ns(steps.process) - ns(told_apart)),
    })
}

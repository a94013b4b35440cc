//! The loop of one task: recover, claim, then cut, process, append, for as long as the task is ours.
//!
//! The loop owns the task's state. It never waits for an append before it processes the next epoch: up to `inflight` records are on
//! their way, in order, through one appender. A record that does not land where it was expected means that somebody else wrote
//! to the partition: the loop stops and starts again from the claim.

use super::{
    EngineConfig, TaskError, Totals,
    cut::Inputs,
    dead::DeadLetters,
    feed::{Feed, InputReader},
    recovery::{Recovered, count_landed, recover},
    versions::JobHistory,
    why::{STATUS_EVERY, Statuses},
};
use ingest::log::{Log, LogError, Ownership};
use object_store::ObjectStore;
use schemas::{
    ChainPosition, Counters, CutRange, EpochHeader, EpochId, EpochKind, EpochRecord, NewRecord, Output, Versions,
    epoch::{EPOCH_RECORD_BYTES_MAX, output_hash},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use stream_jobs::{
    ops::OpError,
    plan::SourceSpec,
    snapshot::{Manifest, SnapshotStore},
    task::{EpochInput, EpochOutput, InputSpec, Task, epoch_topic},
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Outputs that wait for room in a record, beyond which a task takes nothing more in.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// An epoch that has nothing but a watermark to tell is written at most this often.
const WATERMARK_EVERY: Duration = Duration::from_secs(1);
const SNAPSHOTS_KEPT: usize = 2;

/// Builds the task out of a version of its job.
pub type BuildTask = Arc<dyn Fn(&EngineConfig) -> Result<Box<dyn Task>, OpError> + Send + Sync>;

/// Everything that a task's loop is told.
#[derive(Clone)]
pub struct TaskSetup {
    pub group: String,
    pub partition: u32,
    /// Partitions of the source topics.
    pub partitions: u32,
    pub owner: String,
    pub build: BuildTask,
    pub history: Arc<JobHistory>,
    pub log: Arc<dyn Log>,
    /// Membership in the group that shares the tasks of this level.
    pub ownership: Arc<dyn Ownership>,
    pub snapshots: Arc<dyn ObjectStore>,
    /// Of the version that runs.
    pub sources: Arc<Vec<SourceSpec>>,
    pub versions: Versions,
    pub rows_max: usize,
    pub cut_min: Duration,
    pub inflight: usize,
    pub snapshot_every: u64,
    pub snapshot_interval: Duration,
    /// Drop the task without warning after this many epochs.
    pub crash_every: Option<u64>,
    pub appended_us: Option<i64>,
    /// Level 1: its counters are the engine's.
    pub counts_rows: bool,
    /// Where the task says how it stands.
    pub statuses: Statuses,
}

/// The watermarks that the last epoch told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    pub watermark: Option<i64>,
    pub watermarks: BTreeMap<String, i64>,
}

/// Runs a task until `stop`, through fencing and back-off.
pub async fn run(setup: TaskSetup, totals: Arc<Totals>, stop: CancellationToken) -> Result<(), TaskError> {
    let mut backoff = Duration::from_millis(50);
    let mut patience = Patience::default();
    let counted = Counted { totals, group: setup.group.clone(), counts_rows: setup.counts_rows, epoch: Arc::default() };
    loop {
        match own(&setup, &counted, &stop).await {
            Ok(()) => return Ok(()),
            Err(TaskError::Crash) => debug!(group = setup.group, task = setup.partition, "dropped on purpose"),
            Err(e @ TaskError::Fenced { .. }) => {
                warn!(group = setup.group, task = setup.partition, error = %e, "starting again from the claim");
                metrics::counter!("headend_task_fenced_total", "group" => setup.group.clone()).increment(1);
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(backoff) => {}
                }
                backoff = (backoff * 2).min(Duration::from_secs(5));
            }
            Err(TaskError::Log(e)) if e.kind() == ingest::ErrorKind::Retry || patience.lasts(&e) => {
                warn!(group = setup.group, task = setup.partition, error = %e, "log does not take it, trying again");
                metrics::counter!("headend_task_restarts_total", "group" => setup.group.clone()).increment(1);
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(backoff) => {}
                }
                backoff = (backoff * 2).min(Duration::from_secs(5));
            }
            Err(e) => return Err(e),
        }
    }
}

/// A broker that has just come back may not know a topic yet. One that nobody knows for so long is gone.
const UNKNOWN_TOPIC_MAX: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Patience {
    /// When the topic was missed for the first time, and for the last.
    missed: Option<(Instant, Instant)>,
}

impl Patience {
    fn lasts(&mut self, error: &LogError) -> bool {
        if !matches!(error, LogError::UnknownTopic { .. }) {
            return false;
        }
        let now = Instant::now();
        let first = self.missed.filter(|(_, last)| last.elapsed() < UNKNOWN_TOPIC_MAX).map_or(now, |(first, _)| first);
        self.missed = Some((first, now));
        first.elapsed() < UNKNOWN_TOPIC_MAX
    }
}

/// One ownership: from recovery to the end.
async fn own(setup: &TaskSetup, counted: &Counted, stop: &CancellationToken) -> Result<(), TaskError> {
    // What recovery has read so far is nothing that an end could lose.
    let recovered = tokio::select! {
        biased;
        () = stop.cancelled() => {
            count_landed(setup, counted).await;
            return Ok(());
        }
        recovered = recover(setup, counted) => recovered?,
    };
    let mut owned = TaskLoop::claim(setup, recovered, counted).await?;
    let ran = owned.work(stop).await;
    setup.statuses.forget(&setup.group, setup.partition);
    // A planned stop waits for what is on its way and leaves a snapshot; a crash does neither.
    if ran.is_ok() { owned.finish().await } else { ran }
}

/// Counts each epoch that this process appended once: when it lands, or when a recovery finds that it landed unseen.
#[derive(Clone)]
pub struct Counted {
    pub totals: Arc<Totals>,
    group: String,
    counts_rows: bool,
    /// The last epoch that is counted or that an earlier process left; 0 until this process has claimed.
    epoch: Arc<AtomicU64>,
}

impl Counted {
    fn claimed(&self, epoch: u64) {
        self.epoch.fetch_max(epoch, Ordering::AcqRel);
    }

    fn landed(&self, epoch: u64, counters: &Counters) {
        if self.epoch.fetch_max(epoch, Ordering::AcqRel) < epoch {
            self.totals.count(counters, self.counts_rows);
            metrics::counter!("headend_epochs_total", "group" => self.group.clone()).increment(1);
        }
    }

    /// An epoch that recovery found on the chain. Before the first claim of this process none is its own.
    pub fn found(&self, epoch: u64, counters: &Counters) {
        if self.has_claimed() {
            self.landed(epoch, counters);
        }
    }

    /// Something on the chain may be this process's own.
    pub fn has_claimed(&self) -> bool {
        self.epoch.load(Ordering::Acquire) > 0
    }
}

struct TaskLoop<'a> {
    setup: &'a TaskSetup,
    task: Box<dyn Task>,
    specs: Vec<InputSpec>,
    inputs: Inputs,
    bell: Arc<Notify>,
    /// The chain as it will be when all records on their way have landed.
    position: ChainPosition,
    appender: Appender,
    told: Told,
    told_at: Instant,
    status_at: Option<Instant>,
    /// The last cut took nothing: what waits is ahead of an input that has not said yet where it stands.
    stalled: bool,
    dead_letters: DeadLetters,
    totals: Arc<Totals>,
    epochs_run: u64,
    snapshot_at: (u64, Instant),
    snapshot_busy: Arc<AtomicBool>,
}

impl<'a> TaskLoop<'a> {
    /// Reads to the end (done by recovery), confirms the ownership, appends an empty epoch and sees it win.
    async fn claim(setup: &'a TaskSetup, recovered: Recovered, counted: &Counted) -> Result<Self, TaskError> {
        let Recovered { task, mut position, inputs, told, by_skip: recovered_by_skip, taken_over, .. } = recovered;
        let specs = task.inputs().to_vec();
        let topic = epoch_topic(&setup.group);
        if !setup.ownership.confirm(setup.partition, position.next_offset).await? {
            return Err(TaskError::Fenced { topic, partition: setup.partition, offset: position.next_offset });
        }
        let mut header = header(setup, &position, EpochKind::Claim);
        let is_changed = taken_over.is_some();
        if let Some(begins) = taken_over {
            // A recovery makes the same change with the same inputs.
            header.cut = specs.iter().zip(&inputs).map(|(spec, at)| range_of(spec, *at, *at, false)).collect();
            header.begins = begins;
        }
        let claim = EpochRecord { header, outputs: Vec::new() };
        let id = claim.header.id;
        let appended = setup.log.append(&topic, setup.partition, vec![record(&claim)?]).await?;
        if appended.base_offset != position.next_offset {
            return Err(TaskError::Fenced { topic, partition: setup.partition, offset: position.next_offset });
        }
        position = ChainPosition { next_offset: appended.base_offset + 1, epoch: position.epoch + 1, id };
        counted.claimed(position.epoch);
        let bell = Arc::new(Notify::new());
        let mut feeds = Vec::new();
        for (spec, from) in specs.iter().zip(&inputs) {
            let reader = InputReader::new(&setup.log, spec, &setup.sources, setup.partitions, *from, setup.appended_us)?;
            feeds.push((Feed::start(reader, &setup.group, setup.rows_max, Arc::clone(&bell)), *from));
        }
        info!(group = setup.group, task = setup.partition, epoch = position.epoch, "claimed");
        Ok(Self {
            setup,
            task,
            specs,
            inputs: Inputs::new(feeds, setup.rows_max, setup.counts_rows),
            bell,
            appender: Appender::start(setup, position.next_offset, counted.clone()),
            position,
            told,
            told_at: Instant::now(),
            status_at: None,
            stalled: false,
            dead_letters: DeadLetters::default(),
            totals: Arc::clone(&counted.totals),
            epochs_run: 0,
            // What was recovered around lost offsets, or by an older version, is soon not to be recovered again.
            snapshot_at: (if recovered_by_skip || is_changed { 0 } else { position.epoch }, Instant::now()),
            snapshot_busy: Arc::new(AtomicBool::new(false)),
        })
    }

    async fn work(&mut self, stop: &CancellationToken) -> Result<(), TaskError> {
        let mut last_cut = Instant::now();
        loop {
            self.appender.check()?;
            self.inputs.drain()?;
            let waits = self.task.waiting_bytes() > 0;
            if (self.stalled || !self.inputs.has_rows()) && !waits && self.told_at.elapsed() < WATERMARK_EVERY {
                // Stop goes first, so that a busy input cannot keep the task from ending.
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    () = self.bell.notified() => {}
                    () = tokio::time::sleep(WATERMARK_EVERY) => {}
                }
                self.stalled = false;
                continue;
            }
            if stop.is_cancelled() {
                return Ok(());
            }
            if let Some(rest) = self.setup.cut_min.checked_sub(last_cut.elapsed()) {
                tokio::time::sleep(rest).await;
                self.inputs.drain()?;
            }
            last_cut = Instant::now();
            self.epoch().await?;
            if self.setup.crash_every.is_some_and(|n| self.epochs_run >= n) {
                // At least one record must land between two crashes, or none would ever get further.
                self.appender.first_landed().await;
                return Err(TaskError::Crash);
            }
        }
    }

    /// One epoch: cut, process, append.
    async fn epoch(&mut self) -> Result<(), TaskError> {
        let take = self.task.waiting_bytes() < WAITING_BYTES_MAX;
        let (input, copies) = self.inputs.cut(now_ms(), &self.task.input_watermarks(), take);
        let (cut, took) = self.ranges(&input);
        self.stalled = !took;
        let now_ms = input.now_ms;
        self.totals.working.fetch_add(1, Ordering::Relaxed);
        let output = self.task.process(input);
        self.totals.working.fetch_sub(1, Ordering::Relaxed);
        let output = output?;
        let told = Told { watermark: output.watermark, watermarks: output.watermarks.clone() };
        let is_news = took || !output.outputs.is_empty() || told != self.told || self.position.epoch == 1;
        self.told_at = Instant::now();
        self.dead_letters.tell(&output.outputs);
        if self.status_at.is_none_or(|at| at.elapsed() >= STATUS_EVERY) {
            self.setup.statuses.tell(&self.setup.group, self.setup.partition, self.task.status());
            self.status_at = Some(Instant::now());
        }
        if !is_news {
            return Ok(());
        }
        self.told = told;
        self.append(cut, now_ms, output, copies).await?;
        self.epochs_run += 1;
        self.snapshot_when_due()?;
        Ok(())
    }

    fn ranges(&self, input: &EpochInput) -> (Vec<CutRange>, bool) {
        let cut: Vec<CutRange> = self.specs.iter().zip(&input.inputs).map(|(spec, cut)| range_of(spec, cut.from, cut.to, cut.caught_up)).collect();
        let took = cut.iter().any(|c| c.to > c.from);
        (cut, took)
    }

    /// The records of tables go with the outputs and are none: the hash is over what was computed.
    async fn append(&mut self, cut: Vec<CutRange>, now_ms: i64, mut output: EpochOutput, copies: Vec<Output>) -> Result<(), TaskError> {
        let header = EpochHeader {
            cut,
            now_ms,
            watermark: output.watermark,
            watermarks: output.watermarks,
            appended_us: output.appended_us,
            counters: output.counters,
            output_hash: output_hash(&output.outputs),
            ..header(self.setup, &self.position, EpochKind::Work)
        };
        let (epoch, id, counters) = (header.epoch, header.id, header.counters);
        output.outputs.extend(copies);
        let record = record(&EpochRecord { header, outputs: output.outputs })?;
        self.position = ChainPosition { next_offset: self.position.next_offset + 1, epoch, id };
        self.appender.append(Sent { record, epoch, counters }).await
    }

    fn snapshot_when_due(&mut self) -> Result<(), TaskError> {
        let (epoch, at) = self.snapshot_at;
        let due = epoch == 0 || self.position.epoch - epoch >= self.setup.snapshot_every || at.elapsed() >= self.setup.snapshot_interval;
        if !due || self.snapshot_busy.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.snapshot_at = (self.position.epoch, Instant::now());
        let frozen = self.task.freeze()?;
        let (manifest, store, busy) = (self.manifest(), self.store(), Arc::clone(&self.snapshot_busy));
        let mut landed = self.appender.landed.clone();
        tokio::spawn(async move {
            let offset = manifest.position.next_offset;
            let (group, task, epoch) = (manifest.group.clone(), manifest.task, manifest.position.epoch);
            // Only what is on the accepted chain may be snapshotted.
            if landed.wait_for(|next| *next >= offset).await.is_ok() {
                let started = Instant::now();
                // Encoding takes a while: on a thread of its own, so that the tasks keep theirs.
                let runtime = tokio::runtime::Handle::current();
                let written = tokio::task::spawn_blocking(move || {
                    runtime.block_on(async {
                        store.write(manifest, frozen).await.map_err(|e| e.to_string())?;
                        store.prune(SNAPSHOTS_KEPT).await.map_err(|e| e.to_string())
                    })
                });
                match written.await.unwrap_or_else(|e| Err(e.to_string())) {
                    Ok(()) => metrics::histogram!("headend_snapshot_seconds", "group" => group.clone()).record(started.elapsed().as_secs_f64()),
                    Err(e) => warn!(group, task, epoch, error = %e, "snapshot was not written, the log holds everything"),
                }
            }
            busy.store(false, Ordering::Release);
        });
        Ok(())
    }

    fn manifest(&self) -> Manifest {
        Manifest {
            group: self.setup.group.clone(),
            task: self.setup.partition,
            position: self.position,
            inputs: self.inputs.positions(),
            versions: self.setup.versions.clone(),
            parts: Vec::new(),
        }
    }

    fn store(&self) -> SnapshotStore {
        SnapshotStore::new(Arc::clone(&self.setup.snapshots), &self.setup.group, self.setup.partition)
    }

    /// Waits for what is on its way and leaves a snapshot.
    async fn finish(mut self) -> Result<(), TaskError> {
        self.appender.drain(self.position.next_offset).await?;
        if self.epochs_run > 0 {
            let frozen = self.task.freeze()?;
            if let Err(e) = self.store().write(self.manifest(), frozen).await {
                warn!(group = self.setup.group, task = self.setup.partition, error = %e, "snapshot was not written, the log holds everything");
            }
        }
        info!(group = self.setup.group, task = self.setup.partition, epoch = self.position.epoch, "stopped");
        Ok(())
    }
}

fn range_of(spec: &InputSpec, from: u64, to: u64, caught_up: bool) -> CutRange {
    let (topic, partition) = spec.place();
    CutRange { topic, partition, from, to, caught_up }
}

/// A record on its way, with what is counted when it lands.
struct Sent {
    record: NewRecord,
    epoch: u64,
    counters: Counters,
}

/// Appends records in order; what waits while one append is on its way goes with the next.
struct Appender {
    /// Where this ownership's first record goes.
    start: u64,
    queue: mpsc::Sender<Sent>,
    /// Next offset after the last record that landed.
    landed: watch::Receiver<u64>,
    worker: tokio::task::JoinHandle<Result<(), TaskError>>,
    failed: watch::Receiver<Option<Arc<TaskError>>>,
}

impl Appender {
    fn start(setup: &TaskSetup, next_offset: u64, counted: Counted) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Sent>(setup.inflight);
        let (landed_tx, landed) = watch::channel(next_offset);
        let (failed_tx, failed) = watch::channel(None);
        let (log, topic, partition, inflight) = (Arc::clone(&setup.log), epoch_topic(&setup.group), setup.partition, setup.inflight);
        let worker = tokio::spawn(async move {
            let mut sent: Vec<Sent> = Vec::new();
            let mut next = next_offset;
            while waiting.recv_many(&mut sent, inflight).await > 0 {
                let (records, counts): (Vec<_>, Vec<_>) = sent.drain(..).map(|s| (s.record, (s.epoch, s.counters))).unzip();
                let n = records.len() as u64;
                let appended = match log.append(&topic, partition, records).await {
                    Ok(appended) if appended.base_offset == next => appended,
                    Ok(appended) => return fail(&failed_tx, TaskError::Fenced { topic, partition, offset: next.min(appended.base_offset) }),
                    Err(e) => return fail(&failed_tx, e.into()),
                };
                next = appended.base_offset + n;
                // Counted before it is told: a snapshot waits for the telling, and recovery does not look behind a snapshot.
                counts.iter().for_each(|(epoch, counters)| counted.landed(*epoch, counters));
                landed_tx.send_replace(next);
            }
            Ok(())
        });
        Self { start: next_offset, queue, landed, worker, failed }
    }

    fn check(&mut self) -> Result<(), TaskError> {
        let failed = self.failed.borrow_and_update().clone();
        failed.map_or(Ok(()), |e| Err(same_error(&e)))
    }

    async fn append(&mut self, sent: Sent) -> Result<(), TaskError> {
        if self.queue.send(sent).await.is_err() {
            self.check()?;
        }
        Ok(())
    }

    /// Waits until a record of this ownership has landed, or the appender has failed.
    async fn first_landed(&mut self) {
        let start = self.start;
        let _ = self.landed.wait_for(|next| *next > start).await;
    }

    async fn drain(&mut self, next_offset: u64) -> Result<(), TaskError> {
        let landed = self.landed.wait_for(|next| *next >= next_offset).await.is_ok();
        if landed { Ok(()) } else { self.check() }
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

fn fail(failed: &watch::Sender<Option<Arc<TaskError>>>, error: TaskError) -> Result<(), TaskError> {
    let copy = same_error(&error);
    failed.send_replace(Some(Arc::new(error)));
    Err(copy)
}

/// The appender's error as the loop gives it on: the kinds it can have, with their facts.
fn same_error(error: &TaskError) -> TaskError {
    match error {
        TaskError::Fenced { topic, partition, offset } => TaskError::Fenced { topic: topic.clone(), partition: *partition, offset: *offset },
        TaskError::Log(e) => TaskError::Log(e.clone()),
        other => TaskError::Operator(OpError::Broken(other.to_string())),
    }
}

fn header(setup: &TaskSetup, position: &ChainPosition, kind: EpochKind) -> EpochHeader {
    header_after(position, (&setup.group, setup.partition), &setup.owner, kind, &setup.versions)
}

/// The header of a record of `kind` after `position`, without a cut and without outputs.
pub(super) fn header_after(position: &ChainPosition, (group, task): (&str, u32), owner: &str, kind: EpochKind, versions: &Versions) -> EpochHeader {
    EpochHeader {
        group: group.to_owned(),
        task,
        epoch: position.epoch + 1,
        id: new_id(owner, task),
        parent: position.id,
        owner: owner.to_owned(),
        kind,
        cut: Vec::new(),
        now_ms: now_ms(),
        watermark: None,
        watermarks: BTreeMap::new(),
        begins: BTreeMap::new(),
        appended_us: None,
        versions: versions.clone(),
        counters: Counters::default(),
        output_hash: output_hash(&[]),
        outputs: Vec::new(),
    }
}

pub(super) fn record(epoch: &EpochRecord) -> Result<NewRecord, TaskError> {
    let bytes = epoch.encode()?;
    if bytes.len() > EPOCH_RECORD_BYTES_MAX {
        return Err(TaskError::RecordTooLarge { bytes: bytes.len(), limit: EPOCH_RECORD_BYTES_MAX });
    }
    Ok(NewRecord { key: None, value: Some(bytes.into()), headers: Vec::new() })
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Unique per attempt: process, thread of work and time go into it, and a counter.
fn new_id(owner: &str, task: u32) -> EpochId {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(owner.as_bytes());
    hash.update(&std::process::id().to_le_bytes());
    hash.update(&task.to_le_bytes());
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    hash.update(&nanos.to_le_bytes());
    hash.update(&COUNTER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    EpochId(hash.digest128())
}

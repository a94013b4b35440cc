//! The picture of the program: a log, tasks by level and partition, room tasks, sinks.

use super::{
    TaskError, Totals,
    chain::ChainFollower,
    task_loop::{self, BuildTask, TaskSetup},
    upkeep::{self, Reader, Upkeep},
    versions::{ChangeError, JobHistory, versions},
    why::Statuses,
};
use ingest::log::{Log, LogError, Ownership, TopicSpec};
use object_store::ObjectStore;
use schemas::{ChainPosition, CutRange, EpochHeader, EpochKind, EpochRecord, NewRecord, Versions};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use stream_jobs::{
    plan::Job,
    rooms::{RoomsTask, rooms_group},
    snapshot::SnapshotStore,
    sql::{FunctionContext, SqlError, plan_job},
    task::{InputSpec, LevelTask, Partitions, Task, epoch_topic, level_group},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What an engine is told; paths and addresses are the caller's.
#[derive(Clone)]
pub struct EngineConfig {
    /// A job that was built anew has the number of the build in its name.
    pub job_name: String,
    /// How often the job was built from the beginning of its log, counted from 1.
    pub build: u64,
    pub sql: String,
    pub models: BTreeMap<String, Arc<models::ChurnModel>>,
    pub partitions: u32,
    /// Partitions of level 2 and above.
    pub upper_partitions: u32,
    pub owner: String,
    pub rows_max: usize,
    pub cut_min: Duration,
    pub inflight: usize,
    pub snapshot_every: u64,
    pub snapshot_interval: Duration,
    pub crash_every: Option<u64>,
    pub appended_us: Option<i64>,
    /// Views that must leave their tasks beside those that sinks and other levels read.
    pub wanted: Vec<String>,
    /// Run room tasks.
    pub rooms: bool,
    /// Relative paths of sinks start here; `None`: no sink runs.
    pub sink_dir: Option<PathBuf>,
    /// How often epoch records that nobody needs any more are deleted; `None`: all are kept.
    pub upkeep_interval: Option<Duration>,
}

impl EngineConfig {
    pub fn new(job_name: impl Into<String>, sql: impl Into<String>) -> Self {
        Self {
            job_name: job_name.into(),
            build: 1,
            sql: sql.into(),
            models: BTreeMap::new(),
            partitions: 1,
            upper_partitions: 1,
            owner: "headend".to_owned(),
            rows_max: 65_536,
            cut_min: Duration::from_millis(2),
            inflight: 4,
            snapshot_every: 1_000,
            snapshot_interval: Duration::from_secs(10),
            crash_every: None,
            appended_us: None,
            wanted: Vec::new(),
            rooms: false,
            sink_dir: None,
            upkeep_interval: None,
        }
    }

    fn level_partitions(&self) -> Partitions {
        Partitions { level1: self.partitions, upper: self.upper_partitions }
    }

    /// Plans the job with its own `now()`.
    pub fn plan(&self) -> Result<(Arc<Job>, Arc<AtomicI64>), SqlError> {
        let now_us = Arc::new(AtomicI64::new(0));
        let functions = FunctionContext { now_us: Arc::clone(&now_us), models: self.models.clone() };
        Ok((Arc::new(plan_job(&self.job_name, &self.sql, &functions)?), now_us))
    }

    /// Topics that the job needs: its sources', and those of its epochs.
    pub fn topics(&self, job: &Job) -> Vec<TopicSpec> {
        let mut topics: Vec<TopicSpec> =
            job.sources.iter().map(|s| TopicSpec { name: s.topic.clone(), partitions: self.partitions, compacted: s.table }).collect();
        topics.dedup_by(|a, b| a.name == b.name);
        for level in levels(job) {
            topics.push(TopicSpec { name: epoch_topic(&level_group(&job.name, level)), partitions: self.level_partitions().of(level), compacted: false });
        }
        topics.push(TopicSpec { name: epoch_topic(&rooms_group(&job.name)), partitions: 1, compacted: false });
        topics
    }
}

/// The levels that a job has, from 1 up.
pub fn levels(job: &Job) -> Vec<u8> {
    let top = job.views.iter().map(|v| v.level).max().unwrap_or(1);
    (1..=top).collect()
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Sql(#[from] SqlError),
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Sink(#[from] sinks::SinkError),
    #[error("{0}")]
    Chain(#[from] super::chain::ChainError),
    #[error("{0}")]
    Change(#[from] ChangeError),
    #[error("cannot read what the job was: {0}")]
    Store(#[from] object_store::Error),
    #[error("cannot read what the job was: `{file}`: {reason}")]
    KeptJob { file: String, reason: String },
}

/// A running engine.
pub struct Engine {
    pub job: Arc<Job>,
    pub totals: Arc<Totals>,
    pub statuses: Statuses,
    work: JoinSet<Result<(), EngineError>>,
    stop: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{0}")]
    Task(#[from] TaskError),
    #[error("{0}")]
    Sink(#[from] sinks::SinkError),
    #[error("a task of the engine broke: {0}")]
    Panic(String),
}

impl Engine {
    /// Plans the job, creates its topics, and starts its tasks and sinks.
    pub async fn start(config: EngineConfig, log: Arc<dyn Log>, snapshots: Arc<dyn ObjectStore>, stop: CancellationToken) -> Result<Self, StartError> {
        let (job, _) = config.plan()?;
        let history = Arc::new(JobHistory::open(&config, &job, snapshots.as_ref()).await?);
        for topic in config.topics(&job) {
            log.create_topic(&topic).await?;
        }
        let (totals, statuses) = (Arc::new(Totals::default()), Statuses::default());
        let mut work = JoinSet::new();
        for group in groups(&config, &job) {
            // A wrong option of a sink is an error of the start.
            sinks_of(&config, &job, group.level)?;
            let shared = Shared {
                config: config.clone(),
                job: Arc::clone(&job),
                history: Arc::clone(&history),
                log: Arc::clone(&log),
                snapshots: Arc::clone(&snapshots),
                totals: Arc::clone(&totals),
                statuses: statuses.clone(),
            };
            work.spawn(shared.supervise(group, stop.clone()));
        }
        work.spawn(watch_partitions(Arc::clone(&log), config.topics(&job), stop.clone()));
        Ok(Self { job, totals, statuses, work, stop })
    }

    /// Waits until everything has stopped. The first error stops the rest and is returned.
    pub async fn join(mut self) -> Result<(), EngineError> {
        let mut first = Ok(());
        while let Some(ended) = self.work.join_next().await {
            let result = ended.unwrap_or_else(|e| Err(EngineError::Panic(e.to_string())));
            if let Err(e) = result {
                self.stop.cancel();
                if first.is_ok() {
                    first = Err(e);
                } else {
                    tracing::error!(error = %e, "stopped");
                }
            }
        }
        first
    }
}

/// How often the log is asked whether its topics still have the partitions that the job was started with.
const PARTITIONS_EVERY: Duration = Duration::from_secs(10);

/// Keys would stand in two partitions when somebody adds one: until `stop`, or an error with both numbers.
async fn watch_partitions(log: Arc<dyn Log>, topics: Vec<TopicSpec>, stop: CancellationToken) -> Result<(), EngineError> {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(PARTITIONS_EVERY) => {}
        }
        for topic in &topics {
            // What cannot be asked now is asked the next time; a topic that is gone ends the task that reads it.
            let Ok(existing) = log.partition_count(&topic.name).await else { continue };
            if existing != topic.partitions {
                return Err(TaskError::from(LogError::PartitionsDiffer { topic: topic.name.clone(), existing, wanted: topic.partitions }).into());
            }
        }
    }
}

/// A task is built from the SQL each time: its expressions carry its own `now()`.
fn build_level(level: u8, partition: u32) -> BuildTask {
    Arc::new(move |config| {
        let (job, now_us) = config.plan().map_err(|e| stream_jobs::ops::OpError::Broken(e.to_string()))?;
        let set_now = Arc::new(move |us| now_us.store(us, Ordering::Relaxed));
        let task = LevelTask::new(&job, level, partition, config.level_partitions(), &config.wanted, set_now)?;
        Ok(Box::new(task) as Box<dyn Task>)
    })
}

fn build_rooms() -> BuildTask {
    Arc::new(move |config| {
        let (job, _) = config.plan().map_err(|e| stream_jobs::ops::OpError::Broken(e.to_string()))?;
        Ok(Box::new(RoomsTask::new(&job, 0, config.level_partitions(), 1)?) as Box<dyn Task>)
    })
}

/// Tasks that share an epoch topic, one a partition of it.
struct Group {
    name: String,
    /// `None`: the room tasks.
    level: Option<u8>,
}

impl Group {
    fn tasks(&self, config: &EngineConfig) -> u32 {
        self.level.map_or(1, |level| config.level_partitions().of(level))
    }

    fn build(&self, task: u32) -> BuildTask {
        self.level.map_or_else(build_rooms, |level| build_level(level, task))
    }
}

fn groups(config: &EngineConfig, job: &Job) -> Vec<Group> {
    let level = |level| Group { name: level_group(&job.name, level), level: Some(level) };
    let rooms = config.rooms.then(|| Group { name: rooms_group(&job.name), level: None });
    levels(job).into_iter().map(level).chain(rooms).collect()
}

/// The groups of tasks that an engine runs, and how many tasks each has.
pub fn tasks(config: &EngineConfig, job: &Job) -> Vec<(String, u32)> {
    groups(config, job).into_iter().map(|g| (g.name.clone(), g.tasks(config))).collect()
}

/// A task as one knows it who does not run it: enough to append to its chain in a person's name.
pub struct Skipper {
    pub group: String,
    pub task: u32,
    pub inputs: Vec<InputSpec>,
    owner: String,
    versions: Versions,
}

impl Skipper {
    /// The record after `position` that moves inputs.
    pub fn record(&self, position: &ChainPosition, cut: Vec<CutRange>) -> Result<NewRecord, TaskError> {
        let header = task_loop::header_after(position, (&self.group, self.task), &self.owner, EpochKind::Skip, &self.versions);
        task_loop::record(&EpochRecord { header: EpochHeader { cut, ..header }, outputs: Vec::new() })
    }
}

/// The tasks of an engine that read sources.
pub fn skippers(config: &EngineConfig, job: &Job) -> Result<Vec<Skipper>, TaskError> {
    let mut all = Vec::new();
    for level in levels(job) {
        for task in 0..config.level_partitions().of(level) {
            let inputs = build_level(level, task)(config)?.inputs().to_vec();
            let (owner, versions) = (format!("{} (skip)", config.owner), versions(config, job, 0));
            all.push(Skipper { group: level_group(&job.name, level), task, inputs, owner, versions });
        }
    }
    Ok(all)
}

/// The sinks of a level's views; the room tasks (`None`) have none, and none runs without a folder. Each keeps its own cursor, so a slow one holds
/// nobody back.
pub(super) fn sinks_of(config: &EngineConfig, job: &Job, level: Option<u8>) -> Result<Vec<Box<dyn sinks::Sink>>, sinks::SinkError> {
    let Some(dir) = &config.sink_dir else { return Ok(Vec::new()) };
    let of_group = job.sinks.iter().filter(|s| s.connector != "room" && Some(job.views[s.view].level) == level);
    of_group.map(|spec| sinks::build(&sink_options(config, spec, job, dir))).collect()
}

/// What every group of tasks works with.
struct Shared {
    config: EngineConfig,
    job: Arc<Job>,
    history: Arc<JobHistory>,
    log: Arc<dyn Log>,
    snapshots: Arc<dyn ObjectStore>,
    totals: Arc<Totals>,
    statuses: Statuses,
}

/// A task that runs, and how it is told to stop.
type Running = BTreeMap<u32, CancellationToken>;

impl Shared {
    /// Runs the tasks of the partitions that are owned, with their sinks, as ownership comes and goes. On `stop` they end in order, and
    /// then the group is left, so that who takes over finds snapshots.
    async fn supervise(self, group: Group, stop: CancellationToken) -> Result<(), EngineError> {
        let ownership = self.log.ownership(&epoch_topic(&group.name)).await.map_err(TaskError::from)?;
        let ended = self.follow(&group, &ownership, &stop).await;
        ownership.leave().await;
        ended
    }

    async fn follow(&self, group: &Group, ownership: &Arc<dyn Ownership>, stop: &CancellationToken) -> Result<(), EngineError> {
        let mut owned = ownership.owned();
        let mut running = Running::new();
        let mut work: JoinSet<(u32, Result<(), EngineError>)> = JoinSet::new();
        loop {
            if let Some(ended) = ownership.ended() {
                return Err(TaskError::from(ended).into());
            }
            let mine = if stop.is_cancelled() { Vec::new() } else { owned.borrow_and_update().clone() };
            for (_, stop) in running.iter().filter(|(partition, _)| !mine.contains(partition)) {
                stop.cancel();
            }
            let tasks = group.tasks(&self.config);
            if let Some(more) = mine.iter().find(|partition| **partition >= tasks) {
                return Err(TaskError::from(LogError::PartitionsDiffer { topic: epoch_topic(&group.name), existing: more + 1, wanted: tasks }).into());
            }
            // One that is owned again while it still stops is started when it has ended.
            for partition in mine {
                if let std::collections::btree_map::Entry::Vacant(free) = running.entry(partition) {
                    let stop = free.insert(CancellationToken::new()).clone();
                    let run = self.run_partition(group, ownership, partition, stop)?;
                    work.spawn(async move { (partition, run.await) });
                }
            }
            if stop.is_cancelled() && running.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = stop.cancelled(), if !stop.is_cancelled() => {}
                changed = owned.changed(), if !stop.is_cancelled() => if changed.is_err() { return Ok(()) },
                Some(ended) = work.join_next() => {
                    let (partition, result) = ended.map_err(|e| EngineError::Panic(e.to_string()))?;
                    running.remove(&partition);
                    result?;
                }
            }
        }
    }

    /// The task of a partition and the sinks that follow it; ends when all of them have.
    fn run_partition(
        &self,
        group: &Group,
        ownership: &Arc<dyn Ownership>,
        partition: u32,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = Result<(), EngineError>> + Send + use<>, EngineError> {
        let mut work: JoinSet<Result<(), EngineError>> = JoinSet::new();
        let (setup, totals, task_stop) = (self.setup(group, ownership, partition), Arc::clone(&self.totals), stop.clone());
        work.spawn(async move { Ok(task_loop::run(setup, totals, task_stop).await?) });
        for sink in sinks_of(&self.config, &self.job, group.level)? {
            let source = ChainFollower::new(&self.log, &epoch_topic(&group.name), partition, ChainPosition::default()).map_err(TaskError::from)?;
            let (snapshots, stop) = (SnapshotStore::new(Arc::clone(&self.snapshots), &group.name, partition), stop.clone());
            let (log, topic) = (Arc::clone(&self.log), epoch_topic(&group.name));
            work.spawn(async move {
                let anchor = upkeep::first_known(&log, &topic, partition, &snapshots).await?;
                Ok(sinks::drive(sink, partition, source.anchored(anchor), stop).await?)
            });
        }
        if let Some(interval) = self.config.upkeep_interval {
            let (upkeep, stop) = (self.upkeep(group, partition, interval), stop.clone());
            work.spawn(async move {
                upkeep.run(stop).await;
                Ok(())
            });
        }
        Ok(async move {
            let mut first = Ok(());
            while let Some(ended) = work.join_next().await {
                let result = ended.unwrap_or_else(|e| Err(EngineError::Panic(e.to_string())));
                if result.is_err() {
                    stop.cancel();
                }
                first = first.and(result);
            }
            first
        })
    }

    fn upkeep(&self, group: &Group, partition: u32, interval: Duration) -> Upkeep {
        let config = &self.config;
        let others = groups(config, &self.job).into_iter().filter(|g| g.name != group.name && group.level.is_some());
        let readers = others.flat_map(|g| (0..g.tasks(config)).map(move |task| Reader { group: g.name.clone(), task, build: g.build(task) }));
        Upkeep {
            group: group.name.clone(),
            level: group.level,
            partition,
            job: Arc::clone(&self.job),
            log: Arc::clone(&self.log),
            snapshots: Arc::clone(&self.snapshots),
            readers: readers.collect(),
            config: config.clone(),
            interval,
        }
    }

    fn setup(&self, group: &Group, ownership: &Arc<dyn Ownership>, partition: u32) -> TaskSetup {
        let config = &self.config;
        TaskSetup {
            group: group.name.clone(),
            partition,
            partitions: config.partitions,
            owner: config.owner.clone(),
            build: group.build(partition),
            history: Arc::clone(&self.history),
            log: Arc::clone(&self.log),
            ownership: Arc::clone(ownership),
            snapshots: Arc::clone(&self.snapshots),
            sources: Arc::new(self.job.sources.clone()),
            versions: self.history.current().map(|v| v.versions.clone()).unwrap_or_default(),
            rows_max: config.rows_max,
            cut_min: config.cut_min,
            inflight: config.inflight,
            snapshot_every: config.snapshot_every,
            snapshot_interval: config.snapshot_interval,
            crash_every: config.crash_every,
            appended_us: config.appended_us,
            counts_rows: group.level == Some(1),
            statuses: self.statuses.clone(),
        }
    }
}

/// A sink as the `sinks` crate takes it; `check` builds it too, without touching anything. Each build of a job has cursors of its own, and
/// files in a folder of its own.
pub fn sink_options(config: &EngineConfig, spec: &stream_jobs::plan::SinkSpec, job: &Job, dir: &std::path::Path) -> sinks::SinkOptions {
    let view = &job.views[spec.view];
    let mut options = sinks::SinkOptions {
        name: spec.name.clone(),
        view: view.name.clone(),
        connector: spec.connector.clone(),
        options: spec.options.clone(),
        base_dir: dir.to_owned(),
        schema: Some(Arc::clone(&view.schema)),
    };
    if config.build > 1 && spec.connector == "parquet" {
        let folder = spec.options.get("path").unwrap_or(&spec.name);
        options.options.insert("path".to_owned(), format!("{folder}/build={}", config.build));
    } else if config.build > 1 {
        if spec.connector == "kafka" {
            options.options.entry("topic".to_owned()).or_insert_with(|| spec.name.clone());
        }
        options.name = format!("{}.build{}", spec.name, config.build);
    }
    options
}

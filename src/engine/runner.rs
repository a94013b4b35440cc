//! The picture of the program: a log, tasks by level and partition, room tasks, sinks.

use super::{
    TaskError, Totals,
    chain::ChainFollower,
    task_loop::{self, BuildTask, TaskSetup},
};
use ingest::log::{Log, LogError, TopicSpec};
use object_store::ObjectStore;
use schemas::{ChainPosition, Versions};
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
    sql::{FunctionContext, SqlError, plan_job},
    task::{LevelTask, Partitions, Task, epoch_topic, level_group},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What an engine is told; paths and addresses are the caller's.
#[derive(Clone)]
pub struct EngineConfig {
    pub job_name: String,
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
}

impl EngineConfig {
    pub fn new(job_name: impl Into<String>, sql: impl Into<String>) -> Self {
        Self {
            job_name: job_name.into(),
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
}

/// A running engine.
pub struct Engine {
    pub job: Arc<Job>,
    pub totals: Arc<Totals>,
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
        for topic in config.topics(&job) {
            log.create_topic(&topic).await?;
        }
        let totals = Arc::new(Totals::default());
        let mut work = JoinSet::new();
        let partitions = config.level_partitions();
        for level in levels(&job) {
            for partition in 0..partitions.of(level) {
                let setup =
                    setup(&config, &job, &log, &snapshots, level_group(&job.name, level), partition, level == 1, build_level(&config, level, partition));
                let (totals, stop) = (Arc::clone(&totals), stop.clone());
                work.spawn(async move { Ok(task_loop::run(setup, totals, stop).await?) });
            }
        }
        if config.rooms {
            let setup = setup(&config, &job, &log, &snapshots, rooms_group(&job.name), 0, false, build_rooms(&config));
            let (totals, stop) = (Arc::clone(&totals), stop.clone());
            work.spawn(async move { Ok(task_loop::run(setup, totals, stop).await?) });
        }
        if let Some(dir) = &config.sink_dir {
            start_sinks(&job, &log, partitions, dir, &mut work, &stop)?;
        }
        Ok(Self { job, totals, work, stop })
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

#[expect(clippy::too_many_arguments, reason = "one place where a task's setup is put together")]
fn setup(
    config: &EngineConfig,
    job: &Arc<Job>,
    log: &Arc<dyn Log>,
    snapshots: &Arc<dyn ObjectStore>,
    group: String,
    partition: u32,
    counts_rows: bool,
    build: BuildTask,
) -> TaskSetup {
    TaskSetup {
        group,
        partition,
        partitions: config.partitions,
        owner: config.owner.clone(),
        build,
        log: Arc::clone(log),
        snapshots: Arc::clone(snapshots),
        sources: Arc::new(job.sources.clone()),
        versions: versions(config, job),
        rows_max: config.rows_max,
        cut_min: config.cut_min,
        inflight: config.inflight,
        snapshot_every: config.snapshot_every,
        snapshot_interval: config.snapshot_interval,
        crash_every: config.crash_every,
        appended_us: config.appended_us,
        counts_rows,
    }
}

fn versions(config: &EngineConfig, job: &Job) -> Versions {
    Versions {
        engine: env!("CARGO_PKG_VERSION").to_owned(),
        sql: job.sql_hash.clone(),
        models: config.models.iter().map(|(name, m)| format!("{name}-{}", m.version)).collect(),
    }
}

/// A task is built from the SQL each time: its expressions carry its own `now()`.
fn build_level(config: &EngineConfig, level: u8, partition: u32) -> BuildTask {
    let config = config.clone();
    Arc::new(move || {
        let (job, now_us) = config.plan().map_err(|e| stream_jobs::ops::OpError::Broken(e.to_string()))?;
        let set_now = Arc::new(move |us| now_us.store(us, Ordering::Relaxed));
        let task = LevelTask::new(&job, level, partition, config.level_partitions(), &config.wanted, set_now)?;
        Ok(Box::new(task) as Box<dyn Task>)
    })
}

fn build_rooms(config: &EngineConfig) -> BuildTask {
    let config = config.clone();
    Arc::new(move || {
        let (job, _) = config.plan().map_err(|e| stream_jobs::ops::OpError::Broken(e.to_string()))?;
        Ok(Box::new(RoomsTask::new(&job, 0, config.level_partitions(), 1)?) as Box<dyn Task>)
    })
}

/// One loop per sink and task of its view's level; each keeps its own cursor, so a slow one holds nobody back.
fn start_sinks(
    job: &Job,
    log: &Arc<dyn Log>,
    partitions: Partitions,
    dir: &std::path::Path,
    work: &mut JoinSet<Result<(), EngineError>>,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    for spec in job.sinks.iter().filter(|s| s.connector != "room") {
        let view = &job.views[spec.view];
        for task in 0..partitions.of(view.level) {
            let sink = sinks::build(&sink_options(spec, job, dir))?;
            let source = ChainFollower::new(log, &epoch_topic(&level_group(&job.name, view.level)), task, ChainPosition::default())?;
            let stop = stop.clone();
            work.spawn(async move { Ok(sinks::drive(sink, task, source, stop).await?) });
        }
    }
    Ok(())
}

/// A sink as the `sinks` crate takes it; `check` builds it too, without touching anything.
pub fn sink_options(spec: &stream_jobs::plan::SinkSpec, job: &Job, dir: &std::path::Path) -> sinks::SinkOptions {
    let view = &job.views[spec.view];
    sinks::SinkOptions {
        name: spec.name.clone(),
        view: view.name.clone(),
        connector: spec.connector.clone(),
        options: spec.options.clone(),
        base_dir: dir.to_owned(),
        schema: Some(Arc::clone(&view.schema)),
    }
}

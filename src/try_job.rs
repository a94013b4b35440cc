//! `headend try`: a job over files, through the very same chain as in service: log, decode, epochs, accepted outputs.
//!
//! The log and the snapshots stand in memory. All rows are in the log before the tasks start, so cuts fall where `--cut-rows` says.

use crate::{
    cli::TryArgs,
    commands,
    engine::{Engine, EngineConfig, Totals, chain::ChainFollower},
    exit::Usage,
    import::{
        self,
        payload::{ConvertedBatch, Converter},
        rows::{self, Row},
    },
};
use anyhow::{Context, bail};
use ingest::{
    EmbeddedLog,
    log::{Log, end_source},
};
use schemas::{AcceptedEpoch, ChainPosition, NewRecord, OutputKind};
use serde_json::{Value, json};
use std::{collections::BTreeMap, io::Write, path::Path, sync::Arc, time::Duration};
use stream_jobs::{
    plan::{Job, SourceSpec},
    rooms::JsonRows,
    task::{epoch_topic, level_group},
    upstream::read_rows,
};
use tokio_util::sync::CancellationToken;

/// Rows that are converted and appended at a time.
const ROWS_AT_ONCE: usize = 4096;

/// Epochs between snapshots: few, so that a crash re-runs some of them and not all.
const SNAPSHOT_EVERY: u64 = 20;

/// What a run counted.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    pub rows_in: u64,
    pub dead: u64,
    pub late: u64,
    pub duplicate: u64,
    pub misplaced: u64,
    pub future: u64,
    /// Lines of the files that could not become a record.
    pub rejected: u64,
    pub rows_out: u64,
    pub epochs: u64,
    pub ignored: u64,
    pub recoveries: u64,
    /// Epochs that a recovery ran again and found equal. One that differs ends the run with an error.
    pub verified: u64,
    pub differences: u64,
    pub seconds: f64,
}

/// A job over rows that stand in a log; the files' part is [`run`].
pub struct Trial {
    pub config: EngineConfig,
    pub job: Arc<Job>,
    pub log: Arc<dyn Log>,
}

impl Trial {
    pub async fn new(config: EngineConfig) -> anyhow::Result<Self> {
        let (job, _) = config.plan()?;
        let log: Arc<dyn Log> = EmbeddedLog::in_memory()?;
        for topic in config.topics(&job) {
            log.create_topic(&topic).await?;
        }
        Ok(Self { config, job, log })
    }

    /// Ends every source.
    pub async fn close_sources(&self) -> anyhow::Result<()> {
        let topics: std::collections::BTreeSet<&str> = self.job.sources.iter().map(|s| s.topic.as_str()).collect();
        for topic in topics {
            end_source(self.log.as_ref(), topic, self.config.partitions).await?;
        }
        Ok(())
    }

    /// Runs to the end of the sources and hands each accepted epoch of the view's level to `take`.
    pub async fn run(&self, view: &str, mut take: impl FnMut(&AcceptedEpoch) -> anyhow::Result<()>) -> anyhow::Result<Arc<Totals>> {
        let spec = self.job.views.iter().find(|v| v.name == view).context("the view was looked up before")?;
        let stop = CancellationToken::new();
        let snapshots = Arc::new(object_store::memory::InMemory::new());
        let engine = Engine::start(self.config.clone(), Arc::clone(&self.log), snapshots, stop.clone()).await?;
        let totals = Arc::clone(&engine.totals);
        let group = level_group(&self.job.name, spec.level);
        let partitions = if spec.level == 1 { self.config.partitions } else { self.config.upper_partitions };
        let mut running = tokio::spawn(engine.join());
        for partition in 0..partitions {
            let mut follower = ChainFollower::new(&self.log, &epoch_topic(&group), partition, ChainPosition::default())?;
            let mut ended = false;
            while !ended {
                tokio::select! {
                    biased;
                    epochs = follower.next_epochs(1024, Duration::from_secs(1)) => {
                        for epoch in &epochs?.0 {
                            take(epoch)?;
                            ended |= epoch.record.header.watermark == Some(i64::MAX);
                        }
                    }
                    stopped = &mut running => {
                        stopped.context("the engine broke")??;
                        bail!("the engine stopped before the end of the rows");
                    }
                }
            }
        }
        stop.cancel();
        running.await.context("the engine broke")??;
        Ok(totals)
    }
}

/// The command.
pub async fn run(args: TryArgs, out: &mut dyn Write) -> anyhow::Result<Report> {
    let started = std::time::Instant::now();
    let trial = Trial::new(config(&args)?).await?;
    let Some(view) = trial.job.views.iter().find(|v| v.name == args.output && v.visible) else {
        let known: Vec<&str> = trial.job.views.iter().filter(|v| v.visible).map(|v| v.name.as_str()).collect();
        return Err(Usage(format!("there is no view `{}` in `{}`; views are `{}`", args.output, args.job.display(), known.join("`, `"))).into());
    };
    let mut rejected = 0;
    for input in &args.input {
        let Some(source) = trial.job.sources.iter().find(|s| s.name == input.name) else {
            let known: Vec<&str> = trial.job.sources.iter().map(|s| s.name.as_str()).collect();
            return Err(Usage(format!("there is no source `{}` in `{}`; sources are `{}`", input.name, args.job.display(), known.join("`, `"))).into());
        };
        let mapping = args.mapping.iter().find(|m| m.name == input.name).map(|m| m.file.as_path());
        rejected += load(&trial, source, &input.file, mapping).await?;
    }
    trial.close_sources().await?;
    let mut printer = Printer::new(view, args.r#final, out);
    let totals = trial.run(&args.output, |epoch| printer.epoch(epoch)).await?;
    let rows_out = printer.finish()?;
    let n = |counter| Totals::get(counter);
    Ok(Report {
        rows_in: n(&totals.rows_in),
        dead: n(&totals.dead),
        late: n(&totals.late),
        duplicate: n(&totals.duplicate),
        misplaced: n(&totals.misplaced),
        future: n(&totals.future),
        rejected,
        rows_out,
        epochs: n(&totals.accepted),
        ignored: n(&totals.ignored),
        recoveries: n(&totals.recoveries),
        verified: n(&totals.verified),
        differences: 0,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn config(args: &TryArgs) -> anyhow::Result<EngineConfig> {
    let mut config = commands::engine_job(&args.job, args.model.as_deref())?;
    config.partitions = args.partitions;
    config.upper_partitions = args.partitions;
    config.rows_max = args.cut_rows as usize;
    config.cut_min = Duration::ZERO;
    config.crash_every = args.crash_every.map(u64::from);
    config.snapshot_every = if config.crash_every.is_some() { SNAPSHOT_EVERY } else { u64::MAX };
    config.snapshot_interval = Duration::MAX;
    config.appended_us = args.now;
    config.wanted = vec![args.output.clone()];
    Ok(config)
}

/// Appends the rows of a file; returns how many lines could not become a record. They are named on standard error.
async fn load(trial: &Trial, source: &SourceSpec, file: &Path, mapping: Option<&Path>) -> anyhow::Result<u64> {
    let mut reader = rows::open(file)?;
    let mut converter = Converter::for_columns(&reader, &source.schema, &source.key, source.time_column);
    if let Some(path) = mapping {
        let sql = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        converter = converter.with_mapping(&mut reader, &sql).map_err(|e| import::in_file(e, path))?;
    }
    let mut rejected = 0;
    let mut rows: Vec<Row> = Vec::with_capacity(ROWS_AT_ONCE);
    loop {
        let row = reader.next().transpose()?;
        let last = row.is_none();
        rows.extend(row);
        if rows.len() == ROWS_AT_ONCE || (last && !rows.is_empty()) {
            let batch = converter.convert(std::mem::take(&mut rows))?;
            rejected += batch.errors.len() as u64;
            append(trial, source, file, batch).await?;
        }
        if last {
            return Ok(rejected);
        }
    }
}

async fn append(trial: &Trial, source: &SourceSpec, file: &Path, batch: ConvertedBatch) -> anyhow::Result<()> {
    for error in &batch.errors {
        tracing::warn!(line = error.line, file = %file.display(), "{}", error.reason);
    }
    let mut by_partition: BTreeMap<u32, Vec<NewRecord>> = BTreeMap::new();
    for row in batch.rows {
        // A payload that does not tell its key becomes a dead letter where the log's decoder meets it.
        let partition = if row.key.is_empty() { 0 } else { schemas::partition::partition_of(row.key.as_bytes(), trial.config.partitions) };
        let key = (!row.key.is_empty()).then(|| row.key.into());
        by_partition.entry(partition).or_default().push(NewRecord { key, value: Some(row.payload.into()), headers: Vec::new() });
    }
    for (partition, records) in by_partition {
        trial.log.append(&source.topic, partition, records).await?;
    }
    Ok(())
}

/// Prints rows as they are accepted, or those that stand at the end.
struct Printer<'a> {
    view: String,
    key: Vec<String>,
    standing: Option<BTreeMap<String, Value>>,
    out: &'a mut dyn Write,
    rows: u64,
}

impl<'a> Printer<'a> {
    fn new(view: &stream_jobs::plan::ViewSpec, only_final: bool, out: &'a mut dyn Write) -> Self {
        let key = view.key.iter().map(|i| view.schema.field(*i).name().clone()).collect();
        Self { view: view.name.clone(), key, standing: only_final.then(BTreeMap::new), out, rows: 0 }
    }

    fn epoch(&mut self, epoch: &AcceptedEpoch) -> anyhow::Result<()> {
        let mine = |o: &&schemas::Output| o.name == self.view && matches!(o.kind, OutputKind::Rows | OutputKind::Changes);
        for output in epoch.record.outputs.iter().filter(mine) {
            let delta = read_rows(output)?;
            let rows = JsonRows::new(&delta.batch)?;
            for row in 0..delta.len() {
                let value = rows.object(row)?;
                match (&mut self.standing, &delta.ops) {
                    (Some(standing), Some(ops)) => {
                        let key = key_of(&self.key, &value);
                        if ops[row].adds() {
                            standing.insert(key, value)
                        } else {
                            standing.remove(&key)
                        };
                    }
                    (Some(standing), None) => {
                        standing.insert(format!("{:020}", standing.len()), value);
                    }
                    (None, ops) => {
                        let value = with_op(value, ops.as_ref().map(|o| o[row].as_str()));
                        self.rows += 1;
                        writeln!(self.out, "{value}")?;
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<u64> {
        for value in self.standing.take().into_iter().flat_map(BTreeMap::into_values) {
            self.rows += 1;
            writeln!(self.out, "{value}")?;
        }
        self.out.flush()?;
        Ok(self.rows)
    }
}

fn key_of(key: &[String], value: &Value) -> String {
    if key.is_empty() {
        return value.to_string();
    }
    Value::Array(key.iter().map(|k| value[k].clone()).collect()).to_string()
}

fn with_op(mut value: Value, op: Option<&str>) -> Value {
    if let (Some(object), Some(op)) = (value.as_object_mut(), op) {
        object.insert(schemas::OP_COLUMN.to_owned(), json!(op));
    }
    value
}

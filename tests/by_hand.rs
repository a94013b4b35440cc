//! The tasks of a job driven by hand: all levels and partitions in one thread, without log and without engine. Where an epoch ends, and after
//! which of them every task is dropped and restored, is the caller's.

use headend::engine::{EngineConfig, feed::decoder_spec};
use ingest::SourceDecoder;
use schemas::{ChainPosition, EpochHeader, EpochId, EpochKind, EpochRecord, NewRecord, Record, Versions, partition::partition_of};
use std::{
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};
use stream_jobs::{
    plan::Job,
    state::Pieces,
    task::{Content, EpochInput, InputCut, InputSpec, LevelTask, Partitions, Task, level_group},
};

/// A record of a source, by the source's place in the job.
pub type Row = (usize, NewRecord);

/// A way of cutting: rows of each epoch, one after another; the last number counts for the rest.
#[derive(Debug, Clone)]
pub struct Cuts {
    pub rows: Vec<usize>,
    /// Drop and restore every task after each epoch.
    pub crashes: bool,
    pub partitions: u32,
}

/// What came out of the tasks of one level, partition by partition.
pub struct CameOut {
    pub records: Vec<Arc<EpochRecord>>,
    pub late: u64,
}

pub struct ByHand {
    job: Arc<Job>,
    set_now: Arc<dyn Fn(i64) + Send + Sync>,
    config: EngineConfig,
}

struct Driven {
    level: u8,
    partition: u32,
    task: LevelTask,
    /// Of each input that is a source.
    decoders: Vec<Option<SourceDecoder>>,
    /// Next offset of each input.
    next: Vec<u64>,
    position: ChainPosition,
    /// Every epoch it has told.
    told: Vec<Arc<EpochRecord>>,
}

impl ByHand {
    pub fn new(config: EngineConfig) -> Result<Self, String> {
        let (job, now_us) = config.plan().map_err(|e| e.to_string())?;
        Ok(Self { job, set_now: Arc::new(move |us| now_us.store(us, Ordering::Relaxed)), config })
    }

    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Runs the rows to the end of their sources. `level`: whose epochs are handed back.
    pub fn run(&self, rows: &[Row], cuts: &Cuts, level: u8) -> Result<CameOut, String> {
        let mut tasks = self.tasks(cuts.partitions)?;
        let mut rest = rows;
        let mut sizes = cuts.rows.iter();
        let mut size = usize::MAX;
        while !rest.is_empty() {
            size = sizes.next().copied().unwrap_or(size).max(1);
            let (of_epoch, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            self.epoch(&mut tasks, of_epoch, cuts.partitions)?;
            if cuts.crashes {
                tasks = tasks.into_iter().map(|driven| self.restored(driven, cuts.partitions)).collect::<Result<_, _>>()?;
            }
        }
        self.end(&mut tasks, cuts.partitions)?;
        let late = tasks.iter().filter(|t| t.level == 1).flat_map(|t| &t.told).map(|record| record.header.counters.late).sum();
        let records = tasks.into_iter().filter(|t| t.level == level).flat_map(|t| t.told).collect();
        Ok(CameOut { records, late })
    }

    fn tasks(&self, partitions: u32) -> Result<Vec<Driven>, String> {
        let top = self.job.views.iter().map(|v| v.level).max().unwrap_or(1);
        (1..=top).flat_map(|level| (0..partitions).map(move |p| (level, p))).map(|(level, p)| self.task(level, p, partitions)).collect()
    }

    fn task(&self, level: u8, partition: u32, partitions: u32) -> Result<Driven, String> {
        let of_levels = Partitions { level1: partitions, upper: partitions };
        let task = LevelTask::new(&self.job, level, partition, of_levels, &self.config.wanted, Arc::clone(&self.set_now)).map_err(|e| e.to_string())?;
        let decoder = |input: &InputSpec| match input {
            InputSpec::Source { source, .. } => SourceDecoder::new(decoder_spec(&self.job.sources[*source], partitions)).map(Some),
            InputSpec::Epochs { .. } => Ok(None),
        };
        let decoders = task.inputs().iter().map(decoder).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
        let next = vec![0; decoders.len()];
        Ok(Driven { level, partition, task, decoders, next, position: ChainPosition::default(), told: Vec::new() })
    }

    fn restored(&self, driven: Driven, partitions: u32) -> Result<Driven, String> {
        let Driven { level, partition, mut task, next, position, told, .. } = driven;
        let frozen = task.freeze().map_err(|e| e.to_string())?;
        let parts = frozen.into_iter().map(|(name, frozen)| Ok((name, frozen()?))).collect::<Result<Vec<(String, Pieces)>, stream_jobs::state::StateError>>();
        let mut fresh = self.task(level, partition, partitions)?;
        fresh.task.restore(parts.map_err(|e| e.to_string())?.into_iter().collect()).map_err(|e| e.to_string())?;
        Ok(Driven { next, position, told, ..fresh })
    }

    /// One epoch of every task that has something to take, from level 1 up.
    fn epoch(&self, tasks: &mut [Driven], rows: &[Row], partitions: u32) -> Result<(), String> {
        for at in 0..tasks.len() {
            let (below, rest) = tasks.split_at_mut(at);
            let mine = |key: Option<&bytes::Bytes>| key.map_or(0, |key| partition_of(key, partitions)) == rest[0].partition;
            let of_task: Vec<&Row> = rows.iter().filter(|(_, record)| record.key.is_none() && record.value.is_none() || mine(record.key.as_ref())).collect();
            rest[0].run(below, &of_task, &self.config)?;
        }
        Ok(())
    }

    /// Ends every source, and lets out what waits.
    fn end(&self, tasks: &mut [Driven], partitions: u32) -> Result<(), String> {
        for source in 0..self.job.sources.len() {
            self.epoch(tasks, &[(source, NewRecord::end_of_source())], partitions)?;
        }
        for _ in 0..10_000 {
            if tasks.iter().all(|t| t.ended()) {
                return Ok(());
            }
            self.epoch(tasks, &[], partitions)?;
        }
        Err("the tasks do not come to their end".to_owned())
    }
}

impl Driven {
    fn ended(&self) -> bool {
        self.told.last().is_some_and(|record| record.header.watermark == Some(i64::MAX))
    }

    fn run(&mut self, below: &[Self], rows: &[&Row], config: &EngineConfig) -> Result<(), String> {
        let specs = self.task.inputs().to_vec();
        let mut inputs = Vec::with_capacity(specs.len());
        for (at, spec) in specs.iter().enumerate() {
            inputs.push(match spec {
                InputSpec::Source { source, .. } => self.rows_of(at, *source, rows, config)?,
                InputSpec::Epochs { group, partition } => self.epochs_of(at, group, *partition, below, config),
            });
        }
        let output = self.task.process(EpochInput { now_ms: 0, inputs }).map_err(|e| e.to_string())?;
        let epoch = self.position.epoch + 1;
        let id = EpochId(u128::from(epoch) << 64 | u128::from(self.level) << 32 | u128::from(self.partition));
        let header = EpochHeader {
            group: level_group(&config.job_name, self.level),
            task: self.partition,
            epoch,
            id,
            parent: self.position.id,
            owner: "hand".to_owned(),
            kind: EpochKind::Work,
            cut: Vec::new(),
            now_ms: 0,
            watermark: output.watermark,
            watermarks: output.watermarks,
            appended_us: output.appended_us,
            versions: Versions::default(),
            counters: output.counters,
            output_hash: String::new(),
            outputs: Vec::new(),
        };
        self.position = ChainPosition { next_offset: self.position.next_offset + 1, epoch, id };
        self.told.push(Arc::new(EpochRecord { header, outputs: output.outputs }));
        Ok(())
    }

    fn rows_of(&mut self, at: usize, source: usize, rows: &[&Row], config: &EngineConfig) -> Result<InputCut, String> {
        let from = self.next[at];
        let present = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        let append_us = config.appended_us.unwrap_or(present);
        let record =
            |(offset, new): (u64, &NewRecord)| Record { offset, append_us, key: new.key.clone(), value: new.value.clone(), headers: new.headers.clone() };
        let records: Vec<Record> = (from..).zip(rows.iter().filter(|(s, _)| *s == source).map(|(_, record)| record)).map(record).collect();
        let to = from + records.len() as u64;
        self.next[at] = to;
        let content = match &mut self.decoders[at] {
            Some(decoder) if to > from => {
                let batch = decoder.decode(self.partition, from, to, &records).map_err(|e| e.to_string())?;
                Content::Source(batch, Arc::new(records))
            }
            _ => Content::Nothing,
        };
        Ok(InputCut { from, to, caught_up: false, content })
    }

    fn epochs_of(&mut self, at: usize, group: &str, partition: u32, below: &[Self], config: &EngineConfig) -> InputCut {
        let from = self.next[at];
        let of = below.iter().find(|t| t.partition == partition && level_group(&config.job_name, t.level) == group);
        let epochs: Vec<(u64, Arc<EpochRecord>)> =
            of.into_iter().flat_map(|t| t.told.iter().cloned().enumerate().skip(from as usize)).map(|(offset, record)| (offset as u64, record)).collect();
        let to = from + epochs.len() as u64;
        self.next[at] = to;
        InputCut { from, to, caught_up: false, content: if epochs.is_empty() { Content::Nothing } else { Content::Epochs(epochs) } }
    }
}

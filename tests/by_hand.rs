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

/// What an epoch knows beside its rows.
#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    now_ms: i64,
    /// The log said of every source that nothing more is there.
    caught_up: bool,
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
            self.epoch(&mut tasks, of_epoch, cuts.partitions, Clock::default())?;
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
    fn epoch(&self, tasks: &mut [Driven], rows: &[Row], partitions: u32, clock: Clock) -> Result<(), String> {
        for at in 0..tasks.len() {
            let (below, rest) = tasks.split_at_mut(at);
            let mine = |key: Option<&bytes::Bytes>| key.map_or(0, |key| partition_of(key, partitions)) == rest[0].partition;
            let of_task: Vec<&Row> = rows.iter().filter(|(_, record)| record.key.is_none() && record.value.is_none() || mine(record.key.as_ref())).collect();
            rest[0].run(below, &of_task, &self.config, clock)?;
        }
        Ok(())
    }

    /// Ends every source, and lets out what waits.
    fn end(&self, tasks: &mut [Driven], partitions: u32) -> Result<(), String> {
        for source in 0..self.job.sources.len() {
            self.epoch(tasks, &[(source, NewRecord::end_of_source())], partitions, Clock::default())?;
        }
        for _ in 0..10_000 {
            if tasks.iter().all(|t| t.ended()) {
                return Ok(());
            }
            self.epoch(tasks, &[], partitions, Clock::default())?;
        }
        Err("the tasks do not come to their end".to_owned())
    }
}

impl Driven {
    fn ended(&self) -> bool {
        self.told.last().is_some_and(|record| record.header.watermark == Some(i64::MAX))
    }

    fn run(&mut self, below: &[Self], rows: &[&Row], config: &EngineConfig, clock: Clock) -> Result<(), String> {
        let specs = self.task.inputs().to_vec();
        let mut inputs = Vec::with_capacity(specs.len());
        for (at, spec) in specs.iter().enumerate() {
            inputs.push(match spec {
                InputSpec::Source { source, .. } => InputCut { caught_up: clock.caught_up, ..self.rows_of(at, *source, rows, config)? },
                InputSpec::Epochs { group, partition } => self.epochs_of(at, group, *partition, below, config),
            });
        }
        let output = self.task.process(EpochInput { now_ms: clock.now_ms, inputs }).map_err(|e| e.to_string())?;
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
            now_ms: clock.now_ms,
            watermark: output.watermark,
            watermarks: output.watermarks,
            begins: std::collections::BTreeMap::new(),
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

const SOURCES: &str = "CREATE SOURCE a (tenant TEXT, sub TEXT, t TIMESTAMPTZ, n BIGINT, WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'a.v1', key = 'tenant, sub', idle_timeout = '10 seconds');
CREATE SOURCE b (tenant TEXT, sub TEXT, t TIMESTAMPTZ, n BIGINT, WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'b.v1', key = 'tenant, sub', idle_timeout = '10 seconds');
";
const WINDOWS: &str = "CREATE MATERIALIZED VIEW both_of AS SELECT tenant, sub, t, n FROM a UNION ALL SELECT tenant, sub, t, n FROM b;
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, window_end, COUNT(*) AS n FROM TUMBLE(both_of, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end EMIT ON WINDOW CLOSE;
";

/// The job's one task, and what it has told.
struct Hand {
    tasks: Vec<Driven>,
    by_hand: ByHand,
}

impl Hand {
    fn new(sql: &str, wanted: &str) -> Self {
        let mut config = EngineConfig::new("hand", sql.to_owned());
        config.appended_us = Some(ms("2026-01-01T13:00:00Z") * 1_000);
        config.wanted = vec![wanted.to_owned()];
        let by_hand = ByHand::new(config).unwrap();
        Self { tasks: by_hand.tasks(1).unwrap(), by_hand }
    }

    /// Rows of a source at a time of the wall clock, each a time of the day and a number; what has come out of `output` since.
    fn epoch(&mut self, now: &str, caught_up: bool, source: usize, rows: &[(&str, i64)], output: &str) -> Vec<serde_json::Value> {
        let row = |(time, n): &(&str, i64)| {
            let value = serde_json::json!({ "tenant": "acme", "sub": "s1", "t": format!("2026-01-01T{time}Z"), "n": n });
            (source, NewRecord { key: Some("acme|s1".into()), value: Some(value.to_string().into()), headers: Vec::new() })
        };
        let rows: Vec<Row> = rows.iter().map(row).collect();
        self.by_hand.epoch(&mut self.tasks, &rows, 1, Clock { now_ms: ms(now), caught_up }).unwrap();
        self.tasks.iter().flat_map(|task| crate::cases::rows_of_record(task.told.last().unwrap(), output)).collect()
    }
}

fn ms(time: &str) -> i64 {
    schemas::clock::parse_rfc3339(time).unwrap() / 1_000
}

#[test]
fn an_input_that_is_caught_up_and_quiet_for_the_idle_timeout_holds_nobody_back() {
    let mut hand = Hand::new(&format!("{SOURCES}{WINDOWS}"), "w");
    assert!(hand.epoch("2026-01-01T12:00:00Z", true, 1, &[("12:00:01", 1)], "w").is_empty());
    assert!(hand.epoch("2026-01-01T12:00:01Z", true, 0, &[("12:00:02", 1), ("12:00:20", 1)], "w").is_empty(), "b holds it");
    assert!(hand.epoch("2026-01-01T12:00:09.999Z", true, 0, &[("12:00:21", 1)], "w").is_empty(), "b is quiet, and not for long enough");
    let mut quiet = Hand::new(&format!("{SOURCES}{WINDOWS}"), "w");
    quiet.epoch("2026-01-01T12:00:00Z", true, 1, &[("12:00:01", 1)], "w");
    assert!(quiet.epoch("2026-01-01T12:00:11Z", false, 0, &[("12:00:02", 1), ("12:00:20", 1)], "w").is_empty(), "b is behind, however quiet");
    let told = hand.epoch("2026-01-01T12:00:10Z", true, 0, &[("12:00:22", 1)], "w");
    assert_eq!((told.len(), &told[0]["n"]), (1, &serde_json::json!(2)));
}

#[test]
fn when_all_inputs_are_idle_the_watermark_follows_the_clock_if_it_stands_near_it() {
    let mut live = Hand::new(&format!("{SOURCES}{WINDOWS}"), "w");
    for source in [0, 1] {
        live.epoch("2026-01-01T12:00:05Z", true, source, &[("12:00:04", 1)], "w");
    }
    assert!(live.epoch("2026-01-01T12:00:14Z", true, 0, &[], "w").is_empty(), "nobody is idle yet");
    let told = live.epoch("2026-01-01T12:00:15Z", true, 0, &[], "w");
    assert_eq!((told.len(), &told[0]["window_end"]), (1, &serde_json::json!("2026-01-01T12:00:10Z")), "12:00:15 less the bound is the window's end");
    let mut history = Hand::new(&format!("{SOURCES}{WINDOWS}"), "w");
    for source in [0, 1] {
        history.epoch("2026-01-03T12:00:05Z", true, source, &[("12:00:04", 1)], "w");
    }
    assert!(history.epoch("2026-01-03T13:00:00Z", true, 0, &[], "w").is_empty(), "two days behind the clock it waits for rows");
}

#[test]
fn before_its_first_row_a_task_has_no_watermark() {
    let mut hand = Hand::new(&format!("{SOURCES}{WINDOWS}"), "w");
    for now in ["2026-01-01T12:00:00Z", "2026-01-01T12:01:00Z"] {
        hand.epoch(now, true, 0, &[], "w");
        assert_eq!(hand.tasks[0].told.last().unwrap().header.watermark, None);
    }
}

#[test]
fn a_new_version_of_a_rule_expires_the_open_alerts_of_the_old() {
    let view =
        "CREATE MATERIALIZED VIEW high AS SELECT tenant, sub, LAST_VALUE(n) AS score FROM a GROUP BY tenant, sub EMIT CHANGES EVERY INTERVAL '1 second';";
    let of_version = |bound: u32| format!("{SOURCES}{view}CREATE ALERT too_high ON high RAISE WHEN score > {bound} WITH (rooms = 'sub:{{sub}}');");
    let mut old = Hand::new(&of_version(5), "high");
    old.epoch("2026-01-01T12:00:00Z", false, 0, &[("12:00:00", 9)], "alerts");
    let raised = old.epoch("2026-01-01T12:00:10Z", false, 0, &[("12:00:10", 9)], "alerts");
    assert_eq!((raised.len(), &raised[0]["action"]), (1, &serde_json::json!("raise")));
    let new = Hand::new(&of_version(7), "high").by_hand;
    let tasks = old.tasks.into_iter().map(|task| new.restored(task, 1)).collect::<Result<_, _>>().unwrap();
    let mut new = Hand { tasks, by_hand: new };
    let told = new.epoch("2026-01-01T12:00:20Z", false, 0, &[("12:00:20", 9)], "alerts");
    assert_eq!((told.len(), &told[0]["action"], &told[0]["state"]), (1, &serde_json::json!("expire"), &serde_json::json!("expired")));
    assert_eq!((&told[0]["alert_id"], &told[0]["rule_version"], &told[0]["rooms"]), (&raised[0]["alert_id"], &raised[0]["rule_version"], &raised[0]["rooms"]));
    assert_eq!(told[0]["revision"], 2);
    let told = new.epoch("2026-01-01T12:00:40Z", false, 0, &[("12:00:30", 8), ("12:00:40", 9)], "alerts");
    assert_eq!((told.len(), &told[0]["action"]), (1, &serde_json::json!("raise")), "the new rule sees for itself");
    assert_ne!(told[0]["alert_id"], raised[0]["alert_id"]);
}

#[test]
fn a_window_that_closed_while_an_input_was_idle_is_closed_for_its_rows_too() {
    let mut hand = Hand::new(&format!("{SOURCES}{WINDOWS}"), "w");
    hand.epoch("2026-01-01T12:00:00Z", true, 1, &[("12:00:01", 1)], "w");
    let told = hand.epoch("2026-01-01T12:00:10Z", true, 0, &[("12:00:02", 1), ("12:00:22", 1)], "w");
    assert_eq!(told.len(), 1);
    let late = hand.epoch("2026-01-01T12:00:11Z", true, 1, &[("12:00:03", 1), ("12:00:11", 1)], "w.late");
    assert_eq!((late.len(), &late[0]["t"]), (1, &serde_json::json!("2026-01-01T12:00:03Z")));
    assert_eq!(hand.tasks[0].told.last().unwrap().header.counters.late, 1);
}

#[test]
fn a_window_of_720_panes_keeps_a_pane_of_columns_and_no_copy_for_each_window() {
    let window = "CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, window_end, COUNT(*) AS n FROM HOP(a, t, INTERVAL '1 hour', INTERVAL '30 days')
        GROUP BY tenant, sub, window_start, window_end EMIT ON WINDOW CLOSE;";
    let mut hand = Hand::new(&format!("{SOURCES}{window}"), "w");
    hand.epoch("2026-01-01T12:00:00Z", false, 0, &[("08:10:00", 1), ("08:50:00", 1), ("09:10:00", 1), ("11:10:00", 1)], "w");
    let parts = hand.tasks[0].task.freeze().unwrap();
    let pieces = parts.into_iter().find(|(name, _)| name == "view.w").unwrap().1().unwrap();
    let panes: std::collections::BTreeSet<i64> = serde_json::from_value(pieces.meta["panes"].clone()).unwrap();
    assert_eq!(panes.len(), 3, "the rows lie in three hours and in 720 windows each");
}

//! What a run is told, and the engine that it runs.

use crate::{
    events::Events,
    variant::{Stream, Variant},
    wire::WireLog,
};
use anyhow::ensure;
use headend::engine::EngineConfig;
use ingest::Log;
use serde_json::{Value, json};
use std::{path::PathBuf, sync::Arc, time::Duration};

pub const TOPIC: &str = "usage.v1";
/// The topic of the table that a variant joins.
pub const PLANS: &str = "plans.v1";
pub const VIEW: &str = "usage_1m";
pub const PARTITIONS: u32 = 4;
/// Bytes that a feed of the engine reads at a time.
pub const FETCH_BYTES: usize = 8 * 1024 * 1024;
pub const SECOND_US: i64 = 1_000_000;
pub const HOUR_US: i64 = 3_600 * SECOND_US;
pub const DAY_US: i64 = 24 * HOUR_US;
pub const WINDOW_US: i64 = 60 * SECOND_US;
/// Events that fall on a key and window.
pub const EVENTS_A_KEY: u64 = 3;
pub const BOUND_S: i64 = 5;
pub const BOUND_US: i64 = BOUND_S * SECOND_US;
/// Fewer make no stream of 2,000 events a key, and no hundred windows.
const VARIANT_EVENTS_MIN: u64 = 60_000;

/// Throughput of the pipeline on one core.
#[derive(clap::Parser)]
pub struct Args {
    /// Many jobs, one after the other, in place of the one: other windows, changes, deduplication, a join, snapshots, and how the cost
    /// grows with keys and with open windows. A line of JSON each.
    #[arg(long)]
    pub variants: bool,
    /// Only these of the variants; `snapshots`, `keys` and `windows` are the last three.
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "variants")]
    only: Vec<String>,
    /// Ten million keys too: 30,000,000 events, some minutes.
    #[arg(long, requires = "variants")]
    large: bool,
    /// Draws how the cost grows into this folder, as SVG.
    #[arg(long, value_name = "FOLDER", requires = "variants")]
    plots: Option<PathBuf>,
    /// Events in the log; nine a key or more, so that three windows close. Default: 12,000,000, of the variants 3,000,000.
    #[arg(long)]
    events: Option<u64>,
    /// Subscribers. Three events fall on each in a minute of event time. Default: 1,000,000, of the variants one for 60 events.
    #[arg(long)]
    keys: Option<u64>,
    /// The same seed gives the same events.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// A tenth of the events and of the keys.
    #[arg(long)]
    quick: bool,
    /// Writes the report to this file too.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Where the log stands while the bench runs: about 3 GB, deleted at its end. Default: the system's folder for such files.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The log is a Kafka that nobody has used before (`scripts/kafka start`), and not the embedded one.
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// A setting of librdkafka, to see what it is worth; may be given more than once.
    #[arg(long, value_name = "NAME=VALUE", requires = "kafka")]
    pub property: Vec<String>,
    /// A spike: the events are fetched over a plain socket, without librdkafka, so many bytes at a time.
    #[arg(long, value_name = "BYTES", requires = "kafka")]
    wire: Option<i32>,
    /// The most rows of one epoch, to see what that is worth. Default: the engine's.
    #[arg(long, value_name = "ROWS")]
    cut_rows: Option<usize>,
    /// Cargo gives it to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

pub struct Settings {
    pub events: u64,
    pub keys: u64,
    pub seed: u64,
    pub snapshot_interval: Duration,
    pub large: bool,
    pub plots: Option<PathBuf>,
    only: Vec<String>,
    cut_rows: Option<usize>,
    properties: Vec<String>,
    on_kafka: bool,
    /// The broker whose events are fetched over a plain socket, and how many bytes at a time.
    wire: Option<(String, i32)>,
}

impl Settings {
    pub fn new(args: &Args) -> anyhow::Result<Self> {
        let part = if args.quick { 10 } else { 1 };
        let events_default = if args.variants { 3_000_000 } else { 12_000_000 };
        let events = args.events.unwrap_or(events_default / part);
        let settings = Self {
            events,
            keys: args.keys.unwrap_or(if args.variants { events / 60 } else { 1_000_000 / part }),
            seed: args.seed,
            // The runs of the variants are short: by the engine's ten seconds most would see no snapshot.
            snapshot_interval: if args.variants { Duration::from_secs(1) } else { Duration::from_secs(10) / part as u32 },
            large: args.large,
            plots: args.plots.clone(),
            only: args.only.clone(),
            cut_rows: args.cut_rows,
            properties: args.property.clone(),
            on_kafka: args.kafka.is_some(),
            wire: args.kafka.clone().zip(args.wire),
        };
        ensure!(!args.variants || events >= VARIANT_EVENTS_MIN, "`--events` is {events}, expected {VARIANT_EVENTS_MIN} or more for the variants");
        ensure!(settings.keys > 0 && settings.keys <= 10_000_000, "`--keys` is {}, expected 1 to 10000000", settings.keys);
        let least = settings.stream().round_events() * 3;
        ensure!(events >= least, "`--events` is {events}, expected {least} or more: three windows of {} keys", settings.keys);
        Ok(settings)
    }

    /// The events in [`TOPIC`].
    pub fn stream(&self) -> Stream {
        Stream { topic: TOPIC.to_owned(), events: self.events, keys: self.keys, seed: self.seed, round_us: WINDOW_US, repeat_every: None }
    }

    /// The log, its events fetched as the run wants them fetched.
    pub fn wired(&self, log: Arc<dyn Log>) -> Arc<dyn Log> {
        match &self.wire {
            Some((broker, bytes)) => Arc::new(WireLog { log, broker: broker.clone(), topic: TOPIC.to_owned(), bytes: *bytes }),
            None => log,
        }
    }

    /// True for what `--only` names, or where it names nothing.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }

    /// The engine as `headend run` has it by default, with the job of the bench.
    pub fn engine(&self) -> EngineConfig {
        self.engine_of(&Variant::base("bench", &self.stream()))
    }

    /// The same with another job.
    pub fn engine_of(&self, variant: &Variant) -> EngineConfig {
        let mut config = EngineConfig::new(&variant.name, &variant.sql);
        config.partitions = PARTITIONS;
        config.upper_partitions = PARTITIONS;
        config.snapshot_interval = self.snapshot_interval;
        config.rows_max = self.cut_rows.unwrap_or(config.rows_max);
        config.wanted = vec![VIEW.to_owned()];
        config
    }

    pub fn report(&self, events: &Events) -> Value {
        let config = self.engine();
        json!({
            "events": self.events,
            "keys": self.keys,
            "seed": self.seed,
            "partitions": PARTITIONS,
            "payload_bytes": events.payload_bytes(),
            "events_per_second_of_event_time": self.stream().round_events() / 60,
            "cut_rows_max": config.rows_max,
            "fetch_bytes": FETCH_BYTES,
            "fetched_by": if self.wire.is_some() { "a plain socket, a spike" } else { "the log" },
            "cut_min_ms": config.cut_min.as_millis() as u64,
            "inflight": config.inflight,
            "snapshot_interval_ms": config.snapshot_interval.as_millis() as u64,
            "properties": self.properties,
            "log": if self.on_kafka { "Apache Kafka" } else { "embedded, synced" },
            "threads": if self.on_kafka { "one, beside librdkafka's" } else { "one, beside the log's committer" },
            "debug_assertions": cfg!(debug_assertions),
            "sql": config.sql.trim(),
        })
    }
}

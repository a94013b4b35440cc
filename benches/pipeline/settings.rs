//! What a run is told, and the job that it runs.

use crate::events::Events;
use anyhow::ensure;
use headend::engine::EngineConfig;
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};

pub const TOPIC: &str = "usage.v1";
pub const VIEW: &str = "usage_1m";
pub const PARTITIONS: u32 = 4;
/// Bytes that a feed of the engine reads at a time.
pub const FETCH_BYTES: usize = 8 * 1024 * 1024;
pub const WINDOW_US: i64 = 60_000_000;
/// Events that fall on a key and window.
pub const EVENTS_A_KEY: u64 = 3;
pub const BOUND_US: i64 = 5_000_000;

const SQL: &str = "
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE MATERIALIZED VIEW usage_1m AS
SELECT tenant, subscriber_id, window_start, window_end, sum(bytes_down) AS down, count(*) AS records, max(bytes_up) AS up_max
FROM TUMBLE(usage, event_time, INTERVAL '1 minute')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE;
";

/// Throughput of the pipeline on one core.
#[derive(clap::Parser)]
pub struct Args {
    /// Events in the log; nine a key or more, so that three windows close.
    #[arg(long)]
    events: Option<u64>,
    /// Subscribers. Three events fall on each in a minute of event time.
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
    cut_rows: Option<usize>,
    properties: Vec<String>,
    on_kafka: bool,
}

impl Settings {
    pub fn new(args: &Args) -> anyhow::Result<Self> {
        let part = if args.quick { 10 } else { 1 };
        let settings = Self {
            events: args.events.unwrap_or(12_000_000 / part),
            keys: args.keys.unwrap_or(1_000_000 / part),
            seed: args.seed,
            snapshot_interval: Duration::from_secs(10) / part as u32,
            cut_rows: args.cut_rows,
            properties: args.property.clone(),
            on_kafka: args.kafka.is_some(),
        };
        ensure!(settings.keys > 0 && settings.keys <= 10_000_000, "`--keys` is {}, expected 1 to 10000000", settings.keys);
        let least = settings.window_events() * 3;
        ensure!(settings.events >= least, "`--events` is {}, expected {least} or more: three windows of {} keys", settings.events, settings.keys);
        Ok(settings)
    }

    pub fn properties(&self) -> &[String] {
        &self.properties
    }

    /// Events of one window.
    pub fn window_events(&self) -> u64 {
        self.keys * EVENTS_A_KEY
    }

    /// The engine as `headend run` has it by default, with the job of the bench.
    pub fn engine(&self) -> EngineConfig {
        let mut config = EngineConfig::new("bench", SQL);
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
            "events_per_second_of_event_time": self.window_events() / 60,
            "cut_rows_max": config.rows_max,
            "fetch_bytes": FETCH_BYTES,
            "cut_min_ms": config.cut_min.as_millis() as u64,
            "inflight": config.inflight,
            "snapshot_interval_ms": config.snapshot_interval.as_millis() as u64,
            "properties": self.properties,
            "log": if self.on_kafka { "Apache Kafka" } else { "embedded, synced" },
            "threads": if self.on_kafka { "one, beside librdkafka's" } else { "one, beside the log's committer" },
            "debug_assertions": cfg!(debug_assertions),
            "sql": SQL.trim(),
        })
    }
}

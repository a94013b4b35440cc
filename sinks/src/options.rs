//! `CREATE SINK name FROM view WITH (…)`: options as written become a sink, or a message that names the wrong one.

use crate::{KafkaSink, KafkaSinkConfig, ParquetSink, ParquetSinkConfig, RedisSink, RedisSinkConfig, Sink, SinkError};
use arrow_schema::SchemaRef;
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

#[derive(Clone, Debug)]
pub struct SinkOptions {
    pub name: String,
    pub view: String,
    /// `parquet`, `redis` or `kafka`.
    pub connector: String,
    /// The options apart from `connector`.
    pub options: BTreeMap<String, String>,
    /// Relative paths start here.
    pub base_dir: PathBuf,
    /// The view's columns, where they are known: options that name columns are then checked too.
    pub schema: Option<SchemaRef>,
}

const PARQUET_OPTIONS: &[&str] = &["path", "flush_interval", "file_rows"];
const KAFKA_OPTIONS: &[&str] = &["brokers", "topic", "partitions", "key", "flush_interval"];
const REDIS_OPTIONS: &[&str] = &["url", "key", "ttl", "fields", "cursor_key", "flush_interval"];

/// Makes the sink that the options describe. Touches neither disk nor network, so a job can be checked with it; every
/// error is [`ErrorKind::Reject`](crate::ErrorKind::Reject).
///
/// `parquet`: `path` (default: the sink's name), `flush_interval` (`1s`), `file_rows` (`100000`).
/// `redis`: `url`, `key` (`subscriber:{tenant}:{subscriber_id}`), `ttl` (`24h`), `fields` (`score, band`; default: all),
/// `cursor_key` (`headend:cursor:<name>`), `flush_interval` (`50ms`).
/// `kafka`: `brokers`, `topic` (default: the sink's name), `partitions` (`4`, when the topic has to be created), `key`
/// (`{tenant}|{subscriber_id}`: rows are upserts), `flush_interval` (`10ms`).
pub fn build(spec: &SinkOptions) -> Result<Box<dyn Sink>, SinkError> {
    match spec.connector.as_str() {
        "parquet" => Ok(Box::new(parquet(spec)?)),
        "redis" => Ok(Box::new(redis(spec)?)),
        "kafka" => Ok(Box::new(kafka(spec)?)),
        other => Err(SinkError::UnknownConnector { sink: spec.name.clone(), connector: other.to_owned() }),
    }
}

fn parquet(spec: &SinkOptions) -> Result<ParquetSink, SinkError> {
    spec.allow(PARQUET_OPTIONS)?;
    let mut config = ParquetSinkConfig::new(&spec.name, &spec.view);
    if let Some(interval) = spec.duration("flush_interval")? {
        config.flush_interval = interval;
    }
    if let Some(rows) = spec.options.get("file_rows") {
        let parsed = rows.parse().ok().filter(|&n: &usize| n > 0);
        config.file_rows_max = parsed.ok_or_else(|| spec.bad("file_rows", rows, "a whole number above 0"))?;
    }
    ParquetSink::local(&spec.base_dir.join(spec.options.get("path").unwrap_or(&spec.name)), config)
}

fn redis(spec: &SinkOptions) -> Result<RedisSink, SinkError> {
    spec.allow(REDIS_OPTIONS)?;
    let url = spec.required("url", "`redis://host:port/db`")?;
    let key = spec.required("key", "a pattern with columns in braces, such as `subscriber:{subscriber_id}`")?;
    let mut config = RedisSinkConfig::new(&spec.name, &spec.view, url, key);
    if let Some(ttl) = spec.duration("ttl")? {
        config.ttl = ttl;
    }
    if let Some(interval) = spec.duration("flush_interval")? {
        config.flush_interval = interval;
    }
    if let Some(key) = spec.options.get("cursor_key") {
        config.cursor_key = key.clone();
    }
    config.fields = spec.options.get("fields").map(|f| f.split(',').map(|n| n.trim().to_owned()).collect());
    let sink = RedisSink::new(config)?;
    if let Some(schema) = &spec.schema
        && let Some((column, option)) = sink.named_columns().find(|(column, _)| schema.field_with_name(column).is_err())
    {
        return Err(SinkError::NoColumn { sink: spec.name.clone(), view: spec.view.clone(), column: column.to_owned(), option });
    }
    Ok(sink)
}

fn kafka(spec: &SinkOptions) -> Result<KafkaSink, SinkError> {
    spec.allow(KAFKA_OPTIONS)?;
    let brokers = spec.required("brokers", "`host:port,host:port`")?;
    let topic = spec.options.get("topic").unwrap_or(&spec.name);
    let mut config = KafkaSinkConfig::new(&spec.name, &spec.view, brokers, topic, spec.base_dir.join("cursors").join(&spec.name));
    config.key = spec.options.get("key").cloned();
    if let Some(partitions) = spec.options.get("partitions") {
        let parsed = partitions.parse().ok().filter(|n| (1..=1024).contains(n));
        config.partitions = parsed.ok_or_else(|| spec.bad("partitions", partitions, "a whole number from 1 to 1024"))?;
    }
    if let Some(interval) = spec.duration("flush_interval")? {
        config.flush_interval = interval;
    }
    let sink = KafkaSink::new(config)?;
    if let Some(schema) = &spec.schema
        && let Some(column) = sink.key_columns().find(|column| schema.field_with_name(column).is_err())
    {
        return Err(SinkError::NoColumn { sink: spec.name.clone(), view: spec.view.clone(), column: column.to_owned(), option: "key" });
    }
    Ok(sink)
}

impl SinkOptions {
    fn allow(&self, allowed: &[&str]) -> Result<(), SinkError> {
        match self.options.keys().find(|o| !allowed.contains(&o.as_str())) {
            None => Ok(()),
            Some(option) => Err(SinkError::UnknownOption {
                sink: self.name.clone(),
                connector: self.connector.clone(),
                option: option.clone(),
                allowed: allowed.iter().map(|o| format!("`{o}`")).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    fn required(&self, option: &'static str, expected: &'static str) -> Result<&str, SinkError> {
        let found = self.options.get(option).map(String::as_str);
        found.ok_or_else(|| SinkError::MissingOption { sink: self.name.clone(), option, expected })
    }

    fn duration(&self, option: &'static str) -> Result<Option<Duration>, SinkError> {
        let Some(text) = self.options.get(option) else { return Ok(None) };
        let parsed = parse_duration(text).ok_or_else(|| self.bad(option, text, "a duration such as `500ms`, `1s`, `10m` or `24h`"))?;
        Ok(Some(parsed))
    }

    fn bad(&self, option: &'static str, value: &str, expected: &str) -> SinkError {
        SinkError::BadOption { sink: self.name.clone(), option, value: value.to_owned(), expected: expected.to_owned() }
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit.trim() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms).map(Duration::from_millis)
}

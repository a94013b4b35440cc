//! The log under a bench: the embedded one in a folder, or a Kafka that is given.

use anyhow::Context;
use ingest::{EmbeddedConfig, EmbeddedLog, KafkaConfig, KafkaLog, Log, kafka::parse_properties};
use schemas::NewRecord;
use std::{path::Path, sync::Arc};

/// Opens the Kafka at `brokers`, with librdkafka's settings `properties` (`NAME=VALUE`), or without one the embedded log in `dir`.
pub async fn open(brokers: Option<&str>, properties: &[String], dir: &Path) -> anyhow::Result<Arc<dyn Log>> {
    let Some(brokers) = brokers else {
        let log: Arc<dyn Log> = EmbeddedLog::open(&dir.join("log"), EmbeddedConfig::default())?;
        return Ok(log);
    };
    let line = |_| anyhow::anyhow!("`--property` is `{}`, expected NAME=VALUE", properties.join("` or `"));
    let properties = parse_properties(&properties.join("\n")).map_err(line)?;
    let log: Arc<dyn Log> = KafkaLog::open(KafkaConfig { properties, ..KafkaConfig::new(brokers, "bench") }).await?;
    Ok(log)
}

/// Ends the topic of a table. Its marker has a key: Kafka takes no record without one into a compacted topic.
pub async fn end_table(log: &dyn Log, topic: &str, partitions: u32) -> anyhow::Result<()> {
    for partition in 0..partitions {
        let marker = NewRecord { key: Some("end".into()), ..NewRecord::end_of_source() };
        log.append(topic, partition, vec![marker]).await?;
    }
    Ok(())
}

/// A folder for what a run leaves behind, deleted at its end.
pub fn folder(parent: Option<&Path>) -> anyhow::Result<tempfile::TempDir> {
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
    tempfile::tempdir_in(parent).context("cannot create a folder for the log")
}

/// One thread for everything but the log's committer, which is a thread of its own wherever the log is used. Timers are looked at after
/// every poll: by default a busy runtime does so after 61 of them, and the stalls would be its own.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().event_interval(1).build()?)
}

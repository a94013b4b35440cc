//! `headend topics apply`: the topics that the job reads and the events stand in. What exists is left as it is.

use crate::{
    cli::TopicsCommand,
    config::{Config, LogKind},
};
use anyhow::Context;
use ingest::{EmbeddedConfig, EmbeddedLog, KafkaConfig, KafkaLog, Log, TopicSpec};
use schemas::event::EVENT_TYPES;
use std::{collections::BTreeMap, sync::Arc};
use stream_jobs::plan::Job;

/// Opens the log that the configuration names.
pub async fn open_log(config: &Config) -> anyhow::Result<Arc<dyn Log>> {
    match &config.log.kind {
        LogKind::Embedded => {
            let dir = config.engine.log_dir();
            let embedded = EmbeddedConfig { group_commit_max: config.log.group_commit, ..Default::default() };
            Ok(EmbeddedLog::open(&dir, embedded).with_context(|| format!("cannot open the log in `{}`", dir.display()))?)
        }
        LogKind::Kafka(kafka) => {
            let settings =
                KafkaConfig { replication: kafka.replication, properties: kafka.properties.clone(), ..KafkaConfig::new(&kafka.brokers, &config.engine.owner) };
            Ok(KafkaLog::open(settings).await.with_context(|| format!("cannot use Kafka at `{}`", kafka.brokers))?)
        }
    }
}

/// Every event's topic and every source's, by name.
pub fn needed(job: &Job, partitions: u32) -> Vec<TopicSpec> {
    let events = EVENT_TYPES.iter().map(|e| (e.topic.to_owned(), e.compacted));
    let sources = job.sources.iter().map(|s| (s.topic.clone(), s.table));
    let by_name: BTreeMap<String, bool> = events.chain(sources).collect();
    by_name.into_iter().map(|(name, compacted)| TopicSpec { name, partitions, compacted }).collect()
}

/// Creates what is missing; true beside what was created.
pub async fn create(log: &dyn Log, needed: Vec<TopicSpec>) -> anyhow::Result<Vec<(TopicSpec, bool)>> {
    let mut done = Vec::with_capacity(needed.len());
    for topic in needed {
        let created = log.create_topic(&topic).await?;
        done.push((topic, created));
    }
    Ok(done)
}

pub async fn run(command: &TopicsCommand) -> anyhow::Result<()> {
    let TopicsCommand::Apply { config, json } = command;
    let config = Config::load(&config.config)?;
    let job = super::plan_file(&config.engine.job, &super::functions(config.models.churn.as_deref())?)?;
    let log = open_log(&config).await?;
    let done = create(log.as_ref(), needed(&job, config.engine.partitions)).await;
    log.close().await;
    let done = done?;
    if *json {
        let topics =
            done.iter().map(|(t, created)| serde_json::json!({"topic": t.name, "partitions": t.partitions, "compacted": t.compacted, "created": created}));
        return super::print(super::pretty(&topics.collect()));
    }
    for (topic, created) in done {
        super::print(format!("{} {} ({} partitions)", if created { "created" } else { "exists " }, topic.name, topic.partitions))?;
    }
    Ok(())
}

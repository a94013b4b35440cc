//! `headend topics apply` and `check`: the topics that the job reads and the events stand in. What exists is left as it is.

use crate::{
    cli::TopicsCommand,
    config::{Config, LogKind},
    engine::EngineConfig,
    service::event_topics,
};
use anyhow::Context;
use ingest::{EmbeddedConfig, EmbeddedLog, KafkaConfig, KafkaLog, Log, LogError, Misfit, TopicSpec};
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

/// The topics of all events, and those of the job: its sources', its epochs', its rooms'. By name.
pub fn needed(engine: &EngineConfig, job: &Job) -> Vec<TopicSpec> {
    let by_name: BTreeMap<String, TopicSpec> = event_topics(engine.partitions).chain(engine.topics(job)).map(|t| (t.name.clone(), t)).collect();
    by_name.into_values().collect()
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
    let (TopicsCommand::Apply { config, json } | TopicsCommand::Check { config, json }) = command;
    let config = Config::load(&config.config)?;
    let engine = super::run::engine_config(&config)?;
    let (job, _) = engine.plan()?;
    let needed = needed(&engine, &job);
    let log = open_log(&config).await?;
    let done = match command {
        TopicsCommand::Apply { .. } => apply(log.as_ref(), needed, *json).await,
        TopicsCommand::Check { .. } => check(log.as_ref(), needed, *json).await,
    };
    log.close().await;
    done
}

async fn apply(log: &dyn Log, needed: Vec<TopicSpec>, json: bool) -> anyhow::Result<()> {
    let done = create(log, needed).await?;
    if json {
        let topics =
            done.iter().map(|(t, created)| serde_json::json!({"topic": t.name, "partitions": t.partitions, "compacted": t.compacted, "created": created}));
        return super::print(super::pretty(&topics.collect()));
    }
    for (topic, created) in done {
        super::print(format!("{} {} ({} partitions)", if created { "created" } else { "exists " }, topic.name, topic.partitions))?;
    }
    Ok(())
}

/// The topics do not fit; each line that says how was printed.
#[derive(Debug, thiserror::Error)]
#[error("{0} of the topics do not fit")]
pub struct Misfits(usize);

async fn check(log: &dyn Log, needed: Vec<TopicSpec>, json: bool) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for topic in needed {
        let misfits = match log.misfits(&topic).await {
            Ok(misfits) => misfits,
            Err(LogError::UnknownTopic { .. }) => {
                vec![Misfit { setting: "topic", existing: "missing".to_owned(), wanted: "created by `headend topics apply`".to_owned() }]
            }
            Err(e) => return Err(e.into()),
        };
        found.push((topic, misfits));
    }
    if json {
        let misfit = |m: &Misfit| serde_json::json!({"setting": m.setting, "existing": m.existing, "wanted": m.wanted});
        let topics = found.iter().map(|(t, misfits)| serde_json::json!({"topic": t.name, "misfits": misfits.iter().map(misfit).collect::<Vec<_>>()}));
        super::print(super::pretty(&topics.collect()))?;
    } else {
        for (topic, misfits) in &found {
            match misfits.as_slice() {
                [] => super::print(format!("fits {}", topic.name))?,
                misfits => misfits
                    .iter()
                    .try_for_each(|m| super::print(format!("DIFFERS {}: `{}` is `{}`, expected `{}`", topic.name, m.setting, m.existing, m.wanted)))?,
            }
        }
    }
    match found.iter().filter(|(_, misfits)| !misfits.is_empty()).count() {
        0 => Ok(()),
        n => Err(Misfits(n).into()),
    }
}

//! The runs over a whole topic: append, read, read and decode, the engine; and the check of what the engine accepted.

use crate::{
    events::Events,
    logs::end_table,
    machine::{Clock, Took, in_ms, rate},
    settings::{FETCH_BYTES, PARTITIONS, PLANS, Settings, VIEW},
    timed::Timed,
    told::{Expected, Told},
    variant::Variant,
};
use anyhow::ensure;
use headend::engine::{EngineConfig, Totals, feed::InputReader};
use ingest::{
    Log, TopicSpec,
    log::{LogReader, end_source},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use stream_jobs::task::InputSpec;

/// Events of one append.
const APPEND_EVENTS: u64 = 32_768;

/// Puts the events and the end-of-source markers into the log. Making the events is part of the time.
pub async fn append(events: &Events, log: &Arc<dyn Log>) -> anyhow::Result<Took> {
    let topic = &events.stream.topic;
    log.create_topic(&TopicSpec { name: topic.clone(), partitions: PARTITIONS, compacted: false }).await?;
    let clock = Clock::start();
    for from in (0..events.stream.events).step_by(APPEND_EVENTS as usize) {
        let to = (from + APPEND_EVENTS).min(events.stream.events);
        log.append_keyed(topic, events.records(from, to).collect()).await?;
    }
    end_source(log.as_ref(), topic, PARTITIONS).await?;
    Ok(clock.took())
}

/// Puts the table of plans into the log.
pub async fn append_plans(events: &Events, log: &Arc<dyn Log>) -> anyhow::Result<()> {
    log.create_topic(&TopicSpec { name: PLANS.to_owned(), partitions: PARTITIONS, compacted: true }).await?;
    let mut plans = events.plans().peekable();
    while plans.peek().is_some() {
        log.append_keyed(PLANS, plans.by_ref().take(APPEND_EVENTS as usize).collect()).await?;
    }
    end_table(log.as_ref(), PLANS, PARTITIONS).await
}

/// Every record of every partition, and nothing else.
pub async fn read(config: &EngineConfig, events: &Events, log: &Arc<dyn Log>) -> anyhow::Result<Took> {
    let clock = Clock::start();
    let mut records = 0;
    for partition in 0..PARTITIONS {
        let mut reader: Box<dyn LogReader> = log.reader(&events.stream.topic, partition, 0)?;
        loop {
            let fetched = reader.fetch(config.rows_max, FETCH_BYTES, Duration::ZERO).await?;
            records += fetched.records.len() as u64;
            if fetched.caught_up {
                break;
            }
        }
    }
    ensure!(records == events.rows() + u64::from(PARTITIONS), "read {records} records of {}", events.rows());
    Ok(clock.took())
}

/// What the feeds of the engine do: read and decode into Arrow.
pub async fn read_and_decode(config: &EngineConfig, events: &Events, log: &Arc<dyn Log>) -> anyhow::Result<Took> {
    let (job, _) = config.plan()?;
    let clock = Clock::start();
    let mut records = 0;
    for partition in 0..PARTITIONS {
        let input = InputSpec::Source { source: 0, topic: events.stream.topic.clone(), partition };
        let mut reader = InputReader::new(log, &input, &job.sources, PARTITIONS, 0, None)?;
        loop {
            let fed = reader.read(config.rows_max, Duration::ZERO).await?;
            records += fed.rows as u64;
            if fed.caught_up {
                break;
            }
        }
    }
    ensure!(records == events.rows() + u64::from(PARTITIONS), "decoded {records} records of {}", events.rows());
    Ok(clock.took())
}

/// A run of the engine as a part of the report, over `n` events.
pub fn report(timed: &Timed, n: u64) -> Value {
    let mut report = rate(&timed.took, n);
    report["epochs"] = json!(Totals::get(&timed.totals.accepted));
    report["snapshots_kept"] = json!(timed.snapshots_kept);
    report["snapshot_bytes"] = json!(timed.snapshot_bytes);
    report["rss_growth_bytes"] = json!(timed.watched.rss_growth_bytes);
    report["stalls_ms"] = in_ms(&timed.watched.stalls);
    report
}

/// What stands in the accepted epochs, equal to what the generator says.
pub async fn verify(expected: &Expected, timed: &Timed, log: &Arc<dyn Log>) -> anyhow::Result<Told> {
    let mut told = Told::default();
    let take = |epoch: &schemas::AcceptedEpoch| told.add(VIEW, epoch.record.header.counters, &epoch.record.outputs);
    timed.tasks.epochs(log, take).await?;
    expected.check(&told)?;
    Ok(told)
}

/// How much longer the job took than reading and decoding alone.
pub fn ratio(took: &Took, wall_s: f64, cpu_s: f64) -> Value {
    let round = crate::machine::round;
    json!({ "wall": round(took.wall.as_secs_f64() / wall_s), "cpu": round(took.cpu.as_secs_f64() / cpu_s.max(0.01)) })
}

/// The configuration of a variant's job under another name, so that it may run beside itself.
pub fn named(settings: &Settings, variant: &Variant, name: &str) -> EngineConfig {
    EngineConfig { job_name: name.to_owned(), ..settings.engine_of(variant) }
}

//! The runs over the whole topic: append, read, read and decode, the engine; and the check of what the engine accepted.

use crate::{
    events::{Events, Window},
    machine::{Clock, StallProbe, Took, in_ms},
    rate,
    settings::{FETCH_BYTES, PARTITIONS, Settings, TOPIC, VIEW},
};
use anyhow::{Context, bail, ensure};
use arrow_array::{cast::AsArray, types::*};
use hdrhistogram::Histogram;
use headend::engine::{Engine, Totals, chain::ChainFollower, feed::InputReader};
use ingest::{
    Log, TopicSpec,
    log::{LogReader, end_source},
};
use object_store::local::LocalFileSystem;
use schemas::{ChainPosition, EpochRecord, OutputKind, Verdict};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use stream_jobs::{
    snapshot::SnapshotStore,
    task::{InputSpec, epoch_topic, level_group},
    upstream::read_rows,
};
use tokio_util::sync::CancellationToken;

/// Events of one append.
const APPEND_EVENTS: u64 = 32_768;

/// Puts the events and the end-of-source markers into the log. Making the events is part of the time.
pub async fn append(settings: &Settings, events: &Events, log: &Arc<dyn Log>) -> anyhow::Result<Took> {
    log.create_topic(&TopicSpec { name: TOPIC.to_owned(), partitions: PARTITIONS, compacted: false }).await?;
    let clock = Clock::start();
    for from in (0..settings.events).step_by(APPEND_EVENTS as usize) {
        let to = (from + APPEND_EVENTS).min(settings.events);
        log.append_keyed(TOPIC, (from..to).map(|i| events.record(i)).collect()).await?;
    }
    end_source(log.as_ref(), TOPIC, PARTITIONS).await?;
    Ok(clock.took())
}

/// Every record of every partition, and nothing else.
pub async fn read(settings: &Settings, log: &Arc<dyn Log>) -> anyhow::Result<Took> {
    let clock = Clock::start();
    let mut records = 0;
    for partition in 0..PARTITIONS {
        let mut reader = log.reader(TOPIC, partition, 0)?;
        loop {
            let fetched = reader.fetch(settings.engine().rows_max, FETCH_BYTES, Duration::ZERO).await?;
            records += fetched.records.len() as u64;
            if fetched.caught_up {
                break;
            }
        }
    }
    ensure!(records == settings.events + u64::from(PARTITIONS), "read {records} records of {}", settings.events);
    Ok(clock.took())
}

/// What the feeds of the engine do: read and decode into Arrow.
pub async fn read_and_decode(settings: &Settings, log: &Arc<dyn Log>) -> anyhow::Result<Took> {
    let (job, _) = settings.engine().plan()?;
    let clock = Clock::start();
    let mut records = 0;
    for partition in 0..PARTITIONS {
        let input = InputSpec::Source { source: 0, topic: TOPIC.to_owned(), partition };
        let mut reader = InputReader::new(log, &input, &job.sources, PARTITIONS, 0, None)?;
        loop {
            let fed = reader.read(settings.engine().rows_max, Duration::ZERO).await?;
            records += fed.rows as u64;
            if fed.caught_up {
                break;
            }
        }
    }
    ensure!(records == settings.events + u64::from(PARTITIONS), "decoded {records} records of {}", settings.events);
    Ok(clock.took())
}

pub struct Pipeline {
    pub took: Took,
    stalls: Histogram<u64>,
    totals: Arc<Totals>,
    snapshots_kept: usize,
}

impl Pipeline {
    pub fn report(&self, n: u64) -> Value {
        let mut report = rate(&self.took, n);
        report["epochs"] = json!(Totals::get(&self.totals.accepted));
        report["snapshots_kept"] = json!(self.snapshots_kept);
        report["stalls_ms"] = in_ms(&self.stalls);
        report
    }
}

/// The engine, from its start until every task has told that its source has ended.
pub async fn pipeline(settings: &Settings, log: &Arc<dyn Log>, snapshots: &Path) -> anyhow::Result<Pipeline> {
    std::fs::create_dir_all(snapshots)?;
    let store = Arc::new(LocalFileSystem::new_with_prefix(snapshots)?);
    let stop = CancellationToken::new();
    let stalls = StallProbe::start()?;
    let clock = Clock::start();
    let engine = Engine::start(settings.engine(), Arc::clone(log), store.clone(), stop.clone()).await?;
    let totals = Arc::clone(&engine.totals);
    let mut running = tokio::spawn(engine.join());
    tokio::select! {
        ended = until_ended(settings, log, &totals) => ended?,
        stopped = &mut running => {
            stopped.context("the engine broke")??;
            bail!("the engine stopped before the end of the events");
        }
    }
    let took = clock.took();
    let stalls = stalls.stop().await?;
    let mut snapshots_kept = 0;
    for partition in 0..PARTITIONS {
        snapshots_kept += SnapshotStore::new(store.clone(), &level_group("bench", 1), partition).list().await?.len();
    }
    stop.cancel();
    running.await.context("the engine broke")??;
    Ok(Pipeline { took, stalls, totals, snapshots_kept })
}

/// Waits until every task has an accepted epoch that tells the end of its source. It looks at headers alone, and only once all
/// events are in, so that watching costs the pipeline next to nothing.
async fn until_ended(settings: &Settings, log: &Arc<dyn Log>, totals: &Totals) -> anyhow::Result<()> {
    while Totals::get(&totals.rows_in) < settings.events {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let topic = epoch_topic(&level_group("bench", 1));
    for partition in 0..PARTITIONS {
        let mut reader = log.reader(&topic, partition, 0)?;
        let mut position = ChainPosition::default();
        while !has_ended(reader.as_mut(), &mut position).await? {}
    }
    Ok(())
}

async fn has_ended(reader: &mut dyn LogReader, position: &mut ChainPosition) -> anyhow::Result<bool> {
    let mut ended = false;
    for record in reader.fetch(64, FETCH_BYTES, Duration::from_secs(1)).await?.records {
        let header = EpochRecord::decode_header(record.value.as_deref().unwrap_or_default())?;
        ended |= position.offer(record.offset, &header) == Verdict::Accepted && header.watermark == Some(i64::MAX);
    }
    Ok(ended)
}

/// The windows out of the accepted epochs, each equal to what the generator says.
pub async fn verify(settings: &Settings, events: &Events, log: &Arc<dyn Log>) -> anyhow::Result<BTreeMap<i64, Window>> {
    let mut windows: BTreeMap<i64, Window> = BTreeMap::new();
    let mut rows_in = 0;
    for partition in 0..PARTITIONS {
        let mut follower = ChainFollower::new(log, &epoch_topic(&level_group("bench", 1)), partition, ChainPosition::default())?;
        loop {
            let (epochs, caught_up) = follower.next_epochs(64, Duration::ZERO).await?;
            for epoch in &epochs {
                rows_in += epoch.record.header.counters.rows_in;
                let mine = epoch.record.outputs.iter().filter(|o| o.name == VIEW && o.kind == OutputKind::Rows);
                for output in mine {
                    add(&mut windows, &read_rows(output)?.batch)?;
                }
            }
            if caught_up {
                break;
            }
        }
    }
    ensure!(rows_in == settings.events, "accepted epochs took {rows_in} rows, there are {}", settings.events);
    let expected = events.windows();
    ensure!(windows == expected, "windows differ: emitted {windows:?}, generated {expected:?}");
    Ok(windows)
}

fn add(windows: &mut BTreeMap<i64, Window>, rows: &arrow_array::RecordBatch) -> anyhow::Result<()> {
    let column = |name: &str| rows.column_by_name(name).with_context(|| format!("the view has no column `{name}`"));
    let starts = column("window_start")?.as_primitive::<TimestampMicrosecondType>();
    let (sums, counts) = (column("down")?.as_primitive::<Int64Type>(), column("records")?.as_primitive::<Int64Type>());
    let maxima = column("up_max")?.as_primitive::<Int64Type>();
    for row in 0..rows.num_rows() {
        let window = windows.entry(starts.value(row)).or_default();
        window.rows += 1;
        window.count += counts.value(row);
        window.sum += sums.value(row);
        window.max = window.max.max(maxima.value(row));
    }
    Ok(())
}

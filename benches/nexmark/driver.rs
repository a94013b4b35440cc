//! The questions put to an engine: events into the topics that a job reads, rows and their digest out of its epochs.
//!
//! What is wrong comes as an error, for the tests and for the benchmark alike.

use super::{
    event::Event,
    generator::Generator,
    model::Row,
    queries::{Compare, Query},
};
use anyhow::{bail, ensure};
use headend::{
    engine::{EngineConfig, Totals},
    try_job::Trial,
};
use ingest::log::Log;
use schemas::{AcceptedEpoch, NewRecord, Output, OutputKind, hash::hash_batch};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use stream_jobs::{delta::Op, rooms::JsonRows, upstream::read_rows};
use xxhash_rust::xxh3::Xxh3;

/// The topic of the table of query 13.
pub const SIDE_INPUT: &str = "nexmark.side_input";
/// Records of one append.
const APPENDED_AT_ONCE: usize = 32_768;

/// Runs the query's job over the events, in memory and to their end: what it is compared by, and what it counted.
pub async fn answer<'e>(query: &Query, config: EngineConfig, generator: &'e Generator, events: &[Event<'e>]) -> anyhow::Result<(Vec<Row>, Arc<Totals>)> {
    let trial = Trial::new(config).await?;
    let topics: BTreeSet<String> = trial.job.sources.iter().map(|source| source.topic.clone()).collect();
    append(trial.log.as_ref(), &topics, generator, events.iter().cloned()).await?;
    trial.close_sources().await?;
    let mut told = Told::new(query);
    let totals = trial.run(query.view, |epoch| told.take(epoch)).await?;
    Ok((told.into_rows(), totals))
}

/// Appends what belongs into `topics`, which stand in the log: events, and the table of query 13. Returns how many records that were, by topic.
pub async fn append<'e>(
    log: &dyn Log,
    topics: &BTreeSet<String>,
    generator: &'e Generator,
    events: impl Iterator<Item = Event<'e>>,
) -> anyhow::Result<BTreeMap<&'static str, u64>> {
    let mut waiting: BTreeMap<&'static str, Vec<NewRecord>> = BTreeMap::new();
    let mut appended: BTreeMap<&'static str, u64> = BTreeMap::new();
    let side_input = generator.side_input().map(|(key, value)| (SIDE_INPUT, key, value));
    for (topic, key, value) in side_input.chain(events.map(|event| as_record(&event))).filter(|(topic, ..)| topics.contains(*topic)) {
        let records = waiting.entry(topic).or_default();
        records.push(NewRecord::new(key.to_string(), value));
        *appended.entry(topic).or_default() += 1;
        if records.len() == APPENDED_AT_ONCE {
            log.append_keyed(topic, std::mem::take(records)).await?;
        }
    }
    for (topic, records) in waiting {
        log.append_keyed(topic, records).await?;
    }
    Ok(appended)
}

fn as_record(event: &Event<'_>) -> (&'static str, u64, String) {
    let mut value = String::with_capacity(256);
    event.push_json(&mut value);
    (event.topic().name(), event.key(), value)
}

/// The rows that a query is compared by: all that its view tells, or those that stand.
pub struct Told {
    view: &'static str,
    compare: Compare,
    rows: Vec<Row>,
    standing: BTreeMap<String, Row>,
}

impl Told {
    pub fn new(query: &Query) -> Self {
        Self { view: query.view, compare: query.compare, rows: Vec::new(), standing: BTreeMap::new() }
    }

    /// # Errors
    /// A change that does not fit to what stands.
    pub fn take(&mut self, epoch: &AcceptedEpoch) -> anyhow::Result<()> {
        for output in outputs(epoch, self.view) {
            let delta = read_rows(output)?;
            let rows = JsonRows::new(&delta.batch)?;
            for at in 0..delta.len() {
                let row = row(rows.object(at)?)?;
                match self.compare {
                    Compare::AllRows => {
                        ensure!(delta.ops.is_none(), "`{}` tells changes, expected rows", self.view);
                        self.rows.push(row);
                    }
                    Compare::Standing(key) => {
                        ensure!(delta.ops.is_some(), "`{}` tells rows, expected changes", self.view);
                        self.stand(key, delta.op(at), row)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn stand(&mut self, key: &[&str], op: Op, row: Row) -> anyhow::Result<()> {
        let key: Vec<String> = key.iter().map(|column| row.get(*column).map_or_else(String::new, Value::to_string)).collect();
        let key = key.join("|");
        if op.adds() {
            let stood = self.standing.insert(key, row);
            ensure!(stood.is_none(), "`{}` puts a row over another: {stood:?}", self.view);
        } else {
            let stood = self.standing.remove(&key);
            ensure!(stood.as_ref() == Some(&row), "`{}` takes back {row:?} where {stood:?} stood", self.view);
        }
        Ok(())
    }

    pub fn into_rows(self) -> Vec<Row> {
        match self.compare {
            Compare::AllRows => self.rows,
            Compare::Standing(_) => self.standing.into_values().collect(),
        }
    }
}

/// What stands at the end in one number, whatever the order in which it came: a sum over the hashes of rows, from which that of a row
/// that is taken back is subtracted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    pub rows: i64,
    pub hash: u64,
}

impl Digest {
    /// Adds the rows that `view` tells in an epoch; returns how many those were, changes among them.
    pub fn take(&mut self, epoch: &AcceptedEpoch, view: &str) -> anyhow::Result<u64> {
        let mut told = 0;
        for output in outputs(epoch, view) {
            let delta = read_rows(output)?;
            for at in 0..delta.len() {
                let mut hash = Xxh3::new();
                hash_batch(&mut hash, &delta.batch.slice(at, 1));
                let (rows, hash) = if delta.op(at).adds() { (1, hash.digest()) } else { (-1, hash.digest().wrapping_neg()) };
                self.rows += rows;
                self.hash = self.hash.wrapping_add(hash);
            }
            told += delta.len() as u64;
        }
        Ok(told)
    }
}

/// What a view tells, without what came too late for it.
fn outputs<'a>(epoch: &'a AcceptedEpoch, view: &'a str) -> impl Iterator<Item = &'a Output> {
    epoch.record.outputs.iter().filter(move |output| output.name == view && matches!(output.kind, OutputKind::Rows | OutputKind::Changes))
}

fn row(value: Value) -> anyhow::Result<Row> {
    match value {
        Value::Object(columns) => Ok(columns.into_iter().collect()),
        other => bail!("a row is an object and not {other}"),
    }
}

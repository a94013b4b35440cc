//! Every query of Nexmark through the engine, against its model in plain loops: `benches/nexmark` holds both.

#[path = "../benches/nexmark/mod.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest")]
mod suite;

use crate::cases::{rows_of, standing};
use headend::{
    engine::{EngineConfig, Totals},
    try_job::Trial,
};
use schemas::{NewRecord, partition::partition_of};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};
use suite::{
    event::Event,
    generator::{Generator, GeneratorConfig},
    model::{Row, check_none_late},
    queries::{Compare, QUERIES, Query},
};

const EVENTS: u64 = 6_000;
/// From here on the bounds of the joins hold.
const EVENTS_PER_S: u64 = 200;
const BOUND_US: i64 = 4_000_000;

/// Partitions, rows of an epoch, epochs between crashes.
const RUNS: [(u32, usize, Option<u64>); 2] = [(2, 500, None), (1, 211, Some(3))];

#[test]
fn every_query_equals_its_model() {
    let generator = Generator::new(GeneratorConfig { events_per_s: EVENTS_PER_S, ..GeneratorConfig::default() });
    let events: Vec<Event<'_>> = generator.events(EVENTS).collect();
    for (partitions, ..) in RUNS {
        check_none_late(&events, partitions, BOUND_US, partition_of).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut wrong = Vec::new();
    for query in QUERIES {
        assert_eq!(query.unsupported, None, "`{}`", query.name);
        for run in RUNS {
            let told = runtime.block_on(told(query, &generator, &events, run));
            wrong.extend(query.difference(&events, &told).map(|difference| format!("{run:?} {difference}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn told(query: &Query, generator: &Generator, events: &[Event<'_>], (partitions, rows_max, crash_every): (u32, usize, Option<u64>)) -> Vec<Row> {
    let mut config = EngineConfig::new(query.name, query.sql.to_owned());
    config.partitions = partitions;
    config.rows_max = rows_max;
    config.cut_min = Duration::ZERO;
    config.crash_every = crash_every;
    config.snapshot_every = 2;
    config.snapshot_interval = Duration::MAX;
    config.wanted = vec![query.view.to_owned()];
    let trial = Trial::new(config).await.unwrap_or_else(|e| panic!("`{}`: {e}", query.name));
    append(&trial, query, generator, events, partitions).await;
    trial.close_sources().await.unwrap();
    let mut rows = Vec::new();
    let take = |epoch: &schemas::AcceptedEpoch| {
        rows.extend(rows_of(epoch, query.view));
        Ok(())
    };
    let totals = trial.run(query.view, take).await.unwrap_or_else(|e| panic!("`{}`: {e}", query.name));
    assert_eq!([&totals.late, &totals.dead, &totals.misplaced].map(Totals::get), [0, 0, 0], "`{}`", query.name);
    assert!(crash_every.is_none() || Totals::get(&totals.verified) > 0, "`{}` recovered nothing", query.name);
    let rows = match query.compare {
        Compare::AllRows => rows,
        Compare::Standing(key) => {
            let key: Vec<String> = key.iter().map(|column| (*column).to_owned()).collect();
            standing(&key, &rows).into_values().collect()
        }
    };
    rows.into_iter().map(row).collect()
}

fn row(value: Value) -> Row {
    match value {
        Value::Object(columns) => columns.into_iter().collect(),
        other => panic!("a row is an object and not {other}"),
    }
}

async fn append(trial: &Trial, query: &Query, generator: &Generator, events: &[Event<'_>], partitions: u32) {
    let mut records: BTreeMap<(&str, u32), Vec<NewRecord>> = BTreeMap::new();
    let record = |key: u64, value: String| {
        let key = key.to_string();
        let partition = partition_of(key.as_bytes(), partitions);
        (partition, NewRecord { key: Some(key.into()), value: Some(value.into()), headers: Vec::new() })
    };
    for event in events {
        let mut text = String::new();
        event.push_json(&mut text);
        let (partition, record) = record(event.key(), text);
        records.entry((event.topic().name(), partition)).or_default().push(record);
    }
    for (key, value) in generator.side_input() {
        let (partition, record) = record(key, value);
        records.entry(("nexmark.side_input", partition)).or_default().push(record);
    }
    let wanted: Vec<&str> = trial.job.sources.iter().map(|source| source.topic.as_str()).collect();
    for ((topic, partition), records) in records.into_iter().filter(|((topic, _), _)| wanted.contains(topic)) {
        trial.log.append(topic, partition, records).await.unwrap_or_else(|e| panic!("`{}`: {e}", query.name));
    }
}

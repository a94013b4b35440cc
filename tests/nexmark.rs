//! Every query of Nexmark through the engine, against its model in plain loops: `benches/nexmark` holds both.

#[path = "../benches/nexmark/mod.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest")]
mod suite;

use headend::engine::{EngineConfig, Totals};
use schemas::partition::partition_of;
use std::time::Duration;
use suite::{
    driver::answer,
    event::Event,
    generator::{Generator, GeneratorConfig},
    model::{Row, check_none_late},
    queries::{QUERIES, Query},
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

async fn told<'e>(query: &Query, generator: &'e Generator, events: &[Event<'e>], (partitions, rows_max, crash_every): (u32, usize, Option<u64>)) -> Vec<Row> {
    let mut config = EngineConfig::new(query.name, query.sql.to_owned());
    config.partitions = partitions;
    config.rows_max = rows_max;
    config.cut_min = Duration::ZERO;
    config.crash_every = crash_every;
    config.snapshot_every = 2;
    config.snapshot_interval = Duration::MAX;
    config.wanted = vec![query.view.to_owned()];
    let (rows, totals) = answer(query, config, generator, events).await.unwrap_or_else(|e| panic!("`{}`: {e}", query.name));
    assert_eq!([&totals.late, &totals.dead, &totals.misplaced].map(Totals::get), [0, 0, 0], "`{}`", query.name);
    assert!(crash_every.is_none() || Totals::get(&totals.verified) > 0, "`{}` recovered nothing", query.name);
    rows
}

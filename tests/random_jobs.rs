//! Random jobs over random streams, against a naive calculation in plain Rust that knows neither DataFusion nor the engine.
//!
//! `HEADEND_PAIRS` pairs of a job and its streams from seed `HEADEND_SEED` on. A pair that differs is made smaller while it differs, and is
//! printed with its seed and as the files of a case; `HEADEND_KEEP` names a folder for them.

#[allow(dead_code, reason = "the generator is a whole of its own")]
mod jobs;

use crate::cases::{lines, rows_of, sorted, standing};
use headend::{
    engine::{EngineConfig, Totals},
    try_job::Trial,
};
use jobs::{
    generate::{Features, generate},
    job::{Compare, Job},
};
use schemas::{NewRecord, partition::partition_of};
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

const PAIRS: u64 = 150;
const SEED: u64 = 1;
/// Smaller pairs that are tried for one that differs.
const SHRINKS_MAX: usize = 400;

/// Rows of an epoch, epochs between crashes, partitions.
type Way = (usize, Option<u64>, u32);

const WAYS: [Way; 6] = [(8192, None, 1), (1, None, 1), (3, None, 1), (2, Some(2), 1), (8192, None, 2), (3, Some(3), 2)];

#[test]
fn random_jobs_over_random_streams_equal_the_naive_calculation() {
    let number = |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |n| n.parse().unwrap());
    let (pairs, seed) = (number("HEADEND_PAIRS", PAIRS), number("HEADEND_SEED", SEED));
    // Many pairs go one way each, in turn; a few go all ways.
    let all_ways = pairs <= 1_000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut different = Vec::new();
    let mut rows = 0;
    for seed in seed..seed + pairs {
        let job = generate(seed, &Features::all());
        rows += job.streams().iter().map(|stream| stream.records.len()).sum::<usize>();
        let ways = if all_ways { WAYS.to_vec() } else { vec![WAYS[seed as usize % WAYS.len()]] };
        for way in ways {
            if let Some(difference) = runtime.block_on(difference(&job, way)) {
                different.push(seed);
                println!("seed {seed}, {way:?}: {difference}");
                report(&runtime, job, way, seed);
                break;
            }
        }
    }
    println!("HEADEND_PAIRS={pairs} HEADEND_SEED={seed}: {rows} rows, {} pairs differ {different:?}", different.len());
    assert!(different.is_empty(), "seeds {different:?} differ");
}

/// Makes the pair smaller for as long as it differs, and prints it.
fn report(runtime: &tokio::runtime::Runtime, mut job: Job, way: Way, seed: u64) {
    let mut tries = 0;
    'smaller: loop {
        for smaller in job.shrink() {
            tries += 1;
            if tries > SHRINKS_MAX {
                break 'smaller;
            }
            let differs = runtime.block_on(difference(&smaller, way)).is_some_and(|why| !why.starts_with("refused"));
            if differs {
                job = smaller;
                continue 'smaller;
            }
        }
        break;
    }
    println!("smaller: {:?}", runtime.block_on(difference(&job, way)));
    for (name, text) in job.to_case_files() {
        println!("-- {name}\n{text}");
        if let Some(folder) = std::env::var_os("HEADEND_KEEP") {
            let folder = PathBuf::from(folder).join(format!("seed_{seed}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
}

/// What the engine tells other than the calculation; none where they agree.
async fn difference(job: &Job, (rows_max, crash_every, partitions): Way) -> Option<String> {
    let expected = job.expected(&|key| partition_of(key.as_bytes(), partitions));
    let mut config = EngineConfig::new("random", job.sql());
    config.partitions = partitions;
    config.upper_partitions = partitions;
    config.rows_max = rows_max;
    config.cut_min = Duration::ZERO;
    config.crash_every = crash_every;
    config.snapshot_every = if crash_every.is_some() { 2 } else { u64::MAX };
    config.snapshot_interval = Duration::MAX;
    config.appended_us = Some(schemas::clock::parse_rfc3339("2024-06-01T00:00:00Z").unwrap());
    config.wanted = vec![expected.view.clone()];
    let trial = match Trial::new(config).await {
        Ok(trial) => trial,
        Err(error) => return Some(format!("refused: {error}\n{}", job.sql())),
    };
    for stream in job.streams() {
        let Some(source) = trial.job.sources.iter().find(|source| source.name == stream.source) else { continue };
        for record in stream.records {
            let partition = record.key.as_ref().map_or(0, |key| partition_of(key.as_bytes(), partitions));
            let record = NewRecord { key: record.key.map(Into::into), value: record.value.map(Into::into), headers: Vec::new() };
            trial.log.append(&source.topic, partition, vec![record]).await.unwrap();
        }
    }
    trial.close_sources().await.unwrap();
    let mut rows: Vec<Value> = Vec::new();
    let take = |epoch: &schemas::AcceptedEpoch| {
        rows.extend(rows_of(epoch, &expected.view));
        Ok(())
    };
    let totals = match trial.run(&expected.view, take).await {
        Ok(totals) => totals,
        Err(error) => return Some(format!("stopped: {error:#}")),
    };
    let wanted: Vec<Value> = expected.rows.iter().map(|row| Value::Object(row.clone().into_iter().collect())).collect();
    let rows: Vec<Value> = match &expected.compare {
        Compare::Rows => rows,
        Compare::Standing { key } => match std::panic::catch_unwind(|| standing(key, &rows)) {
            Ok(standing) => standing.into_values().collect(),
            Err(_) => return Some(format!("a change does not fit to what stands:\n{}", lines(&rows))),
        },
    };
    if sorted(&rows) != sorted(&wanted) {
        return Some(format!("came out\n{}expected\n{}", lines(&rows), lines(&wanted)));
    }
    // Rows that a crash makes the program read again are counted again.
    let late = Totals::get(&totals.late);
    let wrong = expected.late.filter(|wanted| crash_every.is_none() && *wanted != late)?;
    Some(format!("{late} rows late, expected {wrong}"))
}

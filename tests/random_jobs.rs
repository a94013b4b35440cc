//! Random jobs over random streams, against a naive calculation in plain Rust that knows neither DataFusion nor the engine.
//!
//! `HEADEND_PAIRS` pairs of a job and its streams from seed `HEADEND_SEED` on, by hand: cut and crashed in several ways on one and more
//! partitions; every twentieth through the engine too. A pair that differs is made smaller while it differs, and is printed with its
//! seed and as the files of a case; `HEADEND_KEEP` names a folder for them.

#[allow(dead_code, reason = "the generator is a whole of its own")]
mod jobs;

use crate::{
    by_hand::{ByHand, Cuts, Row},
    cases::{lines, rows_of, rows_of_record, sorted, standing},
};
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

const PAIRS: u64 = 600;
/// Of so many pairs one goes through the engine.
const ENGINE_EVERY: u64 = 20;
const SEED: u64 = 1;
/// Smaller pairs that are tried for one that differs.
const SHRINKS_MAX: usize = 400;

#[derive(Debug, Clone)]
enum Way {
    Engine { rows: usize, crash_every: Option<u64>, partitions: u32 },
    ByHand(Cuts),
}

/// The ways of a pair: by hand whole, by rows with a crash after each, and in pieces that the seed says; some pairs through the engine.
fn ways(seed: u64) -> Vec<Way> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let pieces = || -> Vec<usize> {
        (0..64)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                1 + (random >> 33) as usize % 12
            })
            .collect()
    };
    let by_hand = |rows: Vec<usize>, crashes, partitions| Way::ByHand(Cuts { rows, crashes, partitions });
    let pieces = std::iter::repeat_with(pieces).take(2).collect::<Vec<_>>();
    let mut ways = vec![
        by_hand(vec![usize::MAX], false, 1),
        by_hand(vec![1], true, 1),
        by_hand(pieces[0].clone(), seed.is_multiple_of(2), 2),
        by_hand(pieces[1].clone(), seed.is_multiple_of(3), 4),
    ];
    if seed.is_multiple_of(ENGINE_EVERY) {
        const OF_ENGINE: [(usize, Option<u64>, u32); 6] = [(8192, None, 1), (1, None, 1), (3, None, 1), (2, Some(2), 1), (8192, None, 2), (3, Some(3), 2)];
        let (rows, crash_every, partitions) = OF_ENGINE[(seed / ENGINE_EVERY) as usize % OF_ENGINE.len()];
        ways.push(Way::Engine { rows, crash_every, partitions });
    }
    ways
}

#[test]
fn random_jobs_over_random_streams_equal_the_naive_calculation() {
    let number = |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |n| n.parse().unwrap());
    let (pairs, seed) = (number("HEADEND_PAIRS", PAIRS), number("HEADEND_SEED", SEED));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut different = Vec::new();
    let mut rows = 0;
    for seed in seed..seed + pairs {
        let job = generate(seed, &Features::all());
        rows += job.streams().iter().map(|stream| stream.records.len()).sum::<usize>();
        let tasks = tasks_of(&job);
        for way in ways(seed) {
            if let Some(difference) = runtime.block_on(difference(&job, &tasks, &way)) {
                different.push(seed);
                println!("seed {seed}, {way:?}: {difference}");
                report(&runtime, job, &way, seed);
                break;
            }
        }
    }
    println!("HEADEND_PAIRS={pairs} HEADEND_SEED={seed}: {rows} rows, {} pairs differ {different:?}", different.len());
    assert!(different.is_empty(), "seeds {different:?} differ");
}

/// Makes the pair smaller for as long as it differs, and prints it.
fn report(runtime: &tokio::runtime::Runtime, mut job: Job, way: &Way, seed: u64) {
    let mut tries = 0;
    'smaller: loop {
        for smaller in job.shrink() {
            tries += 1;
            if tries > SHRINKS_MAX {
                break 'smaller;
            }
            let differs = runtime.block_on(difference(&smaller, &tasks_of(&smaller), way)).is_some_and(|why| !why.starts_with("refused"));
            if differs {
                job = smaller;
                continue 'smaller;
            }
        }
        break;
    }
    println!("smaller: {:?}", runtime.block_on(difference(&job, &tasks_of(&job), way)));
    for (name, text) in job.to_case_files() {
        println!("-- {name}\n{text}");
        if let Some(folder) = std::env::var_os("HEADEND_KEEP") {
            let folder = PathBuf::from(folder).join(format!("seed_{seed}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
}

fn config(job: &Job, view: &str) -> EngineConfig {
    let mut config = EngineConfig::new("random", job.sql());
    config.appended_us = Some(schemas::clock::parse_rfc3339("2024-06-01T00:00:00Z").unwrap());
    config.wanted = vec![view.to_owned()];
    config
}

/// The job's tasks by hand: it is planned once for all the ways.
fn tasks_of(job: &Job) -> Result<ByHand, String> {
    ByHand::new(config(job, job.output())).map_err(|error| format!("refused: {error}\n{}", job.sql()))
}

/// What comes out other than the calculation says; none where they agree.
async fn difference(job: &Job, tasks: &Result<ByHand, String>, way: &Way) -> Option<String> {
    let partitions = match way {
        Way::Engine { partitions, .. } => *partitions,
        Way::ByHand(cuts) => cuts.partitions,
    };
    let expected = job.expected(&|key| partition_of(key.as_bytes(), partitions));
    let told = match (way, tasks) {
        (_, Err(refused)) => Err(refused.clone()),
        (Way::Engine { rows, crash_every, .. }, _) => by_engine(job, config(job, &expected.view), (*rows, *crash_every, partitions), &expected.view).await,
        (Way::ByHand(cuts), Ok(tasks)) => by_hand(job, tasks, cuts, &expected.view),
    };
    let (rows, late) = match told {
        Ok(told) => told,
        Err(why) => return Some(why),
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
    let (late, wrong) = (late?, expected.late?);
    (late != wrong).then(|| format!("{late} rows late, expected {wrong}"))
}

/// Rows, and how many were late where that is known.
type Told = Result<(Vec<Value>, Option<u64>), String>;

/// Tables first, then the streams by turns, as many rows of each as it has.
fn by_hand(job: &Job, tasks: &ByHand, cuts: &Cuts, view: &str) -> Told {
    let mut rows: Vec<((bool, usize), Row)> = Vec::new();
    for stream in job.streams() {
        let Some(source) = tasks.job().sources.iter().position(|source| source.name == stream.source) else { continue };
        let (is_stream, n) = (!tasks.job().sources[source].table, stream.records.len().max(1));
        for (i, record) in stream.records.into_iter().enumerate() {
            let record = NewRecord { key: record.key.map(Into::into), value: record.value.map(Into::into), headers: Vec::new() };
            rows.push(((is_stream, i * 10_000 / n), (source, record)));
        }
    }
    rows.sort_by_key(|(place, _)| *place);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    let level = tasks.job().views.iter().find(|v| v.name == view).map_or(1, |v| v.level);
    let told = tasks.run(&rows, cuts, level).map_err(|error| format!("stopped: {error}"))?;
    Ok((told.records.iter().flat_map(|record| rows_of_record(record, view)).collect(), Some(told.late)))
}

async fn by_engine(job: &Job, mut config: EngineConfig, (rows_max, crash_every, partitions): (usize, Option<u64>, u32), view: &str) -> Told {
    config.partitions = partitions;
    config.upper_partitions = partitions;
    config.rows_max = rows_max;
    config.cut_min = Duration::ZERO;
    config.crash_every = crash_every;
    config.snapshot_every = if crash_every.is_some() { 2 } else { u64::MAX };
    config.snapshot_interval = Duration::MAX;
    let trial = Trial::new(config).await.map_err(|error| format!("refused: {error}\n{}", job.sql()))?;
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
        rows.extend(rows_of(epoch, view));
        Ok(())
    };
    let totals = trial.run(view, take).await.map_err(|error| format!("stopped: {error:#}"))?;
    // Rows that a crash makes the program read again are counted again.
    Ok((rows, crash_every.is_none().then(|| Totals::get(&totals.late))))
}

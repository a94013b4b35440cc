//! Nexmark on one core: `taskset -c 1 cargo bench --bench nexmark -- [--events N] [--only q5,q7] [--kafka HOST:PORT] [--json FILE]`.
//!
//! The events of all three kinds stand in the log as JSON; each query runs over those that it reads, from the start of its engine until
//! every task of its view has told the end, with all rows of the view written to the log. Its answer over a shorter stream is compared
//! with the model, row by row. For the timed run the model takes too much memory: what it told is compared by a digest of its rows with
//! a second run of other cuts, and with the run on Kafka. `docs/benchmarks.md` says how to read the figures.

#![allow(clippy::print_stdout, reason = "a program whose output is its report")]

#[path = "pipeline/logs.rs"]
#[allow(dead_code, reason = "the pipeline's bench uses the rest")]
mod logs;
#[path = "pipeline/machine.rs"]
#[allow(dead_code, reason = "the pipeline's bench uses the rest")]
mod machine;
#[path = "nexmark/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod suite;
#[path = "pipeline/timed.rs"]
#[allow(dead_code, reason = "the pipeline's bench uses the rest")]
mod timed;

use anyhow::{Context, ensure};
use clap::Parser;
use headend::engine::{EngineConfig, Totals};
use ingest::{Log, TopicSpec, log::end_source};
use machine::{in_ms, machine, rate};
use schemas::partition::partition_of;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use suite::{
    driver::{Digest, answer, append},
    event::Event,
    generator::{Generator, GeneratorConfig},
    model::check_none_late,
    queries::{QUERIES, Query},
};
use timed::Timed;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: u32 = 4;
/// Of the sources in the queries.
const BOUND_US: i64 = 4_000_000;
/// Of the run that is compared with the model: two minutes of event time, so that windows close, and a rate at which the bounds of the
/// joins hold.
const MODEL_EVENTS: u64 = 60_000;
const MODEL_EVENTS_PER_S: u64 = 500;
const MODEL_PARTITIONS: u32 = 2;
const MODEL_CUT_ROWS: usize = 8_192;
/// Rows of an epoch of the second run: other cuts than the engine's own.
const AGAIN_CUT_ROWS: usize = 16_381;

/// Nexmark's queries on one core.
#[derive(clap::Parser)]
struct Args {
    /// Events of all three kinds; 46 of 50 are bids.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// The same seed gives the same events.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these queries.
    #[arg(long, value_name = "QUERY", value_delimiter = ',')]
    only: Vec<String>,
    /// Writes the report to this file too, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the log stands while the bench runs, deleted at its end. Default: the system's folder for such files.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Measures on a Kafka that nobody has used before (`scripts/kafka start`) too.
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// Cargo gives it to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What every query works with.
struct Bench<'a> {
    dir: &'a Path,
    /// The embedded one first, by the name in the report.
    logs: Vec<(&'static str, Arc<dyn Log>)>,
    /// Records of each topic.
    appended: BTreeMap<&'static str, u64>,
    /// The shorter stream for the model.
    generator: &'a Generator,
    events: &'a [Event<'a>],
}

/// A run of the engine and what it told.
struct Ran {
    timed: Timed,
    digest: Digest,
    rows_told: u64,
}

fn main() -> anyhow::Result<()> {
    // As `headend run` does.
    headend::memory::keep_freed();
    let args = Args::parse();
    let dir = logs::folder(args.dir.as_deref())?;
    let report = logs::runtime()?.block_on(measure(&args, dir.path()))?;
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    ensure!(report["failed"] == 0, "{} of the queries failed", report["failed"]);
    Ok(())
}

async fn measure(args: &Args, dir: &Path) -> anyhow::Result<Value> {
    let before = machine();
    let unknown = args.only.iter().find(|name| QUERIES.iter().all(|query| query.name != **name));
    ensure!(unknown.is_none(), "`--only` names `{}`, which is no query", unknown.map_or("", String::as_str));
    let queries: Vec<&Query> = QUERIES.iter().filter(|q| args.only.is_empty() || args.only.iter().any(|name| name == q.name)).collect();
    let generator = Generator::new(GeneratorConfig { seed: args.seed, events_per_s: MODEL_EVENTS_PER_S, ..GeneratorConfig::default() });
    let events: Vec<Event<'_>> = generator.events(MODEL_EVENTS).collect();
    check_none_late(&events, MODEL_PARTITIONS, BOUND_US, partition_of).map_err(anyhow::Error::msg)?;
    let bench = Bench::open(args, dir, &queries, &generator, &events).await?;
    let (mut lines, mut failed) = (Vec::new(), 0);
    println!(
        "| query | log | events read | seconds | events/s | ns an event | CPU seconds | rows told | rows that stand |\n|---|---|---|---|---|---|---|---|---|"
    );
    for query in queries {
        match bench.question(query).await {
            Ok(told) => lines.extend(told),
            Err(error) => {
                failed += 1;
                println!("| {} | failed: {} |", query.name, format!("{error:#}").replace('\n', " "));
                lines.push(json!({ "query": query.name, "error": format!("{error:#}") }));
            }
        }
    }
    Ok(json!({
        "machine_before": before,
        "machine_after": machine(),
        "settings": settings(args),
        "queries": lines,
        "failed": failed,
    }))
}

fn settings(args: &Args) -> Value {
    let timed = GeneratorConfig::default();
    json!({
        "events": args.events,
        "seed": args.seed,
        "events_per_second_of_event_time": timed.events_per_s,
        "partitions": PARTITIONS,
        "compared_with_the_model": { "events": MODEL_EVENTS, "events_per_second_of_event_time": MODEL_EVENTS_PER_S, "partitions": MODEL_PARTITIONS },
        "cut_rows_of_the_second_run": AGAIN_CUT_ROWS,
        "debug_assertions": cfg!(debug_assertions),
    })
}

/// The engine as `headend run` has it by default, under a name of its own, so that a query may run twice.
fn config(query: &Query, name: &str) -> EngineConfig {
    let mut config = EngineConfig::new(name, query.sql);
    config.partitions = PARTITIONS;
    config.upper_partitions = PARTITIONS;
    config.wanted = vec![query.view.to_owned()];
    config
}

impl<'a> Bench<'a> {
    /// Puts the events that the queries read into each log.
    async fn open(args: &Args, dir: &'a Path, queries: &[&Query], generator: &'a Generator, events: &'a [Event<'a>]) -> anyhow::Result<Self> {
        let mut topics: BTreeMap<String, TopicSpec> = BTreeMap::new();
        for query in queries {
            let config = config(query, query.name);
            let (job, _) = config.plan()?;
            topics.extend(config.topics(&job).into_iter().filter(|t| !t.name.starts_with("epochs.")).map(|t| (t.name.clone(), t)));
        }
        let mut bench = Self { dir, logs: vec![("embedded", logs::open(None, &[], dir).await?)], appended: BTreeMap::new(), generator, events };
        if let Some(brokers) = &args.kafka {
            bench.logs.push(("Kafka", logs::open(Some(brokers.as_str()), &[], dir).await?));
        }
        for (name, log) in &bench.logs {
            eprintln!("the events go into the log: {name}");
            bench.appended = fill(log.as_ref(), &topics, args).await?;
        }
        Ok(bench)
    }

    /// The query against its model, then timed on each log: a line each.
    async fn question(&self, query: &Query) -> anyhow::Result<Vec<Value>> {
        self.against_model(query).await?;
        let mut lines = Vec::new();
        let mut digest = None;
        for (name, log) in &self.logs {
            let ran = self.run(query, config(query, query.name), name, log).await?;
            let known = *digest.get_or_insert(ran.digest);
            ensure!(ran.digest == known, "what stands on {name} is {:?}, expected {known:?}", ran.digest);
            let mut line = self.line(query, name, &ran)?;
            if lines.is_empty() {
                let again = EngineConfig { rows_max: AGAIN_CUT_ROWS, ..config(query, &format!("{}_again", query.name)) };
                let again = self.run(query, again, name, log).await?;
                ensure!(again.digest == known, "with other cuts {:?} stands, expected {known:?}", again.digest);
                line["seconds_with_other_cuts"] = json!(again.timed.took.wall.as_secs_f64());
            }
            lines.push(line);
        }
        Ok(lines)
    }

    async fn against_model(&self, query: &Query) -> anyhow::Result<()> {
        let mut config = config(query, query.name);
        config.partitions = MODEL_PARTITIONS;
        config.upper_partitions = MODEL_PARTITIONS;
        config.rows_max = MODEL_CUT_ROWS;
        config.cut_min = Duration::ZERO;
        let (rows, totals) = answer(query, config, self.generator, self.events).await?;
        none_lost(&totals)?;
        let difference = query.difference(self.events, &rows);
        ensure!(difference.is_none(), "differs from its model: {}", difference.unwrap_or_default());
        Ok(())
    }

    async fn run(&self, query: &Query, config: EngineConfig, name: &str, log: &Arc<dyn Log>) -> anyhow::Result<Ran> {
        let snapshots = self.dir.join(format!("snapshots-{name}"));
        let timed = timed::run(config.clone(), log, query.view, &snapshots).await?;
        none_lost(&timed.totals)?;
        let (mut digest, mut rows_told) = (Digest::default(), 0);
        let epochs = timed.tasks.epochs(log, |epoch| {
            rows_told += digest.take(epoch, query.view)?;
            Ok(())
        });
        epochs.await?;
        timed::forget(&config, log.as_ref()).await?;
        Ok(Ran { timed, digest, rows_told })
    }

    /// Prints the row of the table, and gives it as JSON.
    fn line(&self, query: &Query, log: &str, ran: &Ran) -> anyhow::Result<Value> {
        let (job, _) = config(query, query.name).plan()?;
        let topics: BTreeSet<&str> = job.sources.iter().map(|source| source.topic.as_str()).collect();
        let events: u64 = topics.iter().filter_map(|topic| self.appended.get(*topic)).sum();
        let mut line = rate(&ran.timed.took, events);
        let cell = |name: &str| line[name].as_f64().unwrap_or_default();
        let (seconds, cpu_s, per_s, ns) = (cell("seconds"), cell("cpu_seconds"), cell("events_per_s"), cell("ns_per_event"));
        println!("| {} | {log} | {events} | {seconds:.2} | {per_s:.0} | {ns:.0} | {cpu_s:.2} | {} | {} |", query.name, ran.rows_told, ran.digest.rows);
        line["query"] = json!(query.name);
        line["log"] = json!(log);
        line["events"] = json!(events);
        line["rows_told"] = json!(ran.rows_told);
        line["rows_standing"] = json!(ran.digest.rows);
        line["digest"] = json!(format!("{:016x}", ran.digest.hash));
        line["epochs"] = json!(Totals::get(&ran.timed.totals.accepted));
        line["rss_growth_bytes"] = json!(ran.timed.watched.rss_growth_bytes);
        line["stalls_ms"] = in_ms(&ran.timed.watched.stalls);
        line["differences"] = json!(0);
        Ok(line)
    }
}

/// The events and the ends of their topics; how many records each topic has.
async fn fill(log: &dyn Log, topics: &BTreeMap<String, TopicSpec>, args: &Args) -> anyhow::Result<BTreeMap<&'static str, u64>> {
    for topic in topics.values() {
        log.create_topic(topic).await?;
    }
    let generator = Generator::new(GeneratorConfig { seed: args.seed, ..GeneratorConfig::default() });
    let appended = append(log, &topics.keys().cloned().collect(), &generator, generator.events(args.events)).await?;
    for topic in topics.values() {
        if topic.compacted {
            logs::end_table(log, &topic.name, topic.partitions).await?;
        } else {
            end_source(log, &topic.name, topic.partitions).await?;
        }
    }
    Ok(appended)
}

/// The comparison with a model holds for streams of which no row is late.
fn none_lost(totals: &Totals) -> anyhow::Result<()> {
    let lost = [&totals.late, &totals.dead, &totals.misplaced].map(Totals::get);
    ensure!(lost == [0; 3], "{lost:?} rows were late, dead letters and misplaced");
    Ok(())
}

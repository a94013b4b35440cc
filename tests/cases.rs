//! What a job means, as data: a folder of `cases` is a job, its rows, and the rows that must come out.
//!
//! `job.sql` opens with lines `-- name: value` that say how the case runs:
//!
//! * `output` – the output that is compared, `VIEW`, or `NAME of VIEW` for another output of the view's task: `alerts of risky`;
//! * `now` – the time at which the log appended the rows; without it, the present;
//! * `counts` – counters that must come out for every cut: `late=1 dead=2`;
//! * `columns` – the columns that are compared; without it, all;
//! * `compare` – what must be equal for other cuts than the straight one: `rows` (all of them, any order), `final` (the rows that stand at the
//!   end) or `cut` (all rows, for crashes at the same cut only); without it, `final` for changes and `rows` for the rest;
//! * `cut` – rows of an epoch in the run that must give exactly `expected.jsonl`; without it, all rows are one epoch;
//! * `partitions` – numbers of partitions with which the rows must be the same;
//! * `order` – `matters` where the result is by definition one of the order of the log, and not of event time.
//!
//! Every case runs through the engine, and then by hand: cut once at every boundary, and with every task dropped and restored after every
//! epoch of one row; where no row is behind the watermark, shuffled inside of its bound with 32 seeds.
//!
//! `<source>.jsonl` (or `events.jsonl` for the only source) holds a record a line: its value as it is, or `{"_key": …, "_value": …}` where the key
//! is not the one that the value tells; a `null` value is a tombstone. `UPDATE_GOLDEN=1` rewrites `expected.jsonl`: check by hand what it wrote.

use crate::by_hand::{ByHand, CameOut, Cuts, Row};
use headend::{
    engine::{EngineConfig, Totals},
    try_job::Trial,
};
use schemas::{AcceptedEpoch, EpochRecord, NewRecord, partition::partition_of};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use stream_jobs::{
    plan::{Job, SourceSpec},
    rooms::JsonRows,
    upstream::read_rows,
};

/// Orders in which a case runs beside that of its files.
const SHUFFLES: u64 = 32;

macro_rules! cases {
    ($($name:ident,)*) => {
        const CASES: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { check(stringify!($name)) })*
    };
}

include!("cases/names.rs");

/// The list says of every case for which sentence it stands, and names no case that is not there.
#[test]
fn the_list_of_sentences_names_every_case() {
    let list = std::fs::read_to_string(root().join("SENTENCES.md")).unwrap();
    let named: BTreeSet<&str> = list.lines().filter_map(|line| line.trim().strip_prefix("- cases: ")).flat_map(|line| line.split('`')).collect();
    let missing: Vec<&&str> = CASES.iter().filter(|name| !named.contains(**name)).collect();
    assert!(missing.is_empty(), "no sentence names {missing:?}");
    let unknown: Vec<&&str> = named.iter().filter(|name| name.contains('_') && !CASES.contains(name)).collect();
    assert!(unknown.is_empty(), "there is no case {unknown:?}");
}

#[test]
fn every_folder_of_cases_is_run() {
    let entries = std::fs::read_dir(root()).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir());
    let folders = entries.map(|entry| entry.file_name().into_string().unwrap());
    assert_eq!(folders.collect::<BTreeSet<_>>(), CASES.iter().map(|name| (*name).to_owned()).collect());
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

struct Case {
    name: &'static str,
    dir: PathBuf,
    sql: String,
    /// The lines `-- name: value`.
    settings: BTreeMap<String, String>,
}

/// One way of running a case.
#[derive(Debug, Clone, Copy)]
struct Way {
    cut_rows: usize,
    crash_every: Option<u64>,
    snapshot_every: u64,
    partitions: u32,
}

struct Outcome {
    rows: Vec<Value>,
    /// The key of the rows, where they are changes.
    key: Option<Vec<String>>,
    counts: BTreeMap<String, u64>,
}

fn check(name: &'static str) {
    let case = Case::read(name);
    let straight = Way { cut_rows: case.number("cut").unwrap_or(8192), crash_every: None, snapshot_every: u64::MAX, partitions: 1 };
    let outcome = case.run(straight);
    let golden = case.dir.join("expected.jsonl");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, lines(&outcome.rows)).unwrap();
    }
    let expected = jsonl(&golden);
    let key = outcome.key.as_deref();
    let compare = case.settings.get("compare").map_or(if key.is_some() { "final" } else { "rows" }, String::as_str);
    case.check_counts(straight, &outcome);
    // Where tables are joined, the order in which their first rows arrive is free; what stands at the end is not.
    let straight_compare = if case.settings.get("compare").is_some_and(|c| c == "final") { "final" } else { "rows" };
    same(&format!("`{name}`, {straight:?}"), straight_compare, key, &outcome.rows, &expected);
    for way in case.other_ways() {
        let other = case.run(way);
        case.check_counts(way, &other);
        let compare = match compare {
            "cut" if way.cut_rows == straight.cut_rows => "rows",
            "cut" => continue,
            other => other,
        };
        same(&format!("`{name}`, {way:?}"), compare, key, &other.rows, &expected);
    }
    if compare != "cut" {
        case.check_by_hand(compare, key, &expected);
    }
}

fn same(what: &str, compare: &str, key: Option<&[String]>, rows: &[Value], expected: &[Value]) {
    match key.filter(|_| compare == "final") {
        Some(key) => assert_eq!(standing(key, rows), standing(key, expected), "{what}, came out as\n{}", lines(rows)),
        None => assert_eq!(sorted(rows), sorted(expected), "{what}, came out as\n{}", lines(rows)),
    }
}

impl Case {
    fn read(name: &'static str) -> Self {
        let dir = root().join(name);
        let sql = std::fs::read_to_string(dir.join("job.sql")).unwrap();
        let setting = |line: &str| line.strip_prefix("-- ")?.split_once(": ").map(|(k, v)| (k.to_owned(), v.trim().to_owned()));
        let settings = sql.lines().take_while(|l| l.starts_with("--")).filter_map(setting).collect();
        Self { name, dir, sql, settings }
    }

    fn number(&self, setting: &str) -> Option<usize> {
        self.settings.get(setting).map(|n| n.parse().unwrap())
    }

    fn other_ways(&self) -> Vec<Way> {
        let cut = |cut_rows| Way { cut_rows, crash_every: None, snapshot_every: u64::MAX, partitions: 1 };
        let crash = |cut_rows, crash_every, snapshot_every| Way { cut_rows, crash_every: Some(crash_every), snapshot_every, partitions: 1 };
        let mut ways = vec![cut(1), cut(2), cut(3), cut(5), crash(1, 1, 1), crash(1, 2, 5), crash(2, 3, 1), crash(3, 2, 1)];
        for partitions in self.partitions() {
            ways.extend([Way { partitions, ..cut(8192) }, Way { partitions, ..cut(1) }, Way { partitions, ..crash(2, 2, 1) }]);
        }
        ways
    }

    /// The output's name, and the view whose task it leaves.
    fn output(&self) -> (String, String) {
        let output = self.settings.get("output").unwrap_or_else(|| panic!("`{}` names no output", self.name));
        match output.split_once(" of ") {
            Some((name, view)) => (name.to_owned(), view.to_owned()),
            None => (output.clone(), output.clone()),
        }
    }

    /// Rows that a crash makes the program read again are counted again.
    fn check_counts(&self, way: Way, outcome: &Outcome) {
        if way.crash_every.is_some() {
            return;
        }
        let wanted = self.settings.get("counts").map_or("", String::as_str).split_whitespace().map(|pair| pair.split_once('=').unwrap());
        let zero = ["late", "dead", "duplicate", "misplaced", "future"].into_iter().map(|name| (name, "0"));
        for (name, n) in zero.chain(wanted).collect::<BTreeMap<_, _>>() {
            assert_eq!(outcome.counts[name].to_string(), n, "`{}`, {way:?}: `{name}`", self.name);
        }
    }

    /// Cut once at every boundary, and crashed after every epoch; then shuffled.
    fn check_by_hand(&self, compare: &str, key: Option<&[String]>, expected: &[Value]) {
        let tasks = ByHand::new(self.config()).unwrap();
        let rows = self.rows(tasks.job());
        let mut ways: Vec<Cuts> = (1..rows.len()).map(|at| Cuts { rows: vec![at, usize::MAX], crashes: false, partitions: 1 }).collect();
        ways.push(Cuts { rows: vec![1], crashes: true, partitions: 1 });
        ways.extend(self.partitions().map(|partitions| Cuts { rows: vec![1], crashes: true, partitions }));
        for cuts in ways {
            let what = format!("`{}` by hand, {cuts:?}", self.name);
            let rows = self.told(&tasks, &rows, &cuts, &what);
            same(&what, compare, key, &rows, expected);
        }
        if self.settings.get("order").is_none_or(|order| order != "matters") && is_in_bound(tasks.job(), &rows) {
            for seed in 1..=SHUFFLES {
                let cuts = Cuts { rows: vec![1 + seed as usize % 7], crashes: false, partitions: 1 };
                let what = format!("`{}` by hand, shuffled with {seed}, {cuts:?}", self.name);
                let rows = self.told(&tasks, &shuffled(tasks.job(), &rows, seed), &cuts, &what);
                same(&what, compare, key, &rows, expected);
            }
        }
    }

    fn told(&self, tasks: &ByHand, rows: &[Row], cuts: &Cuts, what: &str) -> Vec<Value> {
        let (output, view) = self.output();
        let level = tasks.job().views.iter().find(|v| v.name == view).unwrap().level;
        let CameOut { records, late } = tasks.run(rows, cuts, level).unwrap_or_else(|e| panic!("{what}: {e}"));
        let wanted = self.settings.get("counts").and_then(|counts| counts.split_whitespace().find_map(|count| count.strip_prefix("late=")));
        assert_eq!(late.to_string(), wanted.unwrap_or("0"), "{what}: `late`");
        let columns = self.columns();
        records.iter().flat_map(|record| rows_of_record(record, &output)).map(|row| narrowed(row, columns.as_deref())).collect()
    }

    /// The rows of all sources: tables first, as the engine reads what has no watermark, then streams one after another.
    fn rows(&self, job: &Job) -> Vec<Row> {
        let mut rows = Vec::new();
        for table in [true, false] {
            for (i, source) in job.sources.iter().enumerate().filter(|(_, source)| source.table == table) {
                rows.extend(
                    self.records(source)
                        .into_iter()
                        .map(|(key, value)| (i, NewRecord { key: key.map(Into::into), value: value.map(Into::into), headers: Vec::new() })),
                );
            }
        }
        rows
    }

    fn columns(&self) -> Option<Vec<&str>> {
        self.settings.get("columns").map(|c| c.split(',').map(str::trim).collect())
    }

    fn partitions(&self) -> impl Iterator<Item = u32> {
        self.settings.get("partitions").map_or("", String::as_str).split_whitespace().map(|n| n.parse().unwrap())
    }

    fn config(&self) -> EngineConfig {
        let mut config = EngineConfig::new(self.name, self.sql.clone());
        config.appended_us = self.settings.get("now").map(|t| schemas::clock::parse_rfc3339(t).unwrap());
        config.wanted = vec![self.output().1];
        config
    }

    fn run(&self, way: Way) -> Outcome {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(self.outcome(way))
    }

    async fn outcome(&self, way: Way) -> Outcome {
        let (output, view) = self.output();
        let mut config = self.config();
        config.partitions = way.partitions;
        config.upper_partitions = way.partitions;
        config.rows_max = way.cut_rows;
        config.cut_min = Duration::ZERO;
        config.crash_every = way.crash_every;
        config.snapshot_every = way.snapshot_every;
        config.snapshot_interval = Duration::MAX;
        let trial = Trial::new(config).await.unwrap_or_else(|e| panic!("`{}`: {e}", self.name));
        for source in &trial.job.sources {
            self.append(&trial, source, way.partitions).await;
        }
        trial.close_sources().await.unwrap();
        let spec = trial.job.views.iter().find(|v| v.name == view).unwrap();
        let key: Vec<String> = spec.key.iter().map(|i| spec.schema.field(*i).name().clone()).collect();
        let columns = self.columns();
        let mut rows = Vec::new();
        let totals = trial
            .run(&view, |epoch| {
                rows.extend(rows_of(epoch, &output).into_iter().map(|row| narrowed(row, columns.as_deref())));
                Ok(())
            })
            .await
            .unwrap_or_else(|e| panic!("`{}`, {way:?}: {e}", self.name));
        let key = rows.first().is_some_and(|r: &Value| r.get("_op").is_some()).then_some(key);
        Outcome { rows, key, counts: counts(&totals) }
    }

    async fn append(&self, trial: &Trial, source: &SourceSpec, partitions: u32) {
        for (key, value) in self.records(source) {
            let partition = key.as_ref().map_or(0, |k| partition_of(k.as_bytes(), partitions));
            let record = NewRecord { key: key.map(Into::into), value: value.map(Into::into), headers: Vec::new() };
            trial.log.append(&source.topic, partition, vec![record]).await.unwrap();
        }
    }

    fn records(&self, source: &SourceSpec) -> Vec<(Option<String>, Option<String>)> {
        let file = self.dir.join(format!("{}.jsonl", source.name));
        let file = if file.exists() { file } else { self.dir.join("events.jsonl") };
        std::fs::read_to_string(&file).unwrap().lines().filter(|l| !l.is_empty()).map(|line| record(source, line)).collect()
    }
}

/// The event time of a row of a stream; none where it has no readable one.
fn time_of(job: &Job, (source, record): &Row) -> Option<i64> {
    let source = &job.sources[*source];
    let value: Value = serde_json::from_slice(record.value.as_deref()?).ok()?;
    schemas::clock::parse_rfc3339(value.get(source.schema.field(source.time_column?).name())?.as_str()?).ok()
}

/// True where every row of a stream comes before the watermark of its source has passed it.
fn is_in_bound(job: &Job, rows: &[Row]) -> bool {
    let mut newest: BTreeMap<usize, i64> = BTreeMap::new();
    rows.iter().filter(|(source, _)| !job.sources[*source].table).all(|row| {
        let Some(time) = time_of(job, row) else { return false };
        let newest = newest.entry(row.0).or_insert(time);
        *newest = (*newest).max(time);
        time >= *newest - job.sources[row.0].bound_us
    })
}

/// The rows in another order in which none comes behind the watermark. Tables stay as they are, and before the streams.
fn shuffled(job: &Job, rows: &[Row], seed: u64) -> Vec<Row> {
    let (tables, streams): (Vec<Row>, Vec<Row>) = rows.iter().cloned().partition(|(source, _)| job.sources[*source].table);
    let mut left: Vec<(i64, Row)> = streams.into_iter().map(|row| (time_of(job, &row).unwrap(), row)).collect();
    let mut random = seed;
    let mut out = tables;
    while !left.is_empty() {
        let bound = |source: usize| job.sources[source].bound_us;
        let fits = |row: &(i64, Row)| left.iter().all(|other| other.1.0 != row.1.0 || other.0 >= row.0 - bound(row.1.0));
        let may: Vec<usize> = (0..left.len()).filter(|i| fits(&left[*i])).collect();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.push(left.remove(may[(random >> 33) as usize % may.len()]).1);
    }
    out
}

/// Key and value of a line.
fn record(source: &SourceSpec, line: &str) -> (Option<String>, Option<String>) {
    let parsed: Value = serde_json::from_str(line).unwrap_or(Value::Null);
    if let Some(key) = parsed.get("_key") {
        let value = match &parsed["_value"] {
            Value::Null => None,
            Value::String(raw) => Some(raw.clone()),
            value => Some(value.to_string()),
        };
        return (key.as_str().map(str::to_owned), value);
    }
    let parts: Option<Vec<&str>> = source.key.iter().map(|i| parsed.get(source.schema.field(*i).name())?.as_str()).collect();
    (parts.map(|p| p.join("|")), Some(line.to_owned()))
}

pub(crate) fn rows_of(epoch: &AcceptedEpoch, name: &str) -> Vec<Value> {
    rows_of_record(&epoch.record, name)
}

pub(crate) fn rows_of_record(record: &EpochRecord, name: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for output in record.outputs.iter().filter(|o| o.name == name) {
        let delta = read_rows(output).unwrap();
        let rows = JsonRows::new(&delta.batch).unwrap();
        for row in 0..delta.len() {
            let mut value = rows.object(row).unwrap();
            if let Some(event) = value.get("event").filter(|_| name == "alerts") {
                let rooms = value["rooms"].as_str().unwrap().split('\n').filter(|room| !room.is_empty()).collect::<Vec<_>>();
                let event: Value = serde_json::from_str(event.as_str().unwrap()).unwrap();
                value = json!({ "rooms": rooms });
                value.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
            }
            if let Some(ops) = &delta.ops {
                value["_op"] = json!(ops[row].as_str());
            }
            all.push(value);
        }
    }
    all
}

/// The row with these columns only; `a.b` is a field of a field.
fn narrowed(row: Value, columns: Option<&[&str]>) -> Value {
    let Some(columns) = columns else { return row };
    let at = |path: &str| row.pointer(&format!("/{}", path.replace('.', "/"))).cloned().unwrap_or(Value::Null);
    Value::Object(columns.iter().map(|c| ((*c).to_owned(), at(c))).collect::<Map<_, _>>())
}

fn counts(totals: &Arc<Totals>) -> BTreeMap<String, u64> {
    let n = Totals::get;
    [
        ("rows_in", n(&totals.rows_in)),
        ("late", n(&totals.late)),
        ("dead", n(&totals.dead)),
        ("duplicate", n(&totals.duplicate)),
        ("misplaced", n(&totals.misplaced)),
        ("future", n(&totals.future)),
    ]
    .map(|(name, n)| (name.to_owned(), n))
    .into()
}

/// The rows that stand after all changes, by key. A change that does not fit to what stands is an error.
pub(crate) fn standing(key: &[String], rows: &[Value]) -> BTreeMap<String, Value> {
    let mut standing: BTreeMap<String, Value> = BTreeMap::new();
    for row in rows {
        let mut row = row.clone();
        let op = row.as_object_mut().unwrap().remove("_op").unwrap();
        let at = Value::Array(key.iter().map(|k| row[k].clone()).collect()).to_string();
        match op.as_str().unwrap() {
            "+I" => assert_eq!(standing.insert(at, row), None, "a row is inserted over another"),
            "+U" => assert_eq!(standing.insert(at, row), None, "a row is put over another"),
            _ => assert_eq!(standing.remove(&at), Some(row), "what is taken back is not what stood"),
        }
    }
    standing
}

pub(crate) fn sorted(rows: &[Value]) -> Vec<String> {
    let mut texts: Vec<String> = rows.iter().map(canonical).collect();
    texts.sort_unstable();
    texts
}

/// The value with the fields of objects in order.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => json!(fields.iter().map(|(k, v)| (k.clone(), canonical(v))).collect::<BTreeMap<_, _>>()).to_string(),
        other => other.to_string(),
    }
}

fn jsonl(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("`{}`: {e}", file.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

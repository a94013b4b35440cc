//! The retail, ISP link and CESNET data through sessions, top-N, a lookup join, distinct counts and percentiles, against models that are as naive as
//! they can be: each group keeps its rows, and each row's lateness is read off the watermark of its partition just before it.
//!
//! Slices of the data, in the order of the file and out of order; `cargo test -- --ignored whole_data` takes all of it.

mod load;
mod model;
mod retail;

use super::retail::{data, own};
use chrono::{DateTime, NaiveDateTime, SecondsFormat};
use headend::{
    cli::{Named, TryArgs},
    try_job::{self, Report},
};
use model::{Seen, Session, distinct, emitted, median, percentile, seen, sessions, windows};
use serde_json::{Value, json, value::RawValue};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

const MINUTE_US: i64 = 60_000_000;
const HOUR_US: i64 = 60 * MINUTE_US;
const DAY_US: i64 = 24 * HOUR_US;

/// The runs of every view: partitions, rows of an epoch, epochs between crashes.
const RUNS: [(u32, u32, Option<u32>); 3] = [(1, 8192, None), (1, 97, Some(5)), (4, 97, Some(5))];

/// What a view holds at its end, in any order, and how many rows were late on the way.
struct Expected {
    rows: Vec<Value>,
    late: u64,
}

impl From<Vec<Value>> for Expected {
    fn from(rows: Vec<Value>) -> Self {
        Self { rows, late: 0 }
    }
}

/// A view of a job over files; `inputs` are (source, file, rows of it, mapping of `tests/data`).
struct Trial<'a> {
    job: &'a str,
    inputs: &'a [(&'a str, PathBuf, usize, Option<&'a str>)],
    view: &'a str,
}

impl Trial<'_> {
    fn run(&self, (partitions, cut_rows, crash_every): (u32, u32, Option<u32>)) -> (Vec<Printed>, Report) {
        let named = |name: &str, file: PathBuf| Named { name: name.to_owned(), file };
        let args = TryArgs {
            job: own(self.job),
            input: self.inputs.iter().map(|(source, file, ..)| named(source, file.clone())).collect(),
            mapping: self.inputs.iter().filter_map(|(source, .., mapping)| Some(named(source, own((*mapping)?)))).collect(),
            output: self.view.to_owned(),
            partitions,
            cut_rows,
            crash_every,
            r#final: false,
            now: None,
            report: None,
            model: None,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut out = Vec::new();
        let report = runtime.block_on(try_job::run(args, &mut out)).unwrap();
        let rows = out.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect();
        (rows, report)
    }

    /// All runs, row by row; `expected` is asked for each number of partitions, because lateness depends on it.
    fn check(&self, runs: &[(u32, u32, Option<u32>)], expected: impl Fn(u32) -> Expected) {
        let mut recoveries = 0;
        for run in runs {
            let expected = expected(run.0);
            let (rows, report) = self.run(*run);
            let about = format!("`{}` of `{}` with (partitions, cut, crash) {run:?}: {report:?}", self.view, self.job);
            let rows_in: usize = self.inputs.iter().map(|(_, _, rows, _)| rows).sum();
            // The other views of the job have late rows of their own.
            assert_eq!(report.rows_in, rows_in as u64, "{about}");
            assert!(report.late >= expected.late, "{about}");
            assert_eq!((report.dead, report.duplicate, report.misplaced, report.rejected), (0, 0, 0, 0), "{about}");
            assert!(!expected.rows.is_empty(), "nothing to compare: {about}");
            let (got, expected) = (standing(rows, &about), sorted(&expected.rows));
            for (got, expected) in got.iter().zip(&expected) {
                assert_eq!(got, expected, "the first row that differs, of {} and {}: {about}", got.len(), expected.len());
            }
            assert_eq!(got.len(), expected.len(), "the shorter is where the longer begins: {about}");
            println!("{}: {} rows equal, {} late, {run:?}, {:.1} s", self.view, got.len(), report.late, report.seconds);
            assert!(report.recoveries == 0 || report.verified > 0, "{about}");
            assert_eq!(report.recoveries > 0, run.2.is_some(), "{about}");
            recoveries += report.recoveries;
        }
        assert!(recoveries > 0, "no run of `{}` recovered", self.view);
    }
}

/// A row as it was printed. Numbers stay text: `serde_json` reads some that are one unit in the last place away.
type Printed = BTreeMap<String, Box<RawValue>>;

/// A row as text whose columns stand in the order of their names; whatever way a float is written, it is read exactly and written the same.
fn canonical(row: &Printed) -> String {
    let value = |text: &str| match text.parse::<f64>() {
        Ok(float) if text.contains(['.', 'e', 'E']) => format!("{float:?}"),
        _ => text.to_owned(),
    };
    row.iter().map(|(column, raw)| format!("{column}: {}", value(raw.get()))).collect::<Vec<_>>().join(", ")
}

fn sorted(rows: &[Value]) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(|row| canonical(&serde_json::from_str(&row.to_string()).unwrap())).collect();
    rows.sort();
    rows
}

/// The rows that stand at the end; a row that is taken back must have stood exactly as it is taken back.
fn standing(rows: Vec<Printed>, about: &str) -> Vec<String> {
    let mut standing: BTreeMap<String, usize> = BTreeMap::new();
    for mut row in rows {
        let op = row.remove("_op").map_or("\"+I\"".to_owned(), |op| op.get().to_owned());
        let text = canonical(&row);
        if op.starts_with("\"+") {
            *standing.entry(text).or_default() += 1;
        } else {
            let count = standing.get_mut(&text).filter(|c| **c > 0).unwrap_or_else(|| panic!("{op} of `{text}`, which does not stand: {about}"));
            *count -= 1;
        }
    }
    standing.into_iter().flat_map(|(text, count)| std::iter::repeat_n(text, count)).collect()
}

fn time(us: i64) -> String {
    DateTime::from_timestamp_micros(us).unwrap().to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// `2011-01-04 10:00:00` and what may follow it, UTC.
fn parsed(text: &str) -> i64 {
    NaiveDateTime::parse_from_str(&text[..19].replace('T', " "), "%Y-%m-%d %H:%M:%S").unwrap().and_utc().timestamp_micros()
}

/// The columns of both.
fn with(mut row: Value, more: Value) -> Value {
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

fn windowed(start: i64, end: i64, row: Value) -> Value {
    with(row, json!({ "window_start": time(start), "window_end": time(end) }))
}

fn day_of(at: i64) -> i64 {
    at - at.rem_euclid(DAY_US)
}

/// Rows in another order: each stands as many places later as `delay` says of its place.
fn shaken<T: Clone>(rows: &[T], delay: impl Fn(usize) -> usize) -> Vec<T> {
    let mut placed: Vec<(usize, &T)> = rows.iter().enumerate().map(|(i, row)| (i + delay(i), row)).collect();
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, row)| row.clone()).collect()
}

/// A number below `below` that looks like chance.
fn scattered(place: usize, below: u64) -> u64 {
    ((place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % below
}

fn write<'a>(path: &Path, header: &csv::StringRecord, records: impl Iterator<Item = &'a csv::StringRecord>) {
    let mut file = csv::Writer::from_path(path).unwrap();
    file.write_record(header).unwrap();
    records.for_each(|record| file.write_record(record).unwrap());
    file.flush().unwrap();
}

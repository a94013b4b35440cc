//! The retail data through `try`, against a calculation that knows neither DataFusion nor the engine.
//!
//! A slice of the data; `scripts/retail-oracle` runs all of it.

use headend::{
    cli::{Named, TryArgs},
    try_job::{self, Report},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

const SLICE_LINES: usize = 50_000;
const SINGLE_ROW_LINES: usize = 2_000;
const DAY_US: i64 = 86_400_000_000;

/// (customer, first day of the window as microseconds) → (revenue in pence, lines); the total's customer is empty.
type Rows = BTreeMap<(String, i64), (i64, i64)>;

pub(crate) fn data(file: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::var_os("HEADEND_DATA").map_or_else(|| root.join("../shared/data"), PathBuf::from);
    let path = folder.join(file);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: `{}` is not here; HEADEND_DATA names the folder of the real data", path.display());
    None
}

pub(crate) fn own(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file)
}

pub(crate) struct Tried<'a> {
    pub job: &'a str,
    pub source: &'a str,
    pub input: &'a Path,
    pub mapping: &'a str,
    pub view: &'a str,
    pub partitions: u32,
    pub cut_rows: u32,
    pub crash_every: Option<u32>,
}

impl Tried<'_> {
    pub(crate) fn rows(&self) -> (Vec<Value>, Report) {
        let named = |file: PathBuf| vec![Named { name: self.source.to_owned(), file }];
        let args = TryArgs {
            job: own(self.job),
            input: named(self.input.to_owned()),
            mapping: named(own(self.mapping)),
            output: self.view.to_owned(),
            partitions: self.partitions,
            cut_rows: self.cut_rows,
            crash_every: self.crash_every,
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
}

/// The header and the first lines of the data, as a file.
fn head(whole: &Path, lines: usize, folder: &Path) -> PathBuf {
    let path = folder.join(format!("first-{lines}.csv"));
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    let reader = BufReader::new(flate2::read::GzDecoder::new(std::fs::File::open(whole).unwrap()));
    reader.lines().take(lines + 1).for_each(|line| writeln!(file, "{}", line.unwrap()).unwrap());
    file.flush().unwrap();
    path
}

/// A decimal as an integer of `10^-digits`.
fn scaled(text: &str, digits: usize) -> i64 {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    assert!(fraction.trim_end_matches('0').len() <= digits, "`{text}` has more than {digits} decimals");
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(digits).collect();
    let joined: i64 = format!("{}{fraction}", whole.trim_start_matches('-')).parse().unwrap();
    if whole.starts_with('-') { -joined } else { joined }
}

/// Pence, rounded half away from zero.
fn amount_minor(quantity: &str, price: &str) -> i64 {
    let tenths_of_pence = scaled(quantity, 0) * scaled(price, 3);
    tenths_of_pence.signum() * ((tenths_of_pence.abs() + 5) / 10)
}

/// What the three views hold, in the order of `VIEWS`.
fn expected(file: &Path) -> [Rows; 3] {
    let mut views: [Rows; 3] = Default::default();
    let mut reader = csv::Reader::from_path(file).unwrap();
    let header = reader.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|h| h == name).unwrap();
    let (customer, at, quantity, price) = (column("CustomerID"), column("InvoiceDate"), column("Quantity"), column("UnitPrice"));
    for record in reader.records() {
        let record = record.unwrap();
        let who = match record[customer].trim_end_matches(".0") {
            "" => "guest".to_owned(),
            id => id.to_owned(),
        };
        let date = chrono::NaiveDate::parse_from_str(&record[at][..10], "%Y-%m-%d").unwrap();
        let day = date.and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp_micros();
        let amount = amount_minor(&record[quantity], &record[price]);
        let mut add = |view: usize, who: &str, start: i64| {
            let cell = views[view].entry((who.to_owned(), start)).or_default();
            *cell = (cell.0 + amount, cell.1 + 1);
        };
        add(0, &who, day);
        (0..30).for_each(|back| add(1, &who, day - back * DAY_US));
        add(2, "", day);
    }
    views
}

const VIEWS: [&str; 3] = ["revenue_customer_day", "revenue_customer_30d", "revenue_day"];

fn got(rows: &[Value]) -> Rows {
    let mut all = Rows::new();
    for row in rows {
        let start: chrono::DateTime<chrono::Utc> = row["window_start"].as_str().unwrap().parse().unwrap();
        let key = (row["subscriber_id"].as_str().unwrap_or_default().to_owned(), start.timestamp_micros());
        let twice = all.insert(key, (row["revenue_minor"].as_i64().unwrap(), row["lines"].as_i64().unwrap()));
        assert!(twice.is_none(), "{row} stands twice");
    }
    all
}

/// Every view, with 1 and 4 partitions, straight and crashed; returns how many epochs recoveries compared.
fn check(file: &Path, lines: usize, cut_rows: u32) -> u64 {
    let expected = expected(file);
    let mut verified = 0;
    for (partitions, crash_every) in [(1, None), (4, None), (1, Some(50)), (4, Some(50))] {
        for (view, expected) in VIEWS.iter().zip(&expected) {
            let tried = Tried { job: "retail.sql", source: "payment", input: file, mapping: "retail-mapping.sql", view, partitions, cut_rows, crash_every };
            let (rows, report) = tried.rows();
            let run = format!("{view}, {partitions} partitions, cut {cut_rows}, crash {crash_every:?}: {report:?}");
            assert_eq!((report.rows_in, report.dead, report.late, report.duplicate), (lines as u64, 0, 0, 0), "{run}");
            let got = got(&rows);
            assert_eq!(got.len(), expected.len(), "{run}");
            for (key, value) in expected {
                assert_eq!(got.get(key), Some(value), "{key:?} of {run}");
            }
            assert!(report.recoveries == 0 || report.verified > 0, "{run}");
            assert!(crash_every.is_some() || report.recoveries == 0, "{run}");
            verified += report.verified;
        }
    }
    verified
}

#[test]
fn revenue_equals_a_plain_calculation_for_every_cut_partition_and_crash() {
    let Some(whole) = data("retail/online_retail.csv.gz") else { return };
    let folder = tempfile::tempdir().unwrap();
    let slice = head(&whole, SLICE_LINES, folder.path());
    assert!(check(&slice, SLICE_LINES, 97) > 0, "crashes every 50 epochs compared nothing");
    check(&slice, SLICE_LINES, 8192);
}

#[test]
fn revenue_is_the_same_when_every_row_is_an_epoch_of_its_own() {
    let Some(whole) = data("retail/online_retail.csv.gz") else { return };
    let folder = tempfile::tempdir().unwrap();
    let slice = head(&whole, SINGLE_ROW_LINES, folder.path());
    assert!(check(&slice, SINGLE_ROW_LINES, 1) > 0, "crashes every 50 epochs compared nothing");
}

#[test]
fn amounts_are_rounded_half_away_from_zero() {
    assert_eq!(amount_minor("3", "0.85"), 255);
    assert_eq!(amount_minor("1", "0.125"), 13);
    assert_eq!(amount_minor("-1", "0.125"), -13);
    assert_eq!(amount_minor("-12", "-11062.06"), 13_274_472);
}

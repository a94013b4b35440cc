//! Visits, best customers, countries, distinct customers and what invoices are worth.

use super::*;

const BOUND_US: i64 = HOUR_US;
const HEAD_LINES: usize = 10_000;
/// Every so many customers, and invoices of guests, are in the slice of the whole year.
const YEAR_SHARE: u64 = 40;

#[derive(Clone)]
struct Line {
    record: csv::StringRecord,
    customer: String,
    at: i64,
    minor: i64,
    invoice: String,
    country: String,
}

impl Line {
    fn refunded(&self) -> bool {
        self.invoice.starts_with('C')
    }

    fn guest(&self) -> bool {
        self.customer == "guest"
    }
}

/// A decimal as thousandths.
fn thousandths(text: &str) -> i64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: i64 = format!("{}{fraction:0<3}", whole.trim_start_matches('-')).parse().unwrap();
    assert!(fraction.len() <= 3, "`{text}` has more than three decimals");
    if whole.starts_with('-') { -digits } else { digits }
}

fn line(record: csv::StringRecord, column: &HashMap<String, usize>) -> Line {
    let field = |name: &str| &record[column[name]];
    let customer = match field("CustomerID").trim_end_matches(".0") {
        "" => "guest".to_owned(),
        id => id.to_owned(),
    };
    let tenths_of_pence: i64 = field("Quantity").parse::<i64>().unwrap() * thousandths(field("UnitPrice"));
    let minor = tenths_of_pence.signum() * ((tenths_of_pence.abs() + 5) / 10);
    let (at, invoice, country) = (parsed(field("InvoiceDate")), field("InvoiceNo").to_owned(), field("Country").to_owned());
    Line { customer, at, minor, invoice, country, record }
}

fn read(whole: &Path) -> (csv::StringRecord, Vec<Line>) {
    let mut reader = csv::Reader::from_reader(flate2::read::GzDecoder::new(std::fs::File::open(whole).unwrap()));
    let header = reader.headers().unwrap().clone();
    let column: HashMap<String, usize> = header.iter().enumerate().map(|(i, name)| (name.to_owned(), i)).collect();
    let lines = reader.records().map(|record| line(record.unwrap(), &column)).collect();
    (header, lines)
}

/// The whole history of some customers.
fn some_customers(lines: &[Line]) -> Vec<Line> {
    let number = |text: &str| text.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap();
    let kept = |l: &&Line| number(if l.guest() { &l.invoice } else { &l.customer }) % YEAR_SHARE == 0;
    lines.iter().filter(kept).cloned().collect()
}

/// Some lines stand a little later than in the file, some by hours, some by days, and some after all of their windows.
fn delay(lines: &[Line]) -> impl Fn(usize) -> usize {
    let of_day = lines.len() / distinct(lines.iter().map(|l| day_of(l.at)));
    move |place| match scattered(place, 101) {
        0..=9 => 1 + of_day / 100,
        10 => 1 + of_day / 10,
        11 => of_day * 2,
        12 => of_day * 35,
        _ => 0,
    }
}

fn log(lines: &[Line], partitions: u32) -> Vec<Seen<'_, Line>> {
    seen(lines, partitions, BOUND_US, |l| format!("retail|{}", l.customer), |l| l.at)
}

fn sum<'a>(rows: &[Seen<'a, Line>]) -> i64 {
    rows.iter().map(|s| s.row.minor).sum()
}

fn visit_sessions(lines: &[Line], partitions: u32) -> (Vec<Session<'_, String, Line>>, u64) {
    sessions(log(lines, partitions).into_iter().filter(|s| !s.row.guest()), 30 * MINUTE_US, |l| l.customer.clone())
}

fn invoices(rows: &[Seen<'_, Line>]) -> usize {
    distinct(rows.iter().map(|s| &s.row.invoice))
}

fn visit(lines: &[Line], partitions: u32) -> Expected {
    let (visits, late) = visit_sessions(lines, partitions);
    let row = |v: Session<'_, String, Line>| {
        let fields = json!({
            "tenant": "retail", "subscriber_id": v.key, "lines": v.rows.len(), "invoices": invoices(&v.rows), "revenue_minor": sum(&v.rows),
            "refunded": v.rows.iter().filter(|s| s.row.refunded()).count(),
            "first_invoice": first_in_log(&v.rows, lines).invoice, "dearest_minor": v.rows.iter().map(|s| s.row.minor).max(),
        });
        windowed(v.start, v.end, fields)
    };
    Expected { rows: visits.into_iter().map(row).collect(), late }
}

/// The first by event time; of equal ones the first in the log. A merged session has its rows in another order.
fn first_in_log<'a>(rows: &[Seen<'a, Line>], log: &[Line]) -> &'a Line {
    let place = |line: &Line| (std::ptr::from_ref(line) as usize - log.as_ptr() as usize) / size_of::<Line>();
    rows.iter().min_by_key(|s| (s.at, place(s.row))).unwrap().row
}

fn visits_day(lines: &[Line], partitions: u32) -> Expected {
    let (visits, late) = visit_sessions(lines, partitions);
    let (days, _) = windows(emitted(&visits, |v| v.end - 1), DAY_US, DAY_US, |_| ());
    let row = |((_, start), of_day): (_, Vec<Seen<'_, Session<'_, String, Line>>>)| {
        let fields = json!({
            "tenant": "retail", "visits": of_day.len(), "lines": of_day.iter().map(|v| v.row.rows.len()).sum::<usize>(),
            "revenue_minor": of_day.iter().map(|v| sum(&v.row.rows)).sum::<i64>(),
            "invoices_most": of_day.iter().map(|v| invoices(&v.row.rows)).max(),
        });
        windowed(start, start + DAY_US, fields)
    };
    Expected { rows: days.into_iter().map(row).collect(), late }
}

fn best_customers_day(lines: &[Line], partitions: u32) -> Expected {
    let (days, late) = windows(log(lines, partitions).into_iter().filter(|s| !s.row.guest()), DAY_US, DAY_US, |l| l.customer.clone());
    let mut by_day: BTreeMap<i64, Vec<(i64, String, usize)>> = BTreeMap::new();
    days.into_iter().for_each(|((customer, start), rows)| by_day.entry(start).or_default().push((-sum(&rows), customer, rows.len())));
    let best = |(start, mut customers): (i64, Vec<(i64, String, usize)>)| {
        customers.sort();
        let row = move |(i, (minus, customer, lines)): (usize, (i64, String, usize))| {
            let fields = json!({ "tenant": "retail", "place": i + 1, "subscriber_id": customer, "revenue_minor": -minus, "lines": lines });
            windowed(start, start + DAY_US, fields)
        };
        customers.into_iter().take(10).enumerate().map(row)
    };
    Expected { rows: by_day.into_iter().flat_map(best).collect(), late }
}

fn invoice_opened(lines: &[Line]) -> Expected {
    let mut opened: BTreeMap<(&str, &str), &Line> = BTreeMap::new();
    for line in lines {
        let first = opened.entry((&line.customer, &line.invoice)).or_insert(line);
        if line.at < first.at {
            *first = line;
        }
    }
    let row = |l: &Line| json!({ "tenant": "retail", "subscriber_id": l.customer, "invoice_id": l.invoice, "event_time": time(l.at), "amount_minor": l.minor });
    opened.into_values().map(row).collect::<Vec<_>>().into()
}

/// A row of the table: from when, continent, tax.
type Country = (i64, Value, Value);

/// The rows of the table by country, the newest last.
fn countries() -> BTreeMap<String, Vec<Country>> {
    let mut countries: BTreeMap<String, Vec<Country>> = BTreeMap::new();
    for line in std::fs::read_to_string(own("countries.jsonl")).unwrap().lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let versions = countries.entry(row["country"].as_str().unwrap().to_owned()).or_default();
        versions.push((parsed(row["event_time"].as_str().unwrap()), row["continent"].clone(), row["vat_permille"].clone()));
    }
    countries.values_mut().for_each(|versions| versions.sort_by_key(|v| v.0));
    countries
}

/// Continent and tax of a country at a time.
fn place_at(countries: &BTreeMap<String, Vec<Country>>, country: &str, at: i64) -> (Value, Value) {
    let version = countries.get(country).and_then(|versions| versions.iter().rfind(|v| v.0 <= at));
    version.map_or((Value::Null, Value::Null), |(_, continent, vat)| (continent.clone(), vat.clone()))
}

fn customer_place(lines: &[Line]) -> Expected {
    let countries = countries();
    let mut customers: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    lines.iter().for_each(|l| customers.entry(&l.customer).or_default().push(l));
    let row = |(customer, lines): (&str, Vec<&Line>)| {
        let newest = lines.iter().max_by_key(|l| l.at).unwrap();
        let (continent, vat) = place_at(&countries, &newest.country, i64::MAX);
        let revenue: i64 = lines.iter().map(|l| l.minor).sum();
        json!({
            "tenant": "retail", "subscriber_id": customer, "country": newest.country, "revenue_minor": revenue, "lines": lines.len(),
            "continent": continent, "vat_permille": vat,
        })
    };
    customers.into_iter().map(row).collect::<Vec<_>>().into()
}

fn line_vat(lines: &[Line]) -> Expected {
    let countries = countries();
    let row = |l: &Line| {
        let (continent, vat) = place_at(&countries, &l.country, l.at);
        json!({
            "tenant": "retail", "subscriber_id": l.customer, "event_time": time(l.at), "invoice_id": l.invoice, "amount_minor": l.minor,
            "continent": continent, "vat_permille": vat,
        })
    };
    lines.iter().map(row).collect::<Vec<_>>().into()
}

fn customers_30d(lines: &[Line], partitions: u32) -> Expected {
    let (days, late) = windows(log(lines, partitions).into_iter().filter(|s| !s.row.guest()), DAY_US, 30 * DAY_US, |_| ());
    let row = |((_, start), rows): (_, Vec<Seen<'_, Line>>)| {
        let fields = json!({
            "customers": distinct(rows.iter().map(|s| &s.row.customer)), "countries": distinct(rows.iter().map(|s| &s.row.country)),
            "lines": rows.len(),
        });
        windowed(start, start + 30 * DAY_US, fields)
    };
    Expected { rows: days.into_iter().map(row).collect(), late }
}

fn invoice_value_day(lines: &[Line], partitions: u32) -> Expected {
    let key = |l: &Line| (l.customer.clone(), l.invoice.clone());
    let (invoices, late) = windows(log(lines, partitions).into_iter().filter(|s| !s.row.refunded()), DAY_US, DAY_US, key);
    let mut days: BTreeMap<i64, Vec<(String, f64)>> = BTreeMap::new();
    invoices.into_iter().for_each(|(((customer, _), start), rows)| days.entry(start).or_default().push((customer, sum(&rows) as f64)));
    let row = |(start, invoices): (i64, Vec<(String, f64)>)| {
        let values = || invoices.iter().map(|(_, value)| *value);
        let fields = json!({
            "tenant": "retail", "invoices": invoices.len(), "customers": distinct(invoices.iter().map(|(customer, _)| customer)),
            "median_minor": median(values()), "p95_minor": percentile(0.95, values()),
        });
        windowed(start, start + DAY_US, fields)
    };
    Expected { rows: days.into_iter().map(row).collect(), late }
}

fn line_value_day(lines: &[Line], partitions: u32) -> Expected {
    let (days, late) = windows(log(lines, partitions).into_iter().filter(|s| !s.row.refunded()), DAY_US, DAY_US, |_| ());
    let row = |((_, start), rows): (_, Vec<Seen<'_, Line>>)| {
        let values = || rows.iter().map(|s| s.row.minor as f64);
        let fields = json!({ "tenant": "retail", "lines": rows.len(), "median_minor": median(values()), "p95_minor": percentile(0.95, values()) });
        windowed(start, start + DAY_US, fields)
    };
    Expected { rows: days.into_iter().map(row).collect(), late }
}

#[derive(Clone, Copy, PartialEq)]
enum Slice {
    /// The first days with all their customers.
    Days,
    /// Some customers over the whole year.
    Year,
    Whole,
}

/// The view over the slice as it stands in the file; then, unless that is not wanted, out of order.
fn check(slice: Slice, view: &str, with_countries: bool, expected: impl Fn(&[Line], u32) -> Expected) {
    let Some(whole) = data("retail/online_retail.csv.gz") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (header, all) = read(&whole);
    let lines = match slice {
        Slice::Days => all[..HEAD_LINES].to_vec(),
        Slice::Year => some_customers(&all),
        Slice::Whole => all,
    };
    for (name, lines) in [("in-order", lines.clone()), ("shaken", shaken(&lines, delay(&lines)))] {
        let path = folder.path().join(format!("{name}.csv"));
        write(&path, &header, lines.iter().map(|l| &l.record));
        let mut inputs = vec![("payment", path, lines.len(), Some("retail-visits-mapping.sql"))];
        if with_countries {
            let rows = countries().values().map(Vec::len).sum();
            inputs.push(("countries", own("countries.jsonl"), rows, None));
        }
        let runs: &[_] = if slice == Slice::Whole { &[(4, 8192, Some(5))] } else { &RUNS };
        Trial { job: "retail-visits.sql", inputs: &inputs, view }.check(runs, |partitions| expected(&lines, partitions));
    }
}

#[test]
fn visits_of_customers_are_sessions_of_half_an_hour() {
    check(Slice::Days, "visit", false, visit);
    check(Slice::Year, "visit", false, visit);
}

#[test]
fn visits_are_added_up_by_the_day_on_which_they_ended() {
    check(Slice::Year, "visits_day", false, visits_day);
}

#[test]
fn the_ten_best_customers_of_a_day_come_when_it_closes() {
    check(Slice::Days, "best_customers_day", false, best_customers_day);
}

#[test]
fn an_invoice_is_opened_by_its_first_line() {
    check(Slice::Days, "invoice_opened", false, |lines, _| invoice_opened(lines));
}

#[test]
fn a_customer_is_placed_by_the_table_of_countries() {
    check(Slice::Year, "customer_place", true, |lines, _| customer_place(lines));
}

#[test]
fn a_line_has_the_tax_that_held_when_it_was_sold() {
    check(Slice::Year, "line_vat", true, |lines, _| line_vat(lines));
}

#[test]
fn customers_of_thirty_days_are_counted_once() {
    check(Slice::Year, "customers_30d", false, customers_30d);
}

#[test]
fn the_median_and_the_95th_percentile_of_invoices_are_those_of_all_of_a_day() {
    check(Slice::Days, "invoice_value_day", false, invoice_value_day);
    check(Slice::Year, "invoice_value_day", false, invoice_value_day);
}

#[test]
fn the_percentiles_of_lines_are_those_of_all_tasks_together() {
    check(Slice::Year, "line_value_day", false, line_value_day);
}

#[test]
#[ignore = "minutes: the whole data, every view"]
fn whole_data_of_a_year_of_retail() {
    check(Slice::Whole, "visit", false, visit);
    check(Slice::Whole, "visits_day", false, visits_day);
    check(Slice::Whole, "best_customers_day", false, best_customers_day);
    check(Slice::Whole, "invoice_opened", false, |lines, _| invoice_opened(lines));
    check(Slice::Whole, "customer_place", true, |lines, _| customer_place(lines));
    check(Slice::Whole, "line_vat", true, |lines, _| line_vat(lines));
    check(Slice::Whole, "customers_30d", false, customers_30d);
    check(Slice::Whole, "invoice_value_day", false, invoice_value_day);
    check(Slice::Whole, "line_value_day", false, line_value_day);
}

#[test]
fn amounts_are_rounded_half_away_from_zero() {
    assert_eq!((thousandths("0.85"), thousandths("-11062.06"), thousandths("3")), (850, -11_062_060, 3_000));
}

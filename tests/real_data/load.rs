//! A series of one key by the hour: spells, busiest hours, distinct days and hours, percentiles.

use super::*;

#[derive(Clone)]
struct Hour {
    record: csv::StringRecord,
    at: i64,
    bytes: i64,
    flows: i64,
    duration: f64,
}

type Rows<'a, 'b> = &'b [Seen<'a, Hour>];

fn records(file: &Path) -> Vec<csv::StringRecord> {
    csv::Reader::from_path(file).unwrap().records().map(Result::unwrap).collect()
}

/// The hours of the log, of which there is one key.
fn log(hours: &[Hour]) -> Vec<Seen<'_, Hour>> {
    seen(hours, 1, 5_000_000, |_| String::new(), |h| h.at)
}

/// Spells of hours whose load is at least `least`.
fn spells(hours: &[Seen<'_, Hour>], least: i64, row: impl Fn(Rows<'_, '_>) -> Value) -> Expected {
    let (spells, late) = sessions(hours.iter().copied().filter(|s| s.row.bytes >= least), 2 * HOUR_US, |_| ());
    Expected { rows: spells.iter().map(|s| windowed(s.start, s.end, row(&s.rows))).collect(), late }
}

/// Windows of so many days that slide by a day.
fn sliding(hours: &[Seen<'_, Hour>], days: i64, row: impl Fn(Rows<'_, '_>) -> Value) -> Expected {
    let (windows, late) = windows(hours.iter().copied(), DAY_US, days * DAY_US, |_| ());
    Expected { rows: windows.iter().map(|((_, start), rows)| windowed(*start, start + days * DAY_US, row(rows))).collect(), late }
}

/// The three busiest hours of each day.
fn busiest(hours: &[Seen<'_, Hour>], row: impl Fn(usize, &Hour) -> Value) -> Expected {
    let mut days: BTreeMap<i64, Vec<&Hour>> = BTreeMap::new();
    hours.iter().for_each(|s| days.entry(day_of(s.row.at)).or_default().push(s.row));
    days.values_mut().for_each(|day| day.sort_by_key(|h| (-h.bytes, h.at)));
    days.values().flat_map(|day| day.iter().take(3).enumerate().map(|(i, h)| row(i + 1, h))).collect::<Vec<_>>().into()
}

fn bytes(rows: Rows<'_, '_>) -> Vec<f64> {
    rows.iter().map(|s| s.row.bytes as f64).collect()
}

fn total(rows: Rows<'_, '_>) -> i64 {
    rows.iter().map(|s| s.row.bytes).sum()
}

fn peak(rows: Rows<'_, '_>) -> Option<i64> {
    rows.iter().map(|s| s.row.bytes).max()
}

/// Neighbours change places, which joins spells that stood apart; some hours come when a spell or all of their windows are over.
fn delay(place: usize) -> usize {
    match scattered(place, 31) {
        0..=7 => 1,
        8..=9 => 2,
        10 => 3,
        11 => 40,
        12 => 200,
        _ => 0,
    }
}

/// Hands the series to `check` with a file of it, as it is and out of order.
fn in_two_orders(header: &[&str], hours: &[Hour], check: impl Fn(&Path, &[Hour])) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hours.csv");
    for hours in [hours.to_vec(), shaken(hours, delay)] {
        write(&path, &header.to_vec().into(), hours.iter().map(|h| &h.record));
        check(&path, &hours);
    }
}

const HIGH_LOAD: i64 = 8_500_000_000;

#[test]
fn load_of_a_transatlantic_link_equals_a_naive_model() {
    let Some(file) = data("isp-link/internet-traffic-hourly.csv") else { return };
    let header = csv::Reader::from_path(&file).unwrap().headers().unwrap().clone();
    let hour = |record: csv::StringRecord| {
        let (at, bits) = (parsed(&record[0]), record[1].parse::<f64>().unwrap());
        Hour { record, at, bytes: (bits / 8.0).round() as i64, flows: 0, duration: 0.0 }
    };
    let hours: Vec<Hour> = records(&file).into_iter().map(hour).collect();
    in_two_orders(&header.iter().collect::<Vec<_>>(), &hours, check_isp_link);
}

fn check_isp_link(file: &Path, hours: &[Hour]) {
    let inputs = [("usage", file.to_owned(), hours.len(), Some("isp-link-mapping.sql"))];
    // A row of the hour's own window, which is emitted on close: its time is the last microsecond of the hour.
    let (closed, late) = windows(log(hours), HOUR_US, HOUR_US, |_| ());
    let closed: Vec<Seen<'_, Hour>> = closed.into_values().map(|one| Seen { at: one[0].at + HOUR_US - 1, watermark: i64::MIN, ..one[0] }).collect();
    let check = |view, expected: Expected| {
        let expected = Expected { late, ..expected };
        Trial { job: "isp-link-load.sql", inputs: &inputs, view }.check(&RUNS[1..], |_| Expected { rows: expected.rows.clone(), ..expected });
    };
    let of = |row: Value| with(json!({ "tenant": "isp", "region": "transatlantic" }), row);
    check("high_load", spells(&closed, HIGH_LOAD, |r| of(json!({ "hours": r.len(), "peak_bytes": peak(r), "bytes": total(r) }))));
    let place = |place, h: &Hour| of(json!({ "day": time(day_of(h.at)), "place": place, "hour": time(h.at), "bytes": h.bytes }));
    check("busiest_hours", busiest(&closed, place));
    let high_days = |r: Rows<'_, '_>| {
        let high = r.iter().filter(|s| s.row.bytes >= HIGH_LOAD).map(|s| day_of(s.row.at));
        of(json!({ "days": distinct(r.iter().map(|s| day_of(s.row.at))), "high_days": distinct(high) }))
    };
    check("high_days_7d", sliding(&closed, 7, high_days));
    let billed = |r: Rows<'_, '_>| of(json!({ "hours": r.len(), "median_bytes": median(bytes(r)), "p95_bytes": percentile(0.95, bytes(r)) }));
    check("billed_7d", sliding(&closed, 7, billed));
}

const BUSY: i64 = 3_650_000_000;

#[test]
fn load_of_an_address_of_a_research_network_equals_a_naive_model() {
    let (Some(series), Some(times)) = (data("cesnet/ip103.csv"), data("cesnet/times_1_hour.csv")) else { return };
    let times: HashMap<String, String> = records(&times).iter().map(|r| (r[0].to_owned(), r[1].to_owned())).collect();
    let hour = |r: &csv::StringRecord| {
        let record: csv::StringRecord = vec![times[&r[0]].as_str(), &r[1], &r[3], &r[17]].into();
        Hour { at: parsed(&record[0]), flows: r[1].parse().unwrap(), bytes: r[3].parse().unwrap(), duration: r[17].parse().unwrap(), record }
    };
    let hours: Vec<Hour> = records(&series).iter().map(hour).collect();
    in_two_orders(&["time", "n_flows", "n_bytes", "avg_duration"], &hours, check_cesnet);
}

fn check_cesnet(file: &Path, hours: &[Hour]) {
    let inputs = [("usage", file.to_owned(), hours.len(), Some("cesnet-load-mapping.sql"))];
    let log = log(hours);
    let check = |view, expected: Expected| {
        Trial { job: "cesnet-load.sql", inputs: &inputs, view }.check(&RUNS[1..], |_| Expected { rows: expected.rows.clone(), ..expected });
    };
    let of = |row: Value| with(json!({ "tenant": "cesnet", "subscriber_id": "ip103" }), row);
    let spell = |r: Rows<'_, '_>| {
        let flows: i64 = r.iter().map(|s| s.row.flows).sum();
        of(json!({ "hours": r.len(), "peak_bytes": peak(r), "bytes": total(r), "flows": flows }))
    };
    check("busy_spell", spells(&log, BUSY, spell));
    check("recorded", spells(&log, 0, |r| of(json!({ "hours": r.len() }))));
    let place = |place, h: &Hour| of(json!({ "day": time(day_of(h.at)), "place": place, "event_time": time(h.at), "bytes_down": h.bytes, "flows": h.flows }));
    check("busiest_hours", busiest(&log, place));
    let busy_hours = |r: Rows<'_, '_>| {
        let busy = r.iter().filter(|s| s.row.bytes >= BUSY).map(|s| s.at.rem_euclid(DAY_US) / HOUR_US);
        of(json!({ "days": distinct(r.iter().map(|s| day_of(s.at))), "busy_hours_of_day": distinct(busy) }))
    };
    check("busy_hours_of_day_28d", sliding(&log, 28, busy_hours));
    let load = |r: Rows<'_, '_>| {
        let median_duration = median(r.iter().map(|s| s.row.duration));
        of(json!({ "hours": r.len(), "median_bytes": median(bytes(r)), "p95_bytes": percentile(0.95, bytes(r)), "median_duration": median_duration }))
    };
    check("load_7d", sliding(&log, 7, load));
}

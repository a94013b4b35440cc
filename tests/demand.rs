//! Load and demand factor of real series by the hour, against a direct computation.

use super::retail::{Tried, data};
use std::{collections::HashMap, io::Write, path::Path};

/// Hours of 28 days, as `tests/data/isp-link.sql` says.
const HISTORY_HOURS: usize = 672;

fn records(file: &Path) -> Vec<csv::StringRecord> {
    csv::Reader::from_path(file).unwrap().records().map(Result::unwrap).collect()
}

/// The share of the hours before that were not busier, rounded to 1e-6; nothing for the first hour.
fn demand(bytes: &[i64]) -> Vec<Option<f64>> {
    let rank = |i: usize| {
        let before = &bytes[i.saturating_sub(HISTORY_HOURS)..i];
        let not_busier = before.iter().filter(|b| **b <= bytes[i]).count();
        (i > 0).then(|| (not_busier as f64 / before.len() as f64 * 1e6).round() / 1e6)
    };
    (0..bytes.len()).map(rank).collect()
}

fn check(file: &Path, mapping: &str, hours: &[(String, i64)]) {
    let bytes: Vec<i64> = hours.iter().map(|(_, b)| *b).collect();
    let demand = demand(&bytes);
    for (partitions, cut_rows, crash_every) in [(1, 8192, None), (4, 97, Some(5))] {
        let tried = Tried { job: "isp-link.sql", source: "usage", input: file, mapping, view: "demand_factor", partitions, cut_rows, crash_every };
        let (rows, report) = tried.rows();
        assert_eq!((report.rows_in, report.dead, report.late), (hours.len() as u64, 0, 0), "{report:?}");
        assert_eq!(rows.len(), hours.len());
        assert!(crash_every.is_none() || report.verified > 0, "{report:?}");
        for (row, ((hour, bytes), demand)) in rows.iter().zip(hours.iter().zip(&demand)) {
            assert_eq!((row["window_start"].as_str(), row["bytes"].as_i64()), (Some(hour.as_str()), Some(*bytes)), "{row}");
            assert_eq!(row["demand"].as_f64(), *demand, "{row}");
        }
    }
}

/// `2005-06-07 07:00:00` and what may follow it as the start of an hour in RFC 3339.
fn hour(text: &str) -> String {
    format!("{}T{}Z", &text[..10], &text[11..19])
}

#[test]
fn demand_of_a_transatlantic_link_equals_a_direct_computation() {
    let Some(file) = data("isp-link/internet-traffic-hourly.csv") else { return };
    let bits = |r: &csv::StringRecord| r[1].parse::<f64>().unwrap();
    let hours: Vec<_> = records(&file).iter().map(|r| (hour(&r[0]), (bits(r) / 8.0).round() as i64)).collect();
    assert_eq!(hours.len(), 1_231);
    check(&file, "isp-link-mapping.sql", &hours);
}

#[test]
fn demand_of_an_address_of_a_research_network_equals_a_direct_computation() {
    let (Some(series), Some(times)) = (data("cesnet/ip103.csv"), data("cesnet/times_1_hour.csv")) else { return };
    let times: HashMap<String, String> = records(&times).iter().map(|r| (r[0].to_owned(), r[1].to_owned())).collect();
    let joined: Vec<_> = records(&series).iter().map(|r| (times[&r[0]].clone(), r[3].parse::<i64>().unwrap())).collect();
    assert_eq!(joined.len(), 6_717);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("joined.csv");
    let mut file = std::fs::File::create(&path).unwrap();
    writeln!(file, "time,n_bytes").unwrap();
    joined.iter().for_each(|(time, bytes)| writeln!(file, "{time},{bytes}").unwrap());
    let hours: Vec<_> = joined.iter().map(|(time, bytes)| (hour(time), *bytes)).collect();
    check(&path, "cesnet-mapping.sql", &hours);
}

//! Windows and sessions as their definitions say: row by row, each row kept by the groups it belongs to.

use schemas::partition::partition_of;
use std::collections::{BTreeMap, BTreeSet};

/// A row of the log, its time, and the watermark of its partition just before it.
pub(super) struct Seen<'a, R> {
    pub row: &'a R,
    pub at: i64,
    pub watermark: i64,
}

impl<R> Clone for Seen<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Seen<'_, R> {}

/// Rows in the order of the log; `key` is the record's.
pub(super) fn seen<'a, R>(rows: &'a [R], partitions: u32, bound: i64, key: impl Fn(&R) -> String, at: impl Fn(&R) -> i64) -> Vec<Seen<'a, R>> {
    let mut watermarks = vec![i64::MIN; partitions as usize];
    let one = |row: &'a R| {
        let (watermark, at) = (&mut watermarks[partition_of(key(row).as_bytes(), partitions) as usize], at(row));
        let before = *watermark;
        *watermark = before.max(at - bound);
        Seen { row, at, watermark: before }
    };
    rows.iter().map(one).collect()
}

/// Rows of a view that is emitted on window close: none is late.
pub(super) fn emitted<R>(rows: &[R], at: impl Fn(&R) -> i64) -> Vec<Seen<'_, R>> {
    rows.iter().map(|row| Seen { row, at: at(row), watermark: i64::MIN }).collect()
}

/// The rows of each (key, window's start), in the order of the log, and how many rows were late for all their windows.
pub(super) type Windows<'a, K, R> = (BTreeMap<(K, i64), Vec<Seen<'a, R>>>, u64);

pub(super) fn windows<'a, K: Ord, R>(rows: impl IntoIterator<Item = Seen<'a, R>>, slide: i64, size: i64, key: impl Fn(&R) -> K) -> Windows<'a, K, R> {
    let (mut windows, mut late) = (BTreeMap::<(K, i64), Vec<Seen<'_, R>>>::new(), 0);
    for seen in rows {
        let last = seen.at - seen.at.rem_euclid(slide);
        let starts = (0..).map(|back| last - back * slide).take_while(|start| *start > seen.at - size);
        let open: Vec<i64> = starts.filter(|start| seen.watermark < start + size).collect();
        late += u64::from(open.is_empty());
        open.into_iter().for_each(|start| windows.entry((key(seen.row), start)).or_default().push(seen));
    }
    (windows, late)
}

pub(super) struct Session<'a, K, R> {
    pub key: K,
    pub start: i64,
    pub end: i64,
    pub rows: Vec<Seen<'a, R>>,
}

/// All sessions and how many rows were late: those that touch no open session and whose own would have ended.
pub(super) fn sessions<'a, K: Ord + Clone, R>(rows: impl IntoIterator<Item = Seen<'a, R>>, gap: i64, key: impl Fn(&R) -> K) -> (Vec<Session<'a, K, R>>, u64) {
    let (mut by_key, mut late) = (BTreeMap::<K, Vec<Session<'_, K, R>>>::new(), 0);
    for seen in rows {
        let all = by_key.entry(key(seen.row)).or_default();
        let touches = |s: &Session<'_, K, R>| s.end > seen.watermark && seen.at < s.end && s.start < seen.at + gap;
        let (touched, apart): (Vec<_>, Vec<_>) = std::mem::take(all).into_iter().partition(touches);
        *all = apart;
        if touched.is_empty() && seen.at + gap <= seen.watermark {
            late += 1;
            continue;
        }
        let (watermark, at) = (seen.watermark, seen.at);
        let mut merged = Session { key: key(seen.row), start: at, end: at + gap, rows: Vec::new() };
        for session in touched {
            (merged.start, merged.end) = (merged.start.min(session.start), merged.end.max(session.end));
            merged.rows.extend(session.rows);
        }
        debug_assert!(merged.end > watermark);
        merged.rows.push(seen);
        all.push(merged);
    }
    (by_key.into_values().flatten().collect(), late)
}

/// A percentile as `percentile_cont` of DataFusion defines it: between two values by a weight that is cut to millionths.
pub(super) fn percentile(share: f64, values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = share * (values.len() - 1) as f64;
    let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
    low + (high - low) * (((at - at.floor()) * 1e6) as u64 as f64 / 1e6)
}

pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[half - 1] + values[half]) / 2.0 } else { values[half] }
}

pub(super) fn distinct<T: Ord>(values: impl IntoIterator<Item = T>) -> usize {
    values.into_iter().collect::<BTreeSet<T>>().len()
}

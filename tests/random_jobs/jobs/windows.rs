//! Which windows a row stands in, and for which of them it came too late: decided row by row.

use super::{expression::Fields, job::*, model::Row, value::Value};
use std::collections::BTreeMap;

pub type Bounds = (i64, i64);

/// All windows `[start, end)` that hold `time`; sessions are none of these.
pub fn windows_of(kind: WindowKind, time: i64) -> Vec<Bounds> {
    match kind {
        WindowKind::Tumble { size, offset } => windows_of(WindowKind::Hop { slide: size, size, offset }, time),
        WindowKind::Hop { slide, size, offset } => {
            let mut start = (time - offset).div_euclid(slide) * slide + offset;
            let mut windows = Vec::new();
            while start + size > time {
                windows.push((start, start + size));
                start -= slide;
            }
            windows
        }
        WindowKind::Cumulate { step, size, offset } => {
            let base = (time - offset).div_euclid(size) * size + offset;
            (1..=size / step).map(|k| (base, base + k * step)).filter(|(_, end)| *end > time).collect()
        }
        WindowKind::Session { .. } => Vec::new(),
    }
}

/// The rows of each window of each key; within a window in log order.
pub type Windowed<'a> = BTreeMap<(Vec<String>, Bounds), Vec<&'a Row>>;

/// A row that corrects a window that its own partition has passed.
pub struct Correction<'a> {
    pub key: Vec<String>,
    pub bounds: Bounds,
    pub row: &'a Row,
}

pub struct Assigned<'a> {
    pub on_time: Windowed<'a>,
    /// In log order.
    pub corrections: Vec<Correction<'a>>,
    /// Rows that count in no window.
    pub late: u64,
}

pub fn key_of(keys: &[String], fields: &Fields) -> Vec<String> {
    keys.iter().map(|k| fields[k].key()).collect()
}

pub fn assign<'a>(kind: WindowKind, keys: &[String], rows: &[&'a Row], allowed_us: Option<i64>) -> Assigned<'a> {
    if let WindowKind::Session { gap } = kind {
        return sessions(gap, keys, rows);
    }
    let mut assigned = Assigned { on_time: BTreeMap::new(), corrections: Vec::new(), late: 0 };
    for row in rows {
        let key = key_of(keys, &row.fields);
        let mut counts = false;
        for bounds in windows_of(kind, row.time) {
            if row.before < bounds.1 {
                assigned.on_time.entry((key.clone(), bounds)).or_default().push(row);
            } else if row.before < bounds.1 + allowed_us.unwrap_or(0) {
                assigned.corrections.push(Correction { key: key.clone(), bounds, row });
            } else {
                continue;
            }
            counts = true;
        }
        assigned.late += u64::from(!counts);
    }
    assigned
}

/// Rows less than `gap` apart are one session; a row touches no session that has ended by its own partition's watermark.
fn sessions<'a>(gap: i64, keys: &[String], rows: &[&'a Row]) -> Assigned<'a> {
    let mut late = 0;
    let mut all: Vec<(Vec<String>, Bounds, Vec<&'a Row>)> = Vec::new();
    for row in rows {
        let key = key_of(keys, &row.fields);
        let mut own = (row.time, row.time + gap);
        let mut touched = Vec::new();
        // A merged session is longer and may touch another one.
        while let Some(at) = all
            .iter()
            .enumerate()
            .position(|(at, (k, bounds, _))| *k == key && bounds.1 > row.before && !touched.contains(&at) && own.0 < bounds.1 && bounds.0 < own.1)
        {
            own = (own.0.min(all[at].1.0), own.1.max(all[at].1.1));
            touched.push(at);
        }
        if own.1 <= row.before {
            late += 1;
            continue;
        }
        let mut members = Vec::new();
        touched.sort_unstable();
        for at in touched.into_iter().rev() {
            members.extend(all.remove(at).2);
        }
        members.push(row);
        all.push((key, own, members));
    }
    let mut on_time: Windowed<'a> = BTreeMap::new();
    for (key, bounds, mut members) in all {
        members.sort_by_key(|r| (r.input, r.place));
        on_time.entry((key, bounds)).or_default().extend(members);
    }
    Assigned { on_time, corrections: Vec::new(), late }
}

/// The columns of the bounds.
pub fn bounds_fields(bounds: Bounds) -> [(String, Value); 2] {
    [("window_start".to_owned(), Value::Time(bounds.0)), ("window_end".to_owned(), Value::Time(bounds.1))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slide_need_not_divide_the_size() {
        let kind = WindowKind::Hop { slide: 4, size: 15, offset: 0 };
        assert_eq!(windows_of(kind, 16), [(16, 31), (12, 27), (8, 23), (4, 19)]);
    }

    #[test]
    fn growing_windows_share_their_start() {
        let kind = WindowKind::Cumulate { step: 5, size: 15, offset: 0 };
        assert_eq!(windows_of(kind, 20), [(15, 25), (15, 30)]);
    }
}

//! The rows of a job's sources: times mostly ascending, with disorder around the watermark's bound, ties, edges of windows, and some far behind.

use super::{
    generate::Features,
    job::*,
    random::Random,
    value::{DAY, SECOND, Value},
};
use std::collections::BTreeSet;

pub(super) struct Rows<'a> {
    pub random: &'a mut Random,
    pub features: &'a Features,
    pub scale: i64,
    /// A likely window size.
    pub edge: i64,
    pub unique_times: bool,
}

const JANUARY: i64 = 19_723 * DAY;

/// Doubles that plain addition gets wrong.
const NASTY: [f64; 10] = [0.1, 0.2, 0.3, 1e16, -1e16, 1.0, 1e-9, 1.0 / 3.0, 123_456_789.012_345_67, -2.2e-7];

impl Rows<'_> {
    pub fn fill(&mut self, sources: &mut [Source]) {
        let start = JANUARY + self.random.pick(&[0, 0, 58 * DAY + 86_390 * SECOND, 68 * DAY + 45_296_789_000]);
        let tenants = self.random.pick(&[1, 2, 2]);
        let subs = self.random.pick(&[1, 2, 3]);
        let keys: Vec<(String, String)> = (0..tenants).flat_map(|t| (0..subs).map(move |s| (format!("t{t}"), format!("s{s}")))).collect();
        let mut used = BTreeSet::new();
        for (number, source) in sources.iter_mut().enumerate() {
            let n = if source.table { self.random.between(2, 20) } else { self.random.between(5, 60) };
            let mut cursor = start + self.random.between(0, 5) * self.scale;
            let mut last = cursor;
            for i in 0..n {
                cursor += self.gap();
                let time = self.time(cursor, last, source.bound_us, &mut used);
                last = time;
                let key = self.random.pick(&keys);
                let row = self.row(source, key, time, number as i64 * 1_000 + i);
                source.rows.push(row);
            }
            self.repeat_ids(source);
        }
    }

    fn gap(&mut self) -> i64 {
        match self.random.below(20) {
            0 => 30 * self.scale,
            1..=3 => 0,
            _ => self.random.between(0, 2 * self.scale),
        }
    }

    fn time(&mut self, cursor: i64, last: i64, bound: i64, used: &mut BTreeSet<i64>) -> i64 {
        let behind = match self.random.below(100) {
            0..55 => 0,
            55..75 => self.random.between(0, bound),
            75..83 => bound,
            83..86 => bound + 1,
            86..89 => bound + 1_000_000,
            89..96 => self.random.between(0, 20 * self.scale),
            _ => 100 * self.scale,
        };
        let time = cursor - behind;
        let mut time = match self.random.below(100) {
            0..12 => last,
            12..24 => time.div_euclid(self.edge) * self.edge,
            24..27 => time.div_euclid(self.edge) * self.edge - 1,
            27..32 => time,
            32..60 => time.div_euclid(1_000) * 1_000,
            _ => time.div_euclid(self.scale.min(SECOND)) * self.scale.min(SECOND),
        };
        while self.unique_times && !used.insert(time) {
            time += 1_000;
        }
        time
    }

    fn row(&mut self, source: &Source, key: (String, String), time: i64, seq: i64) -> SourceRow {
        let tombstone = source.table && self.features.tombstones && self.random.chance(12);
        let value = |name: &str, random: &mut Random, exact: bool| match name {
            "tenant" => Value::Text(key.0.clone()),
            "sub" => Value::Text(key.1.clone()),
            "t" => Value::Time(time),
            "seq" => Value::Integer(seq),
            _ if random.chance(12) => Value::Null,
            "event_id" => Value::Text(format!("e{seq}")),
            "units" => units(random),
            "price" => Value::Double(price(random, exact)),
            "amount" => Value::Decimal(i128::from(random.between(-9_999, 99_999)), 2),
            "region" => Value::text(random.pick(&["n", "s", "e"])),
            _ => Value::Boolean(random.chance(50)),
        };
        let fields = source.columns.iter().map(|(name, _)| (name.clone(), value(name, self.random, self.features.exact_floats))).collect();
        SourceRow { fields, tombstone }
    }

    /// Some ids come again, near and far in time.
    fn repeat_ids(&mut self, source: &mut Source) {
        if source.dedup_us.is_none() {
            return;
        }
        let mut repeated = BTreeSet::new();
        for i in 1..source.rows.len() {
            if self.random.chance(35) {
                let other = self.random.below(i);
                if !self.features.dedup_thrice && (!repeated.insert(other) || repeated.contains(&i)) {
                    continue;
                }
                repeated.insert(i);
                for column in ["event_id", "tenant", "sub"] {
                    let value = source.rows[other].fields[column].clone();
                    source.rows[i].fields.insert(column.to_owned(), value);
                }
            }
        }
    }
}

fn units(random: &mut Random) -> Value {
    Value::Integer(match random.below(20) {
        0 => 0,
        1 => 1_000_000_000_000,
        2..=5 => random.between(-50, -1),
        _ => random.between(0, 40),
    })
}

/// Eighths of a unit are added without an error in any order.
fn price(random: &mut Random, exact: bool) -> f64 {
    if !exact {
        return random.between(-200, 800) as f64 / 8.0;
    }
    if random.chance(40) { random.pick(&NASTY) } else { random.between(-9_999, 99_999) as f64 / 1_000.0 }
}

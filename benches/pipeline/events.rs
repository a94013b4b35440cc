//! The events: a function of the seed, so that what a job makes of them can be computed beside it.

use crate::{
    told::{Expected, Window},
    variant::{Stream, Variant, Windows},
};
use schemas::{NewRecord, clock};
use std::{collections::BTreeMap, fmt::Write};

/// 2025-01-01T00:00:00Z: in the past of every clock, so that no event counts as one from the future.
const START_US: i64 = 1_735_689_600_000_000;
const REGIONS: [&str; 4] = ["north", "south", "east", "west"];
/// A repeated event comes so many events after it came first.
const REPEATED_BEHIND: u64 = 1_000;

pub struct Events {
    pub stream: Stream,
    /// Per round over all keys: the step that visits each key once, and where it starts.
    rounds: Vec<(u64, u64)>,
}

/// One event's values.
pub struct Event {
    pub time_us: i64,
    pub key: u64,
    pub down: i64,
    pub up: i64,
}

impl Events {
    pub fn new(stream: &Stream) -> Self {
        let (keys, seed) = (stream.keys, stream.seed);
        let rounds = (0..=stream.events / keys).map(|round| {
            let mut step = (mix(seed, round) % keys).max(1);
            while gcd(step, keys) != 1 {
                step += 1;
            }
            (step, mix(seed ^ u64::MAX, round) % keys)
        });
        Self { stream: stream.clone(), rounds: rounds.collect() }
    }

    /// Event number `i`. Each run of `keys` events visits every key once, each time in another order.
    pub fn event(&self, i: u64) -> Event {
        let keys = self.stream.keys;
        let (step, start) = self.rounds[(i / keys) as usize];
        let chance = mix(self.stream.seed, i);
        Event {
            time_us: START_US + (i128::from(i) * i128::from(self.stream.round_us) / i128::from(self.stream.round_events())) as i64,
            key: ((i % keys) * step + start) % keys,
            down: (chance % 10_000_000) as i64,
            up: (chance >> 32) as i64 % 1_000_000,
        }
    }

    fn record(&self, i: u64) -> NewRecord {
        let e = self.event(i);
        let mut value = String::with_capacity(224);
        let time = clock::rfc3339(e.time_us);
        let region = REGIONS[e.key as usize % REGIONS.len()];
        let _ = write!(
            value,
            r#"{{"event_id":"{i:016x}","event_time":"{time}","tenant":"acme","subscriber_id":"s{:07}","bytes_down":{},"bytes_up":{},"region":"{region}","node_id":"olt-{:03}"}}"#,
            e.key,
            e.down,
            e.up,
            e.key % 400
        );
        NewRecord::new(format!("acme|s{:07}", e.key), value)
    }

    /// The records of the events `from` to `to`: each its own, and behind it the repetition of an earlier one where that is due.
    pub fn records(&self, from: u64, to: u64) -> impl Iterator<Item = NewRecord> {
        (from..to).flat_map(|i| std::iter::once(i).chain(self.repeated_at(i))).map(|i| self.record(i))
    }

    fn repeated_at(&self, i: u64) -> Option<u64> {
        self.stream.repeat_every.filter(|every| i.is_multiple_of(*every)).and_then(|_| i.checked_sub(REPEATED_BEHIND))
    }

    pub fn repeats(&self) -> u64 {
        (0..self.stream.events).filter(|i| self.repeated_at(*i).is_some()).count() as u64
    }

    /// Rows of the topic.
    pub fn rows(&self) -> u64 {
        self.stream.events + self.repeats()
    }

    /// The table of plans: a row for each key.
    pub fn plans(&self) -> impl Iterator<Item = NewRecord> {
        let time = clock::rfc3339(START_US);
        (0..self.stream.keys).map(move |key| {
            let value = format!(r#"{{"event_time":"{time}","tenant":"acme","subscriber_id":"s{key:07}","price":{}}}"#, price(key));
            NewRecord::new(format!("acme|s{key:07}"), value)
        })
    }

    /// Mean over the first thousand.
    pub fn payload_bytes(&self) -> u64 {
        let n = self.stream.events.min(1000);
        (0..n).map(|i| self.record(i).value.map_or(0, |v| v.len() as u64)).sum::<u64>() / n.max(1)
    }

    /// What the job must come to.
    pub fn expected(&self, variant: &Variant) -> Expected {
        let mut windows = self.windows(variant.windows);
        let mut rows_in = self.rows();
        if variant.joins_plans {
            rows_in += self.stream.keys;
            windows.values_mut().for_each(|window| window.sum += (0..self.stream.keys).map(price).sum::<i64>());
        }
        Expected { windows, rows_in, duplicates: self.repeats() }
    }

    /// What each window, by its start, must come to.
    fn windows(&self, Windows { slide_us, slides }: Windows) -> BTreeMap<i64, Window> {
        let (panes, more) = self.panes(slide_us, slides);
        let (Some((oldest, _)), Some((newest, _))) = (panes.first_key_value(), panes.last_key_value()) else { return BTreeMap::new() };
        let mut windows = BTreeMap::new();
        let mut rows = 0;
        for first in oldest - slides + 1..=*newest {
            rows += more.get(&first).copied().unwrap_or_default();
            let of_window = panes.range(first..first + slides).map(|(_, pane)| *pane);
            let window = of_window.fold(Window { rows, ..Window::default() }, Window::with);
            if window.count > 0 {
                windows.insert(first * slide_us, window);
            }
        }
        windows
    }

    /// What falls on each slide; and, by the slide with which a window begins, how many keys more it holds than the one before.
    fn panes(&self, slide_us: i64, slides: i64) -> (BTreeMap<i64, Window>, BTreeMap<i64, i64>) {
        let (mut panes, mut more) = (BTreeMap::<i64, Window>::new(), BTreeMap::<i64, i64>::new());
        let mut newest = vec![i64::MIN; self.stream.keys as usize];
        for e in (0..self.stream.events).map(|i| self.event(i)) {
            let slide = e.time_us.div_euclid(slide_us);
            let pane = panes.entry(slide).or_default();
            *pane = pane.with(Window { rows: 0, count: 1, sum: e.down, max: e.up });
            // The windows that hold the key's event before this one have counted the key.
            let first = (slide - slides + 1).max(newest[e.key as usize].saturating_add(1));
            if first <= slide {
                *more.entry(first).or_default() += 1;
                *more.entry(slide + 1).or_default() -= 1;
            }
            newest[e.key as usize] = slide;
        }
        (panes, more)
    }
}

impl Window {
    /// With another part of it; rows stay, since the parts have their keys in common.
    fn with(self, part: Self) -> Self {
        Self { rows: self.rows, count: self.count + part.count, sum: self.sum + part.sum, max: self.max.max(part.max) }
    }
}

fn price(key: u64) -> i64 {
    (key % 100) as i64
}

/// SplitMix64 of a seed and a number.
fn mix(seed: u64, i: u64) -> u64 {
    let mut z = (seed ^ 0x2545_f491_4f6c_dd1d).wrapping_add(i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

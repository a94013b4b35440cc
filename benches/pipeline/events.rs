//! The events: a function of the seed, so that what the pipeline makes of them can be computed beside it.

use crate::settings::{Settings, WINDOW_US};
use schemas::{NewRecord, clock};
use std::{collections::BTreeMap, fmt::Write};

/// 2025-01-01T00:00:00Z: in the past of every clock, so that no event counts as one from the future.
const START_US: i64 = 1_735_689_600_000_000;
const REGIONS: [&str; 4] = ["north", "south", "east", "west"];

pub struct Events {
    keys: u64,
    seed: u64,
    events: u64,
    window_events: u64,
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

/// What a window holds over all keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    pub rows: i64,
    pub count: i64,
    pub sum: i64,
    pub max: i64,
}

impl Events {
    pub fn new(settings: &Settings) -> Self {
        let rounds = (0..=settings.events / settings.keys).map(|round| {
            let mut step = (mix(settings.seed, round) % settings.keys).max(1);
            while gcd(step, settings.keys) != 1 {
                step += 1;
            }
            (step, mix(settings.seed ^ u64::MAX, round) % settings.keys)
        });
        Self { keys: settings.keys, seed: settings.seed, events: settings.events, window_events: settings.window_events(), rounds: rounds.collect() }
    }

    /// Event number `i`. Each run of `keys` events visits every key once, each time in another order.
    pub fn event(&self, i: u64) -> Event {
        let (step, start) = self.rounds[(i / self.keys) as usize];
        let chance = mix(self.seed, i);
        Event {
            time_us: START_US + (i128::from(i) * i128::from(WINDOW_US) / i128::from(self.window_events)) as i64,
            key: ((i % self.keys) * step + start) % self.keys,
            down: (chance % 10_000_000) as i64,
            up: (chance >> 32) as i64 % 1_000_000,
        }
    }

    pub fn record(&self, i: u64) -> NewRecord {
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

    /// Mean over the first thousand.
    pub fn payload_bytes(&self) -> u64 {
        let n = self.events.min(1000);
        (0..n).map(|i| self.record(i).value.map_or(0, |v| v.len() as u64)).sum::<u64>() / n.max(1)
    }

    /// What each window, by its start, must come to.
    pub fn windows(&self) -> BTreeMap<i64, Window> {
        let mut windows: BTreeMap<i64, Window> = BTreeMap::new();
        for i in 0..self.events {
            let e = self.event(i);
            let window = windows.entry(e.time_us - e.time_us.rem_euclid(WINDOW_US)).or_default();
            // A window's first events are one of each key.
            window.rows = (window.count + 1).min(self.keys as i64);
            window.count += 1;
            window.sum += e.down;
            window.max = window.max.max(e.up);
        }
        windows
    }
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

//! The generated operator of `headend demo`: its subscribers, 120 days of their past, and a live stream in which
//! something happens every few seconds.
//!
//! Everything here is made up from a seed and says so: the tenant is `acme`, nobody in it exists. The same seed, time
//! and number of subscribers give the same events. Who cancels depends on what the subscriber did before (usage,
//! silence, failed payments, tickets, tenure, price) through a logistic law with noise, so that a model trained on
//! the past has something true to find. The story reads no clock and sends nothing: whoever runs it does.
//!
//! ```text
//! second   3  one subscriber's usage spikes
//!          4  one account logs in from Lisbon and then from Singapore
//!          5  six subscribers who had gone quiet get a price rise, failed payments and trouble: they slide over 0.70
//!          8  a burst of failed payments over several cards
//!         12  an access node goes down; up again at 30
//!         40  three of the six are won back
//!         60  the same with other subscribers and another node
//! ```

use serde_json::Value;

mod live;
mod past;
mod payload;
mod people;
mod rng;

pub use live::{Live, LiveEvent};

use past::{Fact, Happening};
use people::Person;

pub const TENANT: &str = "acme";
/// Days of history before the day on which the story starts.
pub const PAST_DAYS: usize = 120;
pub const SUBSCRIBERS_DEFAULT: usize = 2_000;
/// Events per second of the live stream.
pub const RATE_DEFAULT: f64 = 400.0;

const SECOND_US: i64 = 1_000_000;
const MINUTE_US: i64 = 60 * SECOND_US;
const DAY_US: i64 = 24 * 60 * MINUTE_US;

/// One event, ready for its topic: `event` is a name of `schemas::event`, and the payload passes its check.
#[derive(Clone, Debug, PartialEq)]
pub struct DemoEvent {
    pub event: &'static str,
    /// UTC microseconds; also in the payload.
    pub event_time_us: i64,
    pub payload: Value,
}

/// The operator: who its subscribers are and what they did up to `now_us`.
pub struct Story {
    seed: u64,
    people: Vec<Person>,
    /// By time, then by subscriber.
    past: Vec<Fact>,
    /// By subscriber: when he cancelled, if he did.
    cancelled_us: Vec<Option<i64>>,
}

impl Story {
    /// Makes `subscribers` people and simulates their days up to `now_us` (UTC microseconds).
    pub fn new(seed: u64, now_us: i64, subscribers: usize) -> Self {
        let people = people::people(seed, subscribers);
        let (past, cancelled_us) = past::simulate(seed, now_us, &people);
        Self { seed, people, past, cancelled_us }
    }

    /// How many events [`Self::past`] gives.
    pub fn past_len(&self) -> usize {
        self.past.len()
    }

    /// The past, sorted by event time, all of it before `now_us`.
    pub fn past(&self) -> impl Iterator<Item = DemoEvent> + '_ {
        self.past.iter().enumerate().map(|(n, fact)| {
            let id = format!("p{n:07}");
            match fact.happening {
                Happening::NodeUp { node } => payload::network(&id, fact.time_us, node, "up", 1.0),
                happening => payload::of_subscriber(&id, fact.time_us, &self.people[fact.person], happening),
            }
        })
    }

    /// The live stream from `start_us` on, without end, in the order in which the events are due. `rate` is the number of
    /// background events a second; the story's own come on top.
    pub fn live(&self, start_us: i64, rate: f64) -> Live<'_> {
        Live::new(self, start_us, rate)
    }

    /// Who cancelled in the past, and when (UTC microseconds): the labels of the churn model.
    pub fn churned(&self) -> Vec<(String, i64)> {
        self.people.iter().zip(&self.cancelled_us).filter_map(|(p, t)| t.map(|t| (p.id.clone(), t))).collect()
    }
}

#[cfg(test)]
mod tests;

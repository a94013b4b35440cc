//! The queries once more, as plain loops over all events: what must come out, by a way that shares nothing with the engine.
//!
//! A model reads the events in the order of the log and gives rows in the engine's output form, in no particular order. It knows no
//! bound, no partition and no watermark. That is right as long as no row is late, which [`check_none_late`] finds out, and as long as
//! the bounds of the joins in `queries/` lose nothing, which is what the comparison with the engine shows: joins are unbounded here.
//!
//! Two events have the same time only in streams of more than a million a second, so no model has to decide a tie of times.

mod joins;
mod maps;
mod tables;
mod windows;

pub use joins::{q3, q4, q6, q9, q13, q20};
pub use maps::{q0, q1, q2, q10, q14, q21, q22};
pub use tables::{q15, q16, q17, q18, q19};
pub use windows::{q5, q7, q8, q11, q12};

use super::{
    event::{Auction, Bid, Event, Person, Topic},
    time::rfc3339,
};
use serde_json::Value;
use std::collections::HashMap;

/// A row: the value of each column. Times are text, decimals and averages are floats.
pub type Row = std::collections::BTreeMap<String, Value>;

/// Answers a query.
pub type Model = fn(&[Event<'_>]) -> Vec<Row>;

/// Finds the first row that stands on or behind the watermark of its own partition, as that was before the row.
///
/// Where there is none, no row is late for any window, session or join, whatever their length: each ends after the row's time.
/// `partition_of` gives the partition of a record's key among `partitions`; `bound_us` is that of the sources.
///
/// # Errors
/// The topic, the place in the log and the times of the row.
pub fn check_none_late(events: &[Event<'_>], partitions: u32, bound_us: i64, partition_of: impl Fn(&[u8], u32) -> u32) -> Result<(), String> {
    let mut watermarks: HashMap<(Topic, u32), i64> = HashMap::new();
    for (position, event) in events.iter().enumerate() {
        let partition = partition_of(event.key().to_string().as_bytes(), partitions);
        let watermark = watermarks.entry((event.topic(), partition)).or_insert(i64::MIN);
        if *watermark >= event.date_time() {
            let (topic, time, passed) = (event.topic().name(), rfc3339(event.date_time()), rfc3339(*watermark));
            return Err(format!("event {position} of `{topic}/{partition}` is of `{time}`, which the watermark `{passed}` has passed"));
        }
        *watermark = (*watermark).max(event.date_time() - bound_us);
    }
    Ok(())
}

fn row<const N: usize>(columns: [(&str, Value); N]) -> Row {
    columns.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn moment(us: i64) -> Value {
    Value::from(rfc3339(us))
}

fn persons<'e>(events: &'e [Event<'e>]) -> impl Iterator<Item = &'e Person<'e>> {
    events.iter().filter_map(|e| if let Event::Person(person) = e { Some(person) } else { None })
}

fn auctions<'e>(events: &'e [Event<'e>]) -> impl Iterator<Item = &'e Auction<'e>> {
    events.iter().filter_map(|e| if let Event::Auction(auction) = e { Some(auction) } else { None })
}

fn bids<'e>(events: &'e [Event<'e>]) -> impl Iterator<Item = &'e Bid<'e>> {
    events.iter().filter_map(|e| if let Event::Bid(bid) = e { Some(bid) } else { None })
}

/// The price in euros, with its three decimals.
fn euros(price: u64) -> f64 {
    (price * 908) as f64 / 1000.0
}

fn average(sum: u64, count: usize) -> Value {
    Value::from(sum as f64 / count as f64)
}

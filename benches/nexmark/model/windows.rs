//! Queries over windows of event time.

use super::{super::event::Event, Row, auctions, bids, moment, persons, row};
use std::collections::{BTreeMap, BTreeSet};

const SECOND_US: i64 = 1_000_000;
const WINDOW_US: i64 = 10 * SECOND_US;
const SLIDE_US: i64 = 2 * SECOND_US;
/// Silence that ends a session.
const GAP_US: i64 = 10 * SECOND_US;

pub fn q5(events: &[Event<'_>]) -> Vec<Row> {
    let mut windows: BTreeMap<i64, BTreeMap<u64, u64>> = BTreeMap::new();
    for bid in bids(events) {
        let newest = start_of(bid.date_time, SLIDE_US);
        for back in 0..WINDOW_US / SLIDE_US {
            *windows.entry(newest - back * SLIDE_US).or_default().entry(bid.auction).or_default() += 1;
        }
    }
    let mut rows = Vec::new();
    for (start, counts) in windows {
        let most = counts.values().copied().max();
        for (auction, num) in counts.into_iter().filter(|(_, num)| Some(*num) == most) {
            rows.push(windowed(start, [("auction", auction.into()), ("num", num.into())]));
        }
    }
    rows
}

pub fn q7(events: &[Event<'_>]) -> Vec<Row> {
    let mut highest: BTreeMap<i64, u64> = BTreeMap::new();
    for bid in bids(events) {
        let price = highest.entry(start_of(bid.date_time, WINDOW_US)).or_default();
        *price = bid.price.max(*price);
    }
    let winners = bids(events).filter(|b| highest[&start_of(b.date_time, WINDOW_US)] == b.price);
    winners
        .map(|b| {
            let (auction, price, bidder) = (b.auction.into(), b.price.into(), b.bidder.into());
            row([("auction", auction), ("price", price), ("bidder", bidder), ("date_time", moment(b.date_time)), ("extra", b.extra.into())])
        })
        .collect()
}

pub fn q8(events: &[Event<'_>]) -> Vec<Row> {
    let sellers: BTreeSet<(u64, i64)> = auctions(events).map(|a| (a.seller, start_of(a.date_time, WINDOW_US))).collect();
    let new_sellers = persons(events).filter(|p| sellers.contains(&(p.id, start_of(p.date_time, WINDOW_US))));
    new_sellers.map(|p| windowed(start_of(p.date_time, WINDOW_US), [("id", p.id.into()), ("name", p.name.clone().into())])).collect()
}

pub fn q11(events: &[Event<'_>]) -> Vec<Row> {
    let mut times: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    for bid in bids(events) {
        times.entry(bid.bidder).or_default().push(bid.date_time);
    }
    let mut rows = Vec::new();
    for (bidder, mut times) in times {
        times.sort_unstable();
        for session in times.chunk_by(|earlier, later| later - earlier < GAP_US) {
            let (first, last) = (session[0], session[session.len() - 1]);
            let (start, end) = (moment(first), moment(last + GAP_US));
            rows.push(row([("bidder", bidder.into()), ("window_start", start), ("window_end", end), ("bid_count", session.len().into())]));
        }
    }
    rows
}

pub fn q12(events: &[Event<'_>]) -> Vec<Row> {
    let mut counts: BTreeMap<(u64, i64), u64> = BTreeMap::new();
    for bid in bids(events) {
        *counts.entry((bid.bidder, start_of(bid.date_time, WINDOW_US))).or_default() += 1;
    }
    counts.into_iter().map(|((bidder, start), count)| windowed(start, [("bidder", bidder.into()), ("bid_count", count.into())])).collect()
}

/// The start of the newest window that holds `us`, where one starts every `every_us`.
fn start_of(us: i64, every_us: i64) -> i64 {
    us - us.rem_euclid(every_us)
}

fn windowed<const N: usize>(start: i64, columns: [(&str, serde_json::Value); N]) -> Row {
    let mut whole = row(columns);
    whole.extend(row([("window_start", moment(start)), ("window_end", moment(start + WINDOW_US))]));
    whole
}

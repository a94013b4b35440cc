//! Queries without a window: a row for each key, as it stands at the end.

use super::{
    super::{
        event::{Bid, Event},
        time::{date, hour_minute},
    },
    Row, average, bids, moment, row,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// The levels of price that the reports tell apart, after the one that holds all.
const LEVELS: [(&str, Range<u64>); 4] = [("total", 0..u64::MAX), ("rank1", 0..10_000), ("rank2", 10_000..1_000_000), ("rank3", 1_000_000..u64::MAX)];

pub fn q15(events: &[Event<'_>]) -> Vec<Row> {
    let days = grouped(events, |b| date(b.date_time));
    let report = |(day, bids): (String, Vec<&Bid<'_>>)| {
        let mut whole = counts(&bids);
        whole.extend(distinct_counts(&bids));
        whole.insert("day".to_owned(), day.into());
        whole
    };
    days.into_iter().map(report).collect()
}

pub fn q16(events: &[Event<'_>]) -> Vec<Row> {
    let channels = grouped(events, |b| (b.channel.to_owned(), date(b.date_time)));
    let report = |((channel, day), bids): ((String, String), Vec<&Bid<'_>>)| {
        let mut whole = counts(&bids);
        whole.extend(distinct_counts(&bids));
        let minute = bids.iter().map(|b| hour_minute(b.date_time)).max();
        whole.extend(row([("channel", channel.into()), ("day", day.into()), ("minute", minute.into())]));
        whole
    };
    channels.into_iter().map(report).collect()
}

pub fn q17(events: &[Event<'_>]) -> Vec<Row> {
    let auctions = grouped(events, |b| (b.auction, date(b.date_time)));
    let report = |((auction, day), bids): ((u64, String), Vec<&Bid<'_>>)| {
        let prices = || bids.iter().map(|b| b.price);
        let sum: u64 = prices().sum();
        let mut whole = counts(&bids);
        whole.extend(row([("auction", auction.into()), ("day", day.into()), ("min_price", prices().min().into()), ("max_price", prices().max().into())]));
        whole.extend(row([("avg_price", average(sum, bids.len())), ("sum_price", sum.into())]));
        whole
    };
    auctions.into_iter().map(report).collect()
}

pub fn q18(events: &[Event<'_>]) -> Vec<Row> {
    let pairs = grouped(events, |b| (b.bidder, b.auction));
    pairs.into_values().filter_map(|bids| bids.into_iter().max_by_key(|b| b.date_time)).map(whole_bid).collect()
}

pub fn q19(events: &[Event<'_>]) -> Vec<Row> {
    let mut rows = Vec::new();
    for mut bids in grouped(events, |b| b.auction).into_values() {
        bids.sort_by_key(|b| (Reverse(b.price), b.date_time));
        for (rank, bid) in bids.into_iter().take(10).enumerate() {
            let mut whole = whole_bid(bid);
            whole.insert("rank_number".to_owned(), (rank + 1).into());
            rows.push(whole);
        }
    }
    rows
}

fn grouped<'e, K: Ord>(events: &'e [Event<'e>], key: impl Fn(&Bid<'_>) -> K) -> BTreeMap<K, Vec<&'e Bid<'e>>> {
    let mut groups: BTreeMap<K, Vec<&Bid<'_>>> = BTreeMap::new();
    for bid in bids(events) {
        groups.entry(key(bid)).or_default().push(bid);
    }
    groups
}

fn counts(bids: &[&Bid<'_>]) -> Row {
    let count = |level: &Range<u64>| bids.iter().filter(|b| level.contains(&b.price)).count();
    LEVELS.iter().map(|(name, level)| (format!("{name}_bids"), count(level).into())).collect()
}

fn distinct_counts(bids: &[&Bid<'_>]) -> Row {
    let mut whole = Row::new();
    for (name, level) in LEVELS {
        let in_level = || bids.iter().filter(|b| level.contains(&b.price));
        let bidders: BTreeSet<u64> = in_level().map(|b| b.bidder).collect();
        let auctions: BTreeSet<u64> = in_level().map(|b| b.auction).collect();
        whole.insert(format!("{name}_bidders"), bidders.len().into());
        whole.insert(format!("{name}_auctions"), auctions.len().into());
    }
    whole
}

fn whole_bid(b: &Bid<'_>) -> Row {
    let mut whole = row([("auction", b.auction.into()), ("bidder", b.bidder.into()), ("price", b.price.into()), ("channel", b.channel.into())]);
    whole.extend(row([("url", b.url.into()), ("date_time", moment(b.date_time)), ("extra", b.extra.into())]));
    whole
}

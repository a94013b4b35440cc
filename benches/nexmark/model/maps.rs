//! Queries that look at each bid by itself.

use super::{
    super::{
        event::{Bid, Event},
        time::{date, hour, hour_minute},
    },
    Row, bids, euros, moment, row,
};
use serde_json::Value;

pub fn q0(events: &[Event<'_>]) -> Vec<Row> {
    bids(events).map(|b| plain(b, b.price.into())).collect()
}

pub fn q1(events: &[Event<'_>]) -> Vec<Row> {
    bids(events).map(|b| plain(b, euros(b.price).into())).collect()
}

pub fn q2(events: &[Event<'_>]) -> Vec<Row> {
    bids(events).filter(|b| b.auction % 123 == 0).map(|b| row([("auction", b.auction.into()), ("price", b.price.into())])).collect()
}

pub fn q10(events: &[Event<'_>]) -> Vec<Row> {
    let with_file = |b: &Bid<'_>| {
        let mut row = plain(b, b.price.into());
        row.insert("dt".to_owned(), date(b.date_time).into());
        row.insert("hm".to_owned(), hour_minute(b.date_time).into());
        row
    };
    bids(events).map(with_file).collect()
}

pub fn q14(events: &[Event<'_>]) -> Vec<Row> {
    let calculated = |b: &Bid<'_>| {
        let time_type = match hour(b.date_time) {
            8..=18 => "dayTime",
            0..=6 | 20.. => "nightTime",
            _ => "otherTime",
        };
        let mut row = plain(b, euros(b.price).into());
        row.insert("bid_time_type".to_owned(), time_type.into());
        row.insert("c_counts".to_owned(), b.extra.matches('c').count().into());
        row
    };
    bids(events).filter(|b| (1_000_000_001..50_000_000_000).contains(&(b.price * 908))).map(calculated).collect()
}

pub fn q21(events: &[Event<'_>]) -> Vec<Row> {
    let with_id = |b: &Bid<'_>| {
        let id = match b.channel.to_lowercase().as_str() {
            "apple" => "0",
            "google" => "1",
            "facebook" => "2",
            "baidu" => "3",
            _ => b.url.split('&').find_map(|part| part.strip_prefix("channel_id="))?,
        };
        Some(with_channel(b, [("channel_id", id.into())]))
    };
    bids(events).filter_map(with_id).collect()
}

pub fn q22(events: &[Event<'_>]) -> Vec<Row> {
    let folder = |b: &Bid<'_>, n: usize| Value::from(b.url.split('/').nth(n).unwrap_or_default());
    bids(events).map(|b| with_channel(b, [("dir1", folder(b, 3)), ("dir2", folder(b, 4)), ("dir3", folder(b, 5))])).collect()
}

fn plain(b: &Bid<'_>, price: Value) -> Row {
    let (auction, bidder) = (b.auction.into(), b.bidder.into());
    row([("auction", auction), ("bidder", bidder), ("price", price), ("date_time", moment(b.date_time)), ("extra", b.extra.into())])
}

fn with_channel<const N: usize>(b: &Bid<'_>, more: [(&str, Value); N]) -> Row {
    let mut whole = row([("auction", b.auction.into()), ("bidder", b.bidder.into()), ("price", b.price.into()), ("channel", b.channel.into())]);
    whole.extend(row(more));
    whole
}

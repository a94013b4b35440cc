//! Queries that bring two streams together.

use super::{
    super::event::{Auction, Bid, Event},
    Row, auctions, average, bids, moment, persons, row,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

pub fn q3(events: &[Event<'_>]) -> Vec<Row> {
    let persons: HashMap<u64, _> = persons(events).filter(|p| ["OR", "ID", "CA"].contains(&p.state)).map(|p| (p.id, p)).collect();
    let suggested = auctions(events).filter(|a| a.category == 10).filter_map(|a| persons.get(&a.seller).map(|p| (a, p)));
    suggested.map(|(a, p)| row([("name", p.name.clone().into()), ("city", p.city.into()), ("state", p.state.into()), ("id", a.id.into())])).collect()
}

pub fn q4(events: &[Event<'_>]) -> Vec<Row> {
    let mut finals: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (auction, bid) in winning_bids(events) {
        finals.entry(auction.category).or_default().push(bid.price);
    }
    finals.into_iter().map(|(category, prices)| row([("category", category.into()), ("final", average(prices.iter().sum(), prices.len()))])).collect()
}

pub fn q6(events: &[Event<'_>]) -> Vec<Row> {
    let mut sales: BTreeMap<u64, Vec<&Bid<'_>>> = BTreeMap::new();
    for (auction, bid) in winning_bids(events) {
        sales.entry(auction.seller).or_default().push(bid);
    }
    let mut rows = Vec::new();
    for (seller, mut sold) in sales {
        sold.sort_by_key(|bid| Reverse(bid.date_time));
        sold.truncate(10);
        rows.push(row([("seller", seller.into()), ("avg_price", average(sold.iter().map(|bid| bid.price).sum(), sold.len()))]));
    }
    rows
}

pub fn q9(events: &[Event<'_>]) -> Vec<Row> {
    let won = |(a, b): (&Auction<'_>, &Bid<'_>)| {
        let mut whole = auction_columns(a);
        let (auction, bidder, price) = (b.auction.into(), b.bidder.into(), b.price.into());
        whole.extend(row([("id", a.id.into()), ("date_time", moment(a.date_time)), ("extra", a.extra.into()), ("auction", auction)]));
        whole.extend(row([("bidder", bidder), ("price", price), ("bid_date_time", moment(b.date_time)), ("bid_extra", b.extra.into())]));
        whole
    };
    winning_bids(events).into_iter().map(won).collect()
}

/// The table's row for a number is the number as text.
pub fn q13(events: &[Event<'_>]) -> Vec<Row> {
    let looked_up = |b: &Bid<'_>| {
        let value = (b.auction % 10_000).to_string().into();
        let (auction, bidder, price) = (b.auction.into(), b.bidder.into(), b.price.into());
        row([("auction", auction), ("bidder", bidder), ("price", price), ("date_time", moment(b.date_time)), ("value", value)])
    };
    bids(events).map(looked_up).collect()
}

pub fn q20(events: &[Event<'_>]) -> Vec<Row> {
    let wanted: HashMap<u64, &Auction<'_>> = auctions(events).filter(|a| a.category == 10).map(|a| (a.id, a)).collect();
    let expanded = |b: &Bid<'_>| {
        let a = wanted.get(&b.auction)?;
        let mut whole = auction_columns(a);
        whole.extend(row([("auction", b.auction.into()), ("bidder", b.bidder.into()), ("price", b.price.into()), ("channel", b.channel.into())]));
        whole.extend(row([("url", b.url.into()), ("bid_date_time", moment(b.date_time)), ("bid_extra", b.extra.into())]));
        whole.extend(row([("auction_date_time", moment(a.date_time)), ("auction_extra", a.extra.into())]));
        Some(whole)
    };
    bids(events).filter_map(expanded).collect()
}

/// Each auction that got a bid while it was open, with the highest; of equal ones the first.
fn winning_bids<'e>(events: &'e [Event<'e>]) -> Vec<(&'e Auction<'e>, &'e Bid<'e>)> {
    let mut by_auction: HashMap<u64, Vec<&Bid<'_>>> = HashMap::new();
    for bid in bids(events) {
        by_auction.entry(bid.auction).or_default().push(bid);
    }
    let best = |auction: &'e Auction<'e>| {
        let valid = by_auction.get(&auction.id)?.iter().filter(|bid| (auction.date_time..=auction.expires).contains(&bid.date_time));
        let bid = valid.min_by_key(|bid| (Reverse(bid.price), bid.date_time))?;
        Some((auction, *bid))
    };
    auctions(events).filter_map(best).collect()
}

fn auction_columns(a: &Auction<'_>) -> Row {
    let mut whole = row([("item_name", a.item_name.clone().into()), ("description", a.description.clone().into()), ("category", a.category.into())]);
    whole.extend(row([("initial_bid", a.initial_bid.into()), ("reserve", a.reserve.into())]));
    whole.extend(row([("expires", moment(a.expires)), ("seller", a.seller.into())]));
    whole
}

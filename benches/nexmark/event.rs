//! The events, and how they stand in the topics.

use super::time::{push_micros, push_number};

/// The three topics. A record's key is the number that [`Event::key`] gives, as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    Person,
    Auction,
    Bid,
}

impl Topic {
    pub const ALL: [Self; 3] = [Self::Person, Self::Auction, Self::Bid];

    /// The topic's name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Person => "nexmark.person",
            Self::Auction => "nexmark.auction",
            Self::Bid => "nexmark.bid",
        }
    }

    /// The source's name in the jobs.
    pub fn source(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Auction => "auction",
            Self::Bid => "bid",
        }
    }
}

/// Someone enters the house. Times are UTC microseconds, here and below.
#[derive(Debug, Clone)]
pub struct Person<'a> {
    pub id: u64,
    pub name: String,
    pub email_address: String,
    pub credit_card: String,
    pub city: &'static str,
    pub state: &'static str,
    pub date_time: i64,
    pub extra: &'a str,
}

/// Something is put up for sale, by a person, until `expires`. Prices are cents.
#[derive(Debug, Clone)]
pub struct Auction<'a> {
    pub id: u64,
    pub item_name: String,
    pub description: String,
    pub initial_bid: u64,
    pub reserve: u64,
    pub date_time: i64,
    pub expires: i64,
    pub seller: u64,
    pub category: u64,
    pub extra: &'a str,
}

/// A person offers a price.
#[derive(Debug, Clone, Copy)]
pub struct Bid<'a> {
    pub auction: u64,
    pub bidder: u64,
    pub price: u64,
    pub channel: &'a str,
    pub url: &'a str,
    pub date_time: i64,
    pub extra: &'a str,
}

#[derive(Debug, Clone)]
pub enum Event<'a> {
    Person(Person<'a>),
    Auction(Auction<'a>),
    Bid(Bid<'a>),
}

impl Event<'_> {
    pub fn topic(&self) -> Topic {
        match self {
            Self::Person(_) => Topic::Person,
            Self::Auction(_) => Topic::Auction,
            Self::Bid(_) => Topic::Bid,
        }
    }

    /// The record's key: the id of the person or the auction, the auction of the bid.
    pub fn key(&self) -> u64 {
        match self {
            Self::Person(p) => p.id,
            Self::Auction(a) => a.id,
            Self::Bid(b) => b.auction,
        }
    }

    pub fn date_time(&self) -> i64 {
        match self {
            Self::Person(p) => p.date_time,
            Self::Auction(a) => a.date_time,
            Self::Bid(b) => b.date_time,
        }
    }

    /// Appends the record's value, a JSON object without a line's end. No text of an event needs an escape.
    pub fn push_json(&self, out: &mut String) {
        match self {
            Self::Person(p) => p.push_json(out),
            Self::Auction(a) => a.push_json(out),
            Self::Bid(b) => b.push_json(out),
        }
        out.push('}');
    }
}

impl Person<'_> {
    fn push_json(&self, out: &mut String) {
        number(out, r#"{"id":"#, self.id);
        text(out, r#","name":""#, &self.name);
        text(out, r#","email_address":""#, &self.email_address);
        text(out, r#","credit_card":""#, &self.credit_card);
        text(out, r#","city":""#, self.city);
        text(out, r#","state":""#, self.state);
        moment(out, r#","date_time":""#, self.date_time);
        text(out, r#","extra":""#, self.extra);
    }
}

impl Auction<'_> {
    fn push_json(&self, out: &mut String) {
        number(out, r#"{"id":"#, self.id);
        text(out, r#","item_name":""#, &self.item_name);
        text(out, r#","description":""#, &self.description);
        number(out, r#","initial_bid":"#, self.initial_bid);
        number(out, r#","reserve":"#, self.reserve);
        moment(out, r#","date_time":""#, self.date_time);
        moment(out, r#","expires":""#, self.expires);
        number(out, r#","seller":"#, self.seller);
        number(out, r#","category":"#, self.category);
        text(out, r#","extra":""#, self.extra);
    }
}

impl Bid<'_> {
    fn push_json(&self, out: &mut String) {
        number(out, r#"{"auction":"#, self.auction);
        number(out, r#","bidder":"#, self.bidder);
        number(out, r#","price":"#, self.price);
        text(out, r#","channel":""#, self.channel);
        text(out, r#","url":""#, self.url);
        moment(out, r#","date_time":""#, self.date_time);
        text(out, r#","extra":""#, self.extra);
    }
}

fn number(out: &mut String, name: &str, n: u64) {
    out.push_str(name);
    push_number(out, n);
}

fn text(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str(value);
    out.push('"');
}

fn moment(out: &mut String, name: &str, us: i64) {
    out.push_str(name);
    push_micros(out, us);
    out.push('"');
}

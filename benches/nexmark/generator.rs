//! The generator: of 50 events in a row 1 is a person, 3 are auctions, 46 are bids.
//!
//! Every event is a function of the seed and its number, so that any part of the stream can be made alone, by several threads, again.
//! Proportions, hot ratios, leads, prices, sizes and the order out of order are those of the published generator (`nexmark/nexmark`,
//! itself Apache Beam's). It differs in what a benchmark does not see: the chance is [`Random`]'s, times have microseconds (so that no
//! two events of one generator have the same up to a million events a second), the filler holds nothing but letters, and a bidder's id
//! is counted from the first person's (the published one adds that offset twice, so that no bidder is ever a person).
//!
//! ```ignore
//! let generator = Generator::new(GeneratorConfig { events_per_s: 200, ..GeneratorConfig::default() });
//! let first: Vec<Event<'_>> = generator.events(20_000).collect();
//! ```

use super::{
    event::{Auction, Bid, Event, Person},
    random::{Filler, Random},
    time::rfc3339,
};

/// Of [`EPOCH`] events.
pub const PERSONS: u64 = 1;
pub const AUCTIONS: u64 = 3;
/// Events after which the kinds of events repeat; the rest of them are bids.
pub const EPOCH: u64 = 50;

/// Ids start here, so that a short stream has some that the queries look for.
pub const FIRST_PERSON_ID: u64 = 1000;
pub const FIRST_AUCTION_ID: u64 = 1000;
pub const FIRST_CATEGORY_ID: u64 = 10;
const CATEGORIES: u64 = 5;

/// Persons who still sell and bid.
pub const ACTIVE_PERSONS: u64 = 1000;
/// Auctions that still get bids.
pub const AUCTIONS_IN_FLIGHT: u64 = 100;
/// How many ids an event may be ahead of the newest person or auction.
pub const ID_LEAD: u64 = 10;

/// Rows of the table of query 13.
pub const SIDE_INPUT_ROWS: u64 = 10_000;

/// All but one of so many bids go to the hot auction, come from the hot bidder; all but one of so many auctions from the hot seller.
const HOT_AUCTION_RATIO: u64 = 2;
const HOT_BIDDER_RATIO: u64 = 4;
const HOT_SELLER_RATIO: u64 = 4;
const HOT_CHANNEL_RATIO: u64 = 2;
/// One in so many ids is hot for a while: the newest whose number divides by this. The hot bidder is the one after the hot seller.
const HOT_EVERY: u64 = 100;

const PERSON_BYTES: usize = 200;
const AUCTION_BYTES: usize = 500;
const BID_BYTES: usize = 100;

const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
const CHANNELS: u32 = 10_000;
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] = ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const FIRST_NAMES: [&str; 11] = ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];

/// The step through a group of events that are out of order, a prime.
const DISORDER_STEP: u64 = 953;

/// The events before which the tables of texts are drawn.
const TABLES: u64 = u64::MAX;

#[derive(Debug, Clone, Copy)]
pub struct GeneratorConfig {
    pub seed: u64,
    /// Time of event 0, UTC microseconds.
    pub start_us: i64,
    /// Events in a second of event time, all three kinds together, 1 to 1,000,000. The bounds of the joins in `queries/` hold from 200 on.
    pub events_per_s: u64,
    /// An event stands less than this much event time behind an earlier one. 0 is order.
    pub disorder_us: u64,
}

impl Default for GeneratorConfig {
    /// 10,000 events a second from 2024-01-01T00:00:00Z, out of order by less than 4 s: the bound of the sources in `queries/`.
    fn default() -> Self {
        Self { seed: 1, start_us: 1_704_067_200_000_000, events_per_s: 10_000, disorder_us: 4_000_000 }
    }
}

/// Makes events. It holds the texts that they borrow.
pub struct Generator {
    config: GeneratorConfig,
    /// Events that stand in another order among themselves.
    group: u64,
    filler: Filler,
    hot_urls: Vec<String>,
    /// Name and address of the other channels.
    channels: Vec<(String, String)>,
}

impl Generator {
    pub fn new(config: GeneratorConfig) -> Self {
        let mut random = Random::new(config.seed, TABLES);
        let filler = Filler::new(&mut random);
        let hot_urls = HOT_CHANNELS.iter().map(|_| url(&mut random)).collect();
        let channels = (0..CHANNELS).map(|i| channel(&mut random, i)).collect();
        Self { config, group: group(&config), filler, hot_urls, channels }
    }

    /// The first `count` events, in the order of the log.
    pub fn events(&self, count: u64) -> impl Iterator<Item = Event<'_>> {
        (0..count).map(|position| self.event(position))
    }

    /// The event that stands at `position`, counted over all three topics.
    pub fn event(&self, position: u64) -> Event<'_> {
        // A group's events are visited in steps of a prime, as the published generator does it: bounded, without a buffer, the same for all seeds.
        let number = position / self.group * self.group + (position * DISORDER_STEP) % self.group;
        let mut random = Random::new(self.config.seed, number);
        match number % EPOCH {
            n if n < PERSONS => Event::Person(self.person(number, &mut random)),
            n if n < PERSONS + AUCTIONS => Event::Auction(self.auction(number, &mut random)),
            _ => Event::Bid(self.bid(number, &mut random)),
        }
    }

    /// The key and the value of each row of the table of query 13, `nexmark.side_input`: a number and its text, a day older than event 0.
    pub fn side_input(&self) -> impl Iterator<Item = (u64, String)> {
        let time = rfc3339(self.config.start_us - 86_400_000_000);
        (0..SIDE_INPUT_ROWS).map(move |n| (n, format!(r#"{{"key":{n},"value":"{n}","date_time":"{time}"}}"#)))
    }

    fn time_us(&self, number: u64) -> i64 {
        self.config.start_us + (number * 1_000_000 / self.config.events_per_s) as i64
    }

    /// In which as many auctions begin as are in flight: how long an auction is open on average. It is at most 1 ms and twice as long.
    fn horizon_us(&self) -> u64 {
        (AUCTIONS_IN_FLIGHT * EPOCH / AUCTIONS) * 1_000_000 / self.config.events_per_s
    }

    fn person(&self, number: u64, random: &mut Random) -> Person<'_> {
        let name = format!("{} {}", random.one_of(&FIRST_NAMES), random.one_of(&LAST_NAMES));
        let email_address = format!("{}@{}.com", random.text(7, ' '), random.text(5, ' '));
        let card: Vec<String> = (0..4).map(|_| format!("{:04}", random.below(10_000))).collect();
        let credit_card = card.join(" ");
        let (city, state) = (random.one_of(&CITIES), random.one_of(&STATES));
        let bytes = 8 + name.len() + email_address.len() + credit_card.len() + city.len() + state.len();
        let extra = self.filler.cut(random, bytes, PERSON_BYTES);
        let (id, date_time) = (FIRST_PERSON_ID + last_person(number), self.time_us(number));
        Person { id, name, email_address, credit_card, city, state, date_time, extra }
    }

    fn auction(&self, number: u64, random: &mut Random) -> Auction<'_> {
        let date_time = self.time_us(number);
        let hot = random.below(HOT_SELLER_RATIO) > 0;
        let seller = FIRST_PERSON_ID + if hot { last_person(number) / HOT_EVERY * HOT_EVERY } else { some_person(number, random) };
        let category = FIRST_CATEGORY_ID + random.below(CATEGORIES);
        let initial_bid = random.price();
        let expires = date_time + 1_000 + random.below((2 * self.horizon_us()).max(1)) as i64;
        let (item_name, description) = (random.text(20, ' '), random.text(100, ' '));
        let reserve = initial_bid + random.price();
        let extra = self.filler.cut(random, 8 + item_name.len() + description.len() + 40, AUCTION_BYTES);
        let id = FIRST_AUCTION_ID + last_auction(number);
        Auction { id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra }
    }

    fn bid(&self, number: u64, random: &mut Random) -> Bid<'_> {
        let hot = random.below(HOT_AUCTION_RATIO) > 0;
        let auction = FIRST_AUCTION_ID + if hot { last_auction(number) / HOT_EVERY * HOT_EVERY } else { some_auction(number, random) };
        let hot = random.below(HOT_BIDDER_RATIO) > 0;
        let bidder = FIRST_PERSON_ID + if hot { last_person(number) / HOT_EVERY * HOT_EVERY + 1 } else { some_person(number, random) };
        let price = random.price();
        let (channel, url) = if random.below(HOT_CHANNEL_RATIO) > 0 {
            let i = random.below(HOT_CHANNELS.len() as u64) as usize;
            (HOT_CHANNELS[i], self.hot_urls[i].as_str())
        } else {
            let (channel, url) = &self.channels[random.below(u64::from(CHANNELS)) as usize];
            (channel.as_str(), url.as_str())
        };
        let extra = self.filler.cut(random, 32, BID_BYTES);
        Bid { auction, bidder, price, channel, url, date_time: self.time_us(number), extra }
    }
}

/// The events of a group: as many as lie in the time of the disorder. The step must visit each once, so its prime must not divide them.
fn group(config: &GeneratorConfig) -> u64 {
    let events = (config.disorder_us * config.events_per_s / 1_000_000).max(1);
    if events.is_multiple_of(DISORDER_STEP) { events - 1 } else { events }
}

/// Number (from 0) of the newest person when event `number` happens, that event included: an epoch begins with its only person.
fn last_person(number: u64) -> u64 {
    number / EPOCH * PERSONS
}

/// Number (from 0) of the newest auction when event `number`, an auction or a bid, happens, that event included.
fn last_auction(number: u64) -> u64 {
    number / EPOCH * AUCTIONS + (number % EPOCH - PERSONS).min(AUCTIONS - 1)
}

/// An active person, or one of the next to come.
fn some_person(number: u64, random: &mut Random) -> u64 {
    let persons = last_person(number) + 1;
    let active = persons.min(ACTIVE_PERSONS);
    persons - active + random.below(active + ID_LEAD)
}

/// An auction in flight, or one of the next to come.
fn some_auction(number: u64, random: &mut Random) -> u64 {
    let newest = last_auction(number);
    let oldest = newest.saturating_sub(AUCTIONS_IN_FLIGHT);
    oldest + random.below(newest - oldest + 1 + ID_LEAD)
}

fn url(random: &mut Random) -> String {
    let mut folder = || random.text(5, '_');
    format!("https://www.nexmark.com/{}/{}/{}/item.htm?query=1", folder(), folder(), folder())
}

/// Nine of ten channels have an id in their address.
fn channel(random: &mut Random, i: u32) -> (String, String) {
    let mut url = url(random);
    if random.below(10) > 0 {
        url += &format!("&channel_id={}", (i.reverse_bits() as i32).wrapping_abs());
    }
    (format!("channel-{i}"), url)
}

#[cfg(test)]
#[allow(unused_imports, reason = "a bench without the test harness drops the tests and keeps their module")]
mod tests {
    use super::{super::event::Topic, *};
    use std::collections::HashMap;

    fn generator(events_per_s: u64) -> Generator {
        Generator::new(GeneratorConfig { events_per_s, ..GeneratorConfig::default() })
    }

    #[test]
    fn of_fifty_events_one_is_a_person_and_three_are_auctions() {
        let generator = generator(200);
        let count = |topic| generator.events(8_000).filter(|e| e.topic() == topic).count();
        assert_eq!(Topic::ALL.map(count), [160, 480, 7_360]);
    }

    #[test]
    fn every_event_comes_once_and_less_than_four_seconds_behind() {
        for rate in [1, 200, 953, 10_000] {
            let generator = generator(rate);
            let mut times: Vec<i64> = generator.events(80_000).map(|e| e.date_time()).collect();
            let mut newest = i64::MIN;
            let mut behind_max = 0;
            for time in &times {
                newest = newest.max(*time);
                behind_max = behind_max.max(newest - time);
            }
            assert!(behind_max < 4_000_000, "at {rate} events a second one is {behind_max} us behind");
            assert!(rate < 200 || behind_max > 2_900_000, "at {rate} events a second none is more than {behind_max} us behind");
            times.sort_unstable();
            assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "two events have one time");
        }
    }

    /// So the joins of `queries/` may have them, where the published ones are unbounded.
    #[test]
    fn bids_and_sellers_come_within_the_bounds_of_the_queries() {
        let generator = generator(200);
        let events: Vec<Event<'_>> = generator.events(200_000).collect();
        let mut began = [HashMap::new(), HashMap::new()];
        for event in &events {
            match event {
                Event::Person(p) => began[0].insert(p.id, p.date_time),
                Event::Auction(a) => began[1].insert(a.id, a.date_time),
                Event::Bid(_) => None,
            };
        }
        let after = |kind: usize, id: u64, time: i64| began[kind].get(&id).map(|start: &i64| (time - start) as f64 / 1e6);
        let sellers = events.iter().filter_map(|e| if let Event::Auction(a) = e { after(0, a.seller, a.date_time) } else { None });
        let bids = events.iter().filter_map(|e| if let Event::Bid(b) = e { after(1, b.auction, b.date_time) } else { None });
        assert!(sellers.clone().count() > 10_000 && sellers.clone().all(|s| (-60.0..=600.0).contains(&s)));
        assert!(bids.clone().count() > 150_000 && bids.clone().all(|s| (-2.0..=20.0).contains(&s)));
        assert!(1_000 + 2 * generator.horizon_us() < 20_000_000);
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_gives_others() {
        let text = |seed| {
            let generator = Generator::new(GeneratorConfig { seed, ..GeneratorConfig::default() });
            generator.events(200).fold(String::new(), |mut text, event| {
                event.push_json(&mut text);
                text
            })
        };
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }

    #[test]
    fn half_of_the_bids_go_to_the_hot_auction_and_three_of_four_come_from_the_hot_bidder() {
        let generator = generator(10_000);
        let bids: Vec<Bid<'_>> = generator.events(40_000).filter_map(|e| if let Event::Bid(b) = e { Some(b) } else { None }).collect();
        let share = |hot: usize| hot as f64 / bids.len() as f64;
        let auctions = share(bids.iter().filter(|b| b.auction % HOT_EVERY == 0).count());
        let bidders = share(bids.iter().filter(|b| b.bidder % HOT_EVERY == 1).count());
        assert!((0.49..0.53).contains(&auctions), "{auctions}");
        assert!((0.74..0.78).contains(&bidders), "{bidders}");
    }
}

//! The past: each subscriber day by day, with what he does and whether he leaves.

use super::{
    DAY_US, MINUTE_US, PAST_DAYS, SECOND_US,
    people::{NODES, Person, RISE_DAY, RISEN_PLAN},
    rng::Rng,
};

/// Nobody leaves before this day: his features would say nothing yet.
const FIRST_LEAVING_DAY: usize = 31;
/// Sliders have not logged in since this day.
const SLIDERS_SILENT_DAY: usize = PAST_DAYS - 16;
/// Before `now`, every subscriber's line has reported at short intervals for this long, so that each has a baseline.
const INTERIM_US: i64 = 10 * MINUTE_US;
const INTERIM_RECORDS: i64 = 12;
/// Share of a day's bytes in each hour, UTC; evenings are busy.
const HOURS: [f64; 24] = [3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 5.0, 5.0, 4.0, 4.0, 5.0, 6.0, 8.0, 9.0, 10.0, 10.0, 8.0, 5.0];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fact {
    pub time_us: i64,
    pub person: usize,
    pub happening: Happening,
}

/// What happened, as small as it can be kept; `payload` makes the event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Happening {
    /// The subscriber's record, new or changed.
    Record {
        price_minor: i64,
        tenure_days: i64,
    },
    DayTotal {
        bytes: f64,
    },
    Interim {
        bytes: f64,
    },
    Login {
        ok: bool,
        north_deg: f64,
        east_deg: f64,
    },
    /// From an account that somebody else uses far away.
    ForeignLogin,
    Payment {
        failed: bool,
        amount_minor: i64,
        invoice: usize,
    },
    StolenCard {
        card: usize,
        amount_minor: i64,
    },
    Ticket {
        action: &'static str,
        number: usize,
    },
    Subscription {
        action: &'static str,
        price_minor: i64,
        reason: &'static str,
    },
    Session {
        action: &'static str,
        cause: Option<&'static str>,
    },
    NodeUp {
        node: usize,
    },
}

/// Every subscriber's past up to `now_us`, sorted, and when he cancelled.
pub(super) fn simulate(seed: u64, now_us: i64, people: &[Person]) -> (Vec<Fact>, Vec<Option<i64>>) {
    let mut facts = Vec::with_capacity(people.len() * 160);
    let mut cancelled = Vec::with_capacity(people.len());
    for (n, person) in people.iter().enumerate() {
        let life = Life {
            person: n,
            traits: person,
            rng: Rng::new(seed, 1_000 + n as u64),
            midnight_us: now_us - now_us.rem_euclid(DAY_US) - PAST_DAYS as i64 * DAY_US,
            facts: Vec::new(),
            seen: Seen::default(),
        };
        let (own, left_us) = life.live_through(now_us);
        facts.extend(own);
        cancelled.push(left_us);
    }
    facts.extend((0..NODES).map(|node| Fact {
        time_us: now_us - MINUTE_US + node as i64 * SECOND_US,
        person: usize::MAX,
        happening: Happening::NodeUp { node },
    }));
    // Stable: what one subscriber did at one instant stays in the order in which he did it.
    facts.sort_by_key(|f| (f.time_us, f.person));
    (facts, cancelled)
}

/// What the law of leaving looks at.
#[derive(Default)]
struct Seen {
    bytes: Vec<f64>,
    failures: Vec<usize>,
    tickets: Vec<usize>,
    drops: Vec<usize>,
    last_login: usize,
}

impl Seen {
    fn decline(&self, day: usize) -> f64 {
        let sum = |from: usize, to: usize| self.bytes[from..to].iter().sum::<f64>();
        if day < 60 { 0.0 } else { 1.0 - sum(day - 30, day) / sum(day - 60, day - 30).max(1.0) }
    }

    fn recent(days: &[usize], day: usize) -> f64 {
        days.iter().filter(|d| day - **d <= 90).count() as f64
    }

    /// Probability of leaving within the 30 days after `day`.
    fn leaves_in_30_days(&self, person: &Person, day: usize) -> f64 {
        let rise = if person.plan == RISEN_PLAN && day >= RISE_DAY { super::people::RISE } else { 0.0 };
        let log_odds = -6.2
            + 5.0 * self.decline(day).max(-0.5)
            + 0.10 * (day - self.last_login).min(40) as f64
            + 0.9 * Self::recent(&self.failures, day)
            + 0.75 * Self::recent(&self.tickets, day)
            + 0.15 * Self::recent(&self.drops, day)
            - 0.02 * (person.tenure_days as f64 + day as f64) / 30.4
            + 9.0 * rise
            + person.restlessness;
        1.0 / (1.0 + (-log_odds).exp())
    }
}

struct Life<'a> {
    person: usize,
    traits: &'a Person,
    rng: Rng,
    midnight_us: i64,
    facts: Vec<Fact>,
    seen: Seen,
}

impl Life<'_> {
    fn live_through(mut self, now_us: i64) -> (Vec<Fact>, Option<i64>) {
        let start = self.midnight_us;
        let price_minor = self.traits.price_minor(0);
        self.push(start, Happening::Record { price_minor, tenure_days: self.traits.tenure_days });
        self.push(start + SECOND_US, Happening::Subscription { action: "renewed", price_minor, reason: "start" });
        let mut left_us = None;
        for day in 0..=PAST_DAYS {
            self.day(day);
            if day >= FIRST_LEAVING_DAY && !self.traits.slider && self.leaves(day) {
                left_us = Some(self.time(day)).filter(|t| *t < now_us);
                break;
            }
        }
        let end_us = left_us.unwrap_or(now_us);
        self.facts.retain(|f| f.time_us < end_us);
        match left_us {
            Some(t) => self.push(t, Happening::Subscription { action: "cancelled", price_minor: 0, reason: "customer" }),
            None => self.interims(now_us),
        }
        (self.facts, left_us)
    }

    fn push(&mut self, time_us: i64, happening: Happening) {
        self.facts.push(Fact { time_us, person: self.person, happening });
    }

    /// An instant of `day`, in a busy hour more likely than in a quiet one.
    fn time(&mut self, day: usize) -> i64 {
        let mut left = self.rng.uniform() * HOURS.iter().sum::<f64>();
        let hour = HOURS
            .iter()
            .position(|w| {
                left -= w;
                left < 0.0
            })
            .unwrap_or(23);
        self.midnight_us + day as i64 * DAY_US + ((hour as f64 + self.rng.uniform()) * 3.6e9) as i64
    }

    fn day(&mut self, day: usize) {
        let engagement = self.traits.engagement(day);
        self.use_line(day, engagement);
        self.log_in(day, engagement);
        self.pay(day);
        self.complain(day, engagement);
        if day == RISE_DAY && self.traits.plan == RISEN_PLAN {
            let (at, price_minor) = (self.midnight_us + day as i64 * DAY_US, self.traits.price_minor(day));
            self.push(at, Happening::Record { price_minor, tenure_days: self.traits.tenure_days });
            self.push(at, Happening::Subscription { action: "renewed", price_minor, reason: "price_rise" });
        }
    }

    fn use_line(&mut self, day: usize, engagement: f64) {
        let weekend = if day % 7 >= 5 { 1.25 } else { 1.0 };
        let bytes = self.traits.daily_bytes * engagement * weekend * self.rng.spread(0.35);
        let active = self.rng.chance(0.88 * (0.4 + 0.6 * engagement));
        self.seen.bytes.push(if active { bytes } else { 0.0 });
        if active {
            let at = self.time(day);
            self.push(at, Happening::DayTotal { bytes });
        }
    }

    fn log_in(&mut self, day: usize, engagement: f64) {
        let comes = match self.traits.slider {
            true => day < SLIDERS_SILENT_DAY && day.is_multiple_of(3),
            false => self.rng.chance((1.0 / self.traits.login_gap_days).min(0.9) * engagement),
        };
        if !comes {
            return;
        }
        let ok = self.rng.chance(0.97) || self.traits.slider;
        let (at, north_deg, east_deg) = (self.time(day), self.rng.between(-0.05, 0.05), self.rng.between(-0.05, 0.05));
        self.push(at, Happening::Login { ok, north_deg, east_deg });
        if ok {
            self.seen.last_login = day;
        }
    }

    /// Monthly, and once more on the next two days when it failed.
    fn pay(&mut self, day: usize) {
        if day % 30 != self.traits.pay_day {
            return;
        }
        for attempt in 0..3 {
            let failed = self.rng.chance(self.traits.failure_share);
            let at = self.time(day + attempt);
            self.push(at, Happening::Payment { failed, amount_minor: self.traits.price_minor(day), invoice: day / 30 });
            if !failed {
                break;
            }
            self.seen.failures.push(day);
        }
    }

    /// Lines drop now and then, and more often before somebody opens a ticket.
    fn complain(&mut self, day: usize, engagement: f64) {
        let complains = self.rng.chance(self.traits.tickets_per_day * (2.0 - engagement));
        let drops = if complains { 1 + self.rng.below(2) } else { usize::from(self.rng.chance(0.01)) };
        for _ in 0..drops {
            let at = self.time(day);
            self.push(at, Happening::Session { action: "stop", cause: Some("Lost-Carrier") });
            self.seen.drops.push(day);
        }
        if complains {
            let opened = self.time(day);
            let closed = opened + (self.rng.between(0.2, 3.0) * DAY_US as f64) as i64;
            self.push(opened, Happening::Ticket { action: "opened", number: day });
            self.push(closed, Happening::Ticket { action: "closed", number: day });
            self.seen.tickets.push(day);
        }
    }

    /// Each day's share of the 30-day probability.
    fn leaves(&mut self, day: usize) -> bool {
        let stays_30_days = 1.0 - self.seen.leaves_in_30_days(self.traits, day);
        self.rng.chance(1.0 - stays_30_days.powf(1.0 / 30.0))
    }

    /// The last minutes before `now_us`, at short intervals.
    fn interims(&mut self, now_us: i64) {
        let step = INTERIM_US / INTERIM_RECORDS;
        for n in 0..INTERIM_RECORDS {
            let at = now_us - INTERIM_US + n * step + (self.rng.uniform() * step as f64) as i64;
            let bytes = interim_bytes(self.traits, &mut self.rng);
            self.push(at, Happening::Interim { bytes });
        }
    }
}

/// Bytes of ten seconds of a line in use.
pub(super) fn interim_bytes(person: &Person, rng: &mut Rng) -> f64 {
    person.daily_bytes * person.engagement(PAST_DAYS) / 8_640.0 * rng.spread(0.35)
}

//! The live stream: everyday events at a steady rate, and among them the story, minute after minute.

use super::{
    DemoEvent, MINUTE_US, PAST_DAYS, SECOND_US, Story,
    past::{Happening, interim_bytes},
    payload,
    people::{NODES, Person, risen},
    rng::Rng,
};
use std::collections::{HashMap, VecDeque};

/// The story repeats with this period.
const CYCLE_US: i64 = MINUTE_US;
const SLIDERS_PER_CYCLE: usize = 6;
/// What those who slide are asked to pay more, and what brings half of them back.
const SLIDERS_RISE: f64 = 0.15;
const OFFER: f64 = -0.30;
const OUTAGE_FROM_US: i64 = 12 * SECOND_US;
const OUTAGE_TO_US: i64 = 30 * SECOND_US;

/// An event and when it is due.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveEvent {
    /// Microseconds after the start; never less than that of the event before.
    pub due_us: i64,
    pub event: DemoEvent,
}

/// Iterator without end; see [`Story::live`].
pub struct Live<'a> {
    story: &'a Story,
    start_us: i64,
    rng: Rng,
    /// Mean gap between background events.
    gap_us: f64,
    background_due_us: f64,
    sequence: u64,
    cycle: usize,
    /// What the story still does in this cycle, in order.
    script: VecDeque<(i64, Actor, Happening)>,
    ordinary: Vec<usize>,
    sliders: Vec<usize>,
    /// Accounts that somebody far away uses, and since when.
    shared_since_us: HashMap<usize, i64>,
    /// The node that fails in this cycle.
    failing_node: usize,
}

#[derive(Clone, Copy)]
enum Actor {
    Person(usize),
    Node { node: usize, up: f64 },
}

impl<'a> Live<'a> {
    pub(super) fn new(story: &'a Story, start_us: i64, rate: f64) -> Self {
        let staying =
            |slider: bool| (0..story.people.len()).filter(|&n| story.people[n].slider == slider && story.cancelled_us[n].is_none()).collect::<Vec<_>>();
        let mut live = Self {
            story,
            start_us,
            rng: Rng::new(story.seed, 2),
            gap_us: 1e6 / rate.max(0.001),
            background_due_us: 0.0,
            sequence: 0,
            cycle: 0,
            script: VecDeque::new(),
            ordinary: staying(false),
            sliders: staying(true),
            shared_since_us: HashMap::new(),
            failing_node: 0,
        };
        live.write_script();
        live
    }

    /// The story of this cycle. The first keeps its times to the second, later ones vary.
    fn write_script(&mut self) {
        let base = self.cycle as i64 * CYCLE_US;
        let mut script = Vec::new();
        if !self.ordinary.is_empty() {
            self.spike(base, &mut script);
            self.share_account(base, &mut script);
            self.defraud(base, &mut script);
        }
        self.slide(base, &mut script);
        self.fail_node(base, &mut script);
        script.sort_by_key(|(due, ..)| *due);
        self.script = script.into();
    }

    /// `seconds` into the cycle; after the first, up to a second later.
    fn at(&mut self, base: i64, seconds: f64) -> i64 {
        let variation = if self.cycle == 0 { 0.0 } else { self.rng.uniform() };
        base + ((seconds + variation) * 1e6) as i64
    }

    fn pick(&mut self) -> usize {
        self.ordinary[self.rng.below(self.ordinary.len())]
    }

    fn spike(&mut self, base: i64, script: &mut Vec<(i64, Actor, Happening)>) {
        let (at, who) = (self.at(base, 3.0), self.pick());
        script.push((at, Actor::Person(who), Happening::Interim { bytes: self.rng.between(4e8, 9e8) }));
    }

    fn share_account(&mut self, base: i64, script: &mut Vec<(i64, Actor, Happening)>) {
        let (at, who) = (self.at(base, 4.0), self.pick());
        script.push((at - 400_000, Actor::Person(who), Happening::Login { ok: true, north_deg: 0.0, east_deg: 0.0 }));
        script.push((at, Actor::Person(who), Happening::ForeignLogin));
        self.shared_since_us.insert(who, at);
    }

    fn defraud(&mut self, base: i64, script: &mut Vec<(i64, Actor, Happening)>) {
        let (at, who) = (self.at(base, 8.0), self.pick());
        for card in 0..6 {
            let amount_minor = 1_000 + self.rng.below(20_000) as i64;
            script.push((at + card as i64 * 400_000, Actor::Person(who), Happening::StolenCard { card, amount_minor }));
        }
    }

    /// Those whose turn it is get a price rise, two failed payments and three tickets; later half of them are won back.
    fn slide(&mut self, base: i64, script: &mut Vec<(i64, Actor, Happening)>) {
        let first = self.cycle * SLIDERS_PER_CYCLE;
        for turn in 0..SLIDERS_PER_CYCLE.min(self.sliders.len()) {
            let who = self.sliders[(first + turn) % self.sliders.len()];
            let person = &self.story.people[who];
            let (tenure_days, price_minor) = (person.tenure_days + PAST_DAYS as i64, risen(person.price_minor(PAST_DAYS), SLIDERS_RISE));
            let at = self.at(base, 5.0) + turn as i64 * 60_000;
            let invoice = 100 + self.cycle;
            let failed = Happening::Payment { failed: true, amount_minor: price_minor, invoice };
            let mut happenings = vec![
                Happening::Record { price_minor, tenure_days },
                Happening::Subscription { action: "renewed", price_minor, reason: "price_rise" },
                failed,
                failed,
            ];
            happenings.extend((0..3).map(|n| Happening::Ticket { action: "opened", number: 1_000 + 10 * self.cycle + n }));
            script.extend(happenings.into_iter().enumerate().map(|(n, h)| (at + n as i64 * 150_000, Actor::Person(who), h)));
            if turn % 2 == 1 {
                let back = self.at(base, 40.0) + turn as i64 * 500_000;
                let offered = risen(person.price_minor(PAST_DAYS), OFFER);
                let won = [
                    Happening::Login { ok: true, north_deg: 0.0, east_deg: 0.0 },
                    Happening::Subscription { action: "renewed", price_minor: offered, reason: "retention_offer" },
                    Happening::Record { price_minor: offered, tenure_days },
                    Happening::Payment { failed: false, amount_minor: offered, invoice },
                ];
                script.extend(won.into_iter().enumerate().map(|(n, h)| (back + n as i64 * 300_000, Actor::Person(who), h)));
            }
        }
    }

    /// The node says that it is down, and the sessions behind it end; later it says that it is up, and they begin again.
    fn fail_node(&mut self, base: i64, script: &mut Vec<(i64, Actor, Happening)>) {
        let node = self.rng.below(NODES);
        self.failing_node = node;
        script.push((base + OUTAGE_FROM_US, Actor::Node { node, up: 0.0 }, Happening::NodeUp { node }));
        script.push((base + OUTAGE_TO_US, Actor::Node { node, up: 1.0 }, Happening::NodeUp { node }));
        let behind: Vec<usize> = self.ordinary.iter().chain(&self.sliders).copied().filter(|&n| self.story.people[n].node == node).collect();
        for who in behind {
            let (stop, start) = (self.rng.between(0.1e6, 2e6) as i64, self.rng.between(0.5e6, 5e6) as i64);
            script.push((base + OUTAGE_FROM_US + stop, Actor::Person(who), Happening::Session { action: "stop", cause: Some("Lost-Carrier") }));
            script.push((base + OUTAGE_TO_US + start, Actor::Person(who), Happening::Session { action: "start", cause: None }));
        }
    }

    fn down(&self, node: usize, due_us: i64) -> bool {
        node == self.failing_node && (OUTAGE_FROM_US..OUTAGE_TO_US).contains(&(due_us - self.cycle as i64 * CYCLE_US))
    }

    /// One everyday event.
    fn everyday(&mut self, due_us: i64) -> (Actor, Happening) {
        let kind = self.rng.uniform();
        if kind < 0.02 || self.ordinary.is_empty() {
            let node = self.rng.below(NODES);
            return (Actor::Node { node, up: if self.down(node, due_us) { 0.0 } else { 1.0 } }, Happening::NodeUp { node });
        }
        let who = self.pick();
        let person = &self.story.people[who];
        let happening = match kind {
            k if k < 0.05 => {
                // Who used to log in often does so now; who had gone quiet stays quiet.
                if !self.rng.chance((3.0 / person.login_gap_days).min(1.0) * person.engagement(PAST_DAYS)) {
                    return self.everyday_usage(due_us);
                }
                self.everyday_login(who, due_us)
            }
            k if k < 0.06 => Happening::Payment { failed: self.rng.chance(0.02), amount_minor: person.price_minor(PAST_DAYS), invoice: 4 },
            k if k < 0.065 => Happening::Ticket { action: if self.rng.chance(0.03) { "opened" } else { "updated" }, number: PAST_DAYS + 1 },
            k if k < 0.075 => Happening::Subscription { action: "renewed", price_minor: person.price_minor(PAST_DAYS), reason: "monthly" },
            k if k < 0.085 && !self.down(person.node, due_us) => Happening::Session { action: "interim", cause: None },
            _ => return self.everyday_usage(due_us),
        };
        (Actor::Person(who), happening)
    }

    fn everyday_login(&mut self, who: usize, due_us: i64) -> Happening {
        if self.shared_since_us.get(&who).is_some_and(|since| *since <= due_us) {
            return Happening::ForeignLogin;
        }
        Happening::Login { ok: self.rng.chance(0.97), north_deg: self.rng.between(-0.05, 0.05), east_deg: self.rng.between(-0.05, 0.05) }
    }

    /// Of somebody whose node is up: sliders too, they use their lines little but they do.
    fn everyday_usage(&mut self, due_us: i64) -> (Actor, Happening) {
        let up = |live: &Self, who: usize| !live.down(live.story.people[who].node, due_us);
        let all = self.ordinary.len() + self.sliders.len();
        let first = self.rng.below(all);
        let nth = |live: &Self, n: usize| live.ordinary.get(n).copied().unwrap_or_else(|| live.sliders[n - live.ordinary.len()]);
        let who = (0..all).map(|step| nth(self, (first + step) % all)).find(|&who| up(self, who)).unwrap_or_else(|| nth(self, first));
        let person: &Person = &self.story.people[who];
        (Actor::Person(who), Happening::Interim { bytes: interim_bytes(person, &mut self.rng) })
    }

    fn event(&mut self, due_us: i64, actor: Actor, happening: Happening) -> LiveEvent {
        self.sequence += 1;
        // The start is part of the id: a demo that is started again on its folder sends new events, not repeated ones.
        let id = format!("l{:x}-{}", self.start_us / SECOND_US, self.sequence);
        let time_us = self.start_us + due_us;
        let event = match actor {
            Actor::Node { node, up } => payload::network(&id, time_us, node, "up", up),
            Actor::Person(who) => payload::of_subscriber(&id, time_us, &self.story.people[who], happening),
        };
        LiveEvent { due_us, event }
    }
}

impl Iterator for Live<'_> {
    type Item = LiveEvent;

    fn next(&mut self) -> Option<LiveEvent> {
        let background_us = self.background_due_us as i64;
        let cycle_end_us = (self.cycle as i64 + 1) * CYCLE_US;
        if let Some((due_us, actor, happening)) = self.script.pop_front_if(|(due, ..)| *due <= background_us.min(cycle_end_us)) {
            return Some(self.event(due_us, actor, happening));
        }
        if background_us >= cycle_end_us {
            self.cycle += 1;
            self.write_script();
            return self.next();
        }
        self.background_due_us += self.gap_us * self.rng.between(0.5, 1.5);
        let (actor, happening) = self.everyday(background_us);
        Some(self.event(background_us, actor, happening))
    }
}

//! Who the subscribers are: where they live, what they pay for, and the traits that nobody measures but that show
//! in their events.

use super::{PAST_DAYS, rng::Rng};

pub(super) struct Region {
    pub name: &'static str,
    pub city: &'static str,
    pub latitude: f64,
    pub longitude: f64,
}

pub(super) const REGIONS: [Region; 3] = [
    Region { name: "north", city: "Porto", latitude: 41.1496, longitude: -8.611 },
    Region { name: "coast", city: "Lisbon", latitude: 38.7223, longitude: -9.1393 },
    Region { name: "valley", city: "Vila Real", latitude: 41.3006, longitude: -7.7441 },
];
pub(super) const NODES_PER_REGION: usize = 8;
pub(super) const NODES: usize = REGIONS.len() * NODES_PER_REGION;

pub(super) struct Plan {
    pub id: &'static str,
    pub speed_mbps: i64,
    pub price_minor: i64,
}

pub(super) const PLANS: [Plan; 4] = [
    Plan { id: "basic-100", speed_mbps: 100, price_minor: 2_490 },
    Plan { id: "plus-300", speed_mbps: 300, price_minor: 3_490 },
    Plan { id: "fiber-600", speed_mbps: 600, price_minor: 4_490 },
    Plan { id: "giga-1000", speed_mbps: 1_000, price_minor: 5_990 },
];
/// The plan whose price rose in the past, the day, and by how much.
pub(super) const RISEN_PLAN: usize = 1;
pub(super) const RISE_DAY: usize = 75;
pub(super) const RISE: f64 = 0.12;

/// Those who can slide in the live story: one in this many.
const SLIDER_EVERY: usize = 33;

pub(super) struct Person {
    pub id: String,
    pub region: usize,
    pub node: usize,
    pub plan: usize,
    /// Days of contract when the past begins.
    pub tenure_days: i64,
    pub daily_bytes: f64,
    pub login_gap_days: f64,
    pub failure_share: f64,
    pub tickets_per_day: f64,
    /// Log-odds of leaving that nothing in the data explains.
    pub restlessness: f64,
    pub decline: Option<Decline>,
    pub pay_day: usize,
    /// Had gone quiet but stays; the live story gives him the last push.
    pub slider: bool,
}

/// Use falls by `depth` over `ramp_days` from `onset_day` on.
pub(super) struct Decline {
    pub onset_day: usize,
    pub ramp_days: f64,
    pub depth: f64,
}

impl Person {
    /// Share of his usual use on `day`, without chance.
    pub(super) fn engagement(&self, day: usize) -> f64 {
        self.decline.as_ref().map_or(1.0, |d| {
            let days = day.saturating_sub(d.onset_day) as f64;
            1.0 - d.depth * (days / d.ramp_days).min(1.0)
        })
    }

    pub(super) fn price_minor(&self, day: usize) -> i64 {
        let price = PLANS[self.plan].price_minor;
        if self.plan == RISEN_PLAN && day >= RISE_DAY { risen(price, RISE) } else { price }
    }

    pub(super) fn region_name(&self) -> &'static str {
        REGIONS[self.region].name
    }
}

pub(super) fn risen(price_minor: i64, share: f64) -> i64 {
    (price_minor as f64 * (1.0 + share)).round() as i64
}

pub(super) fn node_id(node: usize) -> String {
    format!("olt-{}-{}", REGIONS[node / NODES_PER_REGION].name, node % NODES_PER_REGION + 1)
}

pub(super) fn people(seed: u64, subscribers: usize) -> Vec<Person> {
    let mut rng = Rng::new(seed, 1);
    (0..subscribers).map(|n| if n % SLIDER_EVERY == SLIDER_EVERY - 1 { slider(n, &mut rng) } else { ordinary(n, &mut rng) }).collect()
}

fn ordinary(n: usize, rng: &mut Rng) -> Person {
    let node = rng.below(NODES);
    let plan = [0, 0, 1, 1, 1, 2, 2, 3][rng.below(8)];
    let troubled = rng.chance(0.12);
    let declines = rng.chance(0.30);
    Person {
        id: format!("s{n:05}"),
        region: node / NODES_PER_REGION,
        node,
        plan,
        tenure_days: (2_600.0 * rng.uniform() * rng.uniform()) as i64 + 10,
        daily_bytes: (2.5e9 * (1.0 + plan as f64) * rng.spread(0.6)).min(6e10),
        login_gap_days: 4.5 * rng.spread(0.5),
        failure_share: if rng.chance(0.12) { 0.45 } else { 0.03 },
        tickets_per_day: if troubled { 0.035 } else { 0.005 },
        restlessness: 0.5 * rng.normal(),
        decline: declines.then(|| Decline { onset_day: 10 + rng.below(PAST_DAYS - 20), ramp_days: rng.between(5.0, 35.0), depth: rng.between(0.4, 0.97) }),
        pay_day: rng.below(30),
        slider: false,
    }
}

fn slider(n: usize, rng: &mut Rng) -> Person {
    let decline = Decline { onset_day: PAST_DAYS - 31, ramp_days: 5.0, depth: rng.between(0.48, 0.58) };
    Person {
        tenure_days: rng.between(100.0, 400.0) as i64,
        login_gap_days: 4.0,
        failure_share: 0.0,
        tickets_per_day: 0.0,
        decline: Some(decline),
        slider: true,
        ..ordinary(n, rng)
    }
}

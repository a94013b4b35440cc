#![allow(clippy::unwrap_used)]

use super::*;
use models::{ChurnModel, TrainOptions, train};
use schemas::event::event_type;
use std::collections::{BTreeMap, HashMap, HashSet};
use xxhash_rust::xxh3::Xxh3;

/// 2026-11-21T17:42:13Z.
const NOW_US: i64 = 1_795_282_933_000_000;

fn story(seed: u64) -> Story {
    Story::new(seed, NOW_US, SUBSCRIBERS_DEFAULT)
}

fn live(story: &Story, seconds: i64) -> Vec<LiveEvent> {
    story.live(NOW_US, RATE_DEFAULT).take_while(|e| e.due_us < seconds * SECOND_US).collect()
}

fn hash(events: impl Iterator<Item = DemoEvent>) -> u64 {
    let mut hash = Xxh3::new();
    events.for_each(|e| hash.update(format!("{} {} {}", e.event, e.event_time_us, e.payload).as_bytes()));
    hash.digest()
}

fn text<'a>(e: &'a DemoEvent, field: &str) -> &'a str {
    e.payload[field].as_str().unwrap_or_default()
}

#[test]
fn the_same_seed_tells_the_same_story_and_another_seed_another() {
    let told = |seed| {
        let story = Story::new(seed, NOW_US, 300);
        (hash(story.past()), hash(live(&story, 70).into_iter().map(|e| e.event)))
    };
    assert_eq!(told(7), told(7));
    assert_ne!(told(7), told(8));
}

#[test]
fn every_event_passes_the_check_of_its_type_and_says_its_own_time() {
    let story = story(7);
    let mut ids = HashSet::new();
    for e in story.past().chain(live(&story, 130).into_iter().map(|e| e.event)) {
        event_type(e.event).unwrap().check(&e.payload).unwrap_or_else(|fault| panic!("{fault}: {}", e.payload));
        assert_eq!(schemas::clock::parse_rfc3339(text(&e, "event_time")).unwrap(), e.event_time_us);
        assert_eq!(text(&e, "tenant"), TENANT);
        assert!(ids.insert(text(&e, "event_id").to_owned()), "{}", e.payload);
    }
}

#[test]
fn the_past_is_sorted_ends_before_now_and_has_its_size() {
    let story = story(7);
    let mut before = i64::MIN;
    let mut counts = BTreeMap::new();
    for e in story.past() {
        assert!(before <= e.event_time_us && e.event_time_us < NOW_US, "{}", e.payload);
        before = e.event_time_us;
        *counts.entry(e.event).or_insert(0) += 1;
    }
    eprintln!("past: {} events {counts:?}, {} cancelled", story.past_len(), story.churned().len());
    assert!((200_000..=320_000).contains(&story.past_len()), "{}", story.past_len());
    assert!((100..400).contains(&story.churned().len()), "{}", story.churned().len());
}

#[test]
fn who_cancelled_emits_nothing_afterwards() {
    let story = story(7);
    let churned: HashMap<String, i64> = story.churned().into_iter().collect();
    let mut cancellations = 0;
    for e in story.past().chain(live(&story, 130).into_iter().map(|e| e.event)) {
        if let Some(&left) = churned.get(text(&e, "subscriber_id")) {
            assert!(e.event_time_us <= left, "{}", e.payload);
            cancellations += usize::from(text(&e, "action") == "cancelled");
        }
    }
    assert_eq!(cancellations, churned.len());
}

#[test]
fn live_events_come_in_the_order_in_which_they_are_due_and_at_the_rate() {
    let story = story(7);
    let events = live(&story, 120);
    assert!(events.is_sorted_by_key(|e| e.due_us));
    let rate = events.len() as f64 / 120.0;
    assert!((380.0..440.0).contains(&rate), "{rate}");
    assert!(events.iter().all(|e| e.event.event_time_us == NOW_US + e.due_us));
}

#[test]
fn the_first_minute_keeps_its_times() {
    let story = story(7);
    let events = live(&story, 60);
    let due = |test: &dyn Fn(&DemoEvent) -> bool| events.iter().filter(|e| test(&e.event)).map(|e| e.due_us / SECOND_US).collect::<Vec<_>>();
    assert_eq!(due(&|e| e.payload["bytes_down"].as_i64() > Some(300_000_000)), [3]);
    assert_eq!(due(&|e| text(e, "country") == "SG")[0], 4);
    assert_eq!(due(&|e| text(e, "reason") == "price_rise").len(), 6);
    assert_eq!(due(&|e| text(e, "reason") == "price_rise")[0], 5);
    let fraud = events.iter().filter(|e| ["stolen_card", "do_not_honor", "pickup_card"].contains(&text(&e.event, "failure_code"))).collect::<Vec<_>>();
    let cards: HashSet<&str> = fraud.iter().map(|e| text(&e.event, "method")).collect();
    assert_eq!((fraud[0].due_us / SECOND_US, fraud.len(), cards.len()), (8, 6, 6));
    assert_eq!(due(&|e| e.payload["value"] == 0.0)[0], 12);
}

#[test]
fn while_a_node_is_down_nobody_behind_it_uses_his_line() {
    let story = story(7);
    let events = live(&story, 60);
    let down = events.iter().find(|e| e.event.payload["value"] == 0.0).unwrap();
    let node = text(&down.event, "node_id").to_owned();
    let of_node = |from: i64, to: i64, event: &str| {
        events.iter().filter(|e| e.event.event == event && text(&e.event, "node_id") == node && (from * SECOND_US..to * SECOND_US).contains(&e.due_us)).count()
    };
    assert!(of_node(0, 12, "usage") > 50 && of_node(35, 60, "usage") > 100);
    assert_eq!(of_node(12, 30, "usage"), 0);
    let ended = events.iter().filter(|e| text(&e.event, "terminate_cause") == "Lost-Carrier" && text(&e.event, "node_id") == node).count();
    assert!(ended > 40, "{ended}");
}

const FEATURES: [&str; 7] =
    ["usage_decline_30d", "days_since_login", "payment_failures_90d", "tickets_90d", "session_drops_90d", "contract_age_months", "price_change_90d"];

/// The features of every subscriber at `at_us`, computed here without the engine.
fn features(events: &[DemoEvent], at_us: i64) -> HashMap<String, Vec<Option<f64>>> {
    let day = |e: &DemoEvent| (at_us - e.event_time_us) as f64 / DAY_US as f64;
    let mut people: HashMap<String, [f64; 9]> = HashMap::new();
    for e in events.iter().filter(|e| e.event_time_us < at_us && e.event != "network") {
        let [recent, earlier, login, failures, tickets, drops, since, price, change] =
            people.entry(text(e, "subscriber_id").to_owned()).or_insert([0.0, 0.0, 1e9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        match (e.event, text(e, "outcome"), text(e, "action")) {
            ("usage", ..) if day(e) <= 30.0 => *recent += e.payload["bytes_down"].as_f64().unwrap(),
            ("usage", ..) if day(e) <= 60.0 => *earlier += e.payload["bytes_down"].as_f64().unwrap(),
            ("login", "ok", _) => *login = day(e),
            ("payment", "failed", _) if day(e) <= 90.0 => *failures += 1.0,
            ("ticket", _, "opened") if day(e) <= 90.0 => *tickets += 1.0,
            ("session", _, "stop") if day(e) <= 90.0 => *drops += 1.0,
            ("subscriber", ..) => *since = (at_us - schemas::clock::parse_rfc3339(text(e, "customer_since")).unwrap()) as f64 / DAY_US as f64 / 30.4,
            ("subscription", _, "renewed") => {
                let now = e.payload["price_minor"].as_f64().unwrap();
                *change += if *price > 0.0 && day(e) <= 90.0 { now - *price } else { 0.0 };
                *price = now;
            }
            _ => {}
        }
    }
    let row = |[recent, earlier, login, failures, tickets, drops, since, price, change]: [f64; 9]| {
        let decline = if earlier > 0.0 { 1.0 - recent / earlier } else { 0.0 };
        [decline.max(-1.0), login.min(365.0), failures, tickets, drops, since, change / (price - change).max(1.0)].map(Some).to_vec()
    };
    people.into_iter().map(|(id, sums)| (id, row(sums))).collect()
}

fn trained(story: &Story, past: &[DemoEvent]) -> ChurnModel {
    let churned: HashMap<String, i64> = story.churned().into_iter().collect();
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    for days_ago in [58, 51, 44, 37, 30] {
        let at = NOW_US - days_ago * DAY_US;
        let ordered: BTreeMap<_, _> = features(past, at).into_iter().collect();
        for (id, row) in ordered {
            let left = churned.get(&id).copied().unwrap_or(i64::MAX);
            if left > at {
                rows.push(row);
                labels.push(left <= at + 30 * DAY_US);
            }
        }
    }
    train(&FEATURES.map(str::to_owned), &rows, &labels, TrainOptions::default()).unwrap()
}

#[test]
fn a_model_of_the_past_finds_who_leaves_and_sees_six_subscribers_slide_over_the_threshold() {
    for seed in [7, 42] {
        let story = story(seed);
        let mut events: Vec<DemoEvent> = story.past().collect();
        let model = trained(&story, &events);
        eprintln!("seed {seed}: {:?}\n{:?}", model.metrics, model.weights);
        assert!(model.metrics.auc > 0.8, "{:?}", model.metrics);
        let high = |events: &[DemoEvent], at: i64| {
            let gone: HashSet<String> = story.churned().into_iter().map(|(id, _)| id).collect();
            features(events, at).into_iter().filter(|(id, x)| !gone.contains(id) && model.score(x) >= 0.70).map(|(id, _)| id).collect::<HashSet<_>>()
        };
        let before = high(&events, NOW_US);
        events.extend(live(&story, 7).into_iter().map(|e| e.event));
        let after = high(&events, NOW_US + 7 * SECOND_US);
        let slid: HashSet<String> =
            events.iter().filter(|e| e.event_time_us > NOW_US && text(e, "reason") == "price_rise").map(|e| text(e, "subscriber_id").to_owned()).collect();
        eprintln!("high before {}, after {}", before.len(), after.len());
        assert!(slid.iter().all(|id| !before.contains(id) && after.contains(id)), "{slid:?}");
        events.extend(live(&story, 60).into_iter().map(|e| e.event).filter(|e| e.event_time_us >= NOW_US + 7 * SECOND_US));
        let end = features(&events, NOW_US + 60 * SECOND_US);
        let won_back = slid.iter().filter(|id| model.score(&end[*id]) < 0.65).count();
        assert!((2..=3).contains(&won_back), "{won_back} of {slid:?} won back");
        assert!(before.len() < 60, "{} are high before anything happened", before.len());
    }
}

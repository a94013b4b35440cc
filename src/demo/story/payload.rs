//! Happenings as the operator's systems would send them.

use super::{
    DAY_US, DemoEvent, TENANT,
    past::Happening,
    people::{NODES_PER_REGION, PLANS, Person, REGIONS, node_id},
};
use schemas::clock::rfc3339;
use serde_json::{Value, json};

const SINGAPORE: (f64, f64) = (1.3521, 103.8198);
const FAILURE_CODES: [&str; 3] = ["stolen_card", "do_not_honor", "pickup_card"];

pub(super) fn network(id: &str, time_us: i64, node: usize, metric: &str, value: f64) -> DemoEvent {
    let region = REGIONS[node / NODES_PER_REGION].name;
    let payload =
        json!({"event_id": id, "event_time": rfc3339(time_us), "tenant": TENANT, "node_id": node_id(node), "region": region, "metric": metric, "value": value});
    DemoEvent { event: "network", event_time_us: time_us, payload }
}

pub(super) fn of_subscriber(id: &str, time_us: i64, person: &Person, happening: Happening) -> DemoEvent {
    let (event, fields) = match happening {
        Happening::Record { price_minor, tenure_days } => ("subscriber", record(time_us, person, price_minor, tenure_days)),
        Happening::DayTotal { bytes } => ("usage", usage(person, bytes, "day_total")),
        Happening::Interim { bytes } => ("usage", usage(person, bytes, "interim")),
        Happening::Login { ok, north_deg, east_deg } => ("login", login(person, ok, north_deg, east_deg)),
        Happening::ForeignLogin => ("login", foreign_login(person)),
        Happening::Payment { failed, amount_minor, invoice } => ("payment", payment(person, failed, amount_minor, invoice)),
        Happening::StolenCard { card, amount_minor } => ("payment", stolen_card(card, amount_minor)),
        Happening::Ticket { action, number } => {
            ("ticket", json!({"ticket_id": format!("t-{}-{number}", person.id), "action": action, "priority": "normal", "category": "connection"}))
        }
        Happening::Subscription { action, price_minor, reason } => {
            ("subscription", json!({"action": action, "plan_id": PLANS[person.plan].id, "price_minor": price_minor, "currency": "EUR", "reason": reason}))
        }
        Happening::Session { action, cause } => (
            "session",
            json!({"action": action, "session_id": session_id(person), "node_id": node_id(person.node), "framed_ip": ip(person), "terminate_cause": cause}),
        ),
        // Of no subscriber; made by `network`.
        Happening::NodeUp { node } => return network(id, time_us, node, "up", 1.0),
    };
    let mut payload = json!({"event_id": id, "event_time": rfc3339(time_us), "tenant": TENANT, "subscriber_id": person.id});
    if let (Value::Object(all), Value::Object(more)) = (&mut payload, fields) {
        all.extend(more);
    }
    DemoEvent { event, event_time_us: time_us, payload }
}

fn record(time_us: i64, person: &Person, price_minor: i64, tenure_days: i64) -> Value {
    let plan = &PLANS[person.plan];
    let segment = ["budget", "value seekers", "price-conscious power", "premium power"][person.plan];
    json!({
        "plan_type": plan.id, "speed_mbps": plan.speed_mbps, "price_minor": price_minor, "billing_cycle": "monthly",
        "customer_since": rfc3339(time_us - tenure_days * DAY_US), "region": person.region_name(), "node_id": node_id(person.node),
        "segment": segment, "language": "pt", "currency": "EUR",
    })
}

fn usage(person: &Person, bytes: f64, service: &str) -> Value {
    json!({
        "bytes_down": (bytes * 0.9) as i64, "bytes_up": (bytes * 0.1) as i64, "session_id": session_id(person), "plan_id": PLANS[person.plan].id,
        "region": person.region_name(), "node_id": node_id(person.node), "ip": ip(person), "service": service,
    })
}

fn login(person: &Person, ok: bool, north_deg: f64, east_deg: f64) -> Value {
    let home = &REGIONS[person.region];
    json!({
        "outcome": if ok { "ok" } else { "failed" }, "ip": ip(person), "country": "PT", "city": home.city, "latitude": home.latitude + north_deg,
        "longitude": home.longitude + east_deg, "device_id": format!("d-{}", person.id), "channel": "app",
    })
}

fn foreign_login(person: &Person) -> Value {
    json!({
        "outcome": "ok", "ip": "203.0.113.7", "country": "SG", "city": "Singapore", "latitude": SINGAPORE.0, "longitude": SINGAPORE.1,
        "device_id": format!("d-{}-2", person.id), "channel": "web",
    })
}

fn payment(person: &Person, failed: bool, amount_minor: i64, invoice: usize) -> Value {
    let outcome = if failed { "failed" } else { "ok" };
    json!({
        "outcome": outcome, "amount_minor": amount_minor, "currency": "EUR", "method": format!("card-{}", person.id),
        "failure_code": failed.then_some("insufficient_funds"), "invoice_id": format!("i-{}-{invoice}", person.id),
    })
}

fn stolen_card(card: usize, amount_minor: i64) -> Value {
    json!({"outcome": "failed", "amount_minor": amount_minor, "currency": "EUR", "method": format!("card-{:04}", 1_111 * (card % 9 + 1)), "failure_code": FAILURE_CODES[card % 3]})
}

fn session_id(person: &Person) -> String {
    format!("se-{}", person.id)
}

fn ip(person: &Person) -> String {
    let n = person.id.bytes().fold(0_u32, |n, b| n.wrapping_mul(31).wrapping_add(u32::from(b)));
    format!("10.{}.{}.{}", person.node, n / 250 % 250, n % 250 + 1)
}

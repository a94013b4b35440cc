//! What a client gets that was cut off, and what the rooms promise to whoever feeds them.

use crate::client::*;
use schemas::RoomKind;
use serde_json::{Value, json};
use ws_gateway::{Applied, ApplyError, Hub, HubLimits};

async fn recover(client: &mut Client, id: u32, room: &str, epoch: &str, offset: u64) -> Value {
    client.call(json!({"id": id, "subscribe": {"channel": room, "recover": true, "epoch": epoch, "offset": offset}})).await["subscribe"].clone()
}

fn offsets(publications: &Value) -> Vec<u64> {
    publications.as_array().map(|p| p.iter().map(|p| p["offset"].as_u64().unwrap()).collect()).unwrap_or_default()
}

#[tokio::test]
async fn client_that_missed_0_10_290_or_900_messages_gets_exactly_those() {
    let gateway = Gateway::start().await;
    for missed in [0, 10, 290, 900] {
        let mut client = gateway.admin().await;
        let position = client.subscribe(2, "admin:acme").await["offset"].as_u64().unwrap_or(0);
        drop(client);
        gateway.publish("admin:acme", missed, 20);
        let mut client = gateway.admin().await;
        let reply = recover(&mut client, 2, "admin:acme", EPOCH, position).await;
        assert_eq!((&reply["recovered"], &reply["was_recovering"]), (&json!(true), &json!(true)));
        assert_eq!(reply["offset"].as_u64().unwrap_or(0), position, "the reply carries the position that was asked for");
        assert_eq!(offsets(&reply["publications"]), (position + 1..=position + missed).collect::<Vec<_>>());
        gateway.publish("admin:acme", 1, 0);
        assert_eq!(client.publication().await["offset"], position + missed + 1, "live goes on where recovery ended");
    }
}

#[tokio::test]
async fn position_outside_the_history_is_told_plainly_and_never_served_in_part() {
    let gateway = Gateway::start().await;
    gateway.publish("admin:acme", 1_500, 0);
    for (epoch, offset, why) in [(EPOCH, 499, "too old"), ("other", 1_499, "another epoch")] {
        let mut client = gateway.admin().await;
        let reply = recover(&mut client, 2, "admin:acme", epoch, offset).await;
        assert_eq!(reply, json!({"recoverable": true, "positioned": true, "epoch": EPOCH, "offset": 1_500, "was_recovering": true}), "{why}");
        let rejected = gateway
            .admin()
            .await
            .call(json!({"id": 2, "subscribe": {"channel": "admin:acme", "recover": true, "epoch": epoch, "offset": offset, "flag": 2}}))
            .await;
        assert_eq!(rejected["error"]["code"], 112, "{why}");
    }
    let reply = recover(&mut gateway.admin().await, 2, "admin:acme", EPOCH, 500).await;
    assert_eq!(offsets(&reply["publications"]).len(), 1_000, "the oldest position that the history still serves");
}

#[tokio::test]
async fn recovery_of_more_than_256_kb_is_refused_and_the_client_pages_history() {
    let gateway = Gateway::start().await;
    gateway.publish("admin:acme", 100, 4_000);
    let mut client = gateway.admin().await;
    let reply = recover(&mut client, 2, "admin:acme", EPOCH, 10).await;
    assert_eq!((&reply["recovered"], &reply["publications"]), (&Value::Null, &Value::Null));
    let (mut at, mut pages) = (10, 0);
    while at < 100 {
        let page = client.call(json!({"id": 3, "history": {"channel": "admin:acme", "limit": 1_000, "since": {"offset": at, "epoch": EPOCH}}})).await;
        let found = offsets(&page["history"]["publications"]);
        assert_eq!(found[0], at + 1);
        (at, pages) = (*found.last().unwrap(), pages + 1);
    }
    assert_eq!(pages, 2);
}

#[tokio::test]
async fn many_rooms_recover_in_one_frame_although_they_exceed_the_queue() {
    let gateway = Gateway::start().await;
    let rooms: Vec<String> = (0..20).map(|i| format!("sub:acme:s{i}")).collect();
    rooms.iter().for_each(|room| gateway.publish(room, 50, 4_000));
    let mut client = gateway.client().await;
    let mut commands = vec![json!({"id": 1, "connect": {"token": token(ws_gateway::Role::Admin)}}).to_string()];
    commands.extend(
        (2..).zip(&rooms).map(|(id, room)| json!({"id": id, "subscribe": {"channel": room, "recover": true, "epoch": EPOCH, "offset": 0}}).to_string()),
    );
    client.send_text(&commands.join("\n")).await;
    for id in 1..=21 {
        let reply = client.next().await;
        assert_eq!(reply["id"], id);
        assert!(id == 1 || offsets(&reply["subscribe"]["publications"]).len() == 50);
    }
}

#[tokio::test]
async fn room_that_starts_again_under_another_epoch_sends_its_clients_to_subscribe_anew() {
    let gateway = Gateway::start().await;
    gateway.publish("admin:acme", 5, 0);
    let mut client = gateway.admin().await;
    client.subscribe(2, "admin:acme").await;
    gateway.hub.apply("e2", &[message("admin:acme", RoomKind::Stream, 1, "", Some(&json!("new")))]).unwrap();
    assert_eq!(client.next().await, json!({"push": {"channel": "admin:acme", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}}));
    let reply = recover(&mut client, 3, "admin:acme", EPOCH, 5).await;
    assert_eq!((&reply["epoch"], &reply["offset"], &reply["recovered"]), (&json!("e2"), &json!(1), &Value::Null));
}

#[test]
fn repeats_are_ignored_and_counted_and_a_gap_is_an_error() {
    let hub = Hub::new(EPOCH.into(), HubLimits::default());
    let stream = |offset| message("admin:acme", RoomKind::Stream, offset, "", Some(&json!(offset)));
    assert_eq!(hub.apply(EPOCH, &[stream(1), stream(2), stream(1), stream(2), stream(3)]).unwrap(), Applied { accepted: 3, repeated: 2 });
    let error = hub.apply(EPOCH, &[stream(4), stream(6), stream(7)]).unwrap_err();
    assert!(matches!(error, ApplyError::Gap { expected: 5, found: 6, .. }));
    assert_eq!(error.to_string(), "room `admin:acme` has a gap: expected offset 5, found 6");
    assert_eq!(hub.room_position("admin:acme").offset, 4, "what came before the gap is in");
}

#[test]
fn message_of_another_tenant_or_without_json_never_enters_a_room() {
    let hub = Hub::new(EPOCH.into(), HubLimits::default());
    let mut foreign = message("admin:acme", RoomKind::Stream, 1, "", Some(&json!(1)));
    foreign.tenant = "other".into();
    assert!(matches!(hub.apply(EPOCH, &[foreign]), Err(ApplyError::Tenant { .. })));
    let mut broken = message("admin:acme", RoomKind::Stream, 1, "", Some(&json!(1)));
    broken.data = "{".into();
    assert!(matches!(hub.apply(EPOCH, &[broken]), Err(ApplyError::Data { .. })));
    assert_eq!(hub.room_position("admin:acme").offset, 0);
}

#[tokio::test]
async fn messages_older_than_a_day_leave_the_history_and_the_position_stays() {
    let gateway = Gateway::start().await;
    gateway.publish("admin:acme", 10, 0);
    let mut later = message("stats:acme", RoomKind::State, 1, "k", Some(&json!(1)));
    later.time_us += 25 * 3_600 * 1_000_000;
    gateway.hub.apply(EPOCH, &[later]).unwrap();
    let mut client = gateway.admin().await;
    let reply = recover(&mut client, 2, "admin:acme", EPOCH, 9).await;
    assert_eq!((&reply["recovered"], &reply["offset"]), (&Value::Null, &json!(10)));
    let reply = recover(&mut gateway.admin().await, 2, "admin:acme", EPOCH, 10).await;
    assert_eq!(reply["recovered"], true, "nothing was missed");
}

#[tokio::test]
async fn client_that_has_seen_more_than_this_gateway_is_asked_to_come_again() {
    let gateway = Gateway::start().await;
    gateway.publish("admin:acme", 5, 0);
    let mut client = gateway.admin().await;
    let ahead = json!({"id": 2, "subscribe": {"channel": "admin:acme", "recover": true, "epoch": EPOCH, "offset": 7}});
    let reply = client.call(ahead).await;
    assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(100), &json!(true)), "{reply}");
    gateway.publish("admin:acme", 3, 0);
    let reply = recover(&mut client, 3, "admin:acme", EPOCH, 7).await;
    assert_eq!((&reply["recovered"], offsets(&reply["publications"])), (&json!(true), vec![8]));
}

#[tokio::test]
async fn rooms_that_are_still_read_in_are_not_served() {
    let gateway = Gateway::start().await;
    gateway.readiness.set_not_ready(ws_gateway::ROOMS_CHECK, "reading");
    let admin = token(ws_gateway::Role::Admin);
    for path in ["/v1/rooms/admin:acme/history", "/v1/rooms/risk:acme/state"] {
        let (status, answer) = gateway.get_json(path, Some(&admin)).await;
        assert_eq!((status, &answer["error"]["code"]), (503, &json!(100)), "{path}: {answer}");
    }
    assert_eq!(gateway.refused_upgrade().await, 503);
    gateway.readiness.set_ready(ws_gateway::ROOMS_CHECK);
    assert_eq!(gateway.admin().await.subscribe(2, "admin:acme").await["recoverable"], true);
}

/// The rooms of `from` in another gateway, as a snapshot carries them.
fn carry_over(from: &Hub, to: &Hub) {
    for room in from.freeze() {
        to.restore(&room.snapshot().unwrap()).unwrap();
    }
}

#[tokio::test]
async fn restored_rooms_have_the_state_the_history_and_the_offsets_of_those_before() {
    let (first, second) = (Gateway::start().await, Gateway::start().await);
    for n in 1..=1_500 {
        let (key, data) = (format!("s{}", n % 600), json!(n));
        let data = if n % 7 == 0 { None } else { Some(&data) };
        first.hub.apply("e9", &[message("risk:acme", RoomKind::State, n, &key, data)]).unwrap();
    }
    first.hub.apply("e9", &[message("admin:acme", RoomKind::Stream, 1, "", Some(&json!("one")))]).unwrap();
    carry_over(&first.hub, &second.hub);
    for (room, next) in [("risk:acme", 1_501), ("admin:acme", 2)] {
        let kind = if next == 2 { RoomKind::Stream } else { RoomKind::State };
        for gateway in [&first, &second] {
            gateway.hub.apply("e9", &[message(room, kind, next, if next == 2 { "" } else { "s1" }, Some(&json!("new")))]).unwrap();
        }
    }
    let admin = token(ws_gateway::Role::Admin);
    for path in ["/v1/rooms/risk:acme/state", "/v1/rooms/risk:acme/history?limit=1000", "/v1/rooms/admin:acme/history"] {
        let (_, before) = first.get_json(path, Some(&admin)).await;
        let (_, after) = second.get_json(path, Some(&admin)).await;
        assert_eq!(before, after, "{path}");
        assert_eq!(after["epoch"], "e9");
    }
    let reply = recover(&mut second.admin().await, 2, "risk:acme", "e9", 1_400).await;
    assert_eq!((&reply["recovered"], offsets(&reply["publications"])), (&json!(true), (1_401..=1_501).collect()));
}

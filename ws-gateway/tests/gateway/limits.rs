//! Bounds: of time, of memory, of number.

use crate::client::*;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::time::Duration;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};
use ws_gateway::{Role, mint};

const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn connection_without_connect_command_is_stale() {
    let gateway = Gateway::with(|c| c.connect_wait = SHORT).await;
    assert_eq!(gateway.client().await.closed().await, (3502, "stale".into()));
    let mut refused = gateway.client().await;
    refused.send(&json!({"id": 1, "connect": {"token": mint(SECRET, &claims(Role::Admin, -5)).unwrap()}})).await;
    assert_eq!(refused.closed().await.0, 3502, "an expired token does not hold a connection open");
}

#[tokio::test]
async fn client_that_answers_pings_stays_and_one_that_does_not_is_closed() {
    let gateway = Gateway::with(|c| (c.ping, c.pong_wait) = (SHORT, SHORT / 2)).await;
    let mut silent = gateway.admin().await;
    silent.answer_pings = false;
    assert_eq!(silent.closed().await, (3012, "no pong".into()));

    let mut lively = gateway.admin().await;
    for _ in 0..5 {
        assert_eq!(lively.frame().await, Event::Frame(vec![json!({})]), "a ping is an empty object in a frame of its own");
        lively.send_text("{}").await;
    }
    assert_eq!(lively.call(json!({"id": 2, "ping": {}})).await["id"], 2);
}

#[tokio::test]
async fn connection_outlives_its_token_by_the_grace_only() {
    let gateway = Gateway::with(|c| c.refresh_grace = SHORT).await;
    let mut expiring = gateway.connected(&mint(SECRET, &claims(Role::Admin, 1)).unwrap()).await;
    let mut refreshed = gateway.connected(&mint(SECRET, &claims(Role::Admin, 1)).unwrap()).await;
    refreshed.call(json!({"id": 2, "refresh": {"token": token(Role::Admin)}})).await;
    assert_eq!(expiring.closed().await, (3005, "connection expired".into()));
    assert_eq!(refreshed.call(json!({"id": 3, "ping": {}})).await["id"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_client_of_a_stream_is_closed_and_the_others_miss_nothing() {
    let gateway = Gateway::start().await;
    let (mut slow, mut quick) = (gateway.admin().await, gateway.admin().await);
    slow.subscribe(2, "admin:acme").await;
    quick.subscribe(2, "admin:acme").await;
    let reader = tokio::spawn(async move {
        for n in 1..=2_000 {
            assert_eq!(quick.publication().await["offset"], n);
        }
    });
    for _ in 0..400 {
        gateway.publish("admin:acme", 5, 8_000);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reader.await.unwrap();
    let mut last = 0;
    let close = loop {
        match slow.event().await {
            Ok(push) => {
                assert_eq!(push["push"]["pub"]["offset"], last + 1, "what it got is dense");
                last += 1;
            }
            Err(close) => break close,
        }
    };
    assert_eq!(close, (3008, "slow".into()));
    assert!(last < 2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_client_of_a_state_room_gets_newest_rows_and_stays() {
    let gateway = Gateway::start().await;
    let mut slow = gateway.admin().await;
    slow.call(json!({"id": 2, "subscribe": {"channel": "risk:acme", "type": 1, "phase": 2}})).await;
    let pad = "x".repeat(8_000);
    let mut top = 0;
    for n in 0..4_000_u64 {
        top = gateway.set("risk:acme", &format!("s{}", n % 10), Some(&json!({"n": n, "pad": pad})));
    }
    let (mut at, mut seen) = (0, std::collections::HashMap::new());
    let mut frames = 0;
    while at < top {
        let row = slow.publication().await;
        let offset = row["offset"].as_u64().unwrap();
        assert!(offset > at, "offsets rise");
        (at, frames) = (offset, frames + 1);
        seen.insert(row["key"].as_str().unwrap().to_owned(), row["data"]["n"].as_u64().unwrap());
    }
    let newest = (0..10).map(|k| (format!("s{k}"), 3_990 + k)).collect();
    assert_eq!(seen, newest);
    assert!(frames < 4_000, "rows were conflated while they waited: {frames}");
}

#[tokio::test]
async fn message_that_is_too_large_closes_with_1009() {
    let gateway = Gateway::start().await;
    let mut client = gateway.admin().await;
    client.send(&json!({"id": 2, "rpc": {"data": "x".repeat(70 * 1024)}})).await;
    assert_eq!(client.closed().await.0, 1009);
    let mut binary = gateway.admin().await;
    binary.socket.send(Message::binary(vec![0])).await.unwrap();
    assert_eq!(binary.closed().await, (3506, "inappropriate protocol".into()));
}

#[tokio::test]
async fn too_many_commands_connections_or_users_are_refused() {
    let gateway = Gateway::with(|c| (c.commands_per_second, c.commands_burst, c.connections_per_user_max, c.connections_per_ip_max) = (1, 3, 1, 2)).await;
    let mut client = gateway.admin().await;
    let mut second = gateway.client().await;
    second.send(&json!({"id": 1, "connect": {"token": token(Role::Admin)}})).await;
    assert_eq!(second.closed().await, (3504, "connection limit".into()));
    for id in 2..10 {
        client.send(&json!({"id": id, "ping": {}})).await;
    }
    assert_eq!(client.closed().await, (3013, "too many requests".into()));
    drop((client, second));
    gateway.connections(0).await;
    let (_a, _b) = (gateway.client().await, gateway.client().await);
    let third = connect_async(format!("ws://{}/connection/websocket", gateway.address)).await;
    assert!(matches!(third, Err(Error::Http(response)) if response.status() == 429));
}

#[tokio::test]
async fn foreign_origins_and_other_subprotocols_are_turned_away_at_the_door() {
    let gateway = Gateway::with(|c| c.allowed_origins = vec!["https://noc.example".into()]).await;
    let attempt = async |header: &'static str, value: &str| {
        let mut request = format!("ws://{}/connection/websocket?cf_protocol_version=v2", gateway.address).into_client_request().unwrap();
        request.headers_mut().insert(header, value.parse().unwrap());
        match connect_async(request).await {
            Ok((_, response)) => (101, response.headers().get("sec-websocket-protocol").map(|v| v.to_str().unwrap().to_owned())),
            Err(Error::Http(response)) => (response.status().as_u16(), None),
            Err(other) => panic!("{other}"),
        }
    };
    let own = format!("http://{}", gateway.address);
    assert_eq!(attempt("Origin", "https://evil.example").await.0, 403);
    assert_eq!(attempt("Origin", "https://noc.example").await.0, 101);
    assert_eq!(attempt("Origin", &own).await.0, 101);
    assert_eq!(attempt("Sec-WebSocket-Protocol", "centrifuge-protobuf").await.0, 400);
    assert_eq!(attempt("Sec-WebSocket-Protocol", "centrifuge-protobuf, centrifuge-json").await, (101, Some("centrifuge-json".into())));
    let (status, _) = gateway.get("/connection/websocket", None).await;
    assert_eq!(status, 426);
}

#[tokio::test]
async fn shutdown_refuses_newcomers_and_spreads_the_closes() {
    let gateway = Gateway::start().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(gateway.connected(&token(Role::Admin)).await);
    }
    let (start, state) = (std::time::Instant::now(), gateway.state.clone());
    let shutdown = tokio::spawn(async move { state.shutdown(SHORT * 4).await });
    let closes =
        futures_util::stream::iter(clients).map(|mut c| async move { (c.closed().await, start.elapsed()) }).buffer_unordered(4).collect::<Vec<_>>().await;
    assert!(closes.iter().all(|(close, _)| *close == (3001, "shutdown".into())));
    let last = closes.iter().map(|(_, at)| *at).max().unwrap();
    assert!(last >= SHORT * 3, "the last of four leaves after three quarters of the pace: {last:?}");
    shutdown.await.unwrap();
    assert_eq!(gateway.state.connections(), 0);
    let late = connect_async(format!("ws://{}/connection/websocket", gateway.address)).await;
    assert!(matches!(late, Err(Error::Http(response)) if response.status() == 503));
    assert_eq!(gateway.get("/readyz", None).await.0, 503);
}

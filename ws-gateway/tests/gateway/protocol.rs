//! The wire contract, case by case.

use crate::client::*;
use serde_json::json;
use std::time::Duration;
use ws_gateway::{Allow, Capability, Match, Role, mint};

#[tokio::test]
async fn transcript_of_the_document_is_spoken() {
    let gateway = Gateway::start().await;
    gateway.publish("admin:acme", 42, 0);
    let mut client = gateway.client().await;
    let first = json!({"connect": {"token": token(Role::Admin), "name": "js"}, "id": 1});
    let second = json!({"subscribe": {"channel": "admin:acme", "flag": 1, "recover": true, "offset": 41, "epoch": EPOCH}, "id": 2});
    client.send_text(&format!("{first}\n{second}")).await;
    let Event::Frame(replies) = client.frame().await else { panic!() };
    assert_eq!(replies.len(), 2, "replies to one frame come in one frame");
    let connect = &replies[0]["connect"];
    assert_eq!((&connect["expires"], &connect["ping"], &connect["pong"]), (&json!(true), &json!(25), &json!(true)));
    assert!((590..=600).contains(&connect["ttl"].as_u64().unwrap()));
    assert!(connect["client"].as_str().unwrap().len() == 36 && connect["node"].is_string() && connect["session"].is_string());
    assert_eq!(
        replies[1],
        json!({"id": 2, "subscribe": {"recoverable": true, "positioned": true, "epoch": EPOCH, "offset": 41, "recovered": true, "was_recovering": true,
               "publications": [{"data": {"n": 42, "pad": ""}, "offset": 42, "time": 1_700_000_000_000_u64}]}})
    );
    gateway.publish("admin:acme", 1, 0);
    assert_eq!(
        client.next().await,
        json!({"push": {"channel": "admin:acme", "pub": {"data": {"n": 43, "pad": ""}, "offset": 43, "time": 1_700_000_000_000_u64}}})
    );

    let refreshed = client.call(json!({"id": 3, "refresh": {"token": token(Role::Admin)}})).await;
    assert_eq!(refreshed["refresh"]["client"], connect["client"], "the same client id");
    assert_eq!(refreshed["refresh"]["expires"], true);

    assert_eq!(client.call(json!({"id": 4, "unsubscribe": {"channel": "admin:acme"}})).await, json!({"id": 4, "unsubscribe": {}}));
    assert_eq!(client.call(json!({"id": 5, "unsubscribe": {"channel": "never:joined"}})).await, json!({"id": 5, "unsubscribe": {}}));
    gateway.publish("admin:acme", 1, 0);
    assert_eq!(client.call(json!({"id": 6, "ping": {}})).await, json!({"id": 6, "ping": {}}), "nothing of the room that was left");

    gateway.state.shutdown(Duration::ZERO).await;
    assert_eq!(client.closed().await, (3001, "shutdown".into()));
}

#[tokio::test]
async fn messages_carry_the_append_time_of_what_caused_them_and_the_first_its_epoch() {
    let gateway = Gateway::start().await;
    let mut client = gateway.admin().await;
    client.subscribe(2, "admin:acme").await;
    let mut caused = message("admin:acme", schemas::RoomKind::Stream, 1, "", Some(&json!(1)));
    caused.appended_us = Some(123_456);
    gateway.hub.apply(EPOCH, &[caused]).unwrap();
    assert_eq!(client.publication().await, json!({"data": 1, "offset": 1, "time": 1_700_000_000_000_u64, "tags": {"appended_us": "123456"}, "epoch": EPOCH}));
}

#[tokio::test]
async fn subscribe_is_refused_by_right_by_repeat_and_by_number() {
    let gateway = Gateway::with(|c| c.rooms_per_connection_max = 2).await;
    let mut client = gateway.admin().await;
    let mut subscribe = async |channel: &str| client.call(json!({"id": 2, "subscribe": {"channel": channel}})).await["error"]["code"].clone();
    for (room, code) in [
        ("admin:other", json!(103)),
        ("noc:acme", json!(103)),
        ("", json!(107)),
        ("admin:acme", json!(null)),
        ("admin:acme", json!(105)),
        ("sub:acme:s1", json!(null)),
        ("sub:acme:s2", json!(106)),
    ] {
        assert_eq!(subscribe(room).await, code, "{room}");
    }
    let denied = client.call(json!({"id": 3, "subscribe": {"channel": "noc:acme"}})).await;
    assert_eq!(denied, json!({"id": 3, "error": {"code": 103, "message": "permission denied"}}));
}

#[tokio::test]
async fn methods_that_are_not_offered_answer_108_and_the_connection_lives_on() {
    let gateway = Gateway::start().await;
    let mut client = gateway.admin().await;
    for method in ["publish", "presence", "presence_stats", "rpc", "sub_refresh", "frobnicate"] {
        assert_eq!(
            client.call(json!({"id": 7, method: {"channel": "admin:acme"}})).await,
            json!({"id": 7, "error": {"code": 108, "message": "not available"}}),
            "{method}"
        );
    }
    for kind in [2, 3, 4] {
        assert_eq!(client.call(json!({"id": 8, "subscribe": {"channel": "risk:acme", "type": kind}})).await["error"]["code"], 108);
    }
    client.send(&json!({"send": {"data": 1}})).await;
    assert_eq!(client.call(json!({"id": 9, "history": {"channel": 5}})).await["error"]["code"], 107);
}

#[tokio::test]
async fn expired_token_is_error_109_and_spares_the_subscriptions_of_the_same_frame() {
    let gateway = Gateway::start().await;
    let mut client = gateway.client().await;
    let expired = mint(SECRET, &claims(Role::Admin, -5)).unwrap();
    client.send_text(&format!("{}\n{}", json!({"id": 1, "connect": {"token": expired}}), json!({"id": 2, "subscribe": {"channel": "admin:acme"}}))).await;
    assert_eq!(client.next().await, json!({"id": 1, "error": {"code": 109, "message": "token expired"}}));
    client.send(&json!({"id": 3, "subscribe": {"channel": "admin:acme"}})).await;
    assert_eq!(client.closed().await, (3501, "bad request".into()), "the connection is of no use any more");
}

#[tokio::test]
async fn bad_token_is_a_terminal_close() {
    let gateway = Gateway::start().await;
    let other = mint("other-secret", &claims(Role::Admin, 600)).unwrap();
    for token in [other.as_str(), "rubbish", "a.b.c"] {
        let mut client = gateway.client().await;
        client.send(&json!({"id": 1, "connect": {"token": token}})).await;
        assert_eq!(client.closed().await, (3500, "invalid token".into()));
    }
}

#[tokio::test]
async fn what_breaks_the_protocol_closes_with_bad_request() {
    let gateway = Gateway::start().await;
    for first in ["{}", "rubbish", "", "\n \n", r#"{"id":1,"subscribe":{"channel":"admin:acme"}}"#, r#"{"id":1,"connect":{}}"#, r#"{"connect":{"token":"x"}}"#]
    {
        let mut client = gateway.client().await;
        client.send_text(first).await;
        assert_eq!(client.closed().await, (3501, "bad request".into()), "{first}");
    }
    for second in ["{}", "[1]", r#"{"id":2,"connect":{"token":"x"}}"#] {
        let mut client = gateway.admin().await;
        client.send_text(second).await;
        assert_eq!(client.closed().await, (3501, "bad request".into()), "{second}");
    }
}

#[tokio::test]
async fn refresh_takes_a_token_of_the_same_user_only_and_leaves_rooms_without_right() {
    let gateway = Gateway::start().await;
    let mut client = gateway.admin().await;
    client.subscribe(2, "admin:acme").await;
    client.subscribe(3, "alerts:acme").await;
    assert_eq!(client.call(json!({"id": 4, "refresh": {"token": mint(SECRET, &claims(Role::Admin, -5)).unwrap()}})).await["error"]["code"], 109);
    assert!(client.call(json!({"id": 5, "refresh": {"token": token(Role::Noc)}})).await["refresh"].is_object());
    assert_eq!(client.next().await, json!({"push": {"channel": "admin:acme", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}}));
    gateway.publish("admin:acme", 1, 0);
    gateway.set("alerts:acme", "a1", Some(&json!(1)));
    assert_eq!(client.next().await["push"]["channel"], "alerts:acme");

    let mut other = claims(Role::Admin, 600);
    other.sub = "u2".into();
    client.send(&json!({"id": 6, "refresh": {"token": mint(SECRET, &other).unwrap()}})).await;
    assert_eq!(client.closed().await, (3500, "invalid token".into()));
}

#[tokio::test]
async fn capabilities_open_rooms_and_history_needs_its_own() {
    let gateway = Gateway::start().await;
    gateway.publish("noc:acme:north", 3, 0);
    let mut with_caps = claims(Role::Subscriber, 600);
    with_caps.caps = vec![Capability { channels: vec!["noc:acme:*".into()], matching: Match::Wildcard, allow: vec![Allow::Subscribe] }];
    let mut client = gateway.connected(&mint(SECRET, &with_caps).unwrap()).await;
    assert_eq!(client.subscribe(2, "noc:acme:north").await["offset"], 3);
    assert_eq!(client.call(json!({"id": 3, "history": {"channel": "noc:acme:north", "limit": 10}})).await["error"]["code"], 103);
    assert_eq!(client.call(json!({"id": 4, "history": {"channel": "sub:acme:u1"}})).await["history"], json!({"epoch": EPOCH}));
}

#[tokio::test]
async fn history_pages_in_both_directions() {
    let gateway = Gateway::start().await;
    gateway.publish("admin:acme", 500, 0);
    let mut client = gateway.admin().await;
    let mut history = async |request: serde_json::Value| {
        let mut request = request;
        request["channel"] = json!("admin:acme");
        let reply = client.call(json!({"id": 2, "history": request})).await;
        let offsets: Vec<u64> =
            reply["history"]["publications"].as_array().map(|p| p.iter().map(|p| p["offset"].as_u64().unwrap()).collect()).unwrap_or_default();
        (reply["history"]["offset"].as_u64(), reply["error"]["code"].as_u64(), offsets)
    };
    assert_eq!(history(json!({})).await, (Some(500), None, vec![]), "limit 0 is the position alone");
    assert_eq!(history(json!({"limit": -1})).await.2, (1..=300).collect::<Vec<u64>>());
    assert_eq!(history(json!({"limit": 2, "since": {"offset": 100, "epoch": EPOCH}})).await.2, [101, 102]);
    assert_eq!(history(json!({"limit": 2, "reverse": true})).await.2, [500, 499]);
    assert_eq!(history(json!({"limit": 2, "reverse": true, "since": {"offset": 100, "epoch": EPOCH}})).await.2, [99, 98]);
    assert_eq!(history(json!({"limit": 2, "since": {"offset": 100, "epoch": "other"}})).await.1, Some(112));
}

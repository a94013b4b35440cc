//! The HTTP API.

use crate::client::*;
use serde_json::json;
use ws_gateway::{DemoSession, Role, mint};

#[tokio::test]
async fn state_of_a_room_needs_a_token_with_the_right_and_a_state_room() {
    let gateway = Gateway::start().await;
    gateway.publish("admin:acme", 1, 0);
    let (admin, noc) = (token(Role::Admin), token(Role::Noc));
    let expired = mint(SECRET, &claims(Role::Admin, -5)).unwrap();
    for (path, token, status, code) in [
        ("/v1/rooms/risk:acme/state", None, 401, 101),
        ("/v1/rooms/risk:acme/state", Some("rubbish"), 401, 101),
        ("/v1/rooms/risk:acme/state", Some(&*expired), 401, 109),
        ("/v1/rooms/risk:acme/state", Some(&*noc), 403, 103),
        ("/v1/rooms/risk:other/state", Some(&*admin), 403, 103),
        ("/v1/rooms/admin:acme/state", Some(&*admin), 404, 102),
        ("/v1/rooms/admin:acme/history", None, 401, 101),
        ("/v1/rooms/noc:acme/history", Some(&*admin), 403, 103),
        ("/v1/session", None, 404, 102),
        ("/v1/nothing", None, 404, 102),
    ] {
        let (found, body) = gateway.get_json(path, token).await;
        assert_eq!((found, body["error"]["code"].as_u64()), (status, Some(code)), "{path} {body}");
        assert!(body["error"]["message"].is_string());
    }
    assert_eq!(gateway.get_json("/v1/rooms/risk:acme/state", Some(&admin)).await, (200, json!({"epoch": EPOCH, "offset": 0, "entries": []})));
}

#[tokio::test]
async fn state_and_history_come_in_pages() {
    let gateway = Gateway::start().await;
    for key in ["a", "b", "c"] {
        gateway.set("demand:acme", key, Some(&json!({"d": key})));
    }
    gateway.publish("admin:acme", 5, 0);
    let admin = token(Role::Admin);
    let keys = async |path: &str| {
        let (_, body) = gateway.get_json(path, Some(&admin)).await;
        body["entries"].as_array().unwrap().iter().map(|e| e["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys("/v1/rooms/demand:acme/state?limit=2").await, ["a", "b"]);
    assert_eq!(keys("/v1/rooms/demand:acme/state?limit=2&after=b").await, ["c"]);
    let (status, history) = gateway.get_json("/v1/rooms/admin:acme/history?since=2&limit=2", Some(&admin)).await;
    assert_eq!((status, &history["epoch"], &history["offset"]), (200, &json!(EPOCH), &json!(5)));
    assert_eq!(history["publications"].as_array().unwrap().iter().map(|p| p["offset"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 4]);
}

#[tokio::test]
async fn readiness_names_what_is_missing_and_metrics_count() {
    let gateway = Gateway::start().await;
    gateway.readiness.set_not_ready("rooms", "replaying the room log");
    assert_eq!(gateway.get_json("/readyz", None).await, (503, json!({"ready": false, "failing": {"rooms": "replaying the room log"}})));
    gateway.readiness.set_ready("rooms");
    assert_eq!(gateway.get_json("/readyz", None).await, (200, json!({"ready": true, "failing": {}})));
    assert_eq!(gateway.get("/livez", None).await, (200, "ok".into()));
    gateway.publish("admin:acme", 3, 0);
    let (status, text) = gateway.get("/metrics", None).await;
    assert_eq!(status, 200);
    assert!(text.lines().any(|l| l.starts_with("headend_gateway_room_messages_total ")), "{text}");
}

#[tokio::test]
async fn dashboard_is_served_at_the_root_only() {
    let gateway = Gateway::start().await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", gateway.address);
    let (head, body) = gateway.request(&request("/")).await;
    let head = head.to_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("text/html; charset=utf-8") && head.contains("no-cache"), "{head}");
    assert!(body.contains("<html") || body.contains("<!doctype"), "{body}");
    for path in ["/index", "/assets/none.js", "/../Cargo.toml", "/some/page"] {
        assert!(gateway.request(&request(path)).await.0.starts_with("HTTP/1.1 404"), "{path}");
    }
}

#[tokio::test]
async fn demo_session_opens_the_rooms_that_it_names() {
    let gateway = Gateway::with(|c| c.demo_session = Some(DemoSession::new("acme", "demo", Role::Admin))).await;
    let (status, session) = gateway.get_json("/v1/session", None).await;
    assert_eq!((status, &session["tenant"], &session["generated"]), (200, &json!("acme"), &json!(true)));
    let mut client = gateway.connected(session["token"].as_str().unwrap()).await;
    for (id, room) in (2..).zip(session["rooms"].as_array().unwrap()) {
        assert_eq!(client.subscribe(id, room.as_str().unwrap()).await["epoch"], EPOCH, "{room}");
    }
    assert_eq!(session["rooms"].as_array().unwrap().len(), 5);
}

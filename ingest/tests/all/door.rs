//! The HTTP door through a real socket.

use crate::{
    contract::read_all,
    embedded::{SmallDisk, open, spec},
};
use ingest::{DoorLimits, EmbeddedLog, Log, TopicSpec, door::router};
use schemas::event::EVENT_TYPES;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

struct Server {
    log: Arc<EmbeddedLog>,
    address: std::net::SocketAddr,
}

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

async fn serve(log: Arc<dyn Log>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(log, DoorLimits::default())).await });
    address
}

async fn post(address: std::net::SocketAddr, path: &str, content_type: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: serde_json::from_str(body).unwrap_or(Value::Null) }
}

impl Server {
    async fn start() -> Self {
        let log = EmbeddedLog::in_memory().unwrap();
        for event in EVENT_TYPES {
            log.create_topic(&TopicSpec { name: event.topic.into(), partitions: 1, compacted: event.compacted }).await.unwrap();
        }
        Self { address: serve(log.clone()).await, log }
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        post(self.address, path, "application/json", body.to_string().as_bytes()).await
    }

    /// (key, payload) of every record of a topic.
    async fn records(&self, topic: &str) -> Vec<(String, String)> {
        let text = |b: Option<bytes::Bytes>| String::from_utf8(b.unwrap().to_vec()).unwrap();
        let read = read_all(&mut self.log.reader(topic, 0, 0).unwrap()).await.unwrap();
        read.into_iter().map(|r| (text(r.key), text(r.value))).collect()
    }
}

fn usage(subscriber: &str) -> Value {
    json!({"event_id": format!("e-{subscriber}"), "event_time": "2026-11-21T18:00:00Z", "tenant": "t", "subscriber_id": subscriber, "bytes_down": 5})
}

#[tokio::test]
async fn what_is_accepted_stands_in_the_log_byte_for_byte() {
    let server = Server::start().await;
    let raw = r#"{"event_id":"e1", "event_time":"2026-11-21T18:00:00Z","tenant":"t","subscriber_id":"s1","bytes_down":5,"x":0.10000000000000000555}"#;
    let answer = post(server.address, "/v1/events/usage", "application/json", raw.as_bytes()).await;
    assert_eq!((answer.status, &answer.body), (200, &json!({"accepted": 1})));
    assert_eq!(server.records("usage.v1").await, [("t|s1".to_owned(), raw.to_owned())]);

    let lines = format!("{}\n\n{}\n", usage("s2"), usage("s3"));
    assert_eq!(post(server.address, "/v1/events/usage.v1", "application/x-ndjson", lines.as_bytes()).await.body, json!({"accepted": 2}));
    let mut named = usage("s4");
    named["type"] = "usage".into();
    let payment = json!({"type": "payment", "event_time": "2026-11-21T18:00:00Z", "tenant": "t", "subscriber_id": "s4", "outcome": "ok", "amount_minor": 100});
    assert_eq!(server.post("/v1/events", &json!([named, payment])).await.body, json!({"accepted": 2}));
    assert_eq!(server.records("usage.v1").await.iter().map(|r| r.0.as_str()).collect::<Vec<_>>(), ["t|s1", "t|s2", "t|s3", "t|s4"]);
    assert_eq!(server.records("payment.v1").await.len(), 1);
    assert_eq!(server.post("/v1/events/usage", &json!([])).await.body, json!({"accepted": 0}));
}

#[tokio::test]
async fn equal_events_without_an_id_get_different_ones() {
    let server = Server::start().await;
    let mut event = usage("s");
    event.as_object_mut().unwrap().remove("event_id");
    let mut with_null = usage("s");
    with_null["event_id"] = Value::Null;
    assert_eq!(server.post("/v1/events/usage", &json!([event, event, with_null])).await.status, 200);
    let ids: Vec<String> =
        server.records("usage.v1").await.iter().map(|(_, v)| serde_json::from_str::<Value>(v).unwrap()["event_id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.len() == 3 && ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
}

#[tokio::test]
async fn cloud_events_are_taken_by_their_type() {
    let server = Server::start().await;
    let mut data = usage("s");
    data.as_object_mut().unwrap().remove("event_id");
    data.as_object_mut().unwrap().remove("event_time");
    let event = |kind: &str| json!({"specversion": "1.0", "id": "ce-1", "source": "x", "type": kind, "time": "2026-11-21T18:00:00Z", "data": data});
    for kind in ["usage", "com.example.usage", "com.example.usage.v1"] {
        let answer = post(server.address, "/v1/events", "application/cloudevents+json", event(kind).to_string().as_bytes()).await;
        assert_eq!((answer.status, answer.body), (200, json!({"accepted": 1})));
    }
    let batch = json!([event("usage"), event("usage.v1")]).to_string();
    assert_eq!(post(server.address, "/v1/events", "application/cloudevents-batch+json; charset=utf-8", batch.as_bytes()).await.body, json!({"accepted": 2}));
    for (_, value) in server.records("usage.v1").await {
        let value: Value = serde_json::from_str(&value).unwrap();
        assert_eq!((value["event_id"].as_str(), value["event_time"].as_str()), (Some("ce-1"), Some("2026-11-21T18:00:00Z")));
    }
    let without = post(server.address, "/v1/events", "application/cloudevents+json", br#"{"specversion":"1.0","type":"usage"}"#).await;
    assert_eq!((without.status, &without.body["error"]["message"]), (400, &json!("field `data` of a CloudEvent is missing")));
}

#[tokio::test]
async fn one_wrong_event_refuses_the_request_and_is_named() {
    let server = Server::start().await;
    let with = |field: &str, value: Value| {
        let mut event = usage("s");
        event[field] = value;
        event
    };
    let ahead = schemas::clock::rfc3339(chrono::Utc::now().timestamp_micros() + 25 * 3600 * 1_000_000);
    let cases = [
        (with("bytes_down", json!("12a")), "invalid_event", "field `bytes_down` is `\"12a\"`, expected an integer"),
        (with("bytes_down", Value::Null), "invalid_event", "field `bytes_down` is missing, expected an integer"),
        (with("tenant", json!("a|b")), "invalid_event", "field `tenant` is `\"a|b\"`; a key field may not be empty or hold `|` or `:`"),
        (with("event_time", json!("1970-01-01T00:00:00Z")), "bad_time", "field `event_time` is `\"1970-01-01T00:00:00Z\"`, before 1980"),
        (with("event_time", json!("2099-01-01T00:00:00Z")), "bad_time", "field `event_time` is `\"2099-01-01T00:00:00Z\"`, more than a day ahead"),
        (with("event_time", json!(ahead)), "bad_time", "more than a day ahead"),
        (json!(5), "invalid_event", "an event is a JSON object, this is `5`"),
    ];
    for (event, code, message) in cases {
        let answer = server.post("/v1/events/usage", &json!([usage("a"), event, usage("b")])).await;
        let error = &answer.body["error"];
        assert_eq!((answer.status, &error["code"], &error["index"]), (400, &json!(code), &json!(1)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(message), "{error}");
    }
    let broken = post(server.address, "/v1/events/usage", "application/json", b"{\"a\" 1}").await;
    assert_eq!((broken.status, &broken.body["error"]["message"]), (400, &json!("not JSON: expected `:` at column 6")));
    let line = post(server.address, "/v1/events/usage", "application/x-ndjson", format!("{}\nx\n", usage("a")).as_bytes()).await;
    assert_eq!((line.status, &line.body["error"]["index"]), (400, &json!(1)));
    assert_eq!(server.post("/v1/events", &usage("a")).await.body["error"]["code"], "event_unnamed");
    assert_eq!(server.post("/v1/events/nothing", &usage("a")).await.body["error"]["code"], "unknown_event");
    assert!(server.records("usage.v1").await.is_empty());
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_the_limit() {
    let server = Server::start().await;
    let mut large = usage("s");
    large["service"] = "x".repeat(1 << 20).into();
    let answer = server.post("/v1/events/usage", &json!([usage("a"), large])).await;
    assert_eq!((answer.status, &answer.body["error"]["index"]), (413, &json!(1)));
    assert!(answer.body["error"]["message"].as_str().unwrap().contains("the limit is 1048576"));
    let huge = post(server.address, "/v1/events/usage", "application/json", &vec![b' '; 20 << 20]).await;
    assert_eq!(huge.status, 413);
    assert!(huge.body["error"]["message"].as_str().unwrap().contains("16777216 bytes"));
    assert!(server.records("usage.v1").await.is_empty());
}

#[tokio::test]
async fn a_log_that_cannot_take_events_is_503_with_a_time_to_come_back() {
    let server = Server::start().await;
    server.log.close().await;
    let answer = server.post("/v1/events/usage", &usage("s")).await;
    assert_eq!((answer.status, &answer.body["error"]["message"]), (503, &json!("log is closed")));
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);

    let empty = serve(EmbeddedLog::in_memory().unwrap()).await;
    let answer = post(empty, "/v1/events/usage", "application/json", usage("s").to_string().as_bytes()).await;
    assert_eq!((answer.status, &answer.body["error"]["code"]), (404, &json!("unknown_topic")));
}

#[tokio::test]
async fn a_full_disk_is_503_and_nothing_is_acknowledged_that_is_not_there() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    };
    let log = open(&disk.path().join("log"), true).unwrap();
    log.create_topic(&spec(1)).await.unwrap();
    let address = serve(log.clone()).await;
    let mut event = usage("s");
    event["service"] = "x".repeat(200_000).into();
    let mut accepted = 0;
    let refused = loop {
        let answer = post(address, "/v1/events/usage", "application/json", event.to_string().as_bytes()).await;
        match answer.status {
            200 => accepted += 1,
            _ => break answer,
        }
        assert!(accepted < 1_000, "the disk never fills");
    };
    assert_eq!((refused.status, &refused.body["error"]["code"]), (503, &json!("log_unavailable")));
    assert!(refused.head.contains("retry-after: 1") && refused.body["error"]["message"].as_str().unwrap().starts_with("disk is full"));
    assert_eq!(read_all(&mut log.reader("usage.v1", 0, 0).unwrap()).await.unwrap().len(), accepted);
    log.close().await;
}

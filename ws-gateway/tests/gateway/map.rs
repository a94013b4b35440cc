//! State rooms as maps: joins while rows change, recovery, and the same state for everyone.

use crate::client::*;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use ws_gateway::Role;

type Rows = BTreeMap<String, Value>;

/// Follows the protocol's map subscription as clients do, and checks every step of it.
struct MapClient {
    client: Client,
    rows: Rows,
    offset: u64,
    epoch: String,
    id: u32,
    pages: u32,
}

impl MapClient {
    async fn join(gateway: &Gateway, limit: u32) -> Self {
        let client = gateway.admin().await;
        let mut this = Self { client, rows: Rows::new(), offset: 0, epoch: String::new(), id: 1, pages: 0 };
        let mut request = json!({"channel": "risk:acme", "type": 1, "phase": 2, "limit": limit, "flag": 1});
        loop {
            let reply = this.page(&request).await;
            if reply["phase"].is_null() {
                break;
            }
            if this.epoch.is_empty() {
                this.epoch = reply["epoch"].as_str().unwrap().to_owned();
                this.offset = reply["offset"].as_u64().unwrap();
            }
            if reply["phase"] == 1 {
                this.offset = reply["offset"].as_u64().unwrap();
            }
            let phase = if reply["cursor"].is_null() { 1 } else { 2 };
            request = json!({"channel": "risk:acme", "type": 1, "phase": phase, "limit": limit, "cursor": reply["cursor"], "offset": this.offset, "epoch": this.epoch});
        }
        this
    }

    /// One request of the join: its rows and changes are applied, in the order in which clients apply them.
    async fn page(&mut self, request: &Value) -> Value {
        self.id += 1;
        self.pages += 1;
        let reply = self.client.call(json!({"id": self.id, "subscribe": request})).await;
        let reply = reply["subscribe"].clone();
        assert_eq!(reply["type"], 1, "{reply}");
        for row in reply["state"].as_array().into_iter().flatten() {
            assert!(self.rows.insert(row["key"].as_str().unwrap().into(), row["data"].clone()).is_none(), "a row came twice: {row}");
        }
        let after = if self.epoch.is_empty() { None } else { Some(self.offset) };
        for (i, change) in reply["publications"].as_array().into_iter().flatten().enumerate() {
            if let (0, Some(after)) = (i, after) {
                assert_eq!(change["offset"], after + 1, "changes follow the frozen position without a gap");
            }
            self.apply(change);
        }
        if reply["phase"].is_null() {
            self.offset = reply["offset"].as_u64().unwrap_or(0);
        }
        reply
    }

    fn apply(&mut self, change: &Value) {
        let key = change["key"].as_str().unwrap().to_owned();
        match change["removed"] == true {
            true => self.rows.remove(&key),
            false => self.rows.insert(key, change["data"].clone()),
        };
    }

    async fn follow_to(&mut self, offset: u64) {
        while self.offset < offset {
            let change = self.client.publication().await;
            let at = change["offset"].as_u64().unwrap();
            assert!(at > self.offset, "offset {at} after {}: a repeat", self.offset);
            self.offset = at;
            self.apply(&change);
        }
    }
}

/// A small generator, so that a failing run can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Changes a random row and keeps the model in step.
fn change(gateway: &Gateway, random: &mut Random, model: &mut Rows) -> u64 {
    let key = format!("s{:02}", random.below(60));
    if random.below(4) == 0 && model.remove(&key).is_some() {
        return gateway.set("risk:acme", &key, None);
    }
    let data = json!({"score": random.below(1_000)});
    model.insert(key.clone(), data.clone());
    gateway.set("risk:acme", &key, Some(&data))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn map_join_while_rows_change_has_no_gap_and_no_duplicate() {
    for seed in 1..=12 {
        let gateway = Gateway::start().await;
        let (mut random, mut model) = (Random(seed), Rows::new());
        for _ in 0..200 {
            change(&gateway, &mut random, &mut model);
        }
        let writer = async {
            let mut top = 0;
            for i in 0..600 {
                top = change(&gateway, &mut random, &mut model);
                if i % 8 == 0 {
                    tokio::time::sleep(Duration::from_micros(300)).await;
                }
            }
            top
        };
        let (mut joined, top) = tokio::join!(MapClient::join(&gateway, 7), writer);
        joined.follow_to(top).await;
        assert_eq!(joined.rows, model, "seed {seed}, {} pages", joined.pages);
        assert!(joined.pages > 3, "the join was paged");
    }
}

#[tokio::test]
async fn golden_pages_of_a_map_subscription() {
    let gateway = Gateway::start().await;
    for key in ["s1", "s2", "s3"] {
        gateway.set("risk:acme", key, Some(&json!(key)));
    }
    let mut client = gateway.admin().await;
    let first = client.call(json!({"id": 4, "subscribe": {"channel": "risk:acme", "type": 1, "phase": 2, "limit": 2, "flag": 1}})).await;
    let (time, epoch) = (1_700_000_000_000_u64, EPOCH);
    assert_eq!(
        first,
        json!({"id": 4, "subscribe": {"type": 1, "phase": 2, "epoch": epoch, "offset": 3, "cursor": "ks2",
               "state": [{"key": "s1", "data": "s1", "offset": 1, "time": time, "epoch": epoch}, {"key": "s2", "data": "s2", "offset": 2, "time": time}]}})
    );
    gateway.set("risk:acme", "s3", Some(&json!("changed")));
    gateway.set("risk:acme", "s1", None);
    let second = client
        .call(json!({"id": 5, "subscribe": {"channel": "risk:acme", "type": 1, "phase": 2, "limit": 2, "cursor": "ks2", "offset": 3, "epoch": epoch}}))
        .await;
    assert_eq!(
        second,
        json!({"id": 5, "subscribe": {"type": 1, "recoverable": true, "positioned": true, "epoch": epoch, "offset": 5,
               "publications": [{"key": "s3", "data": "changed", "offset": 4, "time": time}, {"key": "s1", "removed": true, "offset": 5, "time": time}]}})
    );
    gateway.set("risk:acme", "s2", None);
    assert_eq!(client.next().await, json!({"push": {"channel": "risk:acme", "pub": {"key": "s2", "removed": true, "offset": 6, "time": time}}}));
}

#[tokio::test]
async fn map_recovers_by_changes_or_is_told_to_start_over() {
    let gateway = Gateway::start().await;
    let (mut random, mut model) = (Random(5), Rows::new());
    for _ in 0..50 {
        change(&gateway, &mut random, &mut model);
    }
    let recover = |epoch: &str, offset: u64| json!({"id": 2, "subscribe": {"channel": "risk:acme", "type": 1, "phase": 1, "recover": true, "epoch": epoch, "offset": offset, "limit": 30}});
    let page = gateway.admin().await.call(recover(EPOCH, 10)).await["subscribe"].clone();
    assert_eq!((&page["phase"], &page["offset"], page["publications"].as_array().unwrap().len()), (&json!(1), &json!(40), 30));
    let last = gateway.admin().await.call(recover(EPOCH, 40)).await["subscribe"].clone();
    assert_eq!((&last["phase"], &last["offset"], &last["recovered"], &last["was_recovering"]), (&Value::Null, &json!(50), &json!(true), &json!(true)));
    assert_eq!(gateway.admin().await.call(recover("other", 40)).await["error"]["code"], 112);
    let ahead = gateway.admin().await.call(recover(EPOCH, 51)).await["error"].clone();
    assert_eq!((&ahead["code"], &ahead["temporary"]), (&json!(100), &json!(true)), "another gateway has told more: it need only wait");
    for _ in 0..1_000 {
        change(&gateway, &mut random, &mut model);
    }
    assert_eq!(gateway.admin().await.call(recover(EPOCH, 40)).await["error"]["code"], 112, "older than the history");
}

#[tokio::test]
async fn room_without_a_message_can_be_joined_and_then_speaks() {
    let gateway = Gateway::start().await;
    let mut joined = MapClient::join(&gateway, 100).await;
    assert_eq!((joined.rows.len(), joined.pages), (0, 1));
    let top = gateway.set("risk:acme", "s1", Some(&json!(1)));
    joined.follow_to(top).await;
    assert_eq!(joined.rows["s1"], 1);
    gateway.publish("admin:acme", 1, 0);
    let refused = joined.client.call(json!({"id": 90, "subscribe": {"channel": "admin:acme", "type": 1, "phase": 2}})).await;
    assert_eq!(refused["error"]["code"], 108, "a stream has no rows");
}

#[tokio::test]
async fn state_over_http_and_recovery_from_its_position_miss_nothing() {
    let gateway = Gateway::start().await;
    let (mut random, mut model) = (Random(9), Rows::new());
    for _ in 0..150 {
        change(&gateway, &mut random, &mut model);
    }
    let (status, state) = gateway.get_json("/v1/rooms/risk:acme/state", Some(&token(Role::Admin))).await;
    assert_eq!(status, 200);
    let mut rows: Rows = state["entries"].as_array().unwrap().iter().map(|e| (e["key"].as_str().unwrap().to_owned(), e["data"].clone())).collect();
    assert_eq!(rows, model);
    for _ in 0..150 {
        change(&gateway, &mut random, &mut model);
    }
    let reply = gateway
        .admin()
        .await
        .call(json!({"id": 2, "subscribe": {"channel": "risk:acme", "recover": true, "epoch": state["epoch"], "offset": state["offset"]}}))
        .await;
    for change in reply["subscribe"]["publications"].as_array().unwrap() {
        let key = change["key"].as_str().unwrap().to_owned();
        if change["removed"] == true {
            rows.remove(&key)
        } else {
            rows.insert(key, change["data"].clone())
        };
    }
    assert_eq!(rows, model);
}

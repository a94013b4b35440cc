//! What the owner of a Kafka, its retention and other programs do to the topics that Headend reads: each with its message, its exit code,
//! and that it goes on by itself or after the one command that the message names.

use super::{
    bad_input::program::{Engine, Folder, SECRET, delivered, eventually, now, post},
    kafka::{self, broker::Broker},
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use std::{collections::BTreeMap, path::Path, time::Duration};
use tokio::runtime::Runtime;

/// The record key of subscriber `s1`.
const KEY: &[u8] = b"acme|s1";
const LONG: Duration = Duration::from_secs(30);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Another program at the same broker, with its owner's rights.
struct Owner {
    runtime: Runtime,
    admin: AdminClient<DefaultClientContext>,
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Owner {
    fn of(broker: &Broker) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &broker.addresses).set("partitioner", "murmur2_random").set("message.max.bytes", "33554432");
        Self { runtime: Runtime::new().unwrap(), admin: config.create().unwrap(), producer: config.create().unwrap() }
    }

    fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1)).set("message.timestamp.type", "LogAppendTime");
        let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
        self.runtime.block_on(self.admin.create_topics([&new], &AdminOptions::new())).unwrap().remove(0).unwrap();
    }

    fn delete(&self, topic: &str) {
        self.runtime.block_on(self.admin.delete_topics(&[topic], &AdminOptions::new())).unwrap().remove(0).unwrap();
    }

    fn widen(&self, topic: &str, partitions: usize) {
        let new = NewPartitions::new(topic, partitions);
        self.runtime.block_on(self.admin.create_partitions([&new], &AdminOptions::new())).unwrap().remove(0).unwrap();
    }

    /// What retention does.
    fn forget(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before)).unwrap();
        self.runtime.block_on(self.admin.delete_records(&list, &AdminOptions::new())).unwrap();
    }

    fn send(&self, record: BaseRecord<'_, [u8], [u8]>) {
        self.producer.send(record).map_err(|(e, _)| e).unwrap();
    }

    /// Under the key of subscriber `s1`.
    fn put(&self, topic: &str, value: impl AsRef<[u8]>) {
        self.send(BaseRecord::to(topic).key(KEY).payload(value.as_ref()));
    }

    /// Events `from..to` of subscriber `s1`.
    fn events(&self, topic: &str, ids: std::ops::Range<usize>) {
        for id in ids {
            self.put(topic, event(&format!("e{id}"), ""));
        }
        self.producer.flush(LONG).unwrap();
    }
}

/// An event of subscriber `s1`, with more fields that the job does not read.
fn event(id: &str, more: &str) -> String {
    format!("{{\"tenant\":\"acme\",\"subscriber_id\":\"s1\",\"event_id\":\"{id}\",\"event_time\":\"{}\",\"bytes_down\":1{more}}}", now())
}

/// A job of its own over a topic of its own.
struct Case {
    folder: Folder,
    topic: String,
}

impl Case {
    /// `settings` stand below `[engine]`.
    fn new(name: &str, broker: &Broker, settings: &str) -> Self {
        let topic = format!("{name}.v1");
        let folder = Folder::new(&format!(
            "CREATE SOURCE usage (tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT,
               WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds') WITH (topic = '{topic}', format = 'json', key = 'tenant, subscriber_id');
             CREATE MATERIALIZED VIEW down AS SELECT tenant, subscriber_id, event_id, event_time, bytes_down FROM usage;
             CREATE SINK files FROM down WITH (connector = 'parquet', path = 'out', flush_interval = '100ms');"
        ));
        std::fs::rename(folder.path().join("job.sql"), folder.path().join(format!("{name}.sql"))).unwrap();
        folder.write(
            "headend.toml",
            &format!(
                "[engine]\njob = \"{name}.sql\"\npartitions = 1\ndir = \"data\"\n{settings}\n[log]\nkind = \"kafka\"\nbrokers = \"{}\"\n\
                 [gateway]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n",
                broker.addresses
            ),
        );
        Self { folder, topic }
    }

    fn delivered(&self) -> BTreeMap<String, usize> {
        delivered(&self.folder.path().join("data/out"))
    }

    fn arrive(&self, ids: impl Iterator<Item = usize> + Clone) {
        let all = || {
            let delivered = self.delivered();
            ids.clone().all(|id| delivered.contains_key(&format!("e{id}")))
        };
        eventually("the events are delivered", all);
    }

    /// Each event once, and those of `gone` not at all.
    fn exactly(&self, ids: std::ops::Range<usize>, gone: std::ops::Range<usize>) {
        let expected: BTreeMap<String, usize> = ids.filter(|id| !gone.contains(id)).map(|id| (format!("e{id}"), 1)).collect();
        assert_eq!(self.delivered(), expected);
    }

    /// `headend run` ends by itself: its code and what it said.
    fn fails(&self) -> (i32, String) {
        let (code, _, err) = self.folder.run(&["run", "-c", "headend.toml"]);
        (code, err)
    }

    fn skip(&self) -> String {
        let (code, out, err) = self.folder.run(&["skip", &format!("{}/0", self.topic), "-c", "headend.toml"]);
        assert_eq!(code, 0, "{err}");
        out
    }
}

/// Waits for a process that ends by itself.
fn ends(engine: &mut Engine) -> (Option<i32>, String) {
    let mut code = None;
    eventually("it ends", || {
        code = engine.child.try_wait().unwrap();
        code.is_some()
    });
    (code.unwrap().code(), engine.log())
}

#[test]
fn what_kafka_has_lost_is_named_and_given_up_by_one_command() {
    let Some(broker) = Broker::start(root(), 1) else { return };
    let owner = Owner::of(&broker);
    retention_took_what_was_not_read_yet(&broker, &owner);
    retention_took_what_a_recovery_needs(&broker, &owner);
    the_topic_was_deleted_and_made_again(&broker, &owner);
    broker.stop(root());
}

fn retention_took_what_was_not_read_yet(broker: &Broker, owner: &Owner) {
    let case = Case::new("retained", broker, "");
    let mut engine = case.folder.engine();
    owner.events(&case.topic, 0..10);
    case.arrive(0..10);
    assert_eq!(engine.stop("TERM").0, Some(0), "{}", engine.log());
    owner.events(&case.topic, 10..20);
    owner.forget(&case.topic, 0, 15);

    let (code, err) = case.fails();
    assert_eq!(code, 1, "{err}");
    let said = "error: offset 10 of `retained.v1/0` is not in the log, which holds 15 to 20\nhint: ";
    assert!(err.contains(said) && err.contains("headend skip retained.v1/0 -c headend.toml"), "{err}");
    assert!(case.skip().starts_with("`retained.v1/0`: task retained.l1/0 gives offsets 10 to 15 up and goes on at 15\n"));
    assert!(case.skip().contains("has lost nothing, and nothing was changed"));

    let mut engine = case.folder.engine();
    owner.events(&case.topic, 20..25);
    case.arrive(15..25);
    assert_eq!(engine.stop("TERM").0, Some(0), "{}", engine.log());
    case.exactly(0..25, 10..15);
}

fn retention_took_what_a_recovery_needs(broker: &Broker, owner: &Owner) {
    let case = Case::new("recovered", broker, "snapshot_interval = \"1h\"\nsnapshot_every = 100000");
    let mut engine = case.folder.engine();
    for id in 0..10 {
        // An epoch for each.
        owner.events(&case.topic, id..id + 1);
        case.arrive(id..=id);
    }
    engine.stop("KILL");
    owner.forget(&case.topic, 0, 4);

    let (code, err) = case.fails();
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("is not in the log, which holds 4 to 10\nhint: ") && err.contains("headend skip recovered.v1/0"), "{err}");
    assert!(case.skip().contains("goes on at 10\n"));
    for n in 10..13 {
        // The first time it recovers around what is gone, and from then on from a snapshot; each time everything is compared again that can be.
        let mut engine = case.folder.engine();
        owner.events(&case.topic, n..n + 1);
        case.arrive(n..=n);
        engine.stop("KILL");
        assert!(!engine.log().contains("came out differently"), "{}", engine.log());
    }
    case.exactly(0..13, 0..0);
}

fn the_topic_was_deleted_and_made_again(broker: &Broker, owner: &Owner) {
    let case = Case::new("remade", broker, "");
    let mut engine = case.folder.engine();
    owner.events(&case.topic, 0..5);
    case.arrive(0..5);
    owner.delete(&case.topic);
    let (code, err) = ends(&mut engine);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("error: topic `remade.v1` does not exist\nhint: `headend topics apply` creates what is missing"), "{err}");

    let (code, _, err) = case.folder.run(&["topics", "apply", "-c", "headend.toml"]);
    assert_eq!(code, 0, "{err}");
    let (code, err) = case.fails();
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("error: offsets 0 to 5 of `remade.v1/0` are gone: an epoch that took them cannot be run again\nhint: "), "{err}");
    assert!(case.skip().contains("goes on at 0\n"));
    let mut engine = case.folder.engine();
    owner.events(&case.topic, 5..10);
    case.arrive(5..10);
    assert_eq!(engine.stop("TERM").0, Some(0), "{}", engine.log());
    case.exactly(0..10, 0..0);
}

#[test]
fn a_topic_with_other_partitions_is_refused_at_start_and_while_running_with_both_numbers() {
    let Some(broker) = Broker::start(root(), 1) else { return };
    let owner = Owner::of(&broker);
    let case = Case::new("unequal", &broker, "");
    owner.create(&case.topic, 3, &[]);
    let (code, err) = case.fails();
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("error: topic `unequal.v1` has 3 partitions, expected 1\nhint: "), "{err}");
    let (code, out, _) = case.folder.run(&["topics", "check", "-c", "headend.toml"]);
    assert!(code == 78 && out.contains("DIFFERS unequal.v1: `partitions` is `3`, expected `1`"), "{out}");

    let case = Case::new("widened", &broker, "");
    let mut engine = case.folder.engine();
    owner.events(&case.topic, 0..5);
    case.arrive(0..5);
    owner.widen(&case.topic, 2);
    let (code, err) = ends(&mut engine);
    assert_eq!(code, Some(78), "{err}");
    assert!(err.contains("error: topic `widened.v1` has 2 partitions, expected 1\nhint: "), "{err}");
    broker.stop(root());
}

#[test]
fn records_of_other_programs_are_rows_tombstones_or_dead_letters_and_never_stop_a_task() {
    let Some(broker) = Broker::start(root(), 1) else { return };
    let owner = Owner::of(&broker);
    let case = Case::new("foreign", &broker, "");
    owner.create(&case.topic, 1, &[("max.message.bytes", "33554432")]);
    let mut engine = case.folder.engine();
    let topic = case.topic.as_str();
    owner.events(topic, 0..1);
    // What is wrong with each is in its reason.
    owner.send(BaseRecord::to(topic).key(&b"acme|other"[..]).payload(event("nobody", "").as_bytes()));
    owner.send(BaseRecord::to(topic).key(KEY));
    owner.put(topic, noise(900_000));
    owner.put(topic, noise(20_000_000));
    // Large, and right.
    let large = |id, bytes| event(id, &format!(",\"note\":\"{}\"", "x".repeat(bytes)));
    owner.put(topic, large("e1", 900_000));
    owner.put(topic, large("e2", 20_000_000));
    // A CloudEvent in both of its modes.
    let time = now();
    let headers = [("ce_specversion", "1.0"), ("ce_type", "usage"), ("ce_source", "/billing"), ("ce_id", "e3"), ("ce_time", &time)];
    let headers = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
    let binary = "{\"tenant\":\"acme\",\"subscriber_id\":\"s1\",\"bytes_down\":1}";
    owner.send(BaseRecord::to(topic).key(KEY).payload(binary.as_bytes()).headers(headers));
    let structured = format!("{{\"specversion\":\"1.0\",\"type\":\"usage\",\"source\":\"/billing\",\"id\":\"e4\",\"time\":\"{}\",\"data\":{binary}}}", now());
    let headers = OwnedHeaders::new().insert(Header { key: "content-type", value: Some("application/cloudevents+json; charset=UTF-8") });
    owner.send(BaseRecord::to(topic).key(KEY).payload(structured.as_bytes()).headers(headers));
    // Without a key, in the partition where its fields' key belongs.
    owner.send(BaseRecord::<[u8], [u8]>::to(topic).partition(0).payload(event("e5", "").as_bytes()));
    owner.events(topic, 6..7);

    case.arrive(0..7);
    case.exactly(0..7, 0..0);
    let metrics = engine.metrics();
    assert!(metrics.contains("headend_rows_total{fate=\"dead\"} 4\n") && metrics.contains("headend_rows_total{fate=\"misplaced\"} 1\n"), "{metrics}");
    assert!(metrics.contains("headend_dead_letters_total{topic=\"foreign.v1\",reason=\"undecodable\"} 3\n"), "{metrics}");
    // Those that come too soon after others are told later, in a number.
    eventually("all of them are told", || {
        let log = engine.log();
        let later = log.lines().filter_map(|l| l.split_once("cannot take ")?.1.split_once(" other events")?.0.parse::<usize>().ok());
        log.matches("cannot take the event at `foreign.v1/0@").count() + later.sum::<usize>() == 4
    });
    assert!(engine.log().contains("`foreign.v1/0@1`: record key is `acme|other`, its fields say `acme|s1`"), "{}", engine.log());
    assert_eq!(engine.stop("TERM").0, Some(0), "{}", engine.log());
    broker.stop(root());
}

/// Bytes that no compression makes smaller, and that are no JSON.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(&mut next).take(bytes).collect()
}

#[test]
fn events_wait_at_the_door_while_the_broker_is_away_and_go_on_when_it_is_back() {
    let Some(broker) = Broker::start(root(), 1) else { return };
    let folder = Folder::new(super::bad_input::JOB);
    folder.write("kafka.toml", &kafka::config("one", &broker.addresses));
    let mut engine = folder.engine_of("kafka.toml");
    let send = |id: &str| post(&engine.address, event(id, "").as_bytes());
    assert_eq!(send("before").unwrap().0, 200);
    broker.kill(root(), 1);
    let (status, answer) = send("meanwhile").unwrap();
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("log_unavailable"), "{answer}");
    assert!(engine.child.try_wait().unwrap().is_none(), "it goes on: {}", engine.log());
    broker.restart(root());
    eventually("events are accepted again", || send("after").is_some_and(|(status, _)| status == 200));
    let out = folder.path().join("data/out");
    eventually("both are delivered", || delivered(&out).contains_key("before") && delivered(&out).contains_key("after"));
    assert_eq!(engine.stop("TERM").0, Some(0), "{}", engine.log());
    broker.stop(root());
}

#[test]
fn epoch_records_that_nobody_needs_are_deleted_and_everybody_starts_without_them() {
    let Some(broker) = Broker::start(root(), 1) else { return };
    let owner = Owner::of(&broker);
    let case = Case::new("upkeep", &broker, "snapshot_interval = \"300ms\"\nupkeep_interval = \"200ms\"");
    let job = case.folder.path().join("upkeep.sql");
    let rooms = "CREATE MATERIALIZED VIEW by_tenant AS SELECT tenant, COUNT(*) AS events FROM usage GROUP BY tenant;
                 CREATE SINK newest FROM by_tenant WITH (connector = 'room', room = 'risk:{tenant}', type = 'state', key = 'tenant');";
    std::fs::write(&job, std::fs::read_to_string(&job).unwrap() + rooms).unwrap();
    let mut engine = case.folder.engine();
    let deleted = |engine: &Engine, group: &str| {
        let counter = format!("headend_epochs_deleted_total{{group=\"upkeep.{group}\"}} ");
        engine.metrics().lines().find_map(|l| l.strip_prefix(&counter)?.parse().ok()).unwrap_or(0_u64)
    };
    let mut sent = 0;
    eventually("the first epochs of all tasks are deleted", || {
        owner.events(&case.topic, sent..sent + 1);
        sent += 1;
        case.arrive(sent - 1..sent);
        ["l1", "l2", "rooms"].iter().all(|group| deleted(&engine, group) > 0)
    });
    let (_, token, _) = case.folder.run(&["token", "-c", "headend.toml", "--tenant", "acme", "--role", "admin", "--json"]);
    let token: serde_json::Value = serde_json::from_str(&token).unwrap();
    let room = |engine: &Engine, path: &str| -> serde_json::Value {
        let request =
            ureq::get(format!("{}/v1/rooms/risk:acme/{path}", engine.address)).header("authorization", format!("Bearer {}", token["token"].as_str().unwrap()));
        request.call().unwrap().body_mut().read_json().unwrap()
    };
    let counted = |engine: &Engine| room(engine, "state")["entries"][0]["data"]["events"] == sent;
    eventually("the room has all of them", || counted(&engine));
    let (state, history) = (room(&engine, "state"), room(&engine, "history?limit=1000"));
    engine.stop("KILL");

    let mut engine = case.folder.engine();
    assert_eq!((room(&engine, "state"), room(&engine, "history?limit=1000")), (state, history), "as it was, from what is left");
    owner.events(&case.topic, sent..sent + 5);
    case.arrive(0..sent + 5);
    assert_eq!(engine.stop("TERM").0, Some(0), "{}", engine.log());
    case.exactly(0..sent + 5, 0..0);
    broker.stop(root());
}

//! The Kafka sink against a real broker.

use super::{broker::Broker, epoch, output, revenue, texts};
use crate::{
    KafkaSink, KafkaSinkConfig, Sink,
    kafka::{EPOCH_HEADER, INCARNATION_HEADER, OP_HEADER, SEQ_HEADER, TASK_HEADER},
};
use arrow_array::{ArrayRef, Int64Array};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};
use schemas::{AcceptedEpoch, OP_COLUMN, OutputKind, op, partition::partition_of};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

const PARTITIONS: u32 = 3;
const LONG: Duration = Duration::from_secs(20);

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[derive(Debug)]
struct Read {
    partition: u32,
    key: Option<String>,
    value: Option<Value>,
    headers: BTreeMap<String, String>,
}

impl Read {
    fn number(&self, header: &str) -> u64 {
        self.headers[header].parse().unwrap()
    }
}

/// Everything in the topic, partition by partition.
fn read_all(brokers: &str, topic: &str) -> Vec<Read> {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "t").create().unwrap();
    let (mut all, started) = (Vec::new(), Instant::now());
    for partition in 0..PARTITIONS {
        let (_, end) = consumer.fetch_watermarks(topic, partition as i32, LONG).unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition as i32, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let mut next = 0;
        while next < end {
            assert!(started.elapsed() < LONG, "the records are there");
            let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
            let message = message.unwrap();
            next = message.offset() + 1;
            let header = |h: rdkafka::message::Header<'_, &[u8]>| (h.key.to_owned(), String::from_utf8(h.value.unwrap().to_vec()).unwrap());
            all.push(Read {
                partition,
                key: message.key().map(|k| String::from_utf8(k.to_vec()).unwrap()),
                value: message.payload().map(|v| serde_json::from_slice(v).unwrap()),
                headers: message.headers().unwrap().iter().map(header).collect(),
            });
        }
    }
    all
}

/// What a reader keeps that drops `seq <= last` of an incarnation, task and partition.
fn once(read: Vec<Read>) -> Vec<Read> {
    let mut last: BTreeMap<(String, u64, u32), u64> = BTreeMap::new();
    let fresh = |r: &Read| {
        let held = last.entry((r.headers[INCARNATION_HEADER].clone(), r.number(TASK_HEADER), r.partition)).or_default();
        let seq = r.number(SEQ_HEADER);
        assert!(seq <= *held + 1, "numbers are dense");
        let fresh = seq > *held;
        *held = (*held).max(seq);
        fresh
    };
    let mut fresh = fresh;
    read.into_iter().filter(|r| fresh(r)).collect()
}

fn epochs(numbers: std::ops::RangeInclusive<u64>) -> Vec<Arc<AcceptedEpoch>> {
    numbers.map(|n| epoch(n, vec![revenue((n as i64 - 1) * 50..n as i64 * 50)])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_have_the_same_numbers_whenever_they_are_sent_and_upserts_replace_and_remove() {
    let Some(broker) = Broker::start(root(), 1) else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = |topic: &str, view: &str| KafkaSinkConfig {
        partitions: PARTITIONS,
        key: Some("{id}".to_owned()),
        ..KafkaSinkConfig::new(topic, view, &broker.addresses, topic, folder.path().join(topic))
    };
    every_row_once_by_its_number(&broker, config("revenue", "revenue")).await;
    a_change_replaces_and_a_deletion_is_a_null(&broker, config("scores", "scores")).await;
    broker.stop(root());
}

async fn every_row_once_by_its_number(broker: &Broker, config: KafkaSinkConfig) {
    let mut sink = KafkaSink::new(config.clone()).unwrap();
    assert_eq!(sink.cursor(3).await.unwrap().epoch, 0);
    sink.write(3, &epochs(1..=2)).await.unwrap();
    // Another process goes on from the cursor; one whose cursor was lost sends everything again, in other batches.
    let mut again = KafkaSink::new(config.clone()).unwrap();
    assert_eq!(again.cursor(3).await.unwrap().epoch, 2);
    std::fs::remove_dir_all(&config.cursors).unwrap();
    assert_eq!(again.cursor(3).await.unwrap().epoch, 0);
    for epoch in epochs(1..=3) {
        again.write(3, &[epoch]).await.unwrap();
    }
    let read = read_all(&broker.addresses, &config.topic);
    assert_eq!(read.len(), 100 + 150);
    let kept = once(read);
    let mut ids: Vec<i64> = kept.iter().map(|r| r.value.as_ref().unwrap()["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..150));
    for r in &kept {
        let (key, value) = (r.key.as_ref().unwrap(), r.value.as_ref().unwrap());
        assert_eq!(*key, value["id"].to_string());
        assert_eq!(r.partition, partition_of(key.as_bytes(), PARTITIONS));
        assert_eq!(r.number(EPOCH_HEADER), value["id"].as_u64().unwrap() / 50 + 1);
        assert!(value.get("_time").is_none() && value["day"].as_str().unwrap().ends_with('Z'), "{value}");
    }
}

async fn a_change_replaces_and_a_deletion_is_a_null(broker: &Broker, config: KafkaSinkConfig) {
    let rows = |ops: &[&str], ids: Vec<i64>| {
        let ids: ArrayRef = Arc::new(Int64Array::from(ids));
        output("scores", OutputKind::Changes, vec![(OP_COLUMN, texts(ops)), ("id", ids)])
    };
    let mut sink = KafkaSink::new(config.clone()).unwrap();
    let first = epoch(1, vec![rows(&[op::INSERT, op::INSERT], vec![1, 2])]);
    let second = epoch(2, vec![rows(&[op::UPDATE_BEFORE, op::UPDATE_AFTER, op::DELETE], vec![1, 1, 2])]);
    sink.write(3, &[first, second]).await.unwrap();
    let read = read_all(&broker.addresses, &config.topic);
    let told = |key: &str| -> Vec<(&str, bool)> {
        let of_key = read.iter().filter(|r| r.key.as_deref() == Some(key));
        of_key.map(|r| (r.headers[OP_HEADER].as_str(), r.value.is_some())).collect()
    };
    assert_eq!(told("1"), [(op::INSERT, true), (op::UPDATE_AFTER, true)]);
    assert_eq!(told("2"), [(op::INSERT, true), (op::DELETE, false)]);
}

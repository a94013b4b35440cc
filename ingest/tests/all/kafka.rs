//! The log on Apache Kafka: the contract, and what it promises beyond it. Needs Java and Maven; see `docs/testing.md`.

use crate::{
    broker::Broker,
    contract::{self, numbered, read_all},
};
use ingest::{ErrorKind, Fetch, KafkaConfig, KafkaLog, Log, LogError, TopicSpec};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use std::{path::Path, sync::Arc, time::Duration};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

async fn open(broker: &Broker, instance: &str) -> Arc<KafkaLog> {
    KafkaLog::open(KafkaConfig::new(&broker.addresses, instance)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_keeps_the_contract_survives_its_broker_and_shares_partitions() {
    let Some(broker) = Broker::start(root(), 1) else { return };
    let log = open(&broker, "one").await;
    contract::run(log.clone()).await;
    a_broker_that_dies_and_comes_back_loses_nothing(&broker, &log).await;
    two_members_share_and_take_over(&broker, &log).await;
    a_topic_with_other_partitions_is_named_with_both_numbers(&log).await;
    a_record_that_the_topic_does_not_take_is_named_with_its_size(&log).await;
    a_transaction_that_was_aborted_is_not_read_and_its_marks_hold_nobody_back(&broker, &log).await;
    nothing_is_lost_where_the_broker_is_not_ready_for_a_new_topic(&broker).await;
    a_record_of_20_mb_is_read_like_any_other(&broker, &log).await;
    a_topic_that_was_made_again_is_told_by_its_offsets(&broker, &log).await;
    log.close().await;
    broker.stop(root());
}

async fn a_broker_that_dies_and_comes_back_loses_nothing(broker: &Broker, log: &Arc<KafkaLog>) {
    let name = contract::topic(&(Arc::clone(log) as Arc<dyn Log>), 1).await;
    let mut reader = log.reader(&name, 0, 0).unwrap();
    log.append(&name, 0, numbered(0..100)).await.unwrap();
    assert_eq!(read_all(&mut reader).await.unwrap().len(), 100);
    broker.kill(root(), 1);
    let waiting = {
        let (log, name) = (Arc::clone(log), name.clone());
        tokio::spawn(async move { log.append(&name, 0, numbered(100..200)).await })
    };
    broker.restart(root());
    assert_eq!(waiting.await.unwrap().unwrap().base_offset, 100);
    let mut rest = Vec::new();
    while rest.len() < 100 {
        match reader.fetch(1_000, 1 << 20, Duration::from_secs(5)).await {
            Ok(fetch) => rest.extend(fetch.records),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Retry, "{e}"),
        }
    }
    assert!(rest.iter().map(|r| r.offset).eq(100..200));
}

async fn two_members_share_and_take_over(broker: &Broker, log: &Arc<KafkaLog>) {
    const LONG: Duration = Duration::from_secs(30);
    let name = contract::topic(&(Arc::clone(log) as Arc<dyn Log>), 4).await;
    let first = log.ownership(&name).await.unwrap();
    let mut of_first = first.owned();
    tokio::time::timeout(LONG, of_first.wait_for(|o| o.len() == 4)).await.unwrap().unwrap();
    assert!(first.confirm(3, 7).await.unwrap());

    let other = open(broker, "two").await;
    let second = other.ownership(&name).await.unwrap();
    let mut of_second = second.owned();
    tokio::time::timeout(LONG, of_second.wait_for(|o| o.len() == 2)).await.unwrap().unwrap();
    let shared = of_first.wait_for(|o| o.len() == 2).await.unwrap().clone();
    let mut all: Vec<u32> = shared.iter().chain(of_second.borrow().iter()).copied().collect();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);
    let lost = (0..4).find(|p| !shared.contains(p)).unwrap();
    assert!(!first.confirm(lost, 8).await.unwrap(), "what was given away is confirmed no more");

    drop(second);
    drop(other);
    tokio::time::timeout(LONG, of_first.wait_for(|o| o.len() == 4)).await.unwrap().unwrap();
    first.leave().await;
}

async fn a_record_that_the_topic_does_not_take_is_named_with_its_size(log: &Arc<KafkaLog>) {
    let name = contract::topic(&(Arc::clone(log) as Arc<dyn Log>), 1).await;
    let refused = log.append(&name, 0, vec![schemas::NewRecord::new("k", vec![b'x'; 2 << 20])]).await.unwrap_err();
    assert!(matches!(refused, LogError::RecordTooLarge { bytes, .. } if bytes == (2 << 20) + 1), "{refused}");
    assert_eq!(log.append(&name, 0, numbered(0..1)).await.unwrap().base_offset, 0, "it goes on with the next");
}

/// Producers of other programs, with settings of their own.
fn foreign(broker: &Broker, settings: &[(&str, &str)]) -> ThreadedProducer<DefaultProducerContext> {
    let config =
        settings.iter().fold(ClientConfig::new().set("bootstrap.servers", &broker.addresses).clone(), |mut c, (name, value)| c.set(*name, *value).clone());
    config.create().unwrap()
}

fn send(producer: &ThreadedProducer<DefaultProducerContext>, topic: &str, value: &[u8]) {
    producer.send(BaseRecord::<[u8], [u8]>::to(topic).partition(0).payload(value)).map_err(|(e, _)| e).unwrap();
}

async fn a_transaction_that_was_aborted_is_not_read_and_its_marks_hold_nobody_back(broker: &Broker, log: &Arc<KafkaLog>) {
    const LONG: Duration = Duration::from_secs(30);
    let name = contract::topic(&(Arc::clone(log) as Arc<dyn Log>), 1).await;
    let producer = foreign(broker, &[("transactional.id", "another-program")]);
    let topic = name.clone();
    let written = move || {
        producer.init_transactions(LONG).unwrap();
        for (values, is_committed) in [(["a", "b"], true), (["c", "d"], false), (["e", "f"], true)] {
            producer.begin_transaction().unwrap();
            values.iter().for_each(|v| send(&producer, &topic, v.as_bytes()));
            if is_committed { producer.commit_transaction(LONG).unwrap() } else { producer.abort_transaction(LONG).unwrap() }
        }
    };
    tokio::task::spawn_blocking(written).await.unwrap();
    let mut reader = log.reader(&name, 0, 0).unwrap();
    let all = read_all(&mut reader).await.unwrap();
    let values: Vec<&[u8]> = all.iter().filter_map(|r| r.value.as_deref()).collect();
    assert_eq!(values, [b"a", b"b", b"e", b"f"]);
    // The last mark stands behind the last record.
    assert_eq!(reader.position(), log.end(&name, 0).await.unwrap());
    assert!(reader.position() > all.last().unwrap().offset + 1);
}

/// A new producer writes to new topics at once, much of it side by side: the first batches meet brokers that refuse for a moment.
async fn nothing_is_lost_where_the_broker_is_not_ready_for_a_new_topic(broker: &Broker) {
    const TOPICS: usize = 20;
    const APPENDS: usize = 40;
    for n in 0..TOPICS {
        let log: Arc<dyn Log> = open(broker, &format!("new-{n}")).await;
        let name = contract::topic(&log, 4).await;
        let appends = (0..APPENDS).map(|a| {
            let (log, name) = (Arc::clone(&log), name.clone());
            tokio::spawn(async move { log.append_keyed(&name, numbered(a * 100..(a + 1) * 100)).await })
        });
        for append in appends.collect::<Vec<_>>() {
            append.await.unwrap().unwrap();
        }
        let mut found = 0;
        for partition in 0..4 {
            found += log.end(&name, partition).await.unwrap();
        }
        assert_eq!(found, (APPENDS * 100) as u64, "of topic {n}");
        log.close().await;
    }
}

async fn a_record_of_20_mb_is_read_like_any_other(broker: &Broker, log: &Arc<KafkaLog>) {
    const BYTES: usize = 20_000_000;
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", &broker.addresses).create().unwrap();
    let topic = NewTopic::new("large", 1, TopicReplication::Fixed(1)).set("max.message.bytes", "33554432");
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    let producer = foreign(broker, &[("message.max.bytes", "33554432")]);
    send(&producer, "large", &vec![b'x'; BYTES]);
    send(&producer, "large", b"after it");
    tokio::task::spawn_blocking(move || producer.flush(Duration::from_secs(30)).unwrap()).await.unwrap();
    let all = read_all(&mut log.reader("large", 0, 0).unwrap()).await.unwrap();
    assert_eq!(all.iter().map(|r| r.value.as_ref().unwrap().len()).collect::<Vec<_>>(), [BYTES, 8]);
}

async fn a_topic_that_was_made_again_is_told_by_its_offsets(broker: &Broker, log: &Arc<KafkaLog>) {
    let name = contract::topic(&(Arc::clone(log) as Arc<dyn Log>), 1).await;
    log.append(&name, 0, numbered(0..10)).await.unwrap();
    let mut reader = log.reader(&name, 0, 0).unwrap();
    assert_eq!(read_all(&mut reader).await.unwrap().len(), 10);
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", &broker.addresses).create().unwrap();
    admin.delete_topics(&[&name], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    // Deleting goes on after its answer.
    let spec = TopicSpec { name: name.clone(), partitions: 1, compacted: false };
    while !matches!(log.create_topic(&spec).await, Ok(true)) {}
    let gone = loop {
        match reader.fetch(100, 1 << 20, Duration::ZERO).await {
            Err(e) if e.kind() == ErrorKind::Stop => break e,
            Err(_) | Ok(Fetch { .. }) => {}
        }
    };
    assert!(matches!(gone, LogError::OffsetOutOfRange { offset: 10, start: 0, end: 0, .. }), "{gone}");
}

async fn a_topic_with_other_partitions_is_named_with_both_numbers(log: &Arc<KafkaLog>) {
    let spec = |partitions| TopicSpec { name: "usage.v1".to_owned(), partitions, compacted: false };
    log.create_topic(&spec(4)).await.unwrap();
    let refused = log.create_topic(&spec(2)).await.unwrap_err();
    assert!(matches!(refused, LogError::PartitionsDiffer { existing: 4, wanted: 2, .. }), "{refused}");
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_an_error_with_its_address_and_may_be_tried_again() {
    let config = KafkaConfig { timeout: Duration::from_millis(500), ..KafkaConfig::new("127.0.0.1:1", "one") };
    let error = KafkaLog::open(config).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(error.to_string().starts_with("cannot reach Kafka"), "{error}");
}

#[tokio::test]
async fn a_setting_that_librdkafka_does_not_know_is_named() {
    let config = KafkaConfig { properties: vec![("no.such.setting".to_owned(), "1".to_owned())], ..KafkaConfig::new("127.0.0.1:1", "one") };
    let error = KafkaLog::open(config).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("`no.such.setting`"), "{error}");
}

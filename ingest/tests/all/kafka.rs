//! The log on Apache Kafka: the contract, and what it promises beyond it. Needs Java and Maven; see `docs/testing.md`.

use crate::{
    broker::Broker,
    contract::{self, numbered, read_all},
};
use ingest::{ErrorKind, KafkaConfig, KafkaLog, Log, LogError, TopicSpec};
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

//! Figures of the log and the decoder: `cargo test -p ingest --release -- --ignored --nocapture figures`.

use crate::{decode, embedded::open};
use ingest::{DecoderSpec, Log, SourceDecoder, TopicSpec};
use schemas::NewRecord;
use std::time::{Duration, Instant};

const RECORDS: usize = 1_000_000;

fn event(i: usize) -> NewRecord {
    let subscriber = i % 100_000;
    let value = format!(
        r#"{{"event_id":"{i:016x}","event_time":"2026-11-21T18:{:02}:{:02}.{:03}Z","tenant":"acme","subscriber_id":"s{subscriber:06}","bytes_down":{},"bytes_up":{},"region":"north","node_id":"olt-{:03}"}}"#,
        (i / 60_000) % 60,
        (i / 1_000) % 60,
        i % 1_000,
        i * 7919 % 10_000_000,
        i * 104_729 % 1_000_000,
        i % 400
    );
    NewRecord::new(format!("acme|s{subscriber:06}"), value)
}

fn spec() -> DecoderSpec {
    use arrow_schema::{DataType, Field, Schema, TimeUnit};
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields =
        [("tenant", DataType::Utf8), ("subscriber_id", DataType::Utf8), ("event_time", time), ("bytes_down", DataType::Int64), ("bytes_up", DataType::Int64)];
    DecoderSpec { schema: std::sync::Arc::new(Schema::new(fields.map(|(n, t)| Field::new(n, t, true)).to_vec())), key: vec![0, 1], ..decode::spec() }
}

fn report(what: &str, took: Duration, n: usize) {
    println!("{what}: {:.0} ns a record, {:.2} M/s", took.as_nanos() as f64 / n as f64, n as f64 / took.as_secs_f64() / 1e6);
}

#[tokio::test]
#[ignore = "a measurement"]
async fn figures_of_append_read_and_decode() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), true).unwrap();
    log.create_topic(&TopicSpec { name: "usage.v1".into(), partitions: 1, compacted: false }).await.unwrap();
    let records: Vec<NewRecord> = (0..RECORDS).map(event).collect();
    println!("{} bytes a payload", records[0].value.as_ref().unwrap().len());
    let started = Instant::now();
    for chunk in records.chunks(10_000) {
        log.append("usage.v1", 0, chunk.to_vec()).await.unwrap();
    }
    report("append in batches of 10,000", started.elapsed(), RECORDS);

    for round in ["cold", "warm"] {
        let mut reader = log.reader("usage.v1", 0, 0).unwrap();
        let mut decoder = SourceDecoder::new(spec()).unwrap();
        let (mut read, mut decoded, mut rows) = (Duration::ZERO, Duration::ZERO, 0);
        loop {
            let started = Instant::now();
            let from = reader.position();
            let fetch = reader.fetch(65_536, 64 << 20, Duration::ZERO).await.unwrap();
            read += started.elapsed();
            let started = Instant::now();
            let batch = decoder.decode(0, from, reader.position(), &fetch.records).unwrap();
            decoded += started.elapsed();
            assert!(batch.dead.is_empty(), "{:?}", batch.dead.first());
            rows += batch.rows.num_rows();
            if fetch.caught_up {
                break;
            }
        }
        assert_eq!(rows, RECORDS);
        report(&format!("read ({round})"), read, RECORDS);
        report(&format!("decode ({round})"), decoded, RECORDS);
    }

    let mut waits: Vec<Duration> = Vec::new();
    for record in &records[..500] {
        let started = Instant::now();
        log.append("usage.v1", 0, vec![record.clone()]).await.unwrap();
        waits.push(started.elapsed());
    }
    waits.sort();
    println!("append of one record, synced: p50 {:?}, p99 {:?}", waits[250], waits[495]);

    // As a kill leaves it: the file copied while the log is open.
    let killed = tempfile::tempdir().unwrap();
    for name in ["log.redb", "log.tail"] {
        std::fs::copy(dir.path().join(name), killed.path().join(name)).unwrap();
    }
    let started = Instant::now();
    let again = open(killed.path(), false).unwrap();
    println!("opening {} MB after a kill: {:?}", std::fs::metadata(killed.path().join("log.redb")).unwrap().len() >> 20, started.elapsed());
    assert_eq!(again.end("usage.v1", 0).await.unwrap(), RECORDS as u64 + 500);
}

//! What every log must do. Each case makes a topic of its own, so that the cases may run on one log, and again on the same one.

use ingest::{ErrorKind, Fetch, Log, LogError, LogReader, TopicSpec};
use schemas::{NewRecord, Record, partition::partition_of};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(20);

/// Runs every case.
pub async fn run(log: Arc<dyn Log>) {
    topics_are_created_once(&log).await;
    records_come_back_in_order_and_whole(&log).await;
    concurrent_appends_stand_at_contiguous_offsets(&log).await;
    a_reader_waits_at_the_end_and_wakes(&log).await;
    a_fetch_keeps_to_its_limits(&log).await;
    keyed_records_go_where_murmur2_says(&log).await;
    what_is_not_there_is_named(&log).await;
    deleted_offsets_are_out_of_range(&log).await;
    a_partition_is_owned(&log).await;
}

pub async fn topic(log: &Arc<dyn Log>, partitions: u32) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    assert!(log.create_topic(&TopicSpec { name: name.clone(), partitions, compacted: false }).await.unwrap());
    name
}

pub fn numbered(range: std::ops::Range<usize>) -> Vec<NewRecord> {
    range.map(|i| NewRecord::new(format!("t|{i}"), format!("value {i}"))).collect()
}

/// Reads to the end, as it is when nothing comes any more: beside records the log's word is as old as they are.
pub async fn read_all(reader: &mut Box<dyn LogReader>) -> Result<Vec<Record>, LogError> {
    let mut all = Vec::new();
    loop {
        let Fetch { records, caught_up, behind } = reader.fetch(997, 1 << 20, NOW).await?;
        assert_eq!(caught_up, behind == 0);
        let is_end = caught_up && records.is_empty();
        all.extend(records);
        if is_end {
            return Ok(all);
        }
    }
}

async fn topics_are_created_once(log: &Arc<dyn Log>) {
    let name = topic(log, 3).await;
    assert!(!log.create_topic(&TopicSpec { name: name.clone(), partitions: 3, compacted: false }).await.unwrap());
    let other = log.create_topic(&TopicSpec { name: name.clone(), partitions: 4, compacted: false }).await.unwrap_err();
    assert!(matches!(other, LogError::PartitionsDiffer { existing: 3, wanted: 4, .. }), "{other}");
    assert_eq!(other.kind(), ErrorKind::Reject);
    assert!(log.misfits(&TopicSpec { name: name.clone(), partitions: 3, compacted: false }).await.unwrap().is_empty());
    let misfits = log.misfits(&TopicSpec { name: name.clone(), partitions: 4, compacted: false }).await.unwrap();
    assert_eq!(misfits.iter().map(|m| (m.setting, m.existing.as_str(), m.wanted.as_str())).collect::<Vec<_>>(), [("partitions", "3", "4")]);
    assert!(log.create_topic(&TopicSpec { name: format!("{name}-none"), partitions: 0, compacted: false }).await.is_err());
    let found = log.topics().await.unwrap().into_iter().find(|t| t.name == name).unwrap();
    assert_eq!((found.partitions, found.compacted), (3, false));
}

async fn records_come_back_in_order_and_whole(log: &Arc<dyn Log>) {
    let name = topic(log, 2).await;
    let mut records = numbered(0..10_000);
    records[1].value = None;
    records[2].key = None;
    records[3].headers = vec![("ce_id".into(), "e1".into()), ("empty".into(), "".into())];
    records[4] = NewRecord::new("", "");
    records[5] = NewRecord::end_of_source();
    records[6].value = Some(vec![7; 700_000].into());
    let first = log.append(&name, 1, records[..5_000].to_vec()).await.unwrap();
    let second = log.append(&name, 1, records[5_000..].to_vec()).await.unwrap();
    assert_eq!((first.base_offset, second.base_offset), (0, 5_000));
    assert!(second.append_us >= first.append_us);
    assert_eq!((log.start(&name, 1).await.unwrap(), log.end(&name, 1).await.unwrap()), (0, 10_000));
    assert_eq!(log.end(&name, 0).await.unwrap(), 0);

    let mut reader = log.reader(&name, 1, 0).unwrap();
    let read = read_all(&mut reader).await.unwrap();
    assert_eq!(read.len(), records.len());
    for (i, (r, new)) in read.iter().zip(&records).enumerate() {
        assert_eq!(r.offset, i as u64);
        assert_eq!((&r.key, &r.value, &r.headers), (&new.key, &new.value, &new.headers), "record {i}");
    }
    assert_eq!((read[0].append_us, read[5_000].append_us), (first.append_us, second.append_us));
    assert!(read.windows(2).all(|w| w[0].append_us <= w[1].append_us));
    assert!(read[5].is_end_of_source());
    for from in [9_999, 1_234, 5_000, 0] {
        reader.seek(from);
        assert_eq!(reader.position(), from);
        let expected = &read[from as usize..(from as usize + 3).min(read.len())];
        // A fetch gives what has come, one record at least.
        let (mut again, mut caught_up) = (Vec::new(), false);
        while again.len() < expected.len() && !caught_up {
            let fetched = reader.fetch(3 - again.len(), 1 << 20, NOW).await.unwrap();
            assert!(!fetched.records.is_empty());
            caught_up = fetched.caught_up;
            again.extend(fetched.records);
        }
        assert_eq!(again, expected);
        assert_eq!((reader.position(), caught_up), (from + expected.len() as u64, from == 9_999));
    }
}

async fn concurrent_appends_stand_at_contiguous_offsets(log: &Arc<dyn Log>) {
    let name = topic(log, 1).await;
    let mut writers = Vec::new();
    for w in 0..16 {
        let (log, name) = (log.clone(), name.clone());
        writers.push(tokio::spawn(async move {
            let mut placed = Vec::new();
            for i in 0..20 {
                let records = (0..3).map(|k| NewRecord::new("t|s", format!("{w}/{i}/{k}"))).collect();
                placed.push((log.append(&name, 0, records).await.unwrap(), w, i));
            }
            placed
        }));
    }
    let mut placed = Vec::new();
    for writer in writers {
        placed.extend(writer.await.unwrap());
    }
    let read = read_all(&mut log.reader(&name, 0, 0).unwrap()).await.unwrap();
    assert_eq!(read.len(), 16 * 20 * 3);
    for (appended, w, i) in &placed {
        for k in 0..3 {
            let record = &read[appended.base_offset as usize + k];
            assert_eq!(record.value.as_deref(), Some(format!("{w}/{i}/{k}").as_bytes()));
            assert!(k > 0 || record.append_us == appended.append_us);
        }
    }
    assert!(read.windows(2).all(|w| w[0].offset + 1 == w[1].offset && w[0].append_us <= w[1].append_us));
}

async fn a_reader_waits_at_the_end_and_wakes(log: &Arc<dyn Log>) {
    let name = topic(log, 1).await;
    let mut reader = log.reader(&name, 0, 0).unwrap();
    let empty = reader.fetch(10, 1000, Duration::from_millis(30)).await.unwrap();
    assert!(empty.records.is_empty() && empty.caught_up);

    let waiting = tokio::spawn(async move {
        let mut fetched = reader.fetch(10, 1000, LONG).await.unwrap();
        // A log may show the records of an append one after the other.
        while fetched.records.len() < 2 {
            let more = reader.fetch(10, 1000, LONG).await.unwrap();
            fetched = Fetch { records: fetched.records.into_iter().chain(more.records).collect(), ..more };
        }
        (fetched, reader)
    });
    let started = Instant::now();
    log.append(&name, 0, numbered(0..2)).await.unwrap();
    let (fetched, mut reader) = waiting.await.unwrap();
    assert!(started.elapsed() < LONG);
    assert_eq!(fetched.records.len(), 2);
    assert!(fetched.caught_up);

    log.append(&name, 0, numbered(2..4)).await.unwrap();
    let partial = reader.fetch(1, 1000, LONG).await.unwrap();
    assert_eq!(partial.records.len(), 1);
    assert_eq!(read_all(&mut reader).await.unwrap().len(), 1);
}

async fn a_fetch_keeps_to_its_limits(log: &Arc<dyn Log>) {
    let name = topic(log, 1).await;
    log.append(&name, 0, (0..50).map(|i| NewRecord::new(format!("{i}"), vec![b'x'; 1000])).collect()).await.unwrap();
    let mut reader = log.reader(&name, 0, 0).unwrap();
    assert_eq!(reader.fetch(7, 1 << 20, NOW).await.unwrap().records.len(), 7);
    let by_bytes = reader.fetch(1000, 5_000, NOW).await.unwrap().records.len();
    assert!((1..=6).contains(&by_bytes), "{by_bytes}");
    assert_eq!(reader.fetch(1000, 1, NOW).await.unwrap().records.len(), 1);
    assert_eq!(reader.position(), 8 + by_bytes as u64);
}

async fn keyed_records_go_where_murmur2_says(log: &Arc<dyn Log>) {
    let name = topic(log, 4).await;
    let records = numbered(0..1_000);
    log.append_keyed(&name, records.clone()).await.unwrap();
    let mut seen = 0;
    for p in 0..4 {
        let read = read_all(&mut log.reader(&name, p, 0).unwrap()).await.unwrap();
        let expected: Vec<_> = records.iter().filter(|r| partition_of(r.key.as_ref().unwrap(), 4) == p).map(|r| &r.value).collect();
        assert_eq!(read.iter().map(|r| &r.value).collect::<Vec<_>>(), expected);
        seen += read.len();
    }
    assert_eq!(seen, 1_000);
    let refused = log.append_keyed(&name, vec![NewRecord::new("a", "b"), NewRecord { key: None, ..NewRecord::new("", "c") }]).await;
    assert!(matches!(refused, Err(LogError::NullKey { index: 1, .. })));
    let ends = [log.end(&name, 0).await, log.end(&name, 1).await, log.end(&name, 2).await, log.end(&name, 3).await];
    assert_eq!(ends.into_iter().map(Result::unwrap).sum::<u64>(), 1_000, "a refused append left something");
}

async fn what_is_not_there_is_named(log: &Arc<dyn Log>) {
    let name = topic(log, 1).await;
    let unknown = log.append("no such topic", 0, numbered(0..1)).await.unwrap_err();
    assert!(matches!(unknown, LogError::UnknownTopic { .. }), "{unknown}");
    assert!(log.reader("no such topic", 0, 0).is_err() && log.end("no such topic", 0).await.is_err());
    let partition = log.append(&name, 1, numbered(0..1)).await.unwrap_err();
    assert!(matches!(partition, LogError::UnknownPartition { partition: 1, partitions: 1, .. }), "{partition}");
    let beyond = log.reader(&name, 0, 5).unwrap().fetch(1, 1, NOW).await.unwrap_err();
    assert!(matches!(beyond, LogError::OffsetOutOfRange { offset: 5, start: 0, end: 0, .. }), "{beyond}");
    assert_eq!(beyond.kind(), ErrorKind::Stop);
    let large = log.append(&name, 0, vec![NewRecord::new("k", vec![0; 17 << 20])]).await.unwrap_err();
    assert!(matches!(large, LogError::RecordTooLarge { .. }), "{large}");
    assert_eq!(log.end(&name, 0).await.unwrap(), 0);
}

async fn deleted_offsets_are_out_of_range(log: &Arc<dyn Log>) {
    let name = topic(log, 1).await;
    for i in 0..50 {
        log.append(&name, 0, numbered(i * 100..(i + 1) * 100)).await.unwrap();
    }
    log.delete_before(&name, 0, 2_345).await.unwrap();
    log.delete_before(&name, 0, 1_000).await.unwrap();
    assert_eq!((log.start(&name, 0).await.unwrap(), log.end(&name, 0).await.unwrap()), (2_345, 5_000));
    let mut behind = log.reader(&name, 0, 0).unwrap();
    let gone = behind.fetch(1, 1, NOW).await.unwrap_err();
    assert!(matches!(gone, LogError::OffsetOutOfRange { offset: 0, start: 2_345, end: 5_000, .. }), "{gone}");
    behind.seek(2_345);
    let read = read_all(&mut behind).await.unwrap();
    assert_eq!((read.len(), read[0].offset), (2_655, 2_345));
    assert!(log.delete_before(&name, 0, 5_001).await.is_err());
    log.delete_before(&name, 0, 5_000).await.unwrap();
    assert_eq!(log.append(&name, 0, numbered(0..1)).await.unwrap().base_offset, 5_000);
    behind.seek(5_000);
    assert_eq!(read_all(&mut behind).await.unwrap().len(), 1);
}

async fn a_partition_is_owned(log: &Arc<dyn Log>) {
    let name = topic(log, 2).await;
    let ownership = log.ownership(&name).await.unwrap();
    let mut owned = ownership.owned();
    tokio::time::timeout(LONG, owned.wait_for(|o| o == &[0, 1])).await.unwrap().unwrap();
    assert!(ownership.confirm(1, 0).await.unwrap());
    ownership.leave().await;
    tokio::time::timeout(LONG, owned.wait_for(Vec::is_empty)).await.unwrap().unwrap();
    assert!(!ownership.confirm(1, 0).await.unwrap_or(false), "who has left owns nothing");
    assert!(log.ownership("no such topic").await.is_err());
}

//! One flipped bit in the file of the embedded log: found and named, or without effect. Nothing wrong ever comes out.

use crate::{
    contract::{numbered, read_all},
    embedded::{open, spec},
};
use ingest::{Log, LogError};
use schemas::Record;
use std::path::Path;

/// The records of both partitions, or the error that stood in their place; no other outcome counts.
async fn read(dir: &Path) -> Result<Vec<Vec<Record>>, LogError> {
    let log = open(dir, false)?;
    let mut partitions = Vec::new();
    for p in 0..2 {
        let mut reader = log.reader("usage.v1", p, 0)?;
        partitions.push(read_all(&mut reader).await);
    }
    log.close().await;
    partitions.into_iter().collect()
}

async fn write(dir: &Path) {
    let log = open(dir, false).unwrap();
    log.create_topic(&spec(2)).await.unwrap();
    for i in 0..20 {
        log.append_keyed("usage.v1", numbered(i * 50..(i + 1) * 50)).await.unwrap();
    }
    log.append_keyed("usage.v1", numbered(1_000..30_000)).await.unwrap();
    log.append_keyed("usage.v1", numbered(30_000..30_020)).await.unwrap();
    log.close().await;
}

fn copy(from: &Path, to: &Path) {
    for name in ["log.redb", "log.tail"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_gives_the_right_records_or_an_error() {
    let good = tempfile::tempdir().unwrap();
    write(good.path()).await;
    let expected = read(good.path()).await.unwrap();
    assert_eq!(expected.iter().map(Vec::len).sum::<usize>(), 30_020);
    let bytes = std::fs::read(good.path().join("log.redb")).unwrap();
    // Every byte of the header, then the pages that hold something.
    let used: Vec<usize> = (4096..bytes.len()).filter(|i| bytes[*i] != 0).collect();
    let positions = (0..320).chain(used.iter().copied().step_by(used.len() / 400));
    // redb says through a panic what it finds impossible; it is caught, and its text would only fill the screen here.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|l| l.file().contains("redb")) {
            usual(info);
        }
    }));
    let (mut found, mut without_effect) = (0, 0);
    for (n, position) in positions.enumerate() {
        let bad = tempfile::tempdir().unwrap();
        copy(good.path(), bad.path());
        let mut flipped = bytes.clone();
        flipped[position] ^= 1 << (n % 8);
        std::fs::write(bad.path().join("log.redb"), flipped).unwrap();
        match read(bad.path()).await {
            Ok(records) if records == expected => without_effect += 1,
            Ok(_) => panic!("bit {} of byte {position}: wrong records and no error", n % 8),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("log.redb"), "byte {position}: {text}");
                found += 1;
            }
        }
    }
    println!("{found} flipped bits found, {without_effect} without effect");
    assert!(found > 200);
}

#[tokio::test]
async fn a_damaged_block_is_named_and_what_stands_before_it_is_read() {
    let good = tempfile::tempdir().unwrap();
    write(good.path()).await;
    let expected = read(good.path()).await.unwrap();
    let path = good.path().join("log.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    let target = expected[1].iter().find(|r| r.value.as_deref().is_some_and(|v| v.starts_with(b"value 2"))).unwrap();
    let needle = expected[1].last().unwrap().value.clone().unwrap();
    let found: Vec<usize> = bytes.windows(needle.len()).enumerate().filter(|(_, w)| *w == &needle[..]).map(|(i, _)| i).collect();
    assert!(!found.is_empty() && target.offset < expected[1].len() as u64);
    for at in found {
        bytes[at] ^= 0x10;
    }
    std::fs::write(&path, bytes).unwrap();
    let log = open(good.path(), false).unwrap();
    let mut reader = log.reader("usage.v1", 1, 0).unwrap();
    let mut before = Vec::new();
    let error = loop {
        match reader.fetch(10_000, 1 << 20, std::time::Duration::ZERO).await {
            Ok(fetched) => before.extend(fetched.records),
            Err(error) => break error,
        }
    };
    assert_eq!(before[..], expected[1][..before.len()]);
    let LogError::Damaged { topic, partition: 1, offset, file, .. } = &error else { panic!("{error}") };
    assert_eq!((topic.as_str(), *offset, file), ("usage.v1", before.len() as u64, &path.display().to_string()));
    assert_eq!(reader.position(), before.len() as u64);
    assert!(read_all(&mut log.reader("usage.v1", 0, 0).unwrap()).await.is_ok(), "the other partition is intact");
}

#[tokio::test]
async fn a_database_that_fell_behind_what_was_acknowledged_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path()).await;
    let older = std::fs::read(dir.path().join("log.redb")).unwrap();
    let log = open(dir.path(), false).unwrap();
    log.append_keyed("usage.v1", numbered(0..1)).await.unwrap();
    log.close().await;
    std::fs::write(dir.path().join("log.redb"), older).unwrap();
    let error = open(dir.path(), false).err().unwrap();
    assert!(error.to_string().contains("that were acknowledged"), "{error}");
}

#[tokio::test]
async fn a_flipped_bit_in_the_note_of_the_last_commit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path()).await;
    let tail = dir.path().join("log.tail");
    let good = std::fs::read(&tail).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&tail, bad).unwrap();
        let error = open(dir.path(), false).err().unwrap();
        assert!(matches!(&error, LogError::DamagedFile { file, .. } if file.ends_with("log.tail")), "bit {bit}: {error}");
    }
}

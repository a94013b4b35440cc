//! What the embedded log promises beyond the contract: directories, crashes, full disks.

use crate::contract::{self, numbered, read_all};
use ingest::{EmbeddedConfig, EmbeddedLog, ErrorKind, Log, LogError, TopicSpec};
use schemas::NewRecord;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

const DIR: &str = "INGEST_TEST_LOG_DIR";

pub fn open(dir: &Path, sync: bool) -> Result<Arc<EmbeddedLog>, LogError> {
    EmbeddedLog::open(dir, EmbeddedConfig { sync, ..EmbeddedConfig::default() })
}

pub fn spec(partitions: u32) -> TopicSpec {
    TopicSpec { name: "usage.v1".into(), partitions, compacted: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_keeps_the_contract_and_what_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), true).unwrap();
    contract::run(log.clone()).await;
    log.create_topic(&spec(4)).await.unwrap();
    log.append_keyed("usage.v1", numbered(0..5_000)).await.unwrap();
    let last = log.append("usage.v1", 3, numbered(0..1)).await.unwrap();
    log.delete_before("usage.v1", 2, 10).await.unwrap();
    let mut before = Vec::new();
    for p in 0..4 {
        before.push(read_all(&mut log.reader("usage.v1", p, log.start("usage.v1", p).await.unwrap()).unwrap()).await.unwrap());
    }
    log.close().await;

    let log = open(dir.path(), true).unwrap();
    assert!(!log.create_topic(&spec(4)).await.unwrap());
    assert_eq!(log.start("usage.v1", 2).await.unwrap(), 10);
    for (p, expected) in before.iter().enumerate() {
        let mut reader = log.reader("usage.v1", p as u32, log.start("usage.v1", p as u32).await.unwrap()).unwrap();
        assert_eq!(&read_all(&mut reader).await.unwrap(), expected);
    }
    assert!(log.append("usage.v1", 3, numbered(0..1)).await.unwrap().append_us > last.append_us);
    contract::run(log).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_memory_keeps_the_contract() {
    contract::run(EmbeddedLog::in_memory().unwrap()).await;
}

#[tokio::test]
async fn a_second_open_says_who_is_there_and_a_closed_log_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), true).unwrap();
    log.create_topic(&spec(1)).await.unwrap();
    let refused = open(dir.path(), true).err().unwrap();
    assert!(matches!(refused, LogError::Locked { .. }));
    assert_eq!(refused.to_string(), format!("log `{}` is in use by another process", dir.path().display()));
    let mut reader = log.reader("usage.v1", 0, 0).unwrap();
    let waiting = tokio::spawn(async move { reader.fetch(1, 1, Duration::from_secs(60)).await });
    log.close().await;
    assert!(matches!(waiting.await.unwrap(), Err(LogError::Closed)));
    assert!(matches!(log.append("usage.v1", 0, numbered(0..1)).await, Err(LogError::Closed)));
    open(dir.path(), true).unwrap();
}

/// Not a test of its own: the process that the next one kills. It says what was acknowledged.
#[tokio::test]
#[ignore = "run by `what_was_acknowledged_survives_sigkill`"]
async fn appends_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let log = open(dir.as_ref(), true).unwrap();
    log.create_topic(&spec(2)).await.unwrap();
    let starts = [log.end("usage.v1", 0).await.unwrap() as usize, log.end("usage.v1", 1).await.unwrap() as usize];
    for i in 0.. {
        let n = 1 + i % 40;
        for (p, start) in starts.iter().enumerate() {
            let from = start + (0..i).map(|k| 1 + k % 40).sum::<usize>();
            log.append("usage.v1", p as u32, numbered(from..from + n)).await.unwrap();
            println!("acknowledged {p} {}", from + n);
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = [0, 0];
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::appends_until_it_is_killed", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut note = |line: String| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            if words.first().is_some_and(|w| w == "acknowledged") && words.len() == 3 {
                acknowledged[words[1].parse::<usize>().unwrap()] = words[2].parse::<u64>().unwrap();
            }
        };
        lines.by_ref().take(60 + 25 * round).for_each(&mut note);
        child.kill().unwrap();
        lines.for_each(&mut note);
        child.wait().unwrap();

        let log = open(dir.path(), true).unwrap();
        for (p, at_least) in acknowledged.iter().enumerate() {
            let read = read_all(&mut log.reader("usage.v1", p as u32, 0).unwrap()).await.unwrap();
            assert!(read.len() as u64 >= *at_least, "{} records of {at_least}", read.len());
            assert!(*at_least > 0 && read.iter().enumerate().all(|(i, r)| r.value.as_deref() == Some(format!("value {i}").as_bytes())));
        }
        log.close().await;
    }
}

/// A tmpfs of a few megabytes, unmounted at the end.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"]).arg(dir.path()).status();
        mounted.is_ok_and(|s| s.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_appends_loses_nothing_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 6 << 20]).unwrap();
    let dir = disk.path().join("log");
    let log = open(&dir, true).unwrap();
    log.create_topic(&spec(1)).await.unwrap();
    let batch = |i: usize| vec![NewRecord::new("t|s", vec![i as u8; 100_000])];
    let (mut accepted, mut refused) = (0, 0);
    while refused < 3 {
        match log.append("usage.v1", 0, batch(accepted)).await {
            Ok(_) => accepted += 1,
            Err(error) => {
                assert!(matches!(error, LogError::DiskFull { .. }), "{error:?}");
                assert_eq!(error.kind(), ErrorKind::Retry);
                refused += 1;
            }
        }
        assert!(accepted < 1_000, "the disk never fills");
    }
    let read = read_all(&mut log.reader("usage.v1", 0, 0).unwrap()).await.unwrap();
    assert_eq!(read.len(), accepted);
    std::fs::remove_file(&ballast).unwrap();
    for _ in 0..3 {
        assert_eq!(log.append("usage.v1", 0, batch(accepted)).await.unwrap().base_offset, accepted as u64);
        accepted += 1;
    }
    log.close().await;
    let log = open(&dir, true).unwrap();
    let read = read_all(&mut log.reader("usage.v1", 0, 0).unwrap()).await.unwrap();
    assert_eq!(read.len(), accepted);
    assert!(read.iter().enumerate().all(|(i, r)| r.value.as_ref().unwrap().iter().all(|b| *b == i as u8)));
    log.close().await;
}

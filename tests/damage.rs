//! One flipped bit, in a snapshot and in the log: it is found and named, and nothing wrong comes out.

use super::retail::own;
use arrow_array::{
    cast::AsArray,
    types::{Int64Type, TimestampMicrosecondType},
};
use headend::engine::{Engine, EngineConfig, EngineError, Totals, chain::ChainFollower};
use ingest::{EmbeddedLog, Log, embedded::EmbeddedConfig};
use object_store::local::LocalFileSystem;
use schemas::{AcceptedEpoch, ChainPosition, NewRecord};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use stream_jobs::{
    task::{epoch_topic, level_group},
    upstream::read_rows,
};
use tokio_util::sync::CancellationToken;

const VIEW: &str = "revenue_customer_day";
const EVENTS: usize = 600;
const MINUTES_BETWEEN: usize = 31;

fn config() -> EngineConfig {
    let sql = std::fs::read_to_string(own("retail.sql")).unwrap();
    EngineConfig {
        rows_max: 20,
        cut_min: Duration::ZERO,
        snapshot_interval: Duration::MAX,
        snapshot_every: 10,
        wanted: vec![VIEW.to_owned()],
        ..EngineConfig::new("retail", sql)
    }
}

fn events(range: std::ops::Range<usize>) -> Vec<NewRecord> {
    let start: chrono::DateTime<chrono::Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
    let event = |n: usize| {
        let time = start + chrono::TimeDelta::minutes((n * MINUTES_BETWEEN) as i64);
        let payload = format!(
            r#"{{"event_id":"event-{n:05}","event_time":"{}","tenant":"acme","subscriber_id":"s{}","outcome":"ok","amount_minor":{n}}}"#,
            time.to_rfc3339(),
            n % 7
        );
        NewRecord::new(format!("acme|s{}", n % 7).into_bytes(), payload.into_bytes())
    };
    range.map(event).collect()
}

/// (customer, start of the day) → (revenue, lines).
fn expected() -> BTreeMap<(String, i64), (i64, i64)> {
    let start: chrono::DateTime<chrono::Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut days = BTreeMap::new();
    for n in 0..EVENTS {
        let day = start + chrono::TimeDelta::days((n * MINUTES_BETWEEN / (24 * 60)) as i64);
        let cell: &mut (i64, i64) = days.entry((format!("s{}", n % 7), day.timestamp_micros())).or_default();
        *cell = (cell.0 + n as i64, cell.1 + 1);
    }
    days
}

/// A folder with a log and snapshots, opened as a process would.
struct Opened {
    log: Arc<EmbeddedLog>,
    totals: Arc<Totals>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), EngineError>>,
}

async fn open(dir: &Path) -> Opened {
    let log = EmbeddedLog::open(&dir.join("log"), EmbeddedConfig { sync: false, ..EmbeddedConfig::default() }).unwrap();
    let snapshots = Arc::new(LocalFileSystem::new_with_prefix(dir).unwrap());
    let stop = CancellationToken::new();
    let engine = Engine::start(config(), Arc::clone(&log) as Arc<dyn Log>, snapshots, stop.clone()).await.unwrap();
    Opened { log, totals: Arc::clone(&engine.totals), stop, running: tokio::spawn(engine.join()) }
}

impl Opened {
    /// The chain of level 1 from its start until `until` says that an epoch is the last one.
    async fn chain(&self, until: impl Fn(&AcceptedEpoch) -> bool) -> Vec<AcceptedEpoch> {
        let log = Arc::clone(&self.log) as Arc<dyn Log>;
        let mut follower = ChainFollower::new(&log, &epoch_topic(&level_group("retail", 1)), 0, ChainPosition::default()).unwrap();
        let mut all = Vec::new();
        while !all.last().is_some_and(&until) {
            assert!(!self.running.is_finished(), "the engine stopped");
            all.extend(follower.next_epochs(1, Duration::from_millis(100)).await.unwrap().0);
        }
        all
    }

    async fn append(&self, records: Vec<NewRecord>) {
        self.log.append("payment.v1", 0, records).await.unwrap();
    }

    async fn close(self) -> Result<(), EngineError> {
        self.stop.cancel();
        let ended = self.running.await.unwrap();
        self.log.close().await;
        ended
    }
}

/// A folder whose engine took the first half of the events and was stopped in order.
async fn half_way(dir: &Path) {
    let opened = open(dir).await;
    opened.append(events(0..EVENTS / 2)).await;
    opened.chain(|e| e.record.header.cut.first().is_some_and(|c| c.to == EVENTS as u64 / 2)).await;
    opened.close().await.unwrap();
}

fn flip_a_bit(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

/// The files of level 1's newest snapshot.
fn newest_snapshot(dir: &Path) -> Vec<PathBuf> {
    let entries = |dir: PathBuf| std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let newest = entries(dir.join("snapshots").join(level_group("retail", 1)).join("0")).max().unwrap();
    entries(newest).collect()
}

/// What is logged while the guard lives; tasks of a current-thread runtime log on its thread.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let to = self.clone();
        tracing::subscriber::set_default(tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).finish())
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_flipped_bit_in_any_file_of_a_snapshot_is_named_and_the_results_are_right() {
    let template = tempfile::tempdir().unwrap();
    half_way(template.path()).await;
    let files: Vec<PathBuf> = newest_snapshot(template.path()).iter().map(|f| f.strip_prefix(template.path()).unwrap().to_owned()).collect();
    assert!(files.len() > 2, "{files:?}");
    for file in files {
        let dir = tempfile::tempdir().unwrap();
        copy(template.path(), dir.path());
        let bytes = std::fs::metadata(dir.path().join(&file)).unwrap().len() as usize;
        flip_a_bit(&dir.path().join(&file), bytes * 2 / 3);
        let logged = Logged::default();
        let _guard = logged.listen();
        let opened = open(dir.path()).await;
        opened.append(events(EVENTS / 2..EVENTS)).await;
        opened.append(vec![NewRecord::end_of_source()]).await;
        let chain = opened.chain(|e| e.record.header.watermark == Some(i64::MAX)).await;
        let totals = Arc::clone(&opened.totals);
        opened.close().await.unwrap();
        assert_eq!(rows(&chain), expected(), "{}", file.display());
        assert_eq!(Totals::get(&totals.damaged_snapshots), 1, "{}", file.display());
        assert!(Totals::get(&totals.verified) > 0, "epochs after the older snapshot are compared");
        let text = logged.text();
        let named = text.lines().any(|l| l.contains("snapshot is damaged, passed over") && l.contains(&*file.to_string_lossy()));
        assert!(named, "`{}` is not named in: {text}", file.display());
    }
}

#[tokio::test]
async fn a_flipped_bit_in_an_event_of_the_log_stops_the_recovery_that_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    half_way(dir.path()).await;
    let file = dir.path().join("log/log.redb");
    assert!(flip_where(&file, b"\"event_id\":\"event-00123\"") > 0, "the event stands in the file as it was written");
    let text = refused(dir.path()).await;
    assert!(text.contains("log is damaged at `payment.v1/0@"), "{text}");
    assert!(text.contains("log.redb"), "{text}");
}

#[tokio::test]
async fn a_flipped_bit_in_an_epoch_of_the_log_stops_the_recovery_that_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    half_way(dir.path()).await;
    let log = EmbeddedLog::open(&dir.path().join("log"), EmbeddedConfig::default()).unwrap();
    let topic = epoch_topic(&level_group("retail", 1));
    let records = log.reader(&topic, 0, 0).unwrap().fetch(10, 1 << 20, Duration::ZERO).await.unwrap().records;
    let value = records[5].value.clone().unwrap();
    log.close().await;
    let middle = value.len() / 2;
    assert!(flip_where(&dir.path().join("log/log.redb"), &value[middle - 20..middle + 20]) > 0);
    let text = refused(dir.path()).await;
    assert!(text.contains(&format!("log is damaged at `{topic}/0@")), "{text}");
    assert!(text.contains("log.redb"), "{text}");
}

/// The message with which an engine without snapshots, which has to read the whole log, refuses to run on.
async fn refused(dir: &Path) -> String {
    std::fs::remove_dir_all(dir.join("snapshots")).unwrap();
    let before = chain_length(dir).await;
    let mut opened = open(dir).await;
    let ended = tokio::time::timeout(Duration::from_secs(60), &mut opened.running).await.expect("the damage is met").unwrap();
    opened.log.close().await;
    assert_eq!(chain_length(dir).await, before, "nothing was added to the chain");
    ended.expect_err("the damage stops the engine").to_string()
}

/// The end of level 1's epoch topic.
async fn chain_length(dir: &Path) -> u64 {
    let log = EmbeddedLog::open(&dir.join("log"), EmbeddedConfig::default()).unwrap();
    let end = log.end(&epoch_topic(&level_group("retail", 1)), 0).await.unwrap();
    log.close().await;
    end
}

/// Flips one bit wherever the bytes stand: a database keeps older pages until it needs their room.
fn flip_where(file: &Path, needle: &[u8]) -> usize {
    let bytes = std::fs::read(file).unwrap();
    let places: Vec<usize> = bytes.windows(needle.len()).enumerate().filter(|(_, w)| *w == needle).map(|(at, _)| at).collect();
    places.iter().for_each(|at| flip_a_bit(file, at + needle.len() / 2));
    places.len()
}

fn rows(chain: &[AcceptedEpoch]) -> BTreeMap<(String, i64), (i64, i64)> {
    let mut all = BTreeMap::new();
    for output in chain.iter().flat_map(|e| &e.record.outputs).filter(|o| o.name == VIEW) {
        let batch = read_rows(output).unwrap().batch;
        let number = |name: &str, row: usize| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(row);
        for row in 0..batch.num_rows() {
            let who = batch.column_by_name("subscriber_id").unwrap().as_string::<i32>().value(row).to_owned();
            let start = batch.column_by_name("window_start").unwrap().as_primitive::<TimestampMicrosecondType>().value(row);
            let twice = all.insert((who, start), (number("revenue_minor", row), number("lines", row)));
            assert!(twice.is_none(), "a row stands twice");
        }
    }
    all
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

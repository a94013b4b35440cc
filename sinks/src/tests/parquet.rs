use super::{MemoryLog, epoch, epoch_of_chain, eventually, output, revenue, texts};
use crate::{ErrorKind, ParquetSink, ParquetSinkConfig, Sink, SinkError, drive};
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow_array::{RecordBatch, cast::AsArray, types::Int64Type};
use arrow_select::concat::concat_batches;
use object_store::{ObjectStoreExt, memory::InMemory};
use schemas::{AcceptedEpoch, ChainPosition, OutputKind};
use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    pin::pin,
    process::Command,
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

fn config() -> ParquetSinkConfig {
    ParquetSinkConfig { flush_interval: Duration::from_millis(5), ..ParquetSinkConfig::new("revenue_files", "revenue") }
}

fn sink(dir: &Path) -> ParquetSink {
    ParquetSink::local(dir, config()).unwrap()
}

/// Names in the directory of task 3, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir.join("revenue/task=3")).into_iter().flatten().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn file(dir: &Path, first_epoch: u64) -> PathBuf {
    dir.join(format!("revenue/task=3/{first_epoch:012}.parquet"))
}

fn read(file: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(file).unwrap()).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// The ids in all Parquet files, in file order.
fn ids(dir: &Path) -> Vec<i64> {
    let files = names(dir).into_iter().filter(|n| n.ends_with(".parquet"));
    files.flat_map(|n| read(&dir.join("revenue/task=3").join(n)).column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

/// Epochs 1 to `last`, two rows each; every fourth has none.
fn chain(last: u64) -> Vec<Arc<AcceptedEpoch>> {
    (1..=last).map(|n| epoch(n, if n % 4 == 0 { vec![] } else { vec![revenue([n as i64 * 10, n as i64 * 10 + 1])] })).collect()
}

fn ids_of(epochs: u64) -> Vec<i64> {
    (1..=epochs as i64).filter(|n| n % 4 != 0).flat_map(|n| [n * 10, n * 10 + 1]).collect()
}

/// Polls `future` at most `times`: `None` when it was not ready by then, as if the process had died there.
async fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

#[tokio::test]
async fn rows_of_every_type_read_back_equal_without_the_hidden_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = sink(dir.path());
    let other = output("other", OutputKind::Rows, vec![("x", texts(&["not ours"]))]);
    sink.write(3, &[epoch(1, vec![other, revenue(1..=5)]), epoch(2, vec![revenue(6..=9)])]).await.unwrap();
    assert_eq!(names(dir.path()), ["000000000001.parquet"]);
    let expected = revenue(1..=9).batch.project(&[0, 1, 2, 3, 4, 5]).unwrap();
    assert_eq!(read(&file(dir.path(), 1)), expected);
}

#[tokio::test]
async fn rows_that_waited_for_room_stand_in_an_epoch_more_than_once_and_are_all_written() {
    let dir = tempfile::tempdir().unwrap();
    let other = output("other", OutputKind::Rows, vec![("x", texts(&["not ours"]))]);
    sink(dir.path()).write(3, &[epoch(1, vec![revenue(1..=5), other, revenue(6..=7), revenue(8..=9)])]).await.unwrap();
    assert_eq!(read(&file(dir.path(), 1)), revenue(1..=9).batch.project(&[0, 1, 2, 3, 4, 5]).unwrap());
}

#[tokio::test]
async fn changes_keep_their_operation() {
    let dir = tempfile::tempdir().unwrap();
    let changes = output("revenue", OutputKind::Changes, vec![("id", texts(&["a", "a"])), ("_op", texts(&["-U", "+U"]))]);
    sink(dir.path()).write(3, &[epoch(1, vec![changes.clone()])]).await.unwrap();
    assert_eq!(read(&file(dir.path(), 1)), changes.batch);
}

#[tokio::test]
async fn cursor_is_the_newest_file_and_what_is_in_it_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let epochs = chain(9);
    assert_eq!(sink(dir.path()).cursor(3).await.unwrap(), ChainPosition::default());
    sink(dir.path()).write(3, &epochs[..5]).await.unwrap();
    let mut again = sink(dir.path());
    let expected = ChainPosition { next_offset: 11, epoch: 5, id: epochs[4].record.header.id };
    assert_eq!(again.cursor(3).await.unwrap(), expected);
    again.write(3, &epochs).await.unwrap();
    assert_eq!(ids(dir.path()), ids_of(9));
    assert_eq!(again.cursor(2).await.unwrap(), ChainPosition::default(), "another task has its own files");
}

#[tokio::test]
async fn a_sink_dropped_at_any_step_leaves_each_row_exactly_once() {
    let epochs = chain(12);
    for steps in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config();
        config.file_rows_max = 4;
        let mut dropped = ParquetSink::local(dir.path(), config.clone()).unwrap();
        let done = polled(dropped.write(3, &epochs[..9]), steps).await;
        // The next one may start while the last write of the dropped one is still on its way to the disk.
        drop(dropped);
        let log = MemoryLog::new(epochs.clone());
        run_until(dir.path(), ParquetSink::local(dir.path(), config).unwrap(), &log, 11).await;
        assert_eq!(ids(dir.path()), ids_of(12), "dropped after {steps} steps");
        if done.is_some() {
            assert!(steps > 5, "the write had {steps} steps only");
            return;
        }
    }
}

/// Drives `sink` until `epoch` is durable in `dir`, then stops it.
async fn run_until(dir: &Path, sink: ParquetSink, log: &MemoryLog, epoch: u64) {
    let stop = CancellationToken::new();
    let running = tokio::spawn(drive(Box::new(sink), 3, log.source(), stop.clone()));
    let mut reader = super::parquet::sink(dir);
    eventually("the last epoch", async || reader.cursor(3).await.is_ok_and(|c| c.epoch >= epoch).then_some(())).await;
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sinks_at_once_with_different_batches_write_each_row_once() {
    for round in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let log = MemoryLog::new(chain(10));
        let stop = CancellationToken::new();
        let running: Vec<_> = [3, 5, 1000]
            .map(|file_rows_max| ParquetSink::local(dir.path(), ParquetSinkConfig { file_rows_max, marker_epochs: 2, ..config() }).unwrap())
            .map(|sink| tokio::spawn(drive(Box::new(sink), 3, log.source(), stop.clone())))
            .into();
        for epoch in &chain(63)[10..] {
            log.append(epoch.clone());
            tokio::task::yield_now().await;
        }
        let mut reader = sink(dir.path());
        eventually("epoch 63", async || reader.cursor(3).await.is_ok_and(|c| c.epoch == 63).then_some(())).await;
        stop.cancel();
        for sink in running {
            sink.await.unwrap().unwrap();
        }
        assert_eq!(ids(dir.path()), ids_of(63), "round {round}");
    }
}

#[tokio::test]
async fn epochs_without_rows_move_the_cursor_by_a_marker() {
    let dir = tempfile::tempdir().unwrap();
    let mut epochs: Vec<_> = (1..=7).map(|n| epoch(n, vec![])).collect();
    epochs.push(epoch(8, vec![revenue([80])]));
    let mut sink = ParquetSink::local(dir.path(), ParquetSinkConfig { marker_epochs: 3, ..config() }).unwrap();
    sink.write(3, &epochs[..2]).await.unwrap();
    assert!(names(dir.path()).is_empty());
    for pair in epochs[2..].chunks(2) {
        sink.write(3, pair).await.unwrap();
    }
    assert_eq!(names(dir.path()), ["000000000001.empty", "000000000004.empty", "000000000007.parquet"]);
    assert_eq!(sink.cursor(3).await.unwrap().epoch, 8);
    assert_eq!(ids(dir.path()), [80]);
}

#[tokio::test]
async fn a_file_ends_before_it_grows_too_large_or_its_schema_changes() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = ParquetSink::local(dir.path(), ParquetSinkConfig { file_rows_max: 4, ..config() }).unwrap();
    let narrow = output("revenue", OutputKind::Rows, vec![("customer", texts(&["c"]))]);
    let epochs = [epoch(1, vec![revenue(1..=3)]), epoch(2, vec![revenue(4..=5)]), epoch(3, vec![revenue(6..=6)]), epoch(4, vec![narrow.clone()])];
    sink.write(3, &epochs).await.unwrap();
    assert_eq!(names(dir.path()), ["000000000001.parquet", "000000000002.parquet", "000000000004.parquet"]);
    assert_eq!(read(&file(dir.path(), 2)).num_rows(), 3);
    assert_eq!(read(&file(dir.path(), 4)), narrow.batch);
}

#[tokio::test]
async fn a_torn_file_is_named_and_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    sink(dir.path()).write(3, &chain(3)).await.unwrap();
    let torn = file(dir.path(), 1);
    let whole = fs::read(&torn).unwrap();
    for bytes in [0, 3, 100, whole.len() - 1] {
        fs::write(&torn, &whole[..bytes]).unwrap();
        let error = sink(dir.path()).cursor(3).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stop);
        assert!(error.to_string().contains(torn.to_str().unwrap()), "{error}");
        assert_eq!(fs::read(&torn).unwrap().len(), bytes);
    }
    fs::remove_file(&torn).unwrap();
    sink(dir.path()).write(3, &chain(3)).await.unwrap();
    assert_eq!(ids(dir.path()), ids_of(3));
}

#[tokio::test]
async fn files_of_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    sink(dir.path()).write(3, &chain(2)).await.unwrap();
    let task = dir.path().join("revenue/task=3");
    for name in ["README.txt", "part-0.parquet", "999.parquet", "000000000009.1-0.staged", "000000000009.parquet.crc"] {
        fs::write(task.join(name), "x").unwrap();
    }
    assert_eq!(sink(dir.path()).cursor(3).await.unwrap().epoch, 2);
    assert_eq!(names(dir.path()).len(), 6);
    // A Parquet file with a name of ours that is not of this sink is not passed over: its epochs would be lost.
    fs::copy(file(dir.path(), 1), file(dir.path(), 5)).unwrap();
    let error = sink(dir.path()).cursor(3).await.unwrap_err();
    assert!(matches!(&error, SinkError::Damaged { path, .. } if path.ends_with("000000000005.parquet")), "{error}");
}

#[tokio::test]
async fn overlapping_files_are_both_named() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sink(dir.path()).write(3, &chain(3)).await.unwrap();
    sink(other.path()).write(3, &chain(5)[1..]).await.unwrap();
    fs::copy(file(other.path(), 2), file(dir.path(), 2)).unwrap();
    let error = sink(dir.path()).cursor(3).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stop);
    let message = error.to_string();
    assert!(message.contains("000000000001.parquet") && message.contains("000000000002.parquet") && message.contains("epoch 2"), "{message}");
}

#[tokio::test]
async fn a_directory_of_another_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut late = sink(dir.path());
    late.cursor(3).await.unwrap();
    sink(dir.path()).write(3, &chain(3)).await.unwrap();
    let foreign = epoch_of_chain(9, 1, vec![revenue([1])]);
    let error = late.write(3, &[foreign]).await.unwrap_err();
    assert!(matches!(error, SinkError::OtherChain { epoch: 1, .. }), "{error}");
    let error = late.write(3, &[epoch_of_chain(9, 4, vec![revenue([1])])]).await.unwrap_err();
    assert!(matches!(error, SinkError::BrokenChain { found: 4, after: 3, .. }), "{error}");
    assert_eq!((ids(dir.path()), error.kind()), (ids_of(3), ErrorKind::Stop));
}

#[tokio::test]
async fn an_object_store_keeps_the_same_promises() {
    let store = Arc::new(InMemory::new());
    let mut first = ParquetSink::new(store.clone(), "out".into(), config());
    let mut second = ParquetSink::new(store.clone(), "out".into(), config());
    second.cursor(3).await.unwrap();
    first.write(3, &chain(3)).await.unwrap();
    let error = second.write(3, &chain(2)).await.unwrap_err();
    assert!(matches!(error, SinkError::CursorMoved { found: 3, .. }) && error.kind() == ErrorKind::Retry, "{error}");
    second.write(3, &chain(5)).await.unwrap();
    assert_eq!(first.cursor(3).await.unwrap().epoch, 5);
    assert!(store.head(&"out/revenue/task=3/000000000004.parquet".into()).await.is_ok());
}

#[tokio::test]
async fn a_path_that_is_no_directory_stops_the_sink_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("blocked");
    fs::write(&blocked, "a file").unwrap();
    let error = drive(Box::new(sink(&blocked)), 3, MemoryLog::new(chain(2)).source(), CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stop);
    assert!(error.to_string().contains("blocked/revenue/task=3"), "{error}");
}

/// A tmpfs of 64 KiB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(dir.path()).output().is_ok_and(|o| o.status.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_is_waited_out_and_no_row_is_lost() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: a small file system cannot be mounted here");
        return;
    };
    let dir = disk.0.path();
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![0_u8; 64 * 1024]).unwrap();
    let mut direct = sink(dir);
    let error = direct.write(3, &chain(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(error.to_string().contains("000000000001.parquet") && error.to_string().contains("No space left"), "{error}");
    assert!(names(dir).is_empty(), "nothing torn and nothing staged is left: {:?}", names(dir));

    let stop = CancellationToken::new();
    let log = MemoryLog::new(chain(3));
    let running = tokio::spawn(drive(Box::new(sink(dir)), 3, log.source(), stop.clone()));
    log.seeks.subscribe().wait_for(|n| *n >= 3).await.unwrap();
    fs::remove_file(&ballast).unwrap();
    eventually("the file", async || direct.cursor(3).await.is_ok_and(|c| c.epoch == 3).then_some(())).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(ids(dir), ids_of(3));
}

#[tokio::test]
async fn stopping_flushes_what_was_taken() {
    let dir = tempfile::tempdir().unwrap();
    let slow = ParquetSink::local(dir.path(), ParquetSinkConfig { flush_interval: Duration::from_secs(3600), ..config() }).unwrap();
    let log = MemoryLog::new(chain(3));
    let stop = CancellationToken::new();
    let running = tokio::spawn(drive(Box::new(slow), 3, log.source(), stop.clone()));
    // The second read begins when the epochs of the first one are in the batch.
    log.reads.subscribe().wait_for(|n| *n >= 2).await.unwrap();
    assert!(names(dir.path()).is_empty());
    stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(ids(dir.path()), ids_of(3));
}

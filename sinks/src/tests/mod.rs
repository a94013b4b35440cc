//! Sinks over an epoch log in memory, against real directories and a real Redis.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../../../ingest/tests/all/broker.rs"]
mod broker;
mod kafka;
mod options;
mod parquet;
mod redis;

use crate::{EpochSource, SourceError};
use arrow_array::{ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use async_trait::async_trait;
use schemas::{AcceptedEpoch, ChainPosition, EpochHeader, EpochId, EpochKind, EpochRecord, Output, OutputKind};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// One task's accepted chain: every epoch stands at twice its number, as if something ignored stood between.
#[derive(Clone)]
struct MemoryLog {
    epochs: Arc<Mutex<Vec<Arc<AcceptedEpoch>>>>,
    newest: watch::Sender<u64>,
    /// How often sources of this log were told to seek, and asked for more.
    seeks: watch::Sender<u64>,
    reads: watch::Sender<u64>,
}

impl MemoryLog {
    fn new(epochs: Vec<Arc<AcceptedEpoch>>) -> Self {
        let newest = epochs.len() as u64;
        Self { epochs: Arc::new(Mutex::new(epochs)), newest: watch::Sender::new(newest), seeks: watch::Sender::new(0), reads: watch::Sender::new(0) }
    }

    fn append(&self, epoch: Arc<AcceptedEpoch>) {
        let newest = epoch.record.header.epoch;
        self.epochs.lock().unwrap().push(epoch);
        self.newest.send_replace(newest);
    }

    fn source(&self) -> MemorySource {
        MemorySource { log: self.clone(), newest: self.newest.subscribe(), at: 0 }
    }
}

struct MemorySource {
    log: MemoryLog,
    newest: watch::Receiver<u64>,
    at: usize,
}

#[async_trait]
impl EpochSource for MemorySource {
    async fn seek(&mut self, position: ChainPosition) -> Result<(), SourceError> {
        self.log.seeks.send_modify(|n| *n += 1);
        let epochs = self.log.epochs.lock().unwrap();
        self.at = epochs.partition_point(|e| e.record.header.epoch <= position.epoch);
        match self.at.checked_sub(1).map(|i| epochs[i].record.header.id) {
            Some(id) if id != position.id => Err(SourceError::Lost(format!("epoch {} is {id}", position.epoch).into())),
            _ => Ok(()),
        }
    }

    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Arc<AcceptedEpoch>>, SourceError> {
        self.log.reads.send_modify(|n| *n += 1);
        let at = self.at as u64;
        let _ = tokio::time::timeout(wait, self.newest.wait_for(|newest| *newest > at)).await;
        let epochs = self.log.epochs.lock().unwrap();
        let to = epochs.len().min(self.at + max);
        let taken = epochs[self.at..to].to_vec();
        self.at = to;
        Ok(taken)
    }

    fn newest_epoch(&self) -> Option<u64> {
        Some(*self.newest.borrow())
    }
}

/// Epoch `number` of task 3 with these outputs.
fn epoch(number: u64, outputs: Vec<Output>) -> Arc<AcceptedEpoch> {
    epoch_of_chain(0, number, outputs)
}

fn epoch_of_chain(chain: u128, number: u64, outputs: Vec<Output>) -> Arc<AcceptedEpoch> {
    let id = |n: u64| if n == 0 { EpochId::default() } else { EpochId((chain << 64) + u128::from(n)) };
    let header = EpochHeader {
        group: "retail.l1".to_owned(),
        task: 3,
        epoch: number,
        id: id(number),
        parent: id(number - 1),
        owner: "one".to_owned(),
        kind: EpochKind::Work,
        cut: Vec::new(),
        now_ms: 0,
        watermark: None,
        watermarks: Default::default(),
        begins: Default::default(),
        appended_us: None,
        versions: Default::default(),
        counters: Default::default(),
        output_hash: String::new(),
        outputs: Vec::new(),
    };
    Arc::new(AcceptedEpoch { offset: number * 2, record: EpochRecord { header, outputs } })
}

fn output(name: &str, kind: OutputKind, columns: Vec<(&str, ArrayRef)>) -> Output {
    Output { name: name.to_owned(), kind, batch: RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap() }
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// Rows of the view `revenue` with one column of every type, and its hidden time.
fn revenue(ids: impl IntoIterator<Item = i64>) -> Output {
    let ids: Vec<i64> = ids.into_iter().collect();
    let at = TimestampMicrosecondArray::from_iter_values(ids.iter().map(|i| 1_322_697_600_000_000 + i)).with_timezone("UTC");
    let amount = Decimal128Array::from_iter_values(ids.iter().map(|i| i128::from(i * 100 + 7))).with_precision_and_scale(18, 2).unwrap();
    output(
        "revenue",
        OutputKind::Rows,
        vec![
            ("id", Arc::new(Int64Array::from(ids.clone()))),
            ("customer", Arc::new(StringArray::from_iter(ids.iter().map(|i| (i % 3 != 0).then(|| format!("c{i}")))))),
            ("amount", Arc::new(amount)),
            ("share", Arc::new(Float64Array::from_iter_values(ids.iter().map(|&i| i as f64 / 8.0)))),
            ("large", Arc::new(BooleanArray::from_iter(ids.iter().map(|i| Some(i % 2 == 0))))),
            ("day", Arc::new(at.clone())),
            ("_time", Arc::new(at)),
        ],
    )
}

/// Waits for what another task brings about; fails when it does not come.
async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{what} did not come about within 30 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

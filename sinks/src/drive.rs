//! The loop that drives one sink over the epochs of one task.

use crate::{EpochSource, ErrorKind, Limits, Sink, SinkError, metrics};
use schemas::AcceptedEpoch;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How many epochs are asked for at once.
const EPOCHS_PER_READ: usize = 256;

/// Writes the epochs of `source` to `sink` from the sink's own cursor, until `stop`. On `stop` it flushes what it has
/// taken. Weather is waited out without a limit on attempts: every attempt starts from the durable cursor, so a failed
/// batch is read again and not kept in memory. Returns an error only when a person must act.
pub async fn drive(mut sink: Box<dyn Sink>, task: u32, mut source: impl EpochSource, stop: CancellationToken) -> Result<(), SinkError> {
    let mut outage = Outage::new(sink.name().to_owned(), task, sink.limits());
    let _told = LagTold { sink: sink.name().to_owned(), task };
    loop {
        let error = match follow(sink.as_mut(), task, &mut source, &stop, &mut outage).await {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Retry => error,
            Err(error) => return Err(error),
        };
        let wait = outage.failed(&error);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// A sink that ends is behind no more: whoever owns the task now tells how far it is.
struct LagTold {
    sink: String,
    task: u32,
}

impl Drop for LagTold {
    fn drop(&mut self) {
        metrics::lag(&self.sink, self.task, 0);
    }
}

async fn follow(sink: &mut dyn Sink, task: u32, source: &mut impl EpochSource, stop: &CancellationToken, outage: &mut Outage) -> Result<(), SinkError> {
    let limits = sink.limits();
    source.seek(sink.cursor(task).await?).await?;
    let mut batch = Batch::default();
    loop {
        // Stop goes first: a source that always has more must not keep the sink from ending.
        let epochs = tokio::select! {
            biased;
            () = stop.cancelled() => return batch.write(sink, task, outage).await,
            epochs = source.next(EPOCHS_PER_READ, batch.patience(&limits)) => epochs?,
        };
        if epochs.is_empty() && batch.epochs.is_empty() {
            sink.check(task).await?;
            outage.over();
        }
        for epoch in epochs {
            let bytes = memory_of(&epoch);
            if batch.would_exceed(bytes, &limits) {
                batch.write(sink, task, outage).await?;
            }
            batch.push(epoch, bytes);
        }
        metrics::lag(sink.name(), task, batch.lag(source.newest_epoch()));
        if batch.patience(&limits).is_zero() {
            batch.write(sink, task, outage).await?;
            metrics::lag(sink.name(), task, batch.lag(source.newest_epoch()));
        }
    }
}

/// Epochs that were taken and are not yet durable in the sink.
#[derive(Default)]
struct Batch {
    epochs: Vec<Arc<AcceptedEpoch>>,
    bytes: usize,
    since: Option<Instant>,
    last_written: Option<u64>,
}

impl Batch {
    fn push(&mut self, epoch: Arc<AcceptedEpoch>, bytes: usize) {
        self.since.get_or_insert_with(Instant::now);
        self.bytes += bytes;
        self.epochs.push(epoch);
    }

    fn would_exceed(&self, bytes: usize, limits: &Limits) -> bool {
        !self.epochs.is_empty() && (self.bytes + bytes > limits.batch_bytes_max || self.epochs.len() >= limits.batch_epochs_max)
    }

    /// How long the loop may wait for more; zero when the batch is due.
    fn patience(&self, limits: &Limits) -> Duration {
        self.since.map_or(limits.check_interval, |since| limits.flush_interval.saturating_sub(since.elapsed()))
    }

    fn lag(&self, newest: Option<u64>) -> u64 {
        match (newest, self.last_written) {
            (Some(newest), Some(written)) => newest.saturating_sub(written),
            _ => self.epochs.len() as u64,
        }
    }

    async fn write(&mut self, sink: &mut dyn Sink, task: u32, outage: &mut Outage) -> Result<(), SinkError> {
        let Some(last) = self.epochs.last() else { return Ok(()) };
        let last = last.record.header.epoch;
        sink.write(task, &self.epochs).await?;
        outage.over();
        *self = Self { last_written: Some(last), ..Self::default() };
        Ok(())
    }
}

fn memory_of(epoch: &AcceptedEpoch) -> usize {
    epoch.record.outputs.iter().map(|o| o.batch.get_array_memory_size()).sum()
}

/// Says once that a sink is away and once that it is back, and how long to wait between attempts.
struct Outage {
    sink: String,
    task: u32,
    limits: Limits,
    failures: u32,
}

impl Outage {
    fn new(sink: String, task: u32, limits: Limits) -> Self {
        Self { sink, task, limits, failures: 0 }
    }

    fn failed(&mut self, error: &SinkError) -> Duration {
        metrics::retried(&self.sink);
        match error {
            SinkError::CursorMoved { .. } => info!(sink = self.sink, task = self.task, "{error}; reading on from the cursor"),
            _ if self.failures == 0 => warn!(sink = self.sink, task = self.task, "{error}; the sink keeps its cursor and tries again"),
            _ => {}
        }
        let wait = self.limits.backoff_min.saturating_mul(1 << self.failures.min(16)).min(self.limits.backoff_max);
        self.failures += 1;
        wait
    }

    fn over(&mut self) {
        if self.failures > 0 {
            info!(sink = self.sink, task = self.task, attempts = self.failures, "sink works again");
        }
        self.failures = 0;
    }
}

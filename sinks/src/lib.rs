//! Everything that results are written to.
//!
//! A sink reads the accepted epochs of one task and keeps its own durable cursor, so a slow or absent one holds nobody
//! back. This crate promises that what a sink has made durable is never lost or doubled by a crash, by a retry or by a
//! second sink that works on the same task for a moment. It does not follow the epoch topic itself: the root hands it
//! an [`EpochSource`].
//!
//! ```ignore
//! let sink = sinks::build(&options)?;
//! sinks::drive(sink, task, source, stop).await?;
//! ```

mod drive;
mod error;
mod kafka;
mod keys;
mod metrics;
mod options;
mod output;
mod parquet;
mod redis;
#[cfg(test)]
mod tests;

pub use drive::drive;
pub use error::{ErrorKind, SinkError, SourceError};
pub use kafka::{KafkaSink, KafkaSinkConfig};
pub use options::{SinkOptions, build};
pub use parquet::{ParquetSink, ParquetSinkConfig};
pub use redis::{RedisSink, RedisSinkConfig};

use async_trait::async_trait;
use schemas::{AcceptedEpoch, ChainPosition};
use std::{sync::Arc, time::Duration};

/// What a sink is given: the accepted epochs of one task, in order, each once (again after a crash, from the sink's own
/// cursor).
#[async_trait]
pub trait Sink: Send {
    /// The name it was created with; labels its metrics and messages.
    fn name(&self) -> &str;

    /// How its epochs are batched.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Where this sink stands for `task`: the chain position after the last epoch that is durably in it. The default
    /// position means: from the start. Forgets what was not durable, so that the epochs after it are written next.
    async fn cursor(&mut self, task: u32) -> Result<ChainPosition, SinkError>;

    /// Writes the sink's output of these epochs (contiguous, in order) and moves the cursor. What it wrote is durable
    /// when it returns; a run of epochs without rows for this sink may stay before the cursor for a bounded while.
    async fn write(&mut self, task: u32, epochs: &[Arc<AcceptedEpoch>]) -> Result<(), SinkError>;

    /// Called while nothing arrives: is what was written still there? Only a store that can lose data needs it.
    async fn check(&mut self, _task: u32) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Given by the root: follows the accepted chain of one partition of an epoch topic.
#[async_trait]
pub trait EpochSource: Send {
    /// Continues after `position`; the default position is the start of what the epoch log still has.
    async fn seek(&mut self, position: ChainPosition) -> Result<(), SourceError>;

    /// The next accepted epochs, at most `max`. Waits up to `wait` for the first one; empty when none came.
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Arc<AcceptedEpoch>>, SourceError>;

    /// Number of the newest epoch that is known to stand in the log, for the lag metric.
    fn newest_epoch(&self) -> Option<u64> {
        None
    }
}

/// How the loop batches and retries. A batch is written when its first epoch has waited `flush_interval`, or when the
/// next epoch would take it over one of the two maxima.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub flush_interval: Duration,
    pub batch_epochs_max: usize,
    /// Memory of all outputs of the batch, those of other sinks included.
    pub batch_bytes_max: usize,
    /// An idle sink is checked this often.
    pub check_interval: Duration,
    /// The first wait after a failure; it doubles up to `backoff_max`. Attempts are not bounded: the cursor is kept.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_secs(1),
            batch_epochs_max: 4096,
            batch_bytes_max: 64 << 20,
            check_interval: Duration::from_secs(2),
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(5),
        }
    }
}

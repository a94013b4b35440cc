//! The engine: tasks on threads, the log under them, sinks and rooms after them. It holds no logic of its own.

pub mod chain;
pub mod cut;
mod dead;
pub mod feed;
pub mod recovery;
pub mod runner;
pub mod task_loop;
pub mod upkeep;
pub mod versions;
pub mod why;

pub use runner::{Engine, EngineConfig, EngineError};

use schemas::epoch::EpochDecodeError;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a task stopped.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error("{0}")]
    Log(#[from] ingest::LogError),
    #[error("{0}")]
    Operator(#[from] stream_jobs::ops::OpError),
    #[error("{0}")]
    State(#[from] stream_jobs::state::StateError),
    #[error("{0}")]
    Snapshot(#[from] stream_jobs::snapshot::SnapshotError),
    #[error("{0}")]
    Arrow(#[from] arrow_schema::ArrowError),
    #[error("epoch record at `{topic}/{partition}@{offset}`: {source}")]
    Epoch { topic: String, partition: u32, offset: u64, source: EpochDecodeError },
    #[error("offsets {from} to {to} of `{topic}/{partition}` are gone: an epoch that took them cannot be run again")]
    InputGone { topic: String, partition: u32, from: u64, to: u64 },
    #[error("epoch {epoch} of `{group}/{task}` came out differently when it was run again: {found}, recorded {recorded}; this is a bug, nothing was written")]
    Diverged { group: String, task: u32, epoch: u64, found: String, recorded: String },
    #[error(
        "`{group}/{task}` was recorded by versions that are not known here ({recorded}, now {running}); start the newest version of the job, or with the engine that it ran on"
    )]
    OtherVersion { group: String, task: u32, recorded: String, running: String },
    #[error("lost the task: a foreign record stands at `{topic}/{partition}@{offset}`")]
    Fenced { topic: String, partition: u32, offset: u64 },
    #[error("{0}")]
    Version(String),
    /// Dropped without warning on purpose (`--crash-every`).
    #[error("crashed on purpose")]
    Crash,
    #[error("an epoch record of {bytes} bytes is over the limit of {limit}")]
    RecordTooLarge { bytes: usize, limit: usize },
}

/// Counts over the whole engine, for reports and `/metrics`.
#[derive(Debug, Default)]
pub struct Totals {
    pub accepted: AtomicU64,
    pub ignored: AtomicU64,
    /// Epochs that recovery ran again and whose outputs were the same.
    pub verified: AtomicU64,
    pub recoveries: AtomicU64,
    /// Snapshots that recovery found damaged and passed over.
    pub damaged_snapshots: AtomicU64,
    /// Tasks that are in the middle of an epoch.
    pub working: AtomicU64,
    pub rows_in: AtomicU64,
    pub late: AtomicU64,
    pub dead: AtomicU64,
    pub duplicate: AtomicU64,
    pub misplaced: AtomicU64,
    pub future: AtomicU64,
}

impl Totals {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Counts an epoch that was appended; level 1 alone counts rows, so that a row counts once.
    fn count(&self, counters: &schemas::Counters, is_level1: bool) {
        Self::add(&self.accepted, 1);
        if is_level1 {
            for (fate, total, n) in [
                ("in", &self.rows_in, counters.rows_in),
                ("late", &self.late, counters.late),
                ("dead", &self.dead, counters.dead),
                ("duplicate", &self.duplicate, counters.duplicate),
                ("misplaced", &self.misplaced, counters.misplaced),
                ("future", &self.future, counters.future),
            ] {
                Self::add(total, n);
                metrics::counter!("headend_rows_total", "fate" => fate).increment(n);
            }
        }
    }
}
